"""How rows without a label come to one."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import softmax

from sklearn_clidmu.estimator import filling
from sklearn_clidmu.estimator.filling import fill_in, spread
from sklearn_clidmu.estimator.preparation import prepare
from sklearn_clidmu.mathematics.noise_matrix import BELIEVED_BOUNDS

from .data import make_rows

N_CLASSES = 3


def make_guesses(n, seed=0):
    return np.random.RandomState(seed).dirichlet(np.ones(N_CLASSES), size=n)


def closeness(distances):
    """Dense: from every row to its ten nearest, the others 0; Gaussian, 1/e at the farthest."""
    n_neighbors = min(10, np.isfinite(distances).sum(axis=1).min())
    near = np.zeros_like(distances)
    for row, away in zip(near, distances, strict=True):
        nearest = np.argsort(away)[:n_neighbors]
        row[nearest] = np.exp(-np.square(away[nearest] / away[nearest].max()))
    return near


def symmetric_graph(X):
    """D^(-1/2) W D^(-1/2), W the larger of both rows' closeness."""
    distances = cdist(X, X)
    np.fill_diagonal(distances, np.inf)
    near = closeness(distances)
    near = np.maximum(near, near.T)
    degree = near.sum(axis=1)
    return near / np.sqrt(np.outer(degree, degree))


def spread_by_hand(X, guesses, n_steps=50, share=0.8):
    graph, heard = symmetric_graph(X), guesses
    for _ in range(n_steps):
        heard = share * graph @ heard + (1 - share) * guesses
    return heard / heard.sum(axis=1, keepdims=True)


# Spreading


@pytest.mark.parametrize("n_features", [1, 3])
@pytest.mark.parametrize("n", [5, 11, 40])
def test_spreading_is_that_of_the_dense_symmetric_graph(n, n_features):
    X, guesses = np.random.RandomState(1).normal(size=(n, n_features)), make_guesses(n)
    found = spread(X, guesses, seed=0)
    np.testing.assert_allclose(found, spread_by_hand(X, guesses), rtol=1e-9)
    assert np.abs(found - guesses).max() > 0.1


def test_spreading_has_come_to_its_limit():
    X, guesses = np.random.RandomState(1).normal(size=(40, 3)), make_guesses(40)
    limit = 0.2 * np.linalg.solve(np.eye(40) - 0.8 * symmetric_graph(X), guesses)
    limit /= limit.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(spread(X, guesses, seed=0), limit, atol=0.8**50)


def test_two_rows_hear_of_each_other_by_four_ninths():
    guesses = make_guesses(2)
    found = spread(np.array([[0.0, 1.0], [3.0, 5.0]]), guesses, seed=0)
    np.testing.assert_allclose(found, (5 * guesses + 4 * guesses[::-1]) / 9, atol=0.8**50)


@pytest.mark.parametrize("n_bank", [25, 10_000])
def test_rows_add_up_to_one_and_leave_their_guesses_as_they_were(n_bank, monkeypatch):
    monkeypatch.setattr(filling, "N_BANK", n_bank)
    X, guesses = np.random.RandomState(2).normal(size=(60, 4)), make_guesses(60)
    X.flags.writeable = guesses.flags.writeable = False
    found = spread(X, guesses, seed=0)
    assert found.shape == guesses.shape
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("n_bank", [25, 10_000])
def test_guesses_that_all_agree_stay(n_bank, monkeypatch):
    monkeypatch.setattr(filling, "N_BANK", n_bank)
    X, guesses = np.random.RandomState(2).normal(size=(60, 4)), np.tile([0.7, 0.1, 0.2], (60, 1))
    np.testing.assert_allclose(spread(X, guesses, seed=0), guesses, rtol=1e-12)


def test_rows_outside_the_bank_hear_of_their_neighbors_in_it(monkeypatch):
    monkeypatch.setattr(filling, "N_BANK", 30)
    X, guesses = np.random.RandomState(3).normal(size=(50, 3)), make_guesses(50)
    found = spread(X, guesses, seed=7)
    order = np.random.RandomState(7).permutation(50)
    bank, rest = order[:30], order[30:]
    expected = np.empty_like(guesses)
    expected[bank] = spread_by_hand(X[bank], guesses[bank])
    near = closeness(cdist(X[rest], X[bank]))
    mean = near @ expected[bank] / near.sum(axis=1, keepdims=True)
    expected[rest] = 0.8 * mean + 0.2 * guesses[rest]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_another_seed_draws_another_bank(monkeypatch):
    monkeypatch.setattr(filling, "N_BANK", 30)
    X, guesses = np.random.RandomState(3).normal(size=(50, 3)), make_guesses(50)
    first, again, other = (spread(X, guesses, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_neighbors_are_those_along_the_largest_principal_components():
    rng = np.random.RandomState(4)
    X, guesses = rng.normal(size=(60, 5)), make_guesses(60)
    turn = np.linalg.qr(rng.normal(size=(50, 50)))[0][:5]
    np.testing.assert_allclose(
        spread(X @ turn, guesses, seed=0), spread(X, guesses, seed=0), rtol=1e-8
    )
    wide = rng.normal(size=(60, 50)) * np.r_[np.ones(filling.N_COMPONENTS), np.full(18, 1e-9)]
    np.testing.assert_allclose(
        spread(wide, guesses, seed=0),
        spread_by_hand(wide[:, : filling.N_COMPONENTS], guesses),
        rtol=1e-6,
    )


@pytest.mark.parametrize("n_copies", [2, 4, 15])
def test_equal_rows_are_neighbors_like_others(n_copies):
    X = np.repeat(np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 7.0]]), n_copies, axis=0)
    guesses = make_guesses(len(X))
    found = spread(X, guesses, seed=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    if n_copies > 11:  # then nobody hears of another point's rows
        for rows in np.arange(len(X)).reshape(3, n_copies):
            surer = make_guesses(len(X))
            surer[np.delete(np.arange(len(X)), rows)] = [1.0, 0.0, 0.0]
            np.testing.assert_allclose(spread(X, surer, seed=0)[rows], found[rows], rtol=1e-9)


@pytest.mark.parametrize("shape", [(2, 1), (2, 3), (20, 2)])
def test_rows_that_are_all_equal_raise_no_warning(shape):
    found = spread(np.ones(shape), make_guesses(shape[0]), seed=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_a_class_on_which_the_neighbors_agree_wins():
    X = np.random.RandomState(5).normal(size=(20, 2)) + 10 * (np.arange(20) % 2)[:, None]
    guesses = np.eye(3)[np.arange(20) % 2] * 0.8 + 0.2 / 3
    guesses[4] = [0.3, 0.4, 0.3]
    found = spread(X, guesses, seed=0)
    np.testing.assert_array_equal(found.argmax(axis=1), np.arange(20) % 2)


# Filling


class Outputs:
    """Stands for a net: logits that depend on the row alone, in two parts."""

    def __init__(self, seed=0):
        self.direction = np.random.RandomState(seed).normal(size=(4, N_CLASSES))

    def logits(self, X):
        return np.asarray(X, dtype=float) @ self.direction

    def outputs(self, X):
        for rows in X.split(len(X) // 2 + 1):
            yield torch.tensor(self.logits(rows)), None


def prepared(share=0.5, weight=None, held_out=(), **settings):
    X, y, _ = make_rows(60, n_classes=N_CLASSES)
    codes = np.where(np.random.RandomState(0).uniform(size=60) < share, -1, y)
    torch.manual_seed(0)
    return prepare(
        X,
        codes,
        np.ones(60) if weight is None else weight,
        held_out=np.array(held_out, dtype=int),
        n_classes=N_CLASSES,
        device=torch.device("cpu"),
        **{"evidence": True, "batch_size": 16, "dtype": "float64", **settings},
    )


@pytest.fixture(autouse=True)
def reproducible():
    """Every test from the same seed, without a trace in the global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def agreed_by_hand(data):
    """Spread mean of judge and network, as arrays."""
    X, shares = data.everything.X.numpy(), data.unlabeled.shares.numpy().clip(0)
    judged = shares / shares.sum(axis=1, keepdims=True)
    guesses = (judged + softmax(Outputs().logits(X), axis=1)) / 2
    return spread_by_hand(X.astype(float), guesses)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_get_the_class_that_judge_network_and_neighbors_agree_on(dtype):
    data = prepared(dtype=dtype)
    rows = data.unlabeled.rows.numpy()
    filled = fill_in(data, Outputs())
    targets = filled.everything.labels.targets.numpy()
    expected = agreed_by_hand(data).argmax(axis=1)
    np.testing.assert_array_equal(targets[rows], expected[rows])
    assert len(set(targets[rows])) > 1
    judged = data.unlabeled.shares.argmax(dim=1).numpy()[rows]
    network = Outputs().logits(data.everything.X).argmax(axis=1)[rows]
    assert (targets[rows] != judged).any()
    assert (targets[rows] != network).any()


def test_labels_that_were_given_stay():
    data = prepared()
    given = np.delete(np.arange(60), data.unlabeled.rows)
    filled = fill_in(data, Outputs())
    before, after = (part.everything.labels.targets[given] for part in (data, filled))
    assert len(given) > 20
    assert torch.equal(before, after)
    assert torch.equal(filled.everything.X, data.everything.X)


def test_a_class_is_believed_as_far_as_its_labels_are_on_average():
    weight = np.random.RandomState(1).uniform(0.5, 2, 60)
    data = prepared(weight=weight)
    filled = fill_in(data, Outputs())
    targets, rows = filled.everything.labels.targets.numpy(), data.unlabeled.rows.numpy()
    right = data.noise.believed.numpy()[targets]
    right[rows] = agreed_by_hand(data)[rows].max(axis=1)
    expected = [
        np.average(right[targets == k], weights=weight[targets == k]) for k in range(N_CLASSES)
    ]
    np.testing.assert_allclose(filled.noise.believed, np.clip(expected, *BELIEVED_BOUNDS))
    assert (filled.noise.believed - data.noise.believed).abs().max() > 0.01
    for name in ("matrix", "rate", "asymmetry"):
        assert torch.equal(getattr(filled.noise, name), getattr(data.noise, name))


def test_without_an_estimate_of_noise_there_is_none_afterwards():
    data = prepared(evidence=False)
    filled = fill_in(data, Outputs())
    assert data.noise is filled.noise is None
    assert (filled.everything.labels.targets[data.unlabeled.rows] > 0).any()


@pytest.mark.parametrize("evidence", [True, False])
def test_the_ledger_begins_anew_with_the_rivals_of_the_new_labels(evidence):
    data = prepared(evidence=evidence)
    data.ledger.record_losses(data.training.labels, torch.ones(len(data.training)).double())
    filled = fill_in(data, Outputs())
    shares = data.unlabeled.shares.numpy()
    targets = filled.everything.labels.targets.numpy()
    given = shares[np.arange(60), targets]
    others = np.where(np.eye(N_CLASSES, dtype=bool)[targets], -np.inf, shares)
    np.testing.assert_allclose(filled.ledger.rivalry, others.max(axis=1) - given)
    for entries in (*filled.ledger.copy_entries(), filled.ledger.distrust):
        assert entries.eq(0).all()


def test_all_rows_that_weigh_are_trained_on_but_those_held_out():
    weight = np.random.RandomState(1).uniform(0.5, 2, 60)
    weight[::7] = 0
    given = np.setdiff1d(np.flatnonzero(weight), prepared(weight=weight).unlabeled.rows)
    data = prepared(weight=weight, held_out=given[:4])
    filled = fill_in(data, Outputs())
    trained = np.setdiff1d(np.flatnonzero(weight), given[:4])
    for table in (filled.training, filled.meta):
        np.testing.assert_array_equal(table.labels.rows, trained)
        assert torch.equal(table.X, data.everything.X[trained])
        assert torch.equal(table.labels.targets, filled.everything.labels.targets[trained])
    expected = np.where(np.isin(np.arange(60), trained), weight, 0)
    np.testing.assert_array_equal(filled.ledger.sample_weight, expected)
    assert filled.held_out is data.held_out
    assert not filled.fits_one_batch


def test_a_meta_batch_is_drawn_from_the_rows_without_a_label_too():
    weight = np.ones(60)
    weight[::7] = 0
    data = prepared(weight=weight)
    assert len(data.training) < (weight > 0).sum()
    np.testing.assert_array_equal(data.meta.labels.rows, np.flatnonzero(weight))
    labeled = prepared(share=0, weight=weight)
    assert labeled.meta is labeled.training
    assert labeled.unlabeled is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_prepared_is_left_as_it_was(dtype):
    data = prepared(dtype=dtype)

    def contents():
        tables = [table for table in (data.everything, data.training, data.meta) if table]
        tensors = [part for table in tables for part in (table.X, *table.labels)]
        ledger = [data.ledger.sample_weight, data.ledger.rivalry, *data.ledger.copy_entries()]
        return [part.clone() for part in [*tensors, *data.unlabeled, *ledger, *data.noise]]

    before = contents()
    filled = fill_in(data, Outputs())
    after = contents()
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert filled.everything.X.dtype == filled.noise.believed.dtype == data.everything.X.dtype
    assert filled.ledger.rivalry.dtype == data.everything.X.dtype


def test_filling_draws_nothing_from_the_global_generators():
    data = prepared()
    state = torch.get_rng_state()
    of_numpy = np.random.get_state()[1].copy()  # noqa: NPY002
    fill_in(data, Outputs())
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], of_numpy)  # noqa: NPY002
