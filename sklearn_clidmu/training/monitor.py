"""What is measured at the end of an epoch, and the guard that acts on it."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from sklearn_clidmu.mathematics.clid import clid_gradient, uniform_clid
from sklearn_clidmu.mathematics.evidence import weighted_mean
from sklearn_clidmu.training.batches import Table
from sklearn_clidmu.training.ledger import Ledger
from sklearn_clidmu.training.meta_step import MetaStep
from sklearn_clidmu.training.net import ReweightedNet, StopTraining

N_MONITORED = 500
"""CLID is measured on as many training rows; its cost grows with their square."""

PATIENCE = 3
"""Reweighted epochs of poor CLID in a row that make a collapse; single ones are noise."""


class Monitor(Callback):
    """Records CLID - log n, dissent and predicted classes, and the score on a hold-out.

    All but the score on fixed training rows. Dissent is the share of the rows whose given label
    is not the one predicted.

    Parameters
    ----------
    table : Table
        Training set.
    temperature : float
        Of the feature graph.
    ledger : Ledger
        Where the losses of the hold-out are entered.
    held_out : Table or None
        Rows kept from training, with noisy labels.
    """

    def __init__(
        self, table: Table, temperature: float, ledger: Ledger, held_out: Table | None
    ) -> None:
        self.table = table
        self.temperature = temperature
        self.ledger = ledger
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
        logits, features = net.evaluate(self.rows.X)
        # Its gradient thrown away, the closed form is still twice as fast as clid_loss.
        clid, _ = clid_gradient(features, logits, self.temperature, labels.sample_weight)
        excess = clid - uniform_clid(len(self.rows), labels.sample_weight).to(clid)
        net.history.record("clid", excess.item())
        predicted = logits.argmax(dim=1)
        dissent = predicted != labels.targets
        share = weighted_mean(dissent, labels.sample_weight)
        net.history.record("dissent", share.item())
        net.history.record("n_predicted", len(predicted.unique()))
        if self.held_out is not None:
            self._validate(net, self.held_out)

    def _validate(self, net: ReweightedNet, held_out: Table) -> None:
        labels = held_out.labels
        logits, _ = net.evaluate(held_out.X)
        losses = F.cross_entropy(logits, labels.targets, reduction="none")
        hits = (logits.argmax(dim=1) == labels.targets).to(losses)
        self.ledger.record_losses(labels, losses)
        for name, values in (("valid_loss", losses), ("valid_score", hits)):
            net.history.record(name, weighted_mean(values, labels.sample_weight).item())


class CollapseGuard(Callback):
    """Goes back to the last sound epoch when training collapses, and on with equal weights.

    A loss, a CLID or a parameter of the weighting net that is not finite is a collapse. So is, for
    :data:`PATIENCE` reweighted epochs in a row, a CLID no better than that of a constant predictor
    and than at the end of warm-up, together with fewer predicted classes than then. CLID alone
    would raise false alarms: with two classes and much noise, honest predictions are nearly
    constant. With the evidence net they may be quite constant for some epochs, and come back, since
    it leaves each class its weight; so there two classes do not collapse. Without reweighting, a
    collapse ends training. So does an interrupt that is to be kept.

    Parameters
    ----------
    meta_step : MetaStep or None
    ledger : Ledger
        Goes back too: an epoch that is not sound leaves no trace.
    n_predicted : int
        Classes that must be predicted where there is no warm-up to tell.
    """

    def __init__(self, meta_step: MetaStep | None, ledger: Ledger, n_predicted: int) -> None:
        self.meta_step = meta_step
        self.ledger = ledger
        self.level = n_predicted

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Keep the initial parameters; nothing has collapsed yet."""
        net.collapse_epoch_ = None
        net.diverged_ = False
        self.clid, self.n_predicted = 0.0, self.level
        self.n_poor = self.n_judged = 0
        self._keep(net)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Judge the epoch."""
        clid, n_predicted = net.history[-1, ("clid", "n_predicted")]
        finite = math.isfinite(net.history[-1, "train_loss"]) and math.isfinite(clid)
        reweighting = self.meta_step is not None and self.meta_step.reweighting
        if reweighting:  # its last step is in no loss yet
            parameters = [p for weight_net in _modules(net)[2:] for p in weight_net.parameters()]
            finite &= all(bool(p.isfinite().all()) for p in parameters)
        else:
            self.clid, self.n_predicted = max(clid, 0.0), n_predicted
        poor = reweighting and clid >= self.clid and n_predicted < self._least(net)
        self.n_poor = self.n_poor + 1 if poor else 0
        if not finite or self.n_poor == PATIENCE:
            self._restore(net)
            self._end_reweighting(net)
        elif not poor:
            self._keep(net)
        self.n_judged = len(net.history)

    def state_dict(self) -> dict[str, Any]:
        """Return the last sound epoch, and what later ones are compared with."""
        names = ("clid", "n_predicted", "n_poor", "n_judged", "states", "entries")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any], net: ReweightedNet) -> None:
        """Go on from there."""
        for name, value in state.items():
            setattr(self, name, value)
        self.entries = [entries.to(self.ledger.loss) for entries in state["entries"]]

    def on_interrupt(self, net: ReweightedNet) -> None:
        """Go back to the last sound epoch, and forget the one that was cut short.

        Raises
        ------
        KeyboardInterrupt
            If there is no whole epoch: a network that has learned nothing is not kept.
        """
        if not self.n_judged:
            raise KeyboardInterrupt
        self._restore(net)
        del net.history[self.n_judged :]

    def _least(self, net: ReweightedNet) -> int:
        """Classes that a reweighted network must predict."""
        may_be_constant = self.ledger.n_classes == 2 and net.weight_net_.uses_evidence
        return 1 if may_be_constant else self.n_predicted

    def _end_reweighting(self, net: ReweightedNet) -> None:
        if self.meta_step is None or not self.meta_step.reweighting:
            net.diverged_ = True
            raise StopTraining
        self.meta_step.enabled = False
        net.collapse_epoch_ = len(net.history)

    def _keep(self, net: ReweightedNet) -> None:
        self.states = [deepcopy(module.state_dict()) for module in _modules(net)]
        self.entries = self.ledger.copy_entries()

    def _restore(self, net: ReweightedNet) -> None:
        for module, state in zip(_modules(net), self.states, strict=True):
            module.load_state_dict(state)
        net.restart_optimizer()
        self.ledger.put_back(self.entries)


def _modules(net: ReweightedNet) -> list[nn.Module]:
    """List the network, the one that predicts, and the weighting net where there is one."""
    weight_net = getattr(net, "weight_net_", None)
    return [net.module_, net.evaluated_module, *([] if weight_net is None else [weight_net])]
