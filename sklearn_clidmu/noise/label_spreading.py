"""Label spreading: class probabilities that agree between neighboring rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from sklearn_clidmu._settings import N_NEIGHBORS, SPREAD

N_STEPS = 50
"""Steps of spreading; 0.8 to that power is 1e-5."""

N_COMPONENTS = 32
"""Neighbors are looked for in as many principal components."""

N_BANK = 10_000
"""Neighbors are looked for among at most as many rows, drawn at random."""


def spread_labels(X: np.ndarray, proba: np.ndarray, seed: int) -> np.ndarray:
    """Make class probabilities agree between neighbors; shape (n, n_classes), rows add up to one.

    Label spreading (Zhou et al., NeurIPS 2003), started from predictions at all rows. Rows of a
    random bank exchange theirs; the others take those of their neighbors in it. The seed draws the
    bank, and the start of the principal components.
    """
    rng = np.random.RandomState(seed)
    bank = rng.permutation(len(X))[:N_BANK]
    n_components = min(N_COMPONENTS, len(bank), X.shape[1])
    with np.errstate(invalid="ignore"):  # the share of the variance where there is none
        Z = PCA(n_components, random_state=rng).fit(X[bank]).transform(X)
    neighbors = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(bank) - 1)).fit(Z[bank])
    near = _closeness(neighbors)
    near = near.maximum(near.T)
    scale = 1 / np.sqrt(near @ np.ones((len(bank), 1)))
    spread = proba[bank]
    for _ in range(N_STEPS):
        spread = SPREAD * scale * (near @ (scale * spread)) + (1 - SPREAD) * proba[bank]
    spread /= spread.sum(axis=1, keepdims=True)
    agreed = np.empty_like(proba)
    agreed[bank] = spread
    rest = np.setdiff1d(np.arange(len(X)), bank)
    if len(rest):
        near = _closeness(neighbors, Z[rest])
        mean = (near @ spread) / (near @ np.ones((len(bank), 1)))
        agreed[rest] = SPREAD * mean + (1 - SPREAD) * proba[rest]
    return agreed


def _closeness(neighbors: NearestNeighbors, Z: np.ndarray | None = None) -> Any:
    """Gaussian of the distance to each neighbor, as wide as the farthest one is away.

    A sparse matrix of shape (n, n_bank), of the rows of Z or, by default, of the bank, where no row
    is its own neighbor.
    """
    graph = neighbors.kneighbors_graph(Z, mode="distance")
    distances = graph.data.reshape(graph.shape[0], -1)
    width = distances.max(axis=1, keepdims=True).clip(np.finfo(distances.dtype).tiny)
    graph.data = np.exp(-((distances / width) ** 2)).ravel()
    return graph
