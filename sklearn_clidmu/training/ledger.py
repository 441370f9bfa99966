"""What training has seen of each row so far."""

from __future__ import annotations

from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_clidmu.mathematics.evidence import standing
from sklearn_clidmu.training.batches import Labels


class Ledger:
    """Mean loss and summed influence of every row, over all its visits.

    Parameters
    ----------
    sample_weight : Tensor of shape (n,)
        How much each row counts where rows are compared; 0 for rows that are not trained on.
    disagreement : Tensor of shape (n,)
        Share of a row's neighbours with another label.
    """

    def __init__(self, sample_weight: Tensor, disagreement: Tensor) -> None:
        self.sample_weight = sample_weight
        self.disagreement = disagreement
        self.loss = torch.zeros_like(sample_weight)
        self.influence = torch.zeros_like(sample_weight)
        self.n_visits = torch.zeros_like(sample_weight)

    def record_losses(self, labels: Labels, losses: Tensor) -> None:
        """Enter the losses of one batch, in which no row comes twice."""
        self.n_visits[labels.rows] += 1
        self.loss[labels.rows] += losses

    def record_influence(self, labels: Labels, influence: Tensor) -> None:
        """Enter the influences of one batch, in which no row comes twice."""
        self.influence[labels.rows] += influence

    def mean_loss(self) -> Tensor:
        """Mean cross entropy of each row over its visits, 0 before the first, shape (n,)."""
        return self.loss / self.n_visits.clamp_min(1)

    def evidence(self) -> Tensor:
        """Evidence against each row's label, shape (n, N_EVIDENCE)."""
        columns = (
            standing(self.mean_loss(), self.sample_weight),
            standing(self.influence, self.sample_weight),
            self.disagreement,
        )
        return torch.stack(columns, dim=1)


class LossRecord(Callback):
    """Enters the losses of every training batch into the ledger.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def on_logits(self, net: Any, labels: Labels, losses: Tensor, **kwargs: Any) -> None:
        """Enter one batch."""
        self.ledger.record_losses(labels, losses)
