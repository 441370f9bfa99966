"""Networks as they are built for a stage, by keyword from a partial that was pickled."""

import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from sklearn_clidmu.training.networks import MLP, build_network, feature_width


def build(module=None, row_shape=(9,), dtype=torch.float32):
    build = partial(
        build_network,
        module=module,
        hidden_layer_sizes=(7, 6),
        dropout=0.5,
        one_mask=False,
        row_shape=row_shape,
        n_classes=3,
        dtype=dtype,
    )
    return pickle.loads(pickle.dumps(build))()


def image_module(row_shape, n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(row_shape), n_classes))


def vector_module(n_features, n_classes):
    return nn.Sequential(nn.Linear(n_features, 4), nn.BatchNorm1d(4), nn.Linear(4, n_classes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_build_network_builds_an_mlp_by_default(dtype):
    network = build(dtype=dtype)
    assert isinstance(network, MLP)
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    assert feature_width(network, (9,), dtype) == 6
    layers = [f"layers.{number}.0.{name}" for number in (0, 1) for name in ("weight", "bias")]
    assert list(network.state_dict()) == [*layers, "shortcut.weight", "head.weight", "head.bias"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("module", "row_shape", "width"), [(vector_module, (9,), 4), (image_module, (2, 3, 3), 18)]
)
def test_build_network_passes_the_size_of_a_row_to_the_module(module, row_shape, width, dtype):
    network = build(module, row_shape, dtype)
    logits, features = network(torch.randn(5, *row_shape, dtype=dtype))
    assert logits.shape == (5, 3)
    assert logits.dtype == dtype
    assert features.shape[1] == feature_width(network, row_shape, dtype) == width


@pytest.mark.parametrize("module", [nn.ReLU, nn.Sequential, lambda width: nn.Linear(width, 3)])
def test_build_network_names_a_module_that_cannot_be_built(module):
    with pytest.raises(ValueError, match=r"module raised an error when called as module\(5, 3\)"):
        build_network(module, (4,), 0.0, False, (5,), 3, torch.float64)
