import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

from sklearn_clidmu.noise import loo_kernel_ridge as leave_one_out
from sklearn_clidmu.noise.loo_kernel_ridge import (
    INVERSE_WIDTHS,
    N_FREQUENCIES,
    PENALTIES,
    Kernel,
    Ridge,
    loo_margin,
    loo_proba,
)

N_CLASSES = 3
KERNEL = Kernel(inverse_width=0.3, penalty=1.0)


def blobs(n_rows, distance=2.0, n_columns=4):
    """Rows around one centre per class, the classes in turn."""
    targets = torch.arange(n_rows) % N_CLASSES
    return torch.randn(n_rows, n_columns) + distance * torch.eye(n_columns)[targets], targets


def shares_of(X, targets, weight=None, kernel=None, seed=0):
    weight = torch.ones(len(X)) if weight is None else weight
    generator = torch.Generator().manual_seed(seed)
    return loo_proba(X, targets, N_CLASSES, weight, generator, kernel)


@pytest.fixture
def few_frequencies(monkeypatch):
    """So few that what is refitted row by row is refitted quickly."""
    monkeypatch.setattr(leave_one_out, "N_FREQUENCIES", 12)


@pytest.fixture
def one_candidate(monkeypatch):
    """Rows are left out, and no choice can depend on the labels."""
    monkeypatch.setattr(leave_one_out, "INVERSE_WIDTHS", (KERNEL.inverse_width,))
    monkeypatch.setattr(leave_one_out, "PENALTIES", (KERNEL.penalty,) * 2)


@pytest.fixture
def ridges(monkeypatch):
    """Every regression that is made, in order."""
    made = []

    class Remembered(Ridge):
        def __init__(self, chunks, frequencies):
            chunks = list(chunks)
            super().__init__(chunks, frequencies)
            self.X = torch.cat([X for X, _, _ in chunks])
            made.append(self)

    monkeypatch.setattr(leave_one_out, "Ridge", Remembered)
    return made


# The same by scikit-learn, one fit per row


def fourier_features(X, frequencies):
    angles = X @ frequencies
    features = np.hstack([np.cos(angles), np.sin(angles), np.ones((len(X), 1))])
    return features / np.sqrt(frequencies.shape[1])


def refitted(features, Y, weight, penalty, left_out):
    """Predictions at each row, by a fit without it where it is to be left out."""
    ridge = SklearnRidge(alpha=penalty, fit_intercept=False, solver="cholesky")
    predictions = []
    for i in range(len(Y)):
        kept = np.ones_like(weight)
        kept[i] = not left_out
        ridge.fit(features, Y, sample_weight=weight * kept)
        predictions.append(ridge.predict(features[i : i + 1])[0])
    return np.array(predictions)


class Centred:
    """Rows and labels about their weighted means, and the frequencies of a seed."""

    def __init__(self, X, targets, weight, seed, n_frequencies):
        self.weight = weight.numpy()
        self.X = X.numpy() - np.average(X.numpy(), axis=0, weights=self.weight)
        self.variance = np.average(np.square(self.X).sum(axis=1), weights=self.weight)
        onehot = np.eye(N_CLASSES)[targets.numpy()]
        self.shares = np.average(onehot, axis=0, weights=self.weight)
        self.Y = onehot - self.shares
        generator = torch.Generator().manual_seed(seed)
        self.normal = torch.randn(X.shape[1], n_frequencies, generator=generator).numpy()

    def predictions(self, kernel, left_out, thinned=1):
        gamma = kernel.inverse_width / self.variance
        features = fourier_features(self.X, self.normal[:, ::thinned] * np.sqrt(2 * gamma))
        return refitted(features, self.Y, self.weight, kernel.penalty, left_out)


@pytest.mark.parametrize("weighted", [False, True])
def test_residuals_are_those_of_a_fit_without_the_row(weighted):
    X, Y, frequencies = torch.randn(30, 3), torch.randn(30, 2), torch.randn(3, 20)
    weight = 3 * torch.rand(30) + 0.1 if weighted else torch.ones(30)
    ridge = Ridge([(X, Y, weight)], frequencies)
    features = fourier_features(X.numpy(), frequencies.numpy())
    for penalty in PENALTIES:
        residuals = ridge.residuals(*ridge.project(X), Y, weight, penalty)
        assert residuals.shape == (30, 2)
        expected = Y.numpy() - refitted(features, Y.numpy(), weight.numpy(), penalty, True)
        np.testing.assert_allclose(residuals.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_residuals_of_a_row_of_which_nothing_is_left_out_are_those_of_the_fit():
    X, Y, frequencies = torch.randn(30, 3), torch.randn(30, 2), torch.randn(3, 20)
    weight = 3 * torch.rand(30) + 0.1
    ridge = Ridge([(X, Y, weight)], frequencies)
    found = ridge.residuals(*ridge.project(X), Y, torch.zeros(30), 0.5)
    features = fourier_features(X.numpy(), frequencies.numpy())
    expected = Y.numpy() - refitted(features, Y.numpy(), weight.numpy(), 0.5, False)
    assert found.shape == (30, 2)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("inverse_width", [0.1, 2.0])
@pytest.mark.usefixtures("few_frequencies")
def test_shares_under_a_given_kernel_are_those_of_one_fit_to_all_rows(inverse_width, penalty):
    (X, targets), weight = blobs(24), 2 * torch.rand(24) + 0.2
    kernel = Kernel(inverse_width, penalty)
    centred = Centred(X, targets, weight, 0, 12)
    expected = centred.predictions(kernel, left_out=False) + centred.shares
    np.testing.assert_allclose(shares_of(X, targets, weight, kernel).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("inverse_width", INVERSE_WIDTHS)
def test_features_multiply_to_a_gaussian_kernel_in_units_of_the_variance(ridges, inverse_width):
    (X, targets), weight = blobs(25), 2 * torch.rand(25) + 0.2
    for seed in range(20):
        shares_of(X, targets, weight, Kernel(inverse_width, 1.0), seed)
    products = [fourier_features(r.X.numpy(), r.frequencies.numpy()) for r in ridges]
    products = np.mean([f @ f.T for f in products], axis=0) - 1 / N_FREQUENCIES
    variance = np.trace(np.cov(X.numpy().T, aweights=weight.numpy(), ddof=0))
    expected = rbf_kernel(X.numpy(), gamma=inverse_width / variance)
    # A mean of 20 x 256 cosines, each of variance at most 1/2.
    np.testing.assert_allclose(products, expected, atol=5 * np.sqrt(0.5 / (20 * N_FREQUENCIES)))


@pytest.mark.parametrize("chunk", [1, 7, 59])
def test_shares_do_not_depend_on_how_many_rows_are_in_memory_at_a_time(monkeypatch, chunk):
    (X, targets), weight = blobs(60), torch.rand(60) + 0.5
    expected = shares_of(X, targets, weight)
    monkeypatch.setattr(leave_one_out, "CHUNK", chunk)
    torch.testing.assert_close(shares_of(X, targets, weight), expected, rtol=1e-9, atol=1e-9)


# What counts, and how much


@pytest.mark.parametrize("kernel", [KERNEL, Kernel(3.0, 0.05)])
def test_row_of_integer_weight_is_as_many_copies_under_a_given_kernel(kernel):
    (X, targets), times = blobs(40), torch.randint(1, 6, (40,))
    weighted = shares_of(X, targets, times.double(), kernel)
    copies = X.repeat_interleave(times, dim=0), targets.repeat_interleave(times)
    repeated = shares_of(*copies, kernel=kernel)
    torch.testing.assert_close(weighted.repeat_interleave(times, dim=0), repeated)


@pytest.mark.usefixtures("one_candidate")
def test_row_is_left_out_with_its_whole_weight():
    X, targets = blobs(40)
    weight = torch.ones(40)
    weight[7] = 5
    twin, other = shares_of(X, targets, weight)[7], targets.clone()
    other[7] = (targets[7] + 1) % N_CLASSES
    # All that is left of the own label is its part in the mean of all labels.
    assert (shares_of(X, other, weight)[7] - twin).abs().max() <= 5 / 44
    assert (shares_of(X, other, weight, KERNEL)[7] - twin).abs().max() > 3 * 5 / 44


@pytest.mark.usefixtures("one_candidate")
def test_own_label_moves_the_shares_of_a_row_by_no_more_than_its_part_in_the_mean():
    X, targets = blobs(60)
    before = shares_of(X, targets)
    for row in range(0, 60, 10):
        other = targets.clone()
        other[row] = (targets[row] + 1) % N_CLASSES
        assert (shares_of(X, other)[row] - before[row]).abs().max() <= 1 / 60


@pytest.mark.parametrize("kernel", [None, KERNEL])
@pytest.mark.parametrize("value", [1.0, 1e30])
def test_rows_of_weight_zero_judge_nobody(kernel, value):
    (X, targets), weight = blobs(60), torch.rand(60) + 0.5
    weight[::4] = 0
    counted = weight > 0
    expected = shares_of(X[counted], targets[counted], weight[counted], kernel)
    X[::4], targets[::4] = value * torch.randn(15, 4), 2
    found = shares_of(X, targets, weight, kernel)
    torch.testing.assert_close(found[counted], expected)
    assert found.isfinite().all()


@pytest.mark.parametrize("kernel", [None, KERNEL])
def test_rows_of_weight_zero_are_judged_whatever_their_label(kernel):
    (X, targets), weight = blobs(60, distance=8.0), torch.ones(60)
    weight[::4] = 0
    other = targets.clone()
    other[::4] = (targets[::4] + 1) % N_CLASSES
    found = shares_of(X, other, weight, kernel)
    torch.testing.assert_close(found, shares_of(X, targets, weight, kernel))
    assert torch.equal(found.argmax(dim=1), targets)


@pytest.mark.parametrize("kernel", [None, KERNEL])
def test_shares_of_a_row_add_up_to_one(kernel):
    (X, targets), weight = blobs(60), torch.rand(60) + 0.5
    found = shares_of(X, targets, weight, kernel)
    assert found.shape == (60, N_CLASSES)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(60))


@pytest.mark.parametrize("kernel", [None, KERNEL])
def test_class_that_no_row_carries_has_no_share(kernel):
    X, targets = blobs(60)
    found = shares_of(X, targets % 2, kernel=kernel)
    torch.testing.assert_close(found[:, 2], torch.zeros(60))


# Units, sizes and types


@pytest.mark.parametrize("kernel", [None, KERNEL])
@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1, 100), (1e-3, 0), (1e30, 0), (1e-30, 1e-28), (-7, 3), (1e-300, 0), (1e306, 0)],
)
def test_shares_depend_neither_on_the_origin_nor_on_the_unit(kernel, scale, shift):
    (X, targets), weight = blobs(60), torch.rand(60) + 0.5
    expected = shares_of(X, targets, weight, kernel)
    if scale < 0:  # mirrored rows have mirrored sines, which changes nothing
        scale, X = -scale, -X
    found = shares_of(scale * X + shift, targets, weight, kernel)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kernel", [None, KERNEL])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, 1e308])
def test_shares_of_rows_that_are_all_alike_are_those_of_the_classes(kernel, value):
    targets = torch.randint(N_CLASSES, (60,))
    found = shares_of(torch.full((60, 4), value), targets, kernel=kernel)
    expected = targets.bincount(minlength=N_CLASSES) / 60
    torch.testing.assert_close(found, expected.expand(60, -1), rtol=0, atol=1 / 30)


def test_single_huge_value_leaves_the_shares_finite(dtype):
    X, targets = blobs(60)
    X[5, 2] = 1e30
    assert shares_of(X.to(dtype), targets).isfinite().all()


@pytest.mark.parametrize("kernel", [None, KERNEL])
@pytest.mark.parametrize("size", [7, 30, 59])
def test_size_of_the_chunks_does_not_matter(kernel, size, monkeypatch):
    (X, targets), weight = blobs(60), torch.rand(60) + 0.5
    expected = shares_of(X, targets, weight, kernel)
    monkeypatch.setattr(leave_one_out, "CHUNK", size)
    torch.testing.assert_close(shares_of(X, targets, weight, kernel), expected)


def test_rows_are_flattened():
    (X, targets), kernel = blobs(30, n_columns=12), KERNEL
    folded = shares_of(X.reshape(30, 3, 4), targets, kernel=kernel)
    assert torch.equal(folded, shares_of(X, targets, kernel=kernel))


@pytest.mark.parametrize("kernel", [None, KERNEL])
@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1, 1e4), (1e30, 0), (1e-30, 0)])
def test_single_precision_is_judged_nearly_as_in_double(scale, shift, kernel):
    (X, targets), weight = blobs(60), torch.rand(60) + 0.5
    single = (scale * X + shift).float(), weight.float()
    found = shares_of(single[0], targets, single[1], kernel)
    assert found.dtype == torch.float32
    expected = shares_of(single[0].double(), targets, single[1].double(), kernel)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


# Draws


def test_same_generator_gives_the_same_shares_and_another_seed_others():
    X, targets = blobs(60)
    found = shares_of(X, targets, seed=3)
    assert torch.equal(found, shares_of(X, targets, seed=3))
    assert not torch.allclose(found, shares_of(X, targets, seed=4))


def test_default_dtype_of_torch_changes_no_draw():
    (X, targets), weight = blobs(60), torch.ones(60)
    expected = shares_of(X, targets, weight, KERNEL)
    torch.set_default_dtype(torch.float32)  # put back after every test
    assert torch.equal(shares_of(X, targets, weight, KERNEL), expected)


def test_global_generator_is_left_alone(monkeypatch):
    monkeypatch.setattr(leave_one_out, "N_SELECTION", 20)
    X, targets = blobs(60)
    before = torch.get_rng_state()
    shares_of(X, targets)
    assert torch.equal(torch.get_rng_state(), before)


# What it is for


@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_wrong_labels_stand_out_by_the_lead_of_a_rival(rate, dtype):
    X, targets = blobs(600, distance=6.0)
    flipped = torch.rand(600) < rate
    given = torch.where(flipped, (targets + torch.randint(1, N_CLASSES, (600,))) % 3, targets)
    shares = shares_of(X.to(dtype), given)
    assert roc_auc_score(flipped, loo_margin(shares, given)) > 0.99
    assert (shares.argmax(dim=1) == targets).double().mean() > 0.99


@pytest.mark.parametrize("sign", [1, -1])
def test_a_row_beyond_all_measure_is_near_nobody_and_does_not_overflow(sign):
    rng = np.random.RandomState(0)
    targets = torch.arange(60) % 2
    X = torch.from_numpy(0.01 * (rng.normal(size=(60, 3)) + 3 * np.eye(2, 3)[targets])).float()
    X[-1] = sign * 3e38  # in units of the others more than single precision holds
    weight = torch.ones(60)
    weight[-1] = 0
    shares = loo_proba(X, targets, 2, weight, torch.Generator().manual_seed(0))
    assert shares.isfinite().all()
    assert (shares.argmax(dim=1) == targets)[:-1].double().mean() > 0.9


def test_loo_margin_is_how_far_the_best_other_class_leads():
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.3, -0.2, 0.9], [0.4, 0.4, 0.2]])
    found = loo_margin(shares, torch.tensor([0, 2, 1, 0]))
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.6, 1.1, 0.0]))


@pytest.mark.parametrize("n_classes", [2, 3, 50])
def test_loo_margin_is_that_of_numpys_maximum_over_the_other_classes(n_classes, dtype):
    shares, targets = torch.randn(40, n_classes, dtype=dtype), torch.randint(n_classes, (40,))
    given = np.arange(n_classes) == targets.numpy()[:, None]
    rivals = np.ma.masked_array(shares.numpy(), given).max(axis=1).filled()
    found = loo_margin(shares, targets)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), rivals - shares.numpy()[given])


def test_loo_margin_is_negative_where_the_given_class_leads():
    shares, targets = torch.randn(40, 3), torch.randint(3, (40,))
    assert torch.equal(loo_margin(shares, targets) < 0, shares.argmax(dim=1) == targets)


def test_loo_margin_leaves_the_shares_as_they_were():
    shares = torch.randn(40, 3)
    before = shares.clone()
    loo_margin(shares, torch.randint(3, (40,)))
    assert torch.equal(shares, before)
