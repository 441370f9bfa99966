"""Labels that are known to be right."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classifier.data import SMALL
from sklearn_clidmu import CLIDMUClassifier, cross_val_noise_scores, find_label_issues

NAMES = np.array(["ant", "bee", "cow"])
RNG = np.random.RandomState(0)
TRUE = np.arange(300) % 3
X = RNG.normal(size=(300, 4)) + 4 * np.eye(3, 4)[TRUE]
WRONG = RNG.uniform(size=300) < 0.3
GIVEN = np.where(WRONG, (TRUE + 1) % 3, TRUE)
LOOKED_AT = np.arange(300) % 5 == 0
CONFIRMED = np.where(LOOKED_AT, TRUE.astype(object), None)


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "batch_size": 64, "n_folds": None, **params})


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
def test_confirmed_labels_have_full_confidence_and_are_no_issues(weighting):
    odd = CONFIRMED.copy()
    odd[:30] = (TRUE[:30] + 2) % 3  # labels that no network would give
    known = np.not_equal(odd, None)
    clf = small(weighting=weighting).fit(X, GIVEN, confirmed=odd)
    np.testing.assert_array_equal(clf.noise_scores_[known], 0)
    np.testing.assert_array_equal(clf.suggested_labels_[known], odd[known].astype(int))
    assert np.ptp(clf.sample_weights_[known]) == 0
    assert clf.sample_weights_[0] == clf.sample_weights_.max()
    issues = find_label_issues(clf)
    np.testing.assert_array_equal(issues.given_labels, GIVEN)
    assert not issues.mask[known].any()
    assert issues.mask.any()
    assert not find_label_issues(clf, threshold=0).mask[known].any()


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
def test_training_takes_confirmed_labels_instead_of_the_given(weighting):
    shuffled = RNG.permutation(GIVEN)  # labels that say nothing
    known = np.where(np.arange(300) < 200, TRUE, np.nan)
    clf = small(weighting=weighting, max_epochs=12, weight_decay=0.0075)
    assert clf.fit(X, shuffled, confirmed=known).score(X, TRUE) > 0.9


def test_noise_left_is_that_of_the_labels_which_nobody_looked_at():
    clf = small(max_epochs=12).fit(X, GIVEN)
    suspects = np.argsort(-clf.noise_scores_)[:60]
    assert WRONG[suspects].mean() > 0.9
    left = WRONG.copy()
    left[suspects] = False
    known = np.full(300, None)
    known[suspects] = TRUE[suspects]
    again = small(max_epochs=12).fit(X, GIVEN, confirmed=known)
    assert again.noise_estimate_["noise_rate"] == pytest.approx(left.mean(), abs=0.03)
    assert again.noise_rate_ == pytest.approx(left.mean(), abs=0.03)
    issues = find_label_issues(again)
    assert left[issues.index].mean() > 0.8
    # From labels that are corrected beforehand the noise is underestimated.
    corrected = small(max_epochs=12).fit(X, np.where(np.equal(known, None), GIVEN, TRUE))
    kept, kept_again, kept_corrected = (
        one.noise_estimate_["transition_matrix"].diagonal().mean()
        for one in (clf, again, corrected)
    )
    assert kept_again == pytest.approx(kept, abs=0.07)
    assert kept_corrected > kept + 0.15


def test_labels_confirmed_all_are_without_noise():
    clf = small().fit(X, GIVEN, confirmed=TRUE)
    assert clf.noise_rate_ == clf.noise_estimate_["noise_rate"] == 0
    np.testing.assert_array_equal(clf.transition_matrix_, np.eye(3))


def test_no_confirmed_label_changes_nothing():
    plain, none = small().fit(X, GIVEN), small().fit(X, GIVEN, confirmed=[None] * 300)
    np.testing.assert_array_equal(plain.noise_scores_, none.noise_scores_)
    np.testing.assert_array_equal(plain.predict_proba(X), none.predict_proba(X))


@pytest.mark.parametrize("form", [list, pd.Series, pl.Series])
def test_confirmed_labels_may_be_strings_of_any_container(form):
    expected = small().fit(X, GIVEN, confirmed=CONFIRMED).noise_scores_
    names = [None if code is None else str(NAMES[code]) for code in CONFIRMED]
    clf = small().fit(X, NAMES[GIVEN], confirmed=form(names))
    np.testing.assert_array_equal(clf.noise_scores_, expected)


def test_confirmed_labels_are_labels_of_rows_that_had_none():
    labels = np.where(LOOKED_AT, -1, GIVEN)
    clf = small(missing_label=-1).fit(X, labels, confirmed=CONFIRMED)
    filled = small().fit(X, np.where(LOOKED_AT, TRUE, GIVEN), confirmed=CONFIRMED)
    np.testing.assert_array_equal(clf.noise_scores_, filled.noise_scores_)
    assert len(clf.stages_) == 1  # none is left that needs a pseudo-label


def test_confirmed_labels_stay_beside_pseudo_labels():
    labels = np.where(np.arange(300) % 3 == 1, -1, GIVEN)
    clf = small(missing_label=-1).fit(X, labels, confirmed=CONFIRMED)
    np.testing.assert_array_equal(clf.noise_scores_[LOOKED_AT], 0)
    np.testing.assert_array_equal(np.isnan(clf.noise_scores_), (labels == -1) & ~LOOKED_AT)


@pytest.mark.parametrize("class_weight", [{0: 1, 1: 5, 2: 1}, "balanced"])
def test_class_weights_are_those_of_the_confirmed_labels(class_weight):
    rows = np.flatnonzero((TRUE > 0) | LOOKED_AT)  # few of class 0
    options = {"weighting": None, "weight_decay": 0.01}
    mended = small(class_weight=class_weight, **options).fit(X[rows], TRUE[rows])
    clf = small(class_weight=class_weight, **options)
    clf.fit(X[rows], GIVEN[rows], confirmed=TRUE[rows])
    np.testing.assert_allclose(clf.predict_proba(X), mended.predict_proba(X), atol=1e-6)


def test_early_stopping_measures_on_confirmed_labels():
    known = TRUE.astype(float)
    clf = small(early_stopping=True, max_epochs=12, validation_fraction=0.3)
    assert clf.fit(X, GIVEN, confirmed=known).history_["valid_score"].max() > 0.9


@pytest.mark.parametrize(
    ("confirmed", "message"),
    [
        (["ant"] * 7, "Found inconsistent numbers of samples: y has 300, confirmed has 7"),
        ("ant", "confirmed must have one entry per row"),
        ([7] * 300, "confirmed has labels that are numbers, for example 7, and those of y are te"),
        ([True] * 300, "confirmed must be labels, got a boolean mask"),
        (["?"] * 300, r"confirmed has missing_label='\?'"),
        *(
            (np.array(["ant", gap] * 150).astype(str), f"confirmed has the label '{text}', which")
            for gap, text in ((None, "None"), (np.nan, "nan"), ("", ""))
        ),
    ],
)
def test_fit_names_what_is_wrong_with_confirmed(confirmed, message):
    with pytest.raises(ValueError, match=message):
        small(missing_label="?").fit(X, NAMES[GIVEN], confirmed=confirmed)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (1.7, "confirmed has the label 1.7, and y has labels of type int"),
        (2**70, f"confirmed has the label {2**70}, and y"),
        (
            datetime.date(2020, 1, 1),
            r"labels that are dates, for example datetime.date\(2020, 1, 1\), and those of y are",
        ),
        (np.inf, "confirmed contains infinity"),
        ("fly", "confirmed has labels that are text, for example 'fly'"),
        (True, r"confirmed must be labels, got a boolean mask: pass np.where\(mask, y, None\)"),
    ],
)
def test_fit_refuses_confirmed_labels_of_another_type(label, message):
    with pytest.raises(ValueError, match=message):
        small().fit(X, GIVEN, confirmed=[label] * 9 + [None] * 291)


def test_confirmed_truth_values_are_labels_where_those_of_y_are():
    clf = small().fit(X, GIVEN > 0, confirmed=[False, None] * 150)
    assert not clf.suggested_labels_[::2].any()


def test_confirmed_column_is_accepted_in_silence():
    small().fit(X, GIVEN, confirmed=CONFIRMED[:, None])


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"class_weight": "balanced"}])
@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
def test_confirmed_labels_may_be_of_a_class_that_y_lacks(weighting, params):
    names = np.where(GIVEN == 2, "a long name", NAMES[GIVEN])
    known = np.where(LOOKED_AT, NAMES[TRUE], None)
    new = LOOKED_AT & (TRUE == 2)
    clf = small(weighting=weighting, **params).fit(X, names, confirmed=known)
    assert clf.classes_.tolist() == ["a long name", "ant", "bee", "cow"]
    assert clf.classes_.dtype == names.dtype
    assert (clf.suggested_labels_[new] == "cow").all()
    assert clf.predict_proba(X).shape == (300, 4)
    assert np.isfinite(clf.transition_matrix_).all()
    assert np.isfinite(clf.noise_scores_).all()


def test_confirmed_labels_do_not_change_the_type_of_the_classes():
    nullable = pd.Series(GIVEN, dtype="Int64").mask(LOOKED_AT & (TRUE == 1))
    known = np.where(LOOKED_AT, TRUE, np.nan)
    clf = small(missing_label=np.nan).fit(X, nullable, confirmed=known)
    assert clf.classes_.dtype == int
    one = small().fit(X, np.zeros(300, dtype=int), confirmed=known)
    assert one.classes_.tolist() == [0, 1, 2]


# Through other estimators


def test_pipelines_and_searches_route_confirmed():
    direct = small().fit(StandardScaler().fit_transform(X), GIVEN, confirmed=CONFIRMED)
    named = make_pipeline(StandardScaler(), small())
    named.fit(X, GIVEN, clidmuclassifier__confirmed=CONFIRMED)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), small().set_fit_request(confirmed=True))
        search = GridSearchCV(pipe, {"clidmuclassifier__dropout": [0.15]}, cv=2)
        search.fit(X, GIVEN, confirmed=CONFIRMED)
    for found in (named[-1], search.best_estimator_[-1]):
        np.testing.assert_array_equal(found.noise_scores_, direct.noise_scores_)


def test_cross_val_noise_scores_cut_confirmed_to_each_fold():
    scores = cross_val_noise_scores(small(), X, GIVEN, cv=KFold(2), params={"confirmed": CONFIRMED})
    half = small().fit(X[150:], GIVEN[150:], confirmed=CONFIRMED[150:])
    expected = half.noise_scores(X[:150], GIVEN[:150])
    np.testing.assert_allclose(scores[:150], expected, atol=1e-12)


def test_folds_may_lack_a_class_of_the_confirmed_labels():
    labels, known = GIVEN.copy(), CONFIRMED.copy()
    labels[0] = known[1] = known[200] = 9
    params = {"confirmed": known}
    scores = cross_val_noise_scores(small(), X, labels, cv=KFold(2), params=params)
    assert np.isfinite(scores).all()
    options = {"cv": KFold(2), "error_score": "raise"}
    search = GridSearchCV(small(), {"dropout": [0.15]}, **options).fit(X, labels, **params)
    assert np.isfinite(search.best_score_)


@pytest.mark.parametrize("n_rows", [40, 300])
def test_label_confirmed_as_given_in_a_row_of_no_weight_changes_nothing(n_rows):
    weight, known = np.ones(n_rows), np.full(n_rows, None)
    weight[0], known[0] = 0, GIVEN[0]
    plain, confirmed = (
        small().fit(X[:n_rows], GIVEN[:n_rows], weight, confirmed=labels)
        for labels in (None, known)
    )
    np.testing.assert_allclose(confirmed.predict_proba(X), plain.predict_proba(X), atol=1e-4)
    precisions = [clf.noise_estimate_["label_precision"] for clf in (confirmed, plain)]
    np.testing.assert_allclose(*precisions, rtol=1e-5)


def test_noise_report_names_no_row_whose_label_is_confirmed():
    few = np.where(np.arange(300) < 297, TRUE, None)
    report = small().fit(X, GIVEN, confirmed=few).noise_report()
    [first] = [line for line in report.splitlines() if line.startswith("Rows to look at first")]
    assert {int(row) for row in first.rstrip(".").split(":")[1].split(",")} <= {297, 298, 299}
    assert "Rows to look at" not in small().fit(X, GIVEN, confirmed=TRUE).noise_report()
