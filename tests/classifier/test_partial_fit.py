"""Fits that continue the networks of earlier ones: warm_start and partial_fit."""

import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu._settings import WARMUP_STEPS

pytestmark = pytest.mark.usefixtures("coarse_kernel")

CLASSES = ["a", "b", "c"]
NAMES = ("sample_weights_", "noise_scores_", "suggested_labels_")


def make_rows(n_samples=300, seed=0, noise=0.3):
    rng = np.random.RandomState(seed)
    y = rng.randint(3, size=n_samples)
    X = rng.normal(size=(n_samples, 6)) + 3 * np.eye(3, 6)[y]
    wrong = rng.uniform(size=n_samples) < noise
    return X, np.array(CLASSES)[np.where(wrong, (y + 1) % 3, y)], wrong


def make(**params):
    return CLIDMUClassifier(
        **{"hidden_layer_sizes": (16, 8), "max_epochs": 3, "random_state": 0, **params}
    )


def parameters(clf):
    return [p.detach().clone() for p in clf.net_.module_.parameters()]


# partial_fit


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
def test_partial_fit_learns_what_fit_does(weighting):
    X, y, wrong = make_rows(900)
    X_new, y_new, _ = make_rows(300, seed=1, noise=0)
    clf = make(weighting=weighting)
    for _ in range(8):
        for rows in np.arange(900).reshape(3, 300):
            clf.partial_fit(X[rows], y[rows], classes=CLASSES)
    assert clf.score(X_new, y_new) > 0.9
    assert roc_auc_score(wrong, clf.noise_scores(X, y)) > 0.95
    assert clf.n_iter_ == 24


def test_partial_fit_appends_the_rows_of_every_call():
    parts = [make_rows(150, seed) for seed in range(3)]
    clf = make()
    seen = {name: [] for name in NAMES}
    for X, y, _ in parts:
        clf.partial_fit(X, y, classes=CLASSES)
        for name in NAMES:
            seen[name].append(getattr(clf, name)[-150:])
            np.testing.assert_array_equal(getattr(clf, name), np.concatenate(seen[name]))
        assert seen["sample_weights_"][-1].mean() == pytest.approx(1)
    assert clf._joint.sum() == 450
    assert clf.noise_rate_ == pytest.approx(
        np.mean(np.concatenate([w for *_, w in parts])), abs=0.1
    )
    assert "450 labels in 3 classes" in clf.noise_report()
    assert clf.n_iter_ == 3
    np.testing.assert_array_equal(clf.history_["stage"], [1, 2, 3])
    assert [(s["n_rows"], s["n_epochs"], s["predicts"]) for s in clf.stages_] == [
        (150, 1, False),
        (150, 1, False),
        (150, 1, True),
    ]
    np.testing.assert_array_equal(clf.history_["chosen"], [False, False, True])


def test_partial_fit_warms_up_for_as_many_steps_as_fit():
    X, y, _ = make_rows(200)
    clf, found = make(weighting="vri"), []
    for _ in range(13):
        clf.partial_fit(X, y, classes=CLASSES)
        found.append(float(clf.weight_net_.mean.weight.detach()[0, 0]))
    assert clf.net_.n_steps_ == 13 * 8
    n_warm = -(-WARMUP_STEPS["vri"] // 8)
    assert len(set(found[:n_warm])) == 1
    assert len(set(found[n_warm - 1 :])) == 14 - n_warm


def test_partial_fit_counts_warm_up_epochs_in_calls():
    X, y, _ = make_rows(200)
    clf, found = make(warmup_epochs=2), []
    for _ in range(4):
        clf.partial_fit(X, y, classes=CLASSES)
        found.append(float(clf.weight_net_.output.weight.detach()[0, 0]))
    assert found[0] == found[1] != found[2] != found[3]


def test_partial_fit_continues_a_fit_and_a_pickled_model():
    X, y, _ = make_rows()
    fitted = make().fit(X, y)
    ways = [fitted, pickle.loads(pickle.dumps(fitted))]
    X_more, y_more, _ = make_rows(seed=1)
    for clf in ways:
        clf.partial_fit(X_more, y_more)
        assert len(clf.sample_weights_) == 600
        assert clf.n_iter_ == 4
        for name in NAMES:
            np.testing.assert_array_equal(getattr(clf, name), getattr(ways[0], name))


def test_partial_fit_takes_parts_without_some_classes_and_labels():
    X, y, _ = make_rows(noise=0)
    clf = make(missing_label="?")
    for part in (["a"], ["b", "c"], ["a", "b", "c"]):
        rows = np.isin(y, part)
        given = np.where(np.arange(rows.sum()) % 5, y[rows], "?")
        clf.partial_fit(X[rows], given, classes=CLASSES)
        assert (clf.sample_weights_[-len(given) :][given == "?"] == 0).all()
        np.testing.assert_array_equal(np.isnan(clf.noise_scores_[-len(given) :]), given == "?")
    assert clf.predict_proba(X).shape == (300, 3)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([{}], "classes must be passed"),
        ([{"classes": ["a"]}], "classes must have labels of at least two classes"),
        ([{"classes": ["a", "b"]}], "not among the classes"),
        (
            [{"classes": CLASSES}, {"classes": ["a", "b", "d"]}],
            "those of earlier calls",
        ),
        ([{"classes": CLASSES, "y": ["?"] * 30}], "y must have labels"),
    ],
)
def test_partial_fit_refuses_unfit_classes(calls, message):
    X, y, _ = make_rows(30)
    clf = make(missing_label="?")
    *fine, unfit = calls
    for call in fine:
        clf.partial_fit(X, **{"y": y, **call})
    with pytest.raises(ValueError, match=message):
        clf.partial_fit(X, **{"y": y, **unfit})


def test_partial_fit_takes_many_classes_without_a_warning():
    X = np.random.RandomState(0).normal(size=(120, 3))
    make(n_folds=None).partial_fit(X, np.arange(120) % 30, classes=np.arange(30))


def test_partial_fit_takes_class_weights_of_some_classes():
    X, y, _ = make_rows(noise=0)
    rows = y != "c"
    weighted, plain = make(class_weight={"c": 5.0}), make()
    for clf in (weighted, plain):
        clf.partial_fit(X[rows], y[rows], classes=CLASSES)
    np.testing.assert_array_equal(weighted.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize("params", [{"early_stopping": True}, {"class_weight": "balanced"}])
def test_partial_fit_refuses_what_needs_all_rows(params):
    X, y, _ = make_rows(30)
    with pytest.raises(ValueError, match=next(iter(params))):
        make(**params).partial_fit(X, y, classes=CLASSES)


def test_partial_fit_has_the_signature_of_scikit_learn():
    clf, theirs = make(), SGDClassifier()
    X, y, _ = make_rows(60)
    for estimator in (clf, theirs):
        estimator.partial_fit(X, y, CLASSES, np.ones(60))
        np.testing.assert_array_equal(estimator.classes_, CLASSES)


def test_partial_fit_leaves_no_trace_of_a_failed_call():
    X, y, _ = make_rows(60)
    clf = make()
    with pytest.raises(ValueError, match="infinity"):
        clf.partial_fit(np.full_like(X, np.inf), y, classes=CLASSES)
    with pytest.raises(NotFittedError):
        clf.predict(X)
    assert not hasattr(clf, "n_features_in_")
    clf.partial_fit(X, y, classes=CLASSES)
    before = dict(vars(clf))
    with pytest.raises(ValueError, match="features"):
        clf.partial_fit(X[:, :3], y)
    assert vars(clf) == before


# warm_start


def test_warm_start_begins_where_the_last_fit_ended():
    X, y, _ = make_rows()
    clf = make(lr=1e-12, meta_lr=1e-12).fit(X, y)
    before = parameters(clf)
    clf.set_params(warm_start=True).fit(X, y)
    for mine, its in zip(parameters(clf), before, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6)
    cold = make(lr=1e-12, random_state=1).fit(X, y)
    assert not torch.allclose(parameters(cold)[0], before[0], atol=1e-2)


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
def test_warm_start_is_one_stage_on_its_own_rows(weighting):
    X, y, _ = make_rows()
    clf = make(weighting=weighting, warm_start=True).fit(X, y)
    n_steps = clf.net_.n_steps_
    X_more, y_more, _ = make_rows(200, seed=1)
    clf.fit(X_more, y_more)
    assert set(clf.history_["stage"]) == {1}
    assert len(clf.sample_weights_) == len(clf.noise_scores_) == 200
    assert clf.net_.n_steps_ > n_steps


def test_warm_start_goes_on_learning():
    X, y, wrong = make_rows(600)
    clf = make(max_epochs=1, warm_start=True, weighting=None, lr=0.02)
    losses, found = [], []
    for _ in range(5):
        losses.append(clf.fit(X, y).history_["train_loss"][-1])
        found.append(roc_auc_score(wrong, clf.noise_scores_))
    assert losses[-1] < losses[0] - 0.1
    assert found[-1] > found[0] + 0.05


@pytest.mark.parametrize(
    ("params", "y_of", "message"),
    [
        ({"hidden_layer_sizes": (5,)}, lambda y: y, "hidden_layer_sizes or module"),
        ({}, lambda y: np.where(y == "a", "d", y), "warm_start=False"),
    ],
)
def test_warm_start_refuses_another_network_or_other_classes(params, y_of, message):
    X, y, _ = make_rows(60)
    clf = make(warm_start=True).fit(X, y)
    expected = clf.predict_proba(X)
    with pytest.raises(ValueError, match=message):
        clf.set_params(**params).fit(X, y_of(y))
    np.testing.assert_array_equal(clf.predict_proba(X), expected)


def test_partial_fit_takes_dense_and_sparse_parts_in_any_order():
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(80, 300)), np.array(CLASSES)[np.arange(80) % 3]
    parts = X, sparse.csr_array(X)
    for first, second in (parts, parts[::-1]):
        clf = make().partial_fit(first, y, classes=CLASSES).partial_fit(second, y)
        assert len(clf.noise_scores_) == 160


@pytest.mark.parametrize("n_first", [1, 100])
def test_partial_fit_learns_features_that_are_constant_in_the_first_part(n_first):
    rng = np.random.RandomState(0)
    codes = np.arange(700) % 3
    centers = np.diag([5.0, 5.0, 0.0])  # the first feature alone tells two classes apart
    X, y = rng.normal(size=(700, 3)) + centers[codes], np.array(CLASSES)[codes]
    X[:n_first, 0] = 7
    clf = make(max_epochs=24).partial_fit(X[:n_first], y[:n_first], classes=CLASSES)
    for rows in np.split(np.arange(100, 700), 3):
        clf.partial_fit(X[rows], y[rows])
    assert clf.score(X[100:], y[100:]) > 0.95
    X[:, 0] = rng.permutation(X[:, 0])
    assert clf.score(X[100:], y[100:]) < 0.9


def test_partial_fit_is_doubted_only_if_every_part_is():
    X, y, _ = make_rows(300)
    clf = make(max_epochs=24).partial_fit(X, y, classes=CLASSES)
    random = np.random.RandomState(0).permutation(y[:24])
    clf.partial_fit(np.random.RandomState(1).normal(size=(24, 6)), random)
    assert "cannot be relied on" not in clf.noise_report()
