import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from sklearn_clidmu.mathematics.evidence import rival_margin, standard_deviation, standing

# Standing


def test_standing_is_the_normal_quantile_among_the_values_repeated_by_weight():
    values, times = torch.randn(20), torch.randint(1, 5, (20,))
    repeated = values.repeat_interleave(times).numpy()
    expected = norm.cdf((values.numpy() - repeated.mean()) / repeated.std())
    np.testing.assert_allclose(standing(values, times.double()).numpy(), expected, rtol=1e-12)
    found = standard_deviation(values, times.double()).item()
    assert found == pytest.approx(repeated.std(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, math.log(3), 1 / 3, 1234.567])
@pytest.mark.parametrize("n_rows", [1, 3, 7, 100])
def test_standing_of_equal_values_is_one_half(n_rows, value, dtype):
    values = torch.full((n_rows,), value, dtype=dtype)
    for weight in (torch.ones(n_rows, dtype=dtype), torch.rand(n_rows, dtype=dtype) + 0.5):
        torch.testing.assert_close(standing(values, weight), torch.full_like(values, 0.5))


def test_standing_does_not_depend_on_the_unit():
    values, weight = torch.randn(20), torch.rand(20) + 0.5
    torch.testing.assert_close(standing(3 * values + 5, weight), standing(values, weight))


# Lead of a rival


def test_rival_margin_is_how_far_the_best_other_class_leads():
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.3, -0.2, 0.9], [0.4, 0.4, 0.2]])
    found = rival_margin(shares, torch.tensor([0, 2, 1, 0]))
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.6, 1.1, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_classes", [2, 3, 50])
def test_rival_margin_is_that_of_numpys_maximum_over_the_other_classes(n_classes, dtype):
    shares, targets = torch.randn(40, n_classes, dtype=dtype), torch.randint(n_classes, (40,))
    given = np.arange(n_classes) == targets.numpy()[:, None]
    rivals = np.ma.masked_array(shares.numpy(), given).max(axis=1).filled()
    found = rival_margin(shares, targets)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), rivals - shares.numpy()[given])


def test_rival_margin_is_negative_where_the_given_class_leads():
    shares, targets = torch.randn(40, 3), torch.randint(3, (40,))
    assert torch.equal(rival_margin(shares, targets) < 0, shares.argmax(dim=1) == targets)


def test_rival_margin_leaves_the_shares_as_they_were():
    shares = torch.randn(40, 3)
    before = shares.clone()
    rival_margin(shares, torch.randint(3, (40,)))
    assert torch.equal(shares, before)
