"""Weighting nets V_phi: from what is known of a row to the confidence in its label.

:class:`WNet` and :class:`VRI` are the paper's (Hu et al., arXiv 2507.11807); :class:`EvidenceNet`
is this package's own. WNet and VRI share one interface, so that a meta step need not know which of
them it trains: ``weights`` of a batch, ``loss`` of the network under these weights, ``grad_logits``
of that loss in closed form, and the label ``confidence`` that the weights express.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu.clid.weighted import class_sums, shares, weighted_mean

EVIDENCE = (
    "loss",
    "rank of mean loss",
    "rank of influence on CLID",
    "rank of negative LOO margin",
    "P(label wrong) before training",
)
"""Columns of evidence against a label; see :class:`EvidenceNet`."""

N_BISECTIONS = 30
"""Halvings of the range in which the offset of a class is searched: to 1e-9 of it."""

CHUNK = 65536
"""Rows whose hidden units are in memory at a time, where all rows are scored."""


class Rows(NamedTuple):
    """A batch as a weighting net sees it; detached from the network."""

    logits: Tensor
    """Shape (n, n_classes)."""
    features: Tensor
    """Last hidden features, shape (n, d)."""
    losses: Tensor
    """Cross entropy with the given label, in nats, shape (n,)."""
    targets: Tensor
    """Given labels, int64, shape (n,)."""
    sample_weight: Tensor
    """The caller's weights: a row of weight s counts as s identical rows, shape (n,)."""


def row_grad_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient of each row's cross entropy by its logits, shape (..., n, n_classes)."""
    minus_one = logits.new_full((1,), -1).expand(targets.shape)[..., None]
    return logits.softmax(dim=-1).scatter_add(-1, targets[..., None], minus_one)


class WNet(nn.Module):
    """WNet: a row's weight in (0, 1) from its loss alone, multiplied with the loss.

    Source: arXiv 2507.11807, after Meta-Weight-Net (Shu et al., NeurIPS 2019).

    Parameters
    ----------
    n_hidden : int, default=100
        Width of the hidden layer; the published value.
    """

    noise_width = 0
    """Standard normal draws per row that ``weights`` takes."""

    def __init__(self, n_hidden: int = 100) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, n_hidden)
        self.output = nn.Linear(n_hidden, 1)

    def forward(self, losses: Tensor) -> Tensor:
        """Weights of rows with these losses, shape (n,)."""
        return self.output(self.hidden(losses[:, None]).relu()).sigmoid().squeeze(1)

    def weights(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """Weights of a batch, shape (n,)."""
        return self(rows.losses)

    def penalty(self, rows: Rows) -> Tensor:
        """Term added to the meta objective: none."""
        return rows.losses.new_zeros(())

    def loss(self, weights: Tensor, logits: Tensor, rows: Rows) -> Tensor:
        """Reweighted loss of the batch, sum of v_i l_i over the sum of v_i, shape ()."""
        losses = F.cross_entropy(logits, rows.targets, reduction="none")
        return shares(weights * rows.sample_weight) @ losses

    def grad_logits(self, weights: Tensor, logits: Tensor, rows: Rows) -> Tensor:
        """Gradient of :meth:`loss` by the logits, shape (n, n_classes)."""
        share = shares(weights * rows.sample_weight)
        return share[:, None] * row_grad_logits(logits, rows.targets)

    def confidence(self, weights: Tensor, rows: Rows) -> Tensor:
        """Confidence in each row's label, in [0, 1], shape (n,)."""
        return weights


class VRI(nn.Module):
    """VRI: a random vector in (0, 1)^C per row that multiplies its logits inside the loss.

    Unlike in the published code, the standard deviation is exp(log_variance / 2) and the
    Kullback-Leibler term reaches the meta gradient.

    Source: arXiv 2507.11807, after variational rectification inference (Sun et al.).

    Parameters
    ----------
    n_features : int
        Width of the last hidden features.
    n_classes : int
        Number of classes C.
    n_embedding : int, default=64
        Width of the label embedding; the published value.
    n_hidden : tuple of two int, default=(128, 64)
        Widths of the tanh layers; the second is repeated once.
    kl_weight : float, default=1e-3
        Weight of the Kullback-Leibler divergence to a standard Gaussian: only large enough to keep
        the posterior bounded.
    """

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

    def forward(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the Gaussian before squashing, each (n, n_classes)."""
        hidden = self.body(torch.cat([features, self.embedding(targets)], dim=1))
        return self.mean(hidden), self.log_variance(hidden)

    def weights(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """Rectifying vectors, shape (n, n_classes); the posterior's mean without ``noise``."""
        mean, log_variance = self(rows.features, rows.targets)
        if noise is not None:
            mean = mean + (log_variance / 2).exp() * noise
        return mean.sigmoid()

    def penalty(self, rows: Rows) -> Tensor:
        """Kullback-Leibler divergence to a standard Gaussian times its weight, shape ()."""
        mean, log_variance = self(rows.features, rows.targets)
        divergence = (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1) / 2
        return self.kl_weight * weighted_mean(divergence, rows.sample_weight)

    def loss(self, weights: Tensor, logits: Tensor, rows: Rows) -> Tensor:
        """Mean cross entropy of the rectified logits, shape ()."""
        losses = F.cross_entropy(weights * logits, rows.targets, reduction="none")
        return weighted_mean(losses, rows.sample_weight)

    def grad_logits(self, weights: Tensor, logits: Tensor, rows: Rows) -> Tensor:
        """Gradient of :meth:`loss` by the logits, shape (n, n_classes)."""
        share = shares(rows.sample_weight)
        return share[:, None] * weights * row_grad_logits(weights * logits, rows.targets)

    def confidence(self, weights: Tensor, rows: Rows) -> Tensor:
        """Share of a row's plain gradient that the rectified loss passes on, at most 1, shape (n,).

        1 for a row so well fitted that no gradient is left to compare.
        """
        plain = row_grad_logits(rows.logits, rows.targets).norm(dim=1)
        rectified = weights * row_grad_logits(weights * rows.logits, rows.targets)
        fitted = plain < torch.finfo(plain.dtype).eps
        return torch.where(fitted, 1.0, rectified.norm(dim=1) / plain).clamp_max(1)


class EvidenceNet(nn.Module):
    """A row's weight from all evidence against its label.

    Evidence, shape (..., 5), is the last loss in units of log(n_classes); the normal ranks
    of the mean loss, of the summed influence and of the negative leave-one-out margin; and the
    prior log odds of a wrong label, which follow from predictions made without it.

    The score never rises with evidence: without that bound the meta step learns, on clean labels,
    to train on the hard rows alone. The prior log odds are subtracted as they are. The virtual
    step, with the softmax of the scores, teaches the order of the rows and nothing else. The real
    step has the sigmoid of the score plus an offset of the given class, calibrated so that the mean
    weight of a class is its ``label_precision``, the share of right labels among those given to it,
    in (0, 1): CLID alone would starve right rows where classes overlap.
    """

    label_precision: Tensor
    offset: Tensor

    def __init__(self, label_precision: Tensor, n_hidden: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(len(EVIDENCE) - 1, n_hidden)
        self.output = nn.Linear(n_hidden, 1, bias=False)  # the softmax ignores a bias
        nn.init.uniform_(self.hidden.weight, 0, 1)
        nn.init.uniform_(self.hidden.bias, -1, 1)
        nn.init.constant_(self.output.weight, 0.001)
        self.register_buffer("label_precision", label_precision.clone())
        self.register_buffer("offset", label_precision.logit())

    def forward(self, evidence: Tensor) -> Tensor:
        """Score of each row, shape (...,); at first little more than minus the prior log odds."""
        # Absolute values keep every path from an input to the score falling. 2 sigmoid(2x) is
        # 1 + tanh(x) and several times as fast.
        falling = evidence[..., :-1] @ self.hidden.weight.abs().T
        hidden = (2 * (self.hidden.bias - falling)).sigmoid()
        return 2 * hidden @ self.output.weight[0].abs() - evidence[..., -1]

    def weights(self, evidence: Tensor, targets: Tensor) -> Tensor:
        """Weights of the real step, in (0, 1), shape (n,)."""
        return (self(evidence) + self.offset[targets]).sigmoid()

    def virtual_shares(self, evidence: Tensor, sample_weight: Tensor) -> Tensor:
        """Factors of the rows' losses in the virtual step, which add up to one, shape (..., n)."""
        return shares(self(evidence).softmax(dim=-1) * sample_weight)

    @torch.no_grad()
    def calibrate(self, evidence: Tensor, targets: Tensor, sample_weight: Tensor) -> Tensor:
        """Set the offsets so that the mean weight of each class is its label precision.

        Returns the weights of the rows, shape (n,).
        """
        score = torch.cat([self(rows) for rows in evidence.split(CHUNK)])
        n_classes = len(self.label_precision)
        wanted = self.label_precision * class_sums(sample_weight, targets, n_classes)
        middle = self.label_precision.logit()
        low, high = middle - score.max(), middle - score.min()
        for _ in range(N_BISECTIONS):
            offset = (low + high) / 2
            weights = (score + offset[targets]).sigmoid() * sample_weight
            short = class_sums(weights, targets, n_classes) < wanted
            low, high = torch.where(short, offset, low), torch.where(short, high, offset)
        self.offset.copy_(offset)
        return (score + offset[targets]).sigmoid()
