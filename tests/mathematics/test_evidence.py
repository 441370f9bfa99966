import math

import numpy as np
import pytest
import torch
from scipy.special import logit
from scipy.stats import norm

from sklearn_clidmu.mathematics.evidence import (
    DOUBT_BOUNDS,
    agreement,
    class_sums,
    distrust,
    rival_margin,
    standard_deviation,
    standing,
)

# Standing


def test_standing_is_the_normal_quantile_among_the_values_repeated_by_weight():
    values, times = torch.randn(20), torch.randint(1, 5, (20,))
    repeated = values.repeat_interleave(times).numpy()
    expected = norm.cdf((values.numpy() - repeated.mean()) / repeated.std())
    np.testing.assert_allclose(standing(values, times.double()).numpy(), expected, rtol=1e-12)
    found = standard_deviation(values, times.double()).item()
    assert found == pytest.approx(repeated.std(), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, math.log(3), 1 / 3, 1234.567])
@pytest.mark.parametrize("n_rows", [1, 3, 7, 100])
def test_standing_of_equal_values_is_one_half(n_rows, value, dtype):
    values = torch.full((n_rows,), value, dtype=dtype)
    for weight in (torch.ones(n_rows, dtype=dtype), torch.rand(n_rows, dtype=dtype) + 0.5):
        torch.testing.assert_close(standing(values, weight), torch.full_like(values, 0.5))


def test_standing_does_not_depend_on_the_unit():
    values, weight = torch.randn(20), torch.rand(20) + 0.5
    torch.testing.assert_close(standing(3 * values + 5, weight), standing(values, weight))


def test_values_of_no_weight_change_no_other_standing_by_a_bit():
    values, weight = torch.randn(50), torch.rand(50) + 0.5
    weight[::4] = 0
    found = standing(values, weight)
    values[::4] = 100 * torch.randn(13)
    assert torch.equal(standing(values, weight)[weight > 0], found[weight > 0])


@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 1e-30), (torch.float64, 1e-170)])
def test_values_too_close_for_their_squares_to_be_told_from_zero_stand_alike(dtype, step):
    values = step * torch.arange(5, dtype=dtype)
    assert values.diff().min() > 0
    found = standing(values, torch.ones(5, dtype=dtype))
    torch.testing.assert_close(found, torch.full_like(values, 0.5))


# Distrust


def test_distrust_is_the_logarithm_of_the_odds_that_a_label_is_wrong(dtype):
    trust = torch.tensor([0.001, 0.25, 0.5, 0.75, 0.999], dtype=dtype)
    found = distrust(trust)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.numpy(), -logit(trust.numpy()), rtol=1e-5, atol=1e-7)
    assert found[1:4].tolist() == pytest.approx([math.log(3), 0, -math.log(3)])
    assert (found.diff() < 0).all()


def test_no_trust_counts_for_more_than_the_bounds_of_doubt(dtype):
    lowest, highest = DOUBT_BOUNDS
    found = distrust(torch.tensor([0, lowest / 2, 1 - (1 - highest) / 2, 1], dtype=dtype))
    expected = [math.log((1 - bound) / bound) for bound in (lowest, lowest, highest, highest)]
    assert found.tolist() == pytest.approx(expected, rel=1e-3)
    assert found[0] == found[1]
    assert found[2] == found[3]


# Agreement, class by class


def test_class_sums_are_numpys_weighted_counts():
    values, targets = torch.randn(40), torch.randint(3, (40,))
    expected = np.bincount(targets.numpy(), weights=values.numpy(), minlength=5)
    np.testing.assert_allclose(class_sums(values, targets, 5).numpy(), expected, atol=1e-12)


def test_agreement_is_the_correlation_among_the_rows_of_each_class_repeated_by_weight(dtype):
    first, targets, times = torch.randn(60), torch.randint(3, (60,)), torch.randint(0, 4, (60,))
    second = 5 + 0.1 * torch.randn(60) + first * (targets - 1)
    found = agreement(first.to(dtype), second.to(dtype), targets, 3, times.to(dtype))
    assert found.dtype == dtype
    rows = np.arange(60).repeat(times)
    expected = [np.corrcoef(first[mine], second[mine])[0, 1] for mine in split(rows, targets)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def split(rows, targets):
    return [rows[targets.numpy()[rows] == c] for c in range(3)]


def test_agreement_does_not_depend_on_the_units():
    first, second, targets = torch.randn(60), torch.randn(60), torch.randint(3, (60,))
    weight = torch.rand(60)
    expected = agreement(first, second, targets, 3, weight)
    scaled = agreement(1e-3 * first + 7, 20 * second - 1, targets, 3, 9 * weight)
    torch.testing.assert_close(scaled, expected)


@pytest.mark.parametrize("empty", ["no rows", "weight zero"])
def test_classes_without_rows_agree_in_nothing(empty):
    first, targets, weight = torch.randn(30), torch.arange(30) % 3, torch.rand(30) + 0.5
    if empty == "no rows":
        targets = targets % 2
    else:
        weight[targets == 2] = 0
    found = agreement(first, first, targets, 3, weight)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 0.999, 1.0])
@pytest.mark.parametrize("n_rows", [1, 3, 7, 100])
def test_rows_all_alike_agree_in_nothing(n_rows, value, dtype):
    alike, targets = torch.full((n_rows,), value, dtype=dtype), torch.zeros(n_rows).long()
    weight = torch.rand(n_rows, dtype=dtype) + 0.5
    for other in (torch.randn(n_rows, dtype=dtype), 0.7 * alike - 0.3):
        found = agreement(alike, other, targets, 1, weight)
        assert found.abs() < 1e-3


# Lead of a rival


def test_rival_margin_is_how_far_the_best_other_class_leads():
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.3, -0.2, 0.9], [0.4, 0.4, 0.2]])
    found = rival_margin(shares, torch.tensor([0, 2, 1, 0]))
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.6, 1.1, 0.0]))


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
