"""Conversions and checks of arrays, labels, rows and row weights."""

import datetime
import enum
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from classifier.data import small, wide
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import DataConversionWarning
from torch import nn

from sklearn_clidmu._validation.arrays import (
    as_numpy,
    check_numbers,
    check_same_length,
    check_scores,
    check_vector,
)
from sklearn_clidmu._validation.labels import (
    check_labels,
    encode_known,
    encode_labels,
    is_missing,
    known_classes,
    positions,
)
from sklearn_clidmu._validation.rows import check_rows, divided, row_weights, sparse_units

NAN = float("nan")
LARGE = pd.CategoricalDtype([2**53, 2**53 + 1])


def series(labels, dtype):
    return pd.Series(labels, dtype=dtype)


def objects(*labels):
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


# Arrays


class Foreign:
    """An array of another library, which NumPy can read."""

    def __array_namespace__(self, *, api_version=None):
        raise NotImplementedError

    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0], dtype)


def test_as_numpy_converts_arrays_of_other_libraries_only():
    for values in (np.eye(2), [1, 2], None, "words", 3):
        assert as_numpy(values) is values
    assert type(as_numpy(Foreign())) is np.ndarray
    np.testing.assert_array_equal(as_numpy(Foreign()), [1, 2])
    tensor = torch.arange(3.0, requires_grad=True)
    assert np.shares_memory(as_numpy(tensor), tensor.detach().numpy())
    assert tensor.requires_grad
    half = as_numpy(torch.tensor([0.5, -3.0], dtype=torch.bfloat16))  # which NumPy lacks
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, [0.5, -3.0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, int, bool, str, object])
def test_as_numpy_reads_masked_entries_as_missing(dtype):
    masked = np.ma.masked_array(np.array([1, 0, 1], dtype), mask=[False, True, False])
    found = as_numpy(masked)
    assert not isinstance(found, np.ma.MaskedArray)
    assert is_missing(found, NAN).tolist() == [False, True, False]
    assert found[[0, 2]].tolist() == masked.data[[0, 2]].tolist()
    assert found.dtype == (dtype if np.dtype(dtype).kind == "f" else object)
    full = as_numpy(np.ma.masked_array(masked.data))
    assert type(full) is np.ndarray
    assert full.dtype == masked.dtype


def test_masked_entries_are_missing_in_rows_labels_weights_and_scores():
    table = np.ma.masked_array(X, mask=np.eye(*X.shape, dtype=bool))
    np.testing.assert_array_equal(checked(table), np.where(table.mask, NAN, X))
    classes, codes = encode_labels(np.ma.masked_array([3, 5, 4, 5], [0, 0, 1, 0]), NAN)
    assert (classes.tolist(), codes.tolist()) == ([3, 5], [0, 1, -1, 1])
    scores = check_scores(np.ma.masked_array([0.5, 0.25], [False, True]), "scores")
    np.testing.assert_array_equal(scores, [0.5, NAN])
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        row_weights(np.array([0, 1]), codes[:2], np.ma.masked_array([1, 2], [1, 0]), None, "ignore")


def test_lazy_frames_are_refused_with_advice():
    lazy = pl.DataFrame(X).lazy()
    for read in (checked, check_labels, lambda table: check_numbers(table, "weights")):
        with pytest.raises(ValueError, match=r"A LazyFrame has no values yet: pass .*collect"):
            read(lazy)


def test_check_vector_accepts_a_column():
    np.testing.assert_array_equal(check_vector([[1], [2]], "y"), [1, 2])
    with pytest.raises(ValueError, match=r"y must have one entry per row.*shape \(2, 2\)"):
        check_vector(np.eye(2), "y")
    with pytest.raises(ValueError, match=r"y must have one entry per row.*got 3"):
        check_vector(3, "y")


def test_check_numbers_names_the_argument():
    np.testing.assert_array_equal(check_numbers([1, True, "2"], "rate"), [1, 1, 2])
    for values in (["a"], [None, {}], [[1], [1, 2]]):
        with pytest.raises(ValueError, match="rate must be numbers: "):
            check_numbers(values, "rate")


def test_check_scores_accepts_the_unit_interval_and_nan():
    np.testing.assert_array_equal(check_scores([0, None, 1], "s"), [0, np.nan, 1])
    for outside in (-0.1, 1.5, np.inf):
        with pytest.raises(ValueError, match=rf"s must be in \[0, 1\].*got {outside:g}\."):
            check_scores([0.5, outside], "s")
    beyond = check_scores([-1e-9, np.float32(1) + np.finfo(np.float32).eps], "s")  # by rounding
    np.testing.assert_array_equal(beyond, [0, 1])
    for nothing in ([], [np.nan]):
        with pytest.raises(ValueError, match="s must have at least one entry that is not nan"):
            check_scores(nothing, "s")


def test_check_same_length_names_the_lengths():
    check_same_length(X=[1, 2], y=[3, 4])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: X has 2, y has 1\."):
        check_same_length(X=[1, 2], y=[3])


# Missing labels


@pytest.mark.parametrize(
    ("y", "missing_label", "missing"),
    [
        (np.array([0, 1, -1, 0]), -1, [0, 0, 1, 0]),
        (np.array([0.0, -1.0, 1.0], dtype=np.float32), -1, [0, 1, 0]),
        (np.array([0.0, NAN, 1.0]), NAN, [0, 1, 0]),
        (np.array([0.0, NAN, 1.0]), np.float32("nan"), [0, 1, 0]),
        (np.array(["", "a", "b"]), "", [1, 0, 0]),
        (["a", "?", "b"], "?", [0, 1, 0]),
        ([0, None, 1], NAN, [0, 1, 0]),
        (objects("a", None, NAN, pd.NA, "b"), NAN, [0, 1, 1, 1, 0]),
        (objects("a", None, NAN, pd.NA, "b"), pd.NA, [0, 1, 1, 1, 0]),
        (objects(0, None, np.float64("nan"), pd.NaT), NAN, [0, 1, 1, 1]),
        (objects("a", -1, "b"), -1, [0, 1, 0]),
        (objects("nan", None, "b"), NAN, [0, 1, 0]),
        (objects(0, "?", 1), "?", [0, 1, 0]),
        (series([0, None, 1], "Int64"), NAN, [0, 1, 0]),
        (series([0, -1, 1], "Int64"), -1, [0, 1, 0]),
        (series(["a", None, "b"], "string"), NAN, [0, 1, 0]),
        (series(["a", None, "b"], "category"), NAN, [0, 1, 0]),
        (series(["a", "?", "b"], "category"), "?", [0, 1, 0]),
        (series([True, None, False], "boolean"), NAN, [0, 1, 0]),
        (pl.Series([0, None, 1]), NAN, [0, 1, 0]),
        # Nothing else is missing.
        (np.array([0, 1, -1]), None, [0, 0, 0]),
        (np.array([0.0, NAN]), None, [0, 0]),
        (objects(None, "a"), None, [0, 0]),
        (np.array([0, 1, 2]), "1", [0, 0, 0]),
        (np.array(["-1", "a"]), -1, [0, 0]),
        (np.array(["nan", "None", "<NA>", ""]), NAN, [0, 0, 0, 0]),
        (np.array([True, False]), -1, [0, 0]),
        (np.array([True, False]), 0, [0, 0]),
        (np.array([0, 1]), False, [0, 0]),
        (objects("a", None, pd.NA), "", [0, 0, 0]),
        (objects(0, None, pd.NA, NAN), -1, [0, 0, 0, 0]),
    ],
)
def test_is_missing_finds_the_missing_label_and_nothing_else(y, missing_label, missing):
    found = is_missing(check_labels(y), missing_label)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, np.array(missing, dtype=bool))


# Classes


@pytest.mark.parametrize(
    ("full", "partial", "missing_label"),
    [
        ([3, 5, 3, 5], np.array([3, 5, -1, 5]), -1),
        ([3.0, 5.0, 3.0, 5.0], np.array([3.0, 5.0, NAN, 5.0]), NAN),
        ([3, 5, 3, 5], objects(3, 5, "?", 5), "?"),
        ([3, 5, 3, 5], [3, 5, None, 5], NAN),
        ([2**53, 2**53 + 1] * 2, [2**53, 2**53 + 1, NAN, 2**53 + 1], NAN),
        ([2**63, 2**63 + 1] * 2, [2**63, 2**63 + 1, -1, 2**63 + 1], -1),
        ([2**53, 2**53 + 1] * 2, series([2**53, 2**53 + 1, None, 2**53 + 1], LARGE), NAN),
        ([True, False, True, False], [True, False, NAN, False], NAN),
        ([True, False, True, False], objects(True, False, None, False), NAN),
        ([True, False, True, False], objects(True, False, -1, False), -1),
        (np.array(["b", "a", "b", "a"]), np.array(["b", "a", "", "a"]), ""),
        (objects("b", "a", "b", "a"), objects("b", "a", None, "a"), NAN),
        (objects("b", "a", "b", "a"), ["b", "a", -1, "a"], -1),
        *(
            (series(full, dtype), series(partial, dtype), missing_label)
            for full, partial, missing_label, dtypes in [
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
def test_encode_labels_finds_classes_of_the_type_without_missing_labels(
    full, partial, missing_label
):
    expected, codes_of_all = encode_labels(full, missing_label)
    classes, codes = encode_labels(partial, missing_label)
    assert (codes_of_all >= 0).all()
    np.testing.assert_array_equal(codes, np.where(np.arange(4) == 2, -1, codes_of_all))
    assert codes.dtype == np.int64
    assert classes.dtype == expected.dtype
    assert [type(label) for label in classes] == [type(label) for label in expected]
    np.testing.assert_array_equal(classes, expected)


def test_encode_labels_returns_positions_among_the_sorted_classes():
    y = np.array([7, -1, 2, 5, 7, -1])
    y.flags.writeable = False
    classes, codes = encode_labels(y, -1)
    np.testing.assert_array_equal(classes, [2, 5, 7])
    np.testing.assert_array_equal(codes, [2, -1, 0, 1, 2, -1])
    np.testing.assert_array_equal(encode_known(y, np.array([2, 5, 6, 7]), -1), [3, -1, 0, 1, 3, -1])


def test_check_labels_accepts_a_column_with_scikit_learns_warning():
    with pytest.warns(DataConversionWarning, match="column-vector"):
        np.testing.assert_array_equal(check_labels(np.array([[0], [-1], [1]])), [0, -1, 1])


@pytest.mark.parametrize(
    ("y", "missing_label", "message"),
    [
        (np.full(4, -1), -1, "none, and 4 rows .*missing_label=-1"),
        ([None, None], NAN, "none, and 2 rows .*missing_label=nan"),
        (np.array(["", ""]), "", "none, and 2 rows .*missing_label=''"),
        (series([None, None], "Int64"), NAN, "none, and 2 rows"),
        (np.array([3, -1, 3, -1]), -1, "one class: 3, and 2 rows .*missing_label=-1"),
        (objects("cat", None, "cat"), NAN, "one class: cat, and 1 row.*missing_label=nan"),
        (np.array([3, 3]), None, r"one class: 3\.$"),
        (np.array([3, 3]), -1, r"one class: 3\.$"),
        (np.array([0.5, 1.0, -1.0]), -1, "Unknown label type: continuous"),
        # nan is neither a class nor missing unless it is the missing label.
        (np.array([0.0, 1.0, NAN, -1.0]), -1, "contains NaN or None.*missing_label=numpy.nan"),
        (objects(0, 1, NAN, -1), -1, "contains NaN or None"),
        (objects(0, 1, None, -1), -1, "contains NaN or None"),
        (objects(0, 1, pd.NA, -1), -1, "contains NaN or None"),
        (series([0, 1, None, -1], "Int64"), -1, "contains NaN or None"),
        (objects("a", "b", None, ""), "", "contains NaN or None"),
        (objects("a", "b", NAN, ""), "", "contains NaN or None"),
        (series(["a", "b", None], "string"), "", "contains NaN or None"),
        (np.array([(0,), (1,)], dtype=[("a", int)]), None, "y must be labels, got records"),
        # NumPy has made text of a marker that is none.
        (np.array(["a", "b", NAN]), NAN, "'nan', and missing_label=nan is no text.*='nan'"),
        (np.array(["a", "b", -1]), -1, "'-1', and missing_label=-1 is no text"),
    ],
)
def test_encode_labels_refuses_what_gives_no_two_classes(y, missing_label, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(y, missing_label)


def test_encode_labels_refuses_labels_of_several_types_with_advice():
    with pytest.raises(TypeError, match=r"y must have labels of one type, got int and str: conv"):
        encode_labels(["a", 1], None)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    "labels",
    [
        objects(("a", 1), ("b", 2)),
        objects(frozenset("a"), frozenset("b")),
        list(Color),
        [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)],
        pd.date_range("2020-01-01", periods=2, tz="UTC"),
        [Decimal(1), Decimal(2)],
        [2**70, 2**71],
    ],
    ids=["tuples", "sets", "enum", "dates", "time zone", "decimal", "large"],
)
def test_encode_labels_names_labels_of_a_type_that_is_not_supported(labels):
    kind = type(next(iter(labels))).__name__
    with pytest.raises(ValueError, match=rf"y must have strings, booleans.*of type {kind}: conv"):
        encode_labels(labels, None)


def test_encode_labels_names_the_number_that_is_too_large():
    with pytest.raises(ValueError, match=f"got {2**70}, of type int"):
        encode_labels([1, 2, 2**70], None)


class Animal(str, enum.Enum):
    ANT = "ant"
    ZEBRA = "zebra"


def test_check_labels_takes_the_value_of_a_string_that_is_an_enum():
    assert check_labels([Animal.ANT, Animal.ZEBRA]).tolist() == ["ant", "zebra"]
    assert check_labels([Animal.ANT, 1]).tolist() == ["ant", 1]
    found = check_labels(objects(Animal.ANT, None, Animal.ZEBRA)).tolist()
    assert list(map(type, found)) == [str, type(None), str]


def test_check_labels_keeps_numbers_of_two_types_together():
    assert check_labels([1, 2.0, 3]).dtype == float
    assert check_labels([1, 2.5, NAN]).dtype == object


def test_known_classes_are_those_of_the_first_call():
    np.testing.assert_array_equal(known_classes([5, 2, 5], None), [2, 5])
    before = np.array([2, 5])
    for classes in (None, [5, 2]):
        np.testing.assert_array_equal(known_classes(classes, before), before)
    with pytest.raises(ValueError, match="classes must be passed to the first call"):
        known_classes(None, None)
    with pytest.raises(
        ValueError, match="classes must have labels of at least two classes, got one class: 1"
    ):
        known_classes([1], None)
    with pytest.raises(ValueError, match=r"classes=\[1, 2\] differ from those of earlier calls"):
        known_classes([1, 2], before)


def test_positions_and_encode_known_refuse_labels_that_are_not_classes():
    with pytest.raises(ValueError, match=r"not among the classes, for example '1'.* are 0, 1\."):
        positions(objects(0, "1"), np.arange(2))
    with pytest.raises(ValueError, match=r"for example 9\. .* 6, 7, \.\.\.\.$"):
        positions(np.array([9]), np.arange(9))
    with pytest.raises(ValueError, match="for example 3"):
        encode_known([0, -1, 3], np.arange(2), -1)
    with pytest.raises(ValueError, match="y must have labels, got 2 rows without one"):
        encode_known([-1, -1], np.arange(2), -1)


# Rows

X = np.random.RandomState(0).normal(size=(60, 4))
X = np.where(np.abs(X) > 0.8, X, 0) / 100
UNIT = 2.0 ** round(np.log2(np.mean(X**2)) / 2)


def checked(values, allow_nd=False):
    return check_rows(
        BaseEstimator(), values, reset=True, allow_nd=allow_nd, allow_nan=not allow_nd
    )


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (np.int8, np.float64),
    ],
)
@pytest.mark.parametrize("form", [np.array, torch.tensor, sparse.csc_array, sparse.csr_matrix])
def test_check_rows_keeps_single_and_double_precision(form, dtype, expected):
    if dtype == np.float16 and form in (sparse.csc_array, sparse.csr_matrix):
        form = np.array  # SciPy has no sparse half precision
    values = (100 * X).astype(dtype)
    rows = checked(form(values))
    assert rows.dtype == expected
    dense = rows if isinstance(rows, np.ndarray) else rows.tocsr().toarray()
    assert isinstance(rows, np.ndarray) or rows.format == "csr"
    np.testing.assert_array_equal(dense, values.astype(expected))


def test_check_rows_makes_single_precision_of_frames_of_half_precision():
    frame = pd.DataFrame(X).astype(np.float16)
    rows = checked(frame)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, frame.to_numpy(np.float32))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("form", [np.array, sparse.csr_array])
def test_check_rows_refuses_infinite_entries(form, value):
    rows = X.copy()
    rows[3, 1] = value
    with pytest.raises(ValueError, match="contains infinity"):
        checked(form(rows))


def test_check_rows_says_where_missing_values_are_supported():
    gaps = X.copy()
    gaps[3, 1] = NAN
    with pytest.raises(ValueError, match=r"contains NaN and is sparse.*dense.*toarray"):
        checked(wide(gaps))
    with pytest.raises(ValueError, match=r"contains NaN, and a module.*SimpleImputer"):
        checked(sparse.csr_array(gaps), allow_nd=True)
    columns = pd.DataFrame(gaps).astype(pd.SparseDtype(float, 0))
    for narrow in (sparse.csr_array(gaps), columns):
        np.testing.assert_array_equal(checked(narrow).toarray(), gaps)
    with pytest.raises(ValueError, match=r"contains NaN, and a module.*SimpleImputer"):
        checked(gaps, allow_nd=True)
    np.testing.assert_array_equal(checked(gaps), gaps)


def test_check_rows_accepts_a_column_of_any_name():
    for names in (
        ["dtype", "dtypes", "columns", "index"],
        ["collect", "schema", "types", "values"],
        ["tocsr", "sparse", "dense", "shape"],
    ):
        with_gaps = np.where(np.eye(len(X), 4), NAN, X)
        np.testing.assert_array_equal(checked(pd.DataFrame(with_gaps, columns=names)), with_gaps)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([["a", "b"]]), r"X has strings.*TableVectorizer.*ColumnTransformer"),
        (pd.Series(["a text", "another"]), r"X has strings.*TfidfVectorizer"),
        (pl.Series(["a text", "another"]), r"X has strings.*TfidfVectorizer"),
        (pd.Series(X[:, 0]), "2-dimensional|2D"),
        (pd.DataFrame({"size": [1.0, 2.0], "colors": [[1, 2], [3]]}), "X has lists.*Table"),
        *(
            (frame({"size": [1.0, 2.0], "color": ["red", "blue"]}), "X has strings.*red.*Table")
            for frame in (pd.DataFrame, pl.DataFrame)
        ),
        *(
            (table, "X has dates.*TableVectorizer")
            for table in (
                pd.DataFrame({"size": [1.0], "day": pd.to_datetime(["2020-01-01"])}),
                pd.DataFrame({"time": pd.to_timedelta([1], unit="s")}),
                np.ones((2, 1), "timedelta64[s]"),
                *(
                    pl.DataFrame({**number, "time": pl.Series([5], dtype=pl.Int64).cast(dtype)})
                    for number in ({}, {"size": [1.0]})
                    for dtype in (pl.Datetime, pl.Duration, pl.Time)
                ),
                pl.DataFrame({"day": [datetime.date(2020, 1, 1)]}),
            )
        ),
    ],
)
def test_check_rows_refuses_what_is_no_table_of_numbers_with_advice(values, message):
    with pytest.raises(ValueError, match=message):
        checked(values)


def test_sparse_units_are_exact_for_the_largest_and_smallest_numbers():
    for scale in (2.0**-996, 1.0, 2.0**996):
        assert (sparse_units(sparse.csr_array(X * scale), np.ones(60)) == UNIT * scale).all()
    assert sparse_units(sparse.csr_array((3, 4)), np.ones(3)) == 1
    assert sparse_units(X, np.ones(60)) == 1


@pytest.mark.parametrize(
    ("scale", "unit"), [(16, 16), (8, 1), (1, 1), (1 / 8, 1), (1 / 16, 1 / 16)]
)
def test_sparse_units_are_one_for_a_root_mean_square_near_one(scale, unit):
    signs = sparse.csr_array(scale * np.where(X > 0, 1.0, -1.0))
    units = sparse_units(signs, np.ones(60))
    assert (units == unit).all()
    assert (divided(signs, units) is signs) == (unit == 1)
    assert abs(divided(signs, units)).max() == scale / unit


def test_sparse_units_count_a_row_as_often_as_its_weight():
    counts = np.where(X[:, 0] > 0.02, 5, np.arange(60) % 2)
    units = sparse_units(sparse.csr_array(X), counts.astype(float))
    expected = 2.0 ** round(np.log2(np.mean(np.repeat(X, counts, axis=0) ** 2)) / 2)
    assert (units == expected).all()


def test_sparse_units_bring_columns_of_another_size_to_that_of_the_others():
    signs = np.where(np.arange(5) < X[:, [0]] * 100, 1.0, -1.0)
    factors = np.array([1, 2.0**16, 8, 2.0**-10, 1])
    table = sparse.csr_array(signs * factors)
    units = sparse_units(table, np.ones(60))
    np.testing.assert_array_equal(units, [1, 2.0**16, 1, 2.0**-10, 1])
    np.testing.assert_array_equal(divided(table, units).toarray(), signs * [1, 1, 8, 1, 1])
    np.testing.assert_array_equal(divided(signs * factors, units), signs * [1, 1, 8, 1, 1])


# Row weights

CLASSES, CODES = np.array(["a", "b"]), np.array([0, 0, 0, 1, -1])


def weights(sample_weight=None, class_weight=None, unlabeled="consistency"):
    return row_weights(CLASSES, CODES, sample_weight, class_weight, unlabeled)


def test_row_weights_multiply_sample_and_class_weights_to_mean_one():
    np.testing.assert_array_equal(weights(), np.ones(5))
    np.testing.assert_array_equal(weights(sample_weight=2.0), np.ones(5))
    np.testing.assert_array_equal(weights(unlabeled="ignore"), [1, 1, 1, 1, 0])
    np.testing.assert_allclose(weights([0, 1, 2, 1, 4]), [0, 0.5, 1, 0.5, 2])
    # Balanced weights are 4 / (2 * 3) and 4 / (2 * 1); the row without a label has none.
    expected = np.array([2 / 3, 2 / 3, 2 / 3, 2, 1])
    np.testing.assert_allclose(weights(class_weight="balanced"), expected)
    found = weights([1, 2, 1, 1, 1], {"a": 3, "b": 0}, "ignore")
    np.testing.assert_allclose(found, [0.75, 1.5, 0.75, 0, 0])


def test_row_weights_are_one_for_classes_that_have_none():
    found = row_weights(np.array(list("abc")), CODES, None, {"b": 3, "c": 9}, "ignore")
    np.testing.assert_allclose(found, np.array([1, 1, 1, 3, 0]) * 2 / 3)
    with pytest.raises(ValueError, match="are not in class_weight"):
        weights(class_weight={"z": 2})


def test_row_weights_count_by_their_ratios_however_small():
    weights = row_weights(
        np.array([0, 1]), np.array([0, 1]), [1e-300, 3e-300], {0: 1e-200, 1: 1e-200}, "ignore"
    )
    np.testing.assert_allclose(weights, [0.5, 1.5])


def test_row_weights_underflow_to_zero_where_numpy_may_raise():
    with np.errstate(all="raise"):
        weights = row_weights(np.array([0, 1]), np.array([0, 1]), [1e-300, 1e150], None, "ignore")
    np.testing.assert_array_equal(weights, [0, 1])


@pytest.mark.parametrize(
    ("sample_weight", "class_weight", "message"),
    [
        ([0, 0, 0, 0, 1], None, "sample_weight must have a positive entry"),
        ("abc", None, "sample_weight must be numbers"),
        (["a"] * 5, None, "sample_weight must be numbers"),
        ([None] * 4 + [{}], None, "sample_weight must be numbers"),
        *(
            (
                None,
                {"a": weight, "b": 1},
                r"class_weight must be finite and not negative, got \{'a'",
            )
            for weight in (-1, NAN, np.inf)
        ),
        (None, {"a": 0, "b": 0}, "class_weight times sample_weight must have a positive entry"),
    ],
)
def test_row_weights_name_the_invalid_argument(sample_weight, class_weight, message):
    with pytest.raises(ValueError, match=message):
        weights(sample_weight, class_weight)


# In a fit

y = np.arange(60) % 3
ROWS = np.where(np.arange(4) == y[:, None], 0.03, 0) + X
ROWS_UNIT = 2.0 ** round(np.log2(np.mean(ROWS**2)) / 2)


def fitted(rows, labels=y, **params):
    return small(**params).fit(rows, labels)


def assert_same_results(clf, rows, other, other_rows, atol=0.0):
    for found, expected in (
        (clf.predict_proba(rows), other.predict_proba(other_rows)),
        (clf.noise_scores_, other.noise_scores_),
        (clf.sample_weights_, other.sample_weights_),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("sample_weight", "class_weight"), [(y == 1, None), (None, {0: 0, 1: 1, 2: 0})]
)
def test_fit_refuses_weights_that_leave_one_class(sample_weight, class_weight):
    clf = small(class_weight=class_weight)
    with pytest.raises(ValueError, match=r"rows of positive weight.* one class: 1"):
        clf.fit(ROWS, y, sample_weight)


@pytest.mark.parametrize("weighting", ["evidence", "vri", "wnet", None])
@pytest.mark.parametrize("params", [{"early_stopping": True, "batch_size": 16}, {}], ids=str)
def test_fit_of_a_sparse_table_does_not_depend_on_its_unit(weighting, params):
    table, scaled = wide(ROWS), wide(2.0**30 * ROWS)
    clf = fitted(table, weighting=weighting, **params)
    other = fitted(scaled, weighting=weighting, **params)
    assert_same_results(clf, table.tolil(), other, scaled.tolil())


def test_sparse_units_are_those_of_the_large_entries_of_a_column():
    signs = np.where(np.arange(5) < X[:, [0]] * 100, 1.0, -1.0)
    spoiled = signs.copy()
    spoiled[::2, 0] *= 1e-17
    assert (sparse_units(sparse.csr_array(spoiled), np.ones(60)) == 1).all()
    extreme = signs * [5e-324, 1, 1, 1, 1e300]
    assert np.isfinite(sparse_units(sparse.csr_array(extreme), np.ones(60))).all()


def test_fit_of_a_wide_sparse_table_learns_codes_beside_incomes():
    rng = np.random.RandomState(0)
    labels, codes = np.arange(2000) % 2, rng.randint(130, size=2000)
    rows = np.hstack([np.eye(260)[codes + 130 * labels], rng.lognormal(11, 1, (2000, 1))])
    train, test = np.split(np.arange(2000), 2)
    clf = small(max_epochs=12).fit(sparse.csr_array(rows[train]), labels[train])
    assert clf.score(sparse.csr_array(rows[test]), labels[test]) > 0.9
    assert clf.score(rows[test], labels[test]) > 0.9


@pytest.mark.parametrize("unlabeled", ["consistency", "ignore"])
def test_fit_of_a_sparse_table_accepts_unlabeled_rows(unlabeled):
    params = {"missing_label": -1, "unlabeled": unlabeled, "batch_size": 16}
    few = np.where(np.arange(60) < 40, y, -1)
    table, scaled = wide(ROWS), wide(2.0**30 * ROWS)
    clf = fitted(table, few, **params)
    assert np.isnan(clf.noise_scores_[40:]).all()
    other = fitted(scaled, few, **params)
    assert_same_results(clf, table, other, scaled)


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_fit_of_a_sparse_table_of_few_columns_is_that_of_the_dense_one(form):
    rows = np.where(ROWS < 0.01, 0, ROWS) * [1, 1e6, 1e-3, 50]
    rows[::7, 1] = NAN
    clf, other = fitted(form(rows), batch_size=16), fitted(rows, batch_size=16)
    assert_same_results(clf, form(rows), other, rows)
    assert clf.score(rows, y) > 0.9


def test_fit_of_a_sparse_table_adds_up_repeated_entries():
    d = ROWS.shape[1]
    values = np.hstack([ROWS, np.tile([2.0, -2.0, 1.0, 3.0], (60, 1))])
    columns = np.tile([*range(d), d, d, d + 1, d + 1], 60)
    ends = (d + 4) * np.arange(61)
    repeated = sparse.csr_array((values.ravel(), columns, ends), shape=(60, d + 256))
    table = sparse.csr_array(repeated.toarray())
    clf, other = fitted(repeated), fitted(table)
    assert_same_results(clf, repeated, other, table)
    assert repeated.nnz == values.size


def test_predict_refuses_gaps_after_a_fit_on_a_wide_sparse_table():
    clf = fitted(wide(ROWS))
    rows = wide(ROWS).toarray()
    rows[3, 1] = NAN
    for table in (rows, sparse.csr_array(rows)):
        with pytest.raises(ValueError, match="fitted on a wide sparse table takes no missing"):
            clf.predict(table)


def test_fit_of_half_precision_is_that_of_single_precision():
    rows = (100 * ROWS).astype(np.float16)
    single = rows.astype(np.float32)
    clf, other = (fitted(table, batch_size=16) for table in (rows, single))
    assert_same_results(clf, rows, other, single)


@pytest.mark.parametrize("missing_label", [-1, NAN, "?", ""], ids=repr)
def test_fit_does_not_depend_on_a_missing_label_that_is_not_there(missing_label):
    clf, plain = fitted(ROWS, missing_label=missing_label), fitted(ROWS)
    assert_same_results(clf, ROWS, plain, ROWS)
    assert clf.classes_.dtype == plain.classes_.dtype


class Convolution(nn.Module):
    """Convolution over rows of shape (1, height, width)."""

    def __init__(self, shape, n_classes):
        super().__init__()
        assert shape == (1, 4, 4)
        self.convolution = nn.Conv2d(1, 3, 3)
        self.head = nn.Linear(12, n_classes)

    def forward(self, rows):
        return self.head(self.convolution(rows).relu().flatten(start_dim=1))


@pytest.mark.parametrize("weighting", ["evidence", "vri", "wnet", None])
def test_fit_with_a_module_accepts_rows_of_any_shape(weighting):
    images = np.random.RandomState(0).normal(size=(60, 1, 4, 4)) + 2 * y[:, None, None, None]
    clf = fitted(images, module=Convolution, weighting=weighting, max_epochs=15, lr=0.02)
    assert clf.predict_proba(images).shape == (60, 3)
    assert clf.score(images, y) > 0.6
    with pytest.raises(ValueError, match=r"\(1, 4, 3\).*\(1, 4, 4\)"):
        clf.predict(images[..., :3])
    with pytest.raises(ValueError, match="dim 4"):
        fitted(images)
