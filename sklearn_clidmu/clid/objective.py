"""Meta objectives: cross-layer information divergence (CLID), which needs no labels, and others.

CLID (Hu et al., KDD 2025, arXiv 2507.11807) compares two graphs over the rows of one batch, of
which rows the last hidden layer holds to be alike (S) and of which are predicted alike (P):

    CLID = mean over rows i of -sum_j P_ij log(S_ij + EPSILON)
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sklearn_clidmu.clid.weighted import weighted_mean

Gradient = Literal["published", "normalized"]

MetaObjective = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps (features, logits, targets, sample_weight) of a meta batch, or of a stack of them, to the
objective, shape (...), and its gradient by the logits. Features are constants."""

EPSILON = 1e-7
"""Added to S inside the logarithm, as in the published code."""


def feature_graph(
    features: Tensor, temperature: float = 0.5, sample_weight: Tensor | None = None
) -> Tensor:
    """Row-stochastic graph of cosine similarities between features (n, d), shape (n, n), detached.

    The features are the reference the predictions are held against. A row of weight s counts as s
    identical rows, so ``(graph * sample_weight)`` sums to one along each row. The temperature
    divides the similarities: the lower, the more a row attends to its nearest rows.
    """
    unit = F.normalize(features.detach(), dim=1)
    affinity = (unit @ unit.T).clamp_min(0) / temperature
    if sample_weight is None:
        return affinity.softmax(dim=1)
    return (affinity - (affinity + sample_weight.log()).logsumexp(dim=1, keepdim=True)).exp()


def prediction_graph(
    logits: Tensor, gradient: Gradient = "published", sample_weight: Tensor | None = None
) -> Tensor:
    """Row-stochastic graph of cosine similarities between predictions, shape (n, n).

    The row sums are constants to differentiation ("published", as in the authors' code) or are
    differentiated as well ("normalized"). ``sample_weight`` is as in :func:`feature_graph`.
    """
    similarity = F.normalize(logits.softmax(dim=1), dim=1)
    similarity = similarity @ similarity.T
    weighted = similarity if sample_weight is None else similarity * sample_weight
    row_sum = weighted.sum(dim=1, keepdim=True)
    return similarity / (row_sum.detach() if gradient == "published" else row_sum)


def clid_loss(
    features: Tensor,
    logits: Tensor,
    temperature: float = 0.5,
    gradient: Gradient = "published",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Cross-layer information divergence of one batch (arXiv 2507.11807).

    Parameters
    ----------
    features : Tensor of shape (n, d)
        Last hidden features. No gradient flows into them.
    logits : Tensor of shape (n, n_classes)
        Network output for the same rows.
    temperature : float, default=0.5
        Temperature of the feature graph; the default of the authors' function.
    gradient : {"published", "normalized"}, default="published"
        "published" treats the row sums of the prediction graph as constants, as the authors'
        code does; "normalized" differentiates them too, which gives the gradient of a true
        cross entropy between two row-stochastic graphs. The value is the same.
    sample_weight : Tensor of shape (n,), optional
        Non-negative, not all zero. A row of weight s enters as s identical rows would.

    Returns
    -------
    Tensor of shape ()
        The divergence, in nats. It grows with the number of rows: compare it only after
        taking off log n, the log of the total weight. That is the least value of a constant
        predictor, but for ``n * EPSILON``.

    Raises
    ------
    TypeError
        If an array is no tensor.
    ValueError
        If an argument is invalid or the shapes do not belong together.

    Examples
    --------
    >>> import torch
    >>> from sklearn_clidmu import clid_loss
    >>> logits = 5 * torch.eye(2).repeat(4, 1)
    >>> aligned = clid_loss(features=logits, logits=logits)
    >>> constant = clid_loss(features=logits, logits=torch.zeros(8, 2))
    >>> bool(aligned < constant)
    True
    """
    if gradient not in ("published", "normalized"):
        raise ValueError(f"gradient must be 'published' or 'normalized', got {gradient!r}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature!r}.")
    tensors = {"features": features, "logits": logits}
    if sample_weight is not None:
        tensors["sample_weight"] = sample_weight
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}.")
        if name != "sample_weight" and not tensor.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point type, got {tensor.dtype}.")
    if features.ndim != 2 or logits.ndim != 2 or len(features) != len(logits) or not len(logits):
        raise ValueError(
            "features and logits must be 2-d with one row per sample each, got shapes "
            f"{tuple(features.shape)} and {tuple(logits.shape)}."
        )
    if sample_weight is not None:
        if sample_weight.shape != logits.shape[:1]:
            raise ValueError(
                "sample_weight must have one entry per row, got shape "
                f"{tuple(sample_weight.shape)} for {len(logits)} rows."
            )
        sample_weight = sample_weight.to(logits.dtype)
        if not (sample_weight >= 0).all() or not sample_weight.sum() > 0:
            raise ValueError("sample_weight must be non-negative, and not all zero.")
    P = prediction_graph(logits, gradient, sample_weight)
    log_S = (feature_graph(features, temperature, sample_weight) + EPSILON).log()
    if sample_weight is None:
        return -(P * log_S).sum(dim=1).mean()
    return weighted_mean(-(P * log_S) @ sample_weight, sample_weight)


def clid_gradient(
    features: Tensor,
    logits: Tensor,
    targets: Tensor | None,
    sample_weight: Tensor,
    temperature: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """CLID and its published gradient in closed form, several times as fast as by autograd.

    With q the unit predictions, L = log(S + epsilon), s the sample weights, r = Q s the constant
    row sums and w = s / (r sum(s)), CLID is -sum_ij w_i s_j L_ij <q_i, q_j>. So its gradient by q
    needs the products of L with s q and of its transpose with w q, and no other graph. With u that
    gradient, the one by the logits is q (u - q <q, u>): of the softmax's own, the other term is
    zero, since a change along q changes no direction.

    Arguments are those of :func:`clid_loss`, or stacks of them, of batches of one size; ``targets``
    are ignored. Returns the value, shape (...), and the gradient, shape (..., n, n_classes).
    """
    with torch.no_grad():
        affinity = (features @ features.mT).clamp_min_(0)
        unit = affinity.diagonal(dim1=-2, dim2=-1).clamp_min(1e-24).rsqrt()[..., None]
        affinity = affinity.mul_(unit).mul_(unit.mT / temperature)
        # Each row's largest, the one to itself, cancels in the softmax.
        affinity = (affinity - affinity.diagonal(dim1=-2, dim2=-1)[..., None]).exp_()
        row_sum = affinity @ sample_weight[..., None]
        log_reference = affinity.div_(row_sum).add_(EPSILON).log_()
        # Few classes are faster as rows than as columns, here and in the last layer's closed form.
        q = logits.mT.softmax(dim=-2)
        q /= torch.linalg.vector_norm(q, dim=-2, keepdim=True)
        weight = sample_weight[..., None, :]
        weighted = weight * q
        agreement = weighted.sum(dim=-1, keepdim=True).mT @ q
        scale = weight / (agreement * weight.sum(dim=-1, keepdim=True))
        by_q = scale * (weighted @ log_reference.mT)
        along = q * by_q
        value = -along.sum(dim=(-2, -1))
        by_q += weight * ((scale * q) @ log_reference)
        along = (q * by_q).sum(dim=-2, keepdim=True)
        return value, (q * (q * along - by_q)).mT


def make_objective(meta_objective: str | Callable, temperature: float) -> MetaObjective:
    """Build the meta objective from the constructor's parameter: "clid", "mae" or a callable.

    A callable maps (features, logits, targets, sample_weight) to a scalar. The temperature is that
    of CLID's feature graph.
    """
    if callable(meta_objective):
        return partial(_differentiate, meta_objective)
    if meta_objective == "mae":
        return partial(_differentiate, mean_absolute_error)
    return partial(clid_gradient, temperature=temperature)


def mean_absolute_error(
    features: Tensor, logits: Tensor, targets: Tensor, sample_weight: Tensor
) -> Tensor:
    """Mean absolute error to the given labels, which symmetric noise leaves unbiased.

    Source: Ghosh, Kumar & Sastry, AAAI 2017.
    """
    given = logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    return weighted_mean(2 * (1 - given), sample_weight)


def _differentiate(
    scalar: Callable, features: Tensor, logits: Tensor, targets: Tensor, sample_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Value and gradient of a scalar function by autograd, batch by batch of a stack."""
    if logits.ndim > 2:
        batches = zip(features, logits, targets, sample_weight, strict=True)
        values, gradients = zip(*(_differentiate(scalar, *batch) for batch in batches), strict=True)
        return torch.stack(values), torch.stack(gradients)
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        # Copies, because a caller's function may work in place.
        features, *labels = deepcopy((features.detach(), targets, sample_weight))
        value = scalar(features, logits.clone(), *labels)
        scalar_tensor = isinstance(value, Tensor) and value.numel() == 1
        if not (scalar_tensor and value.is_floating_point() and value.requires_grad):
            raise ValueError(
                "meta_objective must return a scalar tensor that depends on logits, got "
                f"{value!r:.60}."
            )
        (gradient,) = torch.autograd.grad(value, logits, allow_unused=True, materialize_grads=True)
    return value.detach(), gradient
