"""Relevance of features: against scikit-learn's kernel ridge regression, and what it promises."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from sklearn_clidmu.noise import loo_kernel_ridge
from sklearn_clidmu.noise.feature_relevance import feature_relevance

N_CLASSES = 3
GAMMA, PENALTY = 0.3, 0.1


@pytest.fixture
def one_candidate(monkeypatch):
    """A kernel that does not depend on the labels."""
    monkeypatch.setattr(loo_kernel_ridge, "GAMMAS", (GAMMA,))
    monkeypatch.setattr(loo_kernel_ridge, "PENALTIES", (PENALTY,))


def relevance(X, targets, weight=None, n_classes=N_CLASSES):
    weight = torch.ones(len(X)) if weight is None else weight
    generator = torch.Generator().manual_seed(0)
    return feature_relevance(X, targets, n_classes, weight, generator).numpy()


def overlapping_classes(n_rows, n_columns=4):
    """Rows around one center per class, the classes in turn; the last column tells nothing."""
    targets = torch.arange(n_rows) % N_CLASSES
    centers = 2 * torch.eye(n_columns)[:N_CLASSES]
    return torch.randn(n_rows, n_columns, dtype=torch.float64) + centers[targets], targets


def test_feature_relevance_is_the_gradient_of_kernel_ridge_regression(one_candidate):
    X = torch.randn(300, 5, dtype=torch.float64)
    targets = (X @ torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0]).double() > 0).long()
    weight = torch.rand(300, dtype=torch.float64) + 0.5
    found = relevance(X, targets, weight, n_classes=2)
    X, targets, weight = X.numpy(), targets.numpy(), weight.numpy()
    mean = np.average(X, axis=0, weights=weight)
    variance = np.average(np.square(X - mean).sum(axis=1), weights=weight)
    labels = np.eye(2)[targets]
    labels -= np.average(labels, axis=0, weights=weight)
    ridge = KernelRidge(kernel="rbf", gamma=GAMMA / variance, alpha=PENALTY)
    ridge.fit(X, labels, sample_weight=weight)
    squares = np.empty(5)
    for j, step in enumerate(1e-5 * np.eye(5)):
        rises = ridge.predict(X + step) - ridge.predict(X - step)
        squares[j] = np.average(np.square(rises[np.arange(300), targets]), weights=weight)
    expected = squares / squares.mean()
    # They are reliable here, but drawn towards one a little.
    reliability = (np.square(found) - 1) / (expected - 1)
    assert 0.95 < reliability[0] <= 1
    np.testing.assert_allclose(reliability, reliability[0], rtol=1e-4)


def test_feature_relevance_finds_the_features_that_only_tell_together():
    X = torch.rand(1000, 20) - 0.5
    targets = (X[:, 3] * X[:, 7] > 0).long()
    targets = torch.where(torch.rand(1000) < 0.2, 1 - targets, targets)
    found = relevance(X, targets, n_classes=2)
    assert set(np.argsort(found)[-2:]) == {3, 7}


def test_feature_relevance_does_not_depend_on_the_unit_of_all_features(one_candidate):
    X, targets = overlapping_classes(50)
    np.testing.assert_allclose(relevance(1e6 * X, targets), relevance(X, targets), rtol=1e-6)


def test_feature_relevance_has_a_mean_square_of_one():
    X, targets = overlapping_classes(50)
    assert np.square(relevance(X, targets)).mean() == pytest.approx(1)


def test_feature_relevance_is_nearly_one_where_labels_follow_nothing():
    found = [relevance(torch.randn(200, 30), torch.randint(0, 3, (200,))) for _ in range(10)]
    assert np.mean(found) > 0.98


def test_feature_relevance_does_not_read_rows_of_weight_zero(one_candidate):
    X, targets = overlapping_classes(60)
    weight = torch.ones(60, dtype=torch.float64)
    weight[45:] = 0
    np.testing.assert_allclose(relevance(X, targets, weight), relevance(X[:45], targets[:45]))


def test_feature_relevance_is_one_where_no_feature_varies():
    X = torch.ones(30, 3)
    np.testing.assert_array_equal(relevance(X, torch.arange(30) % N_CLASSES), 1)
