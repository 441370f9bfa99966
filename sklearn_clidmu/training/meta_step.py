"""The meta steps of CLID-MU as callbacks: one a batch (WNet, VRI), one a block (evidence)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu._random import own_generator
from sklearn_clidmu._settings import META_BATCH_ROWS
from sklearn_clidmu.clid.hypergradient import (
    MetaBatch,
    MetaTangent,
    full_tangent,
    head_tangent,
    influence,
)
from sklearn_clidmu.clid.objective import MetaObjective
from sklearn_clidmu.clid.weight_nets import VRI, EvidenceNet, Rows, WNet, row_grad_logits
from sklearn_clidmu.clid.weighted import shares, standard_deviation, weighted_mean
from sklearn_clidmu.training.data import Labels, SampleHistory, Table
from sklearn_clidmu.training.net import ReweightedNet

META_BATCH_WEIGHT = 256.0
"""Sum of the sample weights of a meta batch. CLID's published gradient depends on it; so scaled, it
depends neither on the scale of the weights nor on the number of rows."""


class MetaStep(Callback):
    """What both kinds of meta step share: the virtual step, and the optimizer of the weighting net.

    ``virtual_step`` is "head" or "full", which is also taken where the network's last layer is not
    a linear one. ``n_warmup`` is the number of epochs of plain training before the first meta step.
    A meta batch has ``meta_batch_size`` rows of the table, or with None rows of the training batch.
    ``history`` receives the influence of each row.
    """

    def __init__(
        self,
        weight_net: nn.Module,
        table: Table,
        history: SampleHistory,
        objective: MetaObjective,
        *,
        virtual_step: str,
        n_warmup: int,
        meta_batch_size: int | None,
        lr: float,
    ) -> None:
        self.weight_net = weight_net
        self.table = table
        self.history = history
        self.objective = objective
        self.virtual_step = virtual_step
        self.n_warmup = n_warmup
        self.meta_batch_size = meta_batch_size
        self.lr = lr
        self.enabled = True
        self.reweighting = False

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Build the optimizer and the generator of the meta batches."""
        device = self.table.X.device
        self.optimizer = torch.optim.Adam(
            self.weight_net.parameters(), self.lr, fused=device.type in ("cpu", "cuda")
        )
        self.generator = own_generator(device)
        self.largest_deviation = self.history.loss.new_zeros(())

    def on_epoch_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Decide whether this epoch reweights."""
        self.reweighting = self.enabled and len(net.history) > self.n_warmup
        self.meta_losses: list[Tensor] = []

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Record the mean meta loss of the epoch."""
        losses = torch.cat(self.meta_losses) if self.meta_losses else torch.full((1,), torch.nan)
        net.history.record("meta_loss", losses.mean().item())

    def _step(self, surrogate: Tensor) -> None:
        """Take a step of the weighting net along the hypergradient."""
        self.optimizer.zero_grad()
        surrogate.backward()
        self.optimizer.step()

    def _head(self, net: ReweightedNet) -> Any:
        """Last linear layer, if the virtual step moves it alone; else None."""
        return getattr(net.module_, "head", None) if self.virtual_step == "head" else None

    def _tangent(
        self,
        net: ReweightedNet,
        X: Any,
        labels: Labels,
        logits: Tensor,
        features: Tensor,
        grad_logits: Callable[[Tensor], Tensor],
    ) -> MetaTangent:
        """Take the virtual step of a batch, and the meta objective after it.

        Of a stack of batches, whose rows X may be None since a virtual step of the head reads none,
        each takes a step of its own. Passes made for the meta step alone are without dropout and
        with fixed running statistics.
        """
        lr, head = net.optimizer_.param_groups[0]["lr"], self._head(net)
        own = slice(self._n_own(logits.shape[-2]))
        X_meta: Any = None if X is None else X[own]
        meta = make_meta_batch(labels, own)
        meta_logits, meta_features = logits[..., own, :], features[..., own, :]
        if self.meta_batch_size is not None:
            X_meta, drawn = self._draw_meta_batch(self.meta_batch_size)
            meta = make_meta_batch(drawn)
        if head is None:
            args = (X, grad_logits, X_meta, meta, self.objective, lr)
            with evaluation(net.module_), explained_derivatives(net.module_):
                return full_tangent(net.module_, *args)
        if self.meta_batch_size is not None:
            with evaluation(net.module_), torch.no_grad():
                meta_logits, meta_features = net.module_(X_meta)
        batch = logits, features, grad_logits(logits), meta_logits, meta_features
        return head_tangent(*batch, meta, self.objective, lr, bias=head.bias is not None)

    def _n_own(self, n_rows: int) -> int:
        """Rows of a training batch that serve as its meta batch."""
        return n_rows if n_rows == len(self.table) else min(n_rows, META_BATCH_ROWS[1])

    def _draw_meta_batch(self, size: int) -> tuple[Tensor, Labels]:
        """Draw rows; all of them where there are no more."""
        n, device = len(self.table), self.table.X.device
        if size >= n:
            return self.table[torch.arange(n, device=device)]
        return self.table[torch.randint(n, (size,), device=device, generator=self.generator)]

    def _scale(self, influence: Tensor, sample_weight: Tensor) -> Tensor:
        """Return the standard deviation by which influences are divided; Adam ignores their scale.

        It is at least a hundredth of the largest so far, so that mere rounding is not amplified.
        """
        deviation = standard_deviation(influence, sample_weight)
        self.largest_deviation = torch.maximum(self.largest_deviation, deviation.amax())
        return torch.maximum(deviation, 0.01 * self.largest_deviation)


class BatchMetaStep(MetaStep):
    """Meta step of WNet or VRI on every batch, before its real step: Algorithm 1 of the paper."""

    weight_net: WNet | VRI

    def training_loss(
        self,
        net: ReweightedNet,
        X: Tensor,
        labels: Labels,
        logits: Tensor,
        features: Tensor,
        losses: Tensor,
    ) -> Tensor | None:
        """Take a meta step; return the loss of the batch under the new weights."""
        if not self.reweighting:
            return None
        weight_net = self.weight_net
        rows = make_rows(logits, features, labels)
        noise = self._noise(rows)
        weights = weight_net.weights(rows, noise)

        def grad_logits(logits: Tensor) -> Tensor:
            return weight_net.grad_logits(weights.detach(), logits, rows)

        # Virtual step, and the meta objective after it.
        found = self._tangent(net, X, labels, rows.logits, rows.features, grad_logits)
        influences = influence(row_grad_logits(found.logits, labels.targets), found.tangent)
        self.meta_losses.append(found.meta_loss.reshape(1))
        # Meta step: the gradient of this surrogate by the weighting net is the hypergradient.
        tangent = found.tangent / self._scale(influences, labels.sample_weight)
        by_logits = weight_net.grad_logits(weights, found.logits, rows)
        self._step(weight_net.penalty(rows) - (by_logits * tangent).sum())
        # Real step, with the weights of the new phi.
        with torch.no_grad():
            weights = weight_net.weights(rows, self._noise(rows))
        return weight_net.loss(weights, logits, rows)

    def _noise(self, rows: Rows) -> Tensor | None:
        """Draw standard normal numbers for the weights of one step, where they are needed."""
        if not self.weight_net.noise_width:
            return None
        # One draw for all rows where the batch is the whole table: identical rows, one weight.
        n_draws = 1 if len(rows.losses) == len(self.table) else len(rows.losses)
        noise = rows.losses.new_empty(n_draws, self.weight_net.noise_width)
        return noise.normal_(generator=self.generator)


class BlockMetaStep(MetaStep):
    """Meta step of the evidence net on a block of ``n_batches`` batches.

    Evidence and weights stay for an epoch. So the virtual steps of several batches can be taken
    together, each from where the network stood with its batch, and the weighting net takes one step
    along the sum of their hypergradients. In warm-up only the influence is recorded.

    ``resolve`` of :mod:`sklearn_clidmu._settings` says when a block is one batch.
    """

    weight_net: EvidenceNet

    def __init__(self, *args: Any, n_batches: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_batches = n_batches

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Compute the estimated share of wrong labels."""
        super().on_train_begin(net, **kwargs)
        labels = self.table.labels
        precision = self.weight_net.label_precision[labels.targets]
        self.noise_rate = 1 - weighted_mean(precision, labels.sample_weight)

    def on_epoch_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Compute the evidence, and from it the weights of this epoch."""
        super().on_epoch_begin(net, **kwargs)
        self.block: list[tuple[Labels, Tensor, Tensor]] = []
        self.evidence = self.history.evidence()
        if self.reweighting:
            rows, targets, sample_weight = self.table.labels
            evidence = self.evidence[rows]
            weights = self.weight_net.calibrate(evidence, targets, sample_weight)
            self.weights = torch.zeros_like(self.history.loss).index_copy(0, rows, weights)

    def training_loss(
        self,
        net: ReweightedNet,
        X: Tensor,
        labels: Labels,
        logits: Tensor,
        features: Tensor,
        losses: Tensor,
    ) -> Tensor | None:
        """Loss of the batch under the weights of this epoch; a block of one batch ends here."""
        if self.enabled and self.n_batches == 1:
            self._meta_step(net, X, labels, logits.detach(), features.detach())
        if not self.reweighting:
            return None
        losses = symmetric_cross_entropy(losses, self.noise_rate, logits.shape[1])
        return shares(self.weights[labels.rows] * labels.sample_weight) @ losses

    def on_batch_end(
        self,
        net: ReweightedNet,
        batch: tuple[Tensor, Labels],
        y_pred: Tensor,
        features: Tensor,
        **kwargs: Any,
    ) -> None:
        """Add the batch to the block; step if the block is full."""
        if not self.enabled or self.n_batches == 1:
            return
        if self.block and len(self.block[0][1]) != len(y_pred):
            self._end_block(net)
        self.block.append((batch[1], y_pred, features))
        if len(self.block) == self.n_batches:
            self._end_block(net)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Take the last meta step of the epoch."""
        if self.block:
            self._end_block(net)
        super().on_epoch_end(net, **kwargs)

    def _end_block(self, net: ReweightedNet) -> None:
        """Take the virtual steps of all batches of the block, and one meta step."""
        parts, *outputs = zip(*self.block, strict=True)
        self.block = []
        labels = Labels(*map(torch.stack, zip(*parts, strict=True)))
        self._meta_step(net, None, labels, *map(torch.stack, outputs))

    def _meta_step(
        self, net: ReweightedNet, X: Any, labels: Labels, logits: Tensor, features: Tensor
    ) -> None:
        """Record the influence and, after warm-up, step the weighting net."""
        factors = self._virtual_shares(labels)

        def grad_logits(logits: Tensor) -> Tensor:
            return factors.detach()[..., None] * row_grad_logits(logits, labels.targets)

        found = self._tangent(net, X, labels, logits, features, grad_logits)
        influences = influence(row_grad_logits(found.logits, labels.targets), found.tangent)
        influences = influences / self._scale(influences, labels.sample_weight)
        self.history.record_influence(labels, influences)
        self.meta_losses.append(found.meta_loss.reshape(-1))
        if self.reweighting:
            self._step((factors * influences).sum())

    def _virtual_shares(self, labels: Labels) -> Tensor:
        """Factors of the rows' losses in the virtual steps, with the weighting net's graph."""
        if self.reweighting:
            evidence = self.evidence.index_select(0, labels.rows.flatten())
            evidence = evidence.view(*labels.rows.shape, -1)
            return self.weight_net.virtual_shares(evidence, labels.sample_weight)
        return shares(labels.sample_weight)


def symmetric_cross_entropy(losses: Tensor, noise_rate: Tensor, n_classes: int) -> Tensor:
    """Cross entropy and, by the share of wrong labels, its reverse, shape (n,).

    The reverse is in proportion to 1 - p, where p is the probability of the given label (Wang et
    al., ICCV 2019), and so is bounded: what the weights leave of the wrong labels is not learned by
    heart. Both are equal where all classes are equally probable.
    """
    reverse = -torch.expm1(-losses) * math.log(n_classes) / (1 - 1 / n_classes)
    return torch.lerp(losses, reverse, noise_rate)


def make_meta_batch(labels: Labels, part: slice = slice(None)) -> MetaBatch:
    """Labels of a part of each batch, with weights that add up to :data:`META_BATCH_WEIGHT`."""
    weight = labels.sample_weight[..., part]
    scale = META_BATCH_WEIGHT / weight.sum(dim=-1, keepdim=True)
    return MetaBatch(labels.targets[..., part], scale * weight)


def make_rows(logits: Tensor, features: Tensor, labels: Labels) -> Rows:
    """Rows as a weighting net sees them, detached from the network."""
    logits, features = logits.detach(), features.detach()
    losses = F.cross_entropy(logits, labels.targets, reduction="none")
    return Rows(logits, features, losses, labels.targets, labels.sample_weight)


@contextmanager
def explained_derivatives(module: nn.Module) -> Iterator[None]:
    """Name the module if torch cannot differentiate what it computes twice."""
    try:
        yield
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise ValueError(
            f"module {getattr(module, 'name', '')} has an operation that cannot be differentiated "
            f"twice ({error}): return the output of a torch.nn.Linear layer as logits, with "
            "virtual_step='head', or set weighting=None."
        ) from error


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for the time of a pass."""
    module.eval()
    try:
        yield
    finally:
        module.train()
