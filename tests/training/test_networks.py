import copy
import math
import pickle

import numpy as np
import pytest
import torch
from clid.helpers import N_CLASSES, N_FEATURES, NETWORKS, WIDTH, Pair, mlp, tapped
from torch import nn

from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu.training.networks import (
    MLP,
    Dropout,
    FeatureTap,
    OneMaskDropout,
    PeriodicEmbedding,
)


def inputs(n_rows=8):
    return torch.randn(n_rows, N_FEATURES)


def layers():
    return nn.Linear(N_FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, N_CLASSES)


def test_dropout_takes_a_probability_in_half_precision():
    dropped = (Dropout(np.float16(0.25))(torch.ones(64, 64)) == 0).float().mean()
    assert abs(dropped - 0.25) < 0.05  # about seven standard deviations


# The multi-layer perceptron


@pytest.mark.parametrize("hidden_layer_sizes", [(5,), (7, 6), (4, 5, 6)])
def test_mlp_returns_logits_and_last_hidden_features(hidden_layer_sizes):
    network = MLP(N_FEATURES, N_CLASSES, hidden_layer_sizes, dropout=0.0)
    logits, features = network(inputs())
    assert logits.shape == (8, N_CLASSES)
    assert features.shape == (8, hidden_layer_sizes[-1])


def test_one_mask_dropout_draws_one_mask_for_all_rows_of_an_mlp_that_asks_for_it():
    drop, ones = OneMaskDropout(0.5), torch.ones(8, 200)
    masked = drop(ones)
    assert torch.equal(masked, masked[:1].expand(8, 200))
    assert set(masked.unique().tolist()) == {0.0, 2.0}
    assert 0 < (masked[0] == 0).sum() < 200
    for one_mask in (True, False):
        _, features = mlp(dropout=0.5, one_mask=one_mask)(inputs(1).expand(50, -1))
        assert torch.allclose(features, features[:1]) is one_mask


@pytest.mark.parametrize("one_mask", [True, False])
def test_mlp_drops_nothing_in_evaluation(one_mask):
    network, X = mlp(dropout=0.5, one_mask=one_mask), inputs()
    assert not torch.equal(network(X)[0], network(X)[0])
    plain = mlp()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(X)[0], plain(X)[0])


# Dropout


SHARES = [0.1, 0.3, 0.5, 0.9]


@pytest.mark.parametrize("p", [0.0, 0.5, 0.999999])
def test_dropout_changes_nothing_in_evaluation_or_of_nothing(p):
    X = inputs()
    assert torch.equal(Dropout(p).eval()(X), X)
    assert torch.equal(Dropout(0.0)(X), X)


@pytest.mark.parametrize("p", SHARES)
def test_dropout_drops_the_share_that_was_asked_for_at_every_position(p):
    kept = Dropout(p)(torch.ones(10000, 8)) != 0

    def check(share, expected, n):
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / n)

    check(kept.double().mean().item(), 1 - p, kept.numel())
    for share in kept.double().mean(dim=0).tolist():
        check(share, 1 - p, len(kept))
    for distance in range(1, 8):
        both = kept.flatten()[distance:] & kept.flatten()[:-distance]
        # Pairs overlap: half of them, at most, are independent of each other.
        check(both.double().mean().item(), (1 - p) ** 2, len(both) / 2)


@pytest.mark.parametrize(
    "shape", [(1,), (3,), (4,), (5,), (7, 11), (1, 1), (3, 5, 7), (0, 4), (0,)]
)
def test_dropout_takes_any_number_of_units(shape):
    masks = torch.stack([Dropout(0.5)(torch.ones(shape)) for _ in range(40)])
    assert masks.shape == (40, *shape)
    assert set(masks.unique().tolist()) <= {0.0, 2.0}
    assert (masks == 0).any(dim=0).all()
    assert (masks == 2).any(dim=0).all()


def test_dropout_takes_units_in_any_layout():
    X = torch.randn(6, 10)
    torch.manual_seed(1)
    expected = Dropout(0.5)(X)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.5)(X.T.contiguous().T), expected)


def test_dropout_follows_the_seed():
    drop, X = Dropout(0.5), torch.randn(20, 20)
    torch.manual_seed(3)
    first, second = drop(X), drop(X)
    torch.manual_seed(3)
    assert torch.equal(drop(X), first)
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    assert not torch.equal(drop(X), first)


def test_dropout_has_its_mask_as_gradient_and_leaves_its_input_alone():
    X = torch.randn(20, 9, requires_grad=True)
    before = X.detach().clone()
    dropped = Dropout(0.3)(X)
    (gradient,) = torch.autograd.grad(dropped.sum(), X)
    torch.testing.assert_close(gradient, dropped.detach() / before)
    assert torch.equal(X, before)


# Features of any module


def test_feature_tap_takes_the_input_of_the_last_linear_layer_for_the_features():
    first, activation, last = layers()
    X = inputs()
    logits, features = tapped(first, activation, last)(X)
    assert torch.equal(features, activation(first(X)))
    assert torch.equal(logits, last(features))


def test_feature_tap_takes_a_pair_at_its_word():
    network, X = Pair(), inputs()
    for here, there in zip(FeatureTap(network, N_CLASSES)(X), network(X), strict=True):
        assert torch.equal(here, there)


def test_feature_tap_flattens_features():
    class Image(nn.Module):
        def forward(self, X):
            return X[:, :N_CLASSES], X.reshape(-1, 1, 3, 3)

    X = inputs()
    assert torch.equal(FeatureTap(Image(), N_CLASSES)(X)[1], X)


def test_feature_tap_head_is_the_linear_layer_whose_output_is_the_logits():
    network = tapped(*layers())
    assert network.head is None  # not known before the first forward
    network(inputs())
    assert network.head is network.module[-1]
    pair = FeatureTap(Pair(), N_CLASSES)
    pair(inputs())
    assert pair.head is pair.module.head


@pytest.mark.parametrize("after", [nn.LogSoftmax(dim=1), nn.ReLU(), nn.ReLU(inplace=True)], ids=str)
def test_feature_tap_head_is_none_where_something_follows_the_linear_layer(after):
    network = tapped(*layers(), after)
    logits, features = network(inputs())
    assert network.head is None
    assert features.shape == (8, WIDTH)
    assert torch.equal(logits, after(network.module[2](features)))


def test_feature_tap_head_is_none_where_a_pair_comes_with_other_features():
    class Normalized(Pair):
        def forward(self, X):
            logits, features = super().forward(X)
            return logits, features / 2

    network = FeatureTap(Normalized(), N_CLASSES)
    network(inputs())
    assert network.head is None


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_feature_tap_copies_work_on_their_own(copied, used):
    original, X = tapped(*layers()), inputs()
    expected = original(X) if used else None
    twin = copied(original)
    for parameter in original.parameters():
        parameter.data.zero_()
    found = twin(X)
    assert twin.head is twin.module[-1]
    assert found[0].abs().sum() > 0
    if used:
        for here, there in zip(found, expected, strict=True):
            assert torch.equal(here, there)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_keep_the_keys_of_their_state_in_a_pass(name):
    network = NETWORKS[name]()
    before = list(network.state_dict())
    network(inputs())
    assert list(network.state_dict()) == before


def test_periodic_embedding_appends_linear_functions_of_cosines():
    embedding, X = PeriodicEmbedding(torch.tensor([2, 0])), torch.randn(5, 3)
    found = embedding(X)
    frequencies, phases = embedding.frequencies[:, 0], embedding.phases[:, 0]
    expected = [X]
    for i, column in enumerate((2, 0)):
        waves = torch.cos(X[:, column, None] * frequencies[i] + phases[i])
        expected.append(waves @ embedding.weight[i] + embedding.bias[i])
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


def test_mlp_scales_its_input_and_embeds_continuous_features():
    X = torch.cat([torch.randn(40, 2), (torch.randn(40, 1) > 0).float()], dim=1)
    scaler = RobustScaler.fit(X, torch.ones(40), torch.Generator()).float()
    network = MLP(3, 2, (4,), 0.0, scaler=scaler)
    embedding = PeriodicEmbedding(torch.tensor([0, 1]))
    embedding.load_state_dict(network.inputs[1].state_dict())
    torch.testing.assert_close(network(X)[1], network.layers[0](embedding(scaler(X))))


def test_mlp_logits_are_linear_in_the_inputs_and_every_hidden_layer():
    X = torch.randn(5, 3)
    network = MLP(3, 2, (4, 6), 0.0)
    first, second = network.layers
    logits, features = network(X)
    torch.testing.assert_close(features, second(first(X)))
    shortcut = torch.cat([X, first(X)], dim=1) @ network.shortcut.weight.T
    expected = features @ network.head.weight.T + network.head.bias + shortcut
    torch.testing.assert_close(logits, expected)
