"""Labels that are known to be right."""

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
    np.testing.assert_array_equal(issues.given_labels[known], odd[known].astype(int))
    assert not issues.mask[known].any()
    assert issues.mask.any()
    assert not find_label_issues(clf, threshold=0.01).mask[known].any()


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
    np.testing.assert_allclose(
        again.noise_estimate_["transition_matrix"], clf.noise_estimate_["transition_matrix"]
    )


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
        (["ant"] * 7, "Found inconsistent numbers of samples: X has 300, confirmed has 7"),
        ("ant", "confirmed must have one entry per row"),
        (["fly"] * 300, "confirmed has labels that are not among the classes, for example 'fly'"),
        ([True] * 300, "confirmed has labels that are not among the classes, for example True"),
    ],
)
def test_fit_names_what_is_wrong_with_confirmed(confirmed, message):
    with pytest.raises(ValueError, match=message):
        small().fit(X, NAMES[GIVEN], confirmed=confirmed)


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
