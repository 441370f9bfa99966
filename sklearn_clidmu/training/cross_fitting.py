"""Short trainings without reweighting that predict the rows they have left out.

They choose the weight decay, and they tell of each label what is predicted without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import Tensor, nn

from sklearn_clidmu._random import fit_seed, seed_generators
from sklearn_clidmu._settings import (
    CHOICE_HELD_OUT,
    CHOICE_ROWS,
    L2_PENALTIES,
    N_EPOCHS,
    SHORT_EPOCHS,
    Settings,
    steps_per_epoch,
)
from sklearn_clidmu.clid.weighted import weighted_mean
from sklearn_clidmu.training.callbacks import progress
from sklearn_clidmu.training.data import CHUNK, Table, TrainingData, hold_out
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.net_factory import build_net, step_callbacks


def choose_l2_penalty(settings: Settings, data: TrainingData) -> float:
    """L2 penalty whose network predicts held-out noisy labels best.

    From the lower middle of the candidates, towards the better neighbor as long as the Brier score
    of the held-out labels falls. It is bounded, so that a few wrong labels that are predicted with
    certainty do not decide.
    """
    table, seed = data.training, fit_seed()
    codes = table.targets.cpu().numpy()
    drawn = np.random.RandomState(seed).permutation(len(codes))[:CHOICE_ROWS]
    first = data.first_copy[table.labels.rows].cpu().numpy()
    held_out = hold_out(codes, drawn[one_of_each(first[drawn])], CHOICE_HELD_OUT, seed)
    is_held_out = np.isin(first[drawn], first[held_out])
    held_out, kept = np.sort(drawn[is_held_out]), np.sort(drawn[~is_held_out])
    valid, train = (table.take(torch.from_numpy(r).to(table.X.device)) for r in (held_out, kept))
    true = nn.functional.one_hot(valid.targets, data.n_classes)

    @cache
    def score(number: int) -> float:
        if not 0 <= number < len(L2_PENALTIES):
            return math.inf
        penalized = replace(settings, l2_penalty=L2_PENALTIES[number])
        logits, _ = train_briefly(penalized, data, train, watchers).evaluate(valid.inputs)
        losses = (logits.double().softmax(dim=1) - true).square().sum(dim=1)
        return float(weighted_mean(losses.nan_to_num(math.inf), valid.sample_weight.double()))

    with progress(settings.verbose, "Weight decay", len(L2_PENALTIES)) as watchers:
        number = (len(L2_PENALTIES) - 1) // 2
        step = 1 if score(number + 1) < score(number - 1) else -1
        while score(number + step) < score(number):
            number += step
    return L2_PENALTIES[number]


def cross_fit(settings: Settings, data: TrainingData) -> tuple[Tensor, Tensor]:
    """Predict every row that has a label by networks that were not trained on it.

    Copies are in one fold. Returns the positions of the rows, shape (m,), and sums of
    probabilities, (m, n_classes). Rows that are trained on are predicted by the network that leaves
    out their fold; rows that are not, by all networks. The sums are over the epochs: early ones
    have memorized little.
    """
    labels, n_classes = data.training.labels, data.n_classes
    total = torch.zeros(len(data.table), n_classes, dtype=torch.float64, device=labels.rows.device)
    seed = fit_seed()
    first, codes = (part.cpu().numpy() for part in (data.first_copy[labels.rows], labels.targets))
    drawn = one_of_each(first)
    fold_of = np.full(len(data.table), -1)  # none where neither row nor copy is trained on
    fold_of[first[drawn]] = draw_folds(codes[drawn], settings.n_folds, seed)
    folds = torch.from_numpy(fold_of).to(data.first_copy.device)[data.first_copy]
    with progress(settings.verbose, "Folds", settings.n_folds) as watchers:
        for fold in range(settings.n_folds):
            kept = (folds[labels.rows] != fold).nonzero()[:, 0]
            left_out = (data.labeled & ((folds == fold) | (folds < 0))).nonzero()[:, 0]
            callbacks = [("sum", EpochSum(data.table, left_out, total)), *watchers]
            train_briefly(settings, data, data.training.take(kept), callbacks)
    rows = data.labeled.nonzero()[:, 0]
    return rows, total[rows]


def one_of_each(first_copy: np.ndarray) -> np.ndarray:
    """Position of the first of the rows that are copies of each other, in their order."""
    return np.sort(np.unique(first_copy, return_index=True)[1])


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
    callbacks: Sequence[tuple[str, Any]] = (),
) -> ReweightedNet:
    """Train a network on a table without reweighting, for a part of a stage's epochs.

    All start from the same parameters; the generator is put back.
    """
    seed = torch.initial_seed()
    seed_generators(seed, table.X.device)
    n_epochs = settings.labeled.n_epochs
    if data.held_out is not None:  # with early stopping, more than are needed
        n_epochs = min(n_epochs, N_EPOCHS)
    n_epochs = max(round(SHORT_EPOCHS * n_epochs), 1)
    n_steps = n_epochs * math.prod(steps_per_epoch(len(table), settings.batch_size))
    data = data._replace(training=table, held_out=None)
    net = build_net(replace(settings, weighting=None), n_epochs, data, None)
    net.callbacks = [*step_callbacks(n_steps), *callbacks]
    net.initialize_callbacks().partial_fit(table)
    seed_generators(seed, table.X.device)
    return net


class EpochSum(Callback):
    """Adds the probabilities of some rows of a table to a total at the end of every epoch."""

    def __init__(self, table: Table, rows: Tensor, total: Tensor) -> None:
        self.table = table
        self.rows = rows
        self.total = total

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Predict the rows."""
        for rows in self.rows.split(CHUNK):
            logits, _ = net.evaluate(self.table.take(rows).inputs)
            self.total.index_add_(0, rows, logits.double().softmax(dim=1).nan_to_num())
