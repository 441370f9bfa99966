import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sklearn_clidmu.mathematics.clid import clid_loss
from sklearn_clidmu.mathematics.evidence import N_EVIDENCE
from sklearn_clidmu.mathematics.hypergradient import (
    double_backward,
    forward_mode,
    full_tangent,
    head_tangent,
    influence,
    surrogate,
)
from sklearn_clidmu.mathematics.weighting import (
    EvidenceWeightNet,
    LogitRectifier,
    LossWeightNet,
    Rows,
)

from .helpers import (
    N_CLASSES,
    N_FEATURES,
    NETWORKS,
    WIDTH,
    Pair,
    central_difference,
    make_rows,
    mlp,
    relative_error,
    tapped,
)

N_ROWS, N_META = 12, 10
MODES = [forward_mode, double_backward]


# The textbook's way


def stepped(network, X, training_loss, lr, create_graph=False):
    """Parameters after one virtual step of SGD on all that require a gradient."""
    params = {k: p for k, p in network.named_parameters() if p.requires_grad}
    loss = training_loss(functional_call(network, params, (X,))[0])
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph)
    return {k: p - lr * g for (k, p), g in zip(params.items(), gradients, strict=True)}


def textbook(network, X, training_loss, X_meta, meta_loss, lr, wanted):
    """Meta loss and its gradient by double backward through the virtual step."""
    moved = stepped(network, X, training_loss, lr, create_graph=True)
    logits, features = functional_call(network, moved, (X_meta,))
    value = meta_loss(features, logits)
    return value.detach(), torch.autograd.grad(value, wanted)


def by_tangent(mode):
    """A function like :func:`textbook`, by the tangent of the network and the surrogate."""

    def compute(network, X, training_loss, X_meta, meta_loss, lr, wanted):
        found = full_tangent(network, X, training_loss, X_meta, meta_loss, lr, mode)
        scalar = surrogate(training_loss, found.logits, found.tangent, lr)
        return found.meta_loss, torch.autograd.grad(scalar, wanted)

    return compute


METHODS = {
    "forward mode": by_tangent(forward_mode),
    "double backward": by_tangent(double_backward),
    "default": by_tangent(None),
    "textbook": textbook,
}


# The published implementation


class PublishedMLP(nn.Module):
    """The network of the recorded cases."""

    def __init__(self, weights):
        super().__init__()
        for name in ("l1", "l2", "l3"):
            n_out, n_in = weights[f"{name}.weight"].shape
            setattr(self, name, nn.Linear(n_in, n_out))
        self.load_state_dict(weights)

    def forward(self, X):
        features = self.l2(self.l1(X).relu()).relu()
        return self.l3(features), features


class Recorded:
    """One recorded meta step: what goes in, and what came out under our names."""

    def __init__(self, reference, case, names):
        self.arrays = {
            k.removeprefix(f"{case}_"): v for k, v in reference.items() if k.startswith(f"{case}_")
        }
        self.names = names
        self.network = PublishedMLP(self.starting_with("model_"))
        self.lr = float(self["lr"])
        with torch.no_grad():
            logits, features = self.network(self["X"])
        self.rows = Rows(
            losses=F.cross_entropy(logits, self["y"], reduction="none"),
            targets=self["y"],
            features=features,
            evidence=torch.zeros(len(logits), N_EVIDENCE),
            sample_weight=torch.ones(len(logits)),
        )
        self.logits = logits

    def __getitem__(self, name):
        return self.arrays[name]

    def starting_with(self, prefix):
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def renamed(self, prefix):
        """Tensors of the weighting net, by the names of this package."""
        parameters = {k: v for k, v in self.starting_with(prefix).items() if "." in k}
        return {
            f"{self.names[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v
            for k, v in parameters.items()
        }

    def meta_loss(self, features, logits):
        return clid_loss(features, logits, float(self["temperature"]))

    def check_gradients(self, method, weighting_net, training_loss):
        wanted = dict(weighting_net.named_parameters())
        value, gradients = method(
            *(self.network, self["X"], training_loss, self["X_meta"], self.meta_loss, self.lr),
            list(wanted.values()),
        )
        expected = self.renamed("metagrad_")
        assert relative_error(value, self["meta_loss"]) < 1e-10
        assert set(wanted) == set(expected)
        for name, gradient in zip(wanted, gradients, strict=True):
            assert relative_error(gradient, expected[name]) < 1e-8, name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["wnet0", "wnet1", "wnet2"])
def test_loss_weight_net_reproduces_the_published_meta_gradients(reference, case, method):
    recorded = Recorded(reference, case, {"linear1": "hidden", "linear2": "output"})
    net = LossWeightNet(n_hidden=16)
    net.load_state_dict(recorded.renamed("meta_"))
    rows = recorded.rows
    weights = net(rows).detach()
    torch.testing.assert_close(rows.losses, recorded["losses"], rtol=1e-10, atol=0)
    torch.testing.assert_close(weights / weights.sum(), recorded["weights"], rtol=1e-10, atol=0)
    recorded.check_gradients(
        METHODS[method], net, lambda logits: net.training_loss(net(rows), logits, rows)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["vri0", "vri1"])
def test_logit_rectifier_reproduces_the_published_meta_gradients(reference, case, method):
    names = {f"linear{i + 1}": f"body.{2 * i}" for i in range(3)}
    names |= {"linear_mean": "mean", "linear_var": "log_variance", "cls_emb": "embedding"}
    recorded = Recorded(reference, case, names)
    rows, noise = recorded.rows, recorded["noise"]
    net = LogitRectifier(rows.features.shape[1], noise.shape[1], n_hidden=(32, 16), kl_weight=0)
    net.load_state_dict(recorded.renamed("meta_"))
    weights = net(rows, noise).detach()
    loss = net.training_loss(weights, recorded.logits, rows)
    torch.testing.assert_close(weights, recorded["weights"], rtol=1e-10, atol=0)
    torch.testing.assert_close(loss, recorded["train_loss"], rtol=1e-10, atol=0)
    recorded.check_gradients(
        METHODS[method], net, lambda logits: net.training_loss(net(rows, noise), logits, rows)
    )


# Finite differences


WEIGHTING_NETS = {
    "loss": lambda: LossWeightNet(n_hidden=16),
    "evidence": lambda: EvidenceWeightNet(torch.full((N_CLASSES,), 0.7), n_hidden=3),
    "rectifier": lambda: LogitRectifier(WIDTH, N_CLASSES, n_embedding=2, n_hidden=(3, 2)),
}


@pytest.mark.parametrize("weighting", WEIGHTING_NETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_meta_gradients_equal_finite_differences(name, weighting):
    """Of CLID in its normalized form, whose gradient is that of its value.

    The feature graph is a constant of the objective by definition, so the function that is
    differenced holds the features at those of the unperturbed stepped network.
    """
    network, net = NETWORKS[name](), WEIGHTING_NETS[weighting]()
    X, X_meta, lr = torch.randn(N_ROWS, N_FEATURES), torch.randn(N_META, N_FEATURES), 0.3
    rows, noise = make_rows(N_ROWS), torch.randn(N_ROWS, N_CLASSES)

    def training_loss(logits):
        return net.training_loss(net(rows, noise), logits, rows)

    def meta_loss(features, logits):
        return clid_loss(features, logits, gradient="normalized")

    _, gradients = by_tangent(None)(
        network, X, training_loss, X_meta, meta_loss, lr, list(net.parameters())
    )
    moved = stepped(network, X, training_loss, lr)
    features = functional_call(network, moved, (X_meta,))[1].detach()

    def objective(phi):
        vector_to_parameters(phi, net.parameters())
        moved = stepped(network, X, training_loss, lr)
        with torch.no_grad():
            return meta_loss(features, functional_call(network, moved, (X_meta,))[0])

    phi = parameters_to_vector(net.parameters()).detach()
    expected = central_difference(objective, phi, 1e-4)
    assert relative_error(parameters_to_vector(gradients), expected) < 1e-5


# What the network must and need not be


def meta_step(network, **settings):
    """A full tangent on random batches; the training loss is the plain cross entropy."""
    targets = torch.randint(N_CLASSES, (N_ROWS,))
    return full_tangent(
        network,
        torch.randn(N_ROWS, N_FEATURES),
        lambda logits: F.cross_entropy(logits, targets),
        torch.randn(N_META, N_FEATURES),
        clid_loss,
        0.1,
        **settings,
    )


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_left_as_it_was(name, mode):
    network = NETWORKS[name]()
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    state = copy.deepcopy(network.state_dict())
    meta_step(network, directional_derivative=mode)
    after = network.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[key], state[key]) for key in state)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradient)


def test_results_are_detached_and_calls_work_without_gradients_enabled():
    network = mlp()
    torch.manual_seed(1)
    expected = meta_step(network)
    torch.manual_seed(1)
    with torch.no_grad():
        found = meta_step(network)
    for here, there in zip(found, expected, strict=True):
        assert not there.requires_grad
        torch.testing.assert_close(here, there, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_mode_and_double_backward_equal_finite_differences(name, training):
    check_directional_derivatives(NETWORKS[name]().train(training))


@pytest.mark.parametrize("one_mask", [True, False])
def test_directional_derivatives_agree_on_an_mlp_with_dropout_switched_off(one_mask):
    check_directional_derivatives(mlp(dropout=0.5, one_mask=one_mask).eval())


def check_directional_derivatives(network):
    X = torch.randn(N_ROWS, N_FEATURES)
    params = dict(network.named_parameters())
    direction = {k: torch.randn_like(p) for k, p in params.items()}

    def logits_at(step):
        moved = {k: (p + step * direction[k]).detach() for k, p in params.items()}
        return functional_call(copy.deepcopy(network), moved, (X,))[0]

    expected = (logits_at(1e-6) - logits_at(-1e-6)) / 2e-6
    for mode in MODES:
        logits, tangent = mode(network, params, X, direction)
        torch.testing.assert_close(logits, logits_at(0), rtol=1e-12, atol=1e-14)
        assert relative_error(tangent, expected) < 1e-7
    assert relative_error(tangent, forward_mode(network, params, X, direction)[1]) < 1e-12


class SquareWithoutForwardMode(torch.autograd.Function):
    """x -> x^2, differentiable backwards as often as one likes and not forwards."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Elementwise(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, X):
        return self.function(X)


def with_activation(function):
    """The same small network for every activation."""
    torch.manual_seed(0)
    return tapped(nn.Linear(N_FEATURES, WIDTH), Elementwise(function), nn.Linear(WIDTH, N_CLASSES))


def test_operators_without_forward_mode_fall_back_to_double_backward():
    network, equivalent = map(with_activation, (SquareWithoutForwardMode.apply, torch.square))
    with pytest.raises((NotImplementedError, RuntimeError), match=r"jvp|forward"):
        meta_step(network, directional_derivative=forward_mode)
    torch.manual_seed(1)
    found = meta_step(network)
    torch.manual_seed(1)
    expected = meta_step(equivalent, directional_derivative=forward_mode)
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-14)


def test_errors_that_are_not_about_forward_mode_propagate():
    def fails_in_the_tangent_pass(X):
        if not torch.is_grad_enabled():
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return X.relu()

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        meta_step(with_activation(fails_in_the_tangent_pass))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        meta_step(tapped(nn.Linear(N_FEATURES + 1, N_CLASSES)))


@pytest.mark.parametrize("mode", [None, *MODES])
def test_parameters_that_the_logits_do_not_depend_on_change_nothing(mode):
    network = Pair()
    torch.manual_seed(1)
    expected = meta_step(network)
    network.unused = nn.Linear(4, 2)
    torch.manual_seed(1)
    found = meta_step(network, directional_derivative=mode)
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-14)


# The last layer alone


class HeadStep:
    """A virtual step of the head of a small network, with random weights on the rows."""

    def __init__(self, bias):
        self.network = Pair(bias=bias)
        self.network.body.requires_grad_(False)
        self.X, self.X_meta = torch.randn(N_ROWS, N_FEATURES), torch.randn(N_META, N_FEATURES)
        self.targets = torch.randint(N_CLASSES, (N_ROWS,))
        self.row_weight = torch.rand(N_ROWS).requires_grad_()
        self.lr = 0.7

    def training_loss(self, logits):
        losses = F.cross_entropy(logits, self.targets, reduction="none")
        return (self.row_weight * losses).sum()

    def tangent(self):
        logits, features = self.network(self.X)
        meta_features = self.network.body(self.X_meta)
        return head_tangent(
            *(self.network.head, logits, features, self.training_loss),
            *(meta_features, clid_loss, self.lr),
        )


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("bias", [True, False])
def test_head_tangent_equals_the_full_one_where_the_head_alone_moves(bias, mode):
    step = HeadStep(bias)
    expected = full_tangent(
        step.network, step.X, step.training_loss, step.X_meta, clid_loss, step.lr, mode
    )
    for here, there in zip(step.tangent(), expected, strict=True):
        assert not here.requires_grad
        torch.testing.assert_close(here, there, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("bias", [True, False])
def test_influence_is_the_derivative_of_clid_by_the_weight_of_a_row(bias):
    step = HeadStep(bias)
    value, (expected,) = textbook(
        *(step.network, step.X, step.training_loss, step.X_meta, clid_loss, step.lr),
        step.row_weight,
    )
    found = step.tangent()
    per_row = influence(found.logits, found.tangent, step.targets, step.lr)
    torch.testing.assert_close(found.meta_loss, value, rtol=1e-12, atol=0)
    assert relative_error(per_row, expected) < 1e-10


@pytest.mark.parametrize("bias", [True, False])
def test_influence_has_the_closed_form_of_the_design(bias):
    step = HeadStep(bias)
    moved = stepped(step.network, step.X, step.training_loss, step.lr)
    meta_logits, meta_features = functional_call(step.network, moved, (step.X_meta,))
    (error,) = torch.autograd.grad(clid_loss(meta_features, meta_logits), meta_logits)
    G_W, G_b = error.T @ meta_features, error.sum(dim=0) if bias else torch.zeros(N_CLASSES)
    found = step.tangent()
    D = found.logits.softmax(dim=1) - F.one_hot(step.targets, N_CLASSES)
    features = step.network.body(step.X)
    expected = [-step.lr * D[i] @ (G_W @ features[i] + G_b) for i in range(N_ROWS)]
    per_row = influence(found.logits, found.tangent, step.targets, step.lr)
    assert relative_error(per_row, torch.stack(expected)) < 1e-12


def test_influence_of_the_full_step_is_the_derivative_by_the_weight_of_a_row():
    step = HeadStep(bias=True)
    step.network.body.requires_grad_(True)
    arguments = step.network, step.X, step.training_loss, step.X_meta, clid_loss, step.lr
    _, (expected,) = textbook(*arguments, step.row_weight)
    found = full_tangent(*arguments)
    per_row = influence(found.logits, found.tangent, step.targets, step.lr)
    assert relative_error(per_row, expected) < 1e-10
