"""Absurd data and settings: sound results and a warning, or an error that names the cause."""

import warnings

import numpy as np
import pytest
from classifier.data import make_rows
from classifier.own_checks import assert_sound
from sklearn.exceptions import ConvergenceWarning

from sklearn_clidmu import CLIDMUClassifier

rng = np.random.RandomState(0)
X, y, _ = make_rows()

WEIGHTINGS = ["evidence", "wnet", "vri", None]
IN_BATCHES, WHOLE = {"batch_size": 16}, {"batch_size": 64}


def fit(rows, labels, weighting, **params):
    """Fit quickly; return the classifier and the messages of its warnings of convergence."""
    quick = {"hidden_layer_sizes": (6, 5), "max_epochs": 2, "warmup_epochs": 1, "n_folds": None}
    clf = CLIDMUClassifier(weighting=weighting, random_state=0, **{**quick, **params})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", ConvergenceWarning)
        clf.fit(rows, labels)
    return clf, [str(warning.message) for warning in caught]


def with_column(values):
    return np.column_stack([X, np.broadcast_to(values, len(X))])


HARD = {
    "constant column": (with_column(7.0), y, IN_BATCHES),
    "all columns constant": (np.ones((40, 4)), y, IN_BATCHES),
    "zeros alone": (np.zeros((40, 4)), y, WHOLE),
    "tiny features": (1e-30 * X, y, IN_BATCHES),
    "subnormal features": (1e-310 * X, y, WHOLE),
    "huge features in float64": (1e30 * X, y, WHOLE),
    "duplicated rows with both labels": (np.repeat(X[:20], 2, axis=0), np.tile([0, 1], 20), WHOLE),
    "one row of 1000 in the second class": (
        rng.normal(size=(1000, 4)),
        (np.arange(1000) == 3).astype(int),
        {"batch_size": 250, "max_epochs": 1, "warmup_epochs": 0},
    ),
    "noise alone": (rng.normal(size=(60, 4)), rng.randint(3, size=60), IN_BATCHES),
    "more classes than rows in a batch": (
        rng.normal(size=(60, 4)),
        np.arange(60) % 20,
        {"batch_size": 8},
    ),
    "least temperature": (X, y, {"temperature": 1e-6, **IN_BATCHES}),
    "temperature of a million": (X, y, {"temperature": 1e6, **IN_BATCHES}),
    "least temperature, whole": (X, y, {"temperature": 1e-6, **WHOLE}),
    "one feature": (X[:, :1], y, IN_BATCHES),
    "100,000 features": (
        rng.normal(size=(12, 100_000)).astype(np.float32),
        y[:12],
        {"max_epochs": 1, "warmup_epochs": 0, **WHOLE},
    ),
    "two rows": (X[:2], [0, 1], WHOLE),
    "two rows, one at a time": (X[:2], [0, 1], {"batch_size": 1}),
    "three rows": (X[:3], [0, 1, 0], {"batch_size": 2}),
    "one row at a time": (X, y, {"batch_size": 1}),
    "learning rate of 1000": (X, y, {"lr": 1e3, "weight_decay": 0.0, **IN_BATCHES}),
    "nearly all units dropped": (X, y, {"dropout": 0.999999, **IN_BATCHES}),
}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("case", HARD)
def test_fit_is_sound_on_hard_data_and_settings(case, weighting):
    rows, labels, params = HARD[case]
    # Neighbours of what is in a case take the other step, so that both meet most of them.
    step = ("head", "full")[list(HARD).index(case) % 2]
    clf, messages = fit(rows, labels, weighting, virtual_step=step, **params)
    assert_sound(case, clf, rows)
    assert all("collapsed" in m for m in messages)  # of so few rows the weighting may
    assert (clf.collapse_epoch_ is not None) == bool(messages)


DIVERGING = {
    "learning rate of 1e10": (X, {"lr": 1e10, **IN_BATCHES}),
    "learning rate of 1e30 in float64": (X, {"lr": 1e30, **WHOLE}),
    "learning rate of 1e300": (X, {"lr": 1e300, **WHOLE}),
    "weight decay of 1e10": (X, {"weight_decay": 1e10, **IN_BATCHES}),
    "early stopping": (X, {"lr": 1e10, "early_stopping": True, **IN_BATCHES}),
    "features times 1e12": (1e12 * X, {"lr": 1e10, **IN_BATCHES}),
}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("case", DIVERGING)
def test_divergence_warns_and_ends_with_the_last_finite_network(case, weighting):
    rows, params = DIVERGING[case]
    clf, messages = fit(rows, y, weighting, max_epochs=3, **params)
    assert_sound(case, clf, rows)
    assert any("Training diverged in epoch" in m for m in messages)
    assert not clf.history_["chosen"].any()
    np.testing.assert_array_equal(clf.sample_weights_, np.ones(len(X)))


# The units of the evidence net saturate, and go on weighing the rows soundly, until they overflow.
RUNAWAY = {"evidence": 1e308, "wnet": 1e300, "vri": 1e30}


@pytest.mark.parametrize("weighting", RUNAWAY)
@pytest.mark.parametrize("virtual_step", ["head", "full"])
@pytest.mark.parametrize("batches", [IN_BATCHES, WHOLE], ids=["in batches", "whole"])
def test_weighting_that_overflows_collapses_with_a_warning(weighting, virtual_step, batches):
    meta_lr = RUNAWAY[weighting]
    clf, messages = fit(X, y, weighting, meta_lr=meta_lr, virtual_step=virtual_step, **batches)
    assert_sound(f"meta_lr={meta_lr}", clf, X)
    assert clf.collapse_epoch_ == 2
    assert len(messages) == 1
    assert "The weighting collapsed in epoch 2" in messages[0]
    np.testing.assert_array_equal(clf.sample_weights_, np.ones(len(X)))


@pytest.mark.parametrize(
    ("meta_lr", "batches"), [(1e17, IN_BATCHES), (1e17, WHOLE), (1e300, WHOLE)]
)
def test_evidence_net_that_saturates_gives_sound_weights(meta_lr, batches):
    clf, messages = fit(X, y, "evidence", meta_lr=meta_lr, **batches)
    assert_sound(f"meta_lr={meta_lr}", clf, X)
    assert not messages


@pytest.mark.parametrize(
    ("weighting", "meta_lr"),
    [("evidence", 1e308), ("wnet", 1e300), ("vri", 1e17), ("vri", 1e300)],
)
def test_collapse_leaves_a_sound_weighting_net(weighting, meta_lr):
    clf, messages = fit(X, y, weighting, meta_lr=meta_lr, **WHOLE)
    assert messages
    largest = max(p.detach().abs().max().item() for p in clf.weight_net_.parameters())
    assert largest < 1e3
    clf.set_params(meta_lr="auto").partial_fit(X, y)
    assert clf.collapse_epoch_ is None
    weights = clf.sample_weights_[len(X) :]
    assert np.isfinite(weights).all()
    assert weights.std() > 0


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("large", [slice(None), 3], ids=["all", "one"])
def test_fit_takes_rows_that_are_nearly_the_largest_number(large, weighting):
    rows = X.copy()
    rows[large] = 3e38
    clf, _ = fit(rows, y, weighting, hidden_layer_sizes=(64, 5), **IN_BATCHES)
    assert np.isfinite(clf.predict_proba(rows)).all()
