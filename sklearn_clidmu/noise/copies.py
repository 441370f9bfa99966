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

MOST_OTHER = 0.1
"""Equal rows are copies if chance explains less than this share of the equal pairs, and fewer of
them have two labels."""


def find_copies(X: Any, codes: np.ndarray, trained: np.ndarray, seed: int | None) -> np.ndarray:
    """Position of the first row with the entries and label of each one, shape (n,), int64.

    It is one of the rows trained on, if there is one; ``trained`` is their mask. X is an array, or
    a csr matrix with sorted indices; labels are encoded, -1 for none.

    With a ``seed``, no row is a copy where rows are equal by chance, as in tables of a few
    categories, or have been labeled one by one, as by several annotators: labels of equal rows
    that agree then confirm each other. This is decided for the table, by the rows trained on.
    """
    n = X.shape[0]
    _, entries = np.unique(np.fromiter(_hashes(X), np.int64, n), return_inverse=True)
    keys = entries * (codes.max() + 2) + codes + 1
    if seed is not None:
        n_equal, n_agreeing = (_count_pairs(groups[trained]) for groups in (entries, keys))
        most = MOST_OTHER * n_equal
        if n_equal - n_agreeing >= most or _pairs_by_chance(X, trained, seed) >= most:
            return np.arange(n)
    order = np.argsort(~trained, kind="stable")
    _, first, copies = np.unique(keys[order], return_index=True, return_inverse=True)
    found = np.empty_like(order)
    found[order] = order[first[copies]]
    return found


def _hashes(X: Any) -> Iterator[int]:
    if isinstance(X, np.ndarray):  # -0.0 is 0, and nan of any sign is nan
        return (hash(np.where(row == row, row + 0, np.nan).tobytes()) for row in X)
    rows = (slice(*ends) for ends in zip(X.indptr[:-1], X.indptr[1:], strict=True))
    parts = ((X.indices[row], X.data[row]) for row in rows)
    return (hash((i[v != 0].tobytes(), v[v != 0].tobytes())) for i, v in parts)


def _count_pairs(groups: np.ndarray) -> float:
    """Pairs of members of the same group."""
    _, sizes = np.unique(groups, return_counts=True)
    return float((sizes * (sizes - 1) / 2).sum())


def _pairs_by_chance(X: Any, trained: np.ndarray, seed: int) -> float:
    """Pairs of rows trained on that would be equal by chance if features were independent."""
    rows = np.flatnonzero(trained)
    n = len(rows)
    left, right = rows[np.random.RandomState(seed).randint(n, size=(2, min(n, N_PAIRS)))]
    A, B = X[left], X[right]
    unequal = A != B
    if isinstance(X, np.ndarray):
        unequal &= ~(np.isnan(A) & np.isnan(B))
    equal = 1 - np.asarray(unequal.sum(axis=0), dtype=np.float64) / len(left)
    return float(n * (n - 1) / 2 * equal.clip(1 / (len(left) + 2)).prod())
