"""Labels as they come: of any type, and some of them missing."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from sklearn_clidmu.estimator.arguments import as_numpy

NO_LABEL = -1
"""Code of a row without a label; the others are positions among the classes."""

N_NAMED = 8
"""Classes that a message names at most."""


def check_labels(y: Any) -> np.ndarray:
    """Labels as an array of shape (n,); those of a list of strings and others as they are.

    Whole numbers and booleans stay what they are where a series of pandas or polars could lack
    some: NumPy would make them floating-point numbers.
    """
    y = list(y) if _may_lack(y) else as_numpy(y)
    if isinstance(y, (list, tuple)):
        objects = np.array(y, dtype=object)
        strings = [isinstance(label, str) for label in objects.ravel()]
        y = objects if any(strings) and not all(strings) else np.array(y)
    return column_or_1d(y, warn=True)


def _may_lack(y: Any) -> bool:
    """Whether labels are a series of whole numbers or booleans that says itself what it lacks."""
    dtype = getattr(y, "dtype", None)
    if isinstance(dtype, (np.dtype, type(None))):
        return False
    of_polars = getattr(dtype, "is_integer", bool)
    return getattr(dtype, "kind", "") in ("b", "i", "u") or of_polars()


def is_missing(y: Any, missing_label: Any) -> np.ndarray:
    """Which rows have no label.

    Parameters
    ----------
    y : array-like of shape (n,)
    missing_label : int, float, str or None
        What stands in the place of a label. nan and pandas.NA stand for each other and for None;
        None says that every row has a label.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    y = check_labels(y)
    if missing_label is None:
        return np.zeros(len(y), dtype=bool)
    if _is_null(missing_label):
        return np.array([_is_null(label) for label in y], dtype=bool)
    return np.array([_equal(label, missing_label) for label in y], dtype=bool)


def _equal(first: Any, second: Any) -> bool:
    equal = first == second
    return isinstance(equal, (bool, np.bool_)) and bool(equal)  # pandas.NA is equal to nothing


def _is_null(label: Any) -> bool:
    return label is None or not _equal(label, label)


def encode_labels(y: Any, missing_label: Any) -> tuple[np.ndarray, np.ndarray]:
    """Classes, sorted, and the position of each row's label among them, -1 where it is missing.

    Parameters
    ----------
    y : array-like of shape (n,)
    missing_label : int, float, str or None

    Returns
    -------
    classes : ndarray of shape (n_classes,)
    codes : ndarray of shape (n,), int64

    Raises
    ------
    ValueError
        If the labels that are there are not of classes, or of fewer than two.
    TypeError
        If they are of several types.
    """
    y = check_labels(y)
    missing = is_missing(y, missing_label)
    given = y[~missing]
    beside = ""
    if missing.any():
        beside = f", beside {missing.sum()} rows without a label (missing_label={missing_label!r})"
    if not len(given):
        raise ValueError(f"y must have labels, got none{beside}.")
    if given.dtype.kind in "fO" and any(_is_null(label) for label in given):
        raise ValueError(
            f"Input y contains NaN or None: if such rows are without a label, set "
            f"missing_label=numpy.nan, got missing_label={missing_label!r}."
        )
    if given.dtype == object and not any(isinstance(label, str) for label in given):
        given = np.array(given.tolist())  # of the type that they would have, did none miss
    if given.dtype == object:
        check_one_type(given)
    assert_all_finite(given, input_name="y")
    check_classification_targets(given)
    classes, encoded = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y must have labels of at least two classes, got one class: {classes[0]}{beside}."
        )
    codes = np.full(len(missing), NO_LABEL)
    codes[~missing] = encoded
    return classes, codes


def known_classes(classes: Any, before: np.ndarray | None) -> np.ndarray:
    """Classes of labels that come in parts, sorted, shape (n_classes,).

    Parameters
    ----------
    classes : array-like of shape (n_classes,) or None
        As they were passed.
    before : ndarray of shape (n_classes,) or None
        Those of the parts before; None for the first.

    Raises
    ------
    ValueError
        If they are missing in the first part, or others than before.
    """
    if classes is None:
        if before is None:
            raise ValueError("classes must be passed to the first call of partial_fit.")
        return before
    sorted_classes = np.unique(column_or_1d(classes))
    if len(sorted_classes) < 2:
        raise ValueError(f"classes must be at least two, got {list(classes)}.")
    if before is not None and not np.array_equal(sorted_classes, before):
        raise ValueError(f"classes={list(classes)} are not those of earlier calls: {before}.")
    return sorted_classes


def encode_more(y: Any, classes: np.ndarray, missing_label: Any) -> np.ndarray:
    """Position of each row's label among classes that are known, -1 where it is missing.

    Parameters
    ----------
    y : array-like of shape (n,)
    classes : ndarray of shape (n_classes,)
    missing_label : int, float, str or None

    Returns
    -------
    ndarray of shape (n,), int64

    Raises
    ------
    ValueError
        If a label is not among the classes, or if there is none.
    """
    y = check_labels(y)
    given = ~is_missing(y, missing_label)
    if not given.any():
        raise ValueError(f"y must have labels, got {len(y)} rows without one.")
    codes = np.full(len(y), NO_LABEL)
    codes[given] = positions(y[given], classes)
    return codes


def check_one_type(labels: np.ndarray) -> None:
    """Check that labels are all strings or none is.

    Raises
    ------
    TypeError
        If some are: they cannot be sorted.
    """
    kinds = {str if isinstance(label, str) else type(label) for label in labels}
    if str in kinds and len(kinds) > 1:
        names = sorted(kind.__name__ for kind in kinds)
        raise TypeError(
            f"y must have labels of one type, got {' and '.join(names)}: make them strings, for "
            "example with [str(label) for label in y]."
        )


def positions(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Positions of labels among the classes, shape (n,), int.

    Raises
    ------
    ValueError
        If a label is not among the classes.
    """
    # By equality of the labels themselves: NumPy would take the text "1" for the number.
    codes = {label: code for code, label in enumerate(classes.tolist())}
    labels = y.tolist()
    unknown = [label for label in labels if label not in codes]
    if unknown:
        raise ValueError(
            f"y has labels that are not among the classes, {unknown[0]!r} for one: choose from "
            f"{', '.join(map(repr, list(codes)[:N_NAMED]))}"
            f"{' and so on' if len(codes) > N_NAMED else ''}."
        )
    return np.array([codes[label] for label in labels], dtype=np.int64)
