"""Rows that repeat others."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from sklearn_clidmu.noise.copies import find_copies

NAN = float("nan")
ROWS = np.array([[1.0, NAN], [0, 2], [1, NAN], [-0.0, 2], [1, 2], [0, 2], [1, NAN]])
ROWS = np.tile(ROWS, 20)  # too many features to be equal by chance
ALL = np.ones(len(ROWS), dtype=bool)


@pytest.mark.parametrize("seed", [None, 0])
def test_find_copies_gives_the_first_row_of_the_same_entries_and_label(seed):
    codes = np.array([0, 1, 0, 1, 1, 1, 0])
    found = find_copies(ROWS, codes, ALL, seed)
    np.testing.assert_array_equal(found, [0, 1, 0, 1, 4, 1, 0])


def test_find_copies_finds_none_in_tables_that_were_labeled_one_by_one():
    rows = np.tile(np.random.RandomState(0).normal(size=(100, 3)), (3, 1))
    right = np.arange(300) % 2
    annotated = np.where(np.random.RandomState(1).uniform(size=300) < 0.2, 1 - right, right)
    trained = np.ones(300, dtype=bool)
    np.testing.assert_array_equal(find_copies(rows, annotated, trained, 0), np.arange(300))
    np.testing.assert_array_equal(find_copies(rows, right, trained, 0), np.arange(300) % 100)
    few = np.where(np.arange(300) < 5, 1 - right, right)  # have labels of their own by chance
    expected = np.where(np.arange(300) < 5, np.arange(300), np.arange(300) % 100)
    expected[100:105], expected[200:205] = np.arange(100, 105), np.arange(100, 105)
    np.testing.assert_array_equal(find_copies(rows, few, trained, 0), expected)
    trained[200:] = False  # what is not trained on does not decide
    annotated[:200] = right[:200]
    assert (find_copies(rows, annotated, trained, 0)[100:200] == np.arange(100)).all()


def test_find_copies_prefers_rows_that_are_trained_on():
    trained = np.array([False, False, True, True, True, True, True])
    found = find_copies(ROWS, np.zeros(7, dtype=int), trained, 0)
    np.testing.assert_array_equal(found, [2, 3, 2, 3, 4, 3, 2])


def test_find_copies_reads_sparse_rows_and_those_of_any_shape():
    rows = np.random.RandomState(0).binomial(1, 0.3, size=(40, 4)).astype(float)
    codes = np.arange(40) % 2
    expected = find_copies(rows, codes, np.ones(40, dtype=bool), None)
    assert len(np.unique(expected)) < 30
    zeros = csr_array(rows + 2)
    zeros.data -= 2  # stored zeros
    for same in (csr_array(rows), zeros, rows.reshape(40, 2, 2), np.asfortranarray(rows)):
        found = find_copies(same, codes, np.ones(40, dtype=bool), None)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("n_levels", "n_features", "copies"), [(4, 4, False), (4, 20, True)])
def test_find_copies_finds_none_among_rows_that_are_equal_by_chance(n_levels, n_features, copies):
    rows = np.random.RandomState(0).randint(n_levels, size=(400, n_features)).astype(float)
    rows[200:] = rows[:200]
    found = find_copies(rows, np.zeros(400, dtype=int), np.ones(400, dtype=bool), 0)
    expected = np.arange(400) % 200 if copies else np.arange(400)
    np.testing.assert_array_equal(found, expected)
