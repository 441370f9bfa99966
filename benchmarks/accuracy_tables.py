"""Tables in Markdown from the CSV file of accuracy.py.

A cell is a set with a kind of noise; its value is the mean over the seeds. Means are over the cells
that a method has: compare methods without failed fits only. Accuracies are in percent.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

OURS = "clidmu"
ORACLE = "oracle"
VARIANTS = ("weighting none", "objective mae", "wnet", "vri")
CONTROLS = (*VARIANTS, "svc")
KINDS = ("none", "symmetric", "pairflip", "instance", "real")
TIE = 0.0005
MIN_GAP = 0.02
"""Minimum lead of the oracle over a control for a recovered share of the cell."""


def to_markdown(table: pd.DataFrame, digits: int = 2) -> str:
    """Format a table; missing values are empty."""

    def text(value: object) -> str:
        if isinstance(value, (float, np.floating)):
            return "" if np.isnan(value) else f"{value:.{digits}f}"
        return str(value)

    lines = [["", *table.columns], ["---"] + ["---:"] * table.shape[1]]
    lines += [
        [" ".join(name) if isinstance(name, tuple) else name, *row]
        for name, row in zip(table.index, table.astype(object).to_numpy(), strict=True)
    ]
    return "\n".join("| " + " | ".join(map(text, line)) + " |" for line in lines)


def cell_means(fits: pd.DataFrame, column: str) -> pd.DataFrame:
    """Average a column over the seeds: a row per cell, a column per method."""
    table = fits.pivot_table(column, ["set", "noise"], "method", dropna=False)
    cells = pd.MultiIndex.from_frame(fits[["set", "noise"]].drop_duplicates())
    return table.reindex(index=cells, columns=fits["method"].unique())


def noisy(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with noise."""
    return cells[cells.index.get_level_values("noise") != "none"]


def by_kind(cells: pd.DataFrame) -> pd.DataFrame:
    """Average over the cells of each kind of noise: a row per method."""
    means = cells.groupby(level="noise").mean().T
    return means[[kind for kind in KINDS if kind in means]]


def accuracy_table(fits: pd.DataFrame) -> pd.DataFrame:
    """Compare the methods, and the best peer of each cell, in accuracy, rank and time."""
    cells = cell_means(fits, "accuracy")
    peers = cells.columns.difference([OURS, *VARIANTS, ORACLE])
    best = cells.assign(**{"best peer per cell, in hindsight": cells[peers].max(axis=1)})
    table = 100 * by_kind(best)
    table["all noisy"] = 100 * noisy(best).mean()
    table["noisy, balanced"] = 100 * noisy(cell_means(fits, "balanced_accuracy")).mean()
    ranked = noisy(cells).drop(columns=ORACLE, errors="ignore")
    ranks = ranked.rank(axis=1, ascending=False).fillna(ranked.shape[1])
    table["rank"] = ranks.mean()
    table["CPU s"] = cell_means(fits, "seconds").mean()
    for name, chosen in (("fits", fits["accuracy"].notna()), ("failed", fits["accuracy"].isna())):
        counts = fits[chosen].groupby("method").size().reindex(cells.columns, fill_value=0)
        table[name] = counts.astype(str).reindex(table.index, fill_value="")
    return table


def detection_table(fits: pd.DataFrame) -> pd.DataFrame:
    """Compare the methods that have noise scores by how well these find wrong labels."""
    parts = {}
    for name, column in (("AUROC", "auroc"), ("AP", "average_precision")):
        cells = noisy(cell_means(fits, column)).dropna(axis=1, how="all")
        means = by_kind(cells)
        means["all noisy"] = cells.mean()
        parts[name] = means.add_prefix(f"{name} ")
    return pd.concat(parts.values(), axis=1)


def compare(fits: pd.DataFrame, control: str) -> dict[str, float | str]:
    """Compare ours with one control, on the fits that both have."""
    runs = fits.pivot_table("accuracy", ["set", "noise", "seed"], "method")
    # Without an oracle its columns are empty and all others unchanged.
    runs = runs.reindex(columns=[OURS, control, ORACLE]).dropna(subset=[OURS, control])
    lead = (runs[OURS] - runs[control]).groupby(level=["set", "noise"], sort=False).mean()
    lead, clean = noisy(lead), lead.drop(noisy(lead).index)
    runs = runs.dropna()
    gains = noisy(runs.sub(runs[control], axis=0).groupby(level=["set", "noise"]).mean())
    wide = gains[gains[ORACLE] >= MIN_GAP]
    wins, losses = (lead >= TIE).sum(), (lead <= -TIE).sum()
    return {
        "wins/ties/losses": f"{wins}/{len(lead) - wins - losses}/{losses}",
        "mean difference": 100 * lead.mean(),
        "Wilcoxon p": f"{wilcoxon(lead).pvalue:.2g}" if lead.any() else "",
        "difference, no noise": 100 * clean.mean(),
        "recovered, ratio of means": gains[OURS].mean() / gains[ORACLE].mean(),
        "recovered, mean per cell": (wide[OURS] / wide[ORACLE]).mean(),
        "of cells": str(len(wide)),
    }


def comparison_table(fits: pd.DataFrame) -> pd.DataFrame:
    """Compare ours with each of the controls in the file."""
    controls = [name for name in CONTROLS if name in set(fits["method"])]
    return pd.DataFrame({name: compare(fits, name) for name in controls}).T


def print_tables(path: Path) -> None:
    """Print all tables of a file."""
    # "none" is a kind of noise, not a missing value.
    fits = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
    print(f"\n{len(fits)} fits, {len(cell_means(fits, 'accuracy'))} cells of set and noise.")
    print("\n## Accuracy\n")
    print("Means over the cells a method has; in the rank, a cell it lacks counts as last.\n")
    print(to_markdown(accuracy_table(fits)))
    print("\n## Finding wrong labels\n")
    print(to_markdown(detection_table(fits), digits=3))
    if OURS in set(fits["method"]):
        print(f"\n## {OURS} against its controls\n")
        print("Points of accuracy, over the noisy cells that both have.")
        print("Recovered is (ours - control) / (oracle - control), per cell where the oracle")
        print(f"leads by at least {100 * MIN_GAP:.0f} points.\n")
        print(to_markdown(comparison_table(fits)))
    print("\n## Accuracy per cell\n")
    print(to_markdown(100 * cell_means(fits, "accuracy")))
