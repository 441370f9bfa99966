"""What is read out of a stage: every row in a final pass, and the curves over the epochs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_clidmu.clid.weight_nets import EvidenceNet
from sklearn_clidmu.training.data import CHUNK, Table
from sklearn_clidmu.training.meta_step import make_rows
from sklearn_clidmu.training.networks import FeatureTap
from sklearn_clidmu.training.stages import Stage

N_SAMPLED = 500
"""Rows whose evidence is kept, to show what the weighting net makes of it."""

CURVES = ("train_loss", "meta_loss", "clid", "disagreement", "valid_loss", "valid_score")
"""Entries of a net's history that are passed on."""


class Readings(NamedTuple):
    """What the final pass reads out of a stage for every row, each of shape (n,)."""

    confidence: Tensor
    """In the row's label, in [0, 1] and not zero for all rows."""
    predicted: Tensor
    """Most probable class, int64."""
    noise_scores: Tensor
    """With the evidence net one minus the confidence. Else one minus the geometric mean, over the
    epochs, of the given label's probability."""


def read_rows(stage: Stage) -> Readings:
    """Read every row in one final pass; ValueError if the net's output for one is not finite.

    The evidence of up to :data:`N_SAMPLED` rows stays with the net, as ``evidence_sample_``.
    """
    net, data, history = stage.net, stage.data, stage.history
    weight_net = getattr(net, "weight_net_", None) if stage.outcome == "finished" else None
    targets, training = data.table.targets, data.training.labels
    _record_unseen(stage)
    evidence = history.evidence()
    sample = training.rows[:: -(-len(training.rows) // N_SAMPLED)]
    net.evidence_sample_ = evidence[sample].cpu().numpy(), targets[sample].cpu().numpy()
    if isinstance(weight_net, EvidenceNet):
        weight_net.calibrate(evidence[training.rows], training.targets, training.sample_weight)
    confidence = torch.ones_like(history.sample_weight)
    predicted = torch.empty_like(targets)
    for chunk in torch.arange(len(confidence), device=confidence.device).split(CHUNK):
        part = data.table.take(chunk)
        logits, features = net.evaluate(part.inputs)
        predicted[chunk] = class_probabilities(logits, net.module_).argmax(dim=1)
        if weight_net is not None:
            confidence[chunk] = _confidence(weight_net, logits, features, part, evidence[chunk])
    # Weights that are all zero, or have overflown, do not compare rows.
    if not (confidence.any() and confidence.isfinite().all()):
        confidence = torch.ones_like(confidence)
    scores = -torch.expm1(-history.mean_loss().double())
    if isinstance(weight_net, EvidenceNet):
        scores = 1 - confidence.double()
    return Readings(confidence, predicted, scores)


@torch.no_grad()
def _confidence(
    weight_net: Any, logits: Tensor, features: Tensor, part: Table, evidence: Tensor
) -> Tensor:
    """Confidence in the labels of some rows, shape (n,)."""
    if isinstance(weight_net, EvidenceNet):
        return weight_net.weights(evidence, part.targets)
    rows = make_rows(logits, features, part.labels)
    return weight_net.confidence(weight_net.weights(rows), rows)


def _record_unseen(stage: Stage) -> None:
    """Record the losses of rows that training never saw."""
    unseen = (stage.history.n_visits == 0).nonzero().squeeze(1)
    if len(unseen):
        rows = stage.data.table.take(unseen)
        logits, _ = stage.net.evaluate(rows.inputs)
        losses = nn.functional.cross_entropy(logits, rows.targets, reduction="none")
        stage.history.record_losses(rows.labels, losses)


def class_probabilities(logits: Tensor, network: nn.Module) -> Tensor:
    """Probability of each class, float64; ValueError if one is not finite."""
    probabilities = logits.double().softmax(dim=1)
    if not probabilities.isfinite().all():
        fault = "X has rows too large for the network, whose output overflows"
        remedy = "scale the features, for example with sklearn.preprocessing.StandardScaler"
        if isinstance(network, FeatureTap):
            fault = f"module {network.name} returns numbers that are not finite for rows of X"
            remedy += ", or mend the module"
        raise ValueError(f"{fault}: {remedy}.")
    return probabilities


def training_curves(stages: list[Stage], predicting: int) -> dict[str, np.ndarray]:
    """Curves over the epochs of all stages, one after the other, each of shape (n_epochs,)."""
    epochs = [epoch for stage in stages for epoch in stage.net.history]
    curves = {
        name: np.array([epoch.get(name, np.nan) for epoch in epochs], dtype=float)
        for name in CURVES
        if any(name in epoch for epoch in epochs)
    }
    lengths = [len(stage.net.history) for stage in stages]
    curves["stage"] = np.repeat(np.arange(1, len(stages) + 1), lengths)
    curves["chosen"] = np.zeros(len(epochs), dtype=bool)
    net = stages[predicting].net
    if not net.diverged_:
        best = getattr(net, "best_epoch_", len(net.history))
        curves["chosen"][sum(lengths[:predicting]) + best - 1] = True
    return curves


def join_curves(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Curves of one fit after those of another, of which the second predicts."""
    n_first, n_second = len(first["stage"]), len(second["stage"])
    unknown = np.full(n_first, math.nan), np.full(n_second, math.nan)
    joined = {
        name: np.concatenate([first.get(name, unknown[0]), second.get(name, unknown[1])])
        for name in {**first, **second}
    }
    joined["stage"][n_first:] += first["stage"].max()
    joined["chosen"][:n_first] = False
    return joined
