"""The meta step of CLID-MU as a callback: which batches take one, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu.mathematics.evidence import N_EVIDENCE, standard_deviation
from sklearn_clidmu.mathematics.hypergradient import (
    MetaGradient,
    TracedRows,
    full_tangent,
    head_tangent,
    influence,
    traced_influence,
)
from sklearn_clidmu.mathematics.objectives import (
    MetaObjective,
    cross_entropy,
    is_own,
    meta_gradient,
    small_loss,
)
from sklearn_clidmu.mathematics.traced_pass import TracedPass
from sklearn_clidmu.mathematics.weighting import Draw, Rows, WeightingNet, cross_entropy_errors
from sklearn_clidmu.training.batches import Labels, Table
from sklearn_clidmu.training.block import Block
from sklearn_clidmu.training.ledger import Ledger
from sklearn_clidmu.training.net import BatchLoss, ReweightedNet, step_without_hooks

MAX_META_ROWS = 64
"""Rows of a larger training batch that serve as meta batch: the graphs of CLID are square, and more
rows find no more."""


class MetaStep(Callback):
    """Trains the weighting net, and puts its weights into the loss of every batch.

    The algorithm of arXiv 2507.11807, batch by batch: virtual step, meta objective after it, step
    of the weighting net along its hypergradient, real step on the loss with refreshed weights.

    The weights of a net that looks at evidence stay for an epoch, as the evidence does. So its
    virtual steps of some batches in a row may be taken together, each from where the network stood
    with its batch; then it takes one step, along the sum of their hypergradients.

    Parameters
    ----------
    table : Table
        Training set.
    meta_table : Table
        Rows that meta batches are drawn from: the training set, or more.
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
        Rows of a meta batch, drawn from ``meta_table``; None takes rows of the training batch
        itself: all that it has, up to :data:`MAX_META_ROWS` unless it is the whole table.
    batches_per_step : int, default=1
        Batches whose virtual steps are taken together. More than one asks for the evidence net,
        the package's own network, a virtual step of the head and meta batches that are not drawn.
    """

    def __init__(
        self,
        table: Table,
        meta_table: Table,
        ledger: Ledger,
        objective: MetaObjective,
        *,
        virtual_step: str,
        warmup_epochs: int,
        interval: int,
        batch_size: int | None,
        batches_per_step: int = 1,
    ) -> None:
        self.table = table
        self.meta_table = meta_table
        self.ledger = ledger
        self.objective = objective
        self.virtual_step = virtual_step
        self.warmup_epochs = warmup_epochs
        self.interval = interval
        self.batch_size = batch_size
        self.block = Block(batches_per_step)
        self.enabled = True

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Forget earlier trainings."""
        # What changes in training is changed in place: recorded steps read and write it.
        self.largest_deviation = self.ledger.loss.new_zeros(())
        self.meta_loss = self.ledger.loss.new_zeros(())  # a sum: a list would pin freed memory
        self.evidence = self.ledger.loss.new_empty(len(self.ledger.loss), N_EVIDENCE)
        self.weights = torch.zeros_like(self.ledger.loss)  # of an epoch, where they stay for one
        self.clean: Tensor | None = None
        if self.objective is cross_entropy:
            self.clean = torch.ones_like(self.ledger.sample_weight)
        # Its own generator: with and without reweighting, training draws the same.
        self.generator = torch.Generator(self.table.X.device).manual_seed(torch.initial_seed())
        draws = self.batch_size is not None or net.weight_net_.noise_width > 0
        self.generators = [self.generator] if draws else []

    def state_dict(self) -> dict[str, Any]:
        """Return what later epochs depend on."""
        return {
            "enabled": self.enabled,
            "largest_deviation": self.largest_deviation,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], net: ReweightedNet) -> None:
        """Go on from such a state."""
        self.enabled = state["enabled"]
        self.largest_deviation.copy_(state["largest_deviation"])
        self.generator.set_state(state["generator"])

    def on_epoch_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Take stock of the evidence, and decide whether this epoch reweights."""
        self.reweighting = self.enabled and len(net.history) > self.warmup_epochs
        labels = self.table.labels
        self.evidence.copy_(self.ledger.evidence())
        self.weighed = False
        self.table.idle, self.idle_share = None, 0.0
        if self.reweighting:
            evidence = self.evidence[labels.rows]
            weights = net.weight_net_.balance(evidence, labels.targets, labels.sample_weight)
            if weights is not None:
                self.weighed = True
                self.weights.index_copy_(0, labels.rows, weights)
                idle = weights == 0
                self.idle_share = idle.double().mean().item()
                self.table.idle = idle if self.idle_share else None
        if self.clean is not None:
            losses = self.ledger.mean_loss()[labels.rows]
            self.clean[labels.rows] = small_loss(losses, labels.sample_weight).to(losses)
        self.n_batches = 0
        self.n_meta_steps = 0
        self.meta_loss.zero_()
        self.block.clear()

    def on_batch_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Decide whether a meta step is due; before warm-up is over, for its influence alone."""
        wanted = self.enabled and (self.reweighting or net.weight_net_.uses_evidence)
        self.due = wanted and self.n_batches % self.interval == 0
        self.n_batches += 1
        self.n_meta_steps += self.due

    @property
    def due_within(self) -> bool:
        """Whether a meta step is part of the training step; where batches join, it comes after."""
        return self.due and self.block.n_batches == 1

    @property
    def kind(self) -> Hashable:
        """What is decided on the host in a step; None where that is not known."""
        return (self.due_within, self.reweighting) if is_own(self.objective) else None

    def on_logits(
        self,
        net: ReweightedNet,
        X: Tensor,
        labels: Labels,
        logits: Tensor,
        features: Tensor,
        losses: Tensor,
        errors: Tensor,
        backward: Callable[[Tensor], None],
        traced: TracedPass | None,
    ) -> BatchLoss | None:
        """Take a meta step, if one is due within, and return the loss with the real weights."""
        weight_net = net.weight_net_
        rows = self._rows(labels, logits, features, losses, errors)
        by_row = None
        if self.due_within:
            if self.virtual_step == "full" and traced is not None and weight_net.scales_losses:
                by_row = TracedRows(traced, errors)
            if self.virtual_step == "head" and getattr(net.module_, "head", None) is not None:
                self._meta_step(net, labels, rows, partial(self._move_head, net, labels, rows))
            else:
                look_ahead = partial(self._move_all, net, X, labels, rows, by_row)
                self._meta_step(net, labels, rows, look_ahead)
        if self.weighed:
            weights = self.weights.index_select(0, labels.rows)
        elif self.reweighting:
            with torch.no_grad():
                weights = weight_net.applied(rows, self._noise(weight_net, rows))
        elif by_row is not None:
            weights = torch.ones_like(losses)
        else:
            return None
        if by_row is not None:
            share = weight_net.shares(weights, rows)
            return BatchLoss(share @ losses, partial(by_row.backward, share))
        loss, reweighted = weight_net.loss_and_errors(weights, rows)
        if traced is not None and self.table.idle is not None and net.captured_steps_ is None:
            # A recorded step is of one shape, and cannot ask how many rows have a weight.
            reweighted = reweighted[: _count_to_last(weights)]
        return BatchLoss(loss, partial(backward, reweighted))

    def on_batch_end(
        self,
        net: ReweightedNet,
        batch: tuple[Tensor, Labels],
        y_pred: Tensor,
        features: Tensor,
        losses: Tensor,
        errors: Tensor,
        **kwargs: Any,
    ) -> None:
        """Let the batch join those whose virtual steps are taken together."""
        if not self.due or self.due_within:
            return
        _, labels = batch
        if not self.block.fits(len(labels.rows)):
            self._end_block(net)
        self.block.enter((y_pred, features, losses, errors), labels)
        if self.block.is_full:
            self._end_block(net)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Take the last virtual steps, and record the mean meta loss of the epoch."""
        if self.block.n_entered:
            self._end_block(net)
        mean = self.meta_loss / self.n_meta_steps  # nan without a meta step
        net.history.record("meta_loss", mean.item())

    def _rows(
        self, labels: Labels, logits: Tensor, features: Tensor, losses: Tensor, errors: Tensor
    ) -> Rows:
        evidence = F.embedding(labels.rows, self.evidence)  # takes rows of any shape
        return Rows(
            logits, losses, errors, labels.targets, features, evidence, labels.sample_weight
        )

    def _noise(self, weight_net: WeightingNet, rows: Rows) -> Tensor | None:
        """Draw standard normal numbers for the weights of one step, where they are asked for."""
        if not weight_net.noise_width:
            return None
        # One draw for all rows where the batch is the whole table: repeated rows, one fate.
        n_draws = 1 if len(rows.losses) == len(self.table) else len(rows.losses)
        noise = rows.losses.new_empty(n_draws, weight_net.noise_width)
        return noise.normal_(generator=self.generator)

    def _end_block(self, net: ReweightedNet) -> None:
        """Take the virtual steps of all batches that have been entered."""
        outputs, labels = self.block.stacks()
        rows = self._rows(labels, *outputs)
        self._meta_step(net, labels, rows, partial(self._move_head, net, labels, rows))
        self.block.clear()

    def _meta_step(
        self,
        net: ReweightedNet,
        labels: Labels,
        rows: Rows,
        look_ahead: Callable[[Tensor], LookAhead],
    ) -> None:
        """Step the weighting net, after warm-up; record the rows' influence in any case."""
        weight_net = net.weight_net_
        if self.reweighting:
            draw = weight_net.draw(rows, self._noise(weight_net, rows))
        else:
            draw = Draw(torch.ones_like(rows.losses))
        ahead = look_ahead(draw.weights.detach())
        self.meta_loss += ahead.meta_loss.sum()
        # Adam does not see the scale of a gradient, so the influences set their own; where they
        # have all but vanished, what is left is rounding and is not blown up.
        deviation = standard_deviation(ahead.influence, rows.sample_weight)
        torch.maximum(self.largest_deviation, deviation.amax(), out=self.largest_deviation)
        deviation = torch.maximum(deviation, 0.01 * self.largest_deviation)
        harm = ahead.influence / deviation[..., None]
        self.ledger.record_influence(labels, harm)
        if self.reweighting:
            tangent = None
            if not weight_net.scales_losses:
                assert ahead.tangent is not None
                tangent = ahead.tangent / deviation
            weight_net.backward(draw, harm, tangent, ahead.rows)
            step_without_hooks(net.meta_optimizer_)

    def _move_head(
        self, net: ReweightedNet, labels: Labels, rows: Rows, weights: Tensor
    ) -> LookAhead:
        """Virtual step of the last layer, and meta objective."""
        head: Any = net.module_.head
        if self.batch_size is not None:
            X_meta, meta_labels = self._draw_meta_batch(self.batch_size)
            with torch.no_grad(), evaluation(net.module_):
                meta_logits, meta_features = net.module_(X_meta)
        else:
            lent = self._lent(labels)
            meta_labels = Labels(*(part[..., lent] for part in labels))
            meta_logits, meta_features = rows.logits[..., lent, :], rows.features[..., lent, :]
        found = head_tangent(
            rows.logits,
            rows.features,
            net.weight_net_.errors(weights, rows),
            meta_logits,
            meta_features,
            self._slope(meta_labels),
            net.optimizer_.param_groups[0]["lr"],
            bias=head.bias is not None,
        )
        harm = influence(rows.errors, found.tangent)
        return LookAhead(harm, found.tangent, rows, found.meta_loss)

    def _move_all(
        self,
        net: ReweightedNet,
        X: Tensor,
        labels: Labels,
        rows: Rows,
        by_row: TracedRows | None,
        weights: Tensor,
    ) -> LookAhead:
        """Virtual step of every parameter, and meta objective.

        Passes made for the meta step alone are without dropout and with fixed running statistics.
        """
        module, weight_net = net.module_, net.weight_net_
        if self.batch_size is not None:
            X_meta, meta_labels = self._draw_meta_batch(self.batch_size)
        else:
            lent = self._lent(labels)
            X_meta, meta_labels = X[lent], Labels(*(part[lent] for part in labels))
        slope, lr = self._slope(meta_labels), net.optimizer_.param_groups[0]["lr"]
        if by_row is not None:
            share = weight_net.shares(weights, rows)
            with evaluation(module):
                harm, meta_loss = traced_influence(module, by_row, share, X_meta, slope, lr)
            return LookAhead(harm, None, rows, meta_loss)

        def errors(logits: Tensor) -> Tensor:
            return weight_net.errors(weights, rows_at(logits, rows))

        with evaluation(module):
            found = full_tangent(module, X, errors, X_meta, slope, lr)
        rows = rows_at(found.logits, rows)
        harm = influence(rows.errors, found.tangent)
        return LookAhead(harm, found.tangent, rows, found.meta_loss)

    def _slope(self, meta_labels: Labels) -> MetaGradient:
        """Meta objective of a meta batch, with its gradients."""
        weight = meta_labels.sample_weight
        if self.clean is not None:
            weight = weight * self.clean[meta_labels.rows]
        return partial(meta_gradient, self.objective, meta_labels.targets, weight)

    def _lent(self, labels: Labels) -> slice:
        """Which of a training batch's rows serve as meta batch."""
        n = labels.rows.shape[-1]
        if n <= MAX_META_ROWS or n == len(self.table):
            return slice(n)
        start = 0
        if self.idle_share:  # such rows come last: of both kinds, as large a share as in the batch
            start = round((1 - self.idle_share) * (n - MAX_META_ROWS))
        return slice(start, start + MAX_META_ROWS)

    def _draw_meta_batch(self, size: int) -> tuple[Tensor, Labels]:
        """Draw rows; all of them where there are no more."""
        n, device = len(self.meta_table), self.table.X.device
        if size >= n:
            return self.meta_table[torch.arange(n, device=device)]
        index = torch.randint(n, (size,), device=device, generator=self.generator)
        return self.meta_table[index]


class LookAhead(NamedTuple):
    """What a virtual step of size one shows; all of it detached."""

    influence: Tensor
    """Of each row, shape (n,)."""
    tangent: Tensor | None
    """Of the logits, shape (n, n_classes), where it was computed."""
    rows: Rows
    """The training batch, as it was when the virtual step was taken."""
    meta_loss: Tensor
    """Shape ()."""


def _count_to_last(weights: Tensor) -> int:
    """Rows of a batch up to the last one that has a weight."""
    found = weights.nonzero()
    return int(found[-1]) + 1 if len(found) else 0


def rows_at(logits: Tensor, rows: Rows) -> Rows:
    """Rows with other logits, and the losses that follow; all else as it was."""
    losses, errors = cross_entropy_errors(logits, rows.targets)
    return rows._replace(logits=logits, losses=losses, errors=errors)


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for the time of a pass."""
    module.eval()
    try:
        yield
    finally:
        module.train()
