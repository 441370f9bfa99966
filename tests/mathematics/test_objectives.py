import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch.nn import functional as F

from sklearn_clidmu.mathematics.clid import clid_loss
from sklearn_clidmu.mathematics.objectives import (
    CLID,
    cross_entropy,
    mean_absolute_error,
    meta_gradient,
    small_loss,
)

from .helpers import N_FEATURES, mlp, relative_error

N_ROWS, N_CLASSES = 30, 4


def batch():
    features, logits = torch.randn(N_ROWS, 5), torch.randn(N_ROWS, N_CLASSES)
    return features, logits, torch.randint(N_CLASSES, (N_ROWS,))


def bimodal(n_low=120, n_high=60):
    losses = torch.cat([0.2 + 0.05 * torch.randn(n_low), 2 + 0.2 * torch.randn(n_high)])
    return losses[torch.randperm(len(losses))]


def test_clid_objective_never_looks_at_the_targets():
    features, logits, targets = batch()
    weight = torch.rand(N_ROWS) + 0.5
    objective = CLID(temperature=0.2)
    expected = clid_loss(features, logits, 0.2, sample_weight=256 * weight / weight.sum())
    for labels in (targets, targets.flip(0)):
        torch.testing.assert_close(objective(features, logits, labels, weight), expected)


def test_clid_objective_and_its_gradient_do_not_depend_on_the_scale_of_the_weights():
    features, logits, targets = batch()
    weight = torch.rand(N_ROWS) + 0.5
    values = []
    for scale in (1, 1e-6, 1e6):
        leaf = logits.clone().requires_grad_()
        value = CLID(0.5)(features, leaf, targets, scale * weight)
        gradient = torch.autograd.grad(value, leaf)[0]
        values.append(torch.cat([value.detach()[None], gradient.flatten()]))
        closed = CLID(0.5).gradient(features, logits, targets, scale * weight)
        closed = torch.cat([closed[0][None], closed[1].flatten()])
        torch.testing.assert_close(closed, values[-1], rtol=1e-11, atol=1e-16)
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


def normalised_clid(features, logits, targets, sample_weight):
    """The CLID objective as its definition has it."""
    weight = 256 * sample_weight / sample_weight.sum()
    return clid_loss(features, logits, 0.2, sample_weight=weight)


def focal(features, logits, targets, sample_weight):
    """An objective of a caller's own, that depends on all it is given."""
    given = logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    return -(sample_weight * (1 - given) ** 2 * given.log()).sum() + features.square().mean()


OBJECTIVES = {
    "CLID": (CLID(0.2), normalised_clid),
    "mean absolute error": (mean_absolute_error, mean_absolute_error),
    "cross entropy": (cross_entropy, cross_entropy),
    "of one's own": (focal, focal),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_meta_gradient_by_the_logits_is_that_of_autograd(name):
    objective, definition = OBJECTIVES[name]
    features, logits, targets = batch()
    weight, leaf = torch.rand(N_ROWS) + 0.5, logits.requires_grad_()
    expected = definition(features, leaf, targets, weight)
    value, (found,) = meta_gradient(objective, targets, weight, features, leaf, [leaf])
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=0)
    assert relative_error(found, torch.autograd.grad(expected, leaf)[0]) < 1e-11


@pytest.mark.parametrize("name", OBJECTIVES)
def test_meta_gradient_by_parameters_upstream_is_that_of_autograd(name):
    objective, definition = OBJECTIVES[name]
    network, X = mlp(), torch.randn(N_ROWS, N_FEATURES)
    targets, weight = torch.randint(3, (N_ROWS,)), torch.rand(N_ROWS) + 0.5
    parameters = [*network.parameters(), torch.randn(2, requires_grad=True)]
    logits, features = network(X)
    value, found = meta_gradient(objective, targets, weight, features, logits, parameters)
    assert torch.equal(found[-1], torch.zeros(2))  # nothing depends on it
    logits, features = network(X)
    expected = definition(features, logits, targets, weight)
    gradients = torch.autograd.grad(expected, parameters[:-1])
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=0)
    for here, there in zip(found[:-1], gradients, strict=True):
        assert relative_error(here, there) < 1e-10


def test_mean_absolute_error_is_that_to_the_one_hot_labels():
    features, logits, targets = batch()
    weight = torch.rand(N_ROWS) + 0.5
    odds = np.exp(logits.numpy())
    off = np.abs(odds / odds.sum(axis=1, keepdims=True) - np.eye(N_CLASSES)[targets.numpy()])
    expected = np.average(off.sum(axis=1), weights=weight.numpy())
    found = mean_absolute_error(features, logits, targets, weight)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_is_torchs_under_unit_weights():
    features, logits, targets = batch()
    found = cross_entropy(features, logits, targets, torch.ones(N_ROWS))
    torch.testing.assert_close(found, F.cross_entropy(logits, targets))


def test_cross_entropy_of_no_row_is_zero():
    assert cross_entropy(*batch(), torch.zeros(N_ROWS)).item() == 0


@pytest.mark.parametrize("objective", [CLID(0.5), mean_absolute_error, cross_entropy])
def test_integer_weights_equal_repeated_rows(objective):
    columns = batch()
    times = torch.randint(1, 4, (N_ROWS,))
    copies = [column.repeat_interleave(times, dim=0) for column in columns]
    weighted = objective(*columns, times.double())
    repeated = objective(*copies, torch.ones(len(copies[0])))
    torch.testing.assert_close(weighted, repeated)


@pytest.mark.parametrize("seed", range(3))
def test_small_losses_are_those_of_the_lower_gaussian_of_a_mixture(seed):
    torch.manual_seed(seed)
    losses = bimodal()
    column = losses.numpy()[:, None]
    mixture = GaussianMixture(2, random_state=0).fit(column)
    expected = mixture.predict(column) == mixture.means_.argmin()
    found = small_loss(losses, torch.ones(len(losses)))
    assert found.dtype == torch.bool
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("n_high", [30, 300])
def test_small_losses_settle_where_the_mixture_does(n_high):
    losses = torch.cat([torch.randn(300), 4 + torch.randn(n_high)])
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).numpy()[:, None]
    settled = {"tol": 1e-8, "max_iter": 1000, "reg_covar": 1e-4}
    mixture = GaussianMixture(2, means_init=[[0.0], [1.0]], **settled).fit(scaled)
    expected = mixture.predict(scaled) == 0
    found = small_loss(losses, torch.ones(len(losses)), n_iter=500)
    assert found.tolist() == expected.tolist()


def test_small_losses_are_at_first_those_below_the_middle():
    losses = torch.linspace(3, 5, 20)
    assert torch.equal(small_loss(losses, torch.ones(20), n_iter=1), losses < 4)


@pytest.mark.parametrize("n_iter", [2, 3, 6])
def test_every_step_of_small_losses_is_one_of_scikit_learns_mixture(n_iter):
    losses = torch.cat([torch.randn(3000), 3 + 0.5 * torch.randn(2000)])
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).numpy()[:, None]
    mixture = GaussianMixture(
        2,
        max_iter=n_iter - 1,  # it ends with responsibilities under what it has learned
        tol=0,
        reg_covar=1e-4,
        weights_init=[0.5, 0.5],
        means_init=[[0.0], [1.0]],
        precisions_init=[[[10.0]], [[10.0]]],
    )
    with pytest.warns(ConvergenceWarning):
        expected = mixture.fit_predict(scaled) == 0
    found = small_loss(losses, torch.ones(len(losses)), n_iter=n_iter)
    assert 0 < expected.sum() < len(losses)
    assert found.tolist() == expected.tolist()


def test_losses_that_are_all_alike_are_all_small():
    assert small_loss(torch.full((9,), 0.7), torch.ones(9)).all()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 5.0), (1e-3, 0.0), (1e3, 0.0)])
def test_small_losses_do_not_depend_on_the_unit(scale, shift):
    losses = bimodal()
    weight = torch.ones(len(losses))
    assert torch.equal(small_loss(scale * losses + shift, weight), small_loss(losses, weight))


def test_weights_of_small_losses_equal_repeated_rows():
    # The modes overlap, so that the weights decide on which side a row falls.
    losses = torch.cat([torch.randn(40), 2.5 + torch.randn(40)])
    times = torch.randint(1, 10, (80,)) * torch.tensor([1, 5]).repeat_interleave(40)
    weighted = small_loss(losses, times.double())
    repeated = small_loss(losses.repeat_interleave(times), torch.ones(int(times.sum())))
    assert torch.equal(weighted.repeat_interleave(times), repeated)
    assert not torch.equal(weighted, small_loss(losses, torch.ones(80)))
