import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.neighbors import NearestNeighbors

from sklearn_clidmu.mathematics.evidence import (
    neighbour_disagreement,
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


# Disagreement of the neighbours


def table(n_rows, n_columns=4, n_classes=3):
    return torch.randn(n_rows, n_columns), torch.randint(n_classes, (n_rows,))


def brute_force(X, targets, n_neighbours):
    """Share of other labels among the nearest rows, the row itself included."""
    search = NearestNeighbors(n_neighbors=n_neighbours, algorithm="brute").fit(X.numpy())
    nearest = targets.numpy()[search.kneighbors(X.numpy(), return_distance=False)]
    return (nearest != targets.numpy()[:, None]).mean(axis=1)


@pytest.mark.parametrize(
    ("n_rows", "share", "n_neighbours"), [(60, 0.1, 6), (60, 0.25, 15), (61, 0.1, 7), (9, 1.0, 9)]
)
def test_disagreement_is_that_of_the_nearest_share_of_rows(n_rows, share, n_neighbours):
    X, targets = table(n_rows)
    found = neighbour_disagreement(X, targets, torch.ones(n_rows), share=share)
    np.testing.assert_allclose(found.numpy(), brute_force(X, targets, n_neighbours), rtol=1e-12)


def test_disagreement_looks_at_no_more_rows_than_candidates():
    X, targets = table(60)
    found = neighbour_disagreement(X, targets, torch.ones(60), share=0.5, n_candidates=8)
    np.testing.assert_allclose(found.numpy(), brute_force(X, targets, 8), rtol=1e-12)


def test_disagreement_of_many_rows_is_computed_in_pieces():
    X, targets = table(1500)
    found = neighbour_disagreement(X, targets, torch.ones(1500), share=0.01)
    np.testing.assert_allclose(found.numpy(), brute_force(X, targets, 15), rtol=1e-12)


def test_disagreement_flattens_the_rows():
    X, targets = table(30, n_columns=12)
    weight = torch.ones(30)
    flat = neighbour_disagreement(X, targets, weight, share=0.2)
    folded = neighbour_disagreement(X.reshape(30, 3, 4), targets, weight, share=0.2)
    assert torch.equal(flat, folded)


@pytest.mark.parametrize("seed", range(3))
def test_integer_weights_equal_repeated_rows(seed):
    torch.manual_seed(seed)
    X, targets = table(40)
    times = torch.randint(1, 4, (40,))
    weighted = neighbour_disagreement(X, targets, times.double(), share=0.1)
    copies = X.repeat_interleave(times, dim=0), targets.repeat_interleave(times)
    repeated = neighbour_disagreement(*copies, torch.ones(int(times.sum())), share=0.1)
    torch.testing.assert_close(weighted.repeat_interleave(times), repeated)


def test_ties_count_whatever_the_order_of_the_rows():
    X, targets = torch.randint(3, (60, 2)).double() / 7, torch.randint(3, (60,))
    order, weight = torch.randperm(60), torch.rand(60) + 0.5
    found = neighbour_disagreement(X, targets, weight, share=0.1)
    shuffled = neighbour_disagreement(X[order], targets[order], weight[order], share=0.1)
    torch.testing.assert_close(shuffled, found[order])


def test_rows_at_the_same_distance_but_for_rounding_are_ties():
    sphere = torch.nn.functional.normalize(torch.randn(40, 20), dim=1)
    X = 3 + torch.cat([torch.zeros(1, 20), sphere])
    targets = torch.tensor([0, *[0, 1, 1, 1] * 10])
    found = neighbour_disagreement(X, targets, torch.ones(41), share=5 / 41)
    assert found[0].item() == pytest.approx(30 / 41)


def test_bank_smaller_than_the_table_gives_shares():
    X, targets = table(50)
    found = neighbour_disagreement(X, targets, torch.rand(50) + 0.5, share=0.1, bank_size=20)
    assert found.shape == (50,)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.unique().numel() > 2


def test_separate_groups_with_one_label_each_do_not_disagree_but_with_a_wrong_label():
    centre = torch.tensor([[0.0, 0.0], [50.0, 50.0]]).repeat_interleave(20, dim=0)
    targets = torch.arange(2).repeat_interleave(20)
    targets[3] = 1
    X = centre + torch.randn(40, 2)
    found = neighbour_disagreement(X, targets, torch.ones(40), share=0.5)
    assert found[3].item() == pytest.approx(19 / 20)
    assert found[20:].tolist() == [0] * 20
