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

from sklearn_clidmu._random import draw_rows
from sklearn_clidmu._settings import POWERS, POWERS_ENTRIES, PRIOR_ROWS
from sklearn_clidmu.clid.weighted import class_sums, weighted_mean
from sklearn_clidmu.noise.transition_matrix import estimate_transition_matrix

LABEL_PRECISION_BOUNDS = (0.1, 0.999)
"""Least and greatest label precision of a class."""

LEAST_PROBA = 1e-3
"""What a source may say of a class at least, so that none has a veto."""

CHUNK = 8192
"""Rows whose sources are in memory together."""


class NoiseEstimate(NamedTuple):
    """Noise in the given labels."""

    matrix: Tensor
    """Probability of the given label (column) in a true class (row), (n_classes, n_classes)."""
    rate: Tensor
    """Share of wrong labels among all, shape ()."""
    label_precision: Tensor
    """Share of right labels among those given to a class, shape (n_classes,)."""


class LabelConfidence(NamedTuple):
    """What the model of the noise says of every label."""

    confidence: Tensor
    """Probability that each given label is right, shape (n,)."""
    noise: NoiseEstimate


def label_confidence(
    sources: list[Tensor],
    targets: Tensor,
    sample_weight: Tensor,
    generator: torch.Generator,
    row: float = 1.0,
) -> LabelConfidence:
    """Compute the probability that each given label is right.

    A source has the probabilities of each given label at each row, predicted without the row's own,
    shape (n, n_classes). ``row`` is the weight that counts as one row. The generator draws the rows
    that are read for the powers, if there are many.
    """
    weight = sample_weight.double()
    n_classes = sources[0].shape[1]
    pooled = torch.stack([_normalized(source.double()).log() for source in sources])
    pooled = pooled.mean(dim=0).softmax(dim=1)
    matrix = estimate_transition_matrix(pooled, targets, weight, row)
    drawn = draw_rows(weight, max(POWERS_ENTRIES // n_classes, 100), generator)
    log_transition = _log_transition(matrix, targets[drawn])
    powers = fit_powers(_log_sources(sources, matrix, drawn), log_transition, weight[drawn] / row)
    confidence = torch.empty_like(weight)
    for rows in torch.arange(len(weight), device=weight.device).split(CHUNK):
        given, log_proba = targets[rows], _log_sources(sources, matrix, rows)
        joint = _log_joint(powers, log_proba, _log_transition(matrix, given))
        confidence[rows] = joint.softmax(dim=1).gather(1, given[:, None])[:, 0]
    return LabelConfidence(confidence, estimate_noise(matrix, confidence, targets, weight, row))


def estimate_noise(
    matrix: Tensor, confidence: Tensor, targets: Tensor, sample_weight: Tensor, row: float
) -> NoiseEstimate:
    """Noise rate and label precision that follow from the confidence in the labels."""
    n_classes, prior_mass = len(matrix), PRIOR_ROWS * row
    right = weighted_mean(confidence, sample_weight)
    mass = class_sums(sample_weight, targets, n_classes) + prior_mass
    precision = class_sums(sample_weight * confidence, targets, n_classes) + prior_mass * right
    return NoiseEstimate(matrix, 1 - right, (precision / mass).clamp(*LABEL_PRECISION_BOUNDS))


def fit_powers(log_proba: Tensor, log_transition: Tensor, sample_weight: Tensor) -> Tensor:
    """Powers of the sources that give the labels the greatest likelihood, shape (n_sources,).

    ``log_proba`` has the log probabilities of the classes, shape (n_sources, n, n_classes), and
    ``log_transition`` that of each row's given label in each true class, shape (n, n_classes).
    """

    def loss(log_powers: Tensor) -> Tensor:
        joint = _log_joint(log_powers.exp(), log_proba, log_transition)
        likelihood = sample_weight @ joint.logsumexp(dim=1)
        # A tenth of a row against powers without bound.
        return (0.1 * log_powers.square().sum() - likelihood) / sample_weight.sum()

    found = []
    with torch.enable_grad():
        for start in POWERS:  # the likelihood has local maxima
            log_powers = log_proba.new_full((len(log_proba),), start).log().requires_grad_()
            optimizer = torch.optim.LBFGS([log_powers], max_iter=100, line_search_fn="strong_wolfe")

            def closure(
                optimizer: torch.optim.Optimizer = optimizer, log_powers: Tensor = log_powers
            ) -> Tensor:
                optimizer.zero_grad()
                value = loss(log_powers)
                value.backward()
                return value

            optimizer.step(closure)
            found.append((float(loss(log_powers.detach())), log_powers.detach().exp()))
    return min(found, key=lambda one: one[0])[1]


def _log_transition(matrix: Tensor, targets: Tensor) -> Tensor:
    """Log probability of each row's given label in each true class, (n, n_classes)."""
    return matrix.log()[:, targets].T


def _log_joint(powers: Tensor, log_proba: Tensor, log_transition: Tensor) -> Tensor:
    """Log probability of each true class together with the given label, (n, n_classes)."""
    pooled = torch.einsum("k,kij->ij", powers, log_proba)
    return pooled.log_softmax(dim=1) + log_transition


def _log_sources(sources: list[Tensor], matrix: Tensor, rows: Tensor) -> Tensor:
    """Log probabilities of some rows, of each source and one step back from it, (2 k, m, C)."""
    forward = [_normalized(source[rows].double()) for source in sources]
    backward = [_normalized(source @ matrix.T, least=LEAST_PROBA**2) for source in forward]
    return torch.stack(forward + backward).log()


def _normalized(proba: Tensor, least: float = LEAST_PROBA) -> Tensor:
    proba = proba.clamp_min(0)
    proba = proba / proba.sum(dim=1, keepdim=True).clamp_min(torch.finfo(proba.dtype).tiny) + least
    return proba / proba.sum(dim=1, keepdim=True)
