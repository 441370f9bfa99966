"""Checks and conversions of user input: arrays, labels, rows and row weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

NO_LABEL = -1  # code of a row without a label; the other codes are positions in classes_
ADVICE = (
    "encode columns of words and dates first, for example with skrub.TableVectorizer, or with "
    "sklearn.compose.ColumnTransformer and sklearn.preprocessing.OneHotEncoder, and texts with "
    "sklearn.feature_extraction.text.TfidfVectorizer or a pretrained encoder."
)
GAPS = (
    "X contains NaN, and a module takes no missing values: impute them, for example with "
    "sklearn.impute.SimpleImputer.",
    "X contains NaN and is sparse, and only dense tables may have missing values: make it dense, "
    "for example with X.toarray(), OneHotEncoder(sparse_output=False) or "
    "ColumnTransformer(..., sparse_threshold=0), or impute them.",
)  # of the rows of a module, and of sparse ones
DATES = re.compile("(date|time|duration|period)", re.IGNORECASE)
"""Types of dates and times: of NumPy, pandas, polars and pyarrow."""
N_NAMED = 8  # maximum number of classes that an error message lists
LARGEST_WEIGHT = 1e100
ROUNDING = 1e-6  # of scores that were added up in single precision
LARGEST_UNSCALED_EXPONENT = 3  # a root mean square in [2**-3, 2**3] needs no rescaling


def as_numpy(values: Any) -> Any:
    """Convert an array of another library, on any device, to NumPy; return others unchanged.

    A lazy frame is refused.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, np.ma.MaskedArray):
        return _unmasked(values)
    if hasattr(type(values), "collect"):  # not a column of this name
        raise ValueError(f"A {type(values).__name__} has no values yet: pass its collect().")
    if hasattr(values, "__array_namespace__") and not isinstance(values, np.ndarray):
        return np.asarray(values)
    return values


def _unmasked(values: Any) -> np.ndarray:
    """Array with nan where a number is masked, and None where another entry is."""
    mask = np.ma.getmaskarray(values)
    if not mask.any():
        return values.data
    unmasked = values.data.astype(values.dtype if values.dtype.kind == "f" else object)
    unmasked[mask] = np.nan if values.dtype.kind == "f" else None
    return unmasked


def check_vector(values: Any, name: str) -> np.ndarray:
    """Convert values to shape (n,); a column of shape (n, 1) is accepted."""
    array = np.asarray(as_numpy(values))
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"{name} must have one entry per row, shape (n_samples,), got "
            + (f"an array of shape {array.shape}." if array.ndim else f"{values!r}.")
        )
    return array


def check_numbers(values: Any, name: str) -> np.ndarray:
    """Convert values to float64."""
    try:
        return np.asarray(as_numpy(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}.") from error


def check_scores(scores: Any, name: str) -> np.ndarray:
    """Convert noise scores to float64 of shape (n,); nan marks rows without a label.

    What rounding has moved out of [0, 1], as in means of probabilities, is moved back.
    """
    numbers = check_numbers(check_vector(scores, name), name)
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        raise ValueError(f"{name} must have at least one entry that is not nan, got {numbers}.")
    outside = known[(known < -ROUNDING) | (known > 1 + ROUNDING)]
    if len(outside):
        raise ValueError(
            f"{name} must be in [0, 1], or nan where there is no label, got {outside[0]:g}. If p "
            "is the probability of the given label, pass 1 - p: higher means more likely wrong."
        )
    return numbers.clip(0, 1)


def row_names(*tables: Any) -> np.ndarray | None:
    """Index of the first table that has one of its own, shape (n,); None for plain positions."""
    for table in tables:
        index = getattr(table, "index", None)
        if index is not None and not callable(index):
            names = np.asarray(index)
            return None if np.array_equal(names, np.arange(len(names))) else names
    return None


def plain_names(names: np.ndarray) -> np.ndarray:
    """Row names of Python and NumPy; other objects, such as dates with a time zone, as text."""
    return names if names.dtype != object else np.fromiter(map(_plain_name, names), object)


def _plain_name(name: Any) -> Any:
    if isinstance(name, tuple):
        return tuple(map(_plain_name, name))
    name = name.item() if isinstance(name, np.generic) else name
    return name if name is None or type(name) in (str, int, float, bool) else str(name)


def check_same_length(**arrays: np.ndarray) -> None:
    """Check that all arguments, passed by name, have the same number of rows."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"Found inconsistent numbers of samples: {found}.")


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
    return [None if none else label for label, none in zip(labels.tolist(), missing, strict=True)]


def _is_equal(first: Any, second: Any) -> bool:
    equal = first == second
    return isinstance(equal, (bool, np.bool_)) and bool(equal)  # pandas.NA == x is pandas.NA


def is_null(label: Any) -> bool:
    """Whether a label is None, nan or pandas.NA."""
    return label is None or not _is_equal(label, label)


def encode_labels(y: Any, missing_label: Any, name: str = "y") -> tuple[np.ndarray, np.ndarray]:
    """Sorted classes, and labels as int64 positions among them, -1 for a missing label."""
    y = check_labels(y, name)
    missing = is_missing(y, missing_label)
    given, context = y[~missing], ""
    if missing.any():
        context = f", and {missing.sum()} rows without a label (missing_label={missing_label!r})"
    if not len(given):
        raise ValueError(f"{name} must have labels, got none{context}.")
    given = plain_labels(given, missing_label, name)
    if given.dtype == object and not isinstance(given[0], str):
        raise ValueError(
            f"{name} must have strings, booleans or numbers of at most 64 bits as labels, got "
            f"{given[0]!r}, of type {type(given[0]).__name__}: convert them, for example with "
            "[str(label) for label in y]."
        )
    assert_all_finite(given, input_name=name)
    try:
        check_classification_targets(given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    classes, encoded = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{name} must have labels of at least two classes, got one class: {classes[0]}"
            f"{context}."
        )
    codes = np.full(len(missing), NO_LABEL, dtype=np.int64)
    codes[~missing] = encoded
    return classes, codes


def plain_labels(given: np.ndarray, missing_label: Any = np.nan, name: str = "y") -> np.ndarray:
    """Labels, none of them missing, in the dtype that they have where none is."""
    if given.dtype.kind in "fOM" and any(is_null(label) for label in given):
        raise ValueError(
            f"Input {name} contains NaN or None: if these rows have no label, set "
            f"missing_label=numpy.nan, got missing_label={missing_label!r}."
        )
    if given.dtype != object:
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
    labels = check_labels(classes, "classes")
    given = labels[~is_missing(labels, missing_label)]
    if len(set(given.tolist())) < 2:
        raise ValueError(f"classes must be at least two, got {list(classes)}.")
    found, _ = encode_labels(given, missing_label, "classes")
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
    y = check_labels(y, warn=not scored)
    given = ~is_missing(y, missing_label)
    if nan_too:
        given &= ~is_missing(y, np.nan)
    if not given.any():
        raise ValueError(f"y must have labels, got {len(y)} rows without one: every y is missing.")
    labels, known = y[given], classes
    if scored:
        labels = plain_labels(labels, missing_label)
        check_comparable(labels, classes)
        known = np.concatenate([classes, np.setdiff1d(labels, classes)])
    codes = np.full(len(y), NO_LABEL, dtype=np.int64)
    codes[given] = positions(labels, known)
    return codes


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
    """Check that labels are text where others are, since no number equals a text."""
    label, other = labels[:1].tolist()[0], others[:1].tolist()[0]
    kinds = ["text" if isinstance(one, str) else "numbers" for one in (label, other)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{name} has labels that are {kinds[0]}, for example {label!r}, and {other_name} "
            f"are {kinds[1]}, for example {other!r}: pass labels of one type."
        )


def positions(y: np.ndarray, classes: np.ndarray, name: str = "y") -> np.ndarray:
    """Positions of labels among the classes, shape (n,), int64."""
    if classes.dtype.kind == "M" and y.dtype.kind == "M":  # dates of any unit
        y = y.astype(classes.dtype)
    # Compare Python objects: NumPy would match the string "1" with the number 1.
    codes = {label: code for code, label in enumerate(classes.tolist())}
    labels = y.tolist()
    unknown = [label for label in labels if label not in codes]
    if unknown:
        names = ", ".join(map(repr, list(codes)[:N_NAMED]))
        more = ", ..." if len(codes) > N_NAMED else ""
        raise ValueError(
            f"{name} has labels that are not among the classes, for example {unknown[0]!r}. The "
            f"classes are {names}{more}."
        )
    return np.array([codes[label] for label in labels], dtype=np.int64)


def check_rows(estimator: BaseEstimator, X: Any, *, reset: bool, allow_nd: bool) -> Any:
    """Convert rows to an ndarray or csr matrix of float32 or float64, without infinities.

    Vectors may have missing values, nan, but not sparse rows, nor those of a module. Half precision
    becomes float32. ``reset`` sets the feature names and number of the estimator,
    which are else compared.
    """
    X = as_numpy(X)
    dtypes = _dtypes(X)
    if any(DATES.match(str(dtype)) for dtype in dtypes):
        raise ValueError(f"X has dates or times: {ADVICE}")
    half = dtypes == [np.float16]
    dtype = np.float32 if half else [np.float64, np.float32]
    options = {"reset": reset, "dtype": dtype, "accept_sparse": "csr", "allow_nd": allow_nd}
    options["ensure_all_finite"] = True if allow_nd or hasattr(X, "tocsr") else "allow-nan"
    try:
        with config_context(assume_finite=False):  # what is not finite would spoil the fit
            return validate_data(estimator, X, "no_validation", **options)
    except (ValueError, TypeError) as error:
        if options["ensure_all_finite"] is True and "contains NaN" in str(error):
            raise ValueError(GAPS[not allow_nd]) from error
        if "NAType" in str(error):
            raise ValueError(
                "X has pandas.NA among objects: give the columns a type of numbers, for example "
                "with X.convert_dtypes(), or replace it by numpy.nan."
            ) from error
        reasons = {
            "could not convert string to float": "strings",
            "promot": "dates",
            "number, not .*(date|Time|Period|Interval)": "dates",
        }
        found = [name for reason, name in reasons.items() if re.search(reason, str(error))]
        if not found:
            raise
        raise ValueError(f"X has {found[0]} ({error}): {ADVICE}") from error


def _dtypes(X: Any) -> list[Any]:
    """Types of the columns of a frame of any library, or the type of an array."""
    dtypes = getattr(X, "dtypes", None)
    if not np.iterable(dtypes):
        schema: Any = getattr(X, "schema", None)  # of pyarrow or narwhals
        dtypes = schema.types if hasattr(schema, "types") else getattr(schema, "values", list)()
    return list(dtypes) or [getattr(X, "dtype", None)]


def sparse_unit(X: Any, sample_weight: np.ndarray) -> float:
    """Power of two near the root mean square of a sparse table, zeros included.

    Dividing by it is exact. Rows of unit length with many columns have entries that are too small
    for a network, and standardizing would make the table dense. The unit is 1 if the root mean
    square is within a factor of 8 of 1, and for dense tables, which the user can standardize.
    """
    if isinstance(X, np.ndarray):
        return 1.0
    weight = np.repeat(sample_weight, np.diff(X.indptr))
    largest = np.abs(X.data).max(initial=0, where=weight > 0)
    if not largest:
        return 1.0
    squares = weight @ np.square(X.data / largest, dtype=np.float64)  # cannot overflow
    mean_square = squares / sample_weight.sum() / X.shape[1]
    exponent = round(np.log2(largest) + np.log2(mean_square) / 2)
    return 2.0**exponent if abs(exponent) > LARGEST_UNSCALED_EXPONENT else 1.0


def divided(X: Any, unit: float) -> Any:
    """Divide rows by a power of two; X itself, not a copy, if that is 1."""
    return X if unit == 1 else (X / unit).astype(X.dtype, copy=False)


def encode_confirmed(confirmed: Any, codes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Labels that are known to be right as positions among the classes, -1 for none."""
    known = np.full(len(codes), NO_LABEL)
    if confirmed is None:
        return known
    labels = check_labels(confirmed, "confirmed")
    check_same_length(X=codes, confirmed=labels)
    given = ~is_missing(labels, np.nan)
    known[given] = positions(labels[given], classes, "confirmed")
    return known


@np.errstate(under="ignore")
def row_weights(
    classes: np.ndarray, codes: np.ndarray, sample_weight: Any, class_weight: Any, unlabeled: str
) -> np.ndarray:
    """Product of sample weights and class weights; the weights that are not zero have mean 1.

    Class weights do not apply to rows without a label, whose weight is 0 with "ignore".
    """
    labeled = codes != NO_LABEL
    if not isinstance(sample_weight, (Real, type(None))):
        sample_weight = check_numbers(sample_weight, "sample_weight")
    with config_context(assume_finite=False):
        weight = _check_sample_weight(
            sample_weight, codes, dtype=np.float64, ensure_non_negative=True, copy=True
        )
    weight = bounded(weight)
    if class_weight is not None:
        factors = compute_sample_weight(class_weight, classes[codes[labeled]])
        if not (np.isfinite(factors).all() and (factors >= 0).all()):
            raise ValueError(f"class_weight must be finite and not negative, got {class_weight!r}.")
        weight[labeled] *= bounded(factors)
        weight = bounded(weight)
    # What single precision cannot hold beside the others counts as zero.
    weight[weight < np.finfo(np.float32).tiny * weight.max()] = 0
    if not weight[labeled].any():
        raise ValueError("sample_weight must have a positive entry, got only zeros.")
    if unlabeled == "ignore":
        weight[~labeled] = 0
    return weight / weight[weight > 0].mean()


@np.errstate(under="ignore")
def bounded(weight: np.ndarray) -> np.ndarray:
    """Weights in a unit in which their sums and products do not overflow, nor all underflow."""
    largest = weight.max(initial=0)
    extreme = largest > LARGEST_WEIGHT or 0 < largest < 1 / LARGEST_WEIGHT
    return weight / largest if extreme else weight
