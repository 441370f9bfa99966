"""Robust scaling against NumPy, and what it makes of unusual columns."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import RobustScaler as SklearnRobustScaler

from sklearn_clidmu._scaling import RobustScaler

rng = np.random.RandomState(0)


def fit(X, weight=None):
    X = torch.as_tensor(X)
    weight = torch.ones(len(X), dtype=torch.float64) if weight is None else torch.as_tensor(weight)
    return RobustScaler.fit(X, weight, torch.Generator().manual_seed(0))


def transform(X, weight=None, rows=None):
    rows = X if rows is None else rows
    return fit(X, weight)(torch.as_tensor(rows)).numpy()


def test_robust_scaler_is_that_of_scikit_learn_clipped_and_standardized():
    X = rng.standard_t(2, size=(41, 3)) * [1, 1e-3, 1e5] + [0, 5, -1e4]
    quantiles = np.percentile(X, [25, 50, 75], axis=0, method="inverted_cdf")
    Z = (X - quantiles[1]) / (quantiles[2] - quantiles[0])
    Z /= np.sqrt(1 + (Z / 3) ** 2)
    np.testing.assert_allclose(transform(X), (Z - Z.mean(axis=0)) / Z.std(axis=0), rtol=1e-9)
    # Of 41 rows the quartiles are rows, and scikit-learn's are the same.
    reference = SklearnRobustScaler().fit(X)
    np.testing.assert_allclose(quantiles[1], reference.center_)
    np.testing.assert_allclose(quantiles[2] - quantiles[0], reference.scale_)


def test_robust_scaler_counts_integer_weights_as_copies():
    X, times = rng.normal(size=(37, 4)), rng.randint(0, 4, 37)
    copies = np.repeat(X, times, axis=0)
    np.testing.assert_allclose(transform(X, times * 0.37), transform(copies, rows=X), rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30, 1e200])
def test_robust_scaler_does_not_depend_on_the_unit_of_a_feature(scale):
    X = rng.normal(size=(50, 2))
    np.testing.assert_allclose(transform(scale * X), transform(X), rtol=1e-6, atol=1e-9)


def test_robust_scaler_makes_missing_values_zero_and_marks_them():
    X = rng.normal(size=(60, 3))
    X[::5, 1] = np.nan
    found = transform(X)
    assert found.shape == (60, 4)
    np.testing.assert_array_equal(found[:, 3], np.isnan(X[:, 1]))
    assert (found[::5, 1] == 0).all()
    known = ~np.isnan(X[:, 1])
    alone = transform(X[known][:, [1]])
    np.testing.assert_allclose(found[known, 1], alone[:, 0], rtol=1e-9)


def test_robust_scaler_takes_a_gap_that_training_did_not_have_for_the_mean():
    X = rng.normal(size=(60, 2))
    found = transform(X, rows=np.array([[np.nan, 0.0]]))
    assert found.shape == (1, 2)
    assert found[0, 0] == 0


@pytest.mark.parametrize("value", [0.0, 3.5, 1e30, np.nan])
def test_robust_scaler_makes_a_constant_or_empty_feature_zero(value):
    X = np.column_stack([rng.normal(size=40), np.full(40, value)])
    found = transform(X)
    assert np.isfinite(found).all()
    assert (found[:, 1] == 0).all()


def test_robust_scaler_makes_a_constant_feature_zero_where_a_value_overflows():
    X = np.column_stack([rng.normal(size=40), np.full(40, 3.5)])
    scaler = fit(X).float()
    rows = torch.tensor([[0.0, 1e39], [0.0, -1e39]], dtype=torch.float64).float()
    assert rows[:, 1].isinf().all()
    assert (scaler(rows)[:, 1] == 0).all()


def test_robust_scaler_standardizes_a_rare_value():
    X = np.zeros((100, 1))
    X[:7] = 8.0
    np.testing.assert_allclose(transform(X), (X - X.mean()) / X.std(), rtol=1e-9)


@pytest.mark.parametrize("outlier", [1e3, 1e6, 1e30])
def test_robust_scaler_keeps_a_feature_of_mostly_equal_entries_whatever_an_outlier(outlier):
    X = np.where(rng.uniform(size=(400, 1)) < 0.15, rng.gamma(3, size=(400, 1)), 0)
    spoiled = X.copy()
    spoiled[0] = outlier
    found = transform(spoiled)[1:, 0]
    assert np.corrcoef(found, X[1:, 0])[0, 1] > 0.95
    assert found.std() > 0.8


def test_robust_scaler_takes_entries_that_differ_by_rounding_for_equal():
    X = np.where(rng.uniform(size=(400, 1)) < 0.1, rng.gamma(3, size=(400, 1)) + 1, 0.3)
    rounded = np.where((X == 0.3) & (rng.uniform(size=X.shape) < 0.4), 0.1 + 0.2, X)
    assert len(np.unique(rounded)) == len(np.unique(X)) + 1
    np.testing.assert_allclose(transform(rounded), transform(X), atol=1e-12)
    single = np.where(rounded == 0.3, np.nextafter(np.float32(0.3), np.float32(1)), X)
    single = single.astype(np.float32)
    np.testing.assert_allclose(transform(single), transform(X), atol=1e-4)


@pytest.mark.parametrize("n_levels", [3, 21])
def test_robust_scaler_keeps_the_levels_of_exact_integers_far_from_zero(n_levels):
    levels = rng.randint(n_levels, size=(60, 1))
    found = transform(1e14 + levels)
    assert np.corrcoef(found[:, 0], levels[:, 0])[0, 1] > 0.95


def test_robust_scaler_bounds_outliers():
    X = rng.normal(size=(100, 1))
    rows = np.array([[1e3], [1e30], [-1e30]])
    found = transform(X, rows=rows)
    assert found[1, 0] == pytest.approx(found[0, 0], rel=1e-4)
    assert np.abs(found).max() < 6
    assert np.sign(found).tolist() == [[1], [1], [-1]]


def test_robust_scaler_finds_features_of_more_than_two_values():
    X = np.column_stack([np.arange(30) % 2, np.arange(30) % 3, np.ones(30), rng.normal(size=30)])
    assert fit(X).continuous.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("offset", "spread", "expected"),
    [
        (2000, 10, False),
        (1.7e9, 1e7, False),
        (1.7e9, 1e4, True),
        (-1e12, 1, True),
        (0.3, 1e-16, False),
    ],
)
def test_robust_scaler_needs_double_precision_for_features_far_from_zero(offset, spread, expected):
    X = offset + spread * rng.uniform(size=(200, 1))
    assert fit(np.hstack([rng.normal(size=(200, 1)), X])).needs_double() == expected


def test_robust_scaler_of_many_rows_is_near_that_of_all():
    X = rng.normal(size=(30_000, 1))
    scaler = fit(X)
    low, middle, high = np.percentile(X, [25, 50, 75])
    assert scaler.center.item() == pytest.approx(middle, abs=0.05)
    assert scaler.scale.item() == pytest.approx(1 / (high - low), rel=0.05)


def test_robust_scaler_multiplies_features_and_marks_by_their_relevance():
    X = rng.normal(size=(30, 2))
    X[::5, 1] = np.nan
    scaler, relevance = fit(X), [0.5, 2.0, 3.0]
    before = scaler(torch.as_tensor(X)).numpy()
    scaler.relevance.copy_(torch.tensor(relevance))
    np.testing.assert_allclose(scaler(torch.as_tensor(X)).numpy(), before * relevance)
