"""What noisy labels promise: how many are wrong, which, and what they become."""

import doctest
import re

import numpy as np
import pandas as pd
import pytest

from sklearn_clidmu import datasets
from sklearn_clidmu.datasets import make_label_noise

N = 12_000
y = np.arange(N) % 4
X = np.random.RandomState(0).normal(size=(N, 5))
TRANSITIONS = np.array(
    [[0.7, 0.1, 0.2, 0.0], [0.0, 1.0, 0.0, 0.0], [0.3, 0.3, 0.0, 0.4], [0.25, 0.25, 0.25, 0.25]]
)
NAMES = np.array(["ant", "bee", "cat", "dove"])

# Every kind, with what it needs for four classes.
KINDS = {
    "symmetric": {},
    "pairflip": {},
    "asymmetric": {"transition_matrix": TRANSITIONS},
    "instance": {"X": X},
}


def noisy(kind, labels=y, seed=0, **params):
    return make_label_noise(labels, kind=kind, random_state=seed, **{**KINDS[kind], **params})


def counts(true, given):
    """Rows of every true class (row) by the label they were given (column)."""
    table = np.zeros((4, 4), dtype=int)
    np.add.at(table, (true, given), 1)
    return table


def assert_close_shares(found, expected, n_rows):
    """Up to five standard deviations of a share among `n_rows`, so exactly where it is 0 or 1."""
    expected = np.asarray(expected)
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / n_rows)).all()


# How many


@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
@pytest.mark.parametrize(
    ("n_samples", "rate", "n_flipped"),
    [
        (100, 0.0, 0),
        (100, 0.4, 40),
        (100, 0.29, 29),  # 0.29 * 100 is a little less in floating point
        (7, 0.4, 3),
        (9, 0.4, 4),
        (5, 0.5, 2),  # halves go to the even number
        (7, 0.5, 4),
        (10, 0.99, 10),
        (10, 0.04, 0),
    ],
)
def test_the_rate_is_met_to_the_row(kind, n_samples, rate, n_flipped):
    for seed in range(5):
        labels, flipped = noisy(kind, y[:n_samples], seed, rate=rate)
        assert flipped.sum() == (labels != y[:n_samples]).sum() == n_flipped


@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
def test_every_row_is_as_likely_to_be_flipped(kind):
    times = sum(noisy(kind, y[:20], seed, rate=0.3)[1] for seed in range(1000))
    assert_close_shares(times / 1000, np.full(20, 0.3), 1000)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_of_the_rows_whose_label_changed(kind):
    labels, flipped = noisy(kind)
    assert flipped.dtype == bool
    assert flipped.any()
    np.testing.assert_array_equal(flipped, labels != y)


@pytest.mark.parametrize("kind", ["symmetric", "pairflip", "instance"])
def test_without_rate_no_label_changes(kind):
    labels, flipped = noisy(kind, rate=0)
    np.testing.assert_array_equal(labels, y)
    assert not flipped.any()


# What they become


@pytest.mark.parametrize(
    ("classes", "following"),
    [
        (["cow", "ant", "bee"], {"ant": "bee", "bee": "cow", "cow": "ant"}),
        ([7, -3, 100, 8], {-3: 7, 7: 8, 8: 100, 100: -3}),
        ([True, False], {False: True, True: False}),
    ],
)
def test_pairflip_gives_the_next_class_in_sorted_order(classes, following):
    true = np.array(classes * 10)
    labels, flipped = make_label_noise(true, kind="pairflip", rate=0.9, random_state=0)
    for before, after in zip(true[flipped], labels[flipped], strict=True):
        assert after == following[before.item()]
    assert set(true[flipped]) == set(classes)


def test_symmetric_noise_spreads_evenly_over_the_other_classes():
    labels, flipped = noisy("symmetric")
    table = counts(y[flipped], labels[flipped])
    sizes = table.sum(axis=1, keepdims=True)
    assert_close_shares(sizes.ravel() / 3000, np.full(4, 0.4), 3000)
    assert_close_shares(table / sizes, (1 - np.eye(4)) / 3, sizes)


def test_asymmetric_noise_follows_the_matrix_whatever_the_rate():
    labels, _ = noisy("asymmetric")
    assert_close_shares(counts(y, labels) / 3000, TRANSITIONS, 3000)
    np.testing.assert_array_equal(noisy("asymmetric", rate=0.9)[0], labels)


def test_the_matrix_goes_by_the_classes_in_sorted_order():
    # bee -> ant, cat -> bee, ant -> cat, and dove stays.
    matrix = np.eye(4)[[2, 0, 1, 3]]
    labels, _ = make_label_noise(
        ["dove", "cat", "bee", "ant", "cat"], kind="asymmetric", transition_matrix=matrix.tolist()
    )
    assert labels.tolist() == ["dove", "bee", "ant", "cat", "bee"]


def test_the_identity_changes_no_label():
    assert not noisy("asymmetric", transition_matrix=np.eye(4))[1].any()


def test_what_has_no_probability_is_not_drawn_even_at_the_edge():
    class Lowest(np.random.RandomState):
        def uniform(self, size):
            return np.zeros(size)

    assert not noisy("asymmetric", seed=Lowest(), transition_matrix=np.eye(4))[1].any()


# By the features


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_instance_noise_meets_the_rate_in_expectation(rate, n_classes):
    true = y % n_classes
    labels, flipped = noisy("instance", true, rate=rate)
    assert_close_shares(flipped.mean(), rate, N)
    for label in range(n_classes):
        assert_close_shares(flipped[true == label].mean(), rate, N / n_classes)
    assert set(labels) == set(range(n_classes))


def test_strong_features_and_the_label_decide_which_label_is_wrong():
    side = np.where(np.arange(N) // 4 % 2, 1, -1)
    labels, flipped = noisy("instance", X=1000.0 * side[:, None])
    for label in range(4):
        # Opposite features turn a linear map's order round: another class comes first.
        wrong = [set(labels[flipped & (y == label) & (side == sign)]) for sign in (-1, 1)]
        assert [len(found) for found in wrong] == [1, 1]
        assert wrong[0] != wrong[1]


def test_every_true_class_has_a_map_of_its_own():
    labels, flipped = noisy("instance", X=np.full((N, 1), 1000.0))
    # One map for all would give its first class, and that one's rows its second.
    assert len(set(labels[flipped])) > 2


def test_weak_features_lean_to_one_wrong_label():
    labels, flipped = noisy("instance", X=np.ones((N, 5)))
    table = counts(y[flipped], labels[flipped])
    assert (table.max(axis=1) > 0.5 * table.sum(axis=1)).all()
    assert not table.diagonal().any()


def test_without_features_to_go_by_instance_noise_is_symmetric():
    labels, _ = noisy("instance", X=np.zeros((N, 5)))
    assert_close_shares(counts(y, labels) / 3000, 0.6 * np.eye(4) + 0.4 / 3 * (1 - np.eye(4)), 3000)


@pytest.mark.parametrize("kind", ["symmetric", "pairflip", "asymmetric"])
def test_other_noise_does_not_look_at_the_features(kind):
    np.testing.assert_array_equal(noisy(kind, X=X)[0], noisy(kind)[0])


# Labels of any type


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (NAMES[y], NAMES.dtype),
        (NAMES[y].astype(object), object),
        (NAMES[y].tolist(), NAMES.dtype),
        (pd.Series(NAMES[y], dtype=object, index=np.arange(N)[::-1]), object),
        (pd.Series(NAMES[y], dtype="category"), object),
        (pd.Series(3 * y - 5), y.dtype),
        ((3 * y - 5).astype(np.int8), np.int8),
        (y / 2, np.float64),
    ],
)
def test_labels_of_any_type_are_flipped_alike_and_keep_it(kind, given, dtype):
    labels, flipped = noisy(kind, given)
    plain, plain_flipped = noisy(kind)
    assert isinstance(labels, np.ndarray)
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, np.unique(np.asarray(given))[plain])
    np.testing.assert_array_equal(flipped, plain_flipped)


def test_booleans_stay_booleans():
    labels, flipped = make_label_noise(y % 2 == 0, rate=0.25, random_state=0)
    assert labels.dtype == bool
    np.testing.assert_array_equal(labels, (y % 2 == 0) ^ flipped)


@pytest.mark.parametrize("kind", KINDS)
def test_the_arguments_are_left_as_they_are_and_may_be_read_only(kind):
    params = {"labels": y, **KINDS[kind]}
    given = {name: value.copy() for name, value in params.items()}
    for value in given.values():
        value.flags.writeable = False
    labels, _ = noisy(kind, **given)
    for name, value in given.items():
        np.testing.assert_array_equal(value, params[name])
    labels[:] = 0  # the result is the caller's own


# Random state


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_noise_again_and_another_seed_other_noise(kind):
    first, _ = noisy(kind, seed=1)
    np.testing.assert_array_equal(first, noisy(kind, seed=1)[0])
    np.testing.assert_array_equal(first, noisy(kind, seed=np.random.RandomState(1))[0])
    assert (first != noisy(kind, seed=2)[0]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_state_instance_moves_on(kind):
    rng = np.random.RandomState(1)
    assert (noisy(kind, seed=rng)[0] != noisy(kind, seed=rng)[0]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 0])
def test_the_global_generator_is_neither_moved_nor_used(kind, seed):
    before = np.random.get_state()  # noqa: NPY002
    first, _ = noisy(kind, seed=seed)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    assert (first != noisy(kind, seed=seed)[0]).any() == (seed is None)


# What cannot be done


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "uniform"}, "kind must be one of"),
        ({"kind": None}, "kind must be one of"),
        ({"rate": -0.1}, "rate must lie in [0, 1), got -0.1"),
        ({"rate": 1}, "rate must lie in [0, 1), got 1"),
        ({"rate": np.nan}, "rate must lie in [0, 1), got nan"),
        ({"y": np.ones(N)}, "y must have at least two classes to flip between, got 1"),
        ({"y": []}, "y must have at least two classes to flip between, got 0"),
        ({"y": np.column_stack([y, y])}, "y should be a 1d array"),
        ({"kind": "instance"}, "pass X"),
        ({"kind": "instance", "X": X[1:]}, "inconsistent numbers of samples: [11999, 12000]"),
        ({"kind": "instance", "X": X[:, 0]}, "Expected 2D array"),
        ({"kind": "instance", "X": np.where(X > 3, np.nan, X)}, "Input X contains NaN"),
        ({"kind": "instance", "X": np.where(X > 3, np.inf, X)}, "Input X contains infinity"),
        ({"kind": "asymmetric"}, "transition_matrix and kind='asymmetric' go together"),
        ({"transition_matrix": TRANSITIONS}, "transition_matrix and kind='asymmetric' go together"),
        ({"random_state": "a"}, "cannot be used to seed"),
    ],
)
def test_what_cannot_be_done_is_refused(params, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_label_noise(**{"y": y, **params})


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "transition_matrix must have shape (4, 4)"),
        (np.eye(5), "transition_matrix must have shape (4, 4)"),
        (np.eye(4)[:3], "transition_matrix must have shape (4, 4)"),
        (np.ones(4) / 4, "Expected 2D array"),
        (2 * np.eye(4) - np.eye(4)[[1, 2, 3, 0]], "row of transition_matrix must be >= 0"),
        (0.9 * np.eye(4), "row of transition_matrix must be >= 0 and add up to 1"),
        # Columns that add up to one are not rows that do.
        (np.eye(4)[[0, 0, 2, 3]].T, "row of transition_matrix must be >= 0 and add up to 1"),
        (np.where(np.eye(4), np.nan, 0), "Input transition_matrix contains NaN"),
    ],
)
def test_a_matrix_of_no_transitions_is_refused(matrix, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        noisy("asymmetric", transition_matrix=matrix)


def test_the_example_is_true():
    results = doctest.testmod(datasets)
    assert results.attempted > 0
    assert results.failed == 0
