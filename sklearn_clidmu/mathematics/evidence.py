"""Evidence against a row's label.

Everything here is smooth in the sample weights: a row of weight s counts as s identical rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

N_EVIDENCE = 4
"""Columns of evidence: the last loss in units of that of a blind guess, and the standings of the
mean loss, of the summed influence and of the lead of a rival class among all other rows."""


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
