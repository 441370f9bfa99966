"""Labels that look wrong: the list of issues, and the noise report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import confusion_matrix
from sklearn.utils.validation import _num_samples, check_is_fitted

from sklearn_clidmu._pipelines import trained_classifier
from sklearn_clidmu._review_page import review_page
from sklearn_clidmu._validation.arrays import (
    as_numpy,
    check_order,
    check_same_length,
    check_scores,
    row_names,
)
from sklearn_clidmu._validation.labels import (
    NO_LABEL,
    as_objects,
    check_comparable,
    check_labels,
    is_missing,
    plain_labels,
)

N_PRINTED_ISSUES = 10  # maximum in the representation of LabelIssues
N_REPORTED = 8  # maximum number of classes, and of rows, in a noise report
LABEL_WIDTH = 24  # maximum number of characters of a printed label

REVIEW = "Check them on a page: find_label_issues(clf).to_html('review.html')."
RESCORE = """\
The network was trained on these labels and may have memorized some.
For scores by networks that were not trained on a row's label:
    sklearn_clidmu.cross_val_noise_scores(estimator, X, y)"""


def find_label_issues(
    clf_or_scores: Any, y: Any = None, *, suggested: Any = None, threshold: Any = "auto"
) -> LabelIssues:
    """List the labels that look wrong, those with the highest noise scores first.

    Parameters
    ----------
    clf_or_scores : fitted CLIDMUClassifier, Pipeline that ends in one, or array-like of scores
        A classifier knows the labels passed to ``fit``. A fitted search stands for its best
        estimator. Scores have shape (n_samples,), are in
        [0, 1], higher for labels that are more likely wrong, and nan for rows without a label;
        for example from :func:`~sklearn_clidmu.cross_val_noise_scores`.
    y : array-like of shape (n_samples,), default=None
        Given labels, nan or None where there is none; only with scores.
    suggested : array-like of shape (n_samples,), default=None
        Labels that the rows should probably have, such as the most probable classes; only with
        scores.
    threshold : "auto" or float, default="auto"
        Labels with at least this score are issues, unless it is 0, as that of confirmed labels is.
        "auto" takes

        - with a classifier, the labels that ``noise_rate_`` counts as wrong: in each class those
          with the highest scores, up to the estimated number of wrong labels;
        - with scores and ``suggested``, the labels that differ from the suggested ones;
        - with scores alone, the labels that score above 0.5.

    Returns
    -------
    LabelIssues
        The issues as arrays, as a printed table and, with pandas, as a data frame of all rows.

    Raises
    ------
    ValueError
        If an argument is out of range, or if the arguments cannot be combined.
    sklearn.exceptions.NotFittedError
        If the classifier is not fitted.

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
    if isinstance(clf_or_scores, type):
        raise ValueError(
            f"clf_or_scores must be a fitted classifier, got the class {clf_or_scores.__name__}: "
            "pass an instance of it, fitted."
        )
    if not isinstance(clf_or_scores, BaseEstimator):
        issues = _issues_of_scores(clf_or_scores, y, suggested)
    elif y is None and suggested is None:
        issues = _issues_of_classifier(clf_or_scores)
    else:
        raise ValueError(
            "y and suggested must be passed with an array of scores only: a fitted classifier "
            "knows its labels."
        )
    if auto:
        return issues
    # Not where there is no score, nor where the label is confirmed.
    return replace(issues, mask=(issues.scores >= threshold) & (issues.scores > 0))


def _issues_of_classifier(clf: Any) -> LabelIssues:
    clf = trained_classifier(clf)
    if not hasattr(clf, "noise_report"):
        raise ValueError(
            "clf_or_scores must be a CLIDMUClassifier, a Pipeline that ends in one, or an array "
            f"of scores, got {type(clf).__name__}. Of a search, pass it fitted, or its "
            "best_estimator_; for other classifiers pass the scores of cross_val_noise_scores."
        )
    check_is_fitted(clf)
    given, unlabeled = clf.classes_[clf._given], clf._given == NO_LABEL
    if unlabeled.any():
        given = np.array(as_objects(given), dtype=object)
        given[unlabeled] = None
    columns = clf._wrong.copy(), clf.noise_scores_.copy(), given, clf.suggested_labels_.copy()
    return LabelIssues(*columns, clf.noise_rate_, clf._doubt, clf._row_names, clf._level_names)


def _issues_of_scores(scores: Any, y: Any, suggested: Any) -> LabelIssues:
    if y is None:
        raise ValueError("y must be passed with an array of scores: the labels that were scored.")
    names, levels = row_names(y, scores)
    scores, given = check_scores(scores, "scores"), check_labels(y).copy()
    check_same_length(scores=scores, y=given)
    known = ~(np.isnan(scores) | is_missing(given, np.nan))
    if not known.any():
        raise ValueError(f"y must have labels of rows with a score, got none in {len(y)} rows.")
    scores, labels = np.where(known, scores, np.nan), plain_labels(given[known])
    if suggested is None:
        mask, suggested = scores > 0.5, np.full(len(given), None)  # more likely wrong than right
    else:
        suggested = check_labels(suggested, "suggested").copy()
        check_same_length(y=given, suggested=suggested)
        mask = known & ~is_missing(suggested, np.nan)
        if mask.any():
            others = plain_labels(suggested[mask], name="suggested")
            check_comparable(others, labels, "suggested", "those of y")
            mask[mask] = others != labels[mask[known]]
    rate = float(mask[known].mean())
    return LabelIssues(mask, scores, given, suggested, rate, None, names, levels)


@dataclass(frozen=True, eq=False, repr=False)
class LabelIssues:
    """Labels that look wrong, from :func:`find_label_issues`; ``len()`` is the number of issues.

    Parameters
    ----------
    mask : ndarray of shape (n_samples,), bool
        Rows that are issues. All arrays of this shape are in the order of the rows.
    scores : ndarray of shape (n_samples,)
        Noise scores, in [0, 1]; nan where there is no label.
    given_labels, suggested_labels : ndarray of shape (n_samples,)
        The given label and the label that the row should probably have; None where unknown.
    noise_rate : float
        Estimated share of wrong labels. It does not depend on the threshold.
    doubt : str or None, default=None
        Why the issues cannot be relied on: the classifier knows no more than the class frequencies.
        None if it does, and where the scores came alone.
    row_names : ndarray of shape (n_samples,) or None, default=None
        Index of the data frame or series that was passed; None where the rows had no names.
    level_names : list or None, default=None
        Names of the levels of that index.

    Attributes
    ----------
    index : ndarray of shape (n_issues,), int
        Row numbers of the issues, highest scores first. The next attributes are in this order.
    given_label, suggested_label : ndarray of shape (n_issues,)
        Given and suggested labels of the issues.
    score : ndarray of shape (n_issues,)
        Noise scores of the issues.
    """

    mask: np.ndarray
    scores: np.ndarray
    given_labels: np.ndarray
    suggested_labels: np.ndarray
    noise_rate: float
    doubt: str | None = None
    row_names: np.ndarray | None = None
    level_names: list[Any] | None = None

    @cached_property
    def index(self) -> np.ndarray:
        """Row numbers of the issues, highest scores first."""
        rows = np.flatnonzero(self.mask)
        return rows[np.argsort(-self.scores[rows], kind="stable")]

    @property
    def given_label(self) -> np.ndarray:
        """Given labels of the issues."""
        return self.given_labels[self.index]

    @property
    def suggested_label(self) -> np.ndarray:
        """Suggested labels of the issues."""
        return self.suggested_labels[self.index]

    @property
    def score(self) -> np.ndarray:
        """Noise scores of the issues."""
        return self.scores[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        columns = self._printed()
        lines = [self._heading()]
        if len(self):
            aligned = [[text.rjust(max(map(len, column))) for text in column] for column in columns]
            lines += map("  ".join, zip(*aligned, strict=True))
        return "\n".join(lines + self._notes())

    def _repr_html_(self) -> str:
        """Table of the first issues, for notebooks."""
        columns = [list(map(escape, column)) for column in self._printed()]
        names, *rows = zip(*columns, strict=True)
        header = "".join(f'<th scope="col">{name}</th>' for name in names)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        table = f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._notes())
        return f"<p>{escape(self._heading())}</p>{table if len(self) else ''}{notes}"

    def _heading(self) -> str:
        n_labels = np.count_nonzero(~np.isnan(self.scores))
        return (
            f"{len(self)} label issues among {n_labels} labels "
            f"(estimated noise rate {_percent(self.noise_rate)})"
        )

    def _printed(self) -> list[list[str]]:
        """Columns of the printed table, each with its name first."""
        top = slice(N_PRINTED_ISSUES)
        return [
            ["row", *map(str, self.index[top])],
            ["given label", *map(shorten, self.given_label[top])],
            ["suggested", *map(shorten, self.suggested_label[top])],
            ["score", *(f"{score:.3f}" for score in self.score[top])],
        ]

    def _notes(self) -> list[str]:
        n_more = len(self) - N_PRINTED_ISSUES
        return [f"and {n_more} more"] * (n_more > 0) + _doubt_lines(self.doubt)

    def to_html(self, path: Any, *, show: Any = None, X: Any = None, n_neighbors: int = 5) -> None:
        """Write a page on which a person reviews the issues, to be opened in a browser.

        It is one file, needs no network, and shows the shares of issues by class and given label,
        and the issues, the highest scores first. Each label can be kept or changed, or its row
        dropped. The decisions are downloaded as a CSV file, which
        :func:`~sklearn_clidmu.apply_review` reads.

        Parameters
        ----------
        path : str or path-like
            File to write. An existing one is replaced.
        show : data frame, sequence or ndarray, default=None
            How a person sees each row; one entry per row passed to ``fit``, not per issue.

            - a pandas, polars or pyarrow table: its columns;
            - a sequence of texts: the first 5,000 characters of each;
            - an array of images, of shape (n_samples, height, width), or with a last axis of 1, 3
              or 4 channels; or a list of such images or of Pillow's, which may differ in size:
              uint8, or numbers, scaled by the range of those shown, with at most 256 pixels a side;
            - a sequence of ``pathlib.Path``: images whose files are copied into the page, whole,
              those of the nearest rows too. Make thumbnails of large ones first.

            None shows row numbers and labels only.
        X : array-like or sparse matrix of shape (n_samples, n_features), default=None
            Scaled features or embeddings, without missing values, by whose Euclidean distance the
            nearest rows of each issue are found. None shows no nearest rows.
        n_neighbors : int, default=5
            Number of nearest rows, shown with their given labels.

        Raises
        ------
        ValueError
            If ``show`` or ``X`` is invalid, has another number of rows than the labels, or the same
            row names in another order, or if the page would have more than 400 MB, which browsers
            may not open.
        """
        for name, table in (("show", show), ("X", X)):
            if table is not None and _num_samples(as_numpy(table)) != len(self.mask):
                raise ValueError(
                    f"{name} must have the {len(self.mask)} rows that the labels belong to, got "
                    f"{_num_samples(table)}."
                )
            check_order(table, self.row_names, name)
        if not isinstance(n_neighbors, Integral) or n_neighbors < 1:
            raise ValueError(f"n_neighbors must be a positive integer, got {n_neighbors!r}.")
        Path(path).write_text(review_page(self, show, X, n_neighbors), encoding="utf-8")

    def to_frame(self) -> Any:
        """Make a data frame of all rows with cleanlab's column names.

        ``CleanLearning(...).fit(X, y, label_issues=issues.to_frame())`` accepts it.

        Returns
        -------
        pandas.DataFrame
            With the index of the labels or rows that the classifier got, where they had one. Other
            steps of a pipeline may drop that of the rows: pass y as a series there. Columns
            ``is_label_issue`` (bool), ``label_quality`` (one minus the score),
            ``given_label`` and ``predicted_label``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            from pandas import DataFrame, Index
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas: pip install pandas, or read the arrays index, "
                "given_label, suggested_label and score."
            ) from error
        index, levels = None, self.level_names or [None]
        if self.row_names is not None:
            index = Index(list(self.row_names), tupleize_cols=len(levels) > 1).set_names(levels)
        return DataFrame(
            {
                "is_label_issue": self.mask,
                "label_quality": 1 - self.scores,
                "given_label": self.given_labels,
                "predicted_label": self.suggested_labels,
            },
            index=index,
        )


def shorten(label: object) -> str:
    """Text of a label on one line of at most ``LABEL_WIDTH`` characters."""
    text = " ".join(str(label).split())
    return text if len(text) <= LABEL_WIDTH else text[: LABEL_WIDTH - 3] + "..."


def find_wrong(
    scores: np.ndarray, given: np.ndarray, suggested: np.ndarray, label_precision: np.ndarray | None
) -> np.ndarray:
    """Mask of the labels that count as wrong, shape (n,), bool.

    A label counts as wrong if it is not the most probable class. In each class at most as many do
    as the label precision allows, those of the highest scores: where classes overlap the network
    disagrees with right labels, too.
    """
    wrong = (given != suggested) & (given != NO_LABEL)
    if label_precision is None:
        return wrong
    for code, share in enumerate(label_precision):
        rows = np.flatnonzero(wrong & (given == code))
        allowed = round((1 - share) * np.count_nonzero(given == code))
        order = np.argsort(-scores[rows], kind="stable")
        wrong[rows[order[allowed:]]] = False
    return wrong


def count_joint(
    wrong: np.ndarray, given: np.ndarray, suggested: np.ndarray, n_classes: int
) -> np.ndarray:
    """Count labeled rows by true class (row) and given label (column)."""
    labeled, true = given != NO_LABEL, np.where(wrong, suggested, given)
    return confusion_matrix(true[labeled], given[labeled], labels=np.arange(n_classes))


def transition_matrix(joint: np.ndarray) -> np.ndarray:
    """Probability of the given label (column) in a true class (row), from counts.

    A class without rows keeps its labels, since nothing is known of its noise.
    """
    mass = joint.sum(axis=1, keepdims=True)
    return np.divide(joint, mass, out=np.eye(len(joint)), where=mass > 0)


def noise_report(
    joint: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    doubt: str | None = None,
    unseen: bool = False,
) -> str:
    """Report on the labels in plain language, in fewer than 25 lines.

    ``unseen`` says that the scores start from predictions made without the labels.
    """
    n_labels, n_rows = int(joint.sum()), len(scores)
    n_wrong = n_labels - int(joint.trace())
    share = _percent(n_wrong / n_labels)
    unlabeled = f", and {n_rows - n_labels} rows without a label" if n_rows > n_labels else ""
    n_top = min(N_REPORTED, np.count_nonzero(scores > 0))  # confirmed labels have 0
    top = np.argsort(-np.nan_to_num(scores, nan=-1), kind="stable")[:n_top]
    lines = [
        f"{n_labels} labels in {len(classes)} classes{unlabeled}.",
        f"About {n_wrong} of the labels ({share}) are estimated to be wrong.",
        *_doubt_lines(doubt),
        "",
        *_class_lines(joint, classes),
    ]
    if n_top and not doubt:
        first = f"Rows to look at first, counted from 0: {', '.join(map(str, top))}."
        lines += ["", first, REVIEW if unseen else RESCORE]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _doubt_lines(doubt: str | None) -> list[str]:
    return [f"This cannot be relied on: {doubt}."] if doubt else []


def _class_lines(joint: np.ndarray, classes: np.ndarray) -> list[str]:
    """Table of the classes with the most wrong labels."""
    wrong = joint - np.diag(joint.diagonal())
    n_given, n_wrong, rivals = joint.sum(axis=0), wrong.sum(axis=0), wrong.argmax(axis=0)
    worst = [code for code in np.argsort(-n_wrong, kind="stable")[:N_REPORTED] if n_wrong[code]]
    if not worst:
        return ["No class has labels that are estimated to be wrong."]
    lines = [f"{'given label':{LABEL_WIDTH}}  {'rows':>9}  {'wrong':>9}  most often suggested"]
    for code in worst:
        lines.append(
            f"{shorten(classes[code]):{LABEL_WIDTH}}  {n_given[code]:>9}  {n_wrong[code]:>9}  "
            f"{shorten(classes[rivals[code]])} ({wrong[rivals[code], code]})"
        )
    n_others = np.count_nonzero(n_wrong) - len(worst)
    if n_others:
        n_left = int(n_wrong.sum() - n_wrong[worst].sum())
        lines.append(f"and {n_left} wrong labels in {n_others} more classes.")
    return lines
