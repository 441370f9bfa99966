"""FixMatch and DivideMix for vectors: what unlabeled.py compares label spreading with.

Both go on from a fitted classifier. FixMatch (Sohn et al., NeurIPS 2020) and the semi-supervised
step of DivideMix (Li et al., ICLR 2020), which is that of MixMatch (Berthelot et al., NeurIPS
2019), are made for images. Here the strong augmentation is Gaussian noise and feature dropout, and
there is no weak one. The confidence in a given label, that of the fitted classifier, takes the
place of DivideMix's mixture model of the losses.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.noise.label_spreading import spread_labels

BATCH, N_EPOCHS, LR, MAX_GRADIENT_NORM, EMA_DECAY = 64, 24, 0.05, 3.0, 0.99

THRESHOLD = 0.9
"""FixMatch learns guesses that are at least so probable; published: 0.95."""

NOISE, FEATURE_DROPOUT = 0.2, 0.2
"""Standard deviation of the noise, of standardized features, and share of features set to 0."""

SHARPENING, MIXUP, OWN_GUESSES = 0.5, 0.75, 200
"""Temperature of the guesses and parameter of mixup's beta distribution, as published; steps after
which the new network takes part in guessing."""


class FixMatch:
    """Loss of the given labels, by confidence, plus that of the classes the average is sure of."""

    def __init__(self, first: CLIDMUClassifier, X: np.ndarray, y: np.ndarray, seed: int) -> None:
        labeled = y >= 0
        self.module = deepcopy(first.net_.module_).float()
        self.X, self.unlabeled = (torch.from_numpy(X[r]).float() for r in (labeled, ~labeled))
        self.targets = torch.from_numpy(np.searchsorted(first.classes_, y[labeled]))
        weights = torch.from_numpy(1 - first.noise_scores_[labeled]).float()
        self.weights = weights / weights.mean()

    def loss(self, average: nn.Module, step: int) -> Tensor:
        """Loss of one batch with a label and one without."""
        some = torch.randint(len(self.X), (BATCH,))
        rows = self.unlabeled[torch.randint(len(self.unlabeled), (BATCH,))]
        with torch.no_grad():
            sure, guesses = average(rows)[0].softmax(dim=1).max(dim=1)
        kept = torch.rand_like(rows) > FEATURE_DROPOUT
        strong = (rows + NOISE * torch.randn_like(rows)) * kept
        logits = self.module(torch.cat([self.X[some], strong]))[0]
        targets = torch.cat([self.targets[some], guesses])
        weights = torch.cat([self.weights[some], (sure >= THRESHOLD).float()])
        return weights @ F.cross_entropy(logits, targets, reduction="none") / BATCH


class CoGuessing:
    """Loss of a new network, with mixup, of what it and the first one guess together.

    The first network's guesses are smoothed by label spreading.
    """

    def __init__(self, first: CLIDMUClassifier, X: np.ndarray, y: np.ndarray, seed: int) -> None:
        labeled, proba = y >= 0, first.predict_proba(X)
        self.module = first.net_.module()
        guesses = _sharpened(torch.from_numpy(spread_labels(X, proba, seed))).numpy()
        given = np.eye(len(first.classes_))[np.searchsorted(first.classes_, y[labeled])]
        wrong = first.noise_scores_[labeled, None]
        guesses[labeled] = (1 - wrong) * given + wrong * proba[labeled]
        self.X, self.guesses = torch.from_numpy(X).float(), torch.from_numpy(guesses).float()
        self.labeled = torch.from_numpy(labeled)[:, None]

    def loss(self, average: nn.Module, step: int) -> Tensor:
        """Loss of one batch."""
        some = torch.randint(len(self.X), (BATCH,))
        rows, targets = self.X[some], self.guesses[some]
        if step > OWN_GUESSES:
            with torch.no_grad():
                guesses = _sharpened((average(rows)[0].softmax(dim=1) + targets) / 2)
            targets = torch.where(self.labeled[some], targets, guesses)
        share = torch.distributions.Beta(MIXUP, MIXUP).sample((BATCH, 1))
        share, other = torch.maximum(share, 1 - share), torch.randperm(BATCH)
        logits = self.module(share * rows + (1 - share) * rows[other])[0]
        return F.cross_entropy(logits, share * targets + (1 - share) * targets[other])


class ConsistencyClassifier(ClassifierMixin, BaseEstimator):
    """A fitted classifier, trained further on all rows.

    Parameters
    ----------
    first : CLIDMUClassifier
        Fitted to the same rows, which are standardized; -1 is no label.
    method : FixMatch or CoGuessing
    random_state : int
    """

    def __init__(self, first: CLIDMUClassifier, method: Any, random_state: int = 0) -> None:
        self.first = first
        self.method = method
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> ConsistencyClassifier:
        """Train as a stage of CLIDMUClassifier does, and keep the moving average."""
        torch.manual_seed(self.random_state)
        method = self.method(self.first, X, y, self.random_state)
        module, average = method.module, deepcopy(method.module).eval().requires_grad_(False)
        n_steps = N_EPOCHS * math.ceil(len(X) / BATCH)
        n_before = next(stage["n_rows"] for stage in self.first.stages_ if stage["predicts"])
        decay = self.first.weight_decay_ * n_before / len(X)  # of the same L2 penalty
        optimizer = torch.optim.SGD(
            module.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
        module.train()
        for step in range(n_steps):
            optimizer.zero_grad()
            method.loss(average, step).backward()
            nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            rate = 1 - min(EMA_DECAY, step / (9 + step))
            torch._foreach_lerp_([*average.parameters()], [*module.parameters()], rate)
        self.classes_, self.module_ = self.first.classes_, average
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Most probable class of each row."""
        with torch.no_grad():
            logits = self.module_(torch.from_numpy(X).float())[0]
        return self.classes_[logits.argmax(dim=1).numpy()]


def _sharpened(proba: Tensor) -> Tensor:
    """Probabilities at a temperature of :data:`SHARPENING`."""
    proba = proba ** (1 / SHARPENING)
    return proba / proba.sum(dim=1, keepdim=True)
