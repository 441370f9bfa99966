"""Meta objectives: what the weighting net is trained to lower after the virtual step.

Each maps (features, logits, targets, sample_weight) of the meta batch to a scalar. CLID never
looks at the targets; the other two trust the given labels to some degree, and are the rivals
CLID is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sklearn_clidmu.mathematics.clid import clid_gradient, clid_loss
from sklearn_clidmu.mathematics.evidence import weighted_mean
from sklearn_clidmu.mathematics.hypergradient import gradients

MetaObjective = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


N_ROWS = 256
"""The meta batch's weights are made to add up to this many rows."""


class CLID:
    """Cross-layer information divergence; see :func:`clid_loss`.

    The published gradient depends on the number of rows, and so on the scale of the sample
    weights. Here it does not: they always add up to :data:`N_ROWS`, whatever the meta batch.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(
        self, features: Tensor, logits: Tensor, targets: Tensor, sample_weight: Tensor
    ) -> Tensor:
        """Divergence of the meta batch, shape ()."""
        weight = self._rescaled(sample_weight)
        return clid_loss(features, logits, self.temperature, sample_weight=weight)

    def gradient(
        self, features: Tensor, logits: Tensor, targets: Tensor, sample_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Divergence and its gradient by the logits, shape (...) and (..., n, n_classes)."""
        return clid_gradient(features, logits, self.temperature, self._rescaled(sample_weight))

    @staticmethod
    def _rescaled(sample_weight: Tensor) -> Tensor:
        return sample_weight * (N_ROWS / sample_weight.sum(dim=-1, keepdim=True))


def meta_gradient(
    objective: MetaObjective,
    targets: Tensor,
    sample_weight: Tensor,
    features: Tensor,
    logits: Tensor,
    inputs: Sequence[Tensor],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Value of a meta objective, and its gradients by tensors that its arguments come from.

    The last step is CLID's own closed form where the objective is CLID, and else autograd. Of a
    stack of batches, there is one value each, and the gradients are those of their sum.
    """
    if isinstance(objective, CLID):
        value, error = objective.gradient(features, logits, targets, sample_weight)
        if len(inputs) == 1 and inputs[0] is logits:
            return value, (error,)
        return value, gradients(logits, inputs, error)
    batch = (features, logits, targets, sample_weight)
    if logits.ndim > 2:
        value = torch.stack([objective(*one) for one in zip(*batch, strict=True)])
    else:
        value = objective(*batch)
    return value.detach(), gradients(value.sum(), inputs)


def mean_absolute_error(
    features: Tensor, logits: Tensor, targets: Tensor, sample_weight: Tensor
) -> Tensor:
    """Mean absolute error to the given labels, which symmetric noise leaves unbiased.

    Source: Ghosh, Kumar & Sastry, AAAI 2017.
    """
    given = logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    return weighted_mean(2 * (1 - given), sample_weight)


def cross_entropy(
    features: Tensor, logits: Tensor, targets: Tensor, sample_weight: Tensor
) -> Tensor:
    """Cross entropy with the given labels; meant for rows that :func:`small_loss` calls clean."""
    losses = F.cross_entropy(logits, targets, reduction="none")
    return (sample_weight * losses).sum() / sample_weight.sum().clamp_min(1e-12)


def is_own(objective: MetaObjective) -> bool:
    """Say whether an objective is one of this module's, none of which waits for the device."""
    return isinstance(objective, CLID) or objective in (mean_absolute_error, cross_entropy)


def small_loss(losses: Tensor, sample_weight: Tensor, n_iter: int = 30) -> Tensor:
    """Which rows the lower component of a two-Gaussian mixture on the losses explains better.

    Source: Arazo et al., ICML 2019; Li, Socher & Hoi (DivideMix), ICLR 2020.

    Parameters
    ----------
    losses, sample_weight : Tensor of shape (n,)
    n_iter : int, default=30
        Steps of expectation-maximisation.

    Returns
    -------
    Tensor of bool, shape (n,)
        All true where the losses are all alike.
    """
    low, high = losses.min(), losses.max()
    scaled = (losses - low) / (high - low).clamp_min(1e-12)
    mean = scaled.new_tensor([0.0, 1.0])
    variance = scaled.new_tensor([0.1, 0.1])
    share = scaled.new_tensor([0.5, 0.5])
    for _ in range(n_iter):
        log_density = share.log() - ((scaled[:, None] - mean) ** 2 / variance + variance.log()) / 2
        responsibility = log_density.softmax(dim=1)
        mass = sample_weight[:, None] * responsibility
        total = mass.sum(dim=0).clamp_min(1e-12)
        mean = (mass * scaled[:, None]).sum(dim=0) / total
        variance = (mass * (scaled[:, None] - mean) ** 2).sum(dim=0) / total + 1e-4
        share = total / total.sum()
    return responsibility[:, 0] >= 0.5
