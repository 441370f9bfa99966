"""What training has seen of each row so far."""

from __future__ import annotations

import math
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_clidmu.mathematics.evidence import standing
from sklearn_clidmu.training.batches import Labels

LARGEST_LOSS = 100.0
"""Losses are entered up to here: no label is less probable than e^-100, and sums stay finite."""


class Ledger:
    """Losses and summed influence of every row, over all its visits.

    Parameters
    ----------
    sample_weight : Tensor of shape (n,)
        How much each row counts where rows are compared; 0 for rows that are not trained on.
    n_classes : int
        Losses are read in units of log(n_classes), the loss of a blind guess.
    rivalry : Tensor of shape (n,), optional
        Lead of a rival class among all other rows; by default not known, and equal.
    distrust : Tensor of shape (n,), optional
        What an earlier training has left (:func:`sklearn_clidmu.mathematics.evidence.distrust`).
    """

    def __init__(
        self,
        sample_weight: Tensor,
        n_classes: int,
        rivalry: Tensor | None = None,
        distrust: Tensor | None = None,
    ) -> None:
        self.sample_weight = sample_weight
        self.n_classes = n_classes
        self.rivalry = torch.zeros_like(sample_weight) if rivalry is None else rivalry
        self.distrust = torch.zeros_like(sample_weight) if distrust is None else distrust
        self.clear()

    def clear(self) -> None:
        """Forget all that has been entered."""
        self.last_loss = torch.zeros_like(self.sample_weight)
        self.loss = torch.zeros_like(self.sample_weight)
        self.influence = torch.zeros_like(self.sample_weight)
        self.n_visits = torch.zeros_like(self.sample_weight)

    def record_losses(self, labels: Labels, losses: Tensor) -> None:
        """Enter the losses of one batch, in which no row comes twice."""
        losses = losses.clamp_max(LARGEST_LOSS)
        self.n_visits.index_add_(0, labels.rows, torch.ones_like(losses))
        self.last_loss.index_copy_(0, labels.rows, losses)
        self.loss.index_add_(0, labels.rows, losses)

    def record_influence(self, labels: Labels, influence: Tensor) -> None:
        """Enter the influences of one batch, or of a stack of batches."""
        self.influence.index_add_(0, labels.rows.flatten(), influence.flatten())

    def copy_entries(self) -> list[Tensor]:
        """Everything entered so far, for :meth:`put_back`."""
        entered = (self.n_visits, self.last_loss, self.loss, self.influence)
        return [entries.clone() for entries in entered]

    def put_back(self, entries: list[Tensor]) -> None:
        """Forget what has been entered since the copy was made."""
        entered = (self.n_visits, self.last_loss, self.loss, self.influence)
        for now, before in zip(entered, entries, strict=True):
            now.copy_(before)  # in place: recorded steps enter into these

    def mean_loss(self) -> Tensor:
        """Mean cross entropy of each row over its visits, 0 before the first, shape (n,)."""
        return self.loss / self.n_visits.clamp_min(1)

    def evidence(self) -> Tensor:
        """Evidence against each row's label, shape (n, N_EVIDENCE)."""
        columns = (
            self.last_loss / math.log(self.n_classes),
            standing(self.mean_loss(), self.sample_weight),
            standing(self.influence, self.sample_weight),
            standing(self.rivalry, self.sample_weight),
            self.distrust,
        )
        return torch.stack(columns, dim=1)


class LossRecord(Callback):
    """Enters the losses of every training batch into the ledger.

    Parameters
    ----------
    ledger : Ledger
    """

    kind = ()

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def state_dict(self) -> dict[str, Any]:
        """Return everything entered so far."""
        return {"entries": self.ledger.copy_entries()}

    def load_state_dict(self, state: dict[str, Any], net: Any) -> None:
        """Enter it."""
        self.ledger.put_back([entries.to(self.ledger.loss) for entries in state["entries"]])

    def on_logits(self, net: Any, labels: Labels, losses: Tensor, **kwargs: Any) -> None:
        """Enter one batch."""
        self.ledger.record_losses(labels, losses)
