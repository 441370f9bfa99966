"""Leave-one-out kernel regression of the labels: against refits, and what it promises."""

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

from sklearn_clidmu._settings import GAMMAS, N_FREQUENCIES, PENALTIES
from sklearn_clidmu.noise import loo_kernel_ridge
from sklearn_clidmu.noise.loo_kernel_ridge import (
    Kernel,
    dense_rows,
    draw_frequencies,
    loo_margin,
    loo_proba,
)

N_CLASSES = 3
KERNEL = Kernel(gamma=0.3, penalty=1.0)
FEW = 12


@pytest.fixture(autouse=True)
def few_frequencies(monkeypatch):
    """So few that fits take no time, in all tests that do not ask for more."""
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", FEW)


@pytest.fixture
def all_frequencies(monkeypatch, few_frequencies):
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", N_FREQUENCIES)


def take_one_candidate(monkeypatch, kernel=KERNEL):
    """Leave rows out, with a kernel that cannot depend on the labels."""
    monkeypatch.setattr(loo_kernel_ridge, "GAMMAS", (kernel.gamma,))
    monkeypatch.setattr(loo_kernel_ridge, "PENALTIES", (kernel.penalty,))


def blobs(n_rows, distance=2.0, n_columns=4):
    """Rows around one center per class, the classes in turn."""
    targets = torch.arange(n_rows) % N_CLASSES
    return torch.randn(n_rows, n_columns) + distance * torch.eye(n_columns)[targets], targets


def weighted_blobs(n_rows, distance=2.0):
    return *blobs(n_rows, distance), 2 * torch.rand(n_rows) + 0.2


def fit(X, targets, weight=None, seed=0, **params):
    weight = torch.ones(len(X)) if weight is None else weight
    generator = torch.Generator().manual_seed(seed)
    return loo_proba(X, targets, N_CLASSES, weight, generator, **params)


# Against refits by the normal equations


class Refit:
    """Rows and labels about their weighted means, and the frequencies of a seed."""

    def __init__(self, X, targets, weight, seed=0):
        self.weight, onehot = weight.numpy(), np.eye(N_CLASSES)[targets.numpy()]
        self.X = X.numpy() - np.average(X.numpy(), axis=0, weights=self.weight)
        self.variance = np.average(np.square(self.X).sum(axis=1), weights=self.weight)
        self.class_shares = np.average(onehot, axis=0, weights=self.weight)
        self.Y = onehot - self.class_shares
        generator = torch.Generator().manual_seed(seed)
        self.frequencies = draw_frequencies(X.shape[1], generator).numpy()

    def predict(self, kernel, every=1):
        """Predictions at each row, by a fit without it."""
        gamma, penalty = kernel
        angles = self.X @ self.frequencies[:, ::every] * np.sqrt(2 * gamma / self.variance)
        features = np.hstack([np.cos(angles), np.sin(angles), np.ones((len(self.X), 1))])
        features /= np.sqrt(angles.shape[1])
        found = []
        for i, row in enumerate(features):
            weighted = features.T * np.where(np.arange(len(features)) == i, 0, self.weight)
            gram = weighted @ features + penalty * np.eye(len(row))
            found.append(row @ np.linalg.solve(gram, weighted @ self.Y))
        return np.array(found)


@pytest.mark.usefixtures("all_frequencies")
@pytest.mark.parametrize("d", [1, 3, 100, 256, 400])
def test_frequencies_are_orthogonal_in_blocks_and_give_the_gaussian_kernel(d):
    frequencies = draw_frequencies(d, torch.Generator().manual_seed(0)).numpy()
    assert frequencies.shape == (d, N_FREQUENCIES)
    gram = frequencies[:, :d].T @ frequencies[:, :d]
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * d)
    rows = torch.randn(50, d, generator=torch.Generator().manual_seed(1)).numpy() / d**0.5
    angles = (rows[:, None] - rows) @ frequencies
    distances = np.square(rows[:, None] - rows).sum(axis=2)
    np.testing.assert_allclose(np.cos(angles).mean(axis=2), np.exp(-distances / 2), atol=0.2)
    error = np.cos(angles).mean(axis=2) - np.exp(-distances / 2)
    assert np.sqrt(np.square(error).mean()) < 0.04


@pytest.mark.parametrize(("distance", "seed"), [(2.0, 0), (0.7, 1), (8.0, 2)])
def test_loo_proba_is_that_of_the_best_candidate_found_by_refitting(distance, seed):
    data = weighted_blobs(24, distance)
    refit = Refit(*data, seed)

    def error(kernel):  # kernels are compared with half of the frequencies
        return refit.weight @ np.square(refit.Y - refit.predict(kernel, every=2)).sum(axis=1)

    best = min(itertools.product(GAMMAS, PENALTIES), key=error)
    expected = refit.predict(best) + refit.class_shares
    np.testing.assert_allclose(fit(*data, seed=seed).numpy(), expected, atol=1e-8)


CANDIDATES = [Kernel(0.1, 0.01), Kernel(0.3, 1.0), Kernel(3.0, 0.05), Kernel(2.0, 50.0)]


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_loo_proba_of_a_row_is_that_of_a_fit_without_it(candidate, monkeypatch):
    take_one_candidate(monkeypatch, candidate)
    data = weighted_blobs(24)
    refit = Refit(*data)
    expected = refit.predict(candidate) + refit.class_shares
    np.testing.assert_allclose(fit(*data).numpy(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("all_frequencies")
@pytest.mark.parametrize("gamma", [0.1, 3.0])
def test_loo_proba_is_by_a_gaussian_kernel_in_units_of_the_variance(gamma, monkeypatch):
    # Under a strong penalty a kernel regression is the sum of the kernels over the penalty.
    data, penalty = weighted_blobs(25), 1e8
    take_one_candidate(monkeypatch, Kernel(gamma, penalty))
    refit, n_seeds = Refit(*data), 8
    seeds = [fit(*data, seed).numpy() for seed in range(n_seeds)]
    found = penalty * (np.mean(seeds, axis=0) - refit.class_shares)
    weighted = refit.weight[:, None] * refit.Y
    of_others = rbf_kernel(refit.X, gamma=gamma / refit.variance) - np.eye(25)
    expected = of_others @ weighted
    # An approximate kernel is a mean of cosines, each of variance at most 1/2.
    error = np.sqrt(0.5 / (n_seeds * N_FREQUENCIES)) * np.linalg.norm(weighted, axis=0)
    assert (np.abs(found - expected) < 4 * error).all()
    assert (np.abs(expected).max(axis=0) > 10 * error).all()


@pytest.mark.parametrize(("n_rows", "n_columns"), [(1020, 4200), (2100, 4)])
def test_loo_proba_follows_a_permutation_of_rows_too_many_for_memory(
    n_rows, n_columns, monkeypatch
):
    take_one_candidate(monkeypatch)  # a choice may depend on the rows drawn for it
    (X, targets), weight = blobs(n_rows, n_columns=n_columns), torch.rand(n_rows) + 0.5
    order = torch.randperm(n_rows)
    permuted = fit(X[order], targets[order], weight[order])
    torch.testing.assert_close(permuted, fit(X, targets, weight)[order], rtol=0, atol=1e-9)


# What counts, and how much


@pytest.mark.parametrize("unit", [1.0, 0.3])
def test_loo_proba_counts_a_row_of_weight_s_as_s_rows_that_are_left_out_together(unit):
    (X, targets), times = blobs(40), torch.randint(1, 6, (40,))
    copies = X.repeat_interleave(times, dim=0), targets.repeat_interleave(times)
    weighted = fit(X, targets, unit * times.double(), row=unit)
    repeated = fit(*copies, first_copy=torch.arange(40).repeat_interleave(times))
    torch.testing.assert_close(weighted.repeat_interleave(times, dim=0), repeated)


def test_loo_proba_chooses_its_kernel_beside_rows_that_have_many_copies():
    X = torch.randn(2_500, 2, dtype=torch.float64)
    right = (X.prod(dim=1) > 0).long()
    wrong = torch.rand(2_500) < 0.1
    targets = right ^ wrong
    rows = torch.cat([torch.arange(2_500), torch.arange(20).repeat(100)])
    generator = torch.Generator().manual_seed(0)
    proba = loo_proba(X[rows], targets[rows], 2, torch.ones(4_500), generator, first_copy=rows)
    margin = proba.gather(1, targets[rows, None])[:2_500, 0]
    assert roc_auc_score(wrong, -margin) > 0.9


@pytest.mark.parametrize("weight_of_row", [1.0, 5.0])
def test_loo_proba_depends_on_a_rows_own_label_by_the_mean_of_all_labels(
    weight_of_row, monkeypatch
):
    take_one_candidate(monkeypatch)
    X, targets = blobs(40)
    for row in (7, 20):
        weight, other = torch.ones(40), targets.clone()
        weight[row], other[row] = weight_of_row, (targets[row] + 1) % N_CLASSES
        share = weight_of_row / weight.sum()

        both = [fit(X, labels, weight)[row] for labels in (targets, other)]
        assert torch.sub(*both).abs().max() <= share


@pytest.mark.parametrize("value", [1.0, 1e30])
def test_loo_proba_of_the_others_does_not_see_rows_of_weight_zero(value, monkeypatch):
    monkeypatch.setattr(loo_kernel_ridge, "N_SELECTION", 10)
    X, targets, weight = weighted_blobs(60)
    weight[::4] = 0
    counted = weight > 0
    expected = fit(X[counted], targets[counted], weight[counted])
    X[::4], targets[::4] = value * torch.randn(15, 4), 2
    found = fit(X, targets, weight)
    torch.testing.assert_close(found[counted], expected)
    assert found.isfinite().all()


@pytest.mark.usefixtures("all_frequencies")
def test_loo_proba_of_rows_of_weight_zero_does_not_depend_on_their_labels():
    (X, targets), weight = blobs(60, distance=8.0), torch.ones(60)
    weight[::4] = 0
    other = targets.clone()
    other[::4] = (targets[::4] + 1) % N_CLASSES
    found = fit(X, other, weight)
    torch.testing.assert_close(found, fit(X, targets, weight))
    assert torch.equal(found.argmax(dim=1), targets)


def test_loo_proba_adds_up_to_one_and_is_zero_for_a_class_without_rows():
    X, targets, weight = weighted_blobs(60)
    found = fit(X, targets % 2, weight)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(60))
    torch.testing.assert_close(found[:, 2], torch.zeros(60))


# Units, sizes and types


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1, 100), (1e-3, 0), (1e30, 0), (1e-30, 1e-28), (-7, 3), (1e-300, 0), (1e306, 0)],
)
def test_loo_proba_depends_neither_on_the_origin_nor_on_the_unit(scale, shift):
    X, targets, weight = weighted_blobs(60)
    expected = fit(X, targets, weight)
    if scale < 0:  # mirrored rows have mirrored sines, which changes nothing
        scale, X = -scale, -X
    found = fit(scale * X + shift, targets, weight)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, 1e308])
def test_loo_proba_of_equal_rows_is_the_share_of_each_class(value):
    targets = torch.randint(N_CLASSES, (60,))
    found = fit(torch.full((60, 4), value), targets)
    expected = targets.bincount(minlength=N_CLASSES) / 60
    torch.testing.assert_close(found, expected.expand(60, -1), rtol=0, atol=1 / 30)


def test_loo_proba_is_finite_beside_a_huge_value(dtype):
    X, targets = blobs(60)
    X[5, 2] = 1e30
    assert fit(X.to(dtype), targets).isfinite().all()


@pytest.mark.usefixtures("all_frequencies")
@pytest.mark.parametrize("sign", [1, -1])
def test_loo_proba_of_other_rows_is_sound_beside_one_that_would_overflow(sign):
    X, targets = blobs(60, distance=6.0)
    X = (0.01 * X).float()
    X[-1] = sign * 3e38  # in units of the others more than single precision holds
    weight = torch.ones(60)
    weight[-1] = 0
    found = fit(X, targets, weight)
    assert found.isfinite().all()
    assert (found.argmax(dim=1) == targets)[:-1].double().mean() > 0.9


def test_loo_proba_flattens_rows():
    X, targets = blobs(30, n_columns=12)
    folded = fit(X.reshape(30, 3, 4), targets)
    assert torch.equal(folded, fit(X, targets))


@pytest.mark.usefixtures("all_frequencies")
@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1, 1e4), (1e30, 0), (1e-30, 0)])
def test_loo_proba_in_single_precision_is_that_in_double(scale, shift):
    X, targets, weight = weighted_blobs(60)
    X, weight = (scale * X + shift).float(), weight.float()
    found = fit(X, targets, weight)
    assert found.dtype == torch.float32
    expected = fit(X.double(), targets, weight.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


# Draws


def test_loo_proba_follows_its_generator_and_leaves_the_global_one_alone(monkeypatch):
    monkeypatch.setattr(loo_kernel_ridge, "N_SELECTION", 20)
    X, targets = blobs(60)
    before = torch.get_rng_state()
    found = fit(X, targets, seed=3)
    assert torch.equal(found, fit(X, targets, seed=3))
    assert not torch.allclose(found, fit(X, targets, seed=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_loo_proba_does_not_depend_on_torchs_default_dtype():
    (X, targets), weight = blobs(60), torch.ones(60)
    expected = fit(X, targets, weight)
    torch.set_default_dtype(torch.float32)  # put back after every test
    assert torch.equal(fit(X, targets, weight), expected)


# The margin


@pytest.mark.usefixtures("all_frequencies")
@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_loo_margin_is_low_for_wrong_labels(rate, dtype):
    X, targets = blobs(600, distance=6.0)
    flipped = torch.rand(600) < rate
    given = torch.where(flipped, (targets + torch.randint(1, N_CLASSES, (600,))) % 3, targets)
    proba = fit(X.to(dtype), given)
    assert roc_auc_score(flipped, -loo_margin(proba, given)) > 0.99
    assert (proba.argmax(dim=1) == targets).double().mean() > 0.99


def test_loo_margin_is_the_lead_over_the_best_other_class():
    proba = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.3, -0.2, 0.9], [0.4, 0.4, 0.2]])
    found = loo_margin(proba, torch.tensor([0, 2, 1, 0]))
    torch.testing.assert_close(found, torch.tensor([0.5, -0.6, -1.1, 0.0]))


@pytest.mark.parametrize("n_classes", [2, 3, 50])
def test_loo_margin_is_by_numpys_maximum_over_the_other_classes(n_classes, dtype):
    proba, targets = torch.randn(40, n_classes, dtype=dtype), torch.randint(n_classes, (40,))
    before, given = proba.numpy().copy(), np.arange(n_classes) == targets.numpy()[:, None]
    found = loo_margin(proba, targets)
    assert found.dtype == dtype
    best_other = np.ma.masked_array(before, given).max(axis=1).filled()
    np.testing.assert_array_equal(found.numpy(), before[given] - best_other)
    np.testing.assert_array_equal(proba.numpy(), before)


# Sparse rows


def test_dense_rows_keeps_dense_and_narrow_rows():
    X = np.random.RandomState(0).normal(size=(5, 300))
    np.testing.assert_array_equal(dense_rows(X, 0), X)
    np.testing.assert_array_equal(dense_rows(sparse.csr_array(X[:, :256]), 0), X[:, :256])


def test_dense_rows_of_a_wide_sparse_table_keep_its_scalar_products():
    rng = np.random.RandomState(0)
    X = sparse.csr_array(rng.normal(size=(40, 10)) @ rng.normal(size=(10, 600)))
    found = dense_rows(X, 0)
    assert found.shape == (40, 40)
    np.testing.assert_allclose(found @ found.T, (X @ X.T).toarray(), rtol=1e-8, atol=1e-8)
