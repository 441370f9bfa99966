"""The final pass: how much each row was trusted, and how suspect its label is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sklearn_clidmu.estimator.preparation import Prepared
from sklearn_clidmu.mathematics.weighting import Rows, cross_entropy_errors
from sklearn_clidmu.training.net import ReweightedNet

CHUNK = 8192
"""Rows whose features are in memory at a time."""


def row_trust(net: ReweightedNet, data: Prepared) -> Tensor:
    """Trust of the weighting net in the label of every row passed to fit.

    Parameters
    ----------
    net : ReweightedNet
        Trained, with a weighting net.
    data : Prepared
        What it was trained on. Rows that training never saw are entered in the ledger.

    Returns
    -------
    Tensor of shape (n,)
        In [0, 1], and not zero for all rows.
    """
    _enter_unseen(net, data)
    labels, training = data.everything.labels, data.training.labels
    evidence = data.ledger.evidence()
    net.weight_net_.balance(evidence[training.rows], training.targets, training.sample_weight)
    parts = []
    for chunk in torch.arange(len(labels.rows), device=evidence.device).split(CHUNK):
        some = data.everything.take(chunk)
        part = some.labels
        logits, features = net.evaluate(some.X)
        losses, errors = cross_entropy_errors(logits, part.targets)
        seen = evidence[chunk]
        rows = Rows(logits, losses, errors, part.targets, features, seen, part.sample_weight)
        with torch.no_grad():
            parts.append(net.weight_net_.trust(net.weight_net_.applied(rows), rows))
    trust = torch.cat(parts)
    # Weights that have all died out say nothing about one row against another.
    return trust if trust.any() else torch.ones_like(trust)


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
