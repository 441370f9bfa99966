"""Rows as they come: frames, arrays, sparse matrices, tensors; and as training takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.utils.validation import validate_data
from torch import Tensor

from sklearn_clidmu.estimator.arguments import as_numpy
from sklearn_clidmu.training.batches import SparseRows

N_COMPONENTS = 256
"""The judge sees as many singular vectors of a sparse table: it looks at distances, and a table
of tens of thousands of columns cannot be made dense."""

NEAR = 3
"""Powers of two by which the root mean square of a sparse table may be off without harm."""


def check_rows(estimator: BaseEstimator, X: Any, *, reset: bool, allow_nd: bool) -> Any:
    """Rows of finite floating-point numbers, float32 where they came so or in half precision.

    Parameters
    ----------
    estimator : BaseEstimator
        Whose feature names and number of features are set or compared.
    X : array-like, sparse matrix or sparse array of shape (n, d), or of shape (n, ...)
    reset : bool
        Whether they are set.
    allow_nd : bool
        Whether a row may be more than a vector.

    Returns
    -------
    ndarray, csr_array or csr_matrix

    Raises
    ------
    ValueError
        If X is not that; where it has strings or dates, the message says what to do about them.
    """
    X = as_numpy(X)
    half = getattr(X, "dtype", None) == np.float16
    dtype = np.float32 if half else [np.float64, np.float32]
    try:
        return validate_data(
            estimator,
            X,
            "no_validation",
            reset=reset,
            dtype=dtype,
            accept_sparse="csr",
            allow_nd=allow_nd,
        )
    except (ValueError, TypeError) as error:
        reasons = {"could not convert string to float": "strings", "promot": "dates"}
        found = [name for reason, name in reasons.items() if reason in str(error)]
        if not found:
            raise
        raise ValueError(
            f"X has {found[0]} ({error}): encode columns of words and dates first, for example "
            "with skrub.TableVectorizer, or with sklearn.compose.ColumnTransformer and "
            "sklearn.preprocessing.OneHotEncoder."
        ) from error


def sparse_unit(X: Any, sample_weight: np.ndarray) -> float:
    """Find a unit in which a sparse table has a root mean square near 1, its zeros included.

    A power of two, so that dividing by it is exact. 1, to leave the table as it is, within a
    factor of 8, and for tables that are not sparse, whose columns can be scaled one by one.
    Every row counts ``sample_weight`` times, shape (n,).

    The entries of a row of unit length among many columns are too small for a network. Columns
    cannot be centred, nor should rare words count as much as frequent ones.
    """
    if isinstance(X, np.ndarray):
        return 1.0
    weight = np.repeat(sample_weight, np.diff(X.indptr))
    largest = np.abs(X.data).max(initial=0, where=weight > 0)  # whose square may overflow
    if not largest:
        return 1.0
    squares = weight @ np.square(X.data / largest, dtype=np.float64)
    mean_square = squares / sample_weight.sum() / X.shape[1]
    exponent = round(np.log2(largest) + np.log2(mean_square) / 2)
    return 2.0**exponent if abs(exponent) > NEAR else 1.0


def divided(X: Any, unit: float) -> Any:
    """Rows in another unit, and X itself, uncopied, where that is 1."""
    return X if unit == 1 else X / unit


def stack_rows(first: Any, second: Any) -> Any:
    """Rows of both, one after the other, sparse if the first are."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, as_dense(second)])
    second = type(first)(second)
    data = np.concatenate([first.data, second.data])
    indices = np.concatenate([first.indices, second.indices])
    starts = np.concatenate([first.indptr, second.indptr[1:] + first.nnz])
    return type(first)((data, indices, starts), (len(starts) - 1, first.shape[1]))


def as_dense(X: Any) -> np.ndarray:
    """Array of the same rows."""
    return X if isinstance(X, np.ndarray) else X.toarray()


def as_rows(X: Any) -> Tensor | SparseRows:
    """Rows to predict, where they lie."""
    if isinstance(X, np.ndarray):
        return share_memory(X)
    return SparseRows(X, torch.from_numpy(X.data[:0]).dtype, torch.device("cpu"))


def share_memory(values: np.ndarray) -> Tensor:
    """Tensor on the memory of an array, which may be read-only and on disk: do not write to it.

    Copied only if its rows are not in C order, so that sums over them round alike.
    """
    values = np.ascontiguousarray(values)
    return torch.from_numpy(values if values.flags.writeable else np.asarray(Unlocked(values)))


class Unlocked:
    """The memory of a read-only array as if it could be written to, of which torch would warn.

    Unlike a filter of warnings, which all threads share, it can be used in several at a time.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values  # kept alive
        described = values.__array_interface__
        self.__array_interface__ = {**described, "data": (described["data"][0], False)}


def principal_part(X: Any, seed: int) -> np.ndarray:
    """Sparse rows made dense, by at most :data:`N_COMPONENTS` singular vectors; others as is."""
    if isinstance(X, np.ndarray) or X.shape[1] <= N_COMPONENTS:
        return as_dense(X)
    n_components = min(N_COMPONENTS, X.shape[0])
    return TruncatedSVD(n_components, random_state=seed).fit_transform(X)
