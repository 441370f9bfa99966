"""What the classifier promises where some rows have no label."""

import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier, _classifier
from sklearn_clidmu._settings import N_SPREADINGS
from sklearn_clidmu.training.stages import run_stages

from .data import SMALL, make_rows

pytestmark = pytest.mark.usefixtures("coarse_kernel", "few_steps")

X, y_full, _ = make_rows(60, n_classes=3)
LABELED = np.random.RandomState(0).uniform(size=60) < 0.6
y = np.where(LABELED, y_full, -1)
USES = ["consistency", "ignore"]


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "missing_label": -1, **params})


def assert_equal_fits(first, second, rows=X, atol=0):
    np.testing.assert_allclose(
        first.predict_proba(rows), second.predict_proba(rows), rtol=0, atol=atol
    )
    for key in ("noise_scores_", "sample_weights_"):
        np.testing.assert_allclose(getattr(first, key), getattr(second, key), rtol=0, atol=atol)
    np.testing.assert_array_equal(first.classes_, second.classes_)


@pytest.fixture
def trainings(monkeypatch):
    """Data of every stage."""
    recorded = []

    def watched(*args):
        stages, *rest = run_stages(*args)
        recorded.extend(stage.data for stage in stages)
        return stages, *rest

    monkeypatch.setattr(_classifier, "run_stages", watched)
    return recorded


# What is found out about the rows


@pytest.mark.parametrize("unlabeled", USES)
@pytest.mark.parametrize(
    ("weighting", "n_folds", "batch_size"),
    [
        ("evidence", 3, 16),
        ("evidence", None, 16),
        ("evidence", 3, 64),
        ("wnet", 3, 64),
        ("vri", 3, 16),
        (None, 3, 64),
    ],
)
def test_unlabeled_rows_have_no_noise_score_and_no_weight(
    weighting, n_folds, unlabeled, batch_size
):
    clf = small(weighting=weighting, n_folds=n_folds, unlabeled=unlabeled, batch_size=batch_size)
    clf.fit(X, y)
    assert clf.noise_scores_.shape == clf.sample_weights_.shape == (60,)
    np.testing.assert_array_equal(np.isnan(clf.noise_scores_), ~LABELED)
    np.testing.assert_array_equal(clf.sample_weights_ == 0, ~LABELED)
    assert clf.sample_weights_[LABELED].mean() == pytest.approx(1)
    if weighting is None:
        assert (clf.sample_weights_[LABELED] == 1).all()
    else:
        assert clf.sample_weights_[LABELED].std() > 0
    assert ((clf.noise_scores_[LABELED] >= 0) & (clf.noise_scores_[LABELED] <= 1)).all()
    assert np.isfinite(clf.history_["train_loss"]).all()
    assert clf.history_["clid"].shape == clf.history_["train_loss"].shape
    assert clf.n_iter_ == 3
    assert clf.collapse_epoch_ is None
    assert (clf.weight_net_ is None) == (weighting is None)


@pytest.mark.parametrize("unlabeled", USES)
def test_noise_scores_find_wrong_labels_among_unlabeled_rows(unlabeled):
    rows, labels, _ = make_rows(120, n_classes=3, noise=0)
    rows = rows + 3 * np.eye(3, 4)[labels]
    given = np.where(np.arange(120) % 4 == 3, -1, labels)
    wrong = np.array([5, 50, 100])
    given[wrong] = (given[wrong] + 1) % 3
    clf = small(unlabeled=unlabeled, max_epochs=20, batch_size=32).fit(rows, given)
    order = np.argsort(-np.nan_to_num(clf.noise_scores_))
    assert set(order[:3]) == set(wrong)
    weights = np.where(given < 0, np.inf, clf.sample_weights_)
    assert set(wrong) <= set(np.argsort(weights)[:6])


@pytest.mark.parametrize("unlabeled", USES)
def test_missing_label_is_no_class_and_never_predicted(unlabeled):
    clf = small(unlabeled=unlabeled).fit(X, y)
    np.testing.assert_array_equal(clf.classes_, [0, 1, 2])
    assert clf.predict_proba(X).shape == (60, 3)
    assert set(clf.predict(np.r_[X, 100 * X, 0 * X])) <= {0, 1, 2}


# What rows without a label are used for


@pytest.mark.parametrize(
    ("weighting", "batch_size", "weighted"),
    [
        ("evidence", 16, False),
        ("evidence", 16, True),
        ("evidence", 64, True),
        ("vri", 64, False),
        (None, 16, True),
    ],
)
def test_ignored_rows_are_as_good_as_not_passed(weighting, batch_size, weighted):
    params = {"weighting": weighting, "batch_size": batch_size}
    weight = np.random.RandomState(1).uniform(0.5, 2, 60) if weighted else np.ones(60)
    weight[~LABELED] *= 5 if weighted else 1  # nor does what they weigh matter
    clf = small(unlabeled="ignore", **params).fit(X, y, weight)
    without = small(**params).fit(X[LABELED], y[LABELED], weight[LABELED])
    pairs = [
        (clf.predict_proba(X), without.predict_proba(X)),
        (clf.noise_scores_[LABELED], without.noise_scores_),
        (clf.sample_weights_[LABELED], without.sample_weights_),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("weighting", "batch_size"), [("evidence", 16), ("evidence", 64), ("vri", 16), (None, 64)]
)
def test_unlabeled_changes_nothing_where_all_rows_have_a_label(weighting, batch_size):
    params = {"weighting": weighting, "batch_size": batch_size}
    expected = small(missing_label=None, **params).fit(X, y_full)
    for unlabeled in USES:
        clf = small(unlabeled=unlabeled, **params).fit(X, y_full)
        assert_equal_fits(clf, expected)
        for name, curve in expected.history_.items():
            np.testing.assert_array_equal(clf.history_[name], curve)


def test_consistency_trains_on_labeled_rows_first_and_then_on_all(trainings):
    for unlabeled in USES:
        trainings.clear()
        small(unlabeled=unlabeled).fit(X, y)
        assert len(trainings) == 1 + N_SPREADINGS * (unlabeled == "consistency")
        first, *later = trainings
        np.testing.assert_array_equal(first.training.labels.rows, np.flatnonzero(LABELED))
        np.testing.assert_array_equal(first.training.labels.targets, y[LABELED])
        for data in later:
            np.testing.assert_array_equal(data.training.labels.rows, np.arange(60))
            np.testing.assert_array_equal(data.training.labels.targets[LABELED], y[LABELED])


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
def test_consistency_gives_pseudo_labels_with_every_weighting(weighting, trainings):
    clf = small(weighting=weighting, batch_size=16).fit(X, y)
    n_rows = [LABELED.sum()] + [60] * N_SPREADINGS
    assert [(s["weighting"], s["n_rows"]) for s in clf.stages_] == [(weighting, n) for n in n_rows]
    assert len(clf.history_["clid"]) == 3 * len(trainings)
    first, last = (data.table.labels.targets for data in (trainings[0], trainings[-1]))
    assert torch.equal(first[LABELED], last[LABELED])
    ignoring = small(weighting=weighting, batch_size=16, unlabeled="ignore").fit(X, y)
    assert np.abs(clf.predict_proba(X) - ignoring.predict_proba(X)).max() > 1e-3


def clusters(seed):
    """Rows far apart by class, and four labels of each, of which one is wrong."""
    rng = np.random.RandomState(seed)
    truth = np.arange(180) % 3
    rows = rng.normal(size=(180, 30)) + 1.2 * rng.normal(size=(3, 30))[truth]
    given = np.where(np.arange(180) < 12, truth, -1)
    given[:3] = [1, 2, 0]
    return rows, given, truth


@pytest.mark.parametrize("seed", [0, 2])
def test_consistency_improves_predictions_where_few_rows_have_a_label(seed):
    rows, given, truth = clusters(seed)
    consistent, ignoring = (
        small(max_epochs=8, unlabeled=unlabeled).fit(rows, given).score(rows, truth)
        for unlabeled in ("consistency", "ignore")
    )
    assert consistent > 0.97
    assert consistent > ignoring + 0.05


def test_consistency_keeps_float64_where_the_labeled_rows_fit_in_one_batch(trainings):
    few = np.where(np.arange(60) < 12, y_full, -1)
    clf = small(batch_size=16).fit(X, few)
    assert [len(data.training) for data in trainings] == [12, 60, 60]
    assert {p.dtype for p in clf.net_.module_.parameters()} == {torch.float64}
    assert np.isfinite(clf.predict_proba(X)).all()
    assert np.isfinite(clf.noise_scores_[:12]).all()


def test_collapsed_stage_on_pseudo_labels_does_not_predict():
    calls = []

    def objective(features, logits, targets, sample_weight):
        calls.append(len(logits))
        sick = len(targets) == 60  # rows with a label are fewer
        return (logits.softmax(dim=1) ** 2).sum() * (float("nan") if sick else 1.0)

    params = {"meta_objective": objective, "batch_size": 64, "warmup_epochs": 1}
    clf = small(**params).fit(X, y)  # and no ConvergenceWarning
    assert 60 in calls
    assert [stage["n_rows"] < 60 for stage in clf.stages_ if stage["predicts"]] == [True]


# Weights


def test_unlabeled_row_of_zero_weight_takes_no_part(trainings):
    weight = np.ones(60)
    out = np.flatnonzero(~LABELED)[::2]
    weight[out] = 0
    clf = small().fit(X, y, weight)
    for data in trainings:
        assert not np.isin(out, data.training.labels.rows).any()
    np.testing.assert_array_equal(data.training.labels.rows, np.flatnonzero(weight))
    assert np.isnan(clf.noise_scores_[out]).all()
    assert (clf.sample_weights_[out] == 0).all()


def test_unlabeled_rows_of_zero_weight_are_as_good_as_ignored():
    clf = small().fit(X, y, LABELED.astype(float))
    ignoring = small(unlabeled="ignore").fit(X, y)
    assert_equal_fits(clf, ignoring, atol=1e-9)


def test_rows_of_zero_weight_change_no_prediction():
    more = np.random.RandomState(1).normal(size=(40, X.shape[1]))
    weight = np.repeat([1.0, 0.0], [60, 40])
    clf = small().fit(np.vstack([X, more]), np.append(y, np.zeros(40, dtype=int)), weight)
    expected = small().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(clf.predict_proba(X), expected, rtol=0, atol=1e-9)


def test_labeled_rows_of_zero_weight_are_scored_but_not_trained_on(trainings):
    weight = np.ones(60)
    out = np.flatnonzero(LABELED)[::3]
    weight[out] = 0
    clf = small().fit(X, y, weight)
    for data in trainings:
        assert not np.isin(out, data.training.labels.rows).any()
    assert np.isfinite(clf.noise_scores_[out]).all()
    assert (clf.sample_weights_[out] > 0).all()


@pytest.mark.parametrize("kind", ["int", "object"])
@pytest.mark.parametrize("unlabeled", USES)
def test_balanced_class_weight_counts_labeled_rows_alone(unlabeled, kind):
    rare = np.where((y == 0) & (np.arange(60) % 2 == 0), -1, y)
    counts = np.bincount(rare[rare >= 0])
    assert len(set(counts)) > 1
    weight = np.ones(60)
    weight[rare >= 0] = (counts.sum() / 3 / counts)[rare[rare >= 0]]
    params = {"unlabeled": unlabeled}
    by_hand = small(**params).fit(X, rare, weight)
    labels, missing = rare, -1
    if kind == "object":
        labels, missing = np.where(rare < 0, None, rare.astype(object)), np.nan
    balanced = small(class_weight="balanced", missing_label=missing, **params).fit(X, labels)
    assert_equal_fits(balanced, by_hand, atol=1e-9)


# Early stopping


def test_early_stopping_holds_out_labeled_rows_alone(trainings):
    params = {"early_stopping": True, "validation_fraction": 0.25, "batch_size": 16}
    clf = small(**params).fit(X, y)
    n_held_out = int(np.ceil(0.25 * LABELED.sum()))
    for data in trainings:
        held_out = data.held_out.labels.rows.numpy()
        assert len(held_out) == n_held_out
        assert LABELED[held_out].all()
        np.testing.assert_array_equal(data.held_out.labels.targets, y[held_out])
        assert not np.isin(held_out, data.training.labels.rows).any()
    assert len(trainings[-1].training) == 60 - n_held_out
    assert np.isfinite(clf.noise_scores_[held_out]).all()
    assert (clf.sample_weights_[held_out] > 0).all()
    assert "valid_score" in clf.history_


# Among scikit-learn's tools


def test_clone_keeps_nan_as_the_missing_label():
    clf = clone(small(missing_label=np.nan))
    assert np.isnan(clf.missing_label)
    assert_equal_fits(clf.fit(X, np.where(y < 0, np.nan, y)), small().fit(X, y))


def test_unlabeled_can_be_searched_for():
    pipe = make_pipeline(StandardScaler(), small())
    search = GridSearchCV(
        pipe, {"clidmuclassifier__unlabeled": USES}, cv=[(np.arange(60), np.flatnonzero(LABELED))]
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_[-1]
    np.testing.assert_array_equal(np.isnan(best.noise_scores_), ~LABELED)


# What cannot be done


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(60, -1), "got none, and 60 rows without a label (missing_label=-1)"),
        (np.where(y == 1, 1, -1), f"got one class: 1, and {(y != 1).sum()} rows"),
    ],
)
def test_fit_refuses_unfit_labels(labels, message):
    clf = small()
    with pytest.raises(ValueError, match=re.escape(message)):
        clf.fit(X, labels)
    assert not hasattr(clf, "net_")
