"""The meta step's hypergradient: how the row weights move CLID, one virtual step ahead.

With L(theta, phi) the reweighted training loss of a batch, the virtual step is one step of SGD

    theta'(phi) = theta - lr * grad_theta L(theta, phi)

and the meta step wants the gradient of CLID(theta'(phi)) with respect to phi, the parameters of
the weighting net. Since phi enters through theta' alone, the chain rule gives

    d CLID / d phi = -lr * d/d phi <grad_theta L(theta, phi), g>,     g = grad CLID at theta',
                   = -lr * d/d phi (d/de L at the logits z + e * tangent),

where ``tangent`` is the directional derivative of the batch's logits along g. So all that is
needed of the network is that one tangent, and what depends on phi is a small graph over
constants (:func:`surrogate`). The functions here differ in the layers that the virtual step
moves and in how the tangent is computed:

* :func:`full_tangent` moves every parameter (the paper's virtual step); the tangent comes from
  :func:`forward_mode` or, for operators that lack it, from :func:`double_backward`.
* :func:`head_tangent` moves the last linear layer alone, where everything has a closed form.

Source: the virtual step and the meta step are those of Hu et al., arXiv 2507.11807; the
forward-mode form and the closed form of the last layer are this package's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F

TrainingLoss = Callable[[Tensor], Tensor]
"""Maps the batch's logits to the reweighted loss; differentiable in them and in phi."""

MetaLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps the meta batch's (features, logits) to the meta objective."""


class MetaTangent(NamedTuple):
    """What a meta step needs to know of the network; all detached."""

    logits: Tensor
    """Logits of the training batch, shape (n, n_classes)."""
    tangent: Tensor
    """Their derivative along the gradient of the meta objective, shape (n, n_classes)."""
    meta_loss: Tensor
    """The meta objective after the virtual step, shape ()."""


def surrogate(training_loss: TrainingLoss, logits: Tensor, tangent: Tensor, lr: float) -> Tensor:
    """Scalar whose gradient with respect to phi is the hypergradient.

    Parameters
    ----------
    training_loss : callable
        Logits of shape (n, n_classes) to the reweighted loss, with its graph into phi.
    logits, tangent : Tensor of shape (n, n_classes)
        From :class:`MetaTangent`.
    lr : float
        Size of the virtual step.

    Returns
    -------
    Tensor of shape ()
    """
    logits = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(training_loss(logits), logits, create_graph=True)
    return -lr * (gradient * tangent).sum()


def influence(logits: Tensor, tangent: Tensor, targets: Tensor, lr: float) -> Tensor:
    """Change of the meta objective per unit of each row's weight, shape (n,).

    Positive means that training on the row with its given label raises the meta objective: a
    label-free relative of TracIn (Pruthi et al., 2020).

    Parameters
    ----------
    logits, tangent : Tensor of shape (n, n_classes)
        From :class:`MetaTangent`.
    targets : Tensor of shape (n,), int64
        Given labels.
    lr : float
        Size of the virtual step.
    """
    given = tangent.gather(1, targets[:, None]).squeeze(1)
    return -lr * ((logits.softmax(dim=1) * tangent).sum(dim=1) - given)


def head_tangent(
    head: nn.Linear,
    logits: Tensor,
    features: Tensor,
    training_loss: TrainingLoss,
    meta_features: Tensor,
    meta_loss: MetaLoss,
    lr: float,
) -> MetaTangent:
    """Tangent of a virtual step that moves the last linear layer alone: a closed form.

    Exact whenever the meta objective depends on the body through the features only as
    constants, and otherwise exact for the layer that moves. No pass through the network.

    Parameters
    ----------
    head : nn.Linear
        The last layer, with ``logits = head(features)``.
    logits, features : Tensor of shape (n, n_classes) and (n, d)
        Training batch.
    training_loss : callable
        Logits to the reweighted loss.
    meta_features : Tensor of shape (m, d)
        Features of the meta batch.
    meta_loss : callable
        (features, logits) of the meta batch to the meta objective.
    lr : float
        Size of the virtual step.
    """
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        (error,) = torch.autograd.grad(training_loss(leaf), leaf)
    features, meta_features = features.detach(), meta_features.detach()
    step = meta_features @ (features.T @ error)
    if head.bias is not None:
        step = step + error.sum(dim=0)
    before = F.linear(meta_features, head.weight, head.bias)  # past any hook of the layer
    meta_logits = (before - lr * step).detach().requires_grad_()
    with torch.enable_grad():
        value = meta_loss(meta_features, meta_logits)
        (meta_error,) = torch.autograd.grad(value, meta_logits)
    tangent = features @ (meta_features.T @ meta_error)
    if head.bias is not None:
        tangent = tangent + meta_error.sum(dim=0)
    return MetaTangent(leaf.detach(), tangent, value.detach())


def full_tangent(
    network: nn.Module,
    X: Tensor,
    training_loss: TrainingLoss,
    X_meta: Tensor,
    meta_loss: MetaLoss,
    lr: float,
    directional_derivative: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> MetaTangent:
    """Tangent of the paper's virtual step, which moves every parameter of the network.

    Parameters
    ----------
    network : nn.Module
        Returns (logits, features). Its parameters, buffers and gradients are left as they were.
        Passes must be repeatable: put dropout into evaluation mode first.
    X, X_meta : Tensor of shape (n, ...) and (m, ...)
        Training batch and meta batch.
    training_loss : callable
        Logits to the reweighted loss.
    meta_loss : callable
        (features, logits) of the meta batch to the meta objective.
    lr : float
        Size of the virtual step.
    directional_derivative : callable, optional
        :func:`forward_mode` or :func:`double_backward`. By default the first, and the second
        where an operator of the network has no forward-mode derivative.
    """
    params = {k: p for k, p in network.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        logits, _ = _call(network, params, X)
        gradients = _gradients(training_loss(logits), params)
        moved = {
            k: (p - lr * g).detach().requires_grad_()
            for (k, p), g in zip(params.items(), gradients, strict=True)
        }
        meta_logits, meta_features = _call(network, moved, X_meta)
        value = meta_loss(meta_features, meta_logits)
        meta_gradients = _gradients(value, moved)
    direction = dict(zip(params, meta_gradients, strict=True))
    logits, tangent = (directional_derivative or _any_mode)(network, params, X, direction)
    return MetaTangent(logits.detach(), tangent.detach(), value.detach())


def forward_mode(
    network: nn.Module, params: Mapping[str, Tensor], X: Tensor, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits and their derivative along ``direction`` in one pass of dual numbers."""
    _load_forward_mode()
    with torch.no_grad(), forward_ad.dual_level():
        dual = {k: forward_ad.make_dual(p.detach(), direction[k]) for k, p in params.items()}
        logits, tangent = forward_ad.unpack_dual(_call(network, dual, X)[0])
    return logits, torch.zeros_like(logits) if tangent is None else tangent


@cache
def _load_forward_mode() -> None:
    """Make a first dual number, for which some versions of torch warn of their own code."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def double_backward(
    network: nn.Module, params: Mapping[str, Tensor], X: Tensor, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits and their derivative along ``direction`` by differentiating a gradient.

    <J^T u, direction> is linear in u with the gradient J direction, whatever u is.
    """
    with torch.enable_grad():
        logits, _ = _call(network, params, X)
        u = torch.zeros_like(logits, requires_grad=True)
        pulled_back = _gradients((logits * u).sum(), params, create_graph=True)
        products = [(g * direction[k]).sum() for k, g in zip(params, pulled_back, strict=True)]
        (tangent,) = torch.autograd.grad(torch.stack(products).sum(), u)
    return logits.detach(), tangent


def _any_mode(
    network: nn.Module, params: Mapping[str, Tensor], X: Tensor, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    try:
        return forward_mode(network, params, X, direction)
    except (NotImplementedError, RuntimeError) as error:
        if "forward" not in str(error) and "jvp" not in str(error):
            raise
    return double_backward(network, params, X, direction)


def _call(network: nn.Module, params: Mapping[str, Tensor], X: Tensor) -> tuple[Tensor, Tensor]:
    """Run the network with other parameters; running statistics go into a copy."""
    buffers = {k: b.clone() for k, b in network.named_buffers()}
    return functional_call(network, {**params, **buffers}, (X,))


def _gradients(
    value: Tensor, params: Mapping[str, Tensor], create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of a scalar; zero for parameters that it does not depend on."""
    return torch.autograd.grad(
        value,
        list(params.values()),
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
