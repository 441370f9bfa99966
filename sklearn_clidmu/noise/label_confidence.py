"""Probability that each given label is right, from predictions made without it.

The model of the noise: the true class of a row has probabilities p, and a row of true class j is
given the label k with probability T[j, k], whatever its features. So the label k that was given is
right with probability p[k] T[k, k] / (p T)[k].

p is a product of powers of what several classifiers predict that have not seen the row's label,
normalized over the classes. They have learned from noisy labels, and predict those; where classes
are exchanged in one direction, the most probable label need not be the most probable class. So each
of them is a source twice, with its predictions q and with q T', a first step from labels back to
classes. The powers are those of greatest likelihood of the given labels: a source counts as much
as it explains labels that it has not seen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_clidmu._settings import POWERS, POWERS_ROWS, PRIOR_ROWS
from sklearn_clidmu.clid.weighted import class_sums, weighted_mean
from sklearn_clidmu.noise.transition_matrix import (
    LABEL_PRECISION_BOUNDS,
    NoiseEstimate,
    estimate_noise,
)

LEAST_PROBA = 1e-3
"""What a source may say of a class at least, so that none has a veto."""


class LabelConfidence(NamedTuple):
    """What is known of every label."""

    confidence: Tensor
    """Probability that each given label is right, shape (n,)."""
    noise: NoiseEstimate


def label_confidence(
    sources: list[Tensor], targets: Tensor, sample_weight: Tensor
) -> LabelConfidence:
    """Compute the probability that each given label is right.

    Parameters
    ----------
    sources : list of Tensor of shape (n, n_classes)
        Probabilities of each given label at each row, predicted without the row's own.
    targets : Tensor of shape (n,), int64
        Given labels.
    sample_weight : Tensor of shape (n,)
        Not negative.
    """
    sources = [_normalized(source.double()) for source in sources]
    weight = sample_weight.double()
    pooled = _normalized(torch.stack(sources).log().mean(dim=0).exp())
    matrix, _, _ = estimate_noise(pooled, targets, weight)
    backward = [_normalized(source @ matrix.T, least=LEAST_PROBA**2) for source in sources]
    log_proba = torch.stack([source.log() for source in sources + backward])
    log_channel = matrix.log()[:, targets].T
    step = -(-len(targets) // POWERS_ROWS)
    powers = fit_powers(log_proba[:, ::step], log_channel[::step], weight[::step])
    joint = torch.einsum("k,kij->ij", powers, log_proba).log_softmax(dim=1) + log_channel
    confidence = joint.softmax(dim=1).gather(1, targets[:, None])[:, 0]
    right = weighted_mean(confidence, weight)
    n_classes = len(matrix)
    mass = class_sums(weight, targets, n_classes) + PRIOR_ROWS
    precision = class_sums(weight * confidence, targets, n_classes) + PRIOR_ROWS * right
    precision = (precision / mass).clamp(*LABEL_PRECISION_BOUNDS)
    return LabelConfidence(confidence, NoiseEstimate(matrix, 1 - right, precision))


def fit_powers(log_proba: Tensor, log_channel: Tensor, sample_weight: Tensor) -> Tensor:
    """Powers of the sources that give the labels the greatest likelihood, shape (n_sources,).

    Parameters
    ----------
    log_proba : Tensor of shape (n_sources, n, n_classes)
        Log probabilities of the classes.
    log_channel : Tensor of shape (n, n_classes)
        Log probability of each row's given label in each true class.
    sample_weight : Tensor of shape (n,)
    """

    def loss(log_powers: Tensor) -> Tensor:
        pooled = torch.einsum("k,kij->ij", log_powers.exp(), log_proba)
        likelihood = (pooled.log_softmax(dim=1) + log_channel).logsumexp(dim=1)
        # A tenth of a row against powers without bound.
        return 0.1 * log_powers.square().sum() - sample_weight @ likelihood

    found = []
    with torch.enable_grad():
        for start in POWERS:  # the likelihood has local maxima
            log_powers = log_proba.new_full((len(log_proba),), start).log().requires_grad_()
            optimizer = torch.optim.LBFGS([log_powers], max_iter=100, line_search_fn="strong_wolfe")

            def closure(
                optimizer: torch.optim.Optimizer = optimizer, log_powers: Tensor = log_powers
            ) -> Tensor:
                optimizer.zero_grad()
                value = loss(log_powers) / sample_weight.sum()
                value.backward()
                return value

            optimizer.step(closure)
            log_powers = log_powers.detach()
            found.append((float(loss(log_powers)), log_powers.exp()))
    return min(found, key=lambda one: one[0])[1]


def _normalized(proba: Tensor, least: float = LEAST_PROBA) -> Tensor:
    proba = proba.clamp_min(0)
    proba = proba / proba.sum(dim=1, keepdim=True).clamp_min(torch.finfo(proba.dtype).tiny) + least
    return proba / proba.sum(dim=1, keepdim=True)
