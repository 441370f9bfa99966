"""Labels that are known to be right."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classifier.data import SMALL, make_rows
from sklearn_clidmu import CLIDMUClassifier, cross_val_noise_scores, find_label_issues

X, y, flipped = make_rows(300, n_classes=3, noise=0.3)
CONFIRMED = ~flipped & (np.arange(len(X)) % 2 == 0)
WEIGHTINGS = ["evidence", "wnet", "vri", None]


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "batch_size": 64, "n_folds": None, **params})


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_confirmed_labels_have_full_confidence_and_are_no_issues(weighting):
    odd = CONFIRMED | (flipped & (np.arange(len(X)) % 5 == 0))  # some that the network doubts
    clf = small(weighting=weighting).fit(X, y, confirmed=odd)
    np.testing.assert_array_equal(clf.noise_scores_[odd], 0)
    np.testing.assert_array_equal(clf.suggested_labels_[odd], y[odd])
    assert np.ptp(clf.sample_weights_[odd]) == 0
    assert clf.sample_weights_[odd][0] == clf.sample_weights_.max()
    assert not find_label_issues(clf).mask[odd].any()
    assert not find_label_issues(clf, threshold=0.01).mask[odd].any()
    assert find_label_issues(clf).mask.any()


def test_training_trusts_confirmed_labels():
    rng = np.random.RandomState(0)
    true = np.arange(300) % 3
    rows = rng.normal(size=(300, 4)) + 5 * np.eye(3, 4)[true]
    mixed = true == 0  # of these rows half are given label 1
    labels = np.where(mixed & (rng.uniform(size=300) < 0.5), 1, true)
    shares = []
    for confirmed in (None, mixed & (labels == 1)):
        clf = small(max_epochs=12, weight_decay=0.0075).fit(rows, labels, confirmed=confirmed)
        shares.append(clf.predict_proba(rows[mixed])[:, 1].mean())
    assert shares[1] > shares[0] + 0.05


def test_noise_rate_falls_by_what_is_confirmed():
    rates = [
        small(max_epochs=8).fit(X, y, confirmed=mask).noise_estimate_["noise_rate"]
        for mask in (None, np.ones(len(X), bool))
    ]
    assert rates[0] == pytest.approx(0.3, abs=0.05)
    assert rates[1] == 0


def test_no_confirmed_label_changes_nothing():
    plain, none = small().fit(X, y), small().fit(X, y, confirmed=np.zeros(len(X), dtype=bool))
    np.testing.assert_array_equal(plain.noise_scores_, none.noise_scores_)
    np.testing.assert_array_equal(plain.predict_proba(X), none.predict_proba(X))


@pytest.mark.parametrize("form", [list, pd.Series, lambda mask: pd.Series(mask, dtype="boolean")])
def test_confirmed_may_be_of_any_kind_of_mask(form):
    expected = small().fit(X, y, confirmed=CONFIRMED).noise_scores_
    np.testing.assert_array_equal(
        small().fit(X, y, confirmed=form(CONFIRMED)).noise_scores_, expected
    )


@pytest.mark.parametrize(
    ("confirmed", "message"),
    [
        (np.arange(3), "confirmed must be a mask, True for rows whose label is right, got int64"),
        (np.ones(7, bool), "Found inconsistent numbers of samples: X has 300, confirmed has 7"),
        (True, "confirmed must have one entry per row"),
        (
            np.ones(300, bool),
            "confirmed must be False for rows without a label, got True for row 4",
        ),
    ],
)
def test_fit_names_what_is_wrong_with_confirmed(confirmed, message):
    labels = np.where(np.arange(300) == 4, -1, y)
    with pytest.raises(ValueError, match=message):
        small(missing_label=-1, unlabeled="ignore").fit(X, labels, confirmed=confirmed)


def test_confirmed_goes_with_unlabeled_rows():
    labels = np.where(np.arange(300) % 3 == 1, -1, y)
    mask = CONFIRMED & (labels >= 0)
    clf = small(missing_label=-1).fit(X, labels, confirmed=mask)
    np.testing.assert_array_equal(clf.noise_scores_[mask], 0)
    np.testing.assert_array_equal(np.isnan(clf.noise_scores_), labels == -1)


# Through other estimators


def test_pipelines_and_searches_route_confirmed():
    direct = small().fit(StandardScaler().fit_transform(X), y, confirmed=CONFIRMED)
    named = make_pipeline(StandardScaler(), small())
    named.fit(X, y, clidmuclassifier__confirmed=CONFIRMED)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), small().set_fit_request(confirmed=True))
        search = GridSearchCV(pipe, {"clidmuclassifier__dropout": [0.15]}, cv=2)
        search.fit(X, y, confirmed=CONFIRMED)
    for found in (named[-1], search.best_estimator_[-1]):
        np.testing.assert_array_equal(found.noise_scores_, direct.noise_scores_)


def test_cross_val_noise_scores_cut_confirmed_to_each_fold():
    scores = cross_val_noise_scores(
        small(), X, y, cv=KFold(2), params={"confirmed": CONFIRMED.tolist()}
    )
    half = small().fit(X[150:], y[150:], confirmed=CONFIRMED[150:])
    np.testing.assert_allclose(scores[:150], half.noise_scores(X[:150], y[:150]), atol=1e-12)
