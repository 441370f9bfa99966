import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from sklearn_clidmu.clid.weighted import normal_rank
from sklearn_clidmu.training.data import (
    LARGEST_LOSS,
    Labels,
    SampleHistory,
    ShuffledBatches,
    SparseRows,
    Table,
    as_rows,
    hold_out,
    make_training_data,
)

SHAPES = [(1, 1), (2, 1), (2, 2), (64, 64), (65, 64), (65, 3), (129, 64), (1000, 64), (7, 3)]


def numbered(n):
    """Table in which every part of a row tells its number."""
    number = torch.arange(n)
    X = torch.arange(-100.0, n)[:, None]
    return Table(X, number % 3, 10.0 * number, 100 + number)


def passes(batches):
    """The batches of one epoch, pass by pass."""
    flat = list(batches)
    return [flat[i : i + batches.n_batches] for i in range(0, len(flat), batches.n_batches)]


@pytest.mark.parametrize(("n", "batch_size"), SHAPES)
def test_shuffled_batches_differ_in_size_by_at_most_one_and_never_exceed_batch_size(n, batch_size):
    for batches in passes(ShuffledBatches(numbered(n), batch_size)):
        sizes = [len(X) for X, _ in batches]
        assert sum(sizes) == n
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("batch_size", [3, 4, 5, 64])
def test_shuffled_batches_no_batch_has_a_single_row(batch_size):
    # With pairs, the odd row out is alone whatever one does.
    for n in range(2, 200):
        assert all(len(X) > 1 for X, _ in ShuffledBatches(numbered(n), batch_size))


@pytest.mark.parametrize(("n", "batch_size"), SHAPES)
def test_shuffled_batches_every_row_comes_once_per_pass(n, batch_size):
    for batches in passes(ShuffledBatches(numbered(n), batch_size)):
        numbers = torch.cat([X for X, _ in batches]).flatten()
        assert numbers.sort().values.tolist() == list(range(n))


@pytest.mark.parametrize(("n", "batch_size"), SHAPES)
def test_shuffled_batches_an_epoch_takes_as_few_passes_as_give_eight_steps(n, batch_size):
    batches = ShuffledBatches(numbered(n), batch_size)
    n_steps = len(list(batches))
    per_pass = math.ceil(n / batch_size)
    assert n_steps == len(batches)
    assert n_steps >= 8
    assert n_steps == per_pass or n_steps - per_pass < 8


@pytest.mark.parametrize("n", [2, 63, 64])
def test_shuffled_batches_pass_a_table_of_one_batch_whole_and_in_order(n):
    state = torch.get_rng_state()
    for X, labels in ShuffledBatches(numbered(n), 64):
        assert X.flatten().tolist() == list(range(n))
        assert labels.rows.tolist() == list(range(100, 100 + n))
    assert torch.equal(torch.get_rng_state(), state)


def test_shuffled_batches_larger_tables_come_in_another_order_every_pass():
    orders = [torch.cat([X for X, _ in b]) for b in passes(ShuffledBatches(numbered(65), 64))]
    assert len({tuple(order.flatten().tolist()) for order in orders}) == len(orders) == 4


def test_table_keeps_what_belongs_to_a_row_together():
    for X, labels in ShuffledBatches(numbered(50), 8):
        number = X.flatten().long()
        assert torch.equal(labels.rows, 100 + number)
        assert torch.equal(labels.targets, number % 3)
        assert torch.equal(labels.sample_weight, 10.0 * number)


def test_table_len_is_its_number_of_rows():
    assert len(numbered(17)) == 17


# Parts of a table


def random_table(kind, n=150):
    """Rows of which a third is zero, dense or sparse, of a table that is all rows or some."""
    X = np.random.RandomState(0).normal(size=(n, 5)) * (np.arange(5 * n).reshape(n, 5) % 3 > 0)
    rows = SparseRows(csr_array(X), torch.float64, torch.device("cpu"))
    number = None if kind == "all" else torch.arange(n).flip(0)
    return Table(
        rows if kind == "sparse" else torch.from_numpy(X),
        torch.arange(n) % 3,
        0.5 + torch.rand(n),
        number,
    )


KINDS = pytest.mark.parametrize("kind", ["all", "some", "sparse"])


@KINDS
@pytest.mark.parametrize(("n", "batch_size"), [(100, 16), (100, 3), (1, 16), (20, 64)])
def test_table_take_gives_the_batches_of_a_table_of_copied_rows(n, batch_size, kind):
    table, index = random_table(kind), torch.randperm(150)[:n]
    X = torch.cat(list(table.inputs.split(150)))[index]
    part, copied = table.take(index), Table(X, table.targets[index], table.sample_weight[index])
    assert len(part) == n
    assert torch.equal(part.labels.rows, table.labels.rows[index])
    assert torch.equal(torch.cat(list(part.inputs.split(n))), X)
    epochs = []
    for one in (part, copied):
        torch.manual_seed(0)
        epochs.append(list(ShuffledBatches(one, batch_size)))
    for (rows, labels), (expected, theirs) in zip(*epochs, strict=True):
        assert torch.equal(rows, expected)
        assert torch.equal(labels.rows, table.labels.rows[index][theirs.rows])
        assert torch.equal(labels.targets, theirs.targets)
        assert torch.equal(labels.sample_weight, theirs.sample_weight)


@KINDS
def test_table_take_copies_no_rows(kind):
    table = random_table(kind)
    assert table.take(torch.arange(0, 150, 2)).X is table.X


# The history of every row


def labels_of(*rows):
    rows = torch.tensor(rows)
    return Labels(rows, torch.zeros_like(rows), torch.ones(len(rows)))


def new_history(n, **known):
    return SampleHistory(torch.ones(n), 3, torch.zeros(n), **known)


def test_sample_history_mean_loss_is_the_mean_over_a_rows_visits():
    history = new_history(4)
    history.record_losses(labels_of(0, 2), torch.tensor([1.0, 2.0]))
    history.record_losses(labels_of(2, 3), torch.tensor([4.0, 5.0]))
    assert history.mean_loss().tolist() == [1, 0, 3, 5]
    assert history.n_visits.tolist() == [1, 0, 2, 1]


def test_sample_history_influence_is_the_sum_over_a_rows_visits_in_stacks_too():
    history = new_history(3)
    history.record_influence(labels_of(0, 1), torch.tensor([1.0, 2.0]))
    stack = Labels(*(torch.stack([part, part]) for part in labels_of(1, 2)))
    history.record_influence(stack, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert history.influence.tolist() == [1, 6, 6]


def test_sample_history_evidence_has_its_five_columns():
    margin, odds = torch.tensor([0.3, -0.2, 0.9]), torch.tensor([1.0, -2.0, 0.5])
    history = SampleHistory(torch.ones(3), 3, margin, odds)
    history.record_losses(labels_of(0, 1, 2), torch.tensor([1.0, 2.0, 0.5]))
    history.record_losses(labels_of(0, 1, 2), torch.tensor([3.0, 1.0, math.log(3)]))
    history.record_influence(labels_of(0, 1, 2), torch.tensor([0.1, -0.4, 0.2]))
    found, weight = history.evidence(), torch.ones(3)
    torch.testing.assert_close(found[:, 0], torch.tensor([3.0, 1.0, math.log(3)]) / math.log(3))
    torch.testing.assert_close(found[:, 1], normal_rank(history.mean_loss(), weight))
    torch.testing.assert_close(found[:, 2], normal_rank(history.influence, weight))
    torch.testing.assert_close(found[:, 3], normal_rank(-margin, weight))
    torch.testing.assert_close(found[:, 4], odds)


def test_sample_history_records_losses_up_to_a_bound():
    history = new_history(2)
    history.record_losses(labels_of(0, 1), torch.tensor([math.inf, 1.0]))
    assert history.mean_loss().tolist() == [LARGEST_LOSS, 1]


def test_sample_history_state_forgets_what_was_recorded_since():
    history = new_history(2)
    history.record_losses(labels_of(0), torch.tensor([1.0]))
    state = history.state.clone()
    history.record_losses(labels_of(0, 1), torch.tensor([5.0, 7.0]))
    history.record_influence(labels_of(1), torch.tensor([2.0]))
    history.state.copy_(state)
    assert history.mean_loss().tolist() == [1, 0]
    assert history.influence.tolist() == [0, 0]


# Sparse rows


def test_sparse_rows_are_those_of_the_dense_matrix():
    dense = np.where(np.random.RandomState(0).uniform(size=(9, 5)) < 0.5, 1.5, 0)
    rows = SparseRows(csr_array(dense), torch.float32, torch.device("cpu"))
    index, expected = torch.tensor([4, 0, 7]), torch.from_numpy(dense).float()
    assert rows.shape == (9, 5)
    assert torch.equal(rows.index_select(0, index), expected[index])
    kept = rows.take(index)
    assert isinstance(kept, SparseRows)
    assert torch.equal(torch.cat(list(kept.split(2))), expected[index])
    assert [len(part) for part in rows.split(4)] == [4, 4, 1]
    table = Table(rows, torch.arange(9) % 2, torch.ones(9))
    assert torch.equal(table.take(index)[torch.tensor([2])][0], expected[7:8])


# The rows of one fit


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_make_training_data_refuses_values_too_large_for_the_dtype(kind):
    X = np.ones((4, 2))
    X[2, 1] = 1e39
    given = X if kind == "dense" else csr_array(X)
    arguments = np.arange(4) % 2, np.ones(4), np.array([], dtype=int), 2
    make_training_data(given, *arguments, torch.float64, torch.device("cpu"))
    with pytest.raises(ValueError, match="X has values too large for float32: scale"):
        make_training_data(given, *arguments, torch.float32, torch.device("cpu"))


def test_hold_out_is_stratified_among_the_candidates():
    codes = np.repeat([0, 1, 2], [60, 30, 30])
    candidates = np.flatnonzero(np.arange(120) % 2 == 0)
    found = hold_out(codes, candidates, 0.2, seed=0)
    assert found.tolist() == sorted(set(found))
    assert set(found) <= set(candidates)
    assert np.bincount(codes[found]).tolist() == [6, 3, 3]
    assert found.tolist() == hold_out(codes, candidates, 0.2, seed=0).tolist()
    assert found.tolist() != hold_out(codes, candidates, 0.2, seed=1).tolist()


def test_hold_out_takes_a_class_of_one_row_as_it_comes():
    codes = np.array([0] * 19 + [1])
    assert len(hold_out(codes, np.arange(20), 0.1, seed=0)) == 2


def test_hold_out_refuses_to_leave_no_row_to_train_on():
    with pytest.raises(ValueError, match=r"validation_fraction=0\.9 leaves none of the 3 rows"):
        hold_out(np.array([0, 1, 0]), np.arange(3), 0.9, seed=0)


def test_as_rows_takes_read_only_arrays_without_a_copy():
    X = np.arange(6.0).reshape(3, 2)
    X.flags.writeable = False
    found = as_rows(X)
    assert torch.equal(found, torch.arange(6.0, dtype=torch.float64).view(3, 2))
    assert found.data_ptr() == X.ctypes.data
