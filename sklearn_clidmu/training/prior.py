"""What is known of the features and the labels before training."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_clidmu._random import fit_seed, own_generator
from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu._settings import Settings
from sklearn_clidmu.clid.weighted import class_sums
from sklearn_clidmu.noise.feature_relevance import feature_relevance
from sklearn_clidmu.noise.label_confidence import (
    NoiseEstimate,
    estimate_noise,
    label_confidence,
)
from sklearn_clidmu.noise.label_z_score import label_z_score
from sklearn_clidmu.noise.loo_kernel_ridge import dense_rows, loo_proba
from sklearn_clidmu.training.cross_fitting import choose_l2_penalty, cross_fit
from sklearn_clidmu.training.data import SparseRows, TrainingData, with_confirmed


class Prior(NamedTuple):
    """What is known of the labels before training."""

    X: Tensor
    """Dense rows, shape (n, d)."""
    scaler: RobustScaler
    """Scales rows for the kernel regression."""
    proba: Tensor
    """Predicted probability of each label at each row, by the leave-one-out kernel regression,
    shape (n, n_classes)."""
    confidence: Tensor
    """Probability that each label is right, shape (n,)."""
    noise: NoiseEstimate
    row: float
    """Weight that counts as one row."""
    z_score: float | None
    """Greatest ``label_z_score`` of predictions without the row's own label; None without
    cross-fitted networks."""


def weigh_features(settings: Settings, data: TrainingData) -> TrainingData:
    """Make the scaler multiply each feature by its relevance to the labels that are trained on.

    A training set that fits in one batch has too few rows to tell.
    """
    is_read = settings.module is None or settings.judges_labels
    if data.scaler is None or settings.one_batch or not is_read:
        return data
    X, scaler = _dense_rows(data)
    targets = with_confirmed(data).table.targets
    weight = trained_weight(data)
    relevance = feature_relevance(X, targets, data.n_classes, weight, own_generator(), scaler)
    scaler = deepcopy(scaler)
    scaler.relevance.copy_(relevance)
    return data._replace(scaler=scaler)


def judge_labels(settings: Settings, data: TrainingData) -> tuple[Settings, Prior | None]:
    """Choose the weight decay, and compare each label with what is predicted without it."""
    if settings.weight_decay is None:
        settings = replace(settings, l2_penalty=choose_l2_penalty(settings, data))
    if not settings.judges_labels:
        return settings, None
    targets, weight = data.table.targets, trained_weight(data)
    X, scaler = _dense_rows(data)
    generator = own_generator()
    row = 1.0
    if settings.one_batch:  # where a row of weight s counts as s identical rows do
        copies = class_sums(weight, data.first_copy, len(weight))
        row = float(copies[copies > 0].mean())
    proba = loo_proba(
        X,
        targets,
        data.n_classes,
        weight,
        generator,
        first_copy=data.first_copy,
        row=row,
        scale=scaler,
    )
    sources, z_score = [proba], None
    if settings.n_folds:
        rows, predicted = cross_fit(settings, data)
        sources.append(proba.double().index_copy(0, rows, predicted))
        z_score = max(label_z_score(one, targets, weight) for one in sources)
    judged = label_confidence(sources, targets, weight, generator, row)
    noise = NoiseEstimate(*(part.to(weight) for part in judged.noise))
    confidence = judged.confidence.to(weight)
    return settings, Prior(X, scaler, proba, confidence, noise, row, z_score)


def trust_confirmed(data: TrainingData, prior: Prior | None) -> tuple[TrainingData, Prior | None]:
    """Train on the labels that are known to be right, with full confidence.

    They take the place of the given ones after these have been judged. From corrected labels the
    noise would be underestimated: those that are corrected first are the surest to be wrong.
    """
    known = data.confirmed >= 0
    if not known.any():
        return data, prior
    data = with_confirmed(data)
    if prior is None:
        return data, None
    weight, targets = trained_weight(data), data.table.targets
    right = prior.confidence.masked_fill(known, 1)
    noise = estimate_noise(prior.noise.matrix, right, targets, weight, prior.row)
    return data, prior._replace(confidence=right, noise=noise)


def _dense_rows(data: TrainingData) -> tuple[Tensor, RobustScaler]:
    """Rows for the kernel regression as vectors, with their scaler."""
    X = data.table.X
    if isinstance(X, SparseRows):
        used = (data.table.sample_weight > 0).cpu().numpy().nonzero()[0]
        dense = torch.from_numpy(dense_rows(X.matrix, fit_seed(), used))
        X = dense.to(X.device, X.dtype)
    X = X.flatten(start_dim=1)
    # That of an earlier dense table does not fit the singular vectors of a sparse one.
    if data.scaler is not None and data.scaler.sizes[0] == X.shape[1]:
        return X, data.scaler
    return X, RobustScaler.fit(X, data.table.sample_weight, own_generator()).to(X.dtype)


def trained_weight(data: TrainingData) -> Tensor:
    """Sample weights of all rows, 0 for those that are not trained on, shape (n,)."""
    labels = data.training.labels
    weight = torch.zeros_like(data.table.sample_weight)
    return weight.index_copy(0, labels.rows, labels.sample_weight)
