import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch.nn import functional as F

from sklearn_clidmu.mathematics.clid import clid_loss
from sklearn_clidmu.mathematics.objectives import (
    CLID,
    cross_entropy,
    mean_absolute_error,
    small_loss,
)

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
        values.append(torch.cat([value[None], torch.autograd.grad(value, leaf)[0].flatten()]))
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


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
