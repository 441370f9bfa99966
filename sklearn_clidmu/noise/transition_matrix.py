"""Transition matrix, from predictions alone.

Where a classifier that has not seen a row's label is surest of its class, the given labels
show the noise and little else: anchor points (Liu and Tao, TPAMI 2016; Patrini et al., CVPR 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_clidmu._settings import ANCHORS, PRIOR_ROWS
from sklearn_clidmu.clid.weighted import class_sums


def estimate_transition_matrix(
    proba: Tensor, targets: Tensor, sample_weight: Tensor, row: float = 1.0
) -> Tensor:
    """Estimate the probability of each given label (column) in each true class (row).

    ``proba`` has a score of each class, independent of the row's own label, shape (n, n_classes).
    ``row`` is the weight that counts as one row.
    """
    n_classes = proba.shape[1]
    surest, predicted = proba.max(dim=1)
    weight = sample_weight.to(proba)
    mass = class_sums(weight, predicted, n_classes)
    anchors = _anchor_weight(surest, predicted, weight, mass)
    counts = proba.new_zeros(n_classes, n_classes)
    counts.index_put_((predicted, targets), anchors, accumulate=True)
    n_anchors = counts.sum(dim=1)
    share = (n_anchors - counts.diagonal()) / n_anchors.clamp_min(torch.finfo(proba.dtype).tiny)
    # Rule of succession: anchor points without a wrong label do not prove that there is none.
    total = n_anchors.sum()
    noise_rate = ((mass * share).sum() / mass.sum() * total + row) / (total + 2 * row)
    prior, prior_mass = _uniform_noise(noise_rate, n_classes), PRIOR_ROWS * row
    counts = counts + prior_mass * prior
    # No wrong label is more frequent than the right one, or classes would be exchanged.
    wrong = counts - counts.diagonal().diag()
    counts = wrong + counts.diagonal().maximum(wrong.amax(dim=1)).diag()
    return counts / counts.sum(dim=1, keepdim=True)


def _anchor_weight(surest: Tensor, predicted: Tensor, weight: Tensor, mass: Tensor) -> Tensor:
    """Weight with which each row is an anchor of its predicted class, shape (n,).

    The surest rows of a class are taken until their weight is reached; of the last one, a part.
    """
    wanted = ANCHORS * mass
    order = torch.argsort(surest, descending=True, stable=True)
    order = order[torch.argsort(predicted[order], stable=True)]
    reached = weight[order].cumsum(dim=0)
    before = (mass.cumsum(dim=0) - mass)[predicted[order]]
    left = wanted[predicted[order]] - (reached - weight[order] - before)
    anchors = torch.empty_like(weight)
    anchors[order] = torch.minimum(left.clamp_min(0), weight[order])
    return anchors


def _uniform_noise(rate: Tensor, n_classes: int) -> Tensor:
    """Transition matrix of symmetric noise at ``rate``."""
    eye = torch.eye(n_classes, dtype=rate.dtype, device=rate.device)
    return (1 - rate) * eye + rate / (n_classes - 1) * (1 - eye)
