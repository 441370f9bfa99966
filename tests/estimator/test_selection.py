"""Scorers that choose a model when no label can be relied on."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from sklearn_clidmu import CLIDMUClassifier, clid_loss, clid_score
from sklearn_clidmu.estimator.selection import CLID_ROWS, WORST_CLID_SCORE

from .data import SMALL, make_rows

X, y, _ = make_rows(60, n_classes=3)
NAMES = np.array(["ant", "bee", "cat"])


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "max_epochs": 10, "lr": 0.2, **params})


@pytest.fixture(scope="module")
def fitted():
    return small().fit(X, y)


def direct_clid(clf, rows, temperature=0.5):
    logits, features = clf.net_.evaluate(torch.as_tensor(rows))
    value = clid_loss(features.double(), logits.double(), temperature)
    return float(value) - np.log(len(rows))


class Answers(nn.Module):
    """A network whose every output is set by the test, through the last layer's bias."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.body = nn.Linear(n_features, 5)
        self.head = nn.Linear(5, n_classes)

    def forward(self, rows):
        return self.head(self.body(rows).relu())


def with_head(weight, bias):
    """A fitted classifier whose last layer was overwritten."""
    clf = small(module=Answers, ema_decay=None, max_epochs=2).fit(X, y)
    with torch.no_grad():
        head = [layer for layer in clf.net_.module_.modules() if isinstance(layer, nn.Linear)][-1]
        head.weight.mul_(weight)
        head.bias.copy_(torch.as_tensor(bias))
    return clf


# CLID


def test_clid_score_is_the_negative_of_clid_less_log_n(fitted):
    assert clid_score(fitted, X) == pytest.approx(-direct_clid(fitted, X), abs=1e-6)
    assert clid_score(fitted, X) > 0


def test_clid_score_reads_no_label(fitted):
    assert clid_score(fitted, X, y) == clid_score(fitted, X, y[::-1]) == clid_score(fitted, X)


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_clid_score_is_measured_at_one_temperature_whatever_the_candidates_own(temperature):
    clf = small(temperature=temperature).fit(X, y)
    assert clid_score(clf, X) == pytest.approx(-direct_clid(clf, X), abs=1e-6)


def test_clid_score_of_a_pipeline_is_that_of_its_last_step_on_transformed_rows():
    pipe = make_pipeline(StandardScaler(), FunctionTransformer(np.tanh), small()).fit(9 * X, y)
    rows = np.tanh(StandardScaler().fit_transform(9 * X))
    assert clid_score(pipe, 9 * X) == clid_score(pipe[-1], rows)
    nested = make_pipeline(StandardScaler(), make_pipeline(FunctionTransformer(np.tanh), small()))
    assert clid_score(nested.fit(9 * X, y), 9 * X) == clid_score(pipe, 9 * X)
    alone = make_pipeline(small()).fit(X, y)
    assert clid_score(alone, X) == clid_score(alone[-1], X)


def test_clid_score_does_not_depend_on_the_order_of_up_to_as_many_rows_as_it_takes(fitted):
    rows, _, _ = make_rows(CLID_ROWS, n_classes=3, seed=1)
    assert clid_score(fitted, rows[::-1]) == pytest.approx(clid_score(fitted, rows), abs=1e-6)


def test_clid_score_of_more_rows_takes_a_fixed_part_of_them(fitted):
    rows, _, _ = make_rows(3 * CLID_ROWS, n_classes=3, seed=1)
    drawn = np.random.RandomState(0).choice(len(rows), CLID_ROWS, replace=False)
    assert clid_score(fitted, rows) == pytest.approx(-direct_clid(fitted, rows[drawn]), abs=1e-6)
    state = np.random.get_state()[1].copy()
    assert clid_score(fitted, rows) == clid_score(fitted, rows)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_clid_scores_of_folds_of_different_size_are_comparable(fitted):
    rows, _, _ = make_rows(1500, n_classes=3, seed=1)
    whole = clid_score(fitted, rows)
    assert clid_score(fitted, rows[:150]) == pytest.approx(whole, abs=0.05)
    assert abs(direct_clid(fitted, rows) - np.log(10) - direct_clid(fitted, rows[:150])) > 2


def test_a_network_that_predicts_one_class_alone_scores_worst():
    clf = with_head(0.01, [0.0, 5.0, 0.0])
    assert len(set(clf.predict(X))) == 1
    assert clid_score(clf, X) == WORST_CLID_SCORE == -2


def test_a_network_whose_output_is_not_finite_scores_worst():
    assert clid_score(with_head(1.0, [0.0, np.nan, 0.0]), X) == WORST_CLID_SCORE
    assert clid_score(with_head(1.0, [0.0, np.inf, 0.0]), X) == WORST_CLID_SCORE


def test_a_network_that_collapsed_or_diverged_in_training_scores_worst(fitted):
    collapsed = pickle.loads(pickle.dumps(fitted))
    collapsed.collapse_epoch_ = 2
    assert clid_score(collapsed, X) == WORST_CLID_SCORE
    diverged = pickle.loads(pickle.dumps(fitted))
    diverged.net_.diverged_ = True
    assert clid_score(diverged, X) == WORST_CLID_SCORE


def test_no_clid_score_is_below_the_worst():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(30, 3, dtype=torch.float64, generator=generator)
        logits = 50 * torch.randn(30, 3, dtype=torch.float64, generator=generator)
        assert np.log(30) - float(clid_loss(features, logits, 0.5)) > WORST_CLID_SCORE


def test_one_row_has_a_clid_score(fitted):
    assert clid_score(fitted, X[:1]) == pytest.approx(0, abs=1e-6)
