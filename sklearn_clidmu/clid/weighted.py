"""Statistics of rows that have sample weights: a row of weight s counts as s identical rows."""

from __future__ import annotations

import torch
from torch import Tensor


def shares(weight: Tensor) -> Tensor:
    """Weights over their sum in the last dimension; zero if all are, shape (..., n)."""
    return weight / weight.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values of which each counts ``weight`` times, shape ()."""
    return (weight * values).sum() / weight.sum()


def standard_deviation(values: Tensor, sample_weight: Tensor) -> Tensor:
    """Weighted standard deviation over the last dimension, kept above zero, shape (..., 1)."""
    return _center(values, sample_weight)[1]


def normal_rank(values: Tensor, sample_weight: Tensor) -> Tensor:
    """Rank of each value among all, in [0, 1], as if they were normal, shape (n,).

    The cumulative normal distribution with the values' mean and standard deviation. It needs no
    sorting, is smooth in the sample weights, and is 0.5 where all values are equal.
    """
    # From the least, so that equal values stay equal under rounding.
    least = values.where(sample_weight > 0, torch.inf).min()
    centered, deviation = _center(values - least, sample_weight)
    return torch.special.ndtr(centered / deviation)


def class_sums(values: Tensor, targets: Tensor, n_classes: int) -> Tensor:
    """Sum of the values of each class, shape (n_classes,)."""
    return values.new_zeros(n_classes).index_add_(0, targets, values)


def _center(values: Tensor, sample_weight: Tensor) -> tuple[Tensor, Tensor]:
    share = shares(sample_weight)
    centered = values - (share * values).sum(dim=-1, keepdim=True)
    deviation = (share * centered.square()).sum(dim=-1, keepdim=True).sqrt()
    return centered, deviation.clamp_min(torch.finfo(values.dtype).tiny ** 0.5)
