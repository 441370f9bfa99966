"""The meta step's hypergradient: how the row weights move CLID, one virtual step ahead.

With L(theta, phi) the reweighted training loss of a batch, the virtual step is one step of SGD

    theta'(phi) = theta - lr * grad_theta L(theta, phi)

and the meta step wants the gradient of CLID(theta'(phi)) with respect to phi, the parameters of
the weighting net. Since phi enters through theta' alone, the chain rule gives

    d CLID / d phi = -lr * d/d phi <grad_theta L(theta, phi), g>,     g = grad CLID at theta',
                   = -lr * d/d phi <errors(phi), tangent>,

where ``errors`` is the gradient of L by the batch's logits, which every weighting net knows in
closed form, and ``tangent`` the directional derivative of the logits along g. So all that is
needed of the network is that one tangent. Where a weight multiplies its row's loss, it enters
through one number a row alone, the row's influence -<errors of its loss, tangent>. The
functions here differ in the layers that the virtual step moves and in what they ask of a network:

* :func:`head_tangent` moves the last linear layer alone, where everything has a closed form.
* :func:`traced_influence` moves every parameter (the paper's virtual step) of a network that has
  them all in linear layers, and shares the pass that trains it.
* :func:`full_tangent` moves every parameter of any network; the tangent comes from
  :func:`forward_mode` or, for operators that lack it, from :func:`double_backward`.

All are given per unit of the virtual step's size: multiplied by lr they are the derivatives.

Source: the virtual step and the meta step are those of Hu et al., arXiv 2507.11807; the
forward-mode form and the closed forms are this package's own. Gradients of single rows as products
of a layer's input and its output's error are those of Goodfellow, arXiv 1510.01799.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from sklearn_clidmu.mathematics.products import affine, product
from sklearn_clidmu.mathematics.traced_pass import TracedPass

MetaGradient = Callable[[Tensor, Tensor, Sequence[Tensor]], tuple[Tensor, tuple[Tensor, ...]]]
"""Maps the meta batch's (features, logits) and tensors that they depend on to the meta objective
and to its gradients by those tensors."""


class MetaTangent(NamedTuple):
    """What a meta step needs to know of the network; all detached."""

    logits: Tensor
    """Logits of the training batch, shape (..., n, n_classes)."""
    tangent: Tensor
    """Their derivative along the gradient of the meta objective, shape (..., n, n_classes)."""
    meta_loss: Tensor
    """The meta objective after the virtual step, shape (...)."""


def surrogate(errors: Tensor, tangent: Tensor) -> Tensor:
    """Scalar whose gradient with respect to phi is the hypergradient, shape ().

    Parameters
    ----------
    errors : Tensor of shape (n, n_classes)
        Gradient of the reweighted loss by the logits, with its graph into phi.
    tangent : Tensor of shape (n, n_classes)
    """
    return -(errors * tangent).sum()


def influence(errors: Tensor, tangent: Tensor) -> Tensor:
    """Change of the meta objective per unit of each row's weight, shape (..., n).

    Positive means that training on the row with its given label raises the meta objective: a
    label-free relative of TracIn (Pruthi et al., 2020).

    Parameters
    ----------
    errors : Tensor of shape (..., n, n_classes)
        Gradient of each row's own loss by its logits.
    tangent : Tensor of shape (..., n, n_classes)
    """
    return -(errors * tangent).sum(dim=-1)


def head_tangent(
    logits: Tensor,
    features: Tensor,
    errors: Tensor,
    meta_logits: Tensor,
    meta_features: Tensor,
    meta_gradient: MetaGradient,
    lr: float | Tensor,
    bias: bool = True,
) -> MetaTangent:
    """Tangent of a virtual step that moves the last linear layer alone: a closed form.

    Exact whenever the meta objective depends on the body through the features only as
    constants, and otherwise exact for the layer that moves. No pass through the network. Of a
    stack of batches, each takes a virtual step of its own, from where the network stood with it.

    Parameters
    ----------
    logits, features : Tensor of shape (..., n, n_classes) and (..., n, d)
        Training batch.
    errors : Tensor of shape (..., n, n_classes)
        Gradient of the reweighted loss by the logits.
    meta_logits, meta_features : Tensor of shape (..., m, n_classes) and (..., m, d)
        Meta batch, before the virtual step.
    meta_gradient : callable
        Of the meta objective.
    lr : float or Tensor of shape ()
        Size of the virtual step.
    bias : bool, default=True
        Whether the layer has one.
    """
    with torch.no_grad():
        step = product(product(errors.mT, features), meta_features.mT).mT
        if bias:
            step += errors.sum(dim=-2, keepdim=True)
        moved = meta_logits - lr * step  # lr may be a tensor, which must not be read here
        with torch.enable_grad():
            value, (meta_errors,) = meta_gradient(meta_features, moved.requires_grad_(), [moved])
        tangent = product(product(meta_errors.mT, meta_features), features.mT).mT
        if bias:
            tangent += meta_errors.sum(dim=-2, keepdim=True)
    return MetaTangent(logits.detach(), tangent, value)


class TracedRows:
    """Gradients of single rows in a network that has all its parameters in linear layers.

    The gradient of a row's loss by a layer's weight is the outer product of the error at the
    layer's output and of its input; so sums of them over rows, however weighted, are matrix
    products, and so are their scalar products with anything.

    Parameters
    ----------
    traced : TracedPass
        Pass in which no row depends on another.
    errors : Tensor of shape (n, n_classes)
        Gradient of each row's own loss by its logits.
    """

    def __init__(self, traced: TracedPass, errors: Tensor) -> None:
        self.traced = traced
        self.errors = traced.errors(errors)

    def gradient(self, weights: Tensor) -> list[Tensor]:
        """Gradients of the sum of the rows' losses times ``weights``, of shape (n,)."""
        return self.traced.gradient(self._weighted(weights))

    def backward(self, weights: Tensor) -> None:
        """Set the parameters' ``grad`` to :meth:`gradient`."""
        self.traced.set_gradient(self._weighted(weights))

    def _weighted(self, weights: Tensor) -> list[Tensor]:
        return [weights[:, None] * errors for errors in self.errors]

    def products(self, directions: Sequence[Tensor]) -> Tensor:
        """Scalar product of each row's gradient with ``directions``, shape (n,)."""
        weights, biases = directions[::2], directions[1::2]
        total = self.errors[0].new_zeros(len(self.errors[0]))
        for X, errors, weight, bias in zip(
            self.traced.inputs, self.errors, weights, biases, strict=True
        ):
            total += (affine(X, weight, bias) * errors).sum(dim=1)
        return total


def traced_influence(
    network: nn.Module,
    rows: TracedRows,
    weights: Tensor,
    X_meta: Tensor,
    meta_gradient: MetaGradient,
    lr: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Influence of the rows in the paper's virtual step, which moves every parameter.

    Parameters
    ----------
    network : nn.Module
        Returns (logits, features) of the meta batch in a pass that is repeatable.
    rows : TracedRows
        Training batch.
    weights : Tensor of shape (n,)
        Of the rows in the virtual step, as they multiply the losses.
    X_meta : Tensor of shape (m, ...)
    meta_gradient : callable
        Of the meta objective.
    lr : float or Tensor of shape ()
        Size of the virtual step.

    Returns
    -------
    influence : Tensor of shape (n,)
    meta_loss : Tensor of shape ()
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    with torch.no_grad():
        parameters = rows.traced.parameters
        moved = [p - lr * g for p, g in zip(parameters, rows.gradient(weights), strict=True)]
    with torch.enable_grad():
        params = {names[id(p)]: m.requires_grad_() for p, m in zip(parameters, moved, strict=True)}
        meta_logits, meta_features = functional_call(network, params, (X_meta,))
        value, directions = meta_gradient(meta_features, meta_logits, moved)
    with torch.no_grad():
        return -rows.products(directions), value


def full_tangent(
    network: nn.Module,
    X: Tensor,
    errors: Callable[[Tensor], Tensor],
    X_meta: Tensor,
    meta_gradient: MetaGradient,
    lr: float | Tensor,
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
    errors : callable
        Logits to the gradient of the reweighted training loss by them.
    meta_gradient : callable
        Of the meta objective.
    lr : float or Tensor of shape ()
        Size of the virtual step.
    directional_derivative : callable, optional
        :func:`forward_mode` or :func:`double_backward`. By default the first, and the second
        where an operator of the network has no forward-mode derivative.
    """
    params = {k: p for k, p in network.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        logits, _ = _call(network, params, X)
        steps = gradients(logits, list(params.values()), errors(logits.detach()))
        moved = {
            k: (p - lr * g).detach().requires_grad_()
            for (k, p), g in zip(params.items(), steps, strict=True)
        }
        meta_logits, meta_features = _call(network, moved, X_meta)
        value, found = meta_gradient(meta_features, meta_logits, list(moved.values()))
    direction = dict(zip(params, found, strict=True))
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
        pulled_back = gradients(logits, list(params.values()), u, create_graph=True)
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


def gradients(
    value: Tensor,
    inputs: Sequence[Tensor],
    error: Tensor | None = None,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """Gradients of a scalar, or of <value, error>; zero for inputs that it does not depend on."""
    return torch.autograd.grad(
        value,
        list(inputs),
        error,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
