"""Compare CLID-MU, as published and as it is here, with published methods on one network.

    python benchmarks/literature.py noise --data FOLDER [--methods a,b] [--out literature.csv]
    python benchmarks/literature.py labels --data FOLDER
    python benchmarks/literature.py noise|labels --tables

``noise`` runs the methods on sets with several kinds of label noise, all rows labeled; ``labels``
with a part of the labels, of which 40 % are wrong. A cell is a set with a noise, a share of labels
and a seed; each has at most 2,000 training rows. literature_methods.py has the methods. Sets come
from ``.npz`` files of a folder, as in noisy_data.py.

Appends one line per fit to a CSV file and skips the fits in it, so that a run can be resumed. At
the end, and with ``--tables``, it prints the table of the cells that all its methods have.
"Seconds" are CPU seconds of the fit and of the choice of the weight decay.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from accuracy_tables import to_markdown
from literature_methods import CONTROL, CPU, DEFAULT, METHODS, OWN_CHOICE, make_problem
from noisy_data import Case, load, make_case, noises
from threadpoolctl import threadpool_limits

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu._random import local_generators

N_ROWS = 2000
SYNTHETIC = ("symmetric-40", "pairflip-40", "instance-30", "symmetric-20")
SETS = (
    *("agnews", "letter", "phoneme", "optdigits", "waveform_40", "adult"),
    *("satimage", "mnist10k", "spambase", "pendigits", "splice", "trec_weak"),
)
REAL = (
    *("cifar10n_sqz", "hausa_news", "medrel_treat", "mitr_weak", "music_genre"),
    *("noisyag_human", "trec_weak"),
)
ALL = tuple(dict.fromkeys((*REAL, *SETS)))
FEW = ("agnews", "optdigits", "spambase", "trec_weak", "satimage", "pendigits")
SHARES = (5, 10, 25, 50, 100)
"""Percent of the training rows that keep their label."""

PSEUDO = "control, pseudo-labels"
TABLE_METHODS = {
    "noise": [name for name in METHODS if name != PSEUDO],
    "labels": [
        name
        for name in METHODS
        if name not in ("label-smoothing", "mw-net-1000", "corrected-1000", "paper-call")
    ],
}
PAIRS = [(ours, f"mw-net-{size}") for ours in ("clid-wnet", "clid-vri") for size in (100, 1000)]
KEYS = ("set", "noise", "labels", "seed", "method")
COLUMNS = (*KEYS, "accuracy", "seconds", "weight_decay", "error")
POINTS = 100


class Cell(NamedTuple):
    """A case by name."""

    set: str
    noise: str
    labels: int
    seed: int


def find_cells(table: str, folder: Path) -> list[Cell]:
    """Return the cells of a table."""
    if table == "labels":
        return [Cell(name, "symmetric-40", share, 0) for name in FEW for share in SHARES]
    kinds = {name: ["real"] * (name in REAL) + list(SYNTHETIC) * (name in SETS) for name in ALL}
    return [
        Cell(name, noise, 100, 0)
        for name in ALL
        for noise in noises(load(name, folder), kinds[name])
    ]


def remove_labels(case: Case, cell: Cell) -> np.ndarray:
    """Given labels, of which only a share is left; -1 marks the others."""
    codes = case.y_noisy.copy()
    order = np.random.RandomState(100 + cell.seed).permutation(len(codes))
    codes[order[round(len(codes) * cell.labels / 100) :]] = -1
    return codes


def run_cell(cell: Cell, case: Case, methods: list[str]) -> Iterator[dict]:
    """Fit the methods on one cell, each from the same seed; an error is stored in the row."""
    codes = remove_labels(case, cell)
    with local_generators(cell.seed, CPU):
        start = time.process_time()
        problem = make_problem(case.X, codes, case.y, cell.seed)
        choice = time.process_time() - start
    for method in methods:
        row = dict(zip(KEYS, (*cell, method), strict=True), error="")
        row["weight_decay"] = "" if method in OWN_CHOICE else problem.settings.weight_decay
        try:
            with local_generators(cell.seed, CPU):
                start = time.process_time()
                fitted = METHODS[method](problem)
                seconds = time.process_time() - start
            row["seconds"] = seconds + (0 if method in OWN_CHOICE else choice)
            row["accuracy"] = (fitted.predict(case.X_test) == case.y_test).mean()
        except Exception as error:
            row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        yield row


def read_done(path: Path) -> set[tuple[str, ...]]:
    """Return the keys of the fits in the file."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[key] for key in KEYS) for row in csv.DictReader(file)}


def run(args: argparse.Namespace) -> None:
    """Append the missing rows to the file, each after its fit."""
    done = read_done(args.out)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # of convergence
    with threadpool_limits(1), args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        CLIDMUClassifier().fit(np.eye(2).repeat(50, 0), np.repeat([0, 1], 50))  # torch's own start
        for cell in find_cells(args.table, args.data):
            key = tuple(map(str, cell))
            missing = [name for name in args.methods if (*key, name) not in done]
            if not missing:
                continue
            data = load(cell.set, args.data)
            case = make_case(data, cell.noise, cell.seed, N_ROWS, standardize=False)
            for row in run_cell(cell, case, missing):
                writer.writerow(row)
                file.flush()
                print(*(row.get(name, "") for name in COLUMNS), sep="  ", flush=True)


def print_table(args: argparse.Namespace) -> None:
    """Print mean accuracies, and mean paired differences with their standard error over cells."""
    fits = pd.read_csv(args.out)
    fits = fits[fits["method"].isin(args.methods)]
    if args.table == "labels":
        fits = fits[fits["set"].isin(FEW) & (fits["noise"] == "symmetric-40")]
    else:
        fits = fits[fits["labels"] == 100]
    failed = fits[fits["accuracy"].isna()]
    print(f"{len(fits)} fits, of which {len(failed)} failed.\n")
    cells = fits.pivot(index=list(KEYS[:-1]), columns="method", values="accuracy")
    cells = POINTS * cells[[name for name in args.methods if name in cells]].dropna()
    seconds = fits.pivot(index=list(KEYS[:-1]), columns="method", values="seconds").loc[cells.index]
    by = "noise" if args.table == "noise" else "labels"
    groups = cells.groupby(level=by)
    table = pd.DataFrame({f"{name} ({len(some)})": some.mean() for name, some in groups})
    table["all"] = cells.mean()
    table["over control"] = cells.sub(cells[CONTROL], axis=0).apply(with_error)
    table[f"{DEFAULT} over it"] = cells.rsub(cells[DEFAULT], axis=0).apply(with_error)
    table["rank"] = cells.rank(axis=1, ascending=False).mean()
    table["time"] = seconds.sum() / seconds[CONTROL].sum()
    print(to_markdown(table.loc[cells.columns], digits=1))
    print(f"\nThe control takes {seconds[CONTROL].mean():.2f} CPU seconds.")
    for name, other in PAIRS:
        if {name, other} <= set(cells):
            print(f"{name} over {other}: {with_error(cells[name] - cells[other])}")


def with_error(differences: pd.Series) -> str:
    """Mean and standard error of paired differences."""
    return f"{differences.mean():+.1f} ± {differences.std() / len(differences) ** 0.5:.1f}"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=tuple(TABLE_METHODS))
    parser.add_argument("--data", type=Path, help="folder of .npz files")
    parser.add_argument("--methods", type=lambda text: text.split(","))
    parser.add_argument("--out", type=Path, default=Path("literature.csv"))
    parser.add_argument("--tables", action="store_true", help="print the table, fit nothing")
    args = parser.parse_args()
    args.methods = args.methods or TABLE_METHODS[args.table]
    unknown = set(args.methods) - set(METHODS)
    if unknown:
        parser.error(f"unknown methods {', '.join(sorted(unknown))}")
    if not args.tables and args.data is None:
        parser.error("--data is needed to fit")
    return args


def main() -> None:
    """Run the missing fits and print the table."""
    args = parse_args()
    if not args.tables:
        run(args)
    print_table(args)


if __name__ == "__main__":
    main()
