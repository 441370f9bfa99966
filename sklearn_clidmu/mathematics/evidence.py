"""Evidence against a row's label, beyond its loss of the moment.

Everything here is smooth in the sample weights: a row of weight s counts as s identical rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

N_EVIDENCE = 3
"""Columns of evidence: standing of the mean loss, of the mean influence, disagreement."""


def standing(values: Tensor, sample_weight: Tensor) -> Tensor:
    """Where a value stands among all others, in [0, 1], shape (n,).

    The cumulative normal distribution with the values' mean and standard deviation: a rank
    that needs no sorting and treats near-ties nearly alike. 0.5 where all values are equal.

    Parameters
    ----------
    values, sample_weight : Tensor of shape (n,)
    """
    centred, deviation = _centre(values, sample_weight)
    return torch.special.ndtr(centred / deviation)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values of which each counts ``weight`` times, shape ()."""
    return (weight * values).sum() / weight.sum()


def standard_deviation(values: Tensor, sample_weight: Tensor) -> Tensor:
    """Weighted standard deviation, kept above zero, shape ()."""
    return _centre(values, sample_weight)[1]


def _centre(values: Tensor, sample_weight: Tensor) -> tuple[Tensor, Tensor]:
    values = values - values.min()  # equal values stay equal under rounding
    centred = values - weighted_mean(values, sample_weight)
    variance = weighted_mean(centred.square(), sample_weight)
    return centred, variance.sqrt().clamp_min(torch.finfo(values.dtype).tiny ** 0.5)


def neighbour_disagreement(
    X: Tensor,
    targets: Tensor,
    sample_weight: Tensor,
    *,
    share: float,
    n_candidates: int = 64,
    bank_size: int = 10_000,
) -> Tensor:
    """Share of each row's neighbourhood that carries another label, in [0, 1], shape (n,).

    A row's neighbourhood is every row as near as its nearest ``share`` of the total weight
    (Euclidean distance), the row itself and all ties included.

    Parameters
    ----------
    X : Tensor of shape (n, ...)
        Input rows; flattened.
    targets : Tensor of shape (n,), int64
        Given labels.
    sample_weight : Tensor of shape (n,)
        Not negative. Rows of weight zero have neighbours and are nobody's.
    share : float
        Share of the total weight that makes a neighbourhood.
    n_candidates : int, default=64
        A neighbourhood holds at most as many rows.
    bank_size : int, default=10_000
        Neighbours are looked for among at most as many rows, drawn at random, which bounds the
        cost per row.
    """
    X = X.flatten(start_dim=1)
    bank = sample_weight.nonzero().squeeze(1)
    if len(bank) > bank_size:
        bank = bank[torch.randperm(len(bank), device=X.device)[:bank_size]]
    bank_X, bank_targets, bank_weight = X[bank], targets[bank], sample_weight[bank]
    squares = bank_X.square().sum(dim=1)
    mass = share * bank_weight.sum()
    found = []
    for rows, given in zip(X.split(1024), targets.split(1024), strict=True):
        distance = rows.square().sum(dim=1, keepdim=True) + squares - 2 * rows @ bank_X.T
        nearest, index = distance.topk(min(n_candidates, len(bank_X)), largest=False)
        reached = bank_weight[index].cumsum(dim=1) >= mass * (1 - 1e-6)
        last = reached.to(torch.int8).argmax(dim=1, keepdim=True)
        last[~reached.any(dim=1)] = nearest.shape[1] - 1
        # Ties count: rounding leaves equal distances only nearly equal.
        tolerance = 1e-9 * squares.mean() if X.dtype == torch.float64 else 0.0
        inside = bank_weight[index] * (nearest <= nearest.gather(1, last) + tolerance)
        other = bank_targets[index] != given[:, None]
        # A distance that overflows has no neighbourhood, and no disagreement.
        total = inside.sum(dim=1).clamp_min(torch.finfo(X.dtype).tiny)
        found.append((inside * other).sum(dim=1) / total)
    return torch.cat(found)
