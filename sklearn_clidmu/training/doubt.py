"""Whether a fitted classifier, and its noise estimate, know more than the class frequencies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_clidmu.noise.label_z_score import label_z_score
from sklearn_clidmu.training.data import CHUNK
from sklearn_clidmu.training.prior import Prior
from sklearn_clidmu.training.stages import Stage

CHANCE = 2.5
"""Standard deviations that chance explains: random labels rarely seem to follow X by more."""

FEWEST_ROWS = 10
"""With fewer rows outside the largest class nothing can be told from chance."""

FEW_ROWS = 30
"""Rows of a class, on average, below which their number is the likely cause."""

WARNED_ROWS = 150
"""With fewer rows trained on, to learn nothing is common: the report says so, and no warning."""


class Doubt(NamedTuple):
    """Why a classifier knows no more than the class frequencies."""

    cause: str
    warned: bool
    """Whether this is worth a warning. It is not where the network has been trained too little, and
    predicts several classes at random: its training was asked for."""


def find_doubt(stage: Stage, prior: Prior | None, predicted: np.ndarray) -> Doubt | None:
    """Say why a classifier that knows no more than the class frequencies does not; None if it does.

    The network of the stage that predicts is asked for the rows that it was trained on. Where
    labels have been predicted without being seen, these predictions must know something, too: a
    network may have memorized labels that follow nothing.
    """
    training, n_classes = stage.data.training, stage.data.n_classes
    n_rows, targets = len(training), training.labels.targets
    if n_rows - int(torch.bincount(targets, minlength=n_classes).max()) < FEWEST_ROWS:
        return None
    learned = network_z_score(stage) > CHANCE
    unseen = None if prior is None else prior.z_score
    followed = unseen is not None and unseen > CHANCE
    unfollowed = unseen is not None and not followed
    if learned and not unfollowed:
        return None
    warned = n_rows >= WARNED_ROWS and (unfollowed or len(np.unique(predicted)) == 1)
    if followed:
        return Doubt(_network_fault(stage), warned)
    if n_rows < FEW_ROWS * n_classes:
        return Doubt(f"{n_rows} rows are too few for {n_classes} classes", warned)
    return Doubt("the labels follow nothing in X", warned)


def network_z_score(stage: Stage) -> float:
    """Compute the z-score of the network on the labels of up to :data:`CHUNK` rows trained on."""
    training = stage.data.training
    step = -(-len(training) // CHUNK)
    rows = training.take(torch.arange(0, len(training), step, device=training.X.device))
    logits, _ = stage.net.evaluate(rows.inputs)
    labels: tuple[Tensor, Tensor] = rows.labels.targets, rows.sample_weight
    return label_z_score(logits.softmax(dim=1), *labels)


def _network_fault(stage: Stage) -> str:
    name = getattr(stage.net.module_, "name", None)  # of a module of the caller's
    if name is not None:
        return (
            f"module {name} has not learned what is in X; scale its columns, for example with "
            "sklearn.preprocessing.StandardScaler, since a module receives them as they are"
        )
    return "the network has not learned what is in X; lower weight_decay, or raise max_epochs or lr"
