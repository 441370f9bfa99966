import math

import pytest
import torch

from sklearn_clidmu.training.batches import MIN_STEPS, ShuffledBatches, Table

IDLE = [0.02, 0.3, 0.5, 0.98, 1]
SHAPES = [(1, 1), (2, 1), (2, 2), (64, 64), (65, 64), (65, 3), (129, 64), (1000, 64), (7, 3)]


def numbered(n):
    """Table in which every part of a row tells its number."""
    number = torch.arange(n)
    return Table(number[:, None] * 1.0, number % 3, 10.0 * number, 100 + number)


def passes(batches):
    """The batches of one epoch, pass by pass."""
    flat = list(batches)
    return [flat[i : i + batches.n_batches] for i in range(0, len(flat), batches.n_batches)]


@pytest.mark.parametrize(("n", "batch_size"), SHAPES)
def test_sizes_differ_by_at_most_one_and_never_exceed_batch_size(n, batch_size):
    for batches in passes(ShuffledBatches(numbered(n), batch_size)):
        sizes = [len(X) for X, _ in batches]
        assert sum(sizes) == n
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("batch_size", [3, 4, 5, 64])
def test_no_batch_has_a_single_row(batch_size):
    # With pairs, the odd row out is alone whatever one does.
    for n in range(2, 200):
        assert all(len(X) > 1 for X, _ in ShuffledBatches(numbered(n), batch_size))


@pytest.mark.parametrize(("n", "batch_size"), SHAPES)
def test_every_row_comes_once_per_pass(n, batch_size):
    for batches in passes(ShuffledBatches(numbered(n), batch_size)):
        numbers = torch.cat([X for X, _ in batches]).flatten()
        assert numbers.sort().values.tolist() == list(range(n))


@pytest.mark.parametrize(("n", "batch_size"), SHAPES)
def test_an_epoch_takes_as_few_passes_as_give_min_steps(n, batch_size):
    batches = ShuffledBatches(numbered(n), batch_size)
    n_steps = len(list(batches))
    per_pass = math.ceil(n / batch_size)
    assert n_steps == len(batches)
    assert n_steps >= MIN_STEPS
    assert n_steps == per_pass or n_steps - per_pass < MIN_STEPS


@pytest.mark.parametrize("n", [2, 63, 64])
def test_a_table_that_fits_in_one_batch_comes_whole_in_order_and_without_randomness(n):
    state = torch.get_rng_state()
    for X, labels in ShuffledBatches(numbered(n), 64):
        assert X.flatten().tolist() == list(range(n))
        assert labels.rows.tolist() == list(range(100, 100 + n))
    assert torch.equal(torch.get_rng_state(), state)


def test_larger_tables_come_in_another_order_every_pass():
    orders = [torch.cat([X for X, _ in b]) for b in passes(ShuffledBatches(numbered(65), 64))]
    assert len({tuple(order.flatten().tolist()) for order in orders}) == len(orders) == 5


@pytest.mark.parametrize("share", IDLE)
@pytest.mark.parametrize(("n", "batch_size"), SHAPES)
def test_idle_rows_come_last_and_every_batch_has_the_same_share_of_them(n, batch_size, share):
    table = numbered(n)
    table.idle = torch.rand(n) < share
    batches = ShuffledBatches(table, batch_size)
    sizes = [len(X) for X, _ in batches]
    idle = [table.idle[X.flatten().long()].int().tolist() for X, _ in batches]
    if batches.n_batches > 1:  # one batch keeps its order
        assert all(batch == sorted(batch) for batch in idle)
    assert max(map(sum, idle)) - min(map(sum, idle)) <= 1
    table.idle = None
    assert sizes == [len(X) for X, _ in batches]  # in that order: batches of one size join


@pytest.mark.parametrize("share", IDLE)
def test_with_idle_rows_every_row_comes_once_per_pass_in_another_order_each_time(share):
    table = numbered(65)
    table.idle = torch.rand(65) < share
    orders = [
        torch.cat([X for X, _ in batches]).flatten().tolist()
        for batches in passes(ShuffledBatches(table, 32))
    ]
    assert all(sorted(order) == list(range(65)) for order in orders)
    assert len(set(map(tuple, orders))) == len(orders) == 4


def test_what_belongs_to_a_row_stays_together():
    for X, labels in ShuffledBatches(numbered(50), 8):
        number = X.flatten().long()
        assert torch.equal(labels.rows, 100 + number)
        assert torch.equal(labels.targets, number % 3)
        assert torch.equal(labels.sample_weight, 10.0 * number)


def test_len_of_a_table_is_its_number_of_rows():
    assert len(numbered(17)) == 17
