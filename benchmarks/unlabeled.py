"""Compare methods for tables with few and noisy labels.

    python benchmarks/unlabeled.py --data FOLDER [--keep 0.1] [--seeds 2] [--sets ...] [--csv FILE]

A share of the training rows of each set keeps its label, and 40 % of these labels are wrong. Prints
the test accuracy of every method in every cell, and the means.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy_tables import to_markdown
from noisy_data import Case, known_sets, load, make_case, noises
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC

from sklearn_clidmu import CLIDMUClassifier

COLUMNS = ["set", "noise", "seed", "method", "accuracy"]
KINDS = ("symmetric", "pairflip")
MIN_LABELS = 20


def svc() -> BaseEstimator:
    """Support vector classifier with probabilities, which self-training needs."""
    return SVC(probability=True, random_state=0)


def methods(seed: int) -> dict[str, Callable[[], BaseEstimator]]:
    """Return the methods; the first four do not use rows without a label (-1)."""

    def ours(**params: object) -> Callable[[], BaseEstimator]:
        return lambda: CLIDMUClassifier(missing_label=-1, random_state=seed, **params)

    def forest() -> BaseEstimator:
        return RandomForestClassifier(random_state=seed)

    return {
        "clidmu, ignore": ours(unlabeled="ignore"),
        "clidmu, ignore, weighting none": ours(unlabeled="ignore", weighting=None),
        "svc": svc,
        "forest": forest,
        "clidmu, consistency": ours(),
        "clidmu, consistency, weighting none": ours(weighting=None),
        "self-training svc": lambda: SelfTrainingClassifier(svc()),
        "self-training forest": lambda: SelfTrainingClassifier(forest()),
        "label spreading knn": lambda: LabelSpreading(kernel="knn", max_iter=200),
        "label spreading rbf": lambda: LabelSpreading(max_iter=200),
    }


def score(name: str, build: Callable[[], BaseEstimator], case: Case, y: np.ndarray) -> float:
    """Test accuracy."""
    rows = y >= 0 if name in ("svc", "forest") else slice(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without rows in LabelSpreading, SVC's probability
        return build().fit(case.X[rows], y[rows]).score(case.X_test, case.y_test)


def main() -> None:
    """Run all cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--csv", type=Path, help="file for the result of every run")
    arguments = parser.parse_args()
    folder = arguments.data
    runs = []
    for name in arguments.sets or known_sets(folder):
        data = load(name, folder)
        for kind in [kind for kind in noises(data) if kind in KINDS]:
            for seed in range(arguments.seeds):
                case = make_case(data, kind, seed)
                n_kept = max(round(arguments.keep * len(case.y)), MIN_LABELS)
                order = np.random.RandomState(100 + seed).permutation(len(case.y))
                y = case.y_noisy.copy()
                y[order[n_kept:]] = -1
                for method, build in methods(seed).items():
                    accuracy = 100 * score(method, build, case, y)
                    runs.append((name, kind, seed, method, accuracy))
                    print(*runs[-1], flush=True)
                if arguments.csv:
                    pd.DataFrame(runs, columns=COLUMNS).to_csv(arguments.csv, index=False)
    table = pd.DataFrame(runs, columns=COLUMNS)
    cells = table.pivot_table("accuracy", ["set", "noise"], "method", sort=False)
    means = cells.mean()
    cells.index = [" ".join(cell) for cell in cells.index]
    print(to_markdown(cells.T.assign(mean=means), digits=1))


if __name__ == "__main__":
    main()
