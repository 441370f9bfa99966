"""Whether a fitted classifier, and its noise estimate, know more than the class frequencies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from sklearn_clidmu.clid.weighted import weighted_mean
from sklearn_clidmu.noise.label_z_score import label_z_score
from sklearn_clidmu.training.data import CHUNK
from sklearn_clidmu.training.networks import FeatureTap
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


UNTOLD = Doubt(f"no part has {FEWEST_ROWS} rows outside its largest class", warned=False)
"""These rows are too few to tell. After ``fit`` that is no reason for doubt, since rare classes are
common. After ``partial_fit`` it is one if no part can tell: the parts may be sorted by class."""


def find_doubt(stage: Stage, prior: Prior | None, predicted: np.ndarray) -> Doubt | None:
    """Why a classifier knows no more than the class frequencies; None if it knows more.

    The network of the stage that predicts is asked for the rows that it was trained on. Where
    labels have been predicted without being seen, these predictions must know something, too: a
    network may have memorized labels that follow nothing. A network that predicts one class for all
    rows has not learned if most labels are others, whatever its probabilities.
    """
    training, n_classes = stage.data.training, stage.data.n_classes
    n_rows, targets = len(training), training.targets
    if n_rows - int(torch.bincount(targets, minlength=n_classes).max()) < FEWEST_ROWS:
        return UNTOLD
    is_constant = len(np.unique(predicted)) == 1
    agreement = weighted_mean(targets == int(predicted[0]), training.sample_weight)
    learned = network_z_score(stage) > CHANCE and not (is_constant and agreement < 0.5)
    unseen = None if prior is None else prior.z_score
    followed = unseen is not None and unseen > CHANCE
    unfollowed = unseen is not None and not followed
    if learned and not unfollowed:
        return None
    warned = n_rows >= WARNED_ROWS and (unfollowed or is_constant)
    if followed:
        return Doubt(_network_fault(stage), warned)
    if n_rows < FEW_ROWS * n_classes:
        return Doubt(f"{n_rows} rows are too few for {n_classes} classes", warned)
    cause = "the labels follow nothing in X, as if rows and labels were in different orders"
    return Doubt(cause if unfollowed else f"{cause}, or {_network_fault(stage)}", warned)


def network_z_score(stage: Stage) -> float:
    """Compute the z-score of the network on the labels of up to :data:`CHUNK` rows trained on."""
    training = stage.data.training
    step = -(-len(training) // CHUNK)
    rows = training.take(torch.arange(0, len(training), step, device=training.X.device))
    logits, _ = stage.net.evaluate(rows.inputs)
    return label_z_score(logits.softmax(dim=1), rows.targets, rows.sample_weight)


def _network_fault(stage: Stage) -> str:
    module = stage.net.module_
    if isinstance(module, FeatureTap):
        return (
            f"module {module.name} has not learned what is in X; scale its columns, for example "
            "with sklearn.preprocessing.StandardScaler, since a module receives them as they are"
        )
    return "the network has not learned what is in X; lower weight_decay, or raise max_epochs or lr"
