"""How many of the labels given to each class can be believed, from predictions alone.

Where a classifier that has not seen a row's label is surest of its class, the labels given there
show the noise and little else: anchor points (Liu and Tao, TPAMI 2016; Patrini et al., CVPR 2017).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_clidmu.mathematics.evidence import class_sums, weighted_mean

ANCHORS = 0.2
"""Share of the rows predicted to be of a class, the surest, that show its noise."""

MIN_ANCHORS = 5
"""A class has at least as many anchors, in rows, where it has as many rows."""

PRIOR_ROWS = 10
"""As many further rows of each class show the noise of all classes together."""

COMMON_SHARE = 0.25
"""How far each class's share of right labels is drawn towards that of all classes together, beside
the prior rows: alone it is off by 0.09 on average on real data, so drawn by 0.07."""

BELIEVED_BOUNDS = (0.1, 0.999)
"""No class is believed less or more than this."""


class NoiseEstimate(NamedTuple):
    """What anchors say of the noise."""

    matrix: Tensor
    """Probability of the given label (column) in a true class (row), (n_classes, n_classes)."""
    rate: Tensor
    """Share of wrong labels among all, shape ()."""
    believed: Tensor
    """Share of right labels among those given to a class, shape (n_classes,)."""
    asymmetry: Tensor
    """How much more often a class is mistaken for its strongest rival than for each other class,
    in [0, 1], on average over the rows; 0 with two classes. Shape ()."""


def estimate_noise(
    shares: Tensor, targets: Tensor, sample_weight: Tensor, row: float = 1.0
) -> NoiseEstimate:
    """Noise matrix and share of right labels, class by class.

    Parameters
    ----------
    shares : Tensor of shape (n, n_classes)
        Scores of each class that do not depend on the row's own label.
    targets : Tensor of shape (n,), int64
        Given labels.
    sample_weight : Tensor of shape (n,)
        Not negative.
    row : float, default=1.0
        Weight that counts as one row.
    """
    n_classes = shares.shape[1]
    surest, predicted = shares.max(dim=1)
    weight = sample_weight.to(shares)
    mass = class_sums(weight, predicted, n_classes)
    anchors = _anchor_weight(surest, predicted, weight, mass, row)
    counts = shares.new_zeros(n_classes, n_classes)
    counts.index_put_((predicted, targets), anchors, accumulate=True)
    n_anchors = counts.sum(dim=1)
    wrong = (n_anchors - counts.diagonal()) / n_anchors.clamp_min(torch.finfo(shares.dtype).tiny)
    noise_rate = (mass * wrong).sum() / mass.sum()
    prior = _uniform_noise(noise_rate, n_classes)
    prior_mass = PRIOR_ROWS * row
    matrix = (counts + prior_mass * prior) / (n_anchors + prior_mass)[:, None]
    joint = mass[:, None] * matrix
    expected = joint.sum(dim=0)
    common = prior_mass + COMMON_SHARE / (1 - COMMON_SHARE) * expected
    believed = (joint.diagonal() + common * (1 - noise_rate)) / (expected + common)
    believed = believed.clamp(*BELIEVED_BOUNDS)
    return NoiseEstimate(matrix, noise_rate, believed, _asymmetry(matrix, mass))


def _anchor_weight(
    surest: Tensor, predicted: Tensor, weight: Tensor, mass: Tensor, row: float
) -> Tensor:
    """Weight with which each row is an anchor of its predicted class, shape (n,).

    The surest rows of a class are taken until their weight is reached; of the last one, a part.
    """
    wanted = torch.maximum(ANCHORS * mass, mass.clamp_max(MIN_ANCHORS * row))
    order = torch.argsort(surest, descending=True, stable=True)
    order = order[torch.argsort(predicted[order], stable=True)]
    reached = weight[order].cumsum(dim=0)
    before = (mass.cumsum(dim=0) - mass)[predicted[order]]
    left = wanted[predicted[order]] - (reached - weight[order] - before)
    anchors = torch.empty_like(weight)
    anchors[order] = torch.minimum(left.clamp_min(0), weight[order])
    return anchors


def _asymmetry(matrix: Tensor, mass: Tensor) -> Tensor:
    n_classes = len(matrix)
    if n_classes == 2:
        return matrix.new_zeros(())
    mistaken = matrix - matrix.diagonal().diag()
    rival = mistaken.amax(dim=1)
    others = (mistaken.sum(dim=1) - rival) / (n_classes - 2)
    return weighted_mean(rival - others, mass)


def _uniform_noise(rate: Tensor, n_classes: int) -> Tensor:
    """Noise matrix of labels that are wrong at ``rate``, in all ways alike."""
    eye = torch.eye(n_classes, dtype=rate.dtype, device=rate.device)
    return (1 - rate) * eye + rate / max(n_classes - 1, 1) * (1 - eye)
