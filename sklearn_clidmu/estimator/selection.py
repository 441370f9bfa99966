"""Scorers for choosing a model when no label can be relied on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from sklearn_clidmu.estimator.arguments import as_numpy, check_same_length
from sklearn_clidmu.estimator.classifier import CLIDMUClassifier
from sklearn_clidmu.estimator.labels import check_labels, is_missing
from sklearn_clidmu.estimator.rows import as_rows, principal_part
from sklearn_clidmu.mathematics.clid import clid_loss, uniform_clid
from sklearn_clidmu.mathematics.leave_one_out import leave_one_out_shares
from sklearn_clidmu.mathematics.noise_channel import channel_log_likelihood

CLID_ROWS = 512
"""CLID is measured on at most as many rows: its graphs are square in them."""

TEMPERATURE = 0.5
"""Of the feature graph, whatever the candidate's own, so that candidates can be compared."""

WORST_CLID_SCORE = -1 / TEMPERATURE
"""Of a collapsed network. No other scores less: affinities lie in [0, 1 / temperature], so that
-log S_ij is at most log n + 1 / temperature."""


def clid_score(estimator: Any, X: Any, y: Any = None) -> float:
    """How well features and predictions agree on which rows are alike; needs no labels.

    The negative of CLID - log n, at temperature 0.5 whatever the candidate's own, on up to 512
    rows, drawn with a fixed seed where there are more. Pass it as ``scoring=clid_score``.

    It tells networks that have collapsed, but among sound ones it is a poor guide: where there are
    labels, :func:`noisy_label_scorer` chooses better (docs/model_selection.md).

    Parameters
    ----------
    estimator : CLIDMUClassifier or Pipeline
        Fitted. A pipeline must end in a :class:`CLIDMUClassifier`; its other steps transform X.
    X : array-like of shape (n_samples, n_features)
        Rows, best such as were not trained on.
    y : object, default=None
        Not read; there because scikit-learn passes it.

    Returns
    -------
    float
        In [-2, 2], higher is better; a constant predictor's is at most 0. -2, the worst, where
        the network collapsed: after a collapse or divergence in training, where its output is not
        finite, and where it predicts one class alone for all of several rows.

    Raises
    ------
    TypeError
        If the estimator is neither a CLIDMUClassifier nor a pipeline that ends in one.
    """
    clf, X = _last_step(estimator, X)
    if not isinstance(clf, CLIDMUClassifier):
        raise TypeError(
            "clid_score needs a CLIDMUClassifier, or a Pipeline that ends in one, because it reads "
            f"the network's features; got {type(clf).__name__}. Score other classifiers with "
            "noisy_label_scorer."
        )
    check_is_fitted(clf, "net_")
    X = clf._check_rows(X, reset=False)
    if X.shape[0] > CLID_ROWS:
        drawn = np.random.RandomState(0).choice(X.shape[0], CLID_ROWS, replace=False)
        X = X[np.sort(drawn)]
    logits, features = (output.double() for output in clf.net_.evaluate(as_rows(X)))
    if clf.collapse_epoch_ is not None or clf.net_.diverged_ or _is_collapsed(logits, features):
        return WORST_CLID_SCORE
    return float(uniform_clid(len(logits)) - clid_loss(features, logits, TEMPERATURE))


def noisy_label_scorer(estimator: Any, X: Any, y: Any) -> float:
    """How well a classifier does on labels that may be wrong.

    Three looks at it, of which the first counts as much as the others together; each alone chose
    worse on average over 60 cells of real data (docs/model_selection.md):

    - the mean log likelihood of the labels, given its decisions, after the noise matrix that makes
      them likeliest has been put behind these: it is not blamed for wrong labels, whichever classes
      are mistaken for which, as long as they follow from the class it predicts;
    - the mean probability that it gives to the labels;
    - how much of each label a kernel regression on all other rows finds around a row, averaged by
      the probabilities: less noisy than the row's own label.

    Pass it as ``scoring=noisy_label_scorer``. Deterministic; of up to 4000 rows, the order makes
    no difference.

    Parameters
    ----------
    estimator : classifier or Pipeline
        Fitted: any classifier with ``predict_proba``, or a pipeline that ends in one.
    X : array-like of shape (n_samples, n_features)
        Rows that were not trained on: a classifier that has memorised labels predicts those. As
        the classifier itself sees them, after a pipeline's other steps, they are finite numbers
        and, for the kernel regression, on comparable scales.
    y : array-like of shape (n_samples,)
        Given labels. Missing ones, that is nan, None or the classifier's ``missing_label``, are
        left out.

    Returns
    -------
    float
        Always finite; higher is better. Compare it on the same rows only.

    Raises
    ------
    TypeError
        If the estimator has no ``predict_proba``.
    ValueError
        If no row has a label, if there are more or fewer labels than rows, or if X is not what was
        said above.
    """
    clf, X = _last_step(estimator, X)
    if not hasattr(clf, "predict_proba"):
        raise TypeError(
            "noisy_label_scorer needs a classifier with predict_proba, got "
            f"{type(clf).__name__}: wrap it in sklearn.calibration.CalibratedClassifierCV."
        )
    probabilities = clf.predict_proba(X)
    y = check_labels(y)
    check_same_length(X=probabilities, y=y)
    given = ~(is_missing(y, np.nan) | is_missing(y, getattr(clf, "missing_label", None)))
    if not given.any():
        raise ValueError("noisy_label_scorer needs rows with a label, and every y is missing.")
    targets, n_labels = _encode(y[given], clf.classes_)
    X = check_array(as_numpy(X), dtype=np.float64, accept_sparse="csr", allow_nd=True)
    rows = torch.from_numpy(principal_part(X, seed=0)[given])
    p = torch.from_numpy(np.asarray(probabilities, dtype=np.float64)[given])
    decisions = F.one_hot(p.argmax(dim=1), p.shape[1]).to(p)
    generator = torch.Generator().manual_seed(0)
    around = leave_one_out_shares(rows, targets, n_labels, torch.ones_like(p[:, 0]), generator)
    agreement = (around[:, : p.shape[1]] * p).sum(dim=1).mean()
    given_label = F.one_hot(targets, n_labels)[:, : p.shape[1]]
    probability = (given_label * p).sum(dim=1).mean()
    likelihood = channel_log_likelihood(decisions, targets, n_labels)
    return float(likelihood + (agreement + probability) / 2)


def _encode(y: np.ndarray, classes: np.ndarray) -> tuple[torch.Tensor, int]:
    """Positions of labels among the classes, and after them those that no training row had."""
    labels = np.concatenate([classes, np.setdiff1d(y, classes)])
    order = np.argsort(labels)
    return torch.from_numpy(order[np.searchsorted(labels, y, sorter=order)]), len(labels)


def _is_collapsed(logits: torch.Tensor, features: torch.Tensor) -> bool:
    """Whether outputs are not finite, or one class is predicted for all of several rows."""
    if not (logits.isfinite().all() and features.isfinite().all()):
        return True
    return len(logits) > 1 and len(logits.argmax(dim=1).unique()) == 1


def _last_step(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Last step of a pipeline, and the rows as it sees them; anything else is its own last step."""
    while isinstance(estimator, Pipeline):
        if len(estimator) > 1:
            X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    return estimator, X
