"""Compare methods for tables with few and noisy labels.

    python benchmarks/unlabeled.py --data FOLDER [--keep 0.1 0.05] [--rate 40 20] [--seeds 2]
        [--sets ...] [--methods ...] [--csv FILE]

A share of the training rows of each set keeps its label, and a rate of these labels, in percent, is
wrong. Prints the test accuracy of every method by share and rate, its difference from the default
with its standard error, and the mean in every cell.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy_tables import to_markdown
from consistency import CoGuessing, ConsistencyClassifier, FixMatch
from noisy_data import Case, known_sets, load, make_case, noises
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC

from sklearn_clidmu import CLIDMUClassifier

COLUMNS = ["set", "noise", "keep", "rate", "seed", "method", "accuracy"]
CELL = COLUMNS[:5]
KINDS = ("symmetric", "pairflip")
MIN_LABELS = 20
IGNORE, OURS = "clidmu, ignore", "clidmu, consistency"


def svc() -> BaseEstimator:
    """Support vector classifier with probabilities, which self-training needs."""
    return SVC(probability=True, random_state=0)


def methods(seed: int, fitted: dict[str, BaseEstimator]) -> dict[str, Callable[[], BaseEstimator]]:
    """Return the methods; the first four do not use rows without a label (-1).

    Those that go on from another take it out of ``fitted``.
    """

    def ours(**params: object) -> Callable[[], BaseEstimator]:
        return lambda: CLIDMUClassifier(missing_label=-1, random_state=seed, **params)

    def further(name: str, method: type) -> Callable[[], BaseEstimator]:
        return lambda: ConsistencyClassifier(fitted[name], method, seed)

    def forest() -> BaseEstimator:
        return RandomForestClassifier(random_state=seed)

    return {
        IGNORE: ours(unlabeled="ignore"),
        "clidmu, ignore, weighting none": ours(unlabeled="ignore", weighting=None),
        "svc": svc,
        "forest": forest,
        OURS: ours(),
        "clidmu, consistency, weighting none": ours(weighting=None),
        "clidmu, ignore, then fixmatch": further(IGNORE, FixMatch),
        "clidmu, ignore, then co-guessing": further(IGNORE, CoGuessing),
        "clidmu, consistency, then fixmatch": further(OURS, FixMatch),
        "self-training svc": lambda: SelfTrainingClassifier(svc()),
        "self-training forest": lambda: SelfTrainingClassifier(forest()),
        "label spreading knn": lambda: LabelSpreading(kernel="knn", max_iter=200),
        "label spreading rbf": lambda: LabelSpreading(max_iter=200),
    }


def fit(name: str, build: Callable[[], BaseEstimator], case: Case, y: np.ndarray) -> BaseEstimator:
    """Fit a method."""
    rows = y >= 0 if name in ("svc", "forest") else slice(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without rows in LabelSpreading, SVC's probability
        return build().fit(case.X[rows], y[rows])


def cases(arguments: argparse.Namespace) -> Iterator[tuple[tuple, Case, np.ndarray]]:
    """Yield each cell with its data and its labels, -1 for none."""
    names = arguments.sets or known_sets(arguments.data)
    for seed, keep, rate in product(range(arguments.seeds), arguments.keep, arguments.rate):
        for name in names:
            data = load(name, arguments.data)
            for kind in [kind for kind in noises(data) if kind in KINDS]:
                case = make_case(data, f"{kind}-{rate}", seed)
                n_kept = max(round(keep * len(case.y)), MIN_LABELS)
                order = np.random.RandomState(100 + seed).permutation(len(case.y))
                y = case.y_noisy.copy()
                y[order[n_kept:]] = -1
                yield (name, kind, keep, rate, seed), case, y


def print_tables(table: pd.DataFrame) -> None:
    """Print means by share and rate, differences from the default, and the mean of every cell."""
    table = table.groupby(CELL).filter(lambda cell: len(cell) == table["method"].nunique())
    runs = table.pivot_table("accuracy", CELL, "method", sort=False)
    groups = runs.groupby(["keep", "rate"], sort=False)
    means = groups.mean().T
    means.columns = [f"{keep:.0%} kept, {rate:g}% wrong" for keep, rate in means]
    means["mean"] = runs.mean()
    if OURS in runs:
        # Runs of a set with a noise share their rows, so they are averaged first.
        change = runs.sub(runs[OURS], axis=0).groupby(["set", "noise"], sort=False).mean()
        means["difference"], means["standard error"] = change.mean(), change.sem()
        means["better"] = [f"{(change[name] > 0).sum()} of {len(change)}" for name in change]
    print(to_markdown(means, digits=1), end="\n\n")
    cells = runs.groupby(CELL[:-1], sort=False).mean()
    cells.index = [" ".join(map(str, cell)) for cell in cells.index]
    print(to_markdown(cells, digits=1))


def main() -> None:
    """Run all cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.1])
    parser.add_argument("--rate", type=int, nargs="+", default=[40])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sets", nargs="*")
    # One "then" another needs both.
    parser.add_argument("--methods", nargs="*", choices=list(methods(0, {})))
    parser.add_argument("--csv", type=Path, help="file for the result of every run")
    arguments = parser.parse_args()
    runs = []
    for cell, case, y in cases(arguments):
        fitted: dict[str, BaseEstimator] = {}
        for method, build in methods(cell[-1], fitted).items():
            if arguments.methods is None or method in arguments.methods:
                fitted[method] = fit(method, build, case, y)
                accuracy = 100 * fitted[method].score(case.X_test, case.y_test)
                runs.append((*cell, method, accuracy))
                print(*runs[-1], flush=True)
        if arguments.csv:
            pd.DataFrame(runs, columns=COLUMNS).to_csv(arguments.csv, index=False)
    print_tables(pd.DataFrame(runs, columns=COLUMNS))


if __name__ == "__main__":
    main()
