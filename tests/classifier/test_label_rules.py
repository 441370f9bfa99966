"""Labels are read by one set of rules, wherever they are passed."""

from functools import cache

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, KFold

from classifier.data import small
from sklearn_clidmu import (
    cross_val_noise_scores,
    find_label_issues,
    noisy_label_scorer,
)

pytestmark = pytest.mark.usefixtures("few_steps", "coarse_kernel")

rng = np.random.RandomState(0)
codes = np.arange(60) % 3
X = rng.normal(size=(60, 3)) + 3 * np.eye(3)[codes]
gaps = np.arange(60) % 7 == 0
names, days = np.array(["a", "b", "c"])[codes], np.datetime64("2020-01-01") + codes
NAN = np.nan


def series(values, dtype=None, marked=False):
    column = pd.Series(values, dtype=dtype)
    return column.mask(gaps) if marked else column


def polars(values, marked=False):
    values = [None if marked and gap else v for v, gap in zip(values.tolist(), gaps, strict=True)]
    return pl.Series(values)


KINDS = {
    "Int64": lambda marked: series(codes, "Int64", marked),
    "reversed index": lambda marked: series(codes, "Int64", marked).set_axis(range(60)[::-1]),
    "boolean": lambda marked: series(codes > 0, "boolean", marked),
    "string": lambda marked: series(names, "string", marked),
    "category": lambda marked: series(pd.Categorical(names, list("qabzc")), None, marked),
    "objects that are numbers": lambda marked: series(codes, object, marked),
    "objects that are truth values": lambda marked: series(codes > 0, object, marked),
    "objects that are text": lambda marked: series(names, object, marked).to_numpy(),
    "list": lambda marked: polars(codes, marked).to_list(),
    "polars integers": lambda marked: polars(codes, marked),
    "polars text": lambda marked: polars(names, marked),
    "dates": lambda marked: series(days.astype("datetime64[ns]"), None, marked),
    "fixed-width strings": lambda marked: np.where(gaps & marked, "", names),
    "days": lambda marked: np.where(gaps & marked, np.datetime64("NaT"), days),
}
if hasattr(np.dtypes, "StringDType"):  # NumPy 2 and later
    KINDS["variable-width strings"] = lambda marked: np.where(gaps & marked, "", names).astype(
        np.dtypes.StringDType()
    )
try:
    import pyarrow

    KINDS["arrow integers"] = lambda marked: series(codes, "int64[pyarrow]", marked)
    KINDS["arrow text"] = lambda marked: pyarrow.array(KINDS["polars text"](marked).to_list())
except ImportError:  # which pandas and polars can do without
    pass


MARKERS = {"boolean": pd.NA, "string": pd.NA}
MARKERS |= {"fixed-width strings": "", "variable-width strings": ""}


def quick(marked, kind):
    return small(n_folds=None, missing_label=MARKERS.get(kind, NAN) if marked else None)


@cache
def fitted_to_codes(marked, n_classes):
    """Fit to the same labels as plain integers."""
    plain = codes if n_classes == 3 else (codes > 0).astype(int)
    return small(n_folds=None, missing_label=-1).fit(X, np.where(gaps & marked, -1, plain))


@pytest.mark.parametrize("marked", [False, True], ids=["all", "some missing"])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_fit_takes_are_taken_everywhere(kind, marked):
    y, missing = KINDS[kind](marked), gaps if marked else np.zeros(60, dtype=bool)
    clf = quick(marked, kind).fit(X, y)
    plain = codes > 0 if len(clf.classes_) == 2 else codes
    expected = np.searchsorted(clf.classes_, clf.predict(X)) == plain
    same = fitted_to_codes(marked, len(clf.classes_))
    np.testing.assert_array_equal(clf.noise_scores_, same.noise_scores_)
    np.testing.assert_array_equal(clf.predict(X), clf.classes_[same.predict(X)])
    assert clf.score(X, y) == pytest.approx(expected[~missing].mean())
    np.testing.assert_array_equal(np.isnan(clf.noise_scores(X, y)), missing)
    assert np.isfinite(noisy_label_scorer(clf, X, y))
    scores, suggested = cross_val_noise_scores(
        clf, X, y, cv=2, missing_label=clf.missing_label, return_suggested=True
    )
    np.testing.assert_array_equal(np.isnan(scores), missing)
    assert set(suggested.tolist()) <= set(clf.classes_.tolist())
    wrong = find_label_issues(scores, y, suggested=suggested).mask
    np.testing.assert_array_equal(
        wrong, ~missing & (np.searchsorted(clf.classes_, suggested) != plain)
    )
    classes = y.unique() if hasattr(y, "unique") else y
    other = quick(marked, kind).partial_fit(X, y, classes=classes)
    np.testing.assert_array_equal(other.classes_, clf.classes_)
    assert other.classes_.dtype == clf.classes_.dtype


@pytest.mark.parametrize("scoring", [None, noisy_label_scorer])
@pytest.mark.parametrize("kind", ["Int64", "objects that are numbers", "string", "dates"])
def test_labels_that_fit_takes_are_taken_by_a_grid_search(kind, scoring):
    options = {"cv": KFold(2), "scoring": scoring, "error_score": "raise"}
    search = GridSearchCV(quick(True, kind), {"dropout": [0.1, 0.2]}, **options)
    assert np.isfinite(search.fit(X, KINDS[kind](True)).best_score_)


def test_score_is_the_accuracy_on_labels_of_any_class():
    clf = small().fit(X, codes)
    y = np.where(np.arange(60) < 9, 7, codes)
    weight = rng.uniform(size=60)
    for sample_weight in (None, weight, list(weight)):
        expected = accuracy_score(y, clf.predict(X), sample_weight=sample_weight)
        assert clf.score(X, y, sample_weight) == expected
    large = small().fit(X, codes + 2**60)
    unsigned = (y + 2**60).astype(np.uint64)  # no type of NumPy has both exactly
    assert large.score(X, unsigned) == accuracy_score(y + 2**60, large.predict(X))
    clf, kept = small(missing_label=7).fit(X, y), slice(9, None)
    expected = accuracy_score(codes[kept], clf.predict(X)[kept], sample_weight=weight[kept])
    assert clf.score(X, y, weight) == expected


@pytest.mark.parametrize("marker", [-1, NAN, "?", pd.NA])
def test_partial_fit_leaves_the_missing_label_out_of_the_classes(marker):
    known = names if marker is pd.NA or marker == "?" else codes
    y = np.where(gaps, marker, known)
    classes = pd.unique(pd.Series(y))
    clf = small(missing_label=marker).partial_fit(X, y, classes=classes)
    clf.partial_fit(X, y, classes=classes)
    np.testing.assert_array_equal(clf.classes_, np.unique(known))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({0, 1, 2}, "classes must be an array-like of labels, got a set"),
        ({0: "a", 1: "b"}, "classes must be an array-like of labels, got a dict"),
        ((k for k in range(3)), "classes must be an array-like of labels, got a generator"),
        (["a", 1], "classes must have labels of one type, got int and str"),
        ([0, 1, NAN], "classes contains NaN or None"),
        ([0, 1, None], "classes contains NaN or None"),
        (pd.array([0, 1, None], dtype="Int64"), "classes contains NaN or None"),
        (np.array(["2020-01-01", "2020-01-02", "NaT"], dtype="M8[D]"), "classes contains NaN"),
        ([0.5, 1.5], "classes: Unknown label type: continuous"),
        ([[0, 1], [1, 2]], "classes must have one entry per row"),
        (3, "classes must have one entry per row, got 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_partial_fit_names_classes_that_are_no_labels(classes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        small().partial_fit(X, codes, classes=classes)


def test_score_names_a_weight_that_is_infinite():
    clf = small().fit(X, codes)
    with pytest.raises(ValueError, match="sample_weight contains infinity"):
        clf.score(X, codes, np.where(gaps, np.inf, 1))


SPOILED = {
    "text": (names, r"y has labels that are text, for example '\w', and the classes are numbers"),
    "dates": (codes.astype("M8[ns]"), "y has labels that are dates, for example datetime.datetime"),
    "mixed": (np.where(gaps, "a", codes.astype(object)), "y must have labels of one type"),
    "nan": (np.where(gaps, NAN, codes), "y contains NaN"),
    "a set": (set(range(60)), "y must be an array-like of labels, got a set"),
    "two columns": (np.eye(3)[codes], "y must have one entry per row"),
    "fractions": (codes + 0.5, "Unknown label type: continuous"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_score_names_labels_that_cannot_be_compared(case):
    y, message = SPOILED[case]
    clf = small().fit(X, codes)
    with pytest.raises((ValueError, TypeError), match=message):
        clf.score(X, y)
    if case == "nan":
        assert np.isfinite(noisy_label_scorer(clf, X, y))
    else:
        for fitted in (clf, LogisticRegression().fit(X, codes)):
            with pytest.raises((ValueError, TypeError), match=message):
                noisy_label_scorer(fitted, X, y)


@pytest.mark.parametrize(
    ("y", "suggested", "message"),
    [
        ([0, 1], ["0", "1"], r"suggested has labels that are text, .* those of y are numbers"),
        (["0", "1"], [0, 1], r"suggested has labels that are numbers, .* those of y are text"),
        ([0, 1], [0, "1"], "suggested must have labels of one type"),
        ([0, "1"], [0, 1], "y must have labels of one type"),
        ([0, 1], {0, 1}, "suggested must be an array-like of labels, got a set"),
        ([None, NAN], [0, 1], "y must have labels of rows with a score"),
    ],
)
def test_find_label_issues_names_labels_that_cannot_be_compared(y, suggested, message):
    with pytest.raises((ValueError, TypeError), match=message):
        find_label_issues([0.1, 0.9], y, suggested=suggested)


@pytest.mark.parametrize("gap", [None, NAN, pd.NA])
def test_find_label_issues_finds_none_where_nothing_is_suggested_or_given(gap):
    given = np.array([0, 1, gap, 1], dtype=object)
    suggested = np.array([1, gap, 0, 1], dtype=object)
    issues = find_label_issues([0.9, 0.9, 0.9, 0.1], given, suggested=suggested)
    assert issues.mask.tolist() == [True, False, False, False]
    assert issues.noise_rate == pytest.approx(1 / 3)
    assert find_label_issues([0.9, 0.9, 0.9, 0.1], given).index.tolist() == [0, 1]
