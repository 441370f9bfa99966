"""Labels of any type, some of them missing: what is missing, and what the classes are."""

import numpy as np
import pytest
from sklearn.exceptions import DataConversionWarning

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator.labels import encode_labels, is_missing

from .data import SMALL, make_rows

pd = pytest.importorskip("pandas")

NAN = float("nan")


def series(labels, dtype):
    return pd.Series(labels, dtype=dtype)


def objects(*labels):
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


def small(**params):
    return CLIDMUClassifier(**{**SMALL, **params})


# What is missing


@pytest.mark.parametrize(
    ("y", "missing_label", "missing"),
    [
        (np.array([0, 1, -1, 0]), -1, [0, 0, 1, 0]),
        (np.array([0.0, -1.0, 1.0]), -1, [0, 1, 0]),
        (np.array([0.0, -1.0, 1.0], dtype=np.float32), -1.0, [0, 1, 0]),
        (np.array([0, 99, 1]), 99, [0, 1, 0]),
        (np.array([0.0, NAN, 1.0]), NAN, [0, 1, 0]),
        (np.array([0.0, NAN, 1.0]), np.float32("nan"), [0, 1, 0]),
        (np.array(["", "a", "b"]), "", [1, 0, 0]),
        (np.array(["a", "?", "b"]), "?", [0, 1, 0]),
        (["a", "?", "b"], "?", [0, 1, 0]),
        ([0, None, 1], NAN, [0, 1, 0]),
        (objects("a", None, NAN, pd.NA, "b"), NAN, [0, 1, 1, 1, 0]),
        (objects(0, None, np.float64("nan"), pd.NaT), NAN, [0, 1, 1, 1]),
        (objects("a", -1, "b"), -1, [0, 1, 0]),
        (objects(0, "?", 1), "?", [0, 1, 0]),
        (series([0, None, 1], "Int64"), NAN, [0, 1, 0]),
        (series([0, -1, 1], "Int64"), -1, [0, 1, 0]),
        (series(["a", None, "b"], "string"), NAN, [0, 1, 0]),
        (series(["a", "", "b"], "string"), "", [0, 1, 0]),
        (series(["a", None, "b"], "category"), NAN, [0, 1, 0]),
        (series(["a", "?", "b"], "category"), "?", [0, 1, 0]),
        (series([True, None, False], "boolean"), NAN, [0, 1, 0]),
        (series([True, None, False], object), NAN, [0, 1, 0]),
    ],
)
def test_rows_are_missing_where_the_missing_label_stands(y, missing_label, missing):
    found = is_missing(y, missing_label)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, np.array(missing, dtype=bool))


@pytest.mark.parametrize(
    ("y", "missing_label"),
    [
        (np.array([0, 1, -1]), None),
        (np.array([0.0, NAN]), None),
        (objects(None, "a"), None),
        (np.array([0, 1, 2]), "1"),
        (np.array(["-1", "a"]), -1),
        (np.array(["nan", "None", "<NA>", ""]), NAN),
        (np.array([True, False]), -1),
        (objects("a", None, pd.NA), ""),
        (objects(0, None, pd.NA, NAN), -1),
    ],
)
def test_nothing_else_is_missing(y, missing_label):
    np.testing.assert_array_equal(is_missing(y, missing_label), np.zeros(len(y), dtype=bool))


# Classes


@pytest.mark.parametrize(
    ("full", "spoiled", "missing_label"),
    [
        ([3, 5, 3, 5], np.array([3, 5, -1, 5]), -1),
        ([3.0, 5.0, 3.0, 5.0], np.array([3.0, 5.0, NAN, 5.0]), NAN),
        ([3, 5, 3, 5], objects(3, 5, None, 5), NAN),
        ([3, 5, 3, 5], objects(3, 5, "?", 5), "?"),
        ([3, 5, 3, 5], [3, 5, None, 5], NAN),
        ([True, False, True, False], objects(True, False, None, False), NAN),
        ([True, False, True, False], objects(True, False, -1, False), -1),
        (np.array(["b", "a", "b", "a"]), np.array(["b", "a", "", "a"]), ""),
        (objects("b", "a", "b", "a"), objects("b", "a", None, "a"), NAN),
        (objects("b", "a", "b", "a"), objects("b", "a", -1, "a"), -1),
        *(
            (series(full, dtype), series(spoiled, dtype), missing_label)
            for full, spoiled, missing_label, dtypes in [
                ([3, 5, 3, 5], [3, 5, None, 5], NAN, ["Int64", "Float64"]),
                ([3, 5, 3, 5], [3, 5, -1, 5], -1, ["int64", "Int64", "category"]),
                (["b", "a"] * 2, ["b", "a", None, "a"], NAN, ["string", "category", object]),
                (["b", "a"] * 2, ["b", "a", "", "a"], "", ["string", "category", object]),
                ([True, False] * 2, [True, False, None, False], NAN, ["boolean", object]),
            ]
            for dtype in dtypes
        ),
    ],
)
def test_classes_are_of_the_type_that_they_would_have_did_none_miss(full, spoiled, missing_label):
    expected, positions = encode_labels(full, missing_label)
    classes, codes = encode_labels(spoiled, missing_label)
    assert (positions >= 0).all()
    np.testing.assert_array_equal(codes, np.where(np.arange(4) == 2, -1, positions))
    assert codes.dtype == np.int64
    assert classes.dtype == expected.dtype
    assert [type(label) for label in classes] == [type(label) for label in expected]
    np.testing.assert_array_equal(classes, expected)


@pytest.mark.parametrize(
    ("y", "missing_label"), [(["b", "a", NAN], NAN), (["b", "a", -1], -1), (["b", "a", None], NAN)]
)
def test_in_a_list_of_strings_too_what_is_no_string_may_be_missing(y, missing_label):
    classes, codes = encode_labels(y, missing_label)
    assert list(classes) == ["a", "b"]
    np.testing.assert_array_equal(codes, [1, 0, -1])


def test_codes_are_positions_among_the_sorted_classes():
    classes, codes = encode_labels(np.array([7, -1, 2, 5, 7, -1]), -1)
    np.testing.assert_array_equal(classes, [2, 5, 7])
    np.testing.assert_array_equal(codes, [2, -1, 0, 1, 2, -1])


def test_a_column_vector_is_a_vector_with_the_warning_of_scikit_learn():
    with pytest.warns(DataConversionWarning, match="column-vector"):
        _, codes = encode_labels(np.array([[0], [-1], [1]]), -1)
    np.testing.assert_array_equal(codes, [0, -1, 1])


def test_labels_are_left_as_they_were():
    y = objects(0, None, 1)
    y.flags.writeable = False
    encode_labels(y, NAN)
    assert list(y) == [0, None, 1]


# What is refused


@pytest.mark.parametrize(
    ("y", "missing_label", "words"),
    [
        (np.full(4, -1), -1, "none, beside 4 rows .*missing_label=-1"),
        (np.full(3, NAN), NAN, "none, beside 3 rows .*missing_label=nan"),
        ([None, None], NAN, "none, beside 2 rows .*missing_label=nan"),
        (np.array(["", ""]), "", "none, beside 2 rows .*missing_label=''"),
        (series([None, None], "Int64"), NAN, "none, beside 2 rows"),
        (np.array([3, -1, 3, -1]), -1, "one class: 3, beside 2 rows .*missing_label=-1"),
        (objects("cat", None, "cat"), NAN, "one class: cat, beside 1 row.*missing_label=nan"),
        (np.array([3, 3]), None, r"one class: 3\.$"),
        (np.array([3, 3]), -1, r"one class: 3\.$"),
    ],
)
def test_too_few_labels_are_refused_with_what_there_is(y, missing_label, words):
    with pytest.raises(ValueError, match=words):
        encode_labels(y, missing_label)


def test_continuous_labels_beside_missing_ones_are_refused():
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        encode_labels(np.array([0.5, 1.0, -1.0]), -1)


@pytest.mark.parametrize(
    "y",
    [
        np.array([0.0, 1.0, NAN, -1.0]),
        objects(0, 1, NAN, -1),
        objects(0, 1, None, -1),
        objects(0, 1, pd.NA, -1),
        series([0, 1, None, -1], "Int64"),
    ],
    ids=["float", "object nan", "object None", "object NA", "Int64"],
)
def test_nan_among_numbers_is_no_class_and_not_missing_unless_said_so(y):
    with pytest.raises(ValueError, match="missing_label"):
        encode_labels(y, -1)


@pytest.mark.parametrize(
    "y",
    [objects("a", "b", None, ""), objects("a", "b", NAN, ""), series(["a", "b", None], "string")],
    ids=["None", "nan", "NA"],
)
def test_nan_among_strings_is_no_class_and_not_missing_unless_said_so(y):
    with pytest.raises(ValueError, match="missing_label"):
        encode_labels(y, "")


# In a fit


def test_labels_equal_to_none_of_the_missing_label_are_fitted_as_without_it():
    X, y, _ = make_rows()
    expected = small().fit(X, y)
    for missing_label in (-1, NAN, "?", ""):
        clf = small(missing_label=missing_label).fit(X, y)
        np.testing.assert_array_equal(clf.predict_proba(X), expected.predict_proba(X))
        np.testing.assert_array_equal(clf.noise_scores_, expected.noise_scores_)
        assert clf.classes_.dtype == expected.classes_.dtype
