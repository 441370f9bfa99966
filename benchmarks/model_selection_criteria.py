"""Criteria for choosing a model by held-out rows whose labels may be wrong; higher is better."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import log_softmax

from sklearn_clidmu import clid_loss
from sklearn_clidmu.mathematics.leave_one_out import leave_one_out_shares
from sklearn_clidmu.mathematics.noise_channel import channel_log_likelihood
from sklearn_clidmu.mathematics.noise_matrix import estimate_noise

ORACLE, HELD_OUT_ORACLE = "test accuracy (oracle)", "clean held-out accuracy (oracle)"


class Held(NamedTuple):
    """Held-out rows of one case, and what all other held-out rows say of each label."""

    X: np.ndarray
    y: np.ndarray
    y_clean: np.ndarray
    n_classes: int
    shares: np.ndarray
    matrix: np.ndarray


def judge(X: np.ndarray, y: np.ndarray, y_clean: np.ndarray, n_classes: int) -> Held:
    """Hold each held-out label against the other held-out rows."""
    weight, targets = torch.ones(len(y), dtype=torch.float64), torch.from_numpy(y)
    generator = torch.Generator().manual_seed(0)
    shares = leave_one_out_shares(torch.from_numpy(X), targets, n_classes, weight, generator)
    matrix = estimate_noise(shares, targets, weight).matrix
    return Held(X, y, y_clean, n_classes, shares.numpy(), matrix.numpy())


def clid(run: dict[str, Any], temperature: float) -> float:
    """Log n less CLID."""
    features, logits = (torch.from_numpy(run[key]).double() for key in ("features", "logits"))
    return np.log(len(logits)) - float(clid_loss(features, logits, temperature))


def channel(p: np.ndarray, held: Held) -> float:
    """Log likelihood behind the noise channel fitted to the same rows."""
    tensors = torch.from_numpy(p), torch.from_numpy(held.y)
    return float(channel_log_likelihood(*tensors, held.n_classes))


def mutual_information(p: np.ndarray, Y: np.ndarray) -> float:
    """Mutual information of predictions and labels, in nats."""
    joint = p.T @ Y / len(Y)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / independent[some])).sum())


def log_determinant(p: np.ndarray, Y: np.ndarray) -> float:
    """Determinant-based mutual information (Xu et al., NeurIPS 2019), as a logarithm."""
    return float(np.linalg.slogdet((p.T @ Y + 0.1) / len(Y))[1])


def neighbour_shares(Z: np.ndarray, Y: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Share of each label among the nearest other rows."""
    square = np.square(Z).sum(axis=1)
    distance = square[:, None] + square - 2 * Z @ Z.T
    np.fill_diagonal(distance, np.inf)
    return Y[np.argpartition(distance, n_neighbors, axis=1)[:, :n_neighbors]].mean(axis=1)


def criteria(run: dict[str, Any], held: Held) -> dict[str, float]:
    """Value of every criterion for one fit."""
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
        "dissent in training, low": -run["dissent"],
        "entropy of predictions, low": (p * log_p).sum(axis=1).mean(),
        "entropy of predictions, high": -(p * log_p).sum(axis=1).mean(),
    }
    shares = held.shares.clip(0)
    shares = shares / shares.sum(axis=1, keepdims=True)
    inverse = np.linalg.pinv(held.matrix)
    agreed = held.shares.argmax(axis=1)
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
        "log loss, forward corrected": np.log((p @ held.matrix)[rows, y]).mean(),
    }
    values |= {
        "accuracy on trusted rows": hit[agreed == y].mean(),
        "agreement with the judge": np.mean(agreed == predicted),
        "judge's share of the prediction": held.shares[rows, predicted].mean(),
        "judge's share of the probabilities": (held.shares * p).sum(axis=1).mean(),
        "log loss against the judge": (shares * bounded).sum(axis=1).mean(),
        "accuracy + judge's share": hit.mean() + held.shares[rows, predicted].mean(),
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
    """Criteria of fitted channels, of neighbours, and sums of criteria."""
    soft_channel, hard_channel = channel(p, held), channel(hard, held)
    share = values["judge's share of the probabilities"]
    mean_p = values["mean probability of the label"]
    near = neighbour_shares(held.X, Y, 10)
    features = run["features"].astype(np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    nearest = neighbour_shares(unit, Y, 15)
    found = {
        "neighbours' share of the probabilities": (near * p).sum(axis=1).mean(),
        "accuracy of neighbours in the features": np.mean(nearest.argmax(axis=1) == held.y),
        "accuracy + 0.1 CLID": values["accuracy"] + 0.1 * values["CLID"],
        "accuracy + 0.3 CLID": values["accuracy"] + 0.3 * values["CLID"],
        "accuracy + CLID": values["accuracy"] + values["CLID"],
        "channel, probabilities": soft_channel,
        "channel, predictions": hard_channel,
        "channel, half of each": channel(0.5 * p + 0.5 * hard, held),
        "channels, both": soft_channel + hard_channel,
        "channel, probabilities + 0.1 CLID": soft_channel + 0.1 * values["CLID"],
        "channel, probabilities + 0.3 CLID": soft_channel + 0.3 * values["CLID"],
        "channels, both + mean probability": soft_channel + hard_channel + mean_p,
        "channels, both + 0.3 CLID": soft_channel + hard_channel + 0.3 * values["CLID"],
    }
    found["channel, predictions + half of judge's share and mean probability"] = (
        hard_channel + (share + mean_p) / 2
    )
    for weight in (0.5, 1, 2, 4):
        found[f"channel, probabilities + {weight} judge's share"] = soft_channel + weight * share
        found[f"channel, predictions + {weight} judge's share"] = hard_channel + weight * share
        both = soft_channel + hard_channel + weight * share
        found[f"channels, both + {weight} judge's share"] = both
    return found
