"""A pass by hand against the same pass under autograd."""

import pytest
import torch
from torch import nn

from sklearn_clidmu.mathematics.backbone import MLP
from sklearn_clidmu.mathematics.traced_pass import TracedPass

from .helpers import N_CLASSES, N_FEATURES

N_ROWS = 12
SETTINGS = {
    "plain": {"dropout": 0.0},
    "dropout": {"dropout": 0.5},
    "one mask": {"dropout": 0.5, "one_mask": True},
}
TOLERANCE = {torch.float64: {"rtol": 1e-11, "atol": 1e-14}, torch.float32: {}}


class Both:
    """A pass under autograd and one by hand, with the same units dropped."""

    def __init__(self, network, n_rows=N_ROWS, dtype=torch.float64):
        self.network = network.to(dtype)
        X = torch.randn(n_rows, N_FEATURES, dtype=dtype)
        self.linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
        self.inputs, self.outputs = [], []
        hooks = [layer.register_forward_hook(self.keep) for layer in self.linear]
        torch.manual_seed(1)
        self.logits, self.features = network(X)
        for hook in hooks:
            hook.remove()
        torch.manual_seed(1)
        self.traced = TracedPass(network, X)
        self.by_logits = torch.randn(n_rows, N_CLASSES, dtype=dtype)

    def keep(self, layer, inputs, output):
        self.inputs.append(inputs[0])
        self.outputs.append(output)

    def autograd(self, tensors):
        return torch.autograd.grad(self.logits, tensors, self.by_logits, retain_graph=True)


@pytest.fixture(params=[True, False], ids=["training", "evaluation"])
def training(request):
    return request.param


@pytest.fixture(params=[(6,), (7, 6), (5, 8, 6)], ids=str)
def sizes(request):
    return request.param


@pytest.fixture(params=SETTINGS)
def both(request, sizes, training, dtype):
    network = MLP(N_FEATURES, N_CLASSES, sizes, **SETTINGS[request.param])
    return Both(network.train(training), dtype=dtype)


def close(here, there):
    torch.testing.assert_close(here, there.detach(), **TOLERANCE[here.dtype])


def test_logits_features_and_inputs_of_all_layers_are_those_of_the_network(both):
    close(both.traced.logits, both.logits)
    close(both.traced.features, both.features)
    assert both.traced.layers == both.linear
    for here, there in zip(both.traced.inputs, both.inputs, strict=True):
        close(here, there)


def test_errors_are_the_gradients_by_the_outputs_of_all_layers(both):
    found = both.traced.errors(both.by_logits)
    for here, there in zip(found, both.autograd(both.outputs), strict=True):
        close(here, there)


def test_backward_sets_the_gradients_of_all_parameters(both):
    parameters = list(both.network.parameters())
    assert [id(p) for p in both.traced.parameters] == [id(p) for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)  # to be replaced, not to be added to
    both.traced.backward(both.by_logits)
    found = both.traced.gradient(both.traced.errors(both.by_logits))
    for p, here, there in zip(parameters, found, both.autograd(parameters), strict=True):
        close(p.grad, there)
        assert torch.equal(p.grad, here)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_backward_of_the_first_rows_is_that_of_all_where_the_others_have_no_error(both, n):
    both.by_logits[n:] = 0
    both.traced.backward(both.by_logits[:n].clone())
    parameters = list(both.network.parameters())
    for parameter, there in zip(parameters, both.autograd(parameters), strict=True):
        close(parameter.grad, there)


def test_nothing_of_a_pass_has_a_graph(both):
    errors = both.traced.errors(both.by_logits)
    tensors = [both.traced.logits, *both.traced.inputs, *errors, *both.traced.gradient(errors)]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_a_pass_changes_nothing_but_the_gradients(both):
    before = [parameter.detach().clone() for parameter in both.network.parameters()]
    inputs = [X.clone() for X in both.traced.inputs]
    for _ in range(2):
        both.traced.backward(both.by_logits)
    for now, then in zip(both.network.parameters(), before, strict=True):
        assert torch.equal(now, then)
    for now, then in zip(both.traced.inputs, inputs, strict=True):
        assert torch.equal(now, then)


def test_wide_layers_in_single_precision_agree_too():
    """They are multiplied by another library than small ones."""
    both = Both(MLP(N_FEATURES, N_CLASSES, (400, 300), 0.3), n_rows=500, dtype=torch.float32)
    both.traced.backward(both.by_logits)
    parameters = list(both.network.parameters())
    close(both.traced.logits, both.logits)
    for parameter, there in zip(parameters, both.autograd(parameters), strict=True):
        torch.testing.assert_close(parameter.grad, there, rtol=1e-4, atol=1e-4)
