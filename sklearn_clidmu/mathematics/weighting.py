"""Weighting nets V_phi: from what is known of a row to how much its label is trusted.

All of them answer to one interface (:class:`WeightingNet`), so that the meta step need not know
which one it trains: ``forward`` maps a batch of :class:`Rows` to the weights of the virtual step,
``applied`` to those of the real step, ``loss_and_errors`` says how weights enter the loss of the
network, ``trust`` reads one number per row out of them.

:class:`LossWeightNet` and :class:`LogitRectifier` are the paper's WNet and VRI (Hu et al., arXiv
2507.11807); :class:`EvidenceWeightNet` is this package's own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu.mathematics.evidence import N_EVIDENCE, class_sums, weighted_mean
from sklearn_clidmu.mathematics.hypergradient import surrogate

N_BISECTIONS = 30
"""Halvings of the range in which the offset of a class is looked for."""

NEGLIGIBLE = 0.01
"""Rows that are trusted less have no part in the real steps: all together they would have little
more than a hundredth of the weight, and without them the backward pass is as much shorter."""

CHUNK = 65536
"""Rows whose hidden units are in memory at a time, where all rows are scored."""


class Rows(NamedTuple):
    """What is known of a batch; all of it detached from the network.

    The evidence net takes stacks of batches of one size, too, in which all has one dimension more.
    """

    logits: Tensor
    """Shape (n, n_classes)."""
    losses: Tensor
    """Cross entropy with the given label, in nats, shape (n,)."""
    errors: Tensor
    """Gradient of each row's loss by its logits, shape (n, n_classes)."""
    targets: Tensor
    """Given labels, int64, shape (n,)."""
    features: Tensor
    """Last hidden features, shape (n, d)."""
    evidence: Tensor
    """What speaks against a row's label, the more the higher, shape (n, N_EVIDENCE)."""
    sample_weight: Tensor
    """The caller's weights: a row of weight s counts as s identical rows, shape (n,)."""


class Draw(NamedTuple):
    """Weights of one virtual step, and what their net wants to know of them again."""

    weights: Tensor
    """Shape (n,) or (n, n_classes)."""
    penalty: Tensor | float = 0.0
    """Term that they add to the meta objective, shape ()."""
    hidden: Tensor | None = None
    """Hidden units, where the net differentiates by hand."""


def cross_entropy_errors(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of each row, shape (n,), and its gradient by the logits, (n, n_classes)."""
    # Few classes are faster as rows than as columns.
    log_probabilities, given = logits.T.log_softmax(dim=0), targets[None]
    losses = log_probabilities.gather(0, given).squeeze(0).neg_()
    return losses, log_probabilities.exp_().scatter_add_(0, given, minus_ones(logits).T).T


def minus_ones(logits: Tensor) -> Tensor:
    """Return -1 for every row, shape (n, 1)."""
    return logits.new_full((1, 1), -1).expand(len(logits), 1)


class WeightingNet(nn.Module):
    """Interface of the weighting nets; by default one weight per row scales the row's loss."""

    scales_losses = True
    """Whether weights are one number a row that multiplies its loss."""
    uses_evidence = False
    """Whether ``forward`` looks at ``Rows.evidence``."""
    noise_width = 0
    """Number of standard normal draws per row that ``forward`` takes; 0 for none."""

    def forward(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """Weights of a batch in the virtual step, shape (n,) or (n, n_classes)."""
        raise NotImplementedError

    def draw(self, rows: Rows, noise: Tensor | None = None) -> Draw:
        """Weights of the virtual step, for :meth:`backward` to learn from."""
        return Draw(self(rows, noise))

    def applied(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """Weights of a batch in the real step; by default those of the virtual one."""
        return self(rows, noise)

    def balance(self, evidence: Tensor, targets: Tensor, sample_weight: Tensor) -> Tensor | None:
        """Take stock of all training rows, before an epoch; by default nothing.

        Returns their weights in the epoch's real steps, shape (n,), where no batch changes them.
        """

    def loss_and_errors(self, weights: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Reweighted loss of the batch, sum of v_i l_i over the sum of v_i, and :meth:`errors`."""
        share = self.shares(weights, rows)
        return share @ rows.losses, share[:, None] * rows.errors

    def shares(self, weights: Tensor, rows: Rows) -> Tensor:
        """Factors of the rows' losses in the loss of the batch, shape (n,).

        They add up to one, unless no row has a weight: then there is no loss.
        """
        weights = weights * rows.sample_weight
        total = weights.sum(dim=-1, keepdim=True)
        return weights / total.clamp_min(torch.finfo(total.dtype).tiny)

    def errors(self, weights: Tensor, rows: Rows) -> Tensor:
        """Gradient of the reweighted loss by the logits, shape (n, n_classes)."""
        return self.shares(weights, rows)[..., None] * rows.errors

    def surrogate(
        self, weights: Tensor, influence: Tensor, tangent: Tensor | None, rows: Rows
    ) -> Tensor:
        """Scalar whose gradient is the hypergradient of a virtual step of size 1, shape ().

        A loss that is linear in the weights needs no more than each row's influence.
        """
        return weighted_mean(influence, weights * rows.sample_weight)

    def backward(self, draw: Draw, influence: Tensor, tangent: Tensor | None, rows: Rows) -> None:
        """Set the parameters' ``grad`` to the hypergradient of the virtual step with a draw."""
        self.zero_grad()
        (self.surrogate(draw.weights, influence, tangent, rows) + draw.penalty).backward()

    def trust(self, weights: Tensor, rows: Rows) -> Tensor:
        """How much each row's given label is trusted, in [0, 1], shape (n,)."""
        return weights


class LossWeightNet(WeightingNet):
    """WNet: a row's weight in (0, 1) from its loss alone.

    Source: arXiv 2507.11807, after Meta-Weight-Net (Shu et al., NeurIPS 2019).

    Parameters
    ----------
    n_hidden : int, default=100
        Width of the hidden layer; the published value.
    """

    def __init__(self, n_hidden: int = 100) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, n_hidden)
        self.output = nn.Linear(n_hidden, 1)

    def forward(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """Weights in (0, 1), shape (n,)."""
        hidden = self.hidden(rows.losses[:, None]).relu()
        return self.output(hidden).sigmoid().squeeze(1)


class EvidenceWeightNet(WeightingNet):
    """A row's weight from all that speaks against its label.

    The net gives every row a score that never rises with any evidence; without that bound the
    meta step, on clean labels, learns to train on the hard rows alone. The distrust that an
    earlier training has left is taken off the score as it is. In the virtual step the
    rows of a batch compete by their scores (softmax), so that the net learns the order of the
    rows and nothing else. In the real step a weight is the sigmoid of the score plus an offset
    of the given class, so that the mean weight of a class is the share of its labels that is
    believed to be right: CLID alone would go on starving honest rows where classes overlap.
    Evidence, offsets and with them these weights are taken anew before every epoch; those below
    :data:`NEGLIGIBLE` are zero.

    Parameters
    ----------
    believed : Tensor of shape (n_classes,)
        Share of right labels among those given to each class, in (0, 1).
    n_hidden : int, default=64
        Width of the hidden layer.
    """

    uses_evidence = True
    believed: Tensor
    offset: Tensor

    def __init__(self, believed: Tensor, n_hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(N_EVIDENCE - 1, n_hidden)
        self.output = nn.Linear(n_hidden, 1, bias=False)  # rows compete: a level has no effect
        nn.init.uniform_(self.hidden.weight, 0, 1)
        nn.init.uniform_(self.hidden.bias, -1, 1)
        nn.init.constant_(self.output.weight, 0.001)
        self.register_buffer("believed", believed.clone())
        self.register_buffer("offset", believed.logit())

    def score(self, evidence: Tensor) -> Tensor:
        """Score of each row, shape (n,); to start with, little more than minus the distrust."""
        return self._score(self._hidden(evidence), evidence)

    def _score(self, hidden: Tensor, evidence: Tensor) -> Tensor:
        return torch.addmv(evidence[:, -1], hidden, self.output.weight[0].abs(), beta=-1, alpha=2)

    def _hidden(self, evidence: Tensor) -> Tensor:
        """Units of the hidden layer in (0, 1), shape (n, n_hidden)."""
        # Absolute values keep every path from an input to the score falling. Twice the sigmoid of
        # twice a sum is its tanh, but for a level, and takes a fifth of the time.
        falling = self.hidden.weight.abs().T
        sums = torch.addmm(self.hidden.bias, evidence[:, :-1], falling, beta=2, alpha=-2)
        return sums.sigmoid_()

    def forward(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """Weights in proportion to the exponential of the score, shape (n,)."""
        return self.score(rows.evidence).softmax(dim=-1)

    @torch.no_grad()
    def draw(self, rows: Rows, noise: Tensor | None = None) -> Draw:
        """Weights of the virtual step without a graph, which :meth:`backward` does not need."""
        evidence = rows.evidence.flatten(end_dim=-2)
        hidden = self._hidden(evidence)
        score = self._score(hidden, evidence).view(rows.losses.shape)
        return Draw(score.softmax(dim=-1), hidden=hidden)

    @torch.no_grad()
    def backward(self, draw: Draw, influence: Tensor, tangent: Tensor | None, rows: Rows) -> None:
        """Set the parameters' ``grad`` to the hypergradient, in a third of autograd's time.

        Of a stack of batches, to the sum of theirs.
        """
        share = self.shares(draw.weights, rows)
        mean = (share * influence).sum(dim=-1, keepdim=True)
        by_score = (share * (influence - mean)).flatten()
        hidden, output = draw.hidden, self.output.weight
        assert hidden is not None
        output.grad = 2 * output.sign() * (by_score @ hidden)
        by_units = torch.outer(by_score, 4 * output[0].abs())
        by_sum = torch.ops.aten.sigmoid_backward.default(by_units, hidden)
        self.hidden.bias.grad = by_sum.sum(dim=0)
        by_falling = by_sum.T @ rows.evidence.flatten(end_dim=-2)[:, :-1]
        self.hidden.weight.grad = by_falling.mul_(self.hidden.weight.sign()).neg_()

    def applied(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """Weights in (0, 1), shape (n,)."""
        return _sigmoid(self.score(rows.evidence), self.offset, rows.targets)

    @torch.no_grad()
    def balance(self, evidence: Tensor, targets: Tensor, sample_weight: Tensor) -> Tensor:
        """Set the offsets so that the mean weight of each class is its believed share.

        The weights stay for the epoch, as the evidence does: weights taken anew at every batch,
        from a net that has moved a little, are no better (0.2 points of accuracy worse over 30
        noisy tables, standard error 0.2), and are balanced no more.
        """
        score = torch.cat([self.score(rows) for rows in evidence.split(CHUNK)])
        n_classes = len(self.believed)
        wanted = self.believed * class_sums(sample_weight, targets, n_classes)
        middle = self.believed.logit()
        low, high = middle - score.max(), middle - score.min()
        for _ in range(N_BISECTIONS):
            offset = (low + high) / 2
            weights = _sigmoid(score, offset, targets) * sample_weight
            short = class_sums(weights, targets, n_classes) < wanted
            low, high = torch.where(short, offset, low), torch.where(short, high, offset)
        self.offset.copy_(offset)
        weights = _sigmoid(score, offset, targets)
        return weights.masked_fill_(weights < NEGLIGIBLE, 0)


def _sigmoid(score: Tensor, offset: Tensor, targets: Tensor) -> Tensor:
    """Weights in (0, 1) from scores and the offsets of the given classes, shape (n,)."""
    return (score + offset.index_select(0, targets)).sigmoid_()


class LogitRectifier(WeightingNet):
    """VRI: a random vector in (0, 1)^C per row that multiplies its logits inside the loss.

    Unlike the published code, the standard deviation is exp(log_variance / 2) and the
    Kullback-Leibler term reaches the meta gradient.

    Source: arXiv 2507.11807, after variational rectification inference (Sun et al.).

    Parameters
    ----------
    n_features : int
        Width of the last hidden features.
    n_classes : int
        Number of classes C.
    n_embedding : int, default=64
        Width of the label embedding that is read beside the features; the published value.
    n_hidden : tuple of two int, default=(128, 64)
        Widths of the tanh layers; the second is repeated once.
    kl_weight : float, default=1e-3
        Weight of the Kullback-Leibler divergence to a standard Gaussian: small, since it only
        has to keep the posterior from running away.
    """

    scales_losses = False

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        n_embedding: int = 64,
        n_hidden: tuple[int, int] = (128, 64),
        kl_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        first, second = n_hidden
        self.embedding = nn.Embedding(n_classes, n_embedding)
        self.body = nn.Sequential(
            nn.Linear(n_features + n_embedding, first),
            nn.Tanh(),
            nn.Linear(first, second),
            nn.Tanh(),
            nn.Linear(second, second),
            nn.Tanh(),
        )
        self.mean = nn.Linear(second, n_classes)
        self.log_variance = nn.Linear(second, n_classes)
        self.kl_weight = kl_weight
        self.noise_width = n_classes

    def posterior(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the Gaussian before squashing, each (n, n_classes)."""
        hidden = self.body(torch.cat([rows.features, self.embedding(rows.targets)], dim=1))
        return self.mean(hidden), self.log_variance(hidden)

    def forward(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """Rectifying vectors, shape (n, n_classes); the posterior's mean without ``noise``."""
        return self.draw(rows, noise).weights

    def draw(self, rows: Rows, noise: Tensor | None = None) -> Draw:
        """Those vectors, and the Kullback-Leibler divergence to the prior times its weight."""
        mean, log_variance = self.posterior(rows)
        divergence = (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1) / 2
        if noise is not None:
            mean = mean + (log_variance / 2).exp() * noise
        penalty = self.kl_weight * weighted_mean(divergence, rows.sample_weight)
        return Draw(mean.sigmoid(), penalty)

    def loss_and_errors(self, weights: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the rectified logits, and :meth:`errors`."""
        losses = F.cross_entropy(weights * rows.logits, rows.targets, reduction="none")
        return weighted_mean(losses, rows.sample_weight), self.errors(weights, rows)

    def errors(self, weights: Tensor, rows: Rows) -> Tensor:
        """Gradient of the mean cross entropy by the logits, shape (n, n_classes)."""
        share = rows.sample_weight / rows.sample_weight.sum()
        return share[:, None] * self._row_errors(weights, rows)

    def surrogate(
        self, weights: Tensor, influence: Tensor, tangent: Tensor | None, rows: Rows
    ) -> Tensor:
        """Scalar whose gradient is the hypergradient of a virtual step of size 1, shape ()."""
        assert tangent is not None
        return surrogate(self.errors(weights, rows), tangent)

    def trust(self, weights: Tensor, rows: Rows) -> Tensor:
        """Share of a row's plain gradient that the rectified loss lets through, at most 1.

        1 for a row so well fitted that no gradient is left to compare.
        """
        plain = rows.errors.norm(dim=1)
        rectified = self._row_errors(weights, rows).norm(dim=1)
        fitted = plain < torch.finfo(plain.dtype).eps
        return torch.where(fitted, 1.0, rectified / plain).clamp_max(1)

    def _row_errors(self, weights: Tensor, rows: Rows) -> Tensor:
        probabilities = (weights * rows.logits).softmax(dim=1)
        return weights * probabilities.scatter_add(1, rows.targets[:, None], minus_ones(weights))
