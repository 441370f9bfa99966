"""Rows of features and their weights."""

from __future__ import annotations

import re
from numbers import Real
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight, validate_data

from sklearn_clidmu._validation.arrays import as_numpy, check_numbers
from sklearn_clidmu._validation.labels import NO_LABEL

ADVICE = (
    "encode columns of words and dates first, for example with skrub.TableVectorizer. Or encode "
    "words with sklearn.compose.ColumnTransformer and sklearn.preprocessing.OneHotEncoder, make "
    "numbers of dates, such as days since the first, and encode texts with sklearn."
    "feature_extraction.text.TfidfVectorizer or a pretrained encoder."
)
IMPUTE = "impute them, for example with sklearn.impute.SimpleImputer."
DENSE_COLUMNS = 256
"""A sparse table of at most as many columns is made dense for training. Of a wider one the kernel
regression gets as many singular vectors."""
DATES = re.compile("(date|time|duration|period)", re.IGNORECASE)
"""Types of dates and times: of NumPy, pandas, polars and pyarrow."""
LARGEST_WEIGHT = 1e100
LARGEST_UNSCALED_EXPONENT = 3  # sizes that differ by at most 2**3 need no rescaling


def check_rows(
    estimator: BaseEstimator, X: Any, *, reset: bool, allow_nd: bool, allow_nan: bool
) -> Any:
    """Convert rows to an ndarray or csr matrix of float32 or float64, without infinities.

    Half precision becomes float32, and repeated entries of a sparse table are added up. With
    ``allow_nan``, rows may have missing values, but not wide sparse ones. ``reset`` sets the
    feature names and number of the estimator, which are else compared.
    """
    X = as_numpy(X)
    dtypes = _dtypes(X)
    if any(DATES.match(str(dtype)) for dtype in dtypes):
        raise ValueError(f"X has dates or times: {ADVICE}")
    half = {str(dtype) for dtype in dtypes} == {"float16"}
    dtype = np.float32 if half else [np.float64, np.float32]
    options = {"reset": reset, "dtype": dtype, "accept_sparse": "csr", "allow_nd": allow_nd}
    options["ensure_all_finite"] = "allow-nan" if allow_nan else True
    try:
        with config_context(assume_finite=False):  # what is not finite would spoil the fit
            X = validate_data(estimator, X, "no_validation", **options)
    except (ValueError, TypeError) as error:
        if not allow_nan and "contains NaN" in str(error):
            kind = "module" if allow_nd else "network that was fitted on a wide sparse table"
            raise ValueError(
                f"X contains NaN, and a {kind} takes no missing values: {IMPUTE}"
            ) from error
        if "NAType" in str(error):
            raise ValueError(
                "X has pandas.NA among objects: give the columns a type of numbers, for example "
                "with X.convert_dtypes(), or replace it by numpy.nan."
            ) from error
        reasons = {
            "could not convert string to float": "strings",
            "element with a sequence": "lists",
            "promot": "dates",
            "number, not .*(date|Time|Period|Interval)": "dates",
        }
        found = [name for reason, name in reasons.items() if re.search(reason, str(error))]
        if not found:
            raise
        raise ValueError(f"X has {found[0]} ({error}): {ADVICE}") from error
    if isinstance(X, np.ndarray):
        return X
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    if X.shape[1] > DENSE_COLUMNS and np.isnan(X.data).any():
        raise ValueError(
            f"X contains NaN and is sparse, and of more than {DENSE_COLUMNS} columns only dense "
            "tables may have missing values: make it dense, for example with X.toarray() or "
            f"ColumnTransformer(..., sparse_threshold=0), or {IMPUTE}"
        )
    return X


def _dtypes(X: Any) -> list[Any]:
    """Types of the columns of a frame of any library, or the type of an array."""
    dtypes = getattr(X, "dtypes", None)
    if not np.iterable(dtypes):
        schema: Any = getattr(X, "schema", None)  # of pyarrow or narwhals
        dtypes = schema.types if hasattr(schema, "types") else getattr(schema, "values", list)()
    return list(dtypes) or [getattr(X, "dtype", None)]


def dense_if_narrow(X: Any) -> Any:
    """Make a sparse table of few columns dense."""
    narrow = not isinstance(X, np.ndarray) and X.shape[1] <= DENSE_COLUMNS
    return X.toarray() if narrow else X


def sparse_units(X: Any, sample_weight: np.ndarray) -> Any:
    """Powers of two by which the columns of a sparse table are divided, shape (n_features,), or 1.

    A column whose entries differ in size from those of the median column by more than a factor of
    8, such as incomes beside one-hot codes, is brought to that size; smaller differences tell words
    apart. Then all are brought to a root mean square of the table, zeros included, near 1 if it is
    off by more than a factor of 8: rows of unit length with many columns have entries that are too
    small for a network. Standardizing would make the table dense. Dense tables have 1: their
    columns are scaled one by one.
    """
    if isinstance(X, np.ndarray):
        return 1.0
    weight = np.repeat(sample_weight, np.diff(X.indptr)) * (X.data != 0)
    if not weight.any():
        return 1.0
    counted, d = weight > 0, X.shape[1]
    used, columns = np.unique(X.indices[counted], return_inverse=True)
    size, weight = np.log2(np.abs(X.data[counted], dtype=np.float64)), weight[counted]
    largest = np.full(len(used), -np.inf)
    np.maximum.at(largest, columns, size)
    mass = np.bincount(columns, weight)
    squares = np.bincount(columns, weight * np.exp2(2 * (size - largest[columns])))
    own = largest + np.log2(squares / mass) / 2  # root mean squares of entries, as exponents
    exponents, differ = np.zeros(d), _beyond_tolerance(own - np.median(own))
    exponents[used], own = differ, own - differ
    mean_square = mass @ np.exp2(2 * (own - own.max())) / sample_weight.sum() / d
    common = own.max() + np.log2(mean_square) / 2
    exponents = (exponents + _beyond_tolerance(common)).clip(-1074, 1023)  # of float64
    return np.ldexp(1.0, exponents.astype(int))


def _beyond_tolerance(exponents: Any) -> Any:
    """Round exponents of two, to 0 where they are small."""
    exponents = np.round(exponents)
    return np.where(np.abs(exponents) > LARGEST_UNSCALED_EXPONENT, exponents, 0)


def divided(X: Any, units: Any) -> Any:
    """Divide columns by powers of two; X itself, not a copy, if all are 1."""
    if np.all(units == 1):
        return X
    if isinstance(X, np.ndarray):
        return (X / units).astype(X.dtype, copy=False)
    X = X.copy()
    X.data = (X.data / units[X.indices]).astype(X.dtype, copy=False)
    return X


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
        if isinstance(class_weight, dict):  # which may name classes without rows
            factors = compute_class_weight(class_weight, classes=classes, y=classes)
        else:
            mass = np.bincount(codes[labeled], weight[labeled], minlength=len(classes))
            factors = np.divide(mass.mean(), mass, out=np.ones_like(mass), where=mass > 0)
        factors = factors[codes[labeled]]
        if not (np.isfinite(factors).all() and (factors >= 0).all()):
            raise ValueError(f"class_weight must be finite and not negative, got {class_weight!r}.")
        weight[labeled] *= bounded(factors)
        weight = bounded(weight)
    # What single precision cannot hold beside the others counts as zero.
    weight[weight < np.finfo(np.float32).tiny * weight.max()] = 0
    if not weight[labeled].any():
        name = "sample_weight" if class_weight is None else "class_weight times sample_weight"
        raise ValueError(f"{name} must have a positive entry, got only zeros.")
    if unlabeled == "ignore":
        weight[~labeled] = 0
    return weight / weight[weight > 0].mean()


@np.errstate(under="ignore")
def bounded(weight: np.ndarray) -> np.ndarray:
    """Weights in a unit in which their sums and products do not overflow, nor all underflow."""
    largest = weight.max(initial=0)
    extreme = LARGEST_WEIGHT < largest < np.inf or 0 < largest < 1 / LARGEST_WEIGHT
    return weight / largest if extreme else weight
