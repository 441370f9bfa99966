import math

import numpy as np
import pytest
import torch

from sklearn_clidmu.clid.objective import (
    clid_gradient,
    clid_loss,
    feature_graph,
    make_objective,
    mean_absolute_error,
    prediction_graph,
)

from .helpers import central_difference, relative_error, sum_copies

GRADIENTS = ["published", "normalized"]


def gradient_of(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


def batch(n=10, d=5, n_classes=3):
    return torch.randn(n, d), torch.randn(n, n_classes).requires_grad_()


@pytest.mark.parametrize("case", range(7))
def test_clid_loss_reproduces_the_published_values_and_gradients(reference, case):
    features = reference[f"clid{case}_features"].requires_grad_()
    logits = reference[f"clid{case}_logits"].clone().requires_grad_()
    loss = clid_loss(features, logits, float(reference[f"clid{case}_temperature"]))
    to_features, to_logits = torch.autograd.grad(loss, [features, logits], allow_unused=True)
    assert relative_error(loss.detach(), reference[f"clid{case}_loss"]) < 1e-10
    assert relative_error(to_logits, reference[f"clid{case}_grad_logits"]) < 1e-10
    assert bool(reference[f"clid{case}_grad_features_is_none"])
    assert to_features is None


@pytest.mark.parametrize("case", range(7))
def test_clid_gradient_reproduces_the_published_values_and_gradients(reference, case):
    features, logits, temperature, value, gradient = (
        reference[f"clid{case}_{name}"]
        for name in ("features", "logits", "temperature", "loss", "grad_logits")
    )
    found = clid_gradient(features, logits, None, torch.ones(len(logits)), float(temperature))
    assert relative_error(found[0], value) < 1e-10
    assert relative_error(found[1], gradient) < 1e-10


def hostile(kind, n=40, d=6, n_classes=4):
    """Features and logits of a batch with something that is not at random."""
    features, logits = torch.randn(n, d), 2 * torch.randn(n, n_classes)
    if kind == "zero rows":
        features[::5] = 0
    elif kind == "no features":
        features[:] = 0
    elif kind == "hidden units":
        features = features.relu() * (torch.rand(n, d) < 0.5)
    elif kind == "opposite":
        features[1::2] = -features[::2]
    elif kind == "equal":
        features[:], logits[:] = features[0].clone(), logits[0].clone()
    elif kind == "sure":
        logits = 30 * logits
    return features, logits


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5, 1.0, 10.0])
@pytest.mark.parametrize(
    "kind",
    ["random", "zero rows", "no features", "hidden units", "opposite", "equal", "sure"],
)
def test_clid_gradient_is_clid_loss_and_its_published_gradient(kind, temperature, weighted):
    features, logits = hostile(kind)
    weight = 5 * torch.rand(len(logits)) + 0.1 if weighted else torch.ones(len(logits))
    leaf = logits.clone().requires_grad_()
    value = clid_loss(features, leaf, temperature, sample_weight=weight)
    gradient = gradient_of(value, leaf)
    found = clid_gradient(features, leaf, None, weight, temperature)
    assert not any(tensor.requires_grad for tensor in found)
    torch.testing.assert_close(found[0], value.detach(), rtol=1e-13, atol=0)
    smallest = 1e-15 if kind == "equal" else 0  # where no gradient is left
    assert (found[1] - gradient).norm() <= 1e-12 * gradient.norm() + smallest
    single = clid_gradient(features.float(), logits.float(), None, weight.float(), temperature)
    assert all(tensor.dtype == torch.float32 for tensor in single)
    assert relative_error(single[0].double(), value.detach()) < 1e-5
    assert (single[1] - gradient).norm() <= 1e-4 * gradient.norm() + 1e9 * smallest
    assert torch.equal(leaf, logits)


def test_clid_gradient_of_a_stack_is_that_of_every_batch():
    batches = [hostile(kind) for kind in ("zero rows", "hidden units", "opposite")]
    weights = 5 * torch.rand(3, 40) + 0.1
    features, logits = (torch.stack(parts) for parts in zip(*batches, strict=True))
    values, gradients = clid_gradient(features, logits, None, weights, 0.3)
    assert values.shape == (3,)
    for i, batch in enumerate(batches):
        value, gradient = clid_gradient(*batch, None, weights[i], 0.3)
        torch.testing.assert_close(values[i], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradients[i], gradient, rtol=1e-11, atol=1e-15)


def test_clid_gradient_counts_a_row_of_weight_s_as_s_rows():
    features, logits = batch()
    times = torch.tensor([1, 3, 2, 1, 1, 4, 2, 1, 1, 2])
    copies = (column.detach().repeat_interleave(times, dim=0) for column in (features, logits))
    value, gradient = clid_gradient(features, logits, None, times.double(), 0.3)
    repeated = clid_gradient(*copies, None, torch.ones(int(times.sum())), 0.3)
    torch.testing.assert_close(value, repeated[0], rtol=1e-12, atol=0)
    assert relative_error(gradient, sum_copies(repeated[1], times)) < 1e-12


@pytest.mark.parametrize("weighted", [False, True])
def test_clid_loss_has_the_same_value_and_another_gradient_in_either_form(weighted):
    features, logits = batch()
    sample_weight = torch.rand(10) + 0.5 if weighted else None
    published, normalized = (
        clid_loss(features, logits, 0.3, gradient, sample_weight) for gradient in GRADIENTS
    )
    torch.testing.assert_close(published, normalized, rtol=1e-14, atol=0)
    gradient = gradient_of(normalized, logits)
    assert relative_error(gradient_of(published, logits), gradient) > 1e-2


@pytest.mark.parametrize("weighted", [False, True])
def test_clid_loss_has_the_gradient_of_its_value_in_the_normalized_form(weighted):
    features, logits = batch()
    sample_weight = torch.rand(10) + 0.5 if weighted else None

    def value(z):
        return clid_loss(features, z, 0.3, "normalized", sample_weight)

    expected = central_difference(value, logits.detach(), 1e-5)
    assert relative_error(gradient_of(value(logits), logits), expected) < 1e-8


def test_graphs_are_row_stochastic_under_their_weights():
    features, logits = batch()
    weight = torch.rand(10) + 0.5
    for graph in (feature_graph(features), prediction_graph(logits)):
        torch.testing.assert_close(graph.sum(dim=1), torch.ones(10))
    for graph in (
        feature_graph(features, 0.5, weight),
        prediction_graph(logits, "normalized", weight),
    ):
        torch.testing.assert_close((graph * weight).sum(dim=1), torch.ones(10))


def test_clid_loss_and_prediction_graph_take_the_published_form_by_default():
    features, logits = batch()
    factors = torch.randn(10, 10)

    def gradients(*form):
        values = (
            (factors * prediction_graph(logits, *form)).sum(),
            clid_loss(features, logits, 0.5, *form),
        )
        return [gradient_of(value, logits) for value in values]

    for default, published, normalized in zip(
        gradients(), gradients("published"), gradients("normalized"), strict=True
    ):
        assert torch.equal(default, published)
        assert relative_error(default, normalized) > 1e-2


def test_clid_loss_is_the_formula_of_the_paper_written_out():
    features, logits = batch(n=4)
    h, p = features.tolist(), logits.softmax(dim=1).tolist()

    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    total = 0.0
    for i in range(4):
        attention = [math.exp(max(cosine(h[i], h[j]), 0) / 0.5) for j in range(4)]
        alike = [cosine(p[i], p[j]) for j in range(4)]
        for j in range(4):
            s = attention[j] / sum(attention)
            total -= alike[j] / sum(alike) * math.log(s + 1e-7) / 4
    assert clid_loss(features, logits).item() == pytest.approx(total, rel=1e-13)


@pytest.mark.parametrize(
    "make_features",
    [lambda: torch.randn(12, 4), lambda: torch.eye(12), lambda: torch.ones(12, 4)],
    ids=["random", "orthogonal", "equal"],
)
def test_clid_loss_of_a_constant_predictor_is_not_below_log_n(make_features):
    logits = torch.tensor([[2.0, -1.0, 0.5]]).expand(12, 3)
    slack = 12 * 1e-7  # for the constant inside the logarithm
    assert clid_loss(make_features(), logits).item() >= math.log(12) - slack


def test_clid_loss_of_predictions_aligned_with_the_features_is_below_log_n():
    logits = 5 * torch.eye(3).repeat(4, 1)
    assert clid_loss(logits, logits).item() < math.log(12) - 0.1


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_clid_loss_counts_a_row_of_weight_s_as_s_rows(gradient):
    features, logits = batch()
    times = torch.tensor([1, 3, 2, 1, 1, 4, 2, 1, 1, 2])
    copies = logits.detach().repeat_interleave(times, dim=0).requires_grad_()
    weighted = clid_loss(features, logits, 0.3, gradient, times)
    repeated = clid_loss(features.repeat_interleave(times, dim=0), copies, 0.3, gradient)
    torch.testing.assert_close(weighted, repeated, rtol=1e-12, atol=0)
    expected = sum_copies(gradient_of(repeated, copies), times)
    assert relative_error(gradient_of(weighted, logits), expected) < 1e-10


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_clid_loss_of_unit_weights_is_that_without_weights(gradient):
    features, logits = batch()
    plain = clid_loss(features, logits, 0.3, gradient)
    weighted = clid_loss(features, logits, 0.3, gradient, torch.ones(10))
    torch.testing.assert_close(weighted, plain, rtol=1e-13, atol=0)
    assert relative_error(gradient_of(weighted, logits), gradient_of(plain, logits)) < 1e-12


def test_clid_loss_refuses_an_unknown_form():
    with pytest.raises(ValueError, match="'published' or 'normalized', got 'exact'"):
        clid_loss(torch.zeros(4, 2), torch.zeros(4, 2), gradient="exact")


@pytest.mark.parametrize(
    ("features", "logits"), [((4, 2), (5, 2)), ((4,), (4, 2)), ((4, 2), (4,)), ((4, 2, 2), (4, 2))]
)
def test_clid_loss_refuses_shapes_that_do_not_belong_together(features, logits):
    with pytest.raises(ValueError, match="one row per sample"):
        clid_loss(torch.zeros(features), torch.zeros(logits))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"features": np.zeros((4, 2))}, TypeError, "features must be a tensor, got ndarray"),
        ({"logits": np.zeros((4, 2))}, TypeError, "logits must be a tensor, got ndarray"),
        ({"sample_weight": np.ones(4)}, TypeError, "sample_weight must be a tensor, got ndarray"),
        (
            {"sample_weight": torch.ones(5)},
            ValueError,
            r"one entry per row, got shape \(5,\) for 4",
        ),
        ({"sample_weight": torch.zeros(4)}, ValueError, "sample_weight must be non-negative"),
        ({"sample_weight": -torch.ones(4)}, ValueError, "sample_weight must be non-negative"),
        ({"features": torch.ones(4, 2).long()}, ValueError, "features must be .* got torch.int64"),
        ({"logits": torch.ones(4, 2).long()}, ValueError, "logits must be .* got torch.int64"),
        ({"temperature": 0}, ValueError, "temperature must be positive, got 0"),
        ({"temperature": math.nan}, ValueError, "temperature must be positive, got nan"),
        ({"features": torch.zeros(0, 2), "logits": torch.zeros(0, 2)}, ValueError, "one row per"),
    ],
)
def test_clid_loss_names_the_invalid_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        clid_loss(**{"features": torch.ones(4, 2), "logits": torch.ones(4, 2), **arguments})


def test_clid_loss_of_uniform_graphs_is_the_log_of_the_total_weight():
    weight = torch.rand(8) + 0.5
    features, logits = torch.ones(8, 4), torch.zeros(8, 3)
    for sample_weight, total in ((None, 8.0), (weight, weight.sum().item())):
        divergence = clid_loss(features, logits, sample_weight=sample_weight)
        assert divergence.item() == pytest.approx(math.log(total), rel=1e-5)


def test_clid_loss_of_a_constant_predictor_is_below_log_n_by_rounding_alone():
    features, logits = torch.zeros(500, 4), torch.zeros(500, 3)
    below = math.log(500) - clid_loss(features, logits).item()
    assert 0 < below < 1e-4


@pytest.mark.parametrize("temperature", [1e-4, 1e-3, 5e-3, 0.01])
def test_clid_gradient_is_that_of_clid_loss_however_low_the_temperature(temperature, dtype):
    features, logits = (column.to(dtype) for column in hostile("zero rows"))
    weight, leaf = torch.ones(len(logits), dtype=dtype), logits.double().requires_grad_()
    value = clid_loss(features.double(), leaf, temperature, sample_weight=weight.double())
    found = clid_gradient(features, logits, None, weight, temperature)
    assert relative_error(found[0].double(), value.detach()) < 1e-5
    assert relative_error(found[1].double(), gradient_of(value, leaf)) < 1e-4


# Meta objectives


def focal(features, logits, targets, sample_weight):
    """An objective of a caller's own, that depends on all it is given."""
    given = logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    return -(sample_weight * (1 - given) ** 2 * given.log()).sum() + features.square().mean()


def clid(features, logits, targets, sample_weight):
    return clid_loss(features, logits, 0.2, sample_weight=sample_weight)


OBJECTIVES = {"clid": clid, "mae": mean_absolute_error, "own": focal}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_make_objective_gives_value_and_gradient_of_every_batch_of_a_stack(name):
    definition = OBJECTIVES[name]
    objective = make_objective(focal if name == "own" else name, 0.2)
    features, logits, targets = torch.randn(3, 10, 5), torch.randn(3, 10, 3), torch.arange(30) % 3
    stack = features, logits, targets.view(3, 10), torch.rand(3, 10) + 0.5
    values, gradients = objective(*stack)
    for i in range(3):
        h, leaf, y, weight = (part[i] for part in stack)
        leaf = leaf.clone().requires_grad_()
        expected = definition(h, leaf, y, weight)
        value, gradient = objective(h, leaf, y, weight)
        assert not value.requires_grad
        for found in (value, values[i]):
            torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)
        by_logits = gradient_of(expected, leaf)
        for found in (gradient, gradients[i]):
            assert relative_error(found, by_logits) < 1e-11


def test_make_objective_clid_does_not_depend_on_targets():
    features, logits = (part.detach() for part in batch())
    targets, weight = torch.arange(10) % 3, torch.rand(10) + 0.5
    objective = make_objective("clid", 0.5)
    value, gradient = objective(features, logits, targets, weight)
    found = objective(features, logits, targets.flip(0), weight)
    assert torch.equal(found[0], value)
    assert torch.equal(found[1], gradient)


def test_make_objective_gives_no_gradient_where_a_callable_ignores_the_logits():
    constant = make_objective(lambda features, *_: torch.ones((), requires_grad=True) * 2, 0.5)
    value, gradient = constant(*(part.detach() for part in batch()), torch.zeros(10), None)
    assert value == 2
    assert torch.equal(gradient, torch.zeros(10, 3))


def test_mean_absolute_error_is_that_to_the_one_hot_labels():
    features, logits = (part.detach() for part in batch())
    targets, weight = torch.arange(10) % 3, torch.rand(10) + 0.5
    odds = np.exp(logits.numpy())
    off = np.abs(odds / odds.sum(axis=1, keepdims=True) - np.eye(3)[targets.numpy()])
    expected = np.average(off.sum(axis=1), weights=weight.numpy())
    found = mean_absolute_error(features, logits, targets, weight)
    assert found.item() == pytest.approx(expected, rel=1e-12)
