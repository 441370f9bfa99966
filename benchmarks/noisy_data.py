"""Real data sets with label noise, for the benchmarks: one case is a set, a noise and a seed.

A kind of synthetic noise has its rate in percent behind it, as in ``symmetric-20``; without one the
rate is 40 %. ``real`` is the noise in the file's ``y_noisy``, and ``real-aggre`` that in
``y_noisy_aggre``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import fetch_openml
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder, OrdinalEncoder, StandardScaler

from sklearn_clidmu.datasets import make_label_noise

OPENML = {
    "adult": 1590,
    "optdigits": 28,
    "pendigits": 32,
    "satimage": 182,
    "spambase": 44,
    "phoneme": 1489,
    "letter": 6,
    "vehicle": 54,
    "segment": 36,
    "har": 1478,
}
"""OpenML data_id of each set."""

EMBEDDINGS = (
    "agnews banking77 cifar10n_sqz hausa_news medrel_treat mitr_weak mnist10k noisyag_human "
    "trec_weak"
)
"""Sets of embeddings, or of pixels; all others are tables."""

NOISES = ("none", "symmetric", "pairflip", "instance", "real")
RATE = 0.4
RATED_NOISES = (
    "none",
    *(f"symmetric-{rate}" for rate in (5, 10, 20, 40, 60)),
    *(f"pairflip-{rate}" for rate in (20, 40)),
    *(f"instance-{rate}" for rate in (20, 30, 40)),
    "real",
)
"""Noises of accuracy.py, which adds the variants of real noise that a set has."""

N_ROWS = 4000
"""Maximum number of training rows, by default, and of test rows."""

TEST_SHARE = 0.3
"""Share of the test rows, of a set without its own."""


class Data(NamedTuple):
    """A set before preprocessing; with test rows only if its source has them."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    real: Mapping[str, np.ndarray] = MappingProxyType({})
    """Labels with real noise, by the name of the noise."""


class Case(NamedTuple):
    """Training rows with noisy and true labels, and clean test rows."""

    X: np.ndarray
    y_noisy: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load(name: str, folder: Path | None) -> Data:
    """Read ``folder/name.npz``, or without a folder fetch the set from OpenML."""
    if folder is not None:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            real = {
                key.replace("y_noisy", "real").replace("_", "-"): arrays[key].astype(np.int64)
                for key in arrays
                if key.startswith("y_noisy")
            }
            return Data(*map(arrays.get, ("X", "y", "X_test", "y_test")), real)
    X, y = fetch_openml(data_id=OPENML[name], return_X_y=True, as_frame=True)
    encode = make_column_transformer(
        (SimpleImputer(), make_column_selector(dtype_include="number")),
        (OrdinalEncoder(encoded_missing_value=-1), make_column_selector(dtype_exclude="number")),
    )
    return Data(encode.fit_transform(X), LabelEncoder().fit_transform(y))


def known_sets(folder: Path | None) -> list[str]:
    """Return the names of all sets."""
    return sorted(path.stem for path in folder.glob("*.npz")) if folder else list(OPENML)


def noises(data: Data, names: Sequence[str] = NOISES) -> list[str]:
    """Return the noises that a set has; with two classes pair-flip noise is symmetric noise."""
    without = {"real"} - set(data.real)
    if len(np.unique(data.y)) == 2:
        without.add("pairflip")
    return [noise for noise in names if noise.split("-")[0] not in without]


def count_rows(data: Data) -> int:
    """Count the rows that can be drawn for training."""
    n_rows = len(data.y)
    return n_rows - int(np.ceil(TEST_SHARE * n_rows)) if data.X_test is None else n_rows


def make_case(
    data: Data, noise: str, seed: int, n_rows: int | None = N_ROWS, standardize: bool = True
) -> Case:
    """Split, take at most ``n_rows`` training rows (None: all), and add label noise."""
    rows, X_test, y_test = np.arange(len(data.y)), data.X_test, data.y_test
    if X_test is None:
        rows, test_rows = train_test_split(
            rows, test_size=TEST_SHARE, stratify=data.y, random_state=seed
        )
        X_test, y_test = data.X[test_rows], data.y[test_rows]
    else:
        rows = np.random.RandomState(seed).permutation(rows)
    rows, X_test, y_test = rows[:n_rows], X_test[:N_ROWS], y_test[:N_ROWS]
    # Embeddings may be in half precision, in which a sum of squares overflows.
    X, y, X_test = data.X[rows].astype(np.float64), data.y[rows], X_test.astype(np.float64)
    scaler = StandardScaler().fit(X)
    scaled = scaler.transform(X)
    kind, _, rate = noise.partition("-")
    if noise == "none":
        y_noisy = y
    elif kind == "real":
        y_noisy = data.real[noise][rows]
    else:
        rate = int(rate) / 100 if rate else RATE
        y_noisy, _ = make_label_noise(y, scaled, kind=kind, rate=rate, random_state=seed)
    if standardize:
        X, X_test = scaled, scaler.transform(X_test)
    return Case(X, y_noisy, y, X_test, y_test)
