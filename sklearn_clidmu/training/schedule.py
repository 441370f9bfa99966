"""The learning rate, step by step."""

from __future__ import annotations

import math
from typing import Any

from skorch.callbacks import Callback

from sklearn_clidmu.training.net import ReweightedNet


class CosineDecay(Callback):
    """Lowers the learning rate after every step, along half a wave of the cosine, to zero.

    Source: Loshchilov & Hutter, ICLR 2017, equation 5, without restarts.

    Parameters
    ----------
    n_steps : int
        Steps of the training.
    """

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Begin with the learning rate that the optimizer has."""
        self.n_taken = 0
        self.first = float(net.optimizer_.param_groups[0]["lr"])

    def on_batch_end(self, net: ReweightedNet, training: bool = False, **kwargs: Any) -> None:
        """Set the learning rate of the next step."""
        self.n_taken += 1
        share = (1 + math.cos(math.pi * self.n_taken / self.n_steps)) / 2
        net.set_learning_rate(share * self.first)

    def state_dict(self) -> dict[str, Any]:
        """Return how far it has come, and from where."""
        return {"n_taken": self.n_taken, "first": self.first}

    def load_state_dict(self, state: dict[str, Any], net: ReweightedNet) -> None:
        """Go on from there."""
        self.n_taken, self.first = state["n_taken"], state["first"]
