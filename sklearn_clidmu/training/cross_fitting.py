"""Short trainings without reweighting that predict the rows they have left out.

They choose the weight decay, and they tell of each label what is predicted without it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import Tensor, nn

from sklearn_clidmu._settings import (
    CHOICE_HELD_OUT,
    CHOICE_ROWS,
    SHORT_EPOCHS,
    WEIGHT_DECAYS,
    Settings,
    steps_per_epoch,
)
from sklearn_clidmu.clid.weighted import weighted_mean
from sklearn_clidmu.training.data import Table, TrainingData, hold_out
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.net_factory import build_net, step_callbacks


def choose_weight_decay(
    settings: Settings, data: TrainingData, start: float | None = None
) -> float:
    """Weight decay of least Brier score on held-out rows, which keep their noisy labels.

    From ``start``, or from the middle of the candidates, up or else down as long as the score
    falls. The Brier score is bounded, so that a few wrong labels that are predicted with certainty
    do not decide.
    """
    table, seed = data.training, torch.initial_seed()
    codes, random_state = table.targets.cpu().numpy(), seed % 2**32
    drawn = np.random.RandomState(random_state).permutation(len(codes))[:CHOICE_ROWS]
    held_out = hold_out(codes, drawn, CHOICE_HELD_OUT, random_state)
    kept = np.setdiff1d(drawn, held_out)
    valid, train = (table.take(torch.from_numpy(r).to(table.X.device)) for r in (held_out, kept))

    @cache
    def score(number: int) -> float:
        decayed = replace(settings, weight_decay=WEIGHT_DECAYS[number])
        logits, _ = train_briefly(decayed, data, train).evaluate(valid.X)
        return _brier_score(logits, valid)

    last = len(WEIGHT_DECAYS) - 1
    number = len(WEIGHT_DECAYS) // 2 if start is None else WEIGHT_DECAYS.index(start)
    step = 1 if number < last and score(number + 1) < score(number) else -1
    while 0 <= number + step <= last and score(number + step) < score(number):
        number += step
    return WEIGHT_DECAYS[number]


def cross_fit(settings: Settings, data: TrainingData) -> tuple[Tensor, Tensor]:
    """Predict every row that has a label by networks that were not trained on it.

    Returns the positions of the rows, shape (m,), and sums of probabilities, (m, n_classes). Rows
    that are trained on are predicted by the network that leaves out their fold; rows that are not,
    by all networks. The sums are over the epochs: early ones have memorized little.
    """
    labels, n_classes = data.training.labels, data.n_classes
    predicted = torch.ones(len(data.table), dtype=torch.bool, device=labels.rows.device)
    predicted[data.unlabeled] = False
    total = torch.zeros(len(data.table), n_classes, dtype=torch.float64, device=labels.rows.device)
    seed = torch.initial_seed()
    folds = draw_folds(labels.targets.cpu().numpy(), settings.n_folds, seed % 2**32)
    for fold in range(settings.n_folds):
        kept = torch.from_numpy(np.flatnonzero(folds != fold)).to(labels.rows.device)
        left_out = predicted.index_fill(0, labels.rows[kept], False).nonzero()[:, 0]
        record = EpochMean(data.table.take(left_out).X)
        train_briefly(settings, data, data.training.take(kept), [("mean", record)])
        total.index_add_(0, left_out, record.total)
    rows = predicted.nonzero()[:, 0]
    return rows, total[rows]


def draw_folds(codes: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold of each row, shape (n,); rows of a class are spread evenly over the folds."""
    shuffled = np.random.RandomState(seed).permutation(len(codes))
    folds = np.empty(len(codes), dtype=np.int64)
    folds[shuffled[np.argsort(codes[shuffled], kind="stable")]] = np.arange(len(codes)) % n_folds
    return folds


def train_briefly(
    settings: Settings,
    data: TrainingData,
    table: Table,
    callbacks: list[tuple[str, Any]] | None = None,
) -> ReweightedNet:
    """Train a network on a table without reweighting, for a part of a stage's epochs.

    All start from the same parameters; the generator is put back.
    """
    seed = torch.initial_seed()
    torch.manual_seed(seed)
    n_epochs = max(round(SHORT_EPOCHS * settings.labeled.n_epochs), 1)
    n_steps = n_epochs * math.prod(steps_per_epoch(len(table), settings.batch_size))
    data = data._replace(training=table, held_out=None)
    net = build_net(replace(settings, weighting=None), n_epochs, data, None)
    net.callbacks = [*step_callbacks(n_steps), *(callbacks or [])]
    net.initialize_callbacks().partial_fit(table)
    torch.manual_seed(seed)
    return net


class EpochMean(Callback):
    """Adds up the probabilities of some rows over the epochs."""

    def __init__(self, X: Any) -> None:
        self.X = X
        self.total: Any = 0.0

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Predict the rows."""
        logits, _ = net.evaluate(self.X)
        self.total = self.total + logits.double().softmax(dim=1).nan_to_num()


def _brier_score(logits: Tensor, valid: Table) -> float:
    true = nn.functional.one_hot(valid.labels.targets, logits.shape[1])
    score = weighted_mean((logits.softmax(1) - true).square().sum(1), valid.sample_weight)
    return float(score.nan_to_num(torch.inf))
