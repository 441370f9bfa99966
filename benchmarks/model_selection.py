"""Compare criteria for model selection without clean labels on real data sets.

    python benchmarks/model_selection.py [--data FOLDER] [--sets a,b] [--noises symmetric,...]
        [--seeds 0,1] [--out FOLDER] [--tables]

Cross-validates every candidate of a grid on at most 2,000 rows with noisy labels. Stores the
outputs on the held-out fold and the accuracy on clean test rows, one ``.npz`` file per fit, and
skips the fits that are stored. Prints the regret of every criterion: the test accuracy of the best
candidate minus that of the candidate with the highest criterion, both means over the folds.
``--tables`` fits nothing.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from model_selection_criteria import ORACLE, criteria, hold_out
from noisy_data import NOISES, Case, Data, known_sets, load, make_case, noises
from sklearn.model_selection import KFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from sklearn_clidmu import CLIDMUClassifier

N_ROWS = 2000
"""Maximum number of rows."""

N_FOLDS = 3

CANDIDATES: dict[str, dict[str, Any]] = {
    "default": {},
    "no folds": {"n_folds": None},
    "wnet": {"weighting": "wnet"},
    "vri": {"weighting": "vri"},
    "no weighting": {"weighting": None},
    "memorizing": {"weighting": None, "dropout": 0.0, "weight_decay": 0.0, "max_epochs": 60},
    "huge lr": {"lr": 2.0, "n_folds": None},
    "small lr": {"lr": 0.003, "n_folds": None},
    "one narrow layer": {"hidden_layer_sizes": (32,), "n_folds": None},
    "deep": {"hidden_layer_sizes": (128, 128, 128, 64), "n_folds": None},
    "low temperature": {"temperature": 0.1, "n_folds": None},
    "much dropout": {"dropout": 0.6, "n_folds": None},
    "no regularization": {"dropout": 0.0, "weight_decay": 0.0, "n_folds": None},
    "strong weight decay": {"weight_decay": 0.05, "n_folds": None},
}


class Split(NamedTuple):
    """Training and held-out rows, both with noisy labels, and clean test rows."""

    X: np.ndarray
    y: np.ndarray
    X_held: np.ndarray
    y_held: np.ndarray
    y_held_clean: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def split(case: Case, seed: int) -> list[Split]:
    """Split at most ``N_ROWS`` rows into folds, stratified by the noisy labels if possible."""
    X, clean = case.X[:N_ROWS], case.y[:N_ROWS]
    y = case.y_noisy[:N_ROWS].astype(np.int64)  # real labels come in fewer bytes
    rare = np.unique(y, return_counts=True)[1].min() < N_FOLDS
    folds = (KFold if rare else StratifiedKFold)(N_FOLDS, shuffle=True, random_state=seed)
    return [
        Split(X[rows], y[rows], X[held], y[held], clean[held], case.X_test, case.y_test)
        for rows, held in folds.split(X, y)
    ]


def fit(parameters: dict[str, Any], part: Split, seed: int) -> dict[str, Any]:
    """Fit one candidate and return the inputs of all criteria."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # collapse and divergence
        clf = CLIDMUClassifier(random_state=seed, **parameters).fit(part.X, part.y)
    seconds = time.process_time() - start
    logits, features = clf.net_.evaluate(torch.from_numpy(part.X_held))
    test_logits, _ = clf.net_.evaluate(torch.from_numpy(part.X_test))
    predicted = clf.classes_[test_logits.argmax(dim=1).numpy()]
    return {
        "classes": clf.classes_,
        "logits": logits.float().numpy(),
        "features": features.half().numpy(),
        "accuracy": np.mean(predicted == part.y_test),
        "collapsed": any(s["predicts"] and s["outcome"] != "finished" for s in clf.stages_),
        "clid_in_training": clf.history_["clid"][-1],
        "disagreement": clf.history_["disagreement"][-1],
        "train_loss": clf.history_["train_loss"][-1],
        "seconds": seconds,
    }


def cells(args: argparse.Namespace) -> Iterator[tuple[str, Data, str, int]]:
    """Yield set, data, noise and seed, in the order of ``--seeds`` and ``--noises``."""
    loaded = {name: load(name, args.data) for name in args.sets}
    for seed in args.seeds:
        for noise in args.noises:
            for name, data in loaded.items():
                if noise in noises(data):
                    yield name, data, noise, seed


def fit_path(folder: Path, cell: tuple[str, str, int], candidate: str, fold: int) -> Path:
    """File of one fit."""
    name, noise, seed = cell
    return folder / f"{name}-{noise}-{seed}-{candidate.replace(' ', '_')}-{fold}.npz"


def run(args: argparse.Namespace) -> None:
    """Run the missing fits."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, data, noise, seed in cells(args):
        parts = None
        for candidate, parameters in CANDIDATES.items():
            for fold in range(N_FOLDS):
                path = fit_path(args.out, (name, noise, seed), candidate, fold)
                if path.exists():
                    continue
                parts = parts or split(make_case(data, noise, seed), seed)
                with threadpool_limits(1):
                    result = fit(parameters, parts[fold], seed)
                unfinished = path.with_suffix(".part.npz")
                np.savez_compressed(unfinished, **result)
                unfinished.rename(path)
                figures = f"{result['accuracy']:.4f}  {result['seconds']:.1f} s"
                print(name, noise, seed, candidate, fold, figures, sep="  ", flush=True)


def measure(args: argparse.Namespace) -> dict[tuple[str, str, int], list[dict[str, float]]]:
    """Compute the criteria, means over the folds, of every cell whose fits are complete."""
    measured = {}
    for name, data, noise, seed in cells(args):
        cell = name, noise, seed
        by_fold = [
            [fit_path(args.out, cell, candidate, fold) for candidate in CANDIDATES]
            for fold in range(N_FOLDS)
        ]
        if not all(path.exists() for paths in by_fold for path in paths):
            continue
        found = []
        for part, paths in zip(split(make_case(data, noise, seed), seed), by_fold, strict=True):
            n_classes = max(part.y.max(), part.y_held.max(), part.y_test.max()) + 1
            held = hold_out(part.X_held, part.y_held, part.y_held_clean, n_classes)
            found.append([criteria(dict(np.load(path)), held) for path in paths])
        measured[cell] = [
            {name: np.mean([values[name] for values in folds]) for name in folds[0]}
            for folds in zip(*found, strict=True)
        ]
    return measured


def regret(candidates: list[dict[str, float]], criterion: str) -> float:
    """Points of test accuracy lost by the selected candidate; the mean over ties."""
    accuracy = np.array([values[ORACLE] for values in candidates])
    score = np.nan_to_num([values[criterion] for values in candidates], nan=-np.inf, neginf=-1e9)
    return 100 * (accuracy.max() - accuracy[score == score.max()].mean())


def print_table(measured: dict[tuple[str, str, int], list[dict[str, float]]]) -> None:
    """Print the mean regret of each criterion by noise, best first, in Markdown."""
    kinds = [noise for noise in NOISES if any(noise == cell[1] for cell in measured)]
    rows = []
    for criterion in next(iter(measured.values()))[0]:
        lost = {cell: regret(fits, criterion) for cell, fits in measured.items()}
        noisy = [value for cell, value in lost.items() if cell[1] != "none"]
        means = [np.mean([v for cell, v in lost.items() if cell[1] == kind]) for kind in kinds]
        rows.append((np.mean(noisy), np.max(noisy), criterion, means))
    lost = {  # selections without a criterion
        "any candidate": [spread(fits).mean() for fits in measured.values()],
        "the defaults": [spread(fits)[0] for fits in measured.values()],
    }
    for label, values in lost.items():
        by_cell = dict(zip(measured, values, strict=True))
        noisy = [value for cell, value in by_cell.items() if cell[1] != "none"]
        means = [np.mean([v for cell, v in by_cell.items() if cell[1] == kind]) for kind in kinds]
        rows.append((np.mean(noisy), np.max(noisy), label, means))
    counts = [sum(cell[1] == kind for cell in measured) for kind in kinds]
    head = [f"{kind} ({count})" for kind, count in zip(kinds, counts, strict=True)]
    print("| criterion |", " | ".join([*head, "all noisy", "worst cell"]), "|")
    print("|---|" + "---:|" * (len(kinds) + 2))
    for mean, worst, label, means in sorted(rows, key=lambda row: row[0]):
        print(f"| {label} |", " | ".join(f"{v:.2f}" for v in [*means, mean, worst]), "|")


def spread(candidates: list[dict[str, float]]) -> np.ndarray:
    """Regret of every candidate."""
    accuracy = np.array([values[ORACLE] for values in candidates])
    return 100 * (accuracy.max() - accuracy)


def parse_args() -> argparse.Namespace:
    """Read the command line; the defaults are all sets and noises."""

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",")]

    def numbers(text: str) -> list[int]:
        return [int(name) for name in names(text)]

    order = [*(noise for noise in NOISES if noise != "none"), "none"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of .npz files, instead of OpenML")
    parser.add_argument("--sets", type=names)
    parser.add_argument("--noises", type=names, default=order)
    parser.add_argument("--seeds", type=numbers, default=[0])
    parser.add_argument("--out", type=Path, default=Path("model_selection"))
    parser.add_argument("--tables", action="store_true", help="print the tables, fit nothing")
    args = parser.parse_args()
    known = known_sets(args.data)
    args.sets = args.sets or known
    for given, allowed in ((args.sets, known), (args.noises, NOISES)):
        for name in given:
            if name not in allowed:
                parser.error(f"unknown {name!r}: choose from {', '.join(allowed)}")
    return args


def main() -> None:
    """Run the missing fits and print the tables, by seed."""
    args = parse_args()
    if not args.tables:
        run(args)
    measured = measure(args)
    for seed in args.seeds:
        fits = {cell: candidates for cell, candidates in measured.items() if cell[2] == seed}
        if fits:
            print(f"\nseed {seed}\n")
            print_table(fits)


if __name__ == "__main__":
    main()
