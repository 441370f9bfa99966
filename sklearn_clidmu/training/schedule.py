"""The learning rate, step by step."""

from __future__ import annotations

from typing import Any

from skorch.callbacks import LRScheduler

from sklearn_clidmu.training.net import ReweightedNet


class Schedule(LRScheduler):
    """skorch's schedule of the learning rate, which can also go on where another has stopped."""

    def state_dict(self) -> dict[str, Any]:
        """Return how far it has come."""
        return {"n_steps": self.batch_idx_, "scheduler": self.lr_scheduler_.state_dict()}

    def load_state_dict(self, state: dict[str, Any], net: ReweightedNet) -> None:
        """Go on from there."""
        self.batch_idx_ = state["n_steps"]
        self.lr_scheduler_.load_state_dict(state["scheduler"])
