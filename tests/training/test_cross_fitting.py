"""Networks that predict rows they have not seen, and the weight decay that they choose."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from clid.helpers import N_CLASSES
from scipy import sparse
from skorch.callbacks import Callback

from sklearn_clidmu._settings import L2_PENALTIES
from sklearn_clidmu.training import cross_fitting
from sklearn_clidmu.training.cross_fitting import (
    EpochSum,
    choose_l2_penalty,
    cross_fit,
    draw_folds,
    train_briefly,
)
from sklearn_clidmu.training.data import SparseRows, Table
from sklearn_clidmu.training.prior import weigh_features
from sklearn_clidmu.training.stages import run_stages

from .helpers import Diary, blobs, prepare, vector

NAN = float("nan")
N_EPOCHS = 4
"""A third of twelve."""


def setting(**params):
    return prepare(**{"max_epochs": 12, **params})


def left_out_weight(**more):
    """Rows of zero weight and rows held out for early stopping, beside some without a label."""
    weight = np.linspace(0.5, 1.5, 90)
    weight[[3, 40, 80]] = 0  # the last of which has no label
    return {"n_unlabeled": 30, "weight": weight, "held_out": [10, 20], **more}


# Folds


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "n_folds"), [(90, 5), (91, 3), (7, 5), (3, 5), (1000, 2)])
def test_draw_folds_spreads_every_class_evenly(n, n_folds, seed):
    codes = np.random.RandomState(seed).choice(4, size=n, p=[0.6, 0.3, 0.09, 0.01])
    folds = draw_folds(codes, n_folds, seed)
    assert folds.shape == (n,)
    assert set(folds) <= set(range(n_folds))
    for rows in (codes >= 0, *(codes == k for k in range(4))):
        counts = np.bincount(folds[rows], minlength=n_folds)
        assert counts.max() - counts.min() <= 1


def test_draw_folds_depends_on_the_seed_alone():
    codes = np.arange(60) % 3
    np.testing.assert_array_equal(draw_folds(codes, 5, 7), draw_folds(codes, 5, 7))
    assert (draw_folds(codes, 5, 7) != draw_folds(codes, 5, 8)).any()


def test_draw_folds_does_not_follow_the_order_of_the_rows():
    folds = draw_folds(np.zeros(1000, dtype=int), 2, 0)
    assert 400 < (folds[1:] != folds[:-1]).sum() < 600


# Short trainings


def test_train_briefly_is_plain_training_for_a_third_of_the_epochs():
    settings, data = setting()
    weighed = weigh_features(settings, data)
    found = train_briefly(settings, weighed, weighed.training)
    assert len(found.history) == N_EPOCHS
    plain, _ = setting(weighting=None, max_epochs=N_EPOCHS)
    [stage], _, _ = run_stages(plain, data, None)
    assert torch.equal(vector(found.module_), vector(stage.net.module_))
    assert torch.equal(vector(found.evaluated_module), vector(stage.net.evaluated_module))
    assert not hasattr(found, "weight_net_")


@pytest.mark.parametrize(("n_epochs", "expected"), [(1, 1), (2, 1), (3, 1), (6, 2), (24, 8)])
def test_train_briefly_takes_a_third_of_the_epochs_and_one_at_least(n_epochs, expected):
    settings, data = setting(max_epochs=n_epochs, warmup_epochs=0)
    assert len(train_briefly(settings, data, data.training).history) == expected


def test_train_briefly_is_no_longer_where_early_stopping_may_take_many_epochs():
    settings, data = setting(max_epochs=300, held_out=[10, 20])
    assert len(train_briefly(settings, data, data.training).history) == 8


def test_train_briefly_starts_from_the_same_parameters_and_leaves_the_generator():
    settings, data = setting()
    state = torch.get_rng_state()
    diaries = [Diary(), Diary()]
    for fold, diary in enumerate(diaries):
        part = data.training.take(torch.arange(fold, 90, 2))
        train_briefly(settings, data, part, [("diary", diary)])
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.initial_seed() == 0
    first, second = (vector(diary.initial) for diary in diaries)
    assert torch.equal(first, second)
    assert not torch.equal(vector(diaries[0].epochs[-1]), vector(diaries[1].epochs[-1]))


def test_train_briefly_counts_a_row_as_its_sample_weight_says():
    weight = np.ones(90)
    weight[:9] = 1e-9  # the wrong labels
    settings, data = setting(weight=weight)
    _, codes = blobs()
    right = np.where(np.arange(90) < 9, (codes - 1) % N_CLASSES, codes)
    _, clean = setting(rows=(blobs()[0], right), weight=weight)
    found, expected = (
        vector(train_briefly(settings, part, part.training).module_) for part in (data, clean)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Averages(Callback):
    """Keeps the network that predicts as it is after every epoch."""

    def __init__(self):
        self.modules = []

    def on_epoch_end(self, net, **kwargs):
        self.modules.append(deepcopy(net.evaluated_module).eval())


def summed(settings, data, table, rows, watched=None):
    """Sums over the epochs of a short training on a table, for some rows of another, by EpochSum.

    Returns them for all rows.
    """
    watched = data.table if watched is None else watched
    total = torch.zeros(len(watched), N_CLASSES, dtype=torch.float64)
    record = EpochSum(watched, torch.as_tensor(rows), total)
    train_briefly(settings, data, table, [("sum", record)])
    return total


@pytest.mark.parametrize("chunk", [7, 8192])
def test_epoch_sum_adds_the_probabilities_of_all_epochs_to_the_total(chunk, monkeypatch):
    monkeypatch.setattr(cross_fitting, "CHUNK", chunk)
    settings, data = setting()
    rows = torch.tensor([80, 3, 4, 50, 51, 52, 53, 0, 89, 20])
    total = torch.rand(90, N_CLASSES, dtype=torch.float64)
    before, averages = total.clone(), Averages()
    record = EpochSum(data.table, rows, total)
    train_briefly(settings, data, data.training, [("sum", record), ("averages", averages)])
    assert len(averages.modules) == N_EPOCHS
    expected = before.clone()
    for module in averages.modules:
        with torch.no_grad():
            expected[rows] += module(data.table.X[rows])[0].double().softmax(dim=1)
    torch.testing.assert_close(total, expected)
    others = torch.ones(90, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(total[others], before[others])


def test_epoch_sum_takes_what_is_not_finite_for_nothing():
    settings, data = setting()
    X = data.table.X.clone()
    X[5] = torch.nan  # unlike gaps, those of a net without a scaler
    table = Table(X, data.table.targets, data.table.sample_weight)
    total = summed(
        settings, data._replace(scaler=None), data.training, torch.arange(90), watched=table
    )
    assert total.isfinite().all()
    assert (total[5] == 0).all()
    torch.testing.assert_close(total[6].sum().item(), float(N_EPOCHS))


# Cross-fitting


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_cross_fit_predicts_each_row_by_the_network_that_has_not_seen_its_fold(n_folds):
    settings, data = setting(n_folds=n_folds)
    rows, proba = cross_fit(settings, data)
    assert torch.equal(rows, torch.arange(90))
    folds = draw_folds(data.table.targets.numpy(), n_folds, 0)
    for fold in range(n_folds):
        kept, left_out = (
            torch.from_numpy(np.flatnonzero(part)) for part in (folds != fold, folds == fold)
        )
        expected = summed(settings, data, data.training.take(kept), left_out)[left_out]
        torch.testing.assert_close(proba[left_out], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(proba.sum(dim=1), torch.full((90,), 4.0, dtype=torch.float64))


def test_cross_fit_finds_wrong_labels_of_distant_blobs():
    settings, data = setting(max_epochs=24)
    _, proba = cross_fit(settings, data)
    true = torch.arange(90) % N_CLASSES
    assert (proba.argmax(dim=1) == true).double().mean() > 0.95


def test_cross_fit_predicts_every_row_with_a_label_and_no_other():
    settings, data = setting(**left_out_weight())
    rows, proba = cross_fit(settings, data)
    labeled = torch.arange(60)
    assert set(labeled.tolist()) <= set(rows.tolist())
    assert data.labeled[rows].all()
    assert proba.shape == (len(rows), N_CLASSES)
    never_trained = torch.tensor([3, 10, 20, 40])
    expected = torch.full((len(rows),), 4.0, dtype=torch.float64)
    expected[torch.isin(rows, never_trained)] *= settings.n_folds  # by all networks
    known = rows < 60
    torch.testing.assert_close(proba.sum(dim=1)[known], expected[known])


@pytest.mark.parametrize("row", [3, 10])
def test_cross_fit_predicts_rows_that_are_not_trained_on_by_all_networks(row):
    settings, data = setting(**left_out_weight())
    _, proba = cross_fit(settings, data)
    trained = data.training.labels
    folds = draw_folds(trained.targets.numpy(), settings.n_folds, 0)
    expected = torch.zeros(N_CLASSES, dtype=torch.float64)
    for fold in range(settings.n_folds):
        kept = torch.from_numpy(np.flatnonzero(folds != fold))
        expected += summed(settings, data, data.training.take(kept), [row])[row]
    torch.testing.assert_close(proba[row], expected)


@pytest.mark.parametrize("row", [0, 44, 89])
def test_cross_fit_predicts_a_row_without_its_own_label(row, monkeypatch):
    X, codes = blobs()
    folds = draw_folds(codes, 3, 0)
    monkeypatch.setattr(cross_fitting, "draw_folds", lambda *_: folds)  # which know the labels
    changed = codes.copy()
    changed[row] = (changed[row] + 1) % N_CLASSES
    before, after = (cross_fit(*setting(rows=(X, given)))[1] for given in (codes, changed))
    same = folds == folds[row]
    assert torch.equal(before[same], after[same])
    assert (before[~same] != after[~same]).any(dim=1).all()


@pytest.mark.parametrize("row", [3, 10])
def test_cross_fit_does_not_see_labels_of_rows_that_are_not_trained_on(row):
    X, codes = blobs()
    changed = codes.copy()
    changed[row] = (changed[row] + 1) % N_CLASSES
    params = {**left_out_weight(), "n_unlabeled": 0}
    before, after = (
        cross_fit(*setting(rows=(X, given), **params))[1] for given in (codes, changed)
    )
    assert torch.equal(before, after)


def test_cross_fit_leaves_the_generator_and_the_data_as_they_were():
    settings, data = setting(**left_out_weight())
    state = torch.get_rng_state()
    X, labels = data.training.X.clone(), data.training.labels
    rows, proba = cross_fit(settings, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.initial_seed() == 0
    assert torch.equal(data.training.X, X)
    assert all(map(torch.equal, data.training.labels, labels))
    again = cross_fit(settings, data)
    assert torch.equal(again[0], rows)
    assert torch.equal(again[1], proba)


def test_cross_fit_of_sparse_rows_is_that_of_dense_ones():
    X, codes = blobs()
    X[X < 0.5] = 0
    settings, dense = setting(rows=(X, codes))
    _, thin = setting(rows=(sparse.csr_array(X), codes))
    assert isinstance(thin.training.X, SparseRows)
    (_, found), (_, expected) = (
        cross_fit(settings, data._replace(scaler=None)) for data in (thin, dense)
    )
    torch.testing.assert_close(found, expected)


def test_cross_fit_may_have_as_many_folds_as_rows():
    X, codes = blobs(n=6, n_wrong=0)
    settings, data = setting(rows=(X, codes), batch_size=2, n_folds=6)
    rows, proba = cross_fit(settings, data)
    assert torch.equal(rows, torch.arange(6))
    torch.testing.assert_close(proba.sum(dim=1), torch.full((6,), 4.0, dtype=torch.float64))


# The choice of the L2 penalty


class Pretender:
    """In the place of a network: gives the label of each known row a certain probability."""

    def __init__(self, share, table):
        self.share = share
        self.known = dict(zip(map(tuple, table.X.tolist()), table.targets.tolist(), strict=True))

    def evaluate(self, X):
        proba = torch.full((len(X), N_CLASSES), (1 - self.share) / (N_CLASSES - 1))
        for row, x in enumerate(X.tolist()):
            proba[row, self.known[tuple(x)]] = self.share
        return proba.log(), None


def pretend(monkeypatch, shares, data):
    """Let networks of each penalty give right labels so much; return those tried."""
    tried = []

    def short(settings, data_of_it, table, callbacks):
        tried.append(settings.l2_penalty)
        return Pretender(shares[L2_PENALTIES.index(settings.l2_penalty)], data.table)

    monkeypatch.setattr(cross_fitting, "train_briefly", short)
    return tried


@pytest.mark.parametrize(
    ("shares", "expected", "n_tried"),
    [
        ((0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 5, 5),
        ((0.9, 0.8, 0.7, 0.6, 0.5, 0.4), 0, 4),
        ((0.5, 0.6, 0.9, 0.6, 0.5, 0.4), 2, 3),
        ((0.5, 0.6, 0.7, 0.9, 0.8, 0.7), 3, 4),
        ((0.5, 0.9, 0.7, 0.6, 0.8, 0.9), 1, 4),
        ((0.9, 0.5, 0.7, 0.8, 0.6, 0.9), 3, 4),  # not beyond a rise
        ((0.5, 0.9, 0.7, 0.8, 0.6, 0.9), 1, 4),  # to the better of two
        ((0.6, 0.6, 0.6, 0.6, 0.6, 0.6), 2, 3),
        ((0.5, 0.9, 0.6, NAN, NAN, NAN), 1, 4),  # not to a network that diverges
        ((NAN, NAN, 0.6, 0.9, NAN, NAN), 3, 4),
        ((NAN, NAN, 0.1, NAN, NAN, NAN), 2, 3),  # which is worse than a bad guess
    ],
)
def test_choose_l2_penalty_climbs_down_from_the_middle(shares, expected, n_tried, monkeypatch):
    settings, data = setting(weight_decay="auto")
    tried = pretend(monkeypatch, shares, data)
    assert choose_l2_penalty(settings, data) == L2_PENALTIES[expected]
    assert len(tried) == len(set(tried)) == n_tried
    assert all(abs(L2_PENALTIES.index(penalty) - 2) <= 1 for penalty in tried[:2])


def flip(codes, rate, rng):
    """Give some rows the label of another class, of any one with the same probability."""
    wrong = rng.uniform(size=len(codes)) < rate
    return np.where(wrong, (codes + rng.randint(1, N_CLASSES, size=len(codes))) % N_CLASSES, codes)


def chequered(rng, n=900):
    """Clean labels of 9 squares: the less weight decay, the more of them can be learned."""
    X = rng.uniform(-1, 1, size=(n, 2))
    codes = np.floor((X + 1) * 1.5).astype(int).sum(axis=1) % N_CLASSES
    return X.astype(np.float32), codes


def crowded(rng, n=300, width=30, rate=0.2):
    """Few features among many of noise, and wrong labels: weight decay helps."""
    codes = rng.randint(N_CLASSES, size=n)
    X = rng.normal(size=(n, width)) + 2 * np.eye(N_CLASSES, width)[codes]
    return X.astype(np.float32), flip(codes, rate, rng)


def unexplained(rng, n=300):
    """Labels that nothing explains: no weight decay is better than another."""
    return np.ones((n, 4), dtype=np.float32), rng.randint(N_CLASSES, size=n)


def long_setting(rows, **params):
    large = {"max_epochs": 60, "warmup_epochs": 0, "hidden_layer_sizes": (32,), "dropout": 0.0}
    return prepare(rows=rows, weight_decay="auto", **{**large, **params})


@pytest.mark.parametrize("seed", range(2))
def test_choose_l2_penalty_goes_down_where_clean_labels_are_hard_to_learn(seed):
    torch.manual_seed(seed)
    rows = chequered(np.random.RandomState(seed))
    settings, data = long_setting(rows)
    assert choose_l2_penalty(settings, data) == L2_PENALTIES[0]


@pytest.mark.parametrize("seed", range(2))
def test_choose_l2_penalty_goes_up_where_noise_is_easily_memorized(seed):
    torch.manual_seed(seed)
    rows = crowded(np.random.RandomState(seed), n=2000, width=200, rate=0.3)
    settings, data = long_setting(rows, batch_size=64)
    assert choose_l2_penalty(settings, data) > L2_PENALTIES[2]


class Trial:
    """What the networks of a choice were trained on, and how they predict the rows left out."""

    def __init__(self, settings, data):
        self.data = data
        self.trained = {}

        def watched(settings, data, table, callbacks):
            net = train_briefly(settings, data, table)
            self.trained[L2_PENALTIES.index(settings.l2_penalty)] = table, net
            return net

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cross_fitting, "train_briefly", watched)
            self.chosen = L2_PENALTIES.index(choose_l2_penalty(settings, data))
        self.tables = [table for table, _ in self.trained.values()]
        held_out = ~torch.isin(data.training.labels.rows, self.tables[0].labels.rows)
        self.held_out = held_out.nonzero()[:, 0]
        self.weight = data.training.sample_weight[held_out].double().numpy()
        self.losses = {k: self._losses(net) for k, (_, net) in self.trained.items()}

    def _losses(self, net):
        labels = self.data.training.targets[self.held_out].long().numpy()
        logits, _ = net.evaluate(self.data.training.X[self.held_out])
        proba = logits.double().softmax(dim=1)
        return np.square(proba.numpy() - np.eye(N_CLASSES)[labels]).sum(axis=1)

    def score(self, number):
        return np.average(self.losses[number], weights=self.weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", [chequered, crowded, unexplained])
def test_choose_l2_penalty_steps_where_the_loss_falls(make, weighted):
    rng = np.random.RandomState(1)  # by which the weights change a choice
    X, codes = make(rng, n=300)
    torch.manual_seed(1)
    weight = rng.uniform(0.2, 3, 300) if weighted else None
    trial = Trial(*long_setting((X, codes), weight=weight, max_epochs=24))
    number, path = 2, [1, -1]
    while path:
        step = path.pop(0)
        if not 0 <= number + step < len(L2_PENALTIES):
            continue
        if trial.score(number + step) < trial.score(number):
            number, path = number + step, [step]
    assert trial.chosen == number


def test_choose_l2_penalty_trains_on_the_rows_that_are_trained_on():
    weight = np.linspace(0.5, 1.5, 90)
    for table in Trial(*setting(weight_decay="auto", **left_out_weight())).tables:
        rows = table.labels.rows.numpy()
        assert len(set(rows) & {3, 10, 20, 40}) == 0
        np.testing.assert_allclose(table.sample_weight.numpy(), weight[rows], rtol=1e-5)


def test_choose_l2_penalty_reads_a_bounded_number_of_rows(monkeypatch):
    monkeypatch.setattr(cross_fitting, "CHOICE_ROWS", 50)
    trial = Trial(*setting(weight_decay="auto"))
    assert {len(table) for table in trial.tables} == {40}


def test_choose_l2_penalty_leaves_the_generator_and_the_data_as_they_were():
    settings, data = setting(weight_decay="auto", **left_out_weight())
    torch.manual_seed(2**40 + 5)
    state = torch.get_rng_state()
    X, labels = data.training.X.clone(), data.training.labels
    found = choose_l2_penalty(settings, data)
    assert found in L2_PENALTIES
    assert settings.l2_penalty is None
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.initial_seed() == 2**40 + 5
    assert torch.equal(data.training.X, X)
    assert all(map(torch.equal, data.training.labels, labels))
    assert choose_l2_penalty(settings, data) == found


@pytest.mark.parametrize("weighting", ["evidence", None])
def test_training_after_the_choice_draws_what_training_without_it_draws(weighting):
    params = {"weighting": weighting, "n_folds": None}
    settings, data = setting(weight_decay="auto", **params)
    [stage], _, _ = run_stages(settings, data, None)
    decay = stage.net.optimizer__weight_decay
    torch.manual_seed(0)
    fixed = replace(settings, weight_decay=decay)
    [expected], _, _ = run_stages(fixed, data, None)
    assert torch.equal(vector(stage.net.module_), vector(expected.net.module_))
