"""Which net trains when, what the second training starts from, and whose word counts."""

import gc
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score
from torch import Tensor

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator import learning, single_training
from sklearn_clidmu.estimator.building import count_joined
from sklearn_clidmu.estimator.learning import (
    AGREEMENT,
    ASYMMETRIC,
    CONTRADICTION,
    NEARLY_CLEAN,
    learn,
    passed_on,
    train,
)
from sklearn_clidmu.estimator.preparation import Prepared, prepare
from sklearn_clidmu.estimator.scoring import read_rows, row_suspicion
from sklearn_clidmu.estimator.single_training import run
from sklearn_clidmu.mathematics.evidence import DOUBT_BOUNDS
from sklearn_clidmu.mathematics.weighting import EvidenceWeightNet, LogitRectifier
from sklearn_clidmu.training.meta_step import MetaStep
from sklearn_clidmu.training.monitor import PATIENCE
from sklearn_clidmu.training.net import ReweightedNet

from .data import SMALL

NETS = {"vri": LogitRectifier, "evidence": EvidenceWeightNet}


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "batch_size": 32, "warmup_epochs": 1, **params})


def blobs(kind="pairs", rate=0.4, n_classes=4, n_rows=240):
    """Rows far apart by class, their labels, and a mask of the wrong ones."""
    rng = np.random.RandomState(0)
    true = np.arange(n_rows) % n_classes
    X = rng.normal(size=(n_rows, 4)) + 6 * np.eye(n_classes, 4)[true]
    step = 1 if kind == "pairs" else rng.randint(1, n_classes, n_rows)
    flipped = rng.uniform(size=n_rows) < rate
    return X, np.where(flipped, (true + step) % n_classes, true), flipped


def prepared(X, y, weight=None, held_out=(), evidence=True):
    return prepare(
        X,
        y,
        np.ones(len(X)) if weight is None else weight,
        held_out=np.array(held_out, dtype=int),
        n_classes=y.max() + 1,
        evidence=evidence,
        batch_size=32,
        dtype="float64",
        device=torch.device("cpu"),
    )


class Training(NamedTuple):
    """A training that was asked for, with its data as they were before it."""

    data: Prepared
    weighting: str | None
    evidence: Tensor
    n_visits: Tensor
    net: ReweightedNet
    curves: dict
    n_warmup: int | None


class Trainings(list):
    """All trainings, in order; ``marks`` are written over what came of a fit's first and second."""

    def __init__(self):
        super().__init__()
        self.marks = ({}, {})
        self.courses = []

    def run(self, params, data, weighting, course, start):
        self.courses.append(course)
        return run(params, data, weighting, course, start)

    def train(self, params, data, weighting, **kwargs):
        evidence, n_visits = data.ledger.evidence(), data.ledger.n_visits.clone()
        net = train(params, data, weighting, **kwargs)
        for name, value in self.marks[len(self) % 2].items():
            if name in net.history[-1]:
                net.history[-1][name] = value
            else:
                setattr(net, name, value)
        names = {"train_loss", "meta_loss", "clid"} & net.history[0].keys()
        curves = {name: net.history[:, name] for name in names}
        n_warmup = self.courses[-1].n_warmup
        self.append(Training(data, weighting, evidence, n_visits, net, curves, n_warmup))
        return net

    def order(self):
        return [training.weighting for training in self]


@pytest.fixture
def trainings(monkeypatch):
    recorded = Trainings()
    monkeypatch.setattr(learning, "train", recorded.train)
    monkeypatch.setattr(single_training, "run", recorded.run)
    return recorded


@pytest.fixture(autouse=True)
def reproducible():
    """Every test from the same seed, without a trace in the global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# Which net trains first


@pytest.mark.parametrize(
    ("kind", "rate", "n_classes", "first"),
    [
        ("pairs", 0.4, 4, "vri"),
        ("pairs", 0.3, 3, "vri"),
        ("symmetric", 0.4, 4, "evidence"),
        ("none", 0.0, 4, "vri"),
        ("none", 0.0, 2, "evidence"),
        ("pairs", 0.4, 2, "evidence"),
    ],
)
def test_vri_trains_first_on_flipped_pairs_and_on_clean_labels_of_many_classes(
    kind, rate, n_classes, first
):
    X, y, _ = blobs(kind, rate, n_classes)
    learned = learn(small(max_epochs=8, weight_decay=0.003), prepared(X, y))
    assert [type(net.weight_net_) for net in learned.nets] == [NETS[first], EvidenceWeightNet]
    assert learned.net is learned.nets[1]


@pytest.mark.parametrize(
    ("n_classes", "rate", "asymmetry", "first"),
    [
        (3, NEARLY_CLEAN - 0.01, 0.0, "vri"),
        (3, NEARLY_CLEAN + 0.01, 0.0, "evidence"),
        (3, 0.3, ASYMMETRIC - 0.01, "evidence"),
        (3, 0.3, ASYMMETRIC + 0.01, "vri"),
        (2, NEARLY_CLEAN - 0.01, 0.0, "evidence"),
    ],
)
def test_the_estimated_noise_decides_which_net_trains_first(
    n_classes, rate, asymmetry, first, trainings
):
    data = prepared(*blobs(n_classes=n_classes, n_rows=60)[:2])
    noise = data.noise._replace(rate=torch.tensor(rate), asymmetry=torch.tensor(asymmetry))
    learn(small(max_epochs=2), data._replace(noise=noise))
    assert trainings.order() == [first, "evidence"]


def test_a_trained_net_keeps_nothing_of_the_rows():
    X, y, _ = blobs()
    data = prepared(X, y)
    ledger = weakref.ref(data.ledger)
    net = train(small(), data, "evidence")
    del data
    gc.collect()
    assert ledger() is None
    assert len(net.history) == SMALL["max_epochs"]


@pytest.mark.parametrize(
    ("weighting", "refit"),
    [("evidence", False), ("wnet", True), ("vri", True), (None, True), (None, False)],
)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_there_is_one_training_without_refit_and_with_any_other_net(
    weighting, refit, rate, trainings
):
    X, y, _ = blobs(rate=rate)
    data = prepared(X, y, evidence=weighting == "evidence")
    learned = learn(small(weighting=weighting, refit=refit), data)
    assert trainings.order() == [weighting]
    assert trainings[0].data is data
    assert learned.nets == [learned.net] == [trainings[0].net]
    if weighting is None:
        np.testing.assert_array_equal(learned.trust, np.ones(len(X)))
    else:
        assert trainings[0].n_warmup == 1
        np.testing.assert_array_equal(learned.trust, read_rows(learned.net, data).trust)


# What the second training starts from


def agreed(trust, data):
    """Correlation of doubt and rivalry in each class, by NumPy."""
    y, weight = data.everything.labels.targets.numpy(), data.ledger.sample_weight.numpy()
    values = np.stack([-trust, data.ledger.rivalry.numpy()])
    covariances = [np.cov(values[:, y == k], aweights=weight[y == k]) for k in range(y.max() + 1)]
    return np.array([c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in covariances])


def written_out_distrust(trust, data):
    """Distrust that is passed on, class by class as far as there is agreement."""
    share = (agreed(trust, data) / AGREEMENT).clip(0, 1)
    return share[data.everything.labels.targets] * -logit(trust.clip(*DOUBT_BOUNDS))


def test_distrust_is_passed_on_class_by_class_as_far_as_all_other_rows_agree():
    X, y, _ = blobs("symmetric")
    weight = np.random.RandomState(0).randint(0, 3, len(X)).astype(float)
    data = prepared(X, y, weight, held_out=[1, 2, 3])
    rivalry, blind = data.ledger.rivalry.numpy(), np.random.RandomState(1).normal(size=len(X))
    # Believed in full, in part, not at all since it is the contrary, and hardly at all.
    doubt = np.choose(y, [rivalry, 0.3 * rivalry + blind, -rivalry, blind])
    trust = expit(-doubt)
    shares = agreed(trust, data) / AGREEMENT
    assert shares[0] > 1
    assert 0.1 < shares[1] < 0.9
    assert shares[2] < 0
    found = passed_on(torch.tensor(trust), data).numpy()
    np.testing.assert_allclose(found, written_out_distrust(trust, data), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[y == 0], doubt[y == 0])
    np.testing.assert_allclose(found[y == 1], shares[1] * doubt[y == 1])
    assert (found[y == 2] == 0).all()


@pytest.mark.parametrize(("kind", "first"), [("pairs", "vri"), ("symmetric", "evidence")])
def test_the_second_training_starts_from_the_distrust_that_is_passed_on_and_nothing_else(
    kind, first, trainings
):
    X, y, _ = blobs(kind)
    weight = np.random.RandomState(0).randint(0, 3, len(X)).astype(float)
    learn(small(), prepared(X, y, weight, held_out=[1, 2, 3]))
    earlier, later = trainings
    assert trainings.order() == [first, "evidence"]
    trust = read_rows(earlier.net, earlier.data).trust
    distrust = written_out_distrust(trust.numpy(), earlier.data)
    assert distrust.std() > 0.01
    np.testing.assert_allclose(later.evidence[:, 4], distrust, rtol=1e-9, atol=1e-12)
    neutral = torch.tensor([0, 0.5, 0.5], dtype=torch.float64).expand(len(X), 3)
    assert torch.equal(later.evidence[:, :3], neutral)
    assert later.n_visits.eq(0).all()
    assert torch.equal(later.evidence[:, 3], earlier.evidence[:, 3])
    assert earlier.evidence[:, 3].std() > 0.1
    assert torch.equal(later.data.ledger.sample_weight, earlier.data.ledger.sample_weight)
    assert later.data._replace(ledger=None) == earlier.data._replace(ledger=None)


@pytest.mark.parametrize("kind", ["pairs", "symmetric"])
def test_the_second_training_is_of_a_fresh_network_and_without_warm_up(kind, trainings):
    X, y, _ = blobs(kind)
    learn(small(max_epochs=6, warmup_epochs=4), prepared(X, y))
    earlier, later = trainings
    assert (earlier.n_warmup, later.n_warmup) == (4, 0)
    assert later.curves["train_loss"][0] > earlier.curves["train_loss"][-1] + 0.1
    assert np.isfinite(later.curves["meta_loss"]).all()


@pytest.mark.parametrize(("carry_on", "collapse_epoch"), [(True, None), (False, PATIENCE)])
def test_only_a_training_that_carries_on_may_start_by_predicting_one_class(
    carry_on, collapse_epoch
):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(60, 4)), np.repeat([0, 1, 2], [56, 2, 2])
    net = train(small(warmup_epochs=0), prepared(X, y), "evidence", carry_on)
    assert net.history[:, "n_predicted"] == [1] * PATIENCE
    assert min(net.history[:, "clid"]) >= 0
    assert net.collapse_epoch_ == collapse_epoch


@pytest.mark.parametrize("kind", ["pairs", "symmetric"])
def test_what_is_passed_on_counts_however_right_the_labels_are(kind, monkeypatch):
    X, y, flipped = blobs(kind)
    doubted = np.flatnonzero(~flipped)[::5]
    distrust = torch.full((len(X),), -4.0, dtype=torch.float64)
    distrust[doubted] = 4
    monkeypatch.setattr(learning, "passed_on", lambda trust, data: distrust)
    learned = learn(small(), prepared(X, y))
    assert learned.trust[doubted].max() < 0.5 * np.delete(learned.trust, doubted).min()


def test_on_clean_labels_the_second_training_starts_from_nothing(trainings):
    X, y, _ = blobs(rate=0, n_classes=3)
    learned = learn(small(max_epochs=8), prepared(X, y))
    earlier, later = trainings
    assert trainings.order() == ["vri", "evidence"]
    assert torch.equal(later.evidence, earlier.evidence)
    assert later.evidence[:, 4].eq(0).all()
    assert later.n_visits.eq(0).all()
    assert (earlier.n_warmup, later.n_warmup) == (1, 1)
    assert learned.net is later.net


@pytest.mark.parametrize("kind", ["pairs", "symmetric"])
def test_after_a_collapse_the_second_training_starts_from_nothing(kind, trainings):
    def objective(features, logits, targets, sample_weight):
        spread = (logits.softmax(dim=1) ** 2).sum()
        return spread if trainings else spread * float("nan")

    X, y, _ = blobs(kind)
    learned = learn(small(meta_objective=objective, meta_lr=0.05), prepared(X, y))
    earlier, later = trainings
    assert (earlier.net.collapse_epoch_, later.net.collapse_epoch_) == (2, None)
    assert torch.equal(later.evidence, earlier.evidence)
    assert later.evidence[:, 4].eq(0).all()
    assert (earlier.n_warmup, later.n_warmup) == (1, 1)
    assert learned.net is later.net
    assert learned.trust.std() > 1e-3


def test_after_a_divergence_the_second_training_starts_from_nothing(trainings):
    trainings.marks = ({"diverged_": True}, {})
    X, y, _ = blobs()
    learned = learn(small(), prepared(X, y))
    assert trainings[1].evidence[:, 4].eq(0).all()
    assert trainings[1].n_warmup == 1
    assert learned.net is trainings[1].net


# Whose word counts


def check_kept(learned, trainings, n_kept):
    """One training predicts, and its own trust and scores come with it."""
    kept, other = trainings[n_kept], trainings[1 - n_kept]
    assert learned.nets == [training.net for training in trainings]
    assert learned.net is kept.net
    if kept.net.collapse_epoch_ is None and not kept.net.diverged_:
        np.testing.assert_array_equal(learned.trust, read_rows(kept.net, kept.data).trust)
    else:
        np.testing.assert_array_equal(learned.trust, np.ones(len(learned.trust)))
    np.testing.assert_array_equal(learned.suspicion, row_suspicion(kept.net, kept.data))
    assert not np.allclose(learned.suspicion, row_suspicion(other.net, other.data))


CLEAN, NOISY = {"kind": "none", "rate": 0}, {"kind": "symmetric"}
COLLAPSED, DIVERGED = {"collapse_epoch_": 2}, {"diverged_": True}


@pytest.mark.parametrize(
    ("kind", "lead", "marks", "n_kept"),
    [
        ("none", CONTRADICTION + 0.01, {}, 0),
        ("none", CONTRADICTION - 0.01, {}, 1),
        ("none", -1.0, {}, 1),
        ("none", 1.0, COLLAPSED, 1),
        ("none", 1.0, DIVERGED, 1),
        ("pairs", 1.0, {}, 1),
    ],
)
def test_vri_predicts_only_if_it_contradicts_labels_that_look_clean(
    kind, lead, marks, n_kept, trainings
):
    trainings.marks = ({"clid": -0.5 - lead, **marks}, {"clid": -0.5})
    X, y, _ = blobs(kind, 0.4 if kind == "pairs" else 0.0)
    learned = learn(small(), prepared(X, y))
    assert trainings.order() == ["vri", "evidence"]
    check_kept(learned, trainings, n_kept)


@pytest.mark.parametrize("kind", ["pairs", "symmetric"])
def test_a_second_training_that_carries_on_predicts_whatever_its_clid(kind, trainings):
    trainings.marks = ({"n_predicted": 4, "clid": -0.5}, {"n_predicted": 3, "clid": 0.2})
    check_kept(learn(small(max_epochs=2), prepared(*blobs(kind)[:2])), trainings, 1)


@pytest.mark.parametrize("labels", [CLEAN, NOISY], ids=["clean", "noisy"])
@pytest.mark.parametrize(
    ("first", "second", "n_kept"),
    [({}, COLLAPSED, 0), ({}, DIVERGED, 0), (COLLAPSED, COLLAPSED, 1), (DIVERGED, DIVERGED, 1)],
)
def test_the_first_predicts_if_it_is_sound_and_the_second_is_not(
    labels, first, second, n_kept, trainings
):
    # Of lower CLID than the first, so that nothing else speaks against the second.
    trainings.marks = ({"clid": -0.5, **first}, {"clid": -1.0, **second})
    check_kept(learn(small(max_epochs=2), prepared(*blobs(**labels)[:2])), trainings, n_kept)


@pytest.mark.parametrize("kind", ["pairs", "symmetric"])
def test_a_collapse_of_the_second_training_alone_is_no_collapse_of_the_fit(kind, trainings):
    def objective(features, logits, targets, sample_weight):
        spread = (logits.softmax(dim=1) ** 2).sum()
        return spread * float("nan") if trainings else spread

    X, y, _ = blobs(kind)
    clf = small(meta_objective=objective).fit(X, y)  # and no ConvergenceWarning
    assert [training.net.collapse_epoch_ for training in trainings] == [None, 1]
    assert clf.net_ is trainings[0].net
    assert clf.collapse_epoch_ is None
    assert clf.sample_weights_.std() > 1e-3


@pytest.mark.parametrize(("lead", "n_kept"), [(1.0, 0), (0.0, 1)])
def test_the_net_that_predicts_gives_every_attribute_but_the_history(lead, n_kept, trainings):
    trainings.marks = ({"clid": -0.5 - lead}, {"clid": -0.5})
    X, y, _ = blobs(rate=0)
    clf = small().fit(X, y)
    kept = trainings[n_kept]
    assert clf.net_ is kept.net
    assert type(clf.weight_net_) is NETS[kept.weighting]
    trust = read_rows(kept.net, kept.data).trust.double().numpy()
    np.testing.assert_array_equal(clf.sample_weights_, trust / trust.mean())
    np.testing.assert_array_equal(clf.noise_scores_, row_suspicion(kept.net, kept.data))


# The course of training


@pytest.mark.parametrize(("lead", "n_kept"), [(1.0, 0), (0.0, 1)])
def test_the_history_is_that_of_both_trainings_and_n_iter_that_of_the_net_that_predicts(
    lead, n_kept, trainings
):
    trainings.marks = ({"clid": -0.5 - lead}, {"clid": -0.5})
    X, y, _ = blobs(rate=0)
    settings = {"max_epochs": 20, "early_stopping": True, "n_iter_no_change": 2}
    clf = small(**settings, random_state=1).fit(X, y)
    lengths = [len(training.curves["clid"]) for training in trainings]
    assert lengths[0] != lengths[1]
    assert clf.n_iter_ == lengths[n_kept]
    for name, curve in clf.history_.items():
        if name in trainings[0].curves:
            expected = trainings[0].curves[name] + trainings[1].curves[name]
            np.testing.assert_array_equal(curve, expected)
        assert len(curve) == sum(lengths)


def test_meta_steps_are_missing_from_the_history_in_the_warm_up_of_vri_alone():
    X, y, _ = blobs()
    clf = small(warmup_epochs=2).fit(X, y)
    no_meta_step = np.isnan(clf.history_["meta_loss"])
    np.testing.assert_array_equal(no_meta_step, [True, True, False] + 3 * [False])


# Classes that are small, or all alike


@pytest.mark.parametrize(
    ("n_rows", "minority", "rate", "seed"),
    [(100, 0.1, 0.3, 0), (100, 0.1, 0.4, 1), (200, 0.2, 0.4, 3)],
)
def test_a_small_class_among_much_noise_is_no_collapse(n_rows, minority, rate, seed):
    rng = np.random.default_rng(seed)
    true = (rng.random(n_rows) < minority).astype(int)
    X = rng.normal(size=(n_rows, 5)) + 2 * np.eye(2, 5)[true]
    y = np.where(rng.random(n_rows) < rate, 1 - true, true)
    clf = CLIDMUClassifier(random_state=seed).fit(X, y)
    assert clf.collapse_epoch_ is None  # and no ConvergenceWarning
    assert clf.sample_weights_.std() > 0.01
    assert set(clf.predict(X)) == {0, 1}


@pytest.mark.parametrize("seed", [1, 4])
def test_in_one_batch_weights_are_repetitions_even_where_rows_of_a_class_are_identical(
    seed, trainings
):
    rng = np.random.RandomState(seed)
    true = np.arange(45) % 3
    flipped = rng.uniform(size=45) < 0.3
    y = np.where(flipped, (true + rng.randint(1, 3, 45)) % 3, true)
    X = rng.normal(size=(45, 4)) + 3 * np.eye(3, 4)[true]
    X[y == 2] = X[y == 2][0]
    times = rng.randint(1, 4, 45)
    kept = np.repeat(np.arange(45), times)
    weighted = small(batch_size=len(kept)).fit(X, y, times.astype(float))
    repeated = small(batch_size=len(kept)).fit(X[kept], y[kept])
    # Of the identical rows, whose doubts differ by rounding alone, nothing is passed on.
    for training in trainings[1::2]:
        given, distrust = training.data.everything.labels.targets, training.evidence[:, 4]
        assert distrust[given == 2].abs().max() < 1e-9
        assert distrust[given != 2].std() > 0.1
    pairs = [
        (weighted.predict_proba(X), repeated.predict_proba(X)),
        (weighted.noise_scores_[kept], repeated.noise_scores_),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


# What flipped pairs come to


def test_flipped_pairs_are_found_and_do_not_change_what_is_predicted():
    X, y, flipped = blobs(n_rows=400)
    true = np.arange(400) % 4
    params = {"hidden_layer_sizes": (64, 32), "max_epochs": 20, "warmup_epochs": "auto"}
    clean, noisy = (small(**params).fit(X, labels) for labels in (true, y))
    assert noisy.score(X, true) == clean.score(X, true) == 1
    assert roc_auc_score(flipped, noisy.noise_scores_) > 0.95
    assert roc_auc_score(flipped, -noisy.sample_weights_) > 0.95


# Batches that are joined


@pytest.mark.parametrize(
    ("params", "n_joined"),
    [
        ({}, 8),
        ({"batch_size": 128}, 8),
        ({"batch_size": 256}, 4),
        ({"batch_size": 512}, 2),
        ({"batch_size": 2048}, 1),
        ({"batch_size": 16}, 1),  # for which meta batches are drawn
        ({"meta_batch_size": 100}, 1),
        ({"virtual_step": "full"}, 1),
        ({"weighting": "wnet"}, 1),
        ({"weighting": "vri"}, 1),
        ({"module": lambda d, n_classes: torch.nn.Linear(d, n_classes)}, 1),
    ],
)
def test_batches_are_joined_where_a_virtual_step_needs_no_further_pass(params, n_joined):
    params = {"weighting": "evidence", **params}
    clf = CLIDMUClassifier(**params)
    assert count_joined(clf, params["weighting"], drawn=False) == n_joined
    assert count_joined(clf, params["weighting"], drawn=True) == 1


@pytest.fixture
def meta_steps(monkeypatch):
    """Batches of a block, and the weighting net's learning rate, of each training."""
    seen = []
    on_train_begin = MetaStep.on_train_begin

    def watch(meta_step, net, **kwargs):
        on_train_begin(meta_step, net, **kwargs)
        seen.append((meta_step.block.n_batches, net.meta_optimizer_.param_groups[0]["lr"]))

    monkeypatch.setattr(MetaStep, "on_train_begin", watch)
    return seen


def test_a_step_for_many_batches_is_as_many_times_as_long(meta_steps):
    X, y, _ = blobs(n_rows=240)
    for params in ({"batch_size": 60}, {"batch_size": 20}, {"batch_size": 240}):
        small(refit=False, weighting="evidence", meta_lr=0.01, **params).fit(X, y)
    # Of a table in one batch every batch is the same; of few rows, meta batches are drawn.
    assert meta_steps == [(8, pytest.approx(0.08)), (1, 0.01), (1, 0.01)]
