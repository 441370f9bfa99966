"""Real data sets with label noise, for the benchmarks: one case is a set, a noise and a seed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import fetch_openml
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler

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

NOISES = ("none", "symmetric", "pairflip", "instance", "real")
RATE = 0.4
N_ROWS = 4000
"""Maximum number of training rows, by default, and of test rows."""


class Data(NamedTuple):
    """A set before preprocessing; with test rows only if its source has them."""

    X: np.ndarray
    y: np.ndarray
    y_real: np.ndarray | None = None
    X_test: np.ndarray | None = None
    y_test: np.ndarray | None = None


class Case(NamedTuple):
    """Training rows (standardised) with noisy and true labels, and clean test rows."""

    X: np.ndarray
    y_noisy: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load(name: str, folder: Path | None) -> Data:
    """Read ``folder/name.npz``, or without a folder fetch the set from OpenML."""
    if folder is not None:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            keys = ("X", "y", "y_noisy", "X_test", "y_test")
            return Data(*map(arrays.get, keys))
    X, y = fetch_openml(data_id=OPENML[name], return_X_y=True, as_frame=True)
    words = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    encode = make_column_transformer(
        (SimpleImputer(), make_column_selector(dtype_include="number")),
        (words, make_column_selector(dtype_exclude="number")),
    )
    return Data(encode.fit_transform(X), LabelEncoder().fit_transform(y))


def known_sets(folder: Path | None) -> list[str]:
    """Return the names of all sets."""
    return sorted(path.stem for path in folder.glob("*.npz")) if folder else list(OPENML)


def noises(data: Data) -> list[str]:
    """Return the kinds of noise of a set; with two classes pair-flip noise is symmetric noise."""
    without = set()
    if data.y_real is None:
        without.add("real")
    if len(np.unique(data.y)) == 2:
        without.add("pairflip")
    return [noise for noise in NOISES if noise not in without]


def make_case(data: Data, noise: str, seed: int, n_rows: int = N_ROWS) -> Case:
    """Split, take at most ``n_rows`` training rows, standardise, and add label noise."""
    if data.X_test is None:
        rows, test_rows = train_test_split(
            np.arange(len(data.y)), test_size=0.3, stratify=data.y, random_state=seed
        )
        X_test, y_test = data.X[test_rows], data.y[test_rows]
    else:
        rows = np.random.RandomState(seed).permutation(len(data.y))
        X_test, y_test = data.X_test, data.y_test
    rows, X_test, y_test = rows[:n_rows], X_test[:N_ROWS], y_test[:N_ROWS]
    X, y = data.X[rows], data.y[rows]
    # Embeddings may be in half precision, in which a sum of squares overflows.
    scaler = StandardScaler().fit(X.astype(np.float64))
    X, X_test = (scaler.transform(part.astype(np.float64)) for part in (X, X_test))
    if noise == "none":
        y_noisy = y
    elif noise == "real":
        y_noisy = data.y_real[rows]
    else:
        y_noisy, _ = make_label_noise(y, X, kind=noise, rate=RATE, random_state=seed)
    return Case(X, y_noisy, y, X_test, y_test)
