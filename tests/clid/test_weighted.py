import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from sklearn_clidmu.clid.weighted import (
    class_sums,
    normal_rank,
    standard_deviation,
)


def test_normal_rank_is_the_normal_quantile_among_the_values_repeated_by_weight():
    values, times = torch.randn(20), torch.randint(1, 5, (20,))
    repeated = values.repeat_interleave(times).numpy()
    expected = norm.cdf((values.numpy() - repeated.mean()) / repeated.std())
    np.testing.assert_allclose(normal_rank(values, times.double()).numpy(), expected, rtol=1e-12)
    found = standard_deviation(values, times.double()).item()
    assert found == pytest.approx(repeated.std(), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, math.log(3), 1 / 3, 1234.567])
@pytest.mark.parametrize("n_rows", [1, 3, 7, 100])
def test_normal_rank_of_equal_values_is_one_half(n_rows, value, dtype):
    values = torch.full((n_rows,), value, dtype=dtype)
    for weight in (torch.ones(n_rows, dtype=dtype), torch.rand(n_rows, dtype=dtype) + 0.5):
        torch.testing.assert_close(normal_rank(values, weight), torch.full_like(values, 0.5))


def test_normal_rank_does_not_depend_on_the_unit():
    values, weight = torch.randn(20), torch.rand(20) + 0.5
    torch.testing.assert_close(normal_rank(3 * values + 5, weight), normal_rank(values, weight))


def test_normal_rank_does_not_see_values_of_weight_zero():
    values, weight = torch.randn(50), torch.rand(50) + 0.5
    weight[::4] = 0
    found = normal_rank(values, weight)
    values[::4] = 100 * torch.randn(13)
    assert torch.equal(normal_rank(values, weight)[weight > 0], found[weight > 0])


@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 1e-30), (torch.float64, 1e-170)])
def test_normal_rank_of_values_whose_squares_vanish_is_one_half(dtype, step):
    values = step * torch.arange(5, dtype=dtype)
    assert values.diff().min() > 0
    found = normal_rank(values, torch.ones(5, dtype=dtype))
    torch.testing.assert_close(found, torch.full_like(values, 0.5))


def test_class_sums_are_numpys_weighted_counts():
    values, targets = torch.randn(40), torch.randint(3, (40,))
    expected = np.bincount(targets.numpy(), weights=values.numpy(), minlength=5)
    np.testing.assert_allclose(class_sums(values, targets, 5).numpy(), expected, atol=1e-12)
