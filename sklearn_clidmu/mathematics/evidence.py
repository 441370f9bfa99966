"""Evidence against a row's label.

Everything here is smooth in the sample weights: a row of weight s counts as s identical rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

N_EVIDENCE = 5
"""Columns of evidence: the last loss in units of that of a blind guess; the standings of the mean
loss, of the summed influence and of the lead of a rival class among all other rows; and the
distrust that an earlier training has left, 0 where there was none."""

DOUBT_BOUNDS = (1e-4, 1 - 1e-4)
"""No earlier training is believed to be surer than this."""


def standing(values: Tensor, sample_weight: Tensor) -> Tensor:
    """Where a value stands among all others, in [0, 1], shape (n,).

    The cumulative normal distribution with the values' mean and standard deviation: a rank
    that needs no sorting and treats near-ties nearly alike. 0.5 where all values are equal.

    Parameters
    ----------
    values, sample_weight : Tensor of shape (n,)
    """
    # From the least, so that equal values stay equal under rounding.
    least = values.where(sample_weight > 0, torch.inf).min()
    centred, deviation = _centre(values - least, sample_weight)
    return torch.special.ndtr(centred / deviation)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values of which each counts ``weight`` times, shape ()."""
    return (weight * values).sum() / weight.sum()


def standard_deviation(values: Tensor, sample_weight: Tensor) -> Tensor:
    """Weighted standard deviation over the last dimension, kept above zero, shape (...)."""
    return _centre(values, sample_weight)[1].squeeze(-1)


def _centre(values: Tensor, sample_weight: Tensor) -> tuple[Tensor, Tensor]:
    share = sample_weight / sample_weight.sum(dim=-1, keepdim=True)
    centred = values - (share * values).sum(dim=-1, keepdim=True)
    deviation = (share * centred.square()).sum(dim=-1, keepdim=True).sqrt()
    return centred, deviation.clamp_min(torch.finfo(values.dtype).tiny ** 0.5)


def distrust(trust: Tensor) -> Tensor:
    """Logarithm of the odds that a label is wrong, shape (n,).

    Parameters
    ----------
    trust : Tensor of shape (n,)
        In [0, 1].
    """
    return -trust.clamp(*DOUBT_BOUNDS).logit()


def class_sums(values: Tensor, targets: Tensor, n_classes: int) -> Tensor:
    """Sum of the values of each class, shape (n_classes,)."""
    return values.new_zeros(n_classes).index_add_(0, targets, values)


def class_means(values: Tensor, targets: Tensor, n_classes: int, sample_weight: Tensor) -> Tensor:
    """Mean of the values of each class, 0 where it has no rows, shape (n_classes,)."""
    mass = class_sums(sample_weight, targets, n_classes).clamp_min(torch.finfo(values.dtype).tiny)
    return class_sums(sample_weight * values, targets, n_classes) / mass


def agreement(
    first: Tensor, second: Tensor, targets: Tensor, n_classes: int, sample_weight: Tensor
) -> Tensor:
    """Correlation of two values among the rows of each class, shape (n_classes,).

    0 where a class has no rows, or where its rows are all alike.

    Parameters
    ----------
    first, second : Tensor of shape (n,)
    targets : Tensor of shape (n,), int64
    n_classes : int
    sample_weight : Tensor of shape (n,)
    """
    figures = torch.finfo(first.dtype)
    size = first.abs().max() * second.abs().max()
    negligible = figures.tiny + 100 * figures.eps * size  # what rounding makes of equal values

    def mean(values: Tensor) -> Tensor:
        return class_means(values, targets, n_classes, sample_weight)

    first, second = (values - mean(values)[targets] for values in (first, second))
    scale = (mean(first.square()) * mean(second.square())).sqrt()
    return mean(first * second) / scale.clamp_min(negligible)


def rival_margin(shares: Tensor, targets: Tensor) -> Tensor:
    """Lead of the strongest other class over the given one, shape (n,).

    Parameters
    ----------
    shares : Tensor of shape (n, n_classes)
    targets : Tensor of shape (n,), int64
        Given labels.
    """
    given = targets[:, None]
    rivals = shares.scatter(1, given, -torch.inf).amax(dim=1)
    return rivals - shares.gather(1, given).squeeze(1)
