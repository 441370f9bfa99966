import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from sklearn_clidmu._settings import N_NEIGHBORS, SPREAD
from sklearn_clidmu.noise.label_spreading import spread_labels


def make_clusters(n=60):
    rng = np.random.RandomState(0)
    true = np.arange(n) % 3
    X = 8 * np.eye(3, 4)[true] + rng.normal(size=(n, 4))
    return X, true, rng


def test_spread_labels_solves_the_linear_system_of_label_spreading():
    X, _, rng = make_clusters()
    proba = rng.dirichlet(np.ones(3), size=len(X))
    distances = np.sort(np.linalg.norm(X[:, None] - X, axis=2), axis=1)
    near = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(X).kneighbors_graph().toarray() > 0
    width = distances[:, N_NEIGHBORS][:, None]
    W = near * np.exp(-((np.linalg.norm(X[:, None] - X, axis=2) / width) ** 2))
    W = np.maximum(W, W.T)
    scale = 1 / np.sqrt(W.sum(axis=1))
    S = scale[:, None] * W * scale
    expected = np.linalg.solve(np.eye(len(X)) - SPREAD * S, (1 - SPREAD) * proba)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(spread_labels(X, proba, seed=0), expected, atol=1e-4)


def test_spread_labels_gives_unknown_rows_the_class_of_their_cluster():
    X, true, rng = make_clusters()
    proba = np.full((len(X), 3), 1 / 3)
    known = rng.permutation(len(X))[:20]
    proba[known] = np.eye(3)[true[known]]
    found = spread_labels(X, proba, seed=0)
    np.testing.assert_array_equal(found.argmax(axis=1), true)


@pytest.mark.parametrize("n", [2, 3, 12])
def test_spread_labels_of_few_rows_are_probabilities(n):
    X, _, rng = make_clusters(n)
    found = spread_labels(X, rng.dirichlet(np.ones(3), size=n), seed=0)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found.min() >= 0
