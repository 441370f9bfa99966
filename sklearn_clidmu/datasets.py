"""Synthetic label noise."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.extmath import softmax
from sklearn.utils.validation import check_array, check_consistent_length

from sklearn_clidmu._random import numpy_generator
from sklearn_clidmu._validation.arrays import as_numpy
from sklearn_clidmu._validation.labels import check_labels, check_one_type, is_missing

KINDS = ("symmetric", "pairflip", "asymmetric", "instance")
RATE_DEVIATION = 0.1  # standard deviation of the flip rates for kind="instance", as published


def make_label_noise(
    y: Any,
    X: Any = None,
    *,
    kind: str = "symmetric",
    rate: float = 0.4,
    transition_matrix: Any = None,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace the labels of a share of the rows by wrong ones.

    The returned mask marks exactly the rows whose label changed.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        True labels, of any type; at least two classes.
    X : array-like of shape (n_samples, n_features), default=None
        Features, preferably standardized. Required by ``kind="instance"``.
    kind : {"symmetric", "pairflip", "asymmetric", "instance"}, default="symmetric"
        Distribution of the wrong labels.

        - "symmetric": any other class, all equally likely.
        - "pairflip": the next class in sorted order, the last class becoming the first.
        - "asymmetric": drawn from ``transition_matrix``.
        - "instance": depends on the row's features through a random linear map per class, with a
          random flip rate for each row (Xia et al., Part-dependent Label Noise, NeurIPS 2020,
          algorithm 2). With two classes only the rates vary.
    rate : float, default=0.4
        Share of wrong labels, in [0, 1). "symmetric" and "pairflip" flip exactly
        ``round(rate * n_samples)`` rows; for "instance" it is the expected share. Ignored by
        "asymmetric".
    transition_matrix : array-like of shape (n_classes, n_classes), default=None
        Probability of the given label (column) in each true class (row), with sorted classes.
        Only for ``kind="asymmetric"``, which requires it.
    random_state : int, RandomState instance or None, default=None
        Controls which rows are flipped and to which labels. NumPy's global generator is not used.

    Returns
    -------
    y_noisy : ndarray of shape (n_samples,)
        Labels of the same type as ``y``.
    flipped : ndarray of shape (n_samples,), bool
        Rows whose label is wrong.

    Raises
    ------
    ValueError
        If an argument is out of range, if a label is missing, if there are fewer than two classes,
        if ``X`` or ``transition_matrix`` is required but not passed, or if ``transition_matrix``
        is passed with another kind.
    TypeError
        If some labels are strings and others are not.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_clidmu.datasets import make_label_noise
    >>> y = np.array(["cat", "dog", "cow", "dog", "cat"])
    >>> y_noisy, flipped = make_label_noise(y, rate=0.4, random_state=0)
    >>> int(flipped.sum()), bool((y_noisy[~flipped] == y[~flipped]).all())
    (2, True)
    """
    y = check_labels(y)
    if is_missing(y, np.nan).any():
        raise ValueError("y must have a label for every row, got nan or None: drop such rows.")
    if y.dtype == object:
        check_one_type(y)
    classes, targets = np.unique(y, return_inverse=True)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")
    if kind != "asymmetric" and not (isinstance(rate, Real) and 0 <= rate < 1):
        raise ValueError(f"rate must lie in [0, 1), got {rate!r}.")
    if len(classes) < 2:
        raise ValueError(f"y must have at least two classes to flip between, got {len(classes)}.")
    if kind == "instance" and X is None:
        raise ValueError("kind='instance' requires the features: pass X.")
    if (kind == "asymmetric") != (transition_matrix is not None):
        raise ValueError(
            "transition_matrix must be passed with kind='asymmetric', and only then, got "
            f"kind={kind!r} and transition_matrix={transition_matrix!r}."
        )
    rng = numpy_generator(random_state)
    if kind == "instance":
        X = check_array(as_numpy(X), dtype=np.float64, input_name="X")
        check_consistent_length(X, y)
        probabilities = _instance_probabilities(targets, X, len(classes), rate, rng)
        noisy = _draw(probabilities, rng)
    elif kind == "asymmetric":
        noisy = _draw(_checked_matrix(transition_matrix, classes)[targets], rng)
    else:  # exactly as many rows as the rate says
        rows = rng.permutation(len(y))[: round(rate * len(y))]
        shift = 1 if kind == "pairflip" else rng.randint(1, len(classes), len(rows))
        noisy = targets.copy()
        noisy[rows] = (targets[rows] + shift) % len(classes)
    return classes[noisy], noisy != targets


def _checked_matrix(transition_matrix: Any, classes: np.ndarray) -> np.ndarray:
    n_classes = len(classes)
    for axis in ("index", "columns"):
        names = getattr(transition_matrix, axis, ())
        names = [] if callable(names) else list(names)
        if names != classes.tolist() and set(names) == set(classes.tolist()):
            raise ValueError(
                f"transition_matrix must have the classes in sorted order, {classes.tolist()}, got "
                f"{axis} {names}."
            )
    matrix = as_numpy(transition_matrix)
    matrix = check_array(matrix, dtype=np.float64, input_name="transition_matrix")
    if matrix.shape != (n_classes, n_classes):
        raise ValueError(
            f"transition_matrix must have shape {(n_classes, n_classes)}, one row and one column "
            f"per class, got {matrix.shape}."
        )
    if (matrix < 0).any() or not np.allclose(matrix.sum(axis=1), 1):
        raise ValueError("Each row of transition_matrix must be >= 0 and add up to 1.")
    return matrix


def _instance_probabilities(
    targets: np.ndarray, X: np.ndarray, n_classes: int, rate: float, rng: np.random.RandomState
) -> np.ndarray:
    """Probability of every given label for every row, shape (n, n_classes)."""
    flip_rates = np.full(len(X), -1.0)
    while (outside := (flip_rates < 0) | (flip_rates > 1)).any():
        flip_rates[outside] = rng.normal(rate, RATE_DEVIATION, outside.sum())
    # Truncation moves the mean towards 1/2; rescaling restores it with few rates out of bounds.
    if rate <= 0.5:
        flip_rates = (flip_rates * rate / flip_rates.mean()).clip(max=1)
    else:
        flip_rates = 1 - ((1 - flip_rates) * (1 - rate) / (1 - flip_rates).mean()).clip(max=1)
    maps = rng.standard_normal((n_classes, X.shape[1], n_classes))
    scores = np.empty((len(X), n_classes))
    with np.errstate(over="ignore", invalid="ignore"):
        for target, projection in enumerate(maps):
            scores[targets == target] = X[targets == target] @ projection
    if not np.isfinite(scores).all():
        raise ValueError("X has values too large for kind='instance': scale the features.")
    rows = np.arange(len(X))
    scores[rows, targets] = -np.inf  # a flip never keeps the label
    probabilities = flip_rates[:, None] * softmax(scores)
    probabilities[rows, targets] = 1 - flip_rates
    return probabilities


def _draw(probabilities: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Draw one class per row, shape (n,)."""
    cumulative = probabilities.cumsum(axis=1)
    return (rng.uniform(size=(len(cumulative), 1)) * cumulative[:, -1:] >= cumulative).sum(axis=1)
