"""Criteria for model selection on held-out rows with noisy labels; higher is better.

LOO stands for the leave-one-out kernel regression on the held-out rows; LOO agreement is the mean
over rows of the sum over classes of its probability times that of the classifier.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import log_softmax

from sklearn_clidmu import clid_loss
from sklearn_clidmu.metrics import ASSUMED_ROWS
from sklearn_clidmu.noise.loo_kernel_ridge import loo_proba
from sklearn_clidmu.noise.transition_matrix import estimate_transition_matrix

N_ITERATIONS = 100
"""Of expectation maximization."""

ORACLE, HELD_OUT_ORACLE = "test accuracy (oracle)", "clean held-out accuracy (oracle)"


class Held(NamedTuple):
    """Held-out rows of one fold, with the predictions of the kernel regression."""

    X: np.ndarray
    y: np.ndarray
    y_clean: np.ndarray
    n_classes: int
    loo_proba: np.ndarray
    transition_matrix: np.ndarray


def hold_out(X: np.ndarray, y: np.ndarray, y_clean: np.ndarray, n_classes: int) -> Held:
    """Predict each held-out label from the other held-out rows, by kernel regression."""
    weight, targets = torch.ones(len(y), dtype=torch.float64), torch.from_numpy(y)
    generator = torch.Generator().manual_seed(0)
    proba = loo_proba(torch.from_numpy(X), targets, n_classes, weight, generator)
    matrix = estimate_transition_matrix(proba, targets, weight)
    return Held(X, y, y_clean, n_classes, proba.numpy(), matrix.numpy())


def clid(run: dict[str, Any], temperature: float) -> float:
    """Return log n - CLID."""
    features, logits = (torch.from_numpy(run[key]).double() for key in ("features", "logits"))
    return np.log(len(logits)) - float(clid_loss(features, logits, temperature))


def behind_matrix(p: np.ndarray, held: Held) -> float:
    """Log likelihood behind a transition matrix that is fitted to the same rows.

    It is fitted by expectation maximization, as in Dawid and Skene (Applied Statistics 1979).
    """
    counts = prior = ASSUMED_ROWS * (np.eye(held.n_classes) + 1 / held.n_classes)
    for _ in range(N_ITERATIONS):
        matrix = counts / counts.sum(axis=1, keepdims=True)
        joint = p * matrix.T[held.y]
        counts = prior.T.copy()
        np.add.at(counts, held.y, joint / joint.sum(axis=1, keepdims=True))
        counts = counts.T
    return float(np.log(joint.sum(axis=1)).mean())


def mutual_information(p: np.ndarray, Y: np.ndarray) -> float:
    """Mutual information of predictions and labels, in nats."""
    joint = p.T @ Y / len(Y)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / independent[some])).sum())


def log_determinant(p: np.ndarray, Y: np.ndarray) -> float:
    """Determinant-based mutual information (Xu et al., NeurIPS 2019), as a logarithm."""
    return float(np.linalg.slogdet((p.T @ Y + 0.1) / len(Y))[1])


def neighbor_proportions(Z: np.ndarray, Y: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Proportion of each label among the nearest other rows."""
    square = np.square(Z).sum(axis=1)
    distance = square[:, None] + square - 2 * Z @ Z.T
    np.fill_diagonal(distance, np.inf)
    return Y[np.argpartition(distance, n_neighbors, axis=1)[:, :n_neighbors]].mean(axis=1)


def criteria(run: dict[str, Any], held: Held) -> dict[str, float]:
    """Compute every criterion of one fit."""
    rows, y, eye = np.arange(len(held.y)), held.y, np.eye(held.n_classes)
    logits = np.full((len(y), held.n_classes), -30.0)
    logits[:, run["classes"]] = run["logits"]
    log_p = log_softmax(logits, axis=1)
    p, predicted, Y = np.exp(log_p), logits.argmax(axis=1), eye[y]
    hard, hit, bounded = eye[predicted], predicted == y, log_p.clip(-10)
    present = np.unique(y)
    values = {
        ORACLE: run["accuracy"],
        HELD_OUT_ORACLE: np.mean(predicted == held.y_clean),
        "CLID": clid(run, 0.5),
        "CLID, temperature 0.1": clid(run, 0.1),
        "CLID, temperature 0.25": clid(run, 0.25),
        "CLID, temperature 1": clid(run, 1.0),
        "CLID on training rows": -run["clid_in_training"],
        "CLID, collapsed last": -2 if run["collapsed"] else clid(run, 0.5),
        "disagreement in training, low": -run["disagreement"],
        "entropy of predictions, low": (p * log_p).sum(axis=1).mean(),
        "entropy of predictions, high": -(p * log_p).sum(axis=1).mean(),
    }
    loo_p = held.loo_proba.clip(0)
    loo_p = loo_p / loo_p.sum(axis=1, keepdims=True)
    loo_predicted = held.loo_proba.argmax(axis=1)
    loo_of_predicted = held.loo_proba[rows, predicted].mean()
    inverse = np.linalg.pinv(held.transition_matrix)
    values |= {
        "accuracy": hit.mean(),
        "balanced accuracy": np.mean([hit[y == k].mean() for k in present]),
        "accuracy, balanced by prediction": np.mean(
            [hit[predicted == k].mean() for k in np.unique(predicted)]
        ),
        "log loss": log_p[rows, y].mean(),
        "balanced log loss": np.mean([log_p[y == k, k].mean() for k in present]),
        "Brier score": -np.square(p - Y).sum(axis=1).mean(),
        "mean probability of the label": p[rows, y].mean(),
        "peer accuracy": hit.mean() - Y.mean(axis=0) @ hard.mean(axis=0),
        "peer probability": p[rows, y].mean() - Y.mean(axis=0) @ p.mean(axis=0),
        "mutual information, predictions": mutual_information(hard, Y),
        "mutual information, probabilities": mutual_information(p, Y),
        "determinant, predictions": log_determinant(hard, Y),
        "determinant, probabilities": log_determinant(p, Y),
        "accuracy, backward corrected": inverse[y, predicted].mean(),
        "log loss, backward corrected": (inverse[y] * bounded).sum(axis=1).mean(),
        "log loss, forward corrected": np.log((p @ held.transition_matrix)[rows, y]).mean(),
    }
    values |= {
        "accuracy on rows whose label is the LOO prediction": hit[loo_predicted == y].mean(),
        "accuracy against LOO predictions": np.mean(loo_predicted == predicted),
        "LOO probability of the prediction": loo_of_predicted,
        "LOO agreement": (held.loo_proba * p).sum(axis=1).mean(),
        "log loss against LOO probabilities": (loo_p * bounded).sum(axis=1).mean(),
        "accuracy + LOO probability of the prediction": hit.mean() + loo_of_predicted,
    }
    return values | combinations(run, held, values, p, hard, Y)


def combinations(
    run: dict[str, Any],
    held: Held,
    values: dict[str, float],
    p: np.ndarray,
    hard: np.ndarray,
    Y: np.ndarray,
) -> dict[str, float]:
    """Compute criteria of transition matrices and of neighbors, and sums of criteria."""
    by_proba, by_class = behind_matrix(p, held), behind_matrix(hard, held)
    agreement = values["LOO agreement"]
    mean_p = values["mean probability of the label"]
    near = neighbor_proportions(held.X, Y, 10)
    features = run["features"].astype(np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    nearest = neighbor_proportions(unit, Y, 15)
    found = {
        "agreement with neighbors": (near * p).sum(axis=1).mean(),
        "accuracy of neighbors in the features": np.mean(nearest.argmax(axis=1) == held.y),
        "accuracy + 0.1 CLID": values["accuracy"] + 0.1 * values["CLID"],
        "accuracy + 0.3 CLID": values["accuracy"] + 0.3 * values["CLID"],
        "accuracy + CLID": values["accuracy"] + values["CLID"],
        "matrix, probabilities": by_proba,
        "matrix, predictions": by_class,
        "matrix, half of each": behind_matrix(0.5 * p + 0.5 * hard, held),
        "matrices, both": by_proba + by_class,
        "matrix, probabilities + 0.1 CLID": by_proba + 0.1 * values["CLID"],
        "matrix, probabilities + 0.3 CLID": by_proba + 0.3 * values["CLID"],
        "matrices, both + mean probability": by_proba + by_class + mean_p,
        "matrices, both + 0.3 CLID": by_proba + by_class + 0.3 * values["CLID"],
    }
    found["matrix, predictions + half of LOO agreement and mean probability"] = (
        by_class + (agreement + mean_p) / 2
    )
    for weight in (0.5, 1, 2, 4):
        name, term = f"{weight} LOO agreement", weight * agreement
        found[f"matrix, probabilities + {name}"] = by_proba + term
        found[f"matrix, predictions + {name}"] = by_class + term
        found[f"matrices, both + {name}"] = by_proba + by_class + term
    return found
