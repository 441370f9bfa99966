"""Callbacks of one stage beside the meta step: records, averages, stopping, progress."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu._settings import COLLAPSE_EPOCHS, EMA_DECAY, PATIENCE
from sklearn_clidmu.clid.objective import EPSILON, clid_gradient
from sklearn_clidmu.clid.weighted import weighted_mean
from sklearn_clidmu.training.data import Labels, SampleHistory, Table
from sklearn_clidmu.training.meta_step import MetaStep
from sklearn_clidmu.training.net import ReweightedNet, StopTraining

N_MONITORED = 500
"""Training rows that CLID is measured on at the end of an epoch; its cost grows with their
square."""

ROUNDING = 2 * N_MONITORED * EPSILON
"""CLID of a constant predictor falls below log n by half of it, because of the small constant in
its logarithm, and by rounding."""

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
"""tqdm's own format without the rate, which fits into 80 columns."""

FIGURES = {"train_loss": "loss", "clid": "CLID", "valid_score": "valid"}
"""Entries of the history beside the progress bar, with their names there."""


class LossRecorder(Callback):
    """Records the losses of every training batch in the sample history."""

    def __init__(self, history: SampleHistory) -> None:
        self.history = history

    def on_batch_end(
        self, net: ReweightedNet, batch: tuple[Any, Labels], losses: Tensor, **kwargs: Any
    ) -> None:
        """Record one batch."""
        self.history.record_losses(batch[1], losses)


class ParameterAverage(Callback):
    """Keeps a moving average of the parameters, and predicts with it in the end.

    The decay rises from 0 to :data:`EMA_DECAY` within about 9 / (1 - EMA_DECAY) steps, so that
    the average forgets its start. torch's ``AveragedModel`` walks over all modules at every step,
    which is a tenth of the time of a small network.
    """

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Collect the parameters; integers and running statistics are not averaged."""
        self.n_steps = 0
        self.averages, self.values = (
            [p.detach() for p in module.parameters() if p.is_floating_point()]
            for module in (net.averaged_module_, net.module_)
        )

    def on_batch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Move the average by one step."""
        decay = min(EMA_DECAY, self.n_steps / (9 + self.n_steps))
        self.n_steps += 1
        torch._foreach_lerp_(self.averages, self.values, 1 - decay)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Copy the running statistics."""
        buffers = dict(net.module_.named_buffers())
        for name, average in net.averaged_module_.named_buffers():
            average.copy_(buffers[name])

    def on_train_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Put the average in the network's place."""
        net.module_.load_state_dict(net.averaged_module_.state_dict())
        del net.averaged_module_, self.averages, self.values


class Monitor(Callback):
    """Records CLID - log n, the disagreement rate, predicted classes, and the validation score.

    All but the last on fixed training rows. The disagreement rate is the share of rows whose given
    label is not the predicted one. ``history`` receives the losses of the held-out rows.
    """

    def __init__(
        self, table: Table, temperature: float, history: SampleHistory, held_out: Table | None
    ) -> None:
        self.table = table
        self.temperature = temperature
        self.history = history
        self.held_out = held_out

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Draw the fixed rows."""
        device = self.table.X.device
        index = torch.arange(len(self.table), device=device)
        if len(index) > N_MONITORED:
            index = torch.randperm(len(index), device=device)[:N_MONITORED]
        self.rows = self.table.take(index)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Measure and record."""
        labels = self.rows.labels
        logits, features = net.evaluate(self.rows.inputs)
        clid, _ = clid_gradient(features, logits, None, labels.sample_weight, self.temperature)
        excess = clid - labels.sample_weight.sum().log()
        net.history.record("clid", excess.item())
        predicted = logits.argmax(dim=1)
        rate = weighted_mean(predicted != labels.targets, labels.sample_weight)
        net.history.record("disagreement", rate.item())
        net.history.record("n_predicted", len(predicted.unique()))
        if self.held_out is not None:
            self._validate(net, self.held_out)

    def _validate(self, net: ReweightedNet, held_out: Table) -> None:
        labels = held_out.labels
        logits, _ = net.evaluate(held_out.inputs)
        losses = F.cross_entropy(logits, labels.targets, reduction="none")
        hits = (logits.argmax(dim=1) == labels.targets).to(losses)
        self.history.record_losses(labels, losses)
        for name, values in (("valid_loss", losses), ("valid_score", hits)):
            net.history.record(name, weighted_mean(values, labels.sample_weight).item())


class CollapseDetector(Callback):
    """Restores the last sound epoch when training collapses, and goes on with equal weights.

    A loss, a CLID or a parameter of the weighting net that is not finite is a collapse. So are
    :data:`COLLAPSE_EPOCHS` reweighted epochs in a row whose CLID is no better than that of a
    constant predictor and than at the end of warm-up, and in which fewer classes are predicted than
    then; without a warm-up there is nothing to compare with. CLID alone would raise false alarms:
    with two classes and much noise, right predictions are nearly constant. Where nothing reweights,
    a collapse ends training.

    With two classes, where the weights of each are ``calibrated``, one predicted class is no
    collapse.
    """

    def __init__(
        self, meta_step: MetaStep | None, history: SampleHistory, calibrated: bool
    ) -> None:
        self.meta_step = meta_step
        self.history = history
        self.calibrated = calibrated

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Keep the initial parameters."""
        self.clid, self.n_predicted, self.n_poor = 0.0, 1, 0
        self._keep(net)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Compare the epoch with the end of warm-up."""
        clid, n_predicted = net.history[-1, ("clid", "n_predicted")]
        finite = math.isfinite(net.history[-1, "train_loss"]) and math.isfinite(clid)
        reweighting = self.meta_step is not None and self.meta_step.reweighting
        if reweighting:  # its last step is in no loss yet
            finite &= all(bool(p.isfinite().all()) for p in net.weight_net_.parameters())
        else:
            self.clid, self.n_predicted = max(clid, 0.0), n_predicted
        least = 1 if self.calibrated and self.history.n_classes == 2 else self.n_predicted
        poor = reweighting and clid > self.clid - ROUNDING and n_predicted < least
        self.n_poor = self.n_poor + 1 if poor else 0
        if not finite or self.n_poor == COLLAPSE_EPOCHS:
            self._restore(net)
            if self.meta_step is None or not self.meta_step.reweighting:
                net.diverged_ = True
                raise StopTraining
            self.meta_step.enabled = False
            net.collapse_epoch_ = len(net.history)
        elif not poor:
            self._keep(net)

    def _keep(self, net: ReweightedNet) -> None:
        self.states = [deepcopy(module.state_dict()) for module in _modules(net)]
        self.records = self.history.state.clone()

    def _restore(self, net: ReweightedNet) -> None:
        for module, state in zip(_modules(net), self.states, strict=True):
            module.load_state_dict(state)
        net.optimizer_.state.clear()
        self.history.state.copy_(self.records)


def _modules(net: ReweightedNet) -> list[nn.Module]:
    """List the network, the one that predicts, and the weighting net where there is one."""
    weight_net = getattr(net, "weight_net_", None)
    return [net.module_, net.evaluated_module, *([] if weight_net is None else [weight_net])]


class EarlyStopping(Callback):
    """Ends training without a better validation score; the best epoch predicts."""

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Forget earlier stages."""
        self.best_score = -math.inf
        self.state: dict[str, Any] | None = None

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Keep the first of the best epochs; stop if it lies too far back."""
        score = net.history[-1, "valid_score"]
        if net.collapse_epoch_ == len(net.history):  # the score is that of the broken network
            return
        if score > self.best_score:
            self.best_score, net.best_epoch_ = score, len(net.history)
            self.state = deepcopy(net.evaluated_module.state_dict())
        elif len(net.history) - net.best_epoch_ >= PATIENCE:
            raise StopTraining

    def on_train_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Put the best epoch in the network's place."""
        if self.state is not None:
            net.module_.load_state_dict(self.state)


@contextmanager
def progress(verbose: int, name: str, n_trainings: int) -> Iterator[list[tuple[str, Callback]]]:
    """Yield the callback that shows one progress bar for some trainings; none with ``verbose=0``.

    There may be fewer than ``n_trainings``. Programs without a console have no standard error.
    """
    if not verbose or sys.stderr is None:
        yield []
        return
    bar = ProgressBar(name, n_trainings)
    try:
        yield [("progress", bar)]
        bar.finish()
    finally:  # also after an error
        bar.close()


class ProgressBar(Callback):
    """One tqdm bar on standard error over some trainings, with the last epoch's figures."""

    def __init__(self, name: str, n_trainings: int) -> None:
        self.name = name
        self.n_trainings = n_trainings
        self.bar: Any = None
        self.n_begun = 0

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Open the bar with the first training; show which one this is."""
        if self.bar is None:
            from tqdm.auto import tqdm  # comes with skorch; slow to import and seldom needed

            self.bar = tqdm(total=0, bar_format=BAR, dynamic_ncols=True)
        self._set_total(net)
        self.n_begun += 1
        self.bar.set_description(f"{self.name} {self.n_begun}/{self.n_trainings}", refresh=False)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Advance the bar."""
        row = net.history[-1]
        shown = {name: row.get(key, math.nan) for key, name in FIGURES.items()}
        figures = (f"{name} {value:.3f}" for name, value in shown.items() if math.isfinite(value))
        self.bar.set_postfix_str(", ".join(figures), refresh=False)
        self.bar.update()

    def on_train_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Take epochs that were not needed off what is left."""
        self._set_total(net)
        self.bar.refresh()

    def _set_total(self, net: ReweightedNet) -> None:
        """Set the end of the bar as if trainings not yet begun had as many epochs as this one."""
        self.bar.total = self.bar.n + (self.n_trainings - self.n_begun) * net.max_epochs

    def finish(self) -> None:
        """Take trainings that were not needed off what is left."""
        if self.bar is not None:
            self.bar.total = self.bar.n
            self.bar.set_description(f"{self.name} {self.n_begun}/{self.n_begun}")

    def close(self) -> None:
        """Close the bar, and leave it on the screen."""
        if self.bar is not None:
            self.bar.close()
