import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sklearn_clidmu.mathematics.backbone import MLP
from sklearn_clidmu.mathematics.clid import clid_gradient, clid_loss
from sklearn_clidmu.mathematics.evidence import N_EVIDENCE
from sklearn_clidmu.mathematics.hypergradient import (
    TracedRows,
    double_backward,
    forward_mode,
    full_tangent,
    head_tangent,
    influence,
    surrogate,
    traced_influence,
)
from sklearn_clidmu.mathematics.traced_pass import TracedPass
from sklearn_clidmu.mathematics.weighting import (
    EvidenceWeightNet,
    LogitRectifier,
    LossWeightNet,
    Rows,
    WeightingNet,
)

from .helpers import (
    N_CLASSES,
    N_FEATURES,
    NETWORKS,
    WIDTH,
    Pair,
    central_difference,
    losses_at,
    make_rows,
    mlp,
    relative_error,
    rows_at,
    tapped,
)

N_ROWS, N_META = 12, 10
MODES = [forward_mode, double_backward]


# Two ways to the same derivative


class Reweighted(NamedTuple):
    """A training batch and the net that weighs it; what it sees of the rows does not move."""

    net: WeightingNet
    rows: Rows
    noise: torch.Tensor | None = None

    @property
    def weights(self):
        return self.net(self.rows, self.noise)

    def loss(self, logits):
        return self.net.loss_and_errors(self.weights, rows_at(logits, self.rows))[0]

    def errors(self, logits):
        return self.net.errors(self.weights, rows_at(logits, self.rows))


class Meta(NamedTuple):
    """A meta objective, as a value and as what the virtual steps ask of it."""

    loss: object
    gradient: object


def by_autograd(loss):
    def gradient(features, logits, inputs):
        value = loss(features, logits)
        settings = {"allow_unused": True, "materialize_grads": True}
        return value.detach(), torch.autograd.grad(value, inputs, **settings)

    return Meta(loss, gradient)


def closed_clid(temperature):
    """Published CLID, differentiated by its closed form and not by autograd."""

    def gradient(features, logits, inputs):
        value, error = clid_gradient(features, logits, temperature, torch.ones(len(logits)))
        return value, torch.autograd.grad(logits, inputs, error)

    return Meta(lambda features, logits: clid_loss(features, logits, temperature), gradient)


CLID = by_autograd(clid_loss)


def stepped(network, X, training_loss, lr, create_graph=False):
    """Parameters after one virtual step of SGD on all that require a gradient."""
    params = {k: p for k, p in network.named_parameters() if p.requires_grad}
    loss = training_loss(functional_call(network, params, (X,))[0])
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph)
    return {k: p - lr * g for (k, p), g in zip(params.items(), gradients, strict=True)}


def textbook(network, X, batch, X_meta, meta, lr, wanted):
    """Meta loss and its gradient by double backward through the virtual step."""
    moved = stepped(network, X, batch.loss, lr, create_graph=True)
    logits, features = functional_call(network, moved, (X_meta,))
    value = meta.loss(features, logits)
    return value.detach(), torch.autograd.grad(value, wanted)


def by_tangent(mode):
    """A function like :func:`textbook`, by the tangent of the network and the surrogate."""

    def compute(network, X, batch, X_meta, meta, lr, wanted):
        found = full_tangent(network, X, batch.errors, X_meta, meta.gradient, lr, mode)
        scalar = lr * surrogate(batch.errors(found.logits), found.tangent)
        return found.meta_loss, torch.autograd.grad(scalar, wanted)

    return compute


def by_own_surrogate(network, X, batch, X_meta, meta, lr, wanted):
    """Like :func:`textbook`, by the tangent of the network and the weighting net's surrogate."""
    found = full_tangent(network, X, batch.errors, X_meta, meta.gradient, lr)
    rows = rows_at(found.logits, batch.rows)
    harm = influence(rows.errors, found.tangent)
    scalar = lr * batch.net.surrogate(batch.weights, harm, found.tangent, rows)
    return found.meta_loss, torch.autograd.grad(scalar, wanted)


def by_trace(network, X, batch, X_meta, meta, lr, wanted):
    """Like :func:`textbook`, by the influences of a traced pass."""
    traced = (
        PublishedPass(network, X) if isinstance(network, PublishedMLP) else TracedPass(network, X)
    )
    rows = rows_at(traced.logits, batch.rows)
    share = batch.net.shares(batch.weights, rows)
    by_row = TracedRows(traced, rows.errors)
    harm, value = traced_influence(network, by_row, share, X_meta, meta.gradient, lr)
    scalar = lr * batch.net.surrogate(batch.weights, harm, None, rows)
    return value, torch.autograd.grad(scalar, wanted)


TANGENTS = {
    "forward mode": by_tangent(forward_mode),
    "double backward": by_tangent(double_backward),
    "default": by_tangent(None),
    "own surrogate": by_own_surrogate,
}
METHODS = {"textbook": textbook, **TANGENTS, "trace": by_trace}


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


class PublishedPass(TracedPass):
    """A traced pass of that network, through which autograd goes back."""

    def __init__(self, network, X):
        self.layers = [network.l1, network.l2, network.l3]
        self.inputs, self.outputs = [X], []
        for layer in self.layers:
            self.outputs.append(layer(self.inputs[-1]))
            self.inputs.append(self.outputs[-1].relu())
        self.inputs.pop()
        self.logits = self.outputs[-1].detach()

    def errors(self, by_logits):
        *hidden, logits = self.outputs
        return [*torch.autograd.grad(logits, hidden, by_logits, retain_graph=True), by_logits]


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
            logits=logits,
            **losses_at(logits, self["y"]),
            targets=self["y"],
            features=features,
            evidence=torch.zeros(len(logits), N_EVIDENCE),
            sample_weight=torch.ones(len(logits)),
        )

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

    def check_gradients(self, method, form, batch):
        wanted = dict(batch.net.named_parameters())
        temperature = float(self["temperature"])
        meta = closed_clid(temperature)
        if form == "autograd":
            meta = by_autograd(meta.loss)
        value, gradients = METHODS[method](
            *(self.network, self["X"], batch, self["X_meta"], meta, self.lr),
            list(wanted.values()),
        )
        expected = self.renamed("metagrad_")
        assert relative_error(value, self["meta_loss"]) < 1e-10
        assert set(wanted) == set(expected)
        for name, gradient in zip(wanted, gradients, strict=True):
            assert relative_error(gradient, expected[name]) < 1e-8, name


WAYS = [("textbook", "autograd")]
WAYS += [(method, form) for method in TANGENTS for form in ("autograd", "closed form")]


@pytest.mark.parametrize(
    ("method", "form"), [*WAYS, ("trace", "autograd"), ("trace", "closed form")]
)
@pytest.mark.parametrize("case", ["wnet0", "wnet1", "wnet2"])
def test_loss_weight_net_reproduces_the_published_meta_gradients(reference, case, method, form):
    recorded = Recorded(reference, case, {"linear1": "hidden", "linear2": "output"})
    net = LossWeightNet(n_hidden=16)
    net.load_state_dict(recorded.renamed("meta_"))
    rows = recorded.rows
    weights = net(rows).detach()
    torch.testing.assert_close(rows.losses, recorded["losses"], rtol=1e-10, atol=0)
    for share in (weights / weights.sum(), net.shares(weights, rows)):
        torch.testing.assert_close(share, recorded["weights"], rtol=1e-10, atol=0)
    recorded.check_gradients(method, form, Reweighted(net, rows))


@pytest.mark.parametrize(("method", "form"), WAYS)
@pytest.mark.parametrize("case", ["vri0", "vri1"])
def test_logit_rectifier_reproduces_the_published_meta_gradients(reference, case, method, form):
    names = {f"linear{i + 1}": f"body.{2 * i}" for i in range(3)}
    names |= {"linear_mean": "mean", "linear_var": "log_variance", "cls_emb": "embedding"}
    recorded = Recorded(reference, case, names)
    rows, noise = recorded.rows, recorded["noise"]
    net = LogitRectifier(rows.features.shape[1], noise.shape[1], n_hidden=(32, 16), kl_weight=0)
    net.load_state_dict(recorded.renamed("meta_"))
    weights = net(rows, noise).detach()
    torch.testing.assert_close(weights, recorded["weights"], rtol=1e-10, atol=0)
    torch.testing.assert_close(
        net.loss_and_errors(weights, rows)[0], recorded["train_loss"], rtol=1e-10, atol=0
    )
    recorded.check_gradients(method, form, Reweighted(net, rows, noise))


# Finite differences


WEIGHTING_NETS = {
    "loss": lambda: LossWeightNet(n_hidden=16),
    "evidence": lambda: EvidenceWeightNet(torch.full((N_CLASSES,), 0.7), n_hidden=3),
    "rectifier": lambda: LogitRectifier(WIDTH, N_CLASSES, n_embedding=2, n_hidden=(3, 2)),
}


DIFFERENCED = [
    *((name, weighting, "default") for name in NETWORKS for weighting in WEIGHTING_NETS),
    *(("mlp", weighting, "own surrogate") for weighting in WEIGHTING_NETS),
    *(("mlp", weighting, "trace") for weighting in ("loss", "evidence")),
]


@pytest.mark.parametrize(("name", "weighting", "method"), DIFFERENCED)
def test_meta_gradients_equal_finite_differences(name, weighting, method):
    """Of CLID in its normalized form, whose gradient is that of its value.

    The feature graph is a constant of the objective by definition, so the function that is
    differenced holds the features at those of the unperturbed stepped network.
    """
    network, net = NETWORKS[name](), WEIGHTING_NETS[weighting]()
    X, X_meta, lr = torch.randn(N_ROWS, N_FEATURES), torch.randn(N_META, N_FEATURES), 0.3
    rows = make_rows(N_ROWS, sample_weight=torch.rand(N_ROWS) + 0.5)
    batch = Reweighted(net, rows, torch.randn(N_ROWS, N_CLASSES))

    def meta_loss(features, logits):
        return clid_loss(features, logits, gradient="normalized")

    _, gradients = METHODS[method](
        network, X, batch, X_meta, by_autograd(meta_loss), lr, list(net.parameters())
    )
    moved = stepped(network, X, batch.loss, lr)
    features = functional_call(network, moved, (X_meta,))[1].detach()

    def objective(phi):
        vector_to_parameters(phi, net.parameters())
        moved = stepped(network, X, batch.loss, lr)
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
        lambda logits: losses_at(logits, targets)["errors"] / N_ROWS,
        torch.randn(N_META, N_FEATURES),
        CLID.gradient,
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

    def loss(self, logits):
        return (self.row_weight * losses_at(logits, self.targets)["losses"]).sum()

    def row_errors(self, logits):
        return losses_at(logits, self.targets)["errors"]

    def errors(self, logits):
        return self.row_weight[:, None] * self.row_errors(logits)

    def by_textbook(self):
        arguments = self.network, self.X, self, self.X_meta, CLID, self.lr
        value, (gradient,) = textbook(*arguments, self.row_weight)
        return value, gradient

    def full(self, mode=None):
        arguments = self.network, self.X, self.errors, self.X_meta, CLID.gradient, self.lr
        return full_tangent(*arguments, mode)

    def tangent(self):
        with torch.no_grad():
            logits, features = self.network(self.X)
            meta_logits, meta_features = self.network(self.X_meta)
        return head_tangent(
            *(logits, features, self.errors(logits), meta_logits, meta_features),
            *(CLID.gradient, self.lr),
            bias=self.network.head.bias is not None,
        )


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("bias", [True, False])
def test_head_tangent_equals_the_full_one_where_the_head_alone_moves(bias, mode):
    step = HeadStep(bias)
    for here, there in zip(step.tangent(), step.full(mode), strict=True):
        assert not here.requires_grad
        torch.testing.assert_close(here, there, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("bias", [True, False])
def test_influence_is_the_derivative_of_clid_by_the_weight_of_a_row(bias):
    step = HeadStep(bias)
    value, expected = step.by_textbook()
    found = step.tangent()
    per_row = step.lr * influence(step.row_errors(found.logits), found.tangent)
    torch.testing.assert_close(found.meta_loss, value, rtol=1e-12, atol=0)
    assert relative_error(per_row, expected) < 1e-10


@pytest.mark.parametrize("bias", [True, False])
def test_influence_has_the_closed_form_of_the_design(bias):
    step = HeadStep(bias)
    moved = stepped(step.network, step.X, step.loss, step.lr)
    meta_logits, meta_features = functional_call(step.network, moved, (step.X_meta,))
    (error,) = torch.autograd.grad(clid_loss(meta_features, meta_logits), meta_logits)
    G_W, G_b = error.T @ meta_features, error.sum(dim=0) if bias else torch.zeros(N_CLASSES)
    found = step.tangent()
    D = found.logits.softmax(dim=1) - F.one_hot(step.targets, N_CLASSES)
    features = step.network.body(step.X)
    expected = [-D[i] @ (G_W @ features[i] + G_b) for i in range(N_ROWS)]
    per_row = influence(step.row_errors(found.logits), found.tangent)
    assert relative_error(per_row, torch.stack(expected)) < 1e-12


def test_influence_of_the_full_step_is_the_derivative_by_the_weight_of_a_row():
    step = HeadStep(bias=True)
    step.network.body.requires_grad_(True)
    value, expected = step.by_textbook()
    found = step.full()
    per_row = step.lr * influence(step.row_errors(found.logits), found.tangent)
    torch.testing.assert_close(found.meta_loss, value, rtol=1e-12, atol=0)
    assert relative_error(per_row, expected) < 1e-10


# Networks that have all their parameters in linear layers


TRACEABLE = {
    "mlp": mlp,
    "dropout": lambda: mlp(dropout=0.5),
    "one mask": lambda: mlp(dropout=0.5, one_mask=True),
    "one hidden layer": lambda: MLP(N_FEATURES, N_CLASSES, (WIDTH,), dropout=0.5),
}


class TracedBatch:
    """A pass in training mode; the gradients of its rows one by one, and as traced."""

    def __init__(self, network):
        self.network, self.parameters = network, list(network.parameters())
        self.X, self.X_meta = torch.randn(N_ROWS, N_FEATURES), torch.randn(N_META, N_FEATURES)
        self.row_weight, self.lr = torch.rand(N_ROWS).requires_grad_(), 0.7
        torch.manual_seed(1)
        logits, _ = network.train()(self.X)
        torch.manual_seed(1)
        traced = TracedPass(network, self.X)
        rows = losses_at(logits, torch.randint(N_CLASSES, (N_ROWS,)))
        self.errors = rows["errors"].detach()
        loss = (self.row_weight * rows["losses"]).sum()
        self.gradient = torch.autograd.grad(loss, self.parameters, create_graph=True)
        self.per_row = [
            torch.autograd.grad(loss, self.parameters, retain_graph=True) for loss in rows["losses"]
        ]
        self.traced = TracedRows(traced, self.errors)

    def influence(self, meta=CLID):
        arguments = self.network.eval(), self.traced, self.row_weight, self.X_meta
        return traced_influence(*arguments, meta.gradient, self.lr)

    def by_textbook(self):
        """Meta loss and its gradient by the weights, by double backward through the pass."""
        names = [name for name, _ in self.network.named_parameters()]
        steps = zip(names, self.parameters, self.gradient, strict=True)
        moved = {name: p - self.lr * g for name, p, g in steps}
        logits, features = functional_call(self.network.eval(), moved, (self.X_meta,))
        value = clid_loss(features, logits)
        return value.detach(), torch.autograd.grad(value, self.row_weight)[0]


@pytest.mark.parametrize("name", TRACEABLE)
def test_gradient_of_traced_rows_is_that_of_autograd(name):
    case = TracedBatch(TRACEABLE[name]())
    for parameter in case.parameters:
        parameter.grad = torch.randn_like(parameter)  # to be replaced, not to be added to
    found = case.traced.gradient(case.row_weight.detach())
    case.traced.backward(case.row_weight.detach())
    for parameter, here, there in zip(case.parameters, found, case.gradient, strict=True):
        assert here.shape == parameter.shape
        torch.testing.assert_close(here, there.detach(), rtol=1e-11, atol=1e-14)
        assert torch.equal(parameter.grad, here)
        assert not parameter.grad.requires_grad
        assert parameter.requires_grad


@pytest.mark.parametrize("name", TRACEABLE)
def test_products_of_traced_rows_are_those_of_their_gradients_one_by_one(name):
    case = TracedBatch(TRACEABLE[name]())
    directions = [torch.randn_like(parameter) for parameter in case.parameters]
    expected = [
        sum((g * d).sum() for g, d in zip(row, directions, strict=True)) for row in case.per_row
    ]
    assert relative_error(case.traced.products(directions), torch.stack(expected)) < 1e-12


@pytest.mark.parametrize("name", TRACEABLE)
def test_influence_of_a_traced_step_is_the_derivative_by_the_weight_of_a_row(name):
    case = TracedBatch(TRACEABLE[name]())
    per_row, meta_loss = case.influence()
    value, expected = case.by_textbook()
    torch.testing.assert_close(meta_loss, value, rtol=1e-12, atol=0)
    assert relative_error(case.lr * per_row, expected) < 1e-10


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("meta", [CLID, closed_clid(0.5)], ids=["autograd", "closed form"])
def test_influence_of_a_traced_step_equals_that_of_the_full_one(meta, mode):
    case = TracedBatch(mlp())
    per_row, meta_loss = case.influence(meta)
    share = case.row_weight.detach()[:, None]
    arguments = case.network, case.X, lambda _: share * case.errors, case.X_meta, meta.gradient
    full = full_tangent(*arguments, case.lr, mode)
    torch.testing.assert_close(meta_loss, full.meta_loss, rtol=1e-12, atol=0)
    assert relative_error(per_row, influence(case.errors, full.tangent)) < 1e-11


@pytest.mark.parametrize("name", TRACEABLE)
def test_traced_influence_is_detached_and_leaves_the_network_as_it_was(name):
    case = TracedBatch(TRACEABLE[name]())
    case.network.register_buffer("kept", torch.randn(3))
    for parameter in case.parameters:
        parameter.grad = torch.randn_like(parameter)
    gradients = [parameter.grad.clone() for parameter in case.parameters]
    state = copy.deepcopy(case.network.state_dict())
    with torch.no_grad():
        found = case.influence()
    for here, there in zip(found, case.influence(), strict=True):
        assert not there.requires_grad
        torch.testing.assert_close(here, there, rtol=0, atol=0)
    after = case.network.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[key], state[key]) for key in state)
    assert [id(p) for p in case.network.parameters()] == [id(p) for p in case.parameters]
    for parameter, gradient in zip(case.parameters, gradients, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradient)


def test_influence_takes_nothing_from_the_gradients_of_a_later_step():
    case = TracedBatch(mlp(dropout=0.5))
    before = case.traced.gradient(torch.ones(N_ROWS))
    case.influence()
    expected = [torch.stack(rows).sum(dim=0) for rows in zip(*case.per_row, strict=True)]
    for now, first, there in zip(
        case.traced.gradient(torch.ones(N_ROWS)), before, expected, strict=True
    ):
        assert torch.equal(now, first)
        torch.testing.assert_close(now, there, rtol=1e-11, atol=1e-14)
