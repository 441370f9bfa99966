"""Label noise: how many labels are wrong, which ones, and what they become."""

import doctest
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.metrics import confusion_matrix

from sklearn_clidmu import datasets
from sklearn_clidmu.datasets import make_label_noise

N = 12_000
y = np.arange(N) % 4
X = np.random.RandomState(0).normal(size=(N, 5))
TRANSITIONS = np.array(
    [[0.7, 0.1, 0.2, 0.0], [0.0, 1.0, 0.0, 0.0], [0.3, 0.3, 0.0, 0.4], [0.25, 0.25, 0.25, 0.25]]
)
NAMES = np.array(["ant", "bee", "cat", "dove"])

# Every kind, with its arguments for four classes.
KINDS = {
    "symmetric": {},
    "pairflip": {},
    "asymmetric": {"transition_matrix": TRANSITIONS},
    "instance": {"X": X},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def noisy(kind, labels=y, seed=0, **params):
    return make_label_noise(labels, kind=kind, random_state=seed, **{**KINDS[kind], **params})


def assert_close_shares(found, expected, n_rows):
    """Up to five standard deviations of a share among ``n_rows``; exact where it is 0 or 1."""
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
        (5, 0.5, 2),  # halves are rounded to even numbers
        (7, 0.5, 4),
        (10, 0.99, 10),
        (10, 0.04, 0),
    ],
)
def test_make_label_noise_meets_the_rate_exactly(kind, n_samples, rate, n_flipped):
    for seed in range(5):
        labels, flipped = noisy(kind, y[:n_samples], seed, rate=rate)
        assert flipped.sum() == (labels != y[:n_samples]).sum() == n_flipped


@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
def test_make_label_noise_flips_every_row_with_the_same_probability(kind):
    times = sum(noisy(kind, y[:20], seed, rate=0.3)[1] for seed in range(1000))
    assert_close_shares(times / 1000, np.full(20, 0.3), 1000)


@every_kind
def test_make_label_noise_masks_the_rows_whose_label_changed(kind):
    labels, flipped = noisy(kind)
    assert flipped.dtype == bool
    assert flipped.any()
    np.testing.assert_array_equal(flipped, labels != y)
    none = {"transition_matrix": np.eye(4)} if kind == "asymmetric" else {"rate": 0}
    labels, flipped = noisy(kind, **none)
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
def test_pairflip_noise_gives_the_next_class_in_sorted_order(classes, following):
    true = np.array(classes * 10)
    labels, flipped = make_label_noise(true, kind="pairflip", rate=0.9, random_state=0)
    for before, after in zip(true[flipped], labels[flipped], strict=True):
        assert after == following[before.item()]
    assert set(true[flipped]) == set(classes)
    assert labels.dtype == true.dtype


def test_symmetric_noise_is_uniform_over_the_other_classes():
    labels, flipped = noisy("symmetric")
    table = confusion_matrix(y[flipped], labels[flipped])
    sizes = table.sum(axis=1, keepdims=True)
    assert_close_shares(sizes.ravel() / 3000, np.full(4, 0.4), 3000)
    assert_close_shares(table / sizes, (1 - np.eye(4)) / 3, sizes)


def test_asymmetric_noise_follows_the_matrix_at_any_rate():
    labels, _ = noisy("asymmetric")
    assert_close_shares(confusion_matrix(y, labels) / 3000, TRANSITIONS, 3000)
    for rate in (0.9, 5):
        np.testing.assert_array_equal(noisy("asymmetric", rate=rate)[0], labels)
    # In sorted order of the classes: bee -> ant, cat -> bee, ant -> cat, and dove stays.
    matrix = np.eye(4)[[2, 0, 1, 3]].tolist()
    named = ["dove", "cat", "bee", "ant", "cat"]
    labels, _ = make_label_noise(named, kind="asymmetric", transition_matrix=matrix)
    assert labels.tolist() == ["dove", "bee", "ant", "cat", "bee"]


def test_asymmetric_noise_never_draws_a_class_of_probability_zero():
    class Lowest(np.random.RandomState):
        def uniform(self, size):
            return np.zeros(size)

    assert not noisy("asymmetric", seed=Lowest(), transition_matrix=np.eye(4))[1].any()


# By the features


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_instance_noise_has_the_expected_rate_in_every_class(rate, n_classes):
    true = y % n_classes
    labels, flipped = noisy("instance", true, rate=rate)
    assert_close_shares(flipped.mean(), rate, N)
    for label in range(n_classes):
        assert_close_shares(flipped[true == label].mean(), rate, N / n_classes)
    assert set(labels) == set(range(n_classes))


def test_instance_noise_refuses_features_that_overflow():
    with pytest.raises(ValueError, match="X has values too large for kind='instance'"):
        noisy("instance", X=np.full((N, 2), 1.7e308))


def test_instance_noise_depends_on_features_and_true_class():
    side = np.where(np.arange(N) // 4 % 2, 1, -1)
    labels, flipped = noisy("instance", X=1000.0 * side[:, None])
    for label in range(4):
        # The linear map of opposite features has its maximum at another class.
        wrong = [set(labels[flipped & (y == label) & (side == sign)]) for sign in (-1, 1)]
        assert [len(found) for found in wrong] == [1, 1]
        assert wrong[0] != wrong[1]
    labels, flipped = noisy("instance", X=np.full((N, 1), 1000.0))
    # A map that all classes shared would give two classes at most.
    assert len(set(labels[flipped])) > 2


def test_instance_noise_of_zero_features_is_symmetric():
    labels, _ = noisy("instance", X=np.zeros((N, 5)))
    expected = 0.6 * np.eye(4) + 0.4 / 3 * (1 - np.eye(4))
    assert_close_shares(confusion_matrix(y, labels) / 3000, expected, 3000)


# Labels of any type


@every_kind
@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (NAMES[y], NAMES.dtype),
        (NAMES[y].astype(object), object),
        (NAMES[y].tolist(), NAMES.dtype),
        (pd.Series(NAMES[y], dtype=object, index=np.arange(N)[::-1]), object),
        (pd.Series(NAMES[y], dtype="category"), object),
        (pd.Series(3 * y - 5), y.dtype),
        (pd.Series(3 * y - 5, dtype="Int64"), y.dtype),
        ((3 * y - 5).astype(np.int8), np.int8),
        (y / 2, np.float64),
    ],
)
def test_make_label_noise_keeps_the_type_of_labels(kind, given, dtype):
    labels, flipped = noisy(kind, given)
    codes, same = noisy(kind)
    assert isinstance(labels, np.ndarray)
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, np.unique(np.asarray(given))[codes])
    np.testing.assert_array_equal(flipped, same)


@every_kind
def test_make_label_noise_accepts_read_only_arrays_and_does_not_change_them(kind):
    params = {"labels": y, **KINDS[kind]}
    given = {name: value.copy() for name, value in params.items()}
    for value in given.values():
        value.flags.writeable = False
    labels, _ = noisy(kind, **given)
    for name, value in given.items():
        np.testing.assert_array_equal(value, params[name])
    labels[:] = 0  # not a view


# Random state


@every_kind
def test_make_label_noise_depends_on_the_random_state_alone(kind):
    first, _ = noisy(kind, seed=1)
    np.testing.assert_array_equal(first, noisy(kind, seed=1)[0])
    rng = np.random.RandomState(1)
    np.testing.assert_array_equal(first, noisy(kind, seed=rng)[0])
    assert (first != noisy(kind, seed=rng)[0]).any()  # the instance advances
    assert (first != noisy(kind, seed=2)[0]).any()


@every_kind
@pytest.mark.parametrize("seed", [None, 0])
def test_make_label_noise_does_not_use_the_global_generator(kind, seed):
    before = np.random.get_state()  # noqa: NPY002
    first, _ = noisy(kind, seed=seed)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    assert (first != noisy(kind, seed=seed)[0]).any() == (seed is None)


# Invalid arguments


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "uniform"}, "kind must be one of"),
        ({"kind": None}, "kind must be one of"),
        *(
            ({"rate": rate}, f"rate must lie in [0, 1), got {rate!r}")
            for rate in (-0.1, 1, np.nan, "a", None, [0.1, 0.2], np.array([0.1]))
        ),
        ({"y": np.ones(N)}, "y must have at least two classes to flip between, got 1"),
        ({"y": []}, "y must have at least two classes to flip between, got 0"),
        ({"y": np.column_stack([y, y])}, "y should be a 1d array"),
        ({"y": [0, 1, np.nan]}, "y must have a label for every row, got nan or None"),
        ({"y": np.array(["a", None], object)}, "y must have a label for every row"),
        ({"kind": "instance"}, "pass X"),
        ({"kind": "instance", "X": X[1:]}, "inconsistent numbers of samples: [11999, 12000]"),
        ({"kind": "instance", "X": X[:, 0]}, "Expected 2D array"),
        ({"kind": "instance", "X": np.where(X > 3, np.nan, X)}, "Input X contains NaN"),
        ({"kind": "instance", "X": np.where(X > 3, np.inf, X)}, "Input X contains infinity"),
        ({"kind": "asymmetric"}, "transition_matrix must be passed with kind='asymmetric'"),
        ({"transition_matrix": TRANSITIONS}, "transition_matrix must be passed with kind='asymm"),
        ({"random_state": "a"}, "cannot be used to seed"),
    ],
)
def test_make_label_noise_names_the_invalid_argument(params, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_label_noise(**{"y": y, **params})


@pytest.mark.parametrize("labels", [["a", 1], np.array(["a", 1], object)], ids=["list", "array"])
def test_make_label_noise_refuses_labels_of_several_types(labels):
    with pytest.raises(TypeError, match="labels of one type, got int and str"):
        make_label_noise(labels)


def test_make_label_noise_reads_a_transition_matrix_of_any_library():
    expected = noisy("asymmetric", transition_matrix=TRANSITIONS)
    frame = pd.DataFrame(TRANSITIONS, index=range(4), columns=range(4))
    tensor = torch.tensor(TRANSITIONS, requires_grad=True)
    for matrix in (frame, frame.rename(index=str, columns=str), pl.DataFrame(TRANSITIONS), tensor):
        actual = noisy("asymmetric", transition_matrix=matrix)
        np.testing.assert_array_equal(actual, expected)
    for unsorted in (frame[::-1], frame[[1, 0, 2, 3]]):
        with pytest.raises(ValueError, match=r"in sorted order, \[0, .*got (index|columns)"):
            noisy("asymmetric", transition_matrix=unsorted)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "transition_matrix must have shape (4, 4)"),
        (np.eye(4)[:3], "transition_matrix must have shape (4, 4)"),
        (np.ones(4) / 4, "Expected 2D array"),
        (2 * np.eye(4) - np.eye(4)[[1, 2, 3, 0]], "row of transition_matrix must be >= 0"),
        (0.9 * np.eye(4), "row of transition_matrix must be >= 0 and add up to 1"),
        # Here the columns add up to one, but not the rows.
        (np.eye(4)[[0, 0, 2, 3]].T, "row of transition_matrix must be >= 0 and add up to 1"),
        (np.where(np.eye(4), np.nan, 0), "Input transition_matrix contains NaN"),
    ],
)
def test_make_label_noise_refuses_an_invalid_transition_matrix(matrix, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        noisy("asymmetric", transition_matrix=matrix)


def test_datasets_examples_are_true():
    results = doctest.testmod(datasets)
    assert results.attempted > 0
    assert results.failed == 0
