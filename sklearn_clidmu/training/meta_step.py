"""The meta step of CLID-MU as a callback: which batches take one, and what it does."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_clidmu.mathematics.evidence import standard_deviation
from sklearn_clidmu.mathematics.hypergradient import (
    MetaTangent,
    TrainingLoss,
    full_tangent,
    head_tangent,
    influence,
)
from sklearn_clidmu.mathematics.objectives import (
    MetaObjective,
    cross_entropy,
    small_loss,
)
from sklearn_clidmu.mathematics.weighting import Rows, WeightingNet
from sklearn_clidmu.training.batches import Labels, Table
from sklearn_clidmu.training.ledger import Ledger
from sklearn_clidmu.training.net import ReweightedNet, weighted_cross_entropy


class MetaStep(Callback):
    """Trains the weighting net, and puts its weights into the loss of every batch.

    The algorithm of arXiv 2507.11807, batch by batch: virtual step, meta objective after it, step
    of the weighting net along its hypergradient, real step on the loss with refreshed weights.

    Parameters
    ----------
    table : Table
        Training set, from which the meta batches are drawn too.
    ledger : Ledger
        Where what is seen of each row is entered.
    objective : callable
        Meta objective. With ``cross_entropy`` the meta batch counts only rows of small loss.
    virtual_step : {"head", "full"}
        Parameters that the virtual step moves. "head" becomes "full" where the network's last
        layer is not a linear one.
    warmup_epochs : int
        Epochs of plain training before the first meta step.
    interval : int
        A meta step is taken on every ``interval``-th batch.
    batch_size : int or None
        Rows of a meta batch, drawn from the table; None takes the training batch itself.
    """

    def __init__(
        self,
        table: Table,
        ledger: Ledger,
        objective: MetaObjective,
        *,
        virtual_step: str,
        warmup_epochs: int,
        interval: int,
        batch_size: int | None,
    ) -> None:
        self.table = table
        self.ledger = ledger
        self.objective = objective
        self.virtual_step = virtual_step
        self.warmup_epochs = warmup_epochs
        self.interval = interval
        self.batch_size = batch_size
        self.enabled = True

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Forget earlier trainings."""
        self.largest_deviation = self.table.X.new_zeros(())
        # Its own generator: with and without reweighting, training draws the same.
        self.generator = torch.Generator(self.table.X.device).manual_seed(torch.initial_seed())

    def on_epoch_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Take stock of the evidence, and decide whether this epoch reweights."""
        self.reweighting = self.enabled and len(net.history) > self.warmup_epochs
        labels = self.table.labels
        self.evidence = self.ledger.evidence()
        if self.reweighting:
            evidence = self.evidence[labels.rows]
            net.weight_net_.balance(evidence, labels.targets, labels.sample_weight)
        self.meta_weight = torch.zeros_like(self.ledger.sample_weight)
        self.meta_weight[labels.rows] = labels.sample_weight
        if self.objective is cross_entropy:
            losses = self.ledger.mean_loss()[labels.rows]
            self.meta_weight[labels.rows] *= small_loss(losses, labels.sample_weight)
        self.n_batches = 0
        self.n_meta_steps = 0
        self.meta_loss = self.table.X.new_zeros(())  # a sum: a list would pin freed memory

    def on_logits(
        self,
        net: ReweightedNet,
        X: Tensor,
        labels: Labels,
        logits: Tensor,
        features: Tensor,
        losses: Tensor,
    ) -> TrainingLoss | None:
        """Take a meta step, if one is due, and return the loss with refreshed weights."""
        rows = Rows(
            losses,
            labels.targets,
            features.detach(),
            self.evidence[labels.rows],
            labels.sample_weight,
        )
        due = self.enabled and self.n_batches % self.interval == 0
        self.n_batches += 1
        if due and (self.reweighting or net.weight_net_.uses_evidence):
            harm = self._meta_step(net, X, labels, rows, logits, features)
            self.ledger.record_influence(labels, harm)
        if not self.reweighting:
            return None
        with torch.no_grad():
            weights = net.weight_net_.applied(rows, self._noise(net.weight_net_, rows))
        return partial(net.weight_net_.training_loss, weights, rows=rows)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Record the mean meta loss of the epoch."""
        mean = self.meta_loss / self.n_meta_steps  # nan without a meta step
        net.history.record("meta_loss", mean.item())

    def _noise(self, weight_net: WeightingNet, rows: Rows) -> Tensor:
        """Draw standard normal numbers for the weights of one step."""
        # One draw for all rows where the batch is the whole table: repeated rows, one fate.
        n_draws = 1 if len(rows.losses) == len(self.table) else len(rows.losses)
        noise = rows.losses.new_empty(n_draws, weight_net.noise_width)
        return noise.normal_(generator=self.generator)

    def _meta_step(
        self,
        net: ReweightedNet,
        X: Tensor,
        labels: Labels,
        rows: Rows,
        logits: Tensor,
        features: Tensor,
    ) -> Tensor:
        """Step the weighting net, after warm-up; return the rows' influence in any case."""
        loss: TrainingLoss = partial(weighted_cross_entropy, labels)
        if self.reweighting:
            weights = net.weight_net_(rows, self._noise(net.weight_net_, rows))
            loss = partial(net.weight_net_.training_loss, weights, rows=rows)
        meta = self._tangent(net, X, labels, loss, logits, features)
        self.meta_loss += meta.meta_loss
        self.n_meta_steps += 1
        # Adam does not see the scale of a gradient, so the influences set their own; where they
        # have all but vanished, what is left is rounding and is not blown up.
        harm = influence(meta.logits, meta.tangent, rows.targets, lr=1.0)
        deviation = standard_deviation(harm, rows.sample_weight)
        self.largest_deviation = torch.maximum(self.largest_deviation, deviation)
        deviation = torch.maximum(deviation, 0.01 * self.largest_deviation)
        if self.reweighting:
            net.meta_optimizer_.zero_grad()
            meta = meta._replace(tangent=meta.tangent / deviation)
            objective = net.weight_net_.surrogate(weights, meta, rows)
            (objective + net.weight_net_.penalty(rows)).backward()
            net.meta_optimizer_.step()
        return harm / deviation

    def _tangent(
        self,
        net: ReweightedNet,
        X: Tensor,
        labels: Labels,
        loss: TrainingLoss,
        logits: Tensor,
        features: Tensor,
    ) -> MetaTangent:
        """Virtual step and meta objective.

        Passes made for the meta step alone are without dropout and with fixed running statistics.
        """
        X_meta, meta_labels = X, labels
        if self.batch_size is not None:
            X_meta, meta_labels = self._draw_meta_batch(self.batch_size)
        targets, weight = meta_labels.targets, self.meta_weight[meta_labels.rows]

        def meta_loss(meta_features: Tensor, meta_logits: Tensor) -> Tensor:
            return self.objective(meta_features, meta_logits, targets, weight)

        lr = net.optimizer_.param_groups[0]["lr"]
        module = net.module_.eval()
        head = getattr(module, "head", None)
        if self.virtual_step == "head" and head is not None:
            meta_features = features
            if self.batch_size is not None:
                with torch.no_grad():
                    _, meta_features = module(X_meta)
            meta = head_tangent(head, logits, features, loss, meta_features, meta_loss, lr)
        else:
            meta = full_tangent(module, X, loss, X_meta, meta_loss, lr)
        module.train()
        return meta

    def _draw_meta_batch(self, batch_size: int) -> tuple[Tensor, Labels]:
        """Draw rows of the table, with replacement; all of them where it has no more."""
        n, device = len(self.table), self.table.X.device
        if batch_size >= n:
            return self.table[torch.arange(n, device=device)]
        return self.table[torch.randint(n, (batch_size,), device=device, generator=self.generator)]
