"""Noise scores by networks, or other classifiers, that were not trained on a row's label."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils._param_validation import HasMethods, validate_parameter_constraints
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params

from sklearn_clidmu._pipelines import missing_label_of
from sklearn_clidmu._settings import PARAMETER_CONSTRAINTS
from sklearn_clidmu._validation.arrays import as_numpy
from sklearn_clidmu._validation.labels import NO_LABEL, check_labels, encode_labels

CONSTRAINTS: dict[str, list[Any]] = {
    "estimator": [HasMethods(["fit", "predict_proba"])],
    "params": [dict, None],
    "missing_label": PARAMETER_CONSTRAINTS["missing_label"],
}


def cross_val_noise_scores(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    *,
    cv: Any = 5,
    n_jobs: int | None = None,
    params: dict[str, Any] | None = None,
    missing_label: Any = None,
    return_suggested: bool = False,
) -> Any:
    """Compute out-of-fold noise scores with any classifier.

    A score is one minus the probability of the given label, predicted by a clone that was trained
    on the other folds. Scores of the fit itself, ``noise_scores_``, are cheaper. For a classifier
    that resists wrong labels they are usually also better, because it is trained on more rows. A
    classifier that memorizes labels needs out-of-fold scores.

    Parameters
    ----------
    estimator : classifier with ``predict_proba``
        Also a Pipeline. It is cloned and not changed.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Rows, in any form that the estimator accepts.
    y : array-like of shape (n_samples,)
        Given labels: numbers, strings or booleans.
    cv : int, splitter or iterable of (train, test), default=5
        As in :func:`sklearn.model_selection.cross_val_predict`: an int is the number of stratified
        folds, and every row must be in exactly one test part. For grouped rows pass the splits:
        ``cv=list(GroupKFold().split(X, y, groups))``.
    n_jobs : int, default=None
        Number of folds that run in parallel. None is 1, unless inside a joblib context, such as
        ``joblib.parallel_config("dask")``, which runs them on other machines.
    params : dict, default=None
        Passed to the estimator's ``fit``. Entries of length n_samples, such as
        ``sample_weight``, are cut to the training part of each fold.
    missing_label : int, float, str or None, default=None
        Marker of a missing label in y, for example nan (which also matches None), "" or -1. The
        estimator receives such rows unchanged, and their scores are nan. None is the estimator's
        own ``missing_label``; without one, every row has a label.
    return_suggested : bool, default=False
        Whether to return the most probable classes, too.

    Returns
    -------
    scores : ndarray of shape (n_samples,), float64
        In [0, 1], in the order of X; higher means more likely wrong. A class without rows in the
        training part of a fold has probability 0 there, so that its labels score 1.
    suggested : ndarray of shape (n_samples,)
        Most probable class of each row, also of rows without a label. Only with
        ``return_suggested=True``.

    Raises
    ------
    TypeError
        If y mixes text and numbers.
    ValueError
        If an argument is invalid, if y has fewer than two classes, or if ``cv`` does not test
        every row exactly once.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_clidmu import cross_val_noise_scores
    >>> X, y = make_blobs(200, centers=2, random_state=0, cluster_std=0.5)
    >>> y[7] = 1 - y[7]
    >>> int(cross_val_noise_scores(LogisticRegression(), X, y).argmax())
    7
    """
    arguments = {"estimator": estimator, "params": params, "missing_label": missing_label}
    validate_parameter_constraints(CONSTRAINTS, arguments, "cross_val_noise_scores")
    X, y = indexable(as_numpy(X), as_numpy(y))
    if missing_label is None:
        missing_label = missing_label_of(estimator)
    labels = check_labels(y)
    classes, given = encode_labels(labels, missing_label)
    read = given  # by the splitter, which may know no missing label
    if (given != NO_LABEL).all():
        read = labels = classes[given]  # of a dtype that any classifier reads
    rows, splitter = np.arange(len(given)), check_cv(cv, read, classifier=is_classifier(estimator))
    splits = [(train, rows[test]) for train, test in splitter.split(X, read)]  # masks, too
    n_tests = np.zeros(len(given), dtype=int)
    for _, test in splits:
        np.add.at(n_tests, test, 1)
    if (n_tests != 1).any():
        row = int((n_tests != 1).argmax())
        raise ValueError(
            f"cv must test every row exactly once, but tests row {row} {n_tests[row]} times: use "
            "an int or a splitter without repetitions, such as StratifiedKFold."
        )
    parts = Parallel(n_jobs=n_jobs)(
        delayed(_fold_probabilities)(clone(estimator), X, labels, split, params or {}, classes)
        for split in splits
    )
    probabilities = np.empty((len(given), len(classes)))
    for (_, test), part in zip(splits, parts, strict=True):
        probabilities[test] = part
    scores = np.where(given == NO_LABEL, np.nan, 1 - probabilities[rows, given]).clip(0, 1)
    return (scores, classes[probabilities.argmax(axis=1)]) if return_suggested else scores


def _fold_probabilities(
    estimator: Any, X: Any, y: np.ndarray, split: Any, params: dict[str, Any], classes: np.ndarray
) -> np.ndarray:
    """Fit on the training part of a split and predict its test part, shape (n_test, n_classes)."""
    train, test = split
    X_train, y_train = _safe_split(estimator, X, y, train)
    X_test, _ = _safe_split(estimator, X, y, test, train)
    estimator.fit(X_train, y_train, **_check_method_params(X, params, train))
    predicted = np.asarray(estimator.predict_proba(X_test))
    probabilities = np.zeros((len(test), len(classes)))
    codes = {label: code for code, label in enumerate(classes.tolist())}
    found = getattr(estimator, "classes_", None)
    if found is None:  # cleanlab's has none; sorted labels are the custom
        found = np.unique(y_train)
        if len(found) != predicted.shape[1]:
            raise ValueError(
                f"estimator {type(estimator).__name__} has no classes_, and predict_proba has "
                f"{predicted.shape[1]} columns for {len(found)} classes: give it the attribute "
                "classes_, with the labels of the columns."
            )
    for column, label in zip(predicted.T, np.asarray(found).tolist(), strict=True):
        if label in codes:  # the estimator may take the marker of a missing label for a class
            probabilities[:, codes[label]] = column
    return probabilities
