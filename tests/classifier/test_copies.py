"""Noise among rows that repeat others."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.datasets import load_wine
from sklearn.metrics import roc_auc_score

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.datasets import make_label_noise

X, y = load_wine(return_X_y=True)
NOISY, WRONG = make_label_noise(y, rate=0.2, random_state=1)


def check(clf, wrong, rate):
    assert abs(clf.noise_rate_ - rate) < 0.08
    assert roc_auc_score(wrong, clf.noise_scores_) > 0.95


@pytest.mark.parametrize("rows", [np.tile(np.arange(178), 2), np.arange(178).repeat(3)])
def test_wrong_labels_are_found_that_are_copied_with_their_rows(rows):
    clf = CLIDMUClassifier(random_state=0).fit(X[rows], NOISY[rows])
    check(clf, WRONG[rows], WRONG.mean())
    assert clf.score(X, y) > 0.9


def test_wrong_labels_are_found_in_wide_sparse_rows_and_their_copies():
    wide = np.repeat(X / X.max(axis=0), 20, axis=1)
    clf = CLIDMUClassifier(random_state=0)
    clf.fit(csr_array(np.tile(wide, (2, 1))), np.tile(NOISY, 2))
    assert roc_auc_score(np.tile(WRONG, 2), clf.noise_scores_) > 0.9


def test_right_labels_of_rows_that_are_equal_by_chance_are_right():
    flags = np.random.RandomState(0).randint(2, size=(400, 3))
    clf = CLIDMUClassifier(random_state=0).fit(flags, flags.sum(axis=1) % 2)
    assert clf.noise_rate_ < 0.02


def test_labels_given_one_by_one_to_equal_rows_confirm_each_other():
    cells = np.arange(600) % 8
    table = (cells[:, None] >> np.arange(3)) & 1  # all combinations of three flags
    right = table.sum(axis=1) % 2
    noisy, wrong = make_label_noise(right, rate=0.2, random_state=0)
    clf = CLIDMUClassifier(random_state=0).fit(table, noisy)
    check(clf, wrong, 0.2)
    assert clf.score(table, right) == 1


def test_two_distinct_rows_are_enough_to_fit():
    table = np.arange(200)[:, None] % 2
    clf = CLIDMUClassifier(random_state=0).fit(table, table[:, 0])
    assert clf.score(table, table[:, 0]) == 1
