"""Compare CLIDMUClassifier with other classifiers on real data sets with wrong labels.

    python benchmarks/accuracy.py [--data FOLDER] [--cells quick|full] [--sets a,b]
        [--noises none,symmetric-20,real,...] [--rows 300,4000,all] [--seeds 2] [--methods a,b]
        [--out accuracy.csv] [--tables]

Needs ``pip install -c constraints.txt -e ".[bench]"``; a method whose package is absent is left
out. Sets come from OpenML or, with ``--data``, from the ``.npz`` files of a folder.

A cell is a set with a noise, a maximum number of training rows and a seed. Without ``--cells``
every combination of the options is run, by default all sets and noises, 4,000 rows and two seeds.
With ``--cells`` the cells are those of a list, and the options only narrow it: a cell is run if
each option that is given names it. ``--seeds 2`` is seeds 0 and 1. Methods are never part of a
list. A number of rows is left out where it gives the same cell as 4,000 rows.

Methods get raw features in float64, with categories as codes; see peers.py for those that
standardize them. Appends one line per fit to a CSV file and skips the fits in it, so that a run can
be resumed. A failed fit is stored with its error; delete its line to try it again. Scores:

- accuracy, balanced accuracy and log loss on at most 4,000 test rows with right labels. For the
  log loss the probabilities of all methods are at least 1e-6: a forest may give zero;
- AUROC and average precision of the noise scores of the training labels, where some are wrong;
- the estimated and the true share of wrong labels, and CPU seconds of ``fit``.

Prints tables at the end; with ``--tables`` it prints those of an earlier run and fits nothing.
accuracy_tables.py prints one at a time.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import noisy_data
import numpy as np
import torch
from noisy_data import N_ROWS, RATED_NOISES, Case, Data, load, make_case
from peers import METHODS, ORACLE, absent
from sklearn.base import ClassifierMixin
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    log_loss,
    roc_auc_score,
)
from threadpoolctl import threadpool_limits

SCORES = ("accuracy", "balanced_accuracy", "log_loss", "auroc", "average_precision")
RATES = ("noise_rate", "true_noise_rate")
MIN_PROBABILITY = 1e-6

QUICK = {
    "none": "adult agnews german krkopt shuttle wine_white",
    "symmetric-10": "banking77 churn german krkopt mnist10k splice",
    "symmetric-40": "adult agnews isolet letter phoneme vehicle",
    "pairflip-40": "banking77 optdigits satimage",
    "real": "cifar10n_sqz hausa_news medrel_treat music_genre trec_weak",
}
"""Sets by noise of ``--cells quick``, with 4,000 rows and one seed."""


class Cell(NamedTuple):
    """A case by name; ``rows`` is a number or "all"."""

    set: str
    noise: str
    rows: str
    seed: int


KEYS = (*Cell._fields, "method")
FIGURES = (*SCORES, *RATES, "seconds")
COLUMNS = (*KEYS, *FIGURES, "error")

Block = tuple[Sequence[str] | None, Sequence[str], int]
"""Noises (None: all of a set), numbers of rows and number of seeds, in every combination."""

FULL: Sequence[Block] = (
    (None, [str(N_ROWS)], 3),
    (["none", "symmetric-10", "symmetric-40"], ["300", "1000"], 3),
    (["none", "symmetric-20"], ["all"], 3),
)


def blocks(args: argparse.Namespace, name: str) -> Sequence[Block]:
    """Return the cells of a set before the options narrow them."""
    if args.cells == "full":
        return FULL
    if args.cells == "quick":
        quick = [noise for noise, sets in QUICK.items() if name in sets.split()]
        return [(quick, [str(N_ROWS)], 1)]
    return [(args.noises, args.rows or [str(N_ROWS)], args.seeds or 2)]


def find_cells(args: argparse.Namespace, name: str, data: Data) -> list[Cell]:
    """Return the cells of a set that are asked for, and that it has."""
    n_rows = noisy_data.count_rows(data)
    existing = list(dict.fromkeys([*noisy_data.noises(data, RATED_NOISES), *data.real]))

    def differs(rows: str) -> bool:
        drawn = n_rows if rows == "all" else min(int(rows), n_rows)
        return rows == str(N_ROWS) or drawn != min(N_ROWS, n_rows)

    return [
        Cell(name, noise, rows, seed)
        for listed, sizes, n_seeds in blocks(args, name)
        for seed in range(min(n_seeds, args.seeds or n_seeds))
        for rows in sizes
        if (not args.rows or rows in args.rows) and differs(rows)
        for noise in existing
        if (listed is None or noise in listed) and (not args.noises or noise in args.noises)
    ]


def noise_scores(model: ClassifierMixin) -> np.ndarray | None:
    """Return the noise scores of the training labels; None if the method has none."""
    if hasattr(model, "get_label_issues"):  # cleanlab
        return 1 - model.get_label_issues()["label_quality"].to_numpy()
    return getattr(model, "noise_scores_", None)


def measure_log_loss(model: ClassifierMixin, classes: np.ndarray, case: Case) -> float:
    """Compute the log loss; a class without training rows has the least probability."""
    labels = np.unique(np.concatenate([case.y, case.y_noisy, case.y_test]))
    fitted = getattr(model, "clf", model).classes_  # cleanlab may drop all rows of a class
    proba = np.zeros((len(case.y_test), len(labels)))
    proba[:, np.searchsorted(labels, classes[fitted])] = model.predict_proba(case.X_test)
    proba = proba.clip(MIN_PROBABILITY)
    return log_loss(case.y_test, proba / proba.sum(axis=1, keepdims=True), labels=labels)


def score(
    model: ClassifierMixin, classes: np.ndarray, case: Case, find_wrong: bool
) -> dict[str, float]:
    """Measure the predictions and, with ``find_wrong``, what is said of the training labels."""
    y_pred = classes[np.ravel(model.predict(case.X_test))]  # CatBoost's have two dimensions
    row = {
        "accuracy": accuracy_score(case.y_test, y_pred),
        "balanced_accuracy": balanced_accuracy_score(case.y_test, y_pred),
    }
    if hasattr(model, "predict_proba"):
        row["log_loss"] = measure_log_loss(model, classes, case)
    if not find_wrong:
        return row
    wrong = case.y_noisy != case.y
    row["noise_rate"] = getattr(model, "noise_rate_", np.nan)
    scores = noise_scores(model) if 0 < wrong.sum() < len(wrong) else None
    if scores is not None:
        row["auroc"] = roc_auc_score(wrong, scores)
        row["average_precision"] = average_precision_score(wrong, scores)
    return row


def cpu_seconds() -> float:
    """CPU time of this process and of the children that it has waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def fit_and_score(method: str, case: Case, seed: int) -> dict[str, float | str]:
    """Fit one method on one case; an error is stored in the row."""
    X, y = case.X, case.y_noisy
    right = case.y_noisy == case.y
    if method == ORACLE:
        X, y = X[right], y[right]
    classes, y = np.unique(y, return_inverse=True)  # cleanlab needs 0, 1, ... without a gap
    row: dict[str, float | str] = dict.fromkeys(FIGURES, np.nan)
    row.update(true_noise_rate=1 - right.mean(), error="")
    with warnings.catch_warnings():
        for category in (UserWarning, FutureWarning, RuntimeWarning):  # convergence among them
            warnings.simplefilter("ignore", category)
        try:
            model = METHODS[method].build(seed)  # a first import is no part of the time
            start = cpu_seconds()
            model.fit(X, y)
            seconds = cpu_seconds() - start
            row.update(score(model, classes, case, method != ORACLE), seconds=seconds)
        except Exception as error:
            row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return row


def read_done(path: Path) -> set[tuple[str, ...]]:
    """Return the keys of the fits in the file."""
    if not path.exists() or path.stat().st_size == 0:
        return set()
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames) != COLUMNS:
            raise SystemExit(f"{path} has other columns than {', '.join(COLUMNS)}: move it away.")
        return {tuple(row[key] for key in KEYS) for row in reader}


def missing_rows(args: argparse.Namespace, done: set[tuple[str, ...]]) -> Iterator[dict]:
    """Run all fits that are not done, seed by seed; yield one row each."""
    data = {name: load(name, args.data) for name in args.sets}
    cells = [cell for name in args.sets for cell in find_cells(args, name, data[name])]
    keys = [(*map(str, cell), method) for cell in cells for method in args.methods]
    print(f"{len(cells)} cells, {len(keys)} fits, of which {len(set(keys) - done)} are missing.")
    for cell in sorted(cells, key=lambda cell: cell.seed):
        keys = [(*map(str, cell), method) for method in args.methods]
        keys = [key for key in keys if key not in done]
        if keys:
            rows = None if cell.rows == "all" else int(cell.rows)
            case = make_case(data[cell.set], cell.noise, cell.seed, rows, standardize=False)
        for key in keys:
            yield {**dict(zip(KEYS, key, strict=True)), **fit_and_score(key[-1], case, cell.seed)}


def run(args: argparse.Namespace) -> None:
    """Append the missing rows to the file, each after its fit."""
    done = read_done(args.out)
    torch.set_num_threads(1)
    with threadpool_limits(1), args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        for row in missing_rows(args, done):
            writer.writerow(row)
            file.flush()
            result = row["error"] or f"{row['accuracy']:.4f}  {row['seconds']:.1f} s"
            print(*(row[key] for key in KEYS), result, sep="  ", flush=True)


def parse_args(**defaults: object) -> argparse.Namespace:
    """Read the command line."""

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of .npz files, instead of OpenML")
    parser.add_argument("--cells", choices=("quick", "full"), help="list of cells, to be narrowed")
    parser.add_argument("--sets", type=names)
    parser.add_argument("--noises", type=names, help=f"of {', '.join(RATED_NOISES)}, real-...")
    parser.add_argument("--rows", type=names, help="maximum numbers of training rows, or all")
    parser.add_argument("--seeds", type=int, help="number of seeds")
    parser.add_argument("--methods", type=names)
    parser.add_argument("--out", type=Path, default=Path("accuracy.csv"))
    parser.add_argument("--tables", action="store_true", help="print the tables, fit nothing")
    parser.set_defaults(**defaults)
    args = parser.parse_args()
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Set the defaults, and refuse names that do not exist."""
    lacking = absent()
    if lacking and not args.tables:
        packages = " ".join(sorted(set(lacking.values())))
        print(f"Left out: {', '.join(lacking)}. They need: pip install {packages}")
    able = [name for name in METHODS if name not in lacking]
    known = noisy_data.known_sets(args.data)
    quick = [name for name in known if name in " ".join(QUICK.values()).split()]
    args.sets = args.sets or (quick if args.cells == "quick" else known)
    args.methods = args.methods or able
    rated = [noise for noise in args.noises or () if not noise.startswith("real-")]
    sizes = [rows for rows in args.rows or () if not rows.isdecimal() or int(rows) == 0]
    pairs = (args.sets, known), (rated, RATED_NOISES), (args.methods, able)
    for given, allowed in (*pairs, (sizes, ["a number", "all"])):
        for name in given:
            if name not in allowed:
                parser.error(f"unknown or unavailable {name!r}: choose from {', '.join(allowed)}")


def main() -> None:
    """Run the missing fits and print the tables."""
    args = parse_args()
    if not args.tables:
        run(args)
    from accuracy_tables import print_tables  # needs pandas

    print_tables(args.out)


if __name__ == "__main__":
    main()
