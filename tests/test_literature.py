"""The losses of the published methods in benchmarks/literature_methods.py equal their formulas."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu._random import local_generators

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "literature_methods.py"
PROBA = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
TARGETS = torch.tensor([0, 1])
GIVEN = np.array([0.7, 0.25])


@pytest.fixture(scope="module")
def methods():
    spec = importlib.util.spec_from_file_location("literature_methods", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def logits():
    return torch.from_numpy(np.log(PROBA))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("control", -np.log(GIVEN)),
        ("label-smoothing", -0.9 * np.log(GIVEN) - 0.1 * np.log(PROBA).mean(axis=1)),
        ("gce", (1 - GIVEN**0.7) / 0.7),
        ("sce", -0.1 * np.log(GIVEN) + 4 * (1 - GIVEN)),
    ],
)
def test_loss_equals_its_formula(methods, logits, name, expected):
    np.testing.assert_allclose(methods.LOSSES[name](logits, TARGETS), expected)


def test_forward_correction_predicts_given_labels(methods, logits):
    matrix = np.array([[0.8, 0.2, 0.0], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])
    losses = methods.forward_cross_entropy(logits, TARGETS, torch.from_numpy(matrix))
    np.testing.assert_allclose(losses, -np.log([0.7 * 0.8 + 0.2 * 0.1, 0.25 * 0.2 + 0.25 * 0.6]))


def test_elr_adds_the_agreement_with_the_moving_average(methods, logits):
    memory = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    losses = methods.early_learning_loss(logits, TARGETS, memory)
    moved = 0.7 / 3 + 0.3 * PROBA
    expected = -np.log(GIVEN) + 3 * np.log(1 - (PROBA * moved).sum(axis=1))
    np.testing.assert_allclose(memory, moved)
    np.testing.assert_allclose(losses, expected)


def test_sharpening_squares_probabilities(methods):
    expected = PROBA**2 / (PROBA**2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(methods.sharpen(torch.from_numpy(PROBA)), expected)


def test_rows_of_small_loss_are_clean(methods):
    losses = torch.cat([torch.linspace(0, 0.2, 60), torch.linspace(2, 2.4, 40)])
    clean = methods.clean_probability(losses) > 0.5
    assert clean.tolist() == [True] * 60 + [False] * 40


def test_control_is_the_classifier_without_weighting(methods):
    X, y = make_blobs(300, n_features=4, centers=3, cluster_std=4.0, random_state=0)
    expected = CLIDMUClassifier(weighting=None, random_state=0).fit(X, y)
    with local_generators(0, methods.CPU):
        problem = methods.make_problem(X, y, y, seed=0)
        control = methods.METHODS["control"](problem)
    assert problem.settings.weight_decay == expected.weight_decay_
    proba = control.proba(torch.from_numpy(X))
    np.testing.assert_allclose(proba, expected.predict_proba(X), atol=1e-6)
