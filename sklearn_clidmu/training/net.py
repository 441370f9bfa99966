"""The skorch net that owns the network, the weighting net and both optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from skorch import NeuralNet
from skorch.dataset import unpack_data
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from sklearn_clidmu.mathematics.evidence import weighted_mean
from sklearn_clidmu.mathematics.hypergradient import TrainingLoss
from sklearn_clidmu.mathematics.weighting import WeightingNet
from sklearn_clidmu.training.batches import Labels


class StopTraining(Exception):  # noqa: N818, an order and not an error
    """Raised by a callback to end training in good order.

    skorch itself ends training with KeyboardInterrupt and so swallows a real Ctrl-C.
    """


class ReweightedNet(NeuralNet):
    """A skorch net with a second network that reweights its training loss.

    ``module_`` is trained by ``optimizer_``, on the weighted cross entropy or on the loss that a
    callback's ``on_logits`` returns for the batch; ``weight_net_`` and its ``meta_optimizer_``
    are there for such a callback to train. ``averaged_module_`` is the moving average of
    ``module_``.

    Parameters
    ----------
    module : callable
        Builds a module that returns (logits, features).
    weight_net : callable or None
        Builds the weighting net from the network; None for none.
    meta_optimizer : class, default=torch.optim.Adam
        Optimizer of the weighting net.
    ema_decay : float or None, default=None
        Decay of the moving average of the parameters; None for no average.
    **kwargs
        As in :class:`skorch.NeuralNet`.
    """

    module_: nn.Module
    weight_net_: WeightingNet

    def __init__(
        self,
        module: Callable[[], nn.Module],
        *,
        weight_net: Callable[[nn.Module], WeightingNet] | None = None,
        meta_optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        ema_decay: float | None = None,
        criterion: type[nn.Module] = nn.CrossEntropyLoss,
        **kwargs: Any,
    ) -> None:
        self.weight_net = weight_net
        self.meta_optimizer = meta_optimizer
        self.ema_decay = ema_decay
        super().__init__(module, criterion=criterion, **kwargs)

    def get_default_callbacks(self) -> list:
        """Return none: every callback is one that was asked for."""
        return []

    def initialize_module(self) -> ReweightedNet:
        """Build the network, its weighting net and its moving average."""
        super().initialize_module()
        if self.weight_net is not None:
            with torch.random.fork_rng(devices=[]):  # training draws the same without it
                self.weight_net_ = self.weight_net(self.module_)
        if self.ema_decay is not None:
            average = MovingAverage(self.ema_decay)
            self.averaged_module_ = AveragedModel(self.module_, multi_avg_fn=average)
        return self

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> ReweightedNet:
        """Build one optimizer for the network and one for the weighting net."""
        super().initialize_optimizer(*args, **kwargs)
        if self.weight_net is not None:
            args, kwargs = self.get_params_for_optimizer(
                "meta_optimizer", self.weight_net_.named_parameters()
            )
            self.meta_optimizer_ = self.meta_optimizer(*args, **kwargs)
        return self

    def get_all_learnable_params(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that ``optimizer_`` trains: those of ``module_`` alone."""
        yield from self.module_.named_parameters()

    def _zero_grad_optimizer(self, set_to_none: bool | None = None) -> None:
        self.optimizer_.zero_grad()

    def _step_optimizer(self, step_fn: Callable[[], Tensor]) -> None:
        self.optimizer_.step(step_fn)

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Forward pass, the callbacks' ``on_logits``, and backward pass of one batch."""
        self.module_.train()
        X, labels = unpack_data(batch)
        logits, features = self.infer(X)
        losses = F.cross_entropy(logits.detach(), labels.targets, reduction="none")
        training_loss: TrainingLoss = partial(weighted_cross_entropy, labels)
        for _, callback in self.callbacks_:
            if hasattr(callback, "on_logits"):
                reweighted = callback.on_logits(
                    self, X=X, labels=labels, logits=logits, features=features, losses=losses
                )
                training_loss = reweighted or training_loss
        loss = training_loss(logits)
        loss.backward()
        return {"loss": loss, "y_pred": logits}

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> ReweightedNet:
        """Train; unlike skorch's own, let KeyboardInterrupt through."""
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        with suppress(StopTraining):
            self.fit_loop(X, y, **fit_params)
        self.notify("on_train_end", X=X, y=y)
        return self

    @property
    def evaluated_module(self) -> nn.Module:
        """The network that would predict now: the moving average while there is one."""
        averaged = getattr(self, "averaged_module_", None)
        return self.module_ if averaged is None else averaged.module

    def outputs(self, X: Tensor, batch_size: int = 4096) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and features in evaluation mode, without a gradient, batch by batch.

        Parameters
        ----------
        X : Tensor of shape (n, ...)
            On any device and of any floating-point type; moved to the net's batch by batch.
        batch_size : int, default=4096
            Bounds the memory of one forward pass.

        Yields
        ------
        tuple of Tensor of shape (m, n_classes) and (m, d)
            On the net's device.
        """
        module = self.evaluated_module.eval()
        dtype = next(module.parameters()).dtype
        for rows in X.split(batch_size):
            with torch.no_grad():
                yield module(rows.to(self.device, dtype))

    def evaluate(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """All of :meth:`outputs` at once: Tensor of shape (n, n_classes) and (n, d)."""
        logits, features = zip(*self.outputs(X), strict=True)
        return torch.cat(logits), torch.cat(features)


class MovingAverage:
    """Exponential moving average of parameters that forgets its start: for AveragedModel.

    Parameters
    ----------
    decay : float
        Of the average, once about 10 / (1 - decay) steps have been taken.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.n_steps = 0

    def __call__(
        self, averaged: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Any
    ) -> None:
        """Move the averaged tensors towards the current ones, in place."""
        self.n_steps += 1
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        for mean, value in zip(averaged, current, strict=True):
            mean.lerp_(value.to(mean.dtype), 1 - decay)


def weighted_cross_entropy(labels: Labels, logits: Tensor) -> Tensor:
    """Mean cross entropy under the caller's sample weights alone, shape ()."""
    losses = F.cross_entropy(logits, labels.targets, reduction="none")
    return weighted_mean(losses, labels.sample_weight)
