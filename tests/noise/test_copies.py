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


def test_find_copies_sets_rows_apart_whose_equals_have_other_labels():
    codes = np.array([0, 1, 2, 1, 1, -1, 0])
    found = find_copies(ROWS, codes, ALL, 0)
    np.testing.assert_array_equal(found, [0, 1, 2, 1, 4, 5, 6])  # no label is no other one
    found = find_copies(ROWS, codes, ALL, None)
    np.testing.assert_array_equal(found, [0, 1, 2, 1, 4, 5, 0])


def test_find_copies_prefers_rows_that_are_trained_on():
    trained = np.array([False, False, True, True, True, True, True])
    found = find_copies(ROWS, np.zeros(7, dtype=int), trained, 0)
    np.testing.assert_array_equal(found, [2, 3, 2, 3, 4, 3, 2])


def test_find_copies_reads_sparse_rows_and_those_of_any_shape():
    rows = np.random.RandomState(0).binomial(1, 0.3, size=(40, 4)).astype(float)
    codes = np.arange(40) % 2
    expected = find_copies(rows, codes, np.ones(40, dtype=bool), None)
    assert len(np.unique(expected)) < 30
    for same in (csr_array(rows), rows.reshape(40, 2, 2), np.asfortranarray(rows)):
        found = find_copies(same, codes, np.ones(40, dtype=bool), None)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("n_levels", "n_features", "copies"), [(4, 4, False), (4, 20, True)])
def test_find_copies_finds_none_among_rows_that_are_equal_by_chance(n_levels, n_features, copies):
    rows = np.random.RandomState(0).randint(n_levels, size=(400, n_features)).astype(float)
    rows[200:] = rows[:200]
    found = find_copies(rows, np.zeros(400, dtype=int), np.ones(400, dtype=bool), 0)
    expected = np.arange(400) % 200 if copies else np.arange(400)
    np.testing.assert_array_equal(found, expected)
