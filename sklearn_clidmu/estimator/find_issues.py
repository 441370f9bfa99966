"""Which labels are issues: by a fitted classifier, or by scores alone."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_clidmu.estimator.arguments import check_same_length, check_scores, check_vector
from sklearn_clidmu.estimator.label_issues import LabelIssues
from sklearn_clidmu.estimator.label_report import LabelReportMixin
from sklearn_clidmu.estimator.labels import NO_LABEL

EVEN_ODDS = 0.5
"""Score from which on a label is more likely wrong than right, as bare scores tell."""


def find_label_issues(
    clf_or_scores: Any, y: Any = None, *, suggested: Any = None, threshold: Any = "auto"
) -> LabelIssues:
    """List the labels that look wrong, most suspect first.

    Parameters
    ----------
    clf_or_scores : fitted CLIDMUClassifier, Pipeline that ends in one, or array-like of scores
        A classifier remembers the labels passed to ``fit``. Scores, of shape (n_samples,), are in
        [0, 1], higher for more suspect labels, and nan for rows without a label; for example from
        :func:`cross_val_noise_scores`.
    y : array-like of shape (n_samples,), default=None
        Labels given to the rows; with scores only.
    suggested : array-like of shape (n_samples,), default=None
        Labels that the rows should probably have, such as the most probable classes; with scores
        only.
    threshold : "auto" or float, default="auto"
        Score from which on a label is an issue. "auto" takes

        - of a classifier, the labels that count as wrong in its ``noise_rate_``: of each class
          the most suspect, as many as are estimated to be wrong;
        - of scores with ``suggested``, the labels that are not the suggested ones;
        - of scores alone, those above 0.5.

    Returns
    -------
    LabelIssues
        Arrays, a printed table and, with pandas, a frame for all rows.

    Raises
    ------
    ValueError
        If the arguments do not fit each other, or are out of range.

    Examples
    --------
    >>> from sklearn_clidmu import find_label_issues
    >>> find_label_issues([0.1, 0.9, 0.7], ["cat", "dog", "dog"], suggested=["cat", "cat", "cat"])
    2 label issues among 3 labels (estimated noise rate 67%)
    row  given label  suggested  score
      1          dog        cat  0.900
      2          dog        cat  0.700
    """
    auto = isinstance(threshold, str) and threshold == "auto"
    if not auto and not (isinstance(threshold, Real) and 0 <= float(threshold) <= 1):
        raise ValueError(f"threshold must be 'auto' or a number in [0, 1], got {threshold!r}.")
    if isinstance(clf_or_scores, BaseEstimator):
        if y is not None or suggested is not None:
            raise ValueError(
                "y and suggested go with an array of scores: leave them out with a classifier, "
                "which remembers its own."
            )
        found = _of_classifier(clf_or_scores)
    else:
        found = _of_scores(clf_or_scores, y, suggested)
    if auto:
        return found
    return replace(found, mask=found.scores >= threshold)  # which nan is not


def _of_classifier(clf: BaseEstimator) -> LabelIssues:
    """Read the issues out of a fitted classifier."""
    if isinstance(clf, Pipeline):
        clf = clf[-1]
    if not isinstance(clf, LabelReportMixin):
        raise ValueError(
            "clf_or_scores must be a CLIDMUClassifier, a Pipeline that ends in one, or an array "
            f"of scores, got {type(clf).__name__}. Of a search, pass its best_estimator_; for "
            "other classifiers pass the scores of cross_val_noise_scores."
        )
    check_is_fitted(clf)
    given, unlabelled = clf.classes_[clf._given], clf._given == NO_LABEL
    if unlabelled.any():
        given = given.astype(object)
        given[unlabelled] = None
    return LabelIssues(clf._wrong, clf.noise_scores_, given, clf.suggested_labels_, clf.noise_rate_)


def _of_scores(scores: Any, y: Any, suggested: Any) -> LabelIssues:
    """Find the issues by scores alone."""
    if y is None:
        raise ValueError("y must be given with an array of scores: the labels that were scored.")
    scores, y = check_scores(scores, "scores"), check_vector(y, "y")
    check_same_length(scores=scores, y=y)
    known = ~np.isnan(scores)
    if suggested is None:
        mask, suggested = scores > EVEN_ODDS, np.full(len(y), None)
    else:
        suggested = check_vector(suggested, "suggested")
        check_same_length(y=y, suggested=suggested)
        mask = known & (suggested != y)
    return LabelIssues(mask, scores, y, suggested, float(mask[known].mean()))
