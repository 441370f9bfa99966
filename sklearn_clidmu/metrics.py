"""Scorers for model selection when labels may be wrong.

The log loss punishes a classifier for predicting the true class of a mislabeled row.
:func:`noisy_label_scorer` therefore puts a *transition matrix* behind the predictions: the
probability of each given label (column) in each class (row), fitted to the scored labels.

Source: Sukhbaatar et al., "Training convolutional networks with noisy labels",
2014, arXiv 1406.2080. Here each row counts for its predicted class alone, so that counts fit it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.impute import SimpleImputer
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional as F

from sklearn_clidmu._classifier import CLIDMUClassifier
from sklearn_clidmu._pipelines import last_step
from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu._torch_state import fresh_torch
from sklearn_clidmu._validation.arrays import as_numpy, check_same_length
from sklearn_clidmu._validation.labels import NO_LABEL, encode_known
from sklearn_clidmu.clid.objective import clid_loss
from sklearn_clidmu.noise.loo_kernel_ridge import dense_rows, loo_proba
from sklearn_clidmu.training.data import as_rows

CLID_ROWS = 512  # maximum; the cost of CLID is quadratic in the number of rows
TEMPERATURE = 0.5  # of the feature graph, the same for all candidates so that scores compare

# Lower bound of the score: affinities A_ij are in [0, 1 / temperature], so that -log S_ij is at
# most log n + 1 / temperature.
WORST_CLID_SCORE = -1 / TEMPERATURE

# Rows of each class that are assumed: as many with their own label, and as many with labels spread
# evenly. They regularize the transition matrix if there are few rows.
ASSUMED_ROWS = 1.0


@fresh_torch()
def clid_score(estimator: Any, X: Any, y: Any = None) -> float:
    """Agreement of features and predictions on which rows are alike; needs no labels.

    The negative of CLID - log n, at temperature 0.5 whatever the candidate's temperature, on up to
    512 rows, drawn with a fixed seed if there are more. Pass it as ``scoring=clid_score``.

    The score detects collapsed networks but ranks other networks poorly: if there are labels,
    prefer :func:`noisy_label_scorer` (docs/model_selection.md).

    Parameters
    ----------
    estimator : CLIDMUClassifier or Pipeline
        Fitted. A pipeline must end in a :class:`CLIDMUClassifier`; its other steps transform X.
    X : array-like of shape (n_samples, n_features)
        Rows, preferably not used for training.
    y : object, default=None
        Ignored; exists for scikit-learn's scorer signature.

    Returns
    -------
    float
        In [-2, 2], higher is better; at most 0 for a constant predictor. -2 for a collapsed
        network: if training collapsed or diverged, if the output is not finite, or if it predicts
        the same class for all of several rows.

    Raises
    ------
    TypeError
        If the estimator is neither a CLIDMUClassifier nor a pipeline that ends in one.
    sklearn.exceptions.NotFittedError
        If the classifier is not fitted.
    """
    clf, X = last_step(estimator, X)
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
    diverged = any(stage["predicts"] and stage["outcome"] == "diverged" for stage in clf.stages_)
    finite = bool(logits.isfinite().all() and features.isfinite().all())
    one_class = len(logits) > 1 and len(logits.argmax(dim=1).unique()) == 1
    if diverged or clf.collapse_epoch_ is not None or one_class or not finite:
        return WORST_CLID_SCORE
    return math.log(len(logits)) - float(clid_loss(features, logits, TEMPERATURE))


@fresh_torch()
def noisy_label_scorer(estimator: Any, X: Any, y: Any) -> float:
    """Score a classifier on labels that may be wrong.

    The sum of

    - the mean log likelihood of the labels given the predicted classes, behind the transition
      matrix with the highest likelihood. Wrong labels that depend on the predicted class alone do
      not lower it;
    - half the mean predicted probability of the labels;
    - half the mean, over rows and weighted by the predicted probabilities, of the class
      proportions that a leave-one-out kernel ridge regression predicts from all other rows, which
      are less noisy than the row's own label.

    Each term alone chose worse on average over 60 experiments on real data
    (docs/model_selection.md). Pass it as ``scoring=noisy_label_scorer``. The score is
    deterministic and, for up to 2000 rows, does not depend on their order.

    Parameters
    ----------
    estimator : classifier or Pipeline
        Fitted: any classifier with ``predict_proba``, or a pipeline that ends in one.
    X : array-like of shape (n_samples, n_features)
        Rows that were not used for training, since a classifier may have memorized the labels of
        those. After the other steps of a pipeline they must be numbers. The kernel regression
        scales them as the classifier does, and takes the mean of a feature for a missing value
        (nan).
    y : array-like of shape (n_samples,)
        Given labels. Rows with nan, None or the classifier's ``missing_label`` are left out.

    Returns
    -------
    float
        Always finite; higher is better. Compare scores on the same rows only.

    Raises
    ------
    TypeError
        If the estimator has no ``predict_proba``, or no ``classes_``.
    ValueError
        If no row has a label, if X and y have different lengths, or if X has entries that are not
        numbers or are infinite.
    """
    clf, X = last_step(estimator, X)
    if not hasattr(clf, "predict_proba"):
        raise TypeError(
            "noisy_label_scorer needs a classifier with predict_proba, got "
            f"{type(clf).__name__}: wrap it in sklearn.calibration.CalibratedClassifierCV."
        )
    probabilities = np.asarray(clf.predict_proba(X), dtype=np.float64)
    if not hasattr(clf, "classes_"):
        raise TypeError(
            "noisy_label_scorer needs a fitted classifier with classes_, the labels of the columns "
            f"of predict_proba, got {type(clf).__name__}: score the classifier that it wraps."
        )
    missing_label = getattr(clf, "missing_label", None)
    codes = encode_known(y, clf.classes_, missing_label, scored=True, nan_too=True)
    check_same_length(X=probabilities, y=codes)
    given = codes != NO_LABEL
    targets = torch.from_numpy(codes[given])
    n_labels = max(int(targets.max()) + 1, len(clf.classes_))
    with config_context(assume_finite=False, transform_output="default"):
        X = dense_rows(check_kernel_rows(X, given), seed=0)
    rows = torch.from_numpy(X).flatten(start_dim=1)
    p = torch.from_numpy(probabilities[given])
    n_classes, weight = p.shape[1], torch.ones_like(p[:, 0])
    generator = torch.Generator().manual_seed(0)
    scaler = RobustScaler.fit(rows, weight, generator)
    proportions = loo_proba(rows, targets, n_labels, weight, generator, scale=scaler)
    one_hot = F.one_hot(targets, n_labels)
    # Twice the mean of two terms: the label's probability and the kernel regression's agreement.
    agreement = ((one_hot + proportions)[:, :n_classes] * p).sum(dim=1).mean()
    decisions = p.argmax(dim=1)
    matrix = fit_transition_matrix(decisions, targets, n_classes, n_labels)
    return float(matrix[decisions, targets].log().mean() + agreement / 2)


def check_kernel_rows(X: Any, given: np.ndarray) -> Any:
    """Rows that have a label for the kernel regression; missing values of vectors become the mean.

    X may have any shape, ``given`` is the mask of the rows.
    """
    options = {"dtype": np.float64, "accept_sparse": "csr", "allow_nd": True}
    X = check_array(as_numpy(X), ensure_all_finite="allow-nan", **options)[given]
    if X.ndim == 2:
        return SimpleImputer(keep_empty_features=True).fit_transform(X)
    return check_array(X, **options)


def fit_transition_matrix(
    decisions: Tensor, targets: Tensor, n_classes: int, n_labels: int
) -> Tensor:
    """Transition matrix of greatest likelihood of the labels, assumed rows included.

    Shape (n_classes, n_labels). Positive, so that the likelihood of any label is finite.
    ``decisions`` are the predicted classes, ``targets`` the given labels.
    """
    eye = torch.eye(n_classes, n_labels, dtype=torch.float64)
    counts = ASSUMED_ROWS * (eye + 1 / n_labels)
    counts.index_put_((decisions, targets), counts.new_ones(()), accumulate=True)
    return counts / counts.sum(dim=1, keepdim=True)
