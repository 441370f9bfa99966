"""Compare CLIDMUClassifier with other classifiers on real data sets with wrong labels.

    python benchmarks/accuracy.py [--data FOLDER] [--sets a,b] [--noises none,symmetric,...]
        [--methods a,b] [--seeds 2] [--rows 4000] [--out accuracy.csv] [--tables]

Needs ``pip install cleanlab pandas``; RealMLP is included if ``pytabkit`` is installed. Sets come
from OpenML or, with ``--data``, from the ``.npz`` files of a folder (see noisy_data.py).

Appends one row per fit to a CSV file and skips the fits that are already in it, so that a run can
be resumed. A failed fit is stored with its error; delete its row to try it again. Prints tables in
Markdown at the end; with ``--tables`` it prints those of an earlier run and fits nothing. All
methods get standardised features and one thread, and use their default settings except for those in
``make_methods``. Seconds are CPU time of ``fit``.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accuracy_tables import ORACLE, print_tables
from cleanlab.classification import CleanLearning
from noisy_data import N_ROWS, NOISES, Case, known_sets, load, make_case, noises
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from sklearn_clidmu import CLIDMUClassifier

KEYS = ("set", "noise", "seed", "method")
SCORES = ("accuracy", "balanced_accuracy", "auroc", "average_precision", "seconds")
COLUMNS = (*KEYS, *SCORES, "error")

Factory = Callable[[int], ClassifierMixin]


def clean(model: ClassifierMixin, seed: int) -> CleanLearning:
    """Wrap a classifier in cleanlab's CleanLearning."""
    return CleanLearning(model, seed=seed, find_label_issues_kwargs={"n_jobs": 1})


def make_realmlp(seed: int) -> ClassifierMixin:
    """Build pytabkit's RealMLP, in its small variant."""
    from pytabkit import RealMLP_TD_S_Classifier

    return RealMLP_TD_S_Classifier(random_state=seed, n_threads=1, device="cpu")


def make_methods() -> dict[str, Factory]:
    """List the methods, each as a function from the seed to a classifier."""

    def logistic(seed: int) -> ClassifierMixin:
        return LogisticRegression(max_iter=1000, random_state=seed)

    def stopped_mlp(seed: int) -> ClassifierMixin:
        return MLPClassifier(early_stopping=True, random_state=seed)

    def ours(**parameters: str | None) -> Factory:
        return lambda seed: CLIDMUClassifier(random_state=seed, **parameters)

    methods: dict[str, Factory] = {
        "logistic": logistic,
        "15-nn": lambda seed: KNeighborsClassifier(15),
        "svc": lambda seed: SVC(random_state=seed),
        "random forest": lambda seed: RandomForestClassifier(random_state=seed),
        "hist gradient boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
        "mlp": lambda seed: MLPClassifier(random_state=seed),
        "mlp early stopped": stopped_mlp,
        "cleanlab logistic": lambda seed: clean(logistic(seed), seed),
        "cleanlab mlp": lambda seed: clean(stopped_mlp(seed), seed),
        "cleanlab svc": lambda seed: clean(CalibratedClassifierCV(SVC(random_state=seed)), seed),
        "clidmu": ours(),
        "weighting none": ours(weighting=None),
        "objective mae": ours(meta_objective="mae"),
        "wnet": ours(weighting="wnet"),
        "vri": ours(weighting="vri"),
        ORACLE: ours(weighting=None),  # fitted on the rows with a right label only
    }
    if importlib.util.find_spec("pytabkit"):
        methods["realmlp"] = make_realmlp
    return methods


def noise_scores(model: ClassifierMixin) -> np.ndarray | None:
    """Return the noise scores of the training labels; None if the method has none."""
    if isinstance(model, CleanLearning):
        return 1 - model.get_label_issues()["label_quality"].to_numpy()
    return getattr(model, "noise_scores_", None)


def score(model: ClassifierMixin, case: Case, find_wrong: bool) -> dict[str, float]:
    """Measure the predictions and, with ``find_wrong``, the noise scores."""
    y_pred = model.predict(case.X_test)
    row = {
        "accuracy": accuracy_score(case.y_test, y_pred),
        "balanced_accuracy": balanced_accuracy_score(case.y_test, y_pred),
    }
    wrong = case.y_noisy != case.y
    scores = noise_scores(model) if find_wrong else None
    if scores is not None and 0 < wrong.sum() < len(wrong):
        row["auroc"] = roc_auc_score(wrong, scores)
        row["average_precision"] = average_precision_score(wrong, scores)
    return row


def fit_and_score(method: str, factory: Factory, case: Case, seed: int) -> dict[str, float | str]:
    """Fit one method on one case; an error is stored in the row."""
    X, y = case.X, case.y_noisy
    if method == ORACLE:
        right = case.y_noisy == case.y
        X, y = X[right], y[right]
    row: dict[str, float | str] = dict.fromkeys(SCORES, np.nan)
    row["error"] = ""
    with warnings.catch_warnings():
        for category in (UserWarning, FutureWarning, RuntimeWarning):  # convergence among them
            warnings.simplefilter("ignore", category)
        try:
            start = time.process_time()
            model = factory(seed).fit(X, y)
            seconds = time.process_time() - start
            row.update(score(model, case, find_wrong=method != ORACLE), seconds=seconds)
        except Exception as error:
            row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return row


def read_done(path: Path) -> set[tuple[str, ...]]:
    """Return the keys of the fits in the file."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[key] for key in KEYS) for row in csv.DictReader(file)}


def missing_rows(
    args: argparse.Namespace, methods: dict[str, Factory], done: set[tuple[str, ...]]
) -> Iterator[dict]:
    """Run all fits that are not done; yield one row each."""
    for seed in range(args.seeds):
        for name in args.sets:
            data = load(name, args.data)
            for noise in (noise for noise in noises(data) if noise in args.noises):
                keys = [(name, noise, str(seed), method) for method in args.methods]
                keys = [key for key in keys if key not in done]
                case = make_case(data, noise, seed, args.rows) if keys else None
                for key in keys:
                    row = fit_and_score(key[-1], methods[key[-1]], case, seed)
                    yield {**dict(zip(KEYS, key, strict=True)), **row}


def run(args: argparse.Namespace, methods: dict[str, Factory]) -> None:
    """Append the missing rows to the file, each after its fit."""
    done = read_done(args.out)
    torch.set_num_threads(1)
    with threadpool_limits(1), args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        for row in missing_rows(args, methods, done):
            writer.writerow(row)
            file.flush()
            result = row["error"] or f"{row['accuracy']:.4f}  {row['seconds']:.1f} s"
            print(*(row[key] for key in KEYS), result, sep="  ", flush=True)


def parse_args(methods: dict[str, Factory]) -> argparse.Namespace:
    """Read the command line; the defaults are all sets, noises and methods."""

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of .npz files, instead of OpenML")
    parser.add_argument("--sets", type=names)
    parser.add_argument("--noises", type=names, default=list(NOISES))
    parser.add_argument("--methods", type=names, default=list(methods))
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds")
    parser.add_argument("--rows", type=int, default=N_ROWS, help="maximum number of training rows")
    parser.add_argument("--out", type=Path, default=Path("accuracy.csv"))
    parser.add_argument("--tables", action="store_true", help="print the tables, fit nothing")
    args = parser.parse_args()
    known = known_sets(args.data)
    args.sets = args.sets or known
    for given, allowed in ((args.sets, known), (args.noises, NOISES), (args.methods, methods)):
        for name in given:
            if name not in allowed:
                parser.error(f"unknown {name!r}: choose from {', '.join(allowed)}")
    return args


def main() -> None:
    """Run the missing fits and print the tables."""
    methods = make_methods()
    args = parse_args(methods)
    if not args.tables:
        run(args, methods)
    print_tables(args.out)


if __name__ == "__main__":
    main()
