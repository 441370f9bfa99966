"""Halve and double each constant that steers the weighting, and measure what changes.

    python benchmarks/sensitivity.py --data FOLDER [options of accuracy.py]

Takes the options of accuracy.py. By default it runs twelve sets with 20 and 40 % wrong labels and
one seed. The methods are variants of CLIDMUClassifier. At the end it prints the mean change of the
accuracy in points and of the AUROC, with their standard errors over the cells.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accuracy
import pandas as pd
from accuracy_tables import to_markdown
from peers import METHODS, OURS, Method, ours

import sklearn_clidmu
from sklearn_clidmu import CLIDMUClassifier, _settings
from sklearn_clidmu.noise import label_confidence

CONSTANTS = {
    "ANCHORS": _settings,
    "PRIOR_ROWS": _settings,
    "SHORT_EPOCHS": _settings,
    "N_FREQUENCIES": _settings,
    "META_STEP_ROWS": _settings,
    "LEAST_PROBA": label_confidence,
}
PARAMETERS = {"n_folds": 5, "temperature": 0.5, "meta_lr": _settings.META_LR["evidence"]}
FACTORS = {"halved": 0.5, "doubled": 2}
SETS = (
    *("adult", "agnews", "car", "churn", "krkopt", "letter"),
    *("music_genre", "optdigits", "phoneme", "ring", "satimage", "waveform_40"),
)
NOISES = ("symmetric-20", "symmetric-40")


def scaled(value: Any, factor: float) -> Any:
    """Scale a number; whole ones stay whole."""
    return type(value)(round(factor * value) if isinstance(value, int) else factor * value)


@contextmanager
def replaced(name: str, value: Any) -> Iterator[None]:
    """Replace a constant in every module that has it."""
    found = pkgutil.walk_packages(sklearn_clidmu.__path__, "sklearn_clidmu.")
    modules = [importlib.import_module(one.name) for one in found]
    holders = [(module, getattr(module, name)) for module in modules if hasattr(module, name)]
    for module, _ in holders:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, before in holders:
            setattr(module, name, before)


def with_constant(name: str, value: Any) -> Callable[[int], CLIDMUClassifier]:
    """Build a classifier that is fitted with another value of a constant."""

    class Varied(CLIDMUClassifier):
        def fit(self, X: Any, y: Any) -> Varied:
            with replaced(name, value):
                return super().fit(X, y)

    return lambda seed: Varied(random_state=seed)


def variants() -> dict[str, Method]:
    """Return the variants by name."""
    found = {}
    for word, factor in FACTORS.items():
        for name, module in CONSTANTS.items():
            value = scaled(getattr(module, name), factor)
            found[f"{name} {word}"] = Method(with_constant(name, value))
        for name, value in PARAMETERS.items():
            found[f"{name} {word}"] = ours(**{name: scaled(value, factor)})
    return found


def print_changes(path: Path) -> None:
    """Print what each variant changes, as a table in Markdown."""
    table = pd.read_csv(path)
    table["accuracy"] *= 100
    figures = ["accuracy", "auroc"]
    pivot = table.pivot_table(index=["set", "noise"], columns="method", values=figures)
    changes = {name: pivot[name].sub(pivot[name, OURS], axis=0) for name in figures}
    rows = {}
    for method in pivot["accuracy"].columns.drop(OURS):
        points, auroc = (changes[name][method].dropna() for name in figures)
        errors = (
            f"{points.mean():.2f} ± {points.sem():.2f}",
            f"{auroc.mean():.4f} ± {auroc.sem():.4f}",
        )
        rows[method] = [*errors, len(points)]
    print(to_markdown(pd.DataFrame.from_dict(rows, "index", columns=[*figures, "cells"])))


def main() -> None:
    """Run the missing fits and print the changes."""
    METHODS.clear()
    METHODS.update({OURS: ours(), **variants()})
    args = accuracy.parse_args(sets=SETS, noises=NOISES, seeds=1, out=Path("sensitivity.csv"))
    if not args.tables:
        accuracy.run(args)
    print_changes(args.out)


if __name__ == "__main__":
    main()
