"""The skorch net that trains the network on a loss that a meta step may reweight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu.clid.weighted import weighted_mean
from sklearn_clidmu.training.data import SparseRows

FIXED: dict[str, Any] = {
    "criterion": nn.CrossEntropyLoss,
    "train_split": None,
    # skorch's own choice reads the criterion, which a net that only predicts has no more.
    "predict_nonlinearity": partial(torch.softmax, dim=-1),
    "verbose": 0,
}
"""Parameters of skorch's net that are the same in all of ours."""


class StopTraining(Exception):  # noqa: N818, an order and not an error
    """Raised by a callback to end training in good order.

    skorch itself ends training with KeyboardInterrupt and so swallows a real Ctrl-C.
    """


class ReweightedNet(NeuralNet):
    """A skorch net on the sample-weighted cross entropy, or on the loss of a meta step.

    ``module`` builds a network that returns (logits, features), and ``weight_net`` the weighting
    net from it. ``optimizer_`` trains ``module_`` alone, and is None for a net that only predicts;
    the meta step trains ``weight_net_`` and belongs among the callbacks, too. With ``averaged``,
    ``averaged_module_`` is the moving average of ``module_``, which predicts while there is one.
    ``collapse_epoch_`` and ``diverged_`` are set where a stage goes wrong.
    """

    module_: nn.Module
    weight_net_: nn.Module

    def __init__(
        self,
        module: Any,
        *,
        weight_net: Any = None,
        averaged: bool = False,
        meta_step: Any = None,
        **kwargs: Any,
    ) -> None:
        self.weight_net = weight_net
        self.averaged = averaged
        self.meta_step = meta_step
        super().__init__(module, **{**FIXED, **kwargs})

    def get_default_callbacks(self) -> list:
        """Return none: every callback is one that was asked for."""
        return []

    def initialize_module(self) -> ReweightedNet:
        """Build the network, its weighting net and its moving average."""
        super().initialize_module()
        if self.weight_net is not None:
            with torch.random.fork_rng(devices=[]):  # training draws the same without it
                self.weight_net_ = self.weight_net(self.module_)
        if self.averaged:
            self.averaged_module_ = deepcopy(self.module_)
        self.n_steps_ = 0
        self.collapse_epoch_: int | None = None
        self.diverged_ = False
        return self

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> ReweightedNet:
        """Build the optimizer, unless the net only predicts."""
        return self if self.optimizer is None else super().initialize_optimizer(*args, **kwargs)

    def get_all_learnable_params(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that ``optimizer_`` trains: those of ``module_`` alone."""
        yield from self.module_.named_parameters()

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Forward and backward pass of one batch; the result goes to ``on_batch_end``."""
        self.n_steps_ += 1
        if not self.module_.training:
            self.module_.train()
        X, labels = batch
        logits, features = self.module_(X)
        losses = F.cross_entropy(logits, labels.targets, reduction="none")
        loss = None
        if self.meta_step is not None:
            loss = self.meta_step.training_loss(self, X, labels, logits, features, losses)
        if loss is None:
            loss = weighted_mean(losses, labels.sample_weight)
        loss.backward()
        return {
            "loss": loss.detach(),
            "y_pred": logits.detach(),
            "features": features.detach(),
            "losses": losses.detach(),
        }

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> ReweightedNet:
        """Train; unlike skorch's own, let KeyboardInterrupt through."""
        self.notify("on_train_begin", X=X, y=y)
        # Means of losses that overflow are infinite; the collapse detector reports them.
        with suppress(StopTraining), np.errstate(over="ignore"):
            self.fit_loop(X, y, **fit_params)
        self.notify("on_train_end", X=X, y=y)
        return self

    @property
    def evaluated_module(self) -> nn.Module:
        """The network that would predict now: the moving average while there is one."""
        return getattr(self, "averaged_module_", self.module_)

    def outputs(
        self, X: Tensor | SparseRows, batch_size: int = 1024
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits and features in evaluation mode, without a gradient, batch by batch.

        X may be on any device and of any floating-point type.
        """
        module = self.evaluated_module.eval()
        dtype = next(p.dtype for p in module.parameters() if p.is_floating_point())
        for rows in X.split(batch_size):
            with torch.no_grad():
                outputs = module(rows.to(self.device, dtype))
            del rows  # before the next are made dense
            yield outputs

    def evaluate(self, X: Tensor | SparseRows) -> tuple[Tensor, Tensor]:
        """All of :meth:`outputs` at once: Tensor of shape (n, n_classes) and (n, d)."""
        logits, features = zip(*self.outputs(X), strict=True)
        return torch.cat(logits), torch.cat(features)
