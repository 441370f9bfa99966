"""Published meta gradients, Algorithm 1, and the two tangents, held against each other."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sklearn_clidmu.clid.algorithm import clid_mu_step
from sklearn_clidmu.clid.hypergradient import MetaBatch, full_tangent, head_tangent, influence
from sklearn_clidmu.clid.objective import clid_loss, make_objective, mean_absolute_error
from sklearn_clidmu.clid.weight_nets import VRI, Rows, WNet, row_grad_logits

from .helpers import (
    N_CLASSES,
    N_FEATURES,
    NETWORKS,
    Pair,
    mlp,
    relative_error,
)

VRI_NAMES = {f"linear{i + 1}": f"body.{2 * i}" for i in range(3)}
VRI_NAMES |= {"linear_mean": "mean", "linear_var": "log_variance", "cls_emb": "embedding"}
NAMES = {"wnet": {"linear1": "hidden", "linear2": "output"}, "vri": VRI_NAMES}


class PublishedMLP(nn.Module):
    """The network of the recorded steps: ReLU after two of its three layers."""

    def __init__(self, parameters):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(*parameters[f"l{i}.weight"].shape[::-1]) for i in (1, 2, 3)
        )
        for i, layer in enumerate(self.layers, 1):
            layer.load_state_dict({k: parameters[f"l{i}.{k}"] for k in ("weight", "bias")})

    def forward(self, X):
        features = self.layers[1](self.layers[0](X).relu()).relu()
        return self.layers[2](features), features


class Recorded:
    """One recorded meta step: its inputs, and its outputs under the names of this package."""

    def __init__(self, reference, case):
        self.arrays = {
            k.removeprefix(f"{case}_"): v for k, v in reference.items() if k.startswith(f"{case}_")
        }
        self.kind = case[:-1]
        self.network = PublishedMLP(self.starting_with("model_"))
        self.lr, self.temperature = float(self["lr"]), float(self["temperature"])
        self.noise = self.arrays.get("noise")
        self.rows = make_rows(self.network, self["X"], self["y"])
        width, n_classes = self.rows.features.shape[1], self.rows.logits.shape[1]
        self.weight_net = WNet(n_hidden=16)
        if self.kind == "vri":
            self.weight_net = VRI(width, n_classes, n_hidden=(32, 16), kl_weight=0)
        self.weight_net.load_state_dict(self.renamed("meta_"))

    def __getitem__(self, name):
        return self.arrays[name]

    def starting_with(self, prefix):
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def renamed(self, prefix):
        parameters = {k: v for k, v in self.starting_with(prefix).items() if "." in k}
        names = NAMES[self.kind]
        return {
            f"{names[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": parameters[k]
            for k in parameters
        }


def make_rows(network, X, y):
    with torch.no_grad():
        logits, features = network(X)
        losses = F.cross_entropy(logits, y, reduction="none")
    return Rows(logits, features, losses, y, torch.ones_like(losses))


def by_full_tangent(network, weight_net, rows, noise, X, X_meta, temperature, lr):
    """Meta loss, and hypergradient by the tangent of all parameters."""
    meta = MetaBatch(torch.zeros(len(X_meta), dtype=torch.long), torch.ones(len(X_meta)))
    weights = weight_net.weights(rows, noise)

    def objective(features, logits, targets, sample_weight):
        with torch.enable_grad():
            logits = logits.requires_grad_()
            value = clid_loss(features, logits, temperature)
            return value.detach(), torch.autograd.grad(value, logits)[0]

    found = full_tangent(
        network,
        X,
        lambda logits: weight_net.grad_logits(weights.detach(), logits, rows),
        X_meta,
        meta,
        objective,
        lr,
    )
    weight_net.zero_grad()
    surrogate = -(weight_net.grad_logits(weights, found.logits, rows) * found.tangent).sum()
    (lr * surrogate).backward()
    return found.meta_loss


CASES = ["wnet0", "wnet1", "wnet2", "vri0", "vri1"]


@pytest.mark.parametrize("case", CASES)
def test_weight_nets_reproduce_the_published_weights_and_loss(reference, case):
    recorded = Recorded(reference, case)
    rows, net = recorded.rows, recorded.weight_net
    weights = net.weights(rows, recorded.noise).detach()
    if recorded.kind == "wnet":
        torch.testing.assert_close(rows.losses, recorded["losses"], rtol=1e-10, atol=0)
        torch.testing.assert_close(weights / weights.sum(), recorded["weights"], rtol=1e-10, atol=0)
    else:
        torch.testing.assert_close(weights, recorded["weights"], rtol=1e-10, atol=0)
        loss = net.loss(weights, rows.logits, rows)
        torch.testing.assert_close(loss, recorded["train_loss"], rtol=1e-10, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_full_tangent_reproduces_the_published_meta_gradients(reference, case):
    recorded = Recorded(reference, case)
    inputs = recorded.rows, recorded.noise, recorded["X"], recorded["X_meta"]
    settings = recorded.temperature, recorded.lr
    meta_loss = by_full_tangent(recorded.network, recorded.weight_net, *inputs, *settings)
    assert relative_error(meta_loss, recorded["meta_loss"]) < 1e-10
    for name, expected in recorded.renamed("metagrad_").items():
        gradient = recorded.weight_net.get_parameter(name).grad
        assert relative_error(gradient, expected) < 1e-8, name


@pytest.mark.parametrize("case", CASES)
def test_algorithm_reproduces_the_published_meta_gradients(reference, case):
    recorded = Recorded(reference, case)
    net = recorded.weight_net
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    _, meta_loss = clid_mu_step(
        recorded.network,
        net,
        torch.optim.SGD(recorded.network.parameters(), recorded.lr),
        torch.optim.SGD(net.parameters(), 1.0),
        recorded["X"],
        recorded["y"],
        recorded["X_meta"],
        recorded.temperature,
        recorded.noise,
    )
    assert relative_error(meta_loss, recorded["meta_loss"]) < 1e-10
    for name, expected in recorded.renamed("metagrad_").items():
        step = before[name] - net.get_parameter(name).detach()
        # The step is read off the difference of two parameters.
        torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-12 + 1e-15 / 1e-3)


def test_algorithm_takes_its_real_step_with_the_weights_of_the_meta_step():
    network, net = mlp(), WNet(n_hidden=4)
    X, y, X_meta = (
        torch.randn(12, N_FEATURES),
        torch.arange(12) % N_CLASSES,
        torch.randn(8, N_FEATURES),
    )
    before = {k: p.detach().clone() for k, p in network.named_parameters()}
    optimizers = torch.optim.SGD(network.parameters(), 0.1), torch.optim.SGD(net.parameters(), 5.0)
    clid_mu_step(network, net, *optimizers, X, y, X_meta)
    theta = {k: p.clone().requires_grad_() for k, p in before.items()}
    logits, _ = functional_call(network, theta, (X,))
    losses = F.cross_entropy(logits, y, reduction="none")
    weights = net(losses.detach())  # by the net as it is after the step
    loss = (weights.detach() * losses).sum() / weights.detach().sum()
    for (name, p), gradient in zip(
        theta.items(), torch.autograd.grad(loss, list(theta.values())), strict=True
    ):
        torch.testing.assert_close(network.get_parameter(name), p - 0.1 * gradient)


def test_head_tangent_of_a_stack_is_that_of_each_batch():
    network, objective = mlp(), make_objective("clid", 0.5)
    X, y = torch.randn(3, 8, N_FEATURES), torch.arange(24).view(3, 8) % N_CLASSES
    with torch.no_grad():
        logits, features = network(X)
    by_row = row_grad_logits(logits, y) / 8
    meta = MetaBatch(y, torch.ones(3, 8))
    stack = head_tangent(logits, features, by_row, logits, features, meta, objective, 0.1)
    for i in range(3):
        one = MetaBatch(y[i], torch.ones(8))
        parts = logits[i], features[i], by_row[i], logits[i], features[i], one
        found = head_tangent(*parts, objective, 0.1)
        torch.testing.assert_close(stack.tangent[i], found.tangent)
        torch.testing.assert_close(stack.meta_loss[i], found.meta_loss)


@pytest.mark.parametrize("name", NETWORKS)
def test_full_tangent_leaves_every_network_as_it_was(name):
    network = NETWORKS[name]()
    X, y = torch.randn(6, N_FEATURES), torch.arange(6) % N_CLASSES
    before = {k: v.clone() for k, v in network.state_dict().items()}
    meta = MetaBatch(y, torch.ones(6))
    found = full_tangent(
        network, X, lambda z: row_grad_logits(z, y), X, meta, make_objective("clid", 0.5), 0.1
    )
    assert found.tangent.shape == (6, N_CLASSES)
    assert found.tangent.abs().max() > 0
    assert all(p.grad is None for p in network.parameters())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


SCALARS = {
    "clid": lambda features, logits, targets, weight: clid_loss(
        features, logits, 0.5, sample_weight=weight
    ),
    "mae": mean_absolute_error,
}
"""The meta objectives, to be differentiated by autograd."""


def weighted_step(network, X, y, X_meta, meta, objective, lr):
    """Influences by double backward: the meta loss by random weights of the rows."""
    weight = torch.rand(len(X)).requires_grad_()
    params = {k: p for k, p in network.named_parameters() if p.requires_grad}
    losses = F.cross_entropy(network(X)[0], y, reduction="none")
    steps = torch.autograd.grad(weight @ losses, list(params.values()), create_graph=True)
    moved = {k: p - lr * g for (k, p), g in zip(params.items(), steps, strict=True)}
    logits, features = functional_call(network, moved, (X_meta,))
    value = SCALARS[objective](features, logits, *meta)
    return weight.detach(), value.detach(), torch.autograd.grad(value, weight)[0] / lr


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("virtual_step", ["head", "full"])
def test_influence_is_the_derivative_of_the_meta_objective_by_the_weight_of_a_row(
    virtual_step, bias, kind
):
    network, lr, objective = Pair(bias), 0.7, make_objective(kind, 0.5)
    network.body.requires_grad_(virtual_step == "full")
    X, X_meta, y = torch.randn(10, N_FEATURES), torch.randn(7, N_FEATURES), torch.arange(10) % 3
    meta = MetaBatch(torch.arange(7) % 3, torch.rand(7) + 0.5)
    weight, value, expected = weighted_step(network, X, y, X_meta, meta, kind, lr)

    def grad_logits(logits):
        return weight[:, None] * row_grad_logits(logits, y)

    # The tangent of all parameters is that of the head where the others do not move.
    found = [full_tangent(network, X, grad_logits, X_meta, meta, objective, lr)]
    if virtual_step == "head":
        with torch.no_grad():
            (logits, features), outputs = network(X), network(X_meta)
        batch = logits, features, grad_logits(logits), *outputs
        found.append(head_tangent(*batch, meta, objective, lr, bias))
    for tangent in found:
        assert not any(part.requires_grad for part in tangent)
        torch.testing.assert_close(tangent.meta_loss, value, rtol=1e-12, atol=0)
        by_row = row_grad_logits(tangent.logits, y)
        assert relative_error(influence(by_row, tangent.tangent), expected) < 1e-10


def test_full_tangent_ignores_parameters_that_the_logits_do_not_depend_on():
    network, X, y = Pair(), torch.randn(6, N_FEATURES), torch.arange(6) % N_CLASSES
    meta, objective = MetaBatch(y, torch.ones(6)), make_objective("clid", 0.5)

    def tangent():
        return full_tangent(network, X, lambda z: row_grad_logits(z, y), X, meta, objective, 0.1)

    expected = tangent()
    network.unused = nn.Linear(3, 3)
    for found, before in zip(tangent(), expected, strict=True):
        assert torch.equal(found, before)
