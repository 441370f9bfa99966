"""Rows that repeat others, as oversampling, bootstrapping and joining tables make them.

A wrong label that is copied with its row confirms itself: a prediction that leaves out one of the
copies has seen the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

N_PAIRS = 10_000
"""Pairs of rows that tell how often features are equal by chance."""

BY_CHANCE = 0.1
"""Rows that are equal are copies if chance explains less than this share of the equal pairs."""


def find_copies(X: Any, codes: np.ndarray, trained: np.ndarray, seed: int | None) -> np.ndarray:
    """Position of the first row with the entries and label of each one, shape (n,), int64.

    It is one of the rows trained on, if there is one; ``trained`` is their mask. X is an array, or
    a csr matrix with sorted indices; labels are encoded, -1 for none.

    With a ``seed``, a row is its own first where rows may be equal by chance, as in tables of a
    few categories, and where rows of the same entries have several labels. Such labels have been
    given one by one, and those that agree confirm each other.
    """
    n, own = X.shape[0], np.arange(X.shape[0])
    _, entries = np.unique(np.fromiter(_hashes(X), np.int64, n), return_inverse=True)
    keys = entries * (codes.max() + 2) + codes + 1
    order = np.argsort(~trained, kind="stable")
    _, first = np.unique(keys[order], return_index=True)
    first, copies = order[first], np.unique(keys, return_inverse=True)[1]
    if seed is None:
        return first[copies]
    n_equal = np.bincount(entries)
    n_pairs = (n_equal * (n_equal - 1) / 2).sum()
    if n_pairs == 0 or _expected_equal_pairs(X, seed) > BY_CHANCE * n_pairs:
        return own
    n_labels = np.bincount(entries[first[codes[first] >= 0]], minlength=len(n_equal))
    return np.where(n_labels[entries] > 1, own, first[copies])


def _hashes(X: Any) -> Iterator[int]:
    if isinstance(X, np.ndarray):
        return (hash((row + 0).tobytes()) for row in X)  # -0.0 is 0
    rows = (slice(*ends) for ends in zip(X.indptr[:-1], X.indptr[1:], strict=True))
    return (hash((X.indices[row].tobytes(), X.data[row].tobytes())) for row in rows)


def _expected_equal_pairs(X: Any, seed: int) -> float:
    """Pairs of rows that would be equal by chance if features were independent."""
    n = X.shape[0]
    left, right = np.random.RandomState(seed).randint(n, size=(2, min(n, N_PAIRS)))
    A, B = X[left], X[right]
    unequal = A != B
    if isinstance(X, np.ndarray):
        unequal &= ~(np.isnan(A) & np.isnan(B))
    shares = (np.asarray(unequal.sum(axis=0), dtype=np.float64) + 1) / (len(left) + 2)
    return float(n * (n - 1) / 2 * np.prod(1 - shares))
