"""Transition matrix, from predictions alone, and the counts of wrong labels that follow.

Where a classifier that has not seen a row's label is surest of its class, the given labels
show the noise and little else: anchor points (Liu and Tao, TPAMI 2016; Patrini et al., CVPR 2017).
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
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


def find_wrong(
    scores: np.ndarray, given: np.ndarray, suggested: np.ndarray, label_precision: np.ndarray | None
) -> np.ndarray:
    """Mask of the labels that count as wrong, shape (n,), bool.

    A label counts as wrong if it is not the most probable class. In each class at most as many do
    as the label precision allows, those of the highest scores: where classes overlap the network
    disagrees with right labels, too.
    """
    wrong = (given != suggested) & (given != -1)
    if label_precision is None:
        return wrong
    for code, share in enumerate(label_precision):
        rows = np.flatnonzero(wrong & (given == code))
        allowed = round((1 - share) * np.count_nonzero(given == code))
        order = np.argsort(-scores[rows], kind="stable")
        wrong[rows[order[allowed:]]] = False
    return wrong


def count_joint(
    wrong: np.ndarray, given: np.ndarray, suggested: np.ndarray, n_classes: int
) -> np.ndarray:
    """Count labeled rows by true class (row) and given label (column)."""
    labeled, true = given != -1, np.where(wrong, suggested, given)
    return confusion_matrix(true[labeled], given[labeled], labels=np.arange(n_classes))


def transition_matrix(joint: np.ndarray) -> np.ndarray:
    """Probability of the given label (column) in a true class (row), from counts.

    A class without rows keeps its labels, since nothing is known of its noise.
    """
    mass = joint.sum(axis=1, keepdims=True)
    return np.divide(joint, mass, out=np.eye(len(joint)), where=mass > 0)
