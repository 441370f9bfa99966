"""Which parameters predict in the end: the moving average, and the epochs that are kept."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from skorch.callbacks import Callback

from sklearn_clidmu.mathematics.backbone import Ensemble
from sklearn_clidmu.training.net import ReweightedNet, StopTraining


class WeightAverage(Callback):
    """Keeps a moving average of the parameters, and predicts with it in the end.

    It forgets its start: the decay is that of the net only once about 10 / (1 - decay) steps have
    been taken.
    """

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Start from the network as it is."""
        average = net.averaged_module_
        self.n_steps = 0
        # Looked up once: a walk over the modules costs more than the average itself.
        self.means, self.values = (
            [p.detach() for p in module.parameters() if p.is_floating_point()]
            for module in (average, net.module_)
        )
        self.has_buffers = any(True for _ in average.buffers())

    def on_batch_end(self, net: ReweightedNet, training: bool = False, **kwargs: Any) -> None:
        """Move the average by one step; running statistics are taken as they are."""
        assert net.ema_decay is not None
        decay = min(net.ema_decay, self.n_steps / (9 + self.n_steps))
        self.n_steps += 1
        torch._foreach_lerp_(self.means, self.values, 1 - decay)
        if self.has_buffers:  # looked up at every step: a module may put others in their place
            pairs = zip(net.averaged_module_.buffers(), net.module_.buffers(), strict=True)
            for mean, value in pairs:
                mean.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps it has seen."""
        return {"n_steps": self.n_steps}

    def load_state_dict(self, state: dict[str, Any], net: ReweightedNet) -> None:
        """Go on from there."""
        self.n_steps = state["n_steps"]

    def on_train_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Put the average in the network's place."""
        net.module_.load_state_dict(net.averaged_module_.state_dict())
        del net.averaged_module_, self.means, self.values


class Snapshots(Callback):
    """Keeps the networks of the best epochs and predicts with their mean in the end.

    Parameters
    ----------
    n_snapshots : int
        Number of epochs that are kept.
    key : str
        Entry of the history by which epochs are compared.
    lower_is_better : bool
    """

    def __init__(self, n_snapshots: int, key: str, lower_is_better: bool) -> None:
        self.n_snapshots = n_snapshots
        self.key = key
        self.lower_is_better = lower_is_better

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Forget earlier trainings."""
        self.kept: list[tuple[float, int, torch.nn.Module]] = []

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Keep this epoch's network if it is among the best; the earlier one of two equals."""
        value = net.history[-1, self.key]
        if not math.isfinite(value):
            return
        rank = (value if self.lower_is_better else -value, len(net.history))
        if len(self.kept) == self.n_snapshots and rank >= self.kept[-1][:2]:
            return
        self.kept.append((*rank, deepcopy(net.evaluated_module)))
        self.kept = sorted(self.kept, key=lambda entry: entry[:2])[: self.n_snapshots]

    def state_dict(self) -> dict[str, Any]:
        """Return the networks that are kept, the best first."""
        return {"kept": [(rank, epoch, m.state_dict()) for rank, epoch, m in self.kept]}

    def load_state_dict(self, state: dict[str, Any], net: ReweightedNet) -> None:
        """Keep those."""
        for rank, epoch, parameters in state["kept"]:
            module = deepcopy(net.evaluated_module)
            module.load_state_dict(parameters)
            self.kept.append((rank, epoch, module))

    def on_train_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Put the kept networks in the network's place."""
        modules = [module for _, _, module in self.kept]
        if modules:
            net.module_ = modules[0] if len(modules) == 1 else Ensemble(modules)
            net.chosen_epochs_ = [n_epochs - 1 for _, n_epochs, _ in self.kept]


class EarlyStopping(Callback):
    """Ends training once the hold-out's score has not risen for a while.

    Parameters
    ----------
    n_iter_no_change : int
        Epochs without a new best score.
    """

    def __init__(self, n_iter_no_change: int) -> None:
        self.n_iter_no_change = n_iter_no_change

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Stop if the best epoch lies too far back."""
        scores = net.history[:, "valid_score"]
        if len(scores) - 1 - scores.index(max(scores)) >= self.n_iter_no_change:
            raise StopTraining
