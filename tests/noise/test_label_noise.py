"""From rows to the estimate of their label noise, and the choice of the kernel."""

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import Ridge as SklearnRidge

from sklearn_clidmu._settings import INVERSE_WIDTHS, PENALTIES
from sklearn_clidmu.noise import loo_kernel_ridge
from sklearn_clidmu.noise.loo_kernel_ridge import Kernel, dense_rows, loo_proba
from sklearn_clidmu.noise.transition_matrix import estimate_label_noise, estimate_noise


def noisy_blobs(n_rows, distance=8.0):
    true = torch.arange(n_rows) % 3
    X = torch.randn(n_rows, 4) + distance * torch.eye(4)[true]
    return X, torch.where(torch.rand(n_rows) < 0.3, (true + 1) % 3, true)


def left_out_by_refitting(features, Y, weight, penalty):
    """Prediction at each row by scikit-learn's ridge regression on the others."""
    ridge = SklearnRidge(alpha=penalty, fit_intercept=False, solver="cholesky")
    found = []
    for i in range(len(Y)):
        kept = np.arange(len(Y)) != i
        ridge.fit(features[kept], Y[kept], sample_weight=weight[kept])
        found.append(ridge.predict(features[i : i + 1])[0])
    return np.array(found)


@pytest.mark.parametrize(("distance", "seed"), [(2.0, 0), (0.7, 1), (8.0, 2)])
def test_loo_proba_is_that_of_the_best_candidate_found_by_refitting(distance, seed, monkeypatch):
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", 12)
    (X, given), weight = noisy_blobs(24, distance), 2 * torch.rand(24) + 0.2
    found = loo_proba(X, given, 3, weight, torch.Generator().manual_seed(seed)).numpy()

    normal = torch.randn(4, 12, generator=torch.Generator().manual_seed(seed)).numpy()
    w, onehot = weight.numpy(), np.eye(3)[given.numpy()]
    rows = X.numpy() - np.average(X.numpy(), axis=0, weights=w)
    variance = np.average(np.square(rows).sum(axis=1), weights=w)
    class_shares = np.average(onehot, axis=0, weights=w)

    def left_out(normal, gamma, penalty):
        angles = rows @ normal * np.sqrt(2 * gamma / variance)
        features = np.hstack([np.cos(angles), np.sin(angles), np.ones((24, 1))])
        features /= np.sqrt(normal.shape[1])
        return left_out_by_refitting(features, onehot - class_shares, w, penalty)

    def error(candidate):  # with half of the frequencies
        predicted = left_out(normal[:, ::2], *candidate)
        return np.square(onehot - class_shares - predicted).sum(axis=1) @ w

    best = min(itertools.product(INVERSE_WIDTHS, PENALTIES), key=error)
    np.testing.assert_allclose(found, left_out(normal, *best) + class_shares, atol=1e-8)


def test_estimate_label_noise_finds_the_noise_of_distant_blobs(dtype):
    X, given = noisy_blobs(1500)
    proba, noise = estimate_label_noise(X.to(dtype), given, 3, torch.ones(1500), one_batch=False)
    assert proba.dtype == noise.matrix.dtype == dtype
    assert noise.rate.item() == pytest.approx(0.3, abs=0.05)
    expected = torch.tensor([[0.7, 0.3, 0], [0, 0.7, 0.3], [0.3, 0, 0.7]], dtype=dtype)
    torch.testing.assert_close(noise.matrix, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("n_copies", [1, 3])
def test_estimate_label_noise_of_one_batch_counts_integer_weights_as_copies(n_copies):
    X, given = noisy_blobs(30)
    times = n_copies * torch.randint(1, 4, (30,))
    proba, noise = estimate_label_noise(X, given, 3, times.double(), one_batch=True)
    copies = X.repeat_interleave(times, dim=0), given.repeat_interleave(times)
    repeated, expected = estimate_label_noise(*copies, 3, torch.ones(len(copies[0])), True)
    torch.testing.assert_close(proba.repeat_interleave(times, dim=0), repeated)
    for here, there in zip(noise, expected, strict=True):
        torch.testing.assert_close(here, there)


def test_estimate_label_noise_of_one_batch_counts_as_64_rows():
    X, given = noisy_blobs(16)
    proba, noise = estimate_label_noise(X, given, 3, torch.ones(16), one_batch=True)
    generator, weight = torch.Generator().manual_seed(torch.initial_seed()), torch.full((16,), 4.0)
    kernel = Kernel(inverse_width=0.3, penalty=3.0)
    torch.testing.assert_close(proba, loo_proba(X, given, 3, weight, generator, kernel))
    for here, there in zip(noise, estimate_noise(proba, given, weight), strict=True):
        torch.testing.assert_close(here, there)


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
