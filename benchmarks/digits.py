"""Accuracy of CLIDMUClassifier on scikit-learn's digits, with and without weighting.

    python benchmarks/digits.py [--seeds 5]

Prints for each kind of label noise the mean test accuracy with the default weighting and without
(all else equal), and the mean AUROC of ``noise_scores_`` for finding the wrong labels.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.datasets import make_label_noise

KINDS = ("none", "symmetric", "pairflip")


def run(kind: str, seed: int) -> dict[str, float]:
    """Fit with and without weighting on one split."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    y_noisy = y
    if kind != "none":
        y_noisy, flipped = make_label_noise(y, kind=kind, rate=0.4, random_state=seed)
    row = {}
    for name, weighting in (("on", "evidence"), ("off", None)):
        model = CLIDMUClassifier(weighting=weighting, random_state=seed)
        start = time.process_time()
        model.fit(X, y_noisy)
        row[f"seconds {name}"] = time.process_time() - start
        row[f"accuracy {name}"] = model.score(X_test, y_test)
        if kind != "none":
            row[f"AUROC {name}"] = roc_auc_score(flipped, model.noise_scores_)
    return row


def main() -> None:
    """Run all kinds of noise and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    for kind in KINDS:
        rows = [run(kind, seed) for seed in seeds]
        print(kind)
        for key in rows[0]:
            values = np.array([row[key] for row in rows])
            print(f"  {key:14s} mean {values.mean():.4f}   runs", values.round(3).tolist())


if __name__ == "__main__":
    main()
