"""Tables in Markdown from the CSV file of accuracy.py.

    python benchmarks/accuracy_tables.py [accuracy.csv] [--table NAME] [--methods a,b]
        [--sets a,b] [--rows 4000]

Tables: accuracy, log-loss, detection, comparison; balanced (accuracy), sets (a line per cell) and
missing (every fit that is absent or failed). Without ``--table`` the first four.

A cell is a set with a noise, a number of rows and a seed. Means are over the cells in which every
listed method has a value; the others are counted, by the methods that lack them. A method without
any value of a score, such as SVC's log loss, is named and not listed. The seeds of a set with a
noise are averaged first. Accuracies are in percent, and of log losses the lower ones are better.
CPU seconds are over all fits, with the sets and noises of the table, that did not fail.
"real" is the main real noise of a set; variants of it are in the table of real noise alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from noisy_data import EMBEDDINGS, RATED_NOISES
from peers import ORACLE, OURS, VARIANTS
from scipy.stats import wilcoxon

CELL = ["set", "noise", "rows", "seed"]
TIE = 0.0005
"""Differences of a score below this are ties."""

MOST_NAMES = 12
"""Names of cells in a line; the table of missing fits has all of them."""

COLUMNS = {"balanced": "balanced_accuracy", "log-loss": "log_loss"}
SUMMARY = ("accuracy", "log-loss", "detection", "comparison")
TABLES = (*SUMMARY, "balanced", "sets", "missing")


def to_markdown(table: pd.DataFrame, digits: int = 2) -> str:
    """Format a table; missing values are "nan"."""

    def text(value: object) -> str:
        return f"{value:.{digits}f}" if isinstance(value, (float, np.floating)) else str(value)

    lines = [["", *table.columns], ["---"] + ["---:"] * table.shape[1]]
    lines += [
        [" ".join(map(str, name)) if isinstance(name, tuple) else name, *row]
        for name, row in zip(table.index, table.astype(object).to_numpy(), strict=True)
    ]
    return "\n".join("| " + " | ".join(map(text, line)) + " |" for line in lines)


def read(path: Path) -> pd.DataFrame:
    """Read the fits; "none" is a kind of noise, not a missing value."""
    return pd.read_csv(path, keep_default_na=False, na_values=["nan"], dtype={"rows": str})


def by_method(fits: pd.DataFrame, column: str) -> pd.DataFrame:
    """Spread a column: a row per cell, a column per method."""
    return fits.set_index([*CELL, "method"])[column].unstack("method")[fits["method"].unique()]


def complete(fits: pd.DataFrame, column: str) -> pd.DataFrame:
    """Average the cells that all methods have over the seeds, and say which were left out."""
    values = by_method(fits, column)
    if column in ("auroc", "average_precision"):  # without wrong labels there is nothing to find
        true_rates = by_method(fits, "true_noise_rate").max(axis=1)
        values = values[(true_rates > 0) & (true_rates < 1)]
    without = values.columns[values.isna().all()]
    values = values.drop(columns=without)
    print(f"{len(values.dropna())} of {len(values)} cells have {column} of every listed method.")
    if len(without):
        print(f"\nWithout any, and not listed: {', '.join(without)}.")
    left_out = values[values.isna().any(axis=1)]
    lacking = left_out.isna().apply(lambda cell: ", ".join(cell.index[cell]), axis=1)
    for methods, cells in left_out.groupby(lacking) if len(left_out) else ():
        names = [" ".join(map(str, cell)) for cell in cells.index]
        more = " and others" if len(names) > MOST_NAMES else ""
        print(f"\n{len(names)} left out, not in {methods}: {', '.join(names[:MOST_NAMES])}{more}.")
    print()
    scale = 100 if column.endswith("accuracy") else 1
    return scale * values.dropna().groupby(level=["set", "noise"]).mean()


def of(cells: pd.DataFrame, level: str, names: Sequence[str]) -> pd.DataFrame:
    """Select cells by set or noise."""
    return cells[cells.index.get_level_values(level).isin(names)]


def by_noise(cells: pd.DataFrame) -> pd.DataFrame:
    """Average over the sets with each noise: a row per method; the head counts the sets."""
    table = {}
    for noise in (*RATED_NOISES, "all noisy"):
        some = of(cells, "noise", RATED_NOISES[1:] if noise == "all noisy" else [noise])
        if len(some):
            table[f"{'clean' if noise == 'none' else noise} ({len(some)})"] = some.mean()
    return pd.DataFrame(table)


def score_table(cells: pd.DataFrame, fits: pd.DataFrame, ascending: bool) -> pd.DataFrame:
    """Average by noise, with the mean rank over all these cells and the time of a fit."""
    table = by_noise(cells)
    ranked = of(cells, "noise", RATED_NOISES).drop(columns=ORACLE, errors="ignore")
    table["rank"] = ranked.rank(axis=1, ascending=ascending).mean()
    same = fits.set_index(["set", "noise"]).index.isin(cells.index)
    table["CPU s"] = fits[same].groupby("method")["seconds"].mean()
    return table


def real_table(cells: pd.DataFrame) -> pd.DataFrame:
    """List every set with real noise, and the mean over the main noise of each."""
    real = cells[cells.index.get_level_values("noise").str.startswith("real")]
    table = real.T.set_axis([" ".join(cell) for cell in real.index], axis=1)
    table["mean of main"] = of(real, "noise", ["real"]).mean()
    return table


def print_scores(fits: pd.DataFrame, column: str) -> None:
    """Print a score by noise: of all sets, tables, embeddings and real noise."""
    cells = complete(fits, column)
    embeddings = EMBEDDINGS.split()
    tables = cells.index.get_level_values("set").difference(embeddings)
    digits = 2 if column.endswith("accuracy") else 3
    parts = ("all sets", None), ("tables", tables), ("embeddings and pixels", embeddings)
    for title, sets in parts:
        some = cells if sets is None else of(cells, "set", sets)
        if len(some):
            print(f"{column}, {title} (number of sets with each noise):\n")
            print(to_markdown(score_table(some, fits, column == "log_loss"), digits), end="\n\n")
    real = real_table(cells)
    if real.shape[1] > 1:
        print(f"{column}, real noise:\n\n{to_markdown(real, digits)}\n")


def print_detection(fits: pd.DataFrame) -> None:
    """Print how well noise scores find wrong labels, and the error of the estimated rate."""
    for column in ("auroc", "average_precision"):
        print(f"{column}:\n")
        print(to_markdown(by_noise(complete(fits, column)), 3), end="\n\n")
    rates = fits.assign(rate_error=abs(fits["noise_rate"] - fits["true_noise_rate"]))
    print("Absolute error of noise_rate_:\n")
    print(to_markdown(by_noise(complete(rates, "rate_error")), 3), end="\n\n")


def compare(lead: pd.Series) -> str:
    """Wins, ties and losses, the mean lead, and the p of Wilcoxon's test, of leads in points."""
    wins, losses = (lead >= 100 * TIE).sum(), (lead <= -100 * TIE).sum()
    p = f"{wilcoxon(lead).pvalue:.2g}" if lead.any() else "-"
    return f"{wins}/{len(lead) - wins - losses}/{losses} {lead.mean():+.2f} ({p})"


def print_comparison(fits: pd.DataFrame) -> None:
    """Print the lead of ours over every other method, by noise."""
    cells = complete(fits, "accuracy")
    if OURS not in cells:
        print(f"There is no {OURS} to compare.")
        return
    print(f"{OURS} against the others: wins/ties/losses, mean lead in points of accuracy, and p of")
    print("Wilcoxon's signed-rank test over the sets.\n")
    leads = cells.drop(columns=OURS).rsub(cells[OURS], axis=0)
    groups = {"clean": ["none"]} | {noise: [noise] for noise in RATED_NOISES[1:]}
    groups["all noisy"] = list(RATED_NOISES[1:])
    some = {name: of(leads, "noise", noises) for name, noises in groups.items()}
    table = {name: part.apply(compare) for name, part in some.items() if len(part)}
    print(to_markdown(pd.DataFrame(table)), end="\n\n")


def print_sets(fits: pd.DataFrame) -> None:
    """Print the accuracy of every set with every noise, of the fits that there are."""
    cells = 100 * by_method(fits, "accuracy").groupby(level=["set", "noise"]).mean()
    peers = cells.columns.difference([OURS, *VARIANTS, ORACLE])
    print(to_markdown(cells.assign(**{"best peer": cells[peers].max(axis=1)})), end="\n\n")


def print_missing(fits: pd.DataFrame) -> None:
    """Print every fit that is absent or failed, with its error."""
    errors = by_method(fits, "error").stack(future_stack=True)
    for key, error in errors[errors != ""].items():
        print(*key, "not run" if pd.isna(error) else error, sep="  ")


def print_table(name: str, fits: pd.DataFrame) -> None:
    """Print one table of each number of rows."""
    printers = {"detection": print_detection, "comparison": print_comparison}
    printers |= {"sets": print_sets, "missing": print_missing}
    for rows, some in fits.groupby("rows", sort=False):
        print(f"\n## {name}, rows: {rows}\n")
        if name in printers:
            printers[name](some)
        else:
            print_scores(some, COLUMNS.get(name, name))


def print_tables(path: Path) -> None:
    """Print the tables that summarise a file."""
    fits = read(path)
    print(f"\n{len(fits)} fits, of which {(fits['error'] != '').sum()} failed.")
    for name in SUMMARY:
        print_table(name, fits)


def main() -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, nargs="?", default=Path("accuracy.csv"))
    parser.add_argument("--table", choices=TABLES)
    for option in ("methods", "sets", "rows"):
        parser.add_argument(f"--{option}", type=lambda text: text.split(","))
    args = parser.parse_args()
    fits = read(args.csv)
    for column, names in (("method", args.methods), ("set", args.sets), ("rows", args.rows)):
        unknown = set(names or ()) - set(fits[column])
        if unknown:
            parser.error(f"no {column} {', '.join(sorted(unknown))} in {args.csv}")
        fits = fits[fits[column].isin(names)] if names else fits
    for name in [args.table] if args.table else SUMMARY:
        print_table(name, fits)


if __name__ == "__main__":
    main()
