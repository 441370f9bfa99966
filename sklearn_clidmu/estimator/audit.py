"""Out-of-fold noise scores for any classifier."""

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

from sklearn_clidmu.estimator.arguments import as_numpy
from sklearn_clidmu.estimator.constraints import PARAMETER_CONSTRAINTS
from sklearn_clidmu.estimator.labels import NO_LABEL, check_labels, encode_labels

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
    """Score how suspect each label is, by classifiers that have not seen it.

    A score is one minus the probability of the given label, predicted by a clone that was
    trained on the other folds. In-sample scores, such as ``noise_scores_``, are cheaper and, of a
    classifier that resists wrong labels, as a rule better: it sees more rows. Those of a
    classifier that memorises say nothing of its own training rows; score those out of fold.

    The folds run in parallel on joblib: inside ``joblib.parallel_config("dask")``, or another
    backend that reaches other machines, they are spread over those.

    Parameters
    ----------
    estimator : classifier with ``predict_proba``
        Also a Pipeline; cloned, not changed.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Rows, as the estimator takes them.
    y : array-like of shape (n_samples,)
        Given labels: numbers, strings or booleans.
    cv : int, splitter or iterable of (train, test), default=5
        As in :func:`sklearn.model_selection.cross_val_predict`: an int stands for as many
        stratified folds, and every row must be in exactly one test part. Where rows belong
        together, pass the splits: ``cv=list(GroupKFold().split(X, y, groups))``.
    n_jobs : int, default=None
        Folds at a time; None is 1, unless inside a joblib context.
    params : dict, default=None
        Passed to the estimator's ``fit``. What has as many entries as there are rows, such as
        ``sample_weight``, is cut to the training part of each fold.
    missing_label : int, float, str or None, default=None
        What stands in y for no label: nan (and then None as well), "" or -1, say. Such rows are
        passed on as they are, to estimators that know what to do with them, and their scores are
        nan. None means that every row has a label.
    return_suggested : bool, default=False
        Return the most probable classes, too.

    Returns
    -------
    scores : ndarray of shape (n_samples,), float64
        In [0, 1], in the caller's order; higher means more likely wrong. A class without rows in
        the training part of a fold has probability 0 there, and its labels score 1.
    suggested : ndarray of shape (n_samples,)
        With ``return_suggested``: most probable class of each row, of those without a label too.

    Raises
    ------
    ValueError
        If an argument is unfit, if labels of two classes are not there, or if ``cv`` does not test
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
    given_arguments = {"estimator": estimator, "params": params, "missing_label": missing_label}
    validate_parameter_constraints(CONSTRAINTS, given_arguments, "cross_val_noise_scores")
    X, y = indexable(as_numpy(X), as_numpy(y))
    labels = check_labels(y)
    classes, given = encode_labels(labels, missing_label)
    splits = list(check_cv(cv, given, classifier=is_classifier(estimator)).split(X, given))
    _check_partition(splits, len(given))
    parts = Parallel(n_jobs=n_jobs)(
        delayed(_fold_probabilities)(clone(estimator), X, labels, train, test, params, classes)
        for train, test in splits
    )
    probabilities = np.empty((len(given), len(classes)))
    for (_, test), part in zip(splits, parts, strict=True):
        probabilities[test] = part
    rows = np.arange(len(given))
    scores = np.where(given == NO_LABEL, np.nan, 1 - probabilities[rows, given]).clip(0, 1)
    return (scores, classes[probabilities.argmax(axis=1)]) if return_suggested else scores


def _check_partition(splits: list[tuple[np.ndarray, np.ndarray]], n_rows: int) -> None:
    tested = np.zeros(n_rows, dtype=int)
    for _, test in splits:
        np.add.at(tested, test, 1)
    if (tested != 1).any():
        row = int((tested != 1).argmax())
        raise ValueError(
            f"cv must test every row exactly once, but tests row {row} {tested[row]} times: take "
            "an int or a splitter without repetitions, such as StratifiedKFold."
        )


def _fold_probabilities(
    estimator: BaseEstimator,
    X: Any,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    params: dict[str, Any] | None,
    classes: np.ndarray,
) -> np.ndarray:
    """Fit on one part and predict the other, shape (n_test, n_classes)."""
    X_train, y_train = _safe_split(estimator, X, y, train)
    X_test, _ = _safe_split(estimator, X, y, test, train)
    estimator.fit(X_train, y_train, **_check_method_params(X, params or {}, train))
    predicted = estimator.predict_proba(X_test)
    probabilities = np.zeros((len(test), len(classes)))
    codes = {label: code for code, label in enumerate(classes.tolist())}
    for column, label in zip(predicted.T, estimator.classes_.tolist(), strict=True):
        if label in codes:  # and not what stands for no label
            probabilities[:, codes[label]] = column
    return probabilities
