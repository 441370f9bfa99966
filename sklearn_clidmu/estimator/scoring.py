"""The final pass: how much each row was trusted, and how suspect its label is."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from sklearn_clidmu.estimator.preparation import Prepared
from sklearn_clidmu.mathematics.weighting import Rows
from sklearn_clidmu.training.net import ReweightedNet


def score_rows(
    net: ReweightedNet, data: Prepared, dissent: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Trust in, and suspicion of, the label of every row passed to fit.

    Parameters
    ----------
    net : ReweightedNet
        Trained.
    data : Prepared
        What it was trained on. Rows that training never saw are entered in the ledger.
    dissent : float or None
        Dissent at the end of training; None if the weighting net is to have no say.

    Returns
    -------
    sample_weights : ndarray of shape (n,)
        >= 0, mean 1.
    noise_scores : ndarray of shape (n,)
        In [0, 1].
    """
    labels, ledger = data.everything.labels, data.ledger
    logits, features = net.evaluate(data.everything.X)
    losses = F.cross_entropy(logits, labels.targets, reduction="none")
    unseen = (ledger.n_visits == 0).nonzero().squeeze(1)
    ledger.record_losses(data.everything[unseen][1], losses[unseen])
    noise_scores = -np.expm1(-ledger.mean_loss().double().cpu().numpy())
    trust = np.ones(len(losses))
    if dissent is not None:
        evidence = ledger.evidence()
        rows = Rows(losses, labels.targets, features, evidence, labels.sample_weight, dissent)
        with torch.no_grad():
            trusted = net.weight_net_.trust(net.weight_net_(rows), logits, rows)
        trust = trusted.double().cpu().numpy()
    # Weights that have all died out say nothing about one row against another.
    return trust / trust.mean() if trust.any() else np.ones(len(losses)), noise_scores
