"""The meta step's hypergradient: how the row weights move CLID, one virtual step ahead.

The virtual step is theta' = theta - lr * grad_theta L(theta, phi), as in Hu et al., arXiv
2507.11807. The tangent and the closed form are this package's own (docs/design.md):

    d CLID / d phi = -lr * d/d phi <grad_logits(phi), tangent>

``grad_logits`` is the gradient of the reweighted loss L by the batch's logits, ``tangent`` the
derivative of the logits along the gradient of CLID at theta'. All functions leave out the factor
lr of the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from sklearn_clidmu.clid.objective import MetaObjective


class MetaBatch(NamedTuple):
    """Rows that the meta objective is measured on; or a stack of batches of one size."""

    targets: Tensor
    """Given labels, int64, shape (..., m)."""
    sample_weight: Tensor
    """Shape (..., m)."""


class MetaTangent(NamedTuple):
    """What the virtual step gives; all detached."""

    logits: Tensor
    """Logits of the training batch, shape (..., n, n_classes)."""
    tangent: Tensor
    """Their derivative along the gradient of the meta objective, shape (..., n, n_classes)."""
    meta_loss: Tensor
    """The meta objective after the virtual step, shape (...)."""


def influence(grad_logits: Tensor, tangent: Tensor) -> Tensor:
    """Change of the meta objective per unit of each row's weight, shape (..., n).

    Positive means that training on the row with its given label raises the meta objective. Like
    TracIn (Pruthi et al., 2020), for an objective without labels. ``grad_logits`` is the gradient
    of each row's own loss; both arguments have the shape (..., n, n_classes).
    """
    return -(grad_logits * tangent).sum(dim=-1)


def head_tangent(
    logits: Tensor,
    features: Tensor,
    grad_logits: Tensor,
    meta_logits: Tensor,
    meta_features: Tensor,
    meta_batch: MetaBatch,
    objective: MetaObjective,
    lr: float,
    bias: bool = True,
) -> MetaTangent:
    """Tangent of a virtual step that moves the last linear layer alone, in closed form.

    Logits have the shape (..., n, n_classes) and features (..., n, d). Of a stack of batches, each
    takes a step of its own. ``grad_logits`` is the gradient of the reweighted loss; logits and
    features of the meta batch are from before the step.
    """
    with torch.no_grad():
        # Products of few classes are faster with classes as rows.
        step = ((grad_logits.mT @ features) @ meta_features.mT).mT
        if bias:
            step = step + grad_logits.sum(dim=-2, keepdim=True)
        value, by_logits = objective(meta_features, meta_logits - lr * step, *meta_batch)
        tangent = ((by_logits.mT @ meta_features) @ features.mT).mT
        if bias:
            tangent = tangent + by_logits.sum(dim=-2, keepdim=True)
    return MetaTangent(logits, tangent, value)


def full_tangent(
    network: nn.Module,
    X: Tensor,
    grad_logits: Callable[[Tensor], Tensor],
    X_meta: Tensor,
    meta_batch: MetaBatch,
    objective: MetaObjective,
    lr: float,
) -> MetaTangent:
    """Tangent of the paper's virtual step, which moves every parameter of the network.

    The network returns (logits, features); its parameters, buffers and gradients are left as they
    were. Passes must be repeatable: put dropout into evaluation mode first. ``grad_logits`` maps
    logits to the gradient of the reweighted training loss by them.
    """
    params = {k: p for k, p in network.named_parameters() if p.requires_grad}
    # The other kernels of attention cannot be differentiated twice.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        logits, _ = _call(network, params, X)
        steps = _gradients(logits, list(params.values()), grad_logits(logits.detach()))
        moved = {
            k: (p - lr * g).detach().requires_grad_()
            for (k, p), g in zip(params.items(), steps, strict=True)
        }
        meta_logits, meta_features = _call(network, moved, X_meta)
        value, by_logits = objective(meta_features.detach(), meta_logits.detach(), *meta_batch)
        found = _gradients(meta_logits, list(moved.values()), by_logits)
        tangent = _directional_derivative(network, params, X, found)
    return MetaTangent(logits.detach(), tangent, value)


def _directional_derivative(
    network: nn.Module, params: Mapping[str, Tensor], X: Tensor, direction: Sequence[Tensor]
) -> Tensor:
    """Differentiate the logits along a direction, by differentiating a gradient.

    <J^T u, direction> is linear in u with the gradient J direction, whatever u is.
    """
    logits, _ = _call(network, params, X)
    u = torch.zeros_like(logits, requires_grad=True)
    pulled_back = _gradients(logits, list(params.values()), u, create_graph=True)
    products = [(g * d).sum() for g, d in zip(pulled_back, direction, strict=True)]
    (tangent,) = torch.autograd.grad(torch.stack(products).sum(), u)
    return tangent


def _call(network: nn.Module, params: Mapping[str, Tensor], X: Tensor) -> tuple[Tensor, Tensor]:
    """Run the network with other parameters; running statistics go into a copy."""
    buffers = {k: b.clone() for k, b in network.named_buffers()}
    return functional_call(network, {**params, **buffers}, (X,))


_gradients = partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
"""Gradients that are zero for inputs without effect."""
