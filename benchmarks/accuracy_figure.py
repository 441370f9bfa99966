"""Draw accuracy against the rate of symmetric noise, from the CSV file of accuracy.py.

    python benchmarks/accuracy_figure.py [accuracy.csv] [--methods a,b] [--out accuracy.png]

Means are over the sets that every listed method has been measured on at every rate in the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from accuracy_tables import read
from noisy_data import N_ROWS
from peers import CONTROL, OURS

mpl.use("Agg")
import matplotlib.pyplot as plt

NAMES = {
    OURS: "CLIDMUClassifier",
    CONTROL: "same network, weighting=None",
    "svc": "RBF-SVC",
    "hgb-short": "short boosting",
    "random-forest": "random forest",
}
CLEAN = "none"


def by_rate(fits: pd.DataFrame, methods: list[str]) -> tuple[pd.DataFrame, int]:
    """Mean accuracy in percent by rate (rows) and method (columns), and the number of sets."""
    rated = fits.noise.str.startswith("symmetric-") | (fits.noise == CLEAN)
    fits = fits[rated & fits.method.isin(methods) & (fits.rows == str(N_ROWS))]
    rate = fits.noise.str.removeprefix("symmetric-").replace(CLEAN, "0").astype(int)
    table = fits.assign(rate=rate).pivot_table("accuracy", "set", ["method", "rate"])
    table = table.dropna()
    return 100 * table.mean().unstack("method")[methods], len(table)


def draw(table: pd.DataFrame, n_sets: int, path: Path) -> None:
    """Draw one line a method, ours in the foreground."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for number, method in enumerate(table):
        ours = method == OURS
        style = {"lw": 2.5, "color": "black", "zorder": 3} if ours else {"color": f"C{number}"}
        axes.plot(table.index, table[method], marker="o", label=NAMES.get(method, method), **style)
    axes.set_xlabel("wrong labels in the training set (%)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(f"Symmetric noise, mean over {n_sets} data sets")
    axes.set_xticks(table.index)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", nargs="?", type=Path, default=Path("accuracy.csv"))
    parser.add_argument("--methods", default=",".join(NAMES))
    parser.add_argument("--out", type=Path, default=Path("accuracy.png"))
    args = parser.parse_args()
    table, n_sets = by_rate(read(args.csv), args.methods.split(","))
    print(table.round(1).to_string(), f"\n{n_sets} sets")
    draw(table, n_sets, args.out)


if __name__ == "__main__":
    main()
