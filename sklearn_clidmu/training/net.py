"""The skorch net that owns the network, the weighting net and both optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from inspect import unwrap
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch import NeuralNet
from skorch.dataset import unpack_data
from torch import Tensor, nn

from sklearn_clidmu.mathematics.backbone import MLP
from sklearn_clidmu.mathematics.traced_pass import TracedPass
from sklearn_clidmu.mathematics.weighting import WeightingNet, cross_entropy_errors
from sklearn_clidmu.training.batches import SparseRows
from sklearn_clidmu.training.captured_steps import CapturedSteps, CudaRecorder, Recorder


class BatchLoss(NamedTuple):
    """The loss of one batch, and how to differentiate it."""

    value: Tensor
    """Shape ()."""
    backward: Callable[[], None]
    """Sets the gradients of the network's parameters."""


def step_without_hooks(optimizer: torch.optim.Optimizer) -> None:
    """Take torch's step without its hooks and profiling range, which cost as much once more."""
    with torch.no_grad():
        unwrap(type(optimizer).step)(optimizer)


class StopTraining(Exception):  # noqa: N818, an order and not an error
    """Raised by a callback to end training in good order.

    skorch itself ends training with KeyboardInterrupt and so swallows a real Ctrl-C.
    """


class ReweightedNet(NeuralNet):
    """A skorch net with a second network that reweights its training loss.

    ``module_`` is trained by ``optimizer_``, on the weighted cross entropy or on the
    :class:`BatchLoss` that a callback's ``on_logits`` returns; ``weight_net_`` and its
    ``meta_optimizer_`` are there for such a callback to train, ``averaged_module_`` for one that
    keeps a moving average of ``module_``. ``n_steps_`` counts the steps behind it.

    On a GPU steps are recorded and replayed (:class:`CapturedSteps`). For that a callback with
    ``on_logits`` has to say by ``kind`` what it has decided in ``on_batch_begin``, to hold all else
    that changes in tensors that stay where they are, and to list the ``generators`` of its own.
    Where ``kind`` is missing or None, steps are taken one by one. ``capture_error_`` is what torch
    said where a step could not be recorded.

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
    keep_interrupted : bool, default=False
        Whether KeyboardInterrupt ends training at the last sound epoch, which callbacks with
        ``on_interrupt`` go back to, instead of being passed on.
    **kwargs
        As in :class:`skorch.NeuralNet`. ``optimizer=None`` makes a net that only predicts.
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
        keep_interrupted: bool = False,
        criterion: type[nn.Module] = nn.CrossEntropyLoss,
        **kwargs: Any,
    ) -> None:
        self.weight_net = weight_net
        self.meta_optimizer = meta_optimizer
        self.ema_decay = ema_decay
        self.keep_interrupted = keep_interrupted
        super().__init__(module, criterion=criterion, **kwargs)

    def get_default_callbacks(self) -> list:
        """Return none: every callback is one that was asked for."""
        return []

    def initialize_module(self) -> ReweightedNet:
        """Build the network, its weighting net and its moving average."""
        super().initialize_module()
        self.n_steps_ = 0
        self.captured_steps_: CapturedSteps | None = None
        self.capture_error_: str | None = None
        if self.weight_net is not None:
            with torch.random.fork_rng(devices=[]):  # training draws the same without it
                self.weight_net_ = self.weight_net(self.module_)
        if self.ema_decay is not None:
            self.averaged_module_ = deepcopy(self.module_)
        return self

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> ReweightedNet:
        """Build one optimizer for the network and one for the weighting net."""
        if self.optimizer is None:
            return self
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

    def set_learning_rate(self, rate: float) -> None:
        """Set that of the network; in place where it is a tensor, which recorded steps read."""
        for group in self.optimizer_.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def restart_optimizer(self) -> None:
        """Forget the optimizer's state, and recorded steps, which would go on from it."""
        self.optimizer_.state.clear()
        if self.captured_steps_ is not None:
            self.captured_steps_.forget()

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Set the gradient of one batch, and step along it; replay such a step where one can."""
        self.n_steps_ += 1
        if self.captured_steps_ is None:
            return self._take_step(batch)
        kinds = tuple(
            getattr(callback, "kind", None)
            for _, callback in self.callbacks_
            if hasattr(callback, "on_logits")
        )
        return self._take_step(batch) if None in kinds else self.captured_steps_(batch, kinds)

    def _take_step(self, batch: Any) -> dict[str, Tensor]:
        step = self.train_step_single(batch)
        step_without_hooks(self.optimizer_)
        return step

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Forward pass, the callbacks' ``on_logits``, and backward pass of one batch.

        What it returns, the callbacks' ``on_batch_end`` is given.
        """
        if not self.module_.training:
            self.module_.train()
        X, labels = unpack_data(batch)
        traced: TracedPass | None = None
        if isinstance(self.module_, MLP):
            traced = TracedPass(self.module_, X)
            logits, features, backward = traced.logits, traced.features, traced.backward
        else:
            self.optimizer_.zero_grad()
            outputs = self.module_(X)
            logits, features = (output.detach() for output in outputs)
            backward = outputs[0].backward
        losses, errors = cross_entropy_errors(logits, labels.targets)
        loss: BatchLoss | None = None
        for _, callback in self.callbacks_:
            if hasattr(callback, "on_logits"):
                answer = callback.on_logits(
                    self,
                    X=X,
                    labels=labels,
                    logits=logits,
                    features=features,
                    losses=losses,
                    errors=errors,
                    backward=backward,
                    traced=traced,
                )
                loss = answer or loss
        if loss is None:
            share = labels.sample_weight / labels.sample_weight.sum()
            loss = BatchLoss(share @ losses, partial(backward, share[:, None] * errors))
        loss.backward()
        known = {"features": features, "losses": losses, "errors": errors}
        return {"loss": loss.value, "y_pred": logits, **known}

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> ReweightedNet:
        """Train; unlike skorch's own, let KeyboardInterrupt through unless it is to be kept."""
        if not self.initialized_:
            self.initialize()
        self.interrupted_ = False
        self.notify("on_train_begin", X=X, y=y)
        self._begin_capture()
        try:
            # Means of losses that overflow are infinite; the guard judges them, in its own words.
            with suppress(StopTraining), np.errstate(over="ignore"):
                n_left = self.max_epochs - len(self.history)  # a callback may have put back some
                self.fit_loop(X, y, epochs=n_left, **fit_params)
        except KeyboardInterrupt:
            if not self.keep_interrupted:
                raise
            self._end_interrupted()
        finally:
            self._end_capture()
        self.notify("on_train_end", X=X, y=y)
        return self

    def make_recorder(self) -> Recorder | None:
        """Make what records training steps; None where they may wait for their device.

        On a GPU, those of the package's own network do not.
        """
        device = torch.device(self.device)
        if device.type != "cuda" or not isinstance(self.module_, MLP):
            return None
        optimizers = [self.optimizer_]
        if self.weight_net is not None:
            optimizers.append(self.meta_optimizer_)
        return CudaRecorder(device, optimizers, self.generators)

    @property
    def generators(self) -> list[torch.Generator]:
        """Those that a training step draws from, beside torch's own: the callbacks'."""
        drawn = (getattr(callback, "generators", []) for _, callback in self.callbacks_)
        return list(chain.from_iterable(drawn))

    def _begin_capture(self) -> None:
        recorder = self.make_recorder()
        if recorder is None:
            return
        for group in self.optimizer_.param_groups:  # float32 is what fused optimizers read
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=self.device)
        self.captured_steps_ = CapturedSteps(self._take_step, recorder)

    def _end_capture(self) -> None:
        if self.captured_steps_ is not None:
            self.capture_error_ = self.captured_steps_.error
            self.captured_steps_ = None

    def _end_interrupted(self) -> None:
        self.interrupted_ = True
        for _, callback in self.callbacks_:
            if hasattr(callback, "on_interrupt"):
                callback.on_interrupt(self)

    @property
    def evaluated_module(self) -> nn.Module:
        """The network that would predict now: the moving average while there is one."""
        return getattr(self, "averaged_module_", self.module_)

    def outputs(
        self, X: Tensor | SparseRows, batch_size: int = 4096
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and features in evaluation mode, without a gradient, batch by batch.

        Parameters
        ----------
        X : Tensor of shape (n, ...), or SparseRows
            On any device and of any floating-point type; moved to the net's batch by batch.
        batch_size : int, default=4096
            Bounds the memory of one forward pass; halved wherever a GPU has less.

        Yields
        ------
        tuple of Tensor of shape (m, n_classes) and (m, d)
            On the net's device.
        """
        module = self.evaluated_module.eval()
        dtype = next(module.parameters()).dtype
        for rows in X.split(batch_size):
            todo = list(rows.split(batch_size))
            while todo:
                try:
                    with torch.no_grad():
                        outputs = module(todo[0].to(self.device, dtype))
                except torch.cuda.OutOfMemoryError:
                    if len(todo[0]) == 1:
                        raise
                    batch_size = -(-len(todo[0]) // 2)
                    todo[:1] = todo[0].split(batch_size)
                else:
                    todo.pop(0)
                    yield outputs

    def evaluate(self, X: Tensor | SparseRows) -> tuple[Tensor, Tensor]:
        """All of :meth:`outputs` at once: Tensor of shape (n, n_classes) and (n, d)."""
        logits, features = zip(*self.outputs(X), strict=True)
        return torch.cat(logits), torch.cat(features)
