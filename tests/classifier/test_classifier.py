"""What each parameter of the classifier does."""

import copy
import pickle
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from sklearn_clidmu import clid_loss
from sklearn_clidmu._settings import L2_PENALTIES, WEIGHT_DECAY

from .data import make_rows, small

pytestmark = pytest.mark.usefixtures("coarse_kernel", "few_steps")

X, y, _ = make_rows()
X_three, y_three, _ = make_rows(60, n_classes=3)


def assert_equal_fits(first, second):
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    for key in ("noise_scores_", "sample_weights_"):
        np.testing.assert_array_equal(getattr(first, key), getattr(second, key))


# Weights of classes and rows


@pytest.mark.parametrize(
    ("class_weight", "batch_size"),
    [(None, 16), ("balanced", 64), ("balanced", 16), ({0: 1, 1: 3}, 64), ({0: 0.5}, 16)],
)
def test_class_weight_equals_the_sample_weight_it_stands_for(class_weight, batch_size):
    rare = np.flatnonzero((y == 0) | (np.arange(len(y)) % 3 == 0))
    given = np.linspace(0.5, 2, len(rare))
    rows, labels = X[rare], y[rare]
    clf = small(batch_size=batch_size, max_epochs=6)
    factors = compute_sample_weight(class_weight, labels)
    if class_weight == "balanced":
        mass = np.bincount(labels, given)
        factors = (mass.mean() / mass)[labels]
    by_rows = copy.deepcopy(clf).fit(rows, labels, given * factors)
    by_class = clf.set_params(class_weight=class_weight).fit(rows, labels, given)
    assert_equal_fits(by_class, by_rows)


def test_class_weight_keys_are_class_labels():
    names = np.array(["no", "yes"])
    by_name = small(class_weight={"no": 1, "yes": 3}).fit(X, names[y])
    assert_equal_fits(by_name, small(class_weight={0: 1, 1: 3}).fit(X, y))


def test_fit_keeps_a_class_whose_rows_weigh_nothing():
    clf = small().fit(X_three, y_three, (y_three != 2).astype(float))
    assert list(clf.classes_) == [0, 1, 2]
    assert clf.predict_proba(X_three).shape == (len(X_three), 3)
    assert np.isfinite(clf.noise_scores_).all()


# Number type and device


@pytest.mark.parametrize("weighting", ["evidence", None])
def test_fit_learns_from_features_far_from_zero(weighting):
    rows, labels, _ = make_rows(300, n_classes=3)
    clf = small(weighting=weighting, batch_size=64, max_epochs=6)
    near = copy.deepcopy(clf).fit(rows, labels).score(rows, labels)
    for kind in (float, np.int64):
        far = np.round(rows * 1000).astype(kind) + 10**9
        assert copy.deepcopy(clf).fit(far, labels).score(far, labels) > near - 0.05
    rounded = clf.fit(far.astype(np.float32), labels)
    assert next(rounded.net_.module_.parameters()).dtype == torch.float32
    assert near > 0.7


@pytest.mark.parametrize(
    ("weighting", "batch_size", "expected"),
    [
        ("evidence", 64, torch.float64),
        ("evidence", 16, torch.float32),
        ("vri", 40, torch.float64),
        (None, 64, torch.float64),
        (None, 39, torch.float32),
    ],
)
def test_fit_trains_in_float64_where_all_rows_fit_in_one_batch(weighting, batch_size, expected):
    clf = small(batch_size=batch_size, weighting=weighting).fit(X, y)
    nets = [clf.net_.module_] + ([] if weighting is None else [clf.weight_net_])
    assert {p.dtype for net in nets for p in net.parameters()} == {expected}
    assert clf.predict_proba(X).dtype == clf.noise_scores_.dtype == np.float64


def test_device_is_the_one_used():
    clf = small(device="cpu").fit(X, y)
    assert clf.device_ == "cpu"
    assert {p.device.type for p in clf.net_.module_.parameters()} == {"cpu"}


# Networks of the caller's own


class Perceptron(nn.Module):
    def __init__(self, n_features, n_classes, width=6):
        super().__init__()
        self.hidden = nn.Linear(n_features, width)
        self.output = nn.Linear(width, n_classes)

    def forward(self, rows):
        return self.output(self.hidden(rows).relu())


class Pair(Perceptron):
    def forward(self, rows):
        features = self.hidden(rows).tanh()
        return self.output(features), features


class NormalizedPair(Perceptron):
    """No linear layer comes last: takes the full virtual step."""

    def forward(self, rows):
        features = self.hidden(rows).tanh()
        return self.output(features).log_softmax(dim=1), features


def build_convolution(n_features, n_classes):
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, n_features // 2)),
        nn.Conv2d(1, 3, 2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3 * (n_features // 2 - 1), n_classes),
    )


MODULES = {
    "class": Perceptron,
    "partial": partial(Perceptron, width=5),
    "convolution": build_convolution,
    "pair": Pair,
    "pair without linear output": NormalizedPair,
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("virtual_step", "weighting"), [("head", "evidence"), ("full", "vri"), ("full", "evidence")]
)
def test_module_is_trained_and_pickled(name, virtual_step, weighting):
    params = {"virtual_step": virtual_step, "weighting": weighting, "n_folds": None}
    clf = small(module=MODULES[name], batch_size=16, **params).fit(X, y)
    assert np.isfinite(clf.history_["train_loss"]).all()
    assert np.isfinite(clf.history_["meta_loss"][clf.max_epochs - 1])
    copied = pickle.loads(pickle.dumps(clf))
    assert_equal_fits(copied, clf)
    assert_equal_fits(copied.fit(X, y), clf)


def test_module_replaces_hidden_layers_and_dropout():
    first = small(module=Perceptron, hidden_layer_sizes=(3,), dropout=0.1).fit(X, y)
    assert_equal_fits(first, small(module=Perceptron, dropout=0.9).fit(X, y))


def test_hidden_layer_sizes_are_the_widths_of_the_network():
    clf = small(hidden_layer_sizes=[7, 5]).fit(X, y)
    network = clf.net_.module_
    linear = [layer[0] for layer in network.layers] + [network.head]
    inputs = 4 + 3 * 4  # of each continuous feature three periodic functions
    assert [(m.in_features, m.out_features) for m in linear] == [(inputs, 7), (7, 5), (5, 2)]


def test_hidden_layer_sizes_may_be_one_integer():
    assert_equal_fits(
        small(hidden_layer_sizes=9).fit(X, y), small(hidden_layer_sizes=(9,)).fit(X, y)
    )


# The meta objective and its schedule


@pytest.mark.parametrize(
    ("virtual_step", "batch_size", "meta_batch_size", "n_rows"),
    [
        ("head", 32, None, 20),
        ("full", 32, None, 20),
        ("head", 16, None, 32),
        ("full", 16, 10, 10),
        ("head", 16, 99, 40),
    ],
)
def test_meta_objective_is_called_with_the_meta_batch(
    virtual_step, batch_size, meta_batch_size, n_rows
):
    calls = []

    def objective(features, logits, targets, sample_weight):
        n = len(features)
        assert n == n_rows
        assert (features.shape, features.dtype) == ((n, 8), torch.float32)
        assert (logits.shape, logits.dtype) == ((n, 2), torch.float32)
        assert (targets.shape, targets.dtype) == ((n,), torch.int64)
        assert (sample_weight.shape, sample_weight.dtype) == ((n,), torch.float32)
        assert sample_weight.sum().item() == pytest.approx(256)
        calls.append(n)
        return (logits.softmax(dim=1) ** 2).sum()

    params = {"virtual_step": virtual_step, "meta_batch_size": meta_batch_size}
    clf = small(meta_objective=objective, batch_size=batch_size, **params).fit(X, y)
    assert calls
    assert clf.collapse_epoch_ is None


def test_temperature_is_by_default_that_of_the_authors():
    features, logits = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    assert clid_loss(features, logits) == clid_loss(features, logits, temperature=0.5)
    assert_equal_fits(*(small(**params).fit(X, y) for params in ({}, {"temperature": 0.5})))


@pytest.mark.parametrize(
    ("weighting", "meta_objective"),
    [("evidence", "clid"), ("wnet", "clid"), ("vri", "clid"), ("evidence", "mae"), ("vri", "mae")],
)
def test_fit_learns_the_weighting_net(weighting, meta_objective):
    def weight_net(meta_lr):
        params = {"weighting": weighting, "meta_objective": meta_objective, "meta_lr": meta_lr}
        return small(warmup_epochs=1, **params).fit(X, y).weight_net_

    initial = dict(weight_net(1e-12).named_parameters())
    for name, moved in weight_net(0.05).named_parameters():
        if (weighting, name) != ("evidence", "output.bias"):  # only differences of scores count
            assert (moved - initial[name]).abs().max() > 1e-3


@pytest.mark.parametrize(("weighting", "lr"), [("evidence", 3e-4), ("vri", 1e-3), ("wnet", 3e-4)])
def test_meta_lr_auto_is_the_documented_number(weighting, lr):
    assert_equal_fits(
        *(small(weighting=weighting, meta_lr=rate).fit(X, y) for rate in ("auto", lr))
    )


CHANGEABLE = {"batch_size": 16, "warmup_epochs": 1, "meta_lr": 0.01, "n_folds": None}


@cache
def probabilities_unchanged():
    return small(**CHANGEABLE).fit(X_three, y_three).predict_proba(X_three)


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.1},
        {"meta_batch_size": 5},
        {"meta_batch_size": 60},
        {"meta_lr": 0.1},
        {"lr": 0.1},
        {"weight_decay": 0.5},
        {"dropout": 0.0},
        {"virtual_step": "full"},
        {"warmup_epochs": 0},
        {"n_folds": 3},
        {"random_state": 1},
    ],
    ids=str,
)
def test_parameters_change_the_result(changed):
    probabilities = small(**{**CHANGEABLE, **changed}).fit(X_three, y_three).predict_proba(X_three)
    assert not np.array_equal(probabilities, probabilities_unchanged())


def test_weight_decay_auto_is_higher_for_noisy_labels():
    logs = {0.0: [], 0.4: []}
    for rate, seed in product(logs, range(4)):
        rng = np.random.RandomState(seed)
        rows, labels = rng.normal(size=(400, 8)), rng.randint(2, size=400)
        rows[:, 0] += 4 * labels
        labels[rng.uniform(size=400) < rate] ^= 1
        clf = small(weighting=None, batch_size=32, max_epochs=12).fit(rows, labels)
        assert clf.weight_decay_ in np.minimum(np.array(L2_PENALTIES) / 400, 1.2 / 0.05)
        logs[rate].append(np.log(clf.weight_decay_))
    assert np.mean(logs[0.4]) > np.mean(logs[0.0]) + np.log(2)
    fixed = small(weighting=None, batch_size=32, max_epochs=12, weight_decay=clf.weight_decay_)
    np.testing.assert_array_equal(
        fixed.fit(rows, labels).predict_proba(rows), clf.predict_proba(rows)
    )


def test_dropout_auto_falls_with_the_number_of_rows():
    rows, labels = np.tile(X, (125, 1))[:5000], np.tile(y, 125)[:5000]
    quick = {"weighting": None, "max_epochs": 1, "weight_decay": 0.01}
    assert small(**quick).fit(rows, labels).dropout_ == pytest.approx(600 / 5000)
    assert small(**quick).fit(rows[:200], labels[:200]).dropout_ == 0.15
    assert small(**quick, dropout=0.3).fit(rows, labels).dropout_ == 0.3


@pytest.mark.parametrize("params", [{"batch_size": 64}, {"batch_size": 16, "early_stopping": True}])
def test_weight_decay_auto_is_fixed_where_no_rows_are_held_out_for_it(params):
    assert small(**params).fit(X, y).weight_decay_ == WEIGHT_DECAY


@pytest.mark.parametrize(
    ("weighting", "batch_size"), [("evidence", 16), ("evidence", 64), ("wnet", 64), ("vri", 16)]
)
def test_warm_up_is_plain_training_with_every_weighting(weighting, batch_size):
    params = {"batch_size": batch_size, "warmup_epochs": 2, "n_folds": None}
    plain = small(weighting=None, **params).fit(X, y).history_
    clf = small(weighting=weighting, meta_batch_size=7, **params).fit(X, y)
    for key in ("train_loss", "clid", "disagreement"):
        np.testing.assert_array_equal(clf.history_[key][:2], plain[key][:2])
    assert clf.history_["train_loss"][2] != plain["train_loss"][2]


# Early stopping


def test_early_stopping_ends_early_and_scores_every_row():
    clf = small(early_stopping=True, max_epochs=60, batch_size=16).fit(X, y)
    assert clf.n_iter_ < clf.max_epochs
    assert {"valid_loss", "valid_score"} <= clf.history_.keys()
    score = clf.history_["valid_score"][-clf.n_iter_ :]
    assert clf.n_iter_ == score.argmax() + 1 + 5
    np.testing.assert_array_equal(np.flatnonzero(clf.history_["chosen"]), [score.argmax()])
    assert clf.noise_scores_.shape == clf.sample_weights_.shape == (len(X),)
    assert np.isfinite(clf.noise_scores_).all()


# So few rows teach the weighting nothing, and it may say so.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_samples", [2, 3, 5])
def test_early_stopping_takes_few_rows(n_samples):
    clf = small(early_stopping=True).fit(X[:n_samples], np.arange(n_samples) % 2)
    assert clf.noise_scores_.shape == (n_samples,)
    assert np.isfinite(clf.predict_proba(X)).all()


# The course of training


@pytest.mark.parametrize(
    ("weighting", "batch_size"), [("wnet", 16), ("vri", 16), (None, 16), ("evidence", 64)]
)
def test_n_folds_concerns_the_evidence_net_in_batches_alone(weighting, batch_size):
    params = {"weighting": weighting, "batch_size": batch_size}
    assert_equal_fits(*(small(n_folds=n, **params).fit(X, y) for n in (None, 5)))


def test_n_folds_concerns_no_partial_fit():
    parts = [small(batch_size=16, n_folds=n).partial_fit(X, y, classes=[0, 1]) for n in (None, 5)]
    assert_equal_fits(*parts)


def test_history_numbers_stages_and_marks_the_epoch_that_predicts():
    history = small().fit(X, y).history_
    np.testing.assert_array_equal(history["stage"], [1, 1, 1])
    np.testing.assert_array_equal(history["chosen"], [0, 0, 1])
    labels = np.where(np.arange(len(y)) % 4 == 3, -1, y)
    history = small(missing_label=-1).fit(X, labels).history_
    np.testing.assert_array_equal(history["stage"], [1, 1, 1, 2, 2, 2, 3, 3, 3])
    np.testing.assert_array_equal(history["chosen"], [0, 0, 0, 0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize("verbose", [0, False])
def test_verbose_zero_prints_nothing(verbose, capfd):
    small(verbose=verbose).fit(X, y)
    assert capfd.readouterr() == ("", "")


def test_verbose_is_silent_without_standard_error(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    small(verbose=1).fit(X, y)


@pytest.mark.parametrize("verbose", [1, True, 2])
def test_verbose_shows_bars_on_standard_error_alone(verbose, capfd):
    small(verbose=verbose, weight_decay="auto", batch_size=16).fit(X, y)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Weight decay 1/6" in err
    assert "Folds 5/5: 100%" in err
    assert "Training 1/1: 100%" in err
    assert "3/3" in err
