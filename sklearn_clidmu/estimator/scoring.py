"""The final pass: how much each row was trusted, what it is, and how suspect its label is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu.estimator.preparation import Prepared
from sklearn_clidmu.mathematics.backbone import FeatureTap, members
from sklearn_clidmu.mathematics.weighting import Rows, cross_entropy_errors
from sklearn_clidmu.training.net import ReweightedNet

CHUNK = 8192
"""Rows whose features are in memory at a time."""

N_KEPT = 500
"""Rows whose evidence is kept, to show what the weighting net makes of it."""


class Readings(NamedTuple):
    """What the final pass reads out of a net, for every row passed to fit."""

    trust: Tensor
    """In the row's label, in [0, 1] and not zero for all rows, shape (n,)."""
    predicted: Tensor
    """Most probable class, shape (n,), int64."""


def class_probabilities(logits: Tensor, network: nn.Module) -> Tensor:
    """Probability of each class, shape (n, n_classes), float64.

    Parameters
    ----------
    logits : Tensor of shape (n, n_classes)
    network : nn.Module
        That they come from.

    Raises
    ------
    ValueError
        If there are probabilities that are not finite.
    """
    probabilities = logits.double().softmax(dim=1)
    if not probabilities.isfinite().all():
        member = members(network)[0]
        fault = "X has rows too large for the network, whose output overflows"
        mend = "scale the features, for example with sklearn.preprocessing.StandardScaler"
        if isinstance(member, FeatureTap):
            fault = f"module {member.name} returns numbers that are not finite for rows of X"
            mend += ", if it is not the module's own fault"
        raise ValueError(f"{fault}: {mend}.")
    return probabilities


def read_rows(net: ReweightedNet, data: Prepared, weighted: bool = True) -> Readings:
    """Trust in the label of every row passed to fit, and its most probable class, in one pass.

    Parameters
    ----------
    net : ReweightedNet
        Trained; with a weighting net, if ``weighted``.
    data : Prepared
        What it was trained on. Rows that training never saw are entered in the ledger. The
        evidence and labels of up to :data:`N_KEPT` rows stay with it, as ``evidence_sample_``.
    weighted : bool, default=True
        Whether the weighting net is asked; otherwise all rows are trusted alike.

    Raises
    ------
    ValueError
        If the net's output for a row is not finite.
    """
    _enter_unseen(net, data)
    labels, training = data.everything.labels, data.training.labels
    trust = torch.ones_like(data.ledger.sample_weight)
    predicted = torch.empty_like(labels.targets)
    evidence = data.ledger.evidence()
    kept = training.rows[:: -(-len(training.rows) // N_KEPT)]
    net.evidence_sample_ = evidence[kept].cpu().numpy(), labels.targets[kept].cpu().numpy()
    if weighted:
        net.weight_net_.balance(evidence[training.rows], training.targets, training.sample_weight)
    for chunk in torch.arange(len(trust), device=trust.device).split(CHUNK):
        some = data.everything.take(chunk)
        part = some.labels
        logits, features = net.evaluate(some.X)
        predicted[chunk] = class_probabilities(logits, net.evaluated_module).argmax(dim=1)
        if weighted:
            losses, errors = cross_entropy_errors(logits, part.targets)
            seen = evidence[chunk]
            rows = Rows(logits, losses, errors, part.targets, features, seen, part.sample_weight)
            with torch.no_grad():
                trust[chunk] = net.weight_net_.trust(net.weight_net_.applied(rows), rows)
    # Weights that have all died out, or overflown, say nothing about one row against another.
    telling = trust.any() and trust.isfinite().all()
    return Readings(trust if telling else torch.ones_like(trust), predicted)


def row_suspicion(net: ReweightedNet, data: Prepared) -> np.ndarray:
    """How suspect the label of every row passed to fit is, in [0, 1], shape (n,).

    Parameters
    ----------
    net : ReweightedNet
        Trained.
    data : Prepared
        What it was trained on. Rows that training never saw are entered in the ledger.
    """
    _enter_unseen(net, data)
    return -np.expm1(-data.ledger.mean_loss().double().cpu().numpy())


def _enter_unseen(net: ReweightedNet, data: Prepared) -> None:
    """Enter the losses of rows that training never saw into the ledger."""
    unseen = (data.ledger.n_visits == 0).nonzero().squeeze(1)
    if len(unseen):
        rows = data.everything.take(unseen)
        labels = rows.labels
        logits, _ = net.evaluate(rows.X)
        losses = F.cross_entropy(logits, labels.targets, reduction="none")
        data.ledger.record_losses(labels, losses)
