"""Labels of any type, and their positions among the classes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from sklearn_clidmu._validation.arrays import as_numpy, check_same_length

NO_LABEL = -1  # code of a row without a label; the other codes are positions in classes_
SPELLED_GAPS = ("None", "nan", "<NA>", "")  # what an array of text makes of a missing label
N_BITS = 63  # maximum of an integer label, beside its sign
KINDS = {str: "text", date: "dates", timedelta: "durations"}  # of labels; others are numbers
N_NAMED = 8  # maximum number of classes that an error message lists


def check_labels(y: Any, name: str = "y", *, warn: bool = True) -> np.ndarray:
    """Convert labels to an array of shape (n,), keeping their types.

    Mixed lists become object arrays, because NumPy would turn numbers into strings, and integers
    into floating-point numbers, which are not exact beyond 2**53. So do columns of integers and
    booleans that may be missing.
    """
    if isinstance(y, (set, frozenset, dict, Iterator)):
        raise ValueError(
            f"{name} must be an array-like of labels, got a {type(y).__name__}: pass a list."
        )
    if hasattr(type(y), "to_pylist"):  # of pyarrow
        y = y.to_pylist()
    y = list(y) if _is_nullable(y) else as_numpy(y)
    if isinstance(y, (list, tuple)):
        y = list(map(_plain_text, y))
        objects = np.array(y, dtype=object)
        strings = [isinstance(label, str) for label in objects.ravel()]
        mixed = any(strings) and not all(strings)
        plain = objects if mixed else np.array(y)
        is_float, integers = plain.dtype.kind == "f", (Integral, np.bool_)
        if is_float and any(isinstance(label, integers) for label in y):
            mixed = plain.tolist() != y  # also where a label is nan
        array = objects if mixed else plain
    else:
        array = np.asarray(y)
        if array.dtype == object and array.ndim:
            array = np.frompyfunc(_plain_text, 1, 1)(array)
    if array.dtype.kind == "V":
        raise ValueError(f"{name} must be labels, got records of type {array.dtype}.")
    if array.dtype.kind == "T":  # strings of any length, which few functions know
        array = array.astype(object)
    try:
        return column_or_1d(array, warn=warn)
    except ValueError as error:
        got = f"an array of shape {array.shape}" if array.ndim else repr(y)
        raise ValueError(f"{name} must have one entry per row, got {got}: {error}") from error


def _plain_text(label: Any) -> Any:
    """Return strings without a class of their own: NumPy cuts off those that are an Enum."""
    return str.__str__(label) if isinstance(label, str) else label


def _is_nullable(y: Any) -> bool:
    """Whether y is a series of integers or booleans with its own marker of missing values."""
    dtype: Any = getattr(y, "dtype", None)
    if hasattr(dtype, "is_integer"):  # of polars
        return dtype.is_integer()
    is_categorical = hasattr(dtype, "ordered")  # of pandas
    if is_categorical:
        dtype = dtype.categories.dtype
    has_marker = is_categorical or not isinstance(dtype, np.dtype)
    return has_marker and getattr(dtype, "kind", "") in ("b", "i", "u")


def is_missing(y: np.ndarray, missing_label: Any) -> np.ndarray:
    """Mask of the rows without a label, shape (n,).

    As markers, nan and pandas.NA match each other and None; None means that every row has a label.
    """
    if missing_label is None:
        return np.zeros(len(y), dtype=bool)
    if is_null(missing_label):
        return np.array([is_null(label) for label in y], dtype=bool)
    return np.array([_is_equal(label, missing_label) for label in y], dtype=bool)


def missing_as_none(labels: np.ndarray) -> list[Any]:
    """Labels as Python objects, with None for None, nan and pandas.NA."""
    missing = is_missing(labels, np.nan)
    return [None if none else one for one, none in zip(as_objects(labels), missing, strict=True)]


def as_objects(labels: np.ndarray) -> list[Any]:
    """Labels as Python objects; of nanoseconds, NumPy would make integers."""
    if labels.dtype.kind == "M" and not np.can_cast(labels.dtype, "M8[us]"):
        labels = labels.astype("M8[us]")
    return labels.tolist()


def _is_equal(first: Any, second: Any) -> bool:
    if isinstance(first, (bool, np.bool_)) != isinstance(second, (bool, np.bool_)):
        return False  # False == 0
    equal = first == second
    return isinstance(equal, (bool, np.bool_)) and bool(equal)  # pandas.NA == x is pandas.NA


def is_null(label: Any) -> bool:
    """Whether a label is None, nan or pandas.NA."""
    return label is None or not _is_equal(label, label)


def encode_labels(y: Any, missing_label: Any, name: str = "y") -> tuple[np.ndarray, np.ndarray]:
    """Sorted classes, and labels as int64 positions among them, -1 for a missing label."""
    classes, codes, _ = encode_with_confirmed(y, None, missing_label, name)
    return classes, codes


def encode_with_confirmed(
    y: Any, confirmed: Any, missing_label: Any, name: str = "y"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted classes of all labels, and positions among them of y and of confirmed labels.

    ``confirmed`` are labels that are known to be right, None for none. Positions are int64, -1 for
    no label.
    """
    y = check_labels(y, name)
    missing = is_missing(y, missing_label)
    given, context = y[~missing], ""
    if missing.any():
        context = f", and {missing.sum()} rows without a label (missing_label={missing_label!r})"
    if not len(given):
        raise ValueError(f"{name} must have labels, got none{context}.")
    given = plain_labels(given, missing_label, name)
    if not missing.any():
        _check_spelling(given, missing_label, name)
    if given.dtype == object and not isinstance(given[0], str):
        large = (one for one in given if isinstance(one, int) and one.bit_length() > N_BITS)
        label = next(large, given[0])
        raise ValueError(
            f"{name} must have strings, booleans or numbers of at most 64 bits as labels, got "
            f"{label!r}, of type {type(label).__name__}: convert them, for example with "
            "[str(label) for label in y]."
        )
    assert_all_finite(given, input_name=name)
    right, added = np.zeros(len(y), dtype=bool), given[:0]
    if confirmed is not None:
        right, added = confirmed_labels(confirmed, given)
        check_same_length(y=y, confirmed=right)
        if is_missing(added, missing_label).any():
            raise ValueError(f"confirmed has {missing_label=}: pass None where no label is known.")
    labels = np.concatenate([given, added])
    if labels.dtype.kind == "f" or name == "y":  # classes are many for their number of entries
        try:
            check_classification_targets(labels)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    classes, encoded = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{name} must have labels of at least two classes, got one class: {classes[0]}"
            f"{context}."
        )
    codes, known = np.full((2, len(y)), NO_LABEL, dtype=np.int64)
    codes[~missing], known[right] = np.split(encoded, [len(given)])
    return classes, codes, known


def _check_spelling(given: np.ndarray, missing_label: Any, name: str) -> None:
    """Check that no marker of a missing label has become text, and so a class."""
    if missing_label is None or not isinstance(given[0], str) or str(missing_label) not in given:
        return
    text = str(missing_label)
    raise ValueError(
        f"{name} has the label {text!r}, and missing_label={missing_label!r} is no text. If this "
        "label marks rows without one, as where NumPy has made text of a list, set "
        f"missing_label={text!r}; if it is a class, set missing_label=None."
    )


def plain_labels(given: np.ndarray, missing_label: Any = np.nan, name: str = "y") -> np.ndarray:
    """Labels, of which none may be missing, as numbers or text instead of objects."""
    if given.dtype.kind in "fOM" and any(is_null(label) for label in given):
        raise ValueError(
            f"Input {name} contains NaN or None: if these rows have no label, set "
            f"missing_label=numpy.nan, got missing_label={missing_label!r}."
        )
    if given.dtype != object or not len(given):
        return given
    check_one_type(given, name)
    is_number = np.isscalar(given[0]) and not isinstance(given[0], str)
    return np.array(given.tolist()) if is_number else given


def known_classes(classes: Any, before: np.ndarray | None, missing_label: Any = None) -> np.ndarray:
    """Sorted classes of ``partial_fit``, read like labels.

    None stands for those of earlier calls, ``before``.
    """
    if classes is None:
        if before is None:
            raise ValueError("classes must be passed to the first call of partial_fit.")
        return before
    found, _ = encode_labels(classes, missing_label, "classes")
    if before is not None and not np.array_equal(found, before):
        raise ValueError(f"classes={list(classes)} differ from those of earlier calls: {before}.")
    return found


def encode_known(
    y: Any,
    classes: np.ndarray,
    missing_label: Any,
    *,
    scored: bool = False,
    nan_too: bool = False,
) -> np.ndarray:
    """Encode labels as positions among known classes, -1 for a missing label.

    Where predictions are ``scored``, labels that are not among the classes get the positions behind
    them. ``nan_too`` makes nan and None markers of a missing label beside ``missing_label``.
    """
    y, classes = check_labels(y, warn=not scored), np.asarray(classes)
    given = ~is_missing(y, missing_label)
    if nan_too:
        given &= ~is_missing(y, np.nan)
    if not given.any():
        raise ValueError(f"y must have labels, got {len(y)} rows without one: every y is missing.")
    labels = y[given]
    if scored:
        labels = plain_labels(labels, missing_label)
        check_comparable(labels, classes)
        if labels.dtype.kind == "f":  # of others it warns if they have many classes
            check_classification_targets(labels)
    codes = np.full(len(y), NO_LABEL, dtype=np.int64)
    codes[given] = positions(labels, classes, others=scored)
    return codes


def confirmed_labels(confirmed: Any, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the rows whose labels are known to be right, and these in the dtype of given ones."""
    labels = check_labels(confirmed, "confirmed", warn=False)
    right = ~is_missing(labels, np.nan)
    if not right.any():
        return right, given[:0]
    if not len(given):
        raise ValueError("y must have labels, got none, and confirmed has some.")
    known = plain_labels(labels[right], name="confirmed")
    if known.dtype == bool != given.dtype:
        raise ValueError(
            "confirmed must be labels, got a boolean mask: pass np.where(mask, y, None)."
        )
    check_comparable(known, given, "confirmed", "those of y")
    is_text = isinstance(known[0], str)
    gaps = [text for text in SPELLED_GAPS if is_text and text in known and text not in given]
    if gaps:
        raise ValueError(
            f"confirmed has the label {gaps[0]!r}, which y has not: pass None where no label is "
            "known, in a list or an array of objects, not of text."
        )
    assert_all_finite(known, input_name="confirmed")
    try:
        with np.errstate(all="ignore"):  # a value that does not fit is changed
            cast = known.astype(str if given.dtype.kind == "U" else given.dtype)
        same = known == (cast if known.dtype.kind == "M" else np.array(as_objects(cast), object))
    except (TypeError, OverflowError):  # of other objects and of large integers, among numbers
        same = np.zeros(len(known), dtype=bool)
    if not same.all():
        label = known[~same].tolist()[0]
        raise ValueError(
            f"confirmed has the label {label!r}, and y has labels of type {given.dtype}."
        )
    return right, cast


def check_one_type(labels: np.ndarray, name: str = "y") -> None:
    """Check that all labels are strings or none is, since others cannot be sorted."""
    kinds = {str if isinstance(label, str) else type(label) for label in labels}
    if str in kinds and len(kinds) > 1:
        names = sorted(kind.__name__ for kind in kinds)
        raise TypeError(
            f"{name} must have labels of one type, got {' and '.join(names)}: convert them to "
            "strings, for example with [str(label) for label in y]."
        )


def check_comparable(
    labels: np.ndarray, others: np.ndarray, name: str = "y", other_name: str = "the classes"
) -> None:
    """Check that labels are text, or dates, where others are, since no number equals these."""
    label, other = (as_objects(array[:1])[0] for array in (labels, others))
    kinds = [
        next((name for kind, name in KINDS.items() if isinstance(one, kind)), "numbers")
        for one in (label, other)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{name} has labels that are {kinds[0]}, for example {label!r}, and {other_name} "
            f"are {kinds[1]}, for example {other!r}: pass labels of one type."
        )


def positions(y: np.ndarray, classes: np.ndarray, *, others: bool = False) -> np.ndarray:
    """Positions of labels among the classes, shape (n,), int64.

    With ``others``, labels that are not among the classes get the positions behind them.
    """
    if classes.dtype.kind == "M" and y.dtype.kind == "M":  # dates of any unit
        y = y.astype(classes.dtype)
    # Compare Python objects: NumPy would match the string "1" with the number 1.
    codes = {label: code for code, label in enumerate(classes.tolist())}
    labels = y.tolist()
    if others:
        for label in labels:
            codes.setdefault(label, len(codes))
    unknown = [label for label in labels if label not in codes]
    if unknown:
        names = ", ".join(map(repr, list(codes)[:N_NAMED]))
        more = ", ..." if len(codes) > N_NAMED else ""
        raise ValueError(
            f"y has labels that are not among the classes, for example {unknown[0]!r}. The classes "
            f"are {names}{more}."
        )
    return np.array([codes[label] for label in labels], dtype=np.int64)
