"""Algorithm 1 of the paper as printed, by plain double backward.

This is the reference: training takes the same steps by the closed forms of ``hypergradient.py``,
and the tests compare the two.

Source: Hu, Zhang, Zhang & Rundensteiner, "CLID-MU", KDD 2025, arXiv 2507.11807, Algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sklearn_clidmu.clid.objective import clid_loss
from sklearn_clidmu.clid.weight_nets import VRI, Rows, WNet


def clid_mu_step(
    network: nn.Module,
    weight_net: WNet | VRI,
    optimizer: torch.optim.Optimizer,
    meta_optimizer: torch.optim.Optimizer,
    X: Tensor,
    y: Tensor,
    X_meta: Tensor,
    temperature: float = 0.5,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One iteration: virtual step, meta step of the weighting net, real step of the network.

    Parameters
    ----------
    network : nn.Module
        Returns (logits, features).
    weight_net : WNet or VRI
    optimizer, meta_optimizer : torch.optim.Optimizer
        Of the network and of the weighting net. The virtual step has the first one's step size.
    X, y : Tensor of shape (n, ...) and (n,)
        Training batch with its given labels.
    X_meta : Tensor of shape (m, ...)
        Meta batch, which needs no labels.
    temperature : float, default=0.5
    noise : Tensor of shape (n, n_classes), optional
        Standard normal draw for VRI.

    Returns
    -------
    loss, meta_loss : Tensor of shape ()
    """
    theta: dict[str, Tensor] = dict(network.named_parameters())
    lr = optimizer.param_groups[0]["lr"]

    def reweighted_loss() -> Tensor:
        logits, features = functional_call(network, theta, (X,))
        losses = F.cross_entropy(logits, y, reduction="none").detach()
        rows = Rows(logits.detach(), features.detach(), losses, y, torch.ones_like(losses))
        return weight_net.loss(weight_net.weights(rows, noise), logits, rows)

    # Virtual step: theta'(phi) = theta - lr * grad_theta L(theta, phi).
    gradient = torch.autograd.grad(reweighted_loss(), list(theta.values()), create_graph=True)
    virtual = {k: p - lr * g for (k, p), g in zip(theta.items(), gradient, strict=True)}
    # Meta step: phi follows the gradient of CLID(theta'(phi)).
    logits, features = functional_call(network, virtual, (X_meta,))
    meta_loss = clid_loss(features, logits, temperature)
    meta_optimizer.zero_grad()
    meta_loss.backward(inputs=list(weight_net.parameters()))
    meta_optimizer.step()
    # Real step, with the weights of the new phi.
    optimizer.zero_grad()
    loss = reweighted_loss()
    loss.backward(inputs=list(theta.values()))
    optimizer.step()
    return loss.detach(), meta_loss.detach()
