"""What a fitted classifier says of the labels that it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sklearn_clidmu.estimator.label_noise import count_joint, find_wrong, noise_matrix
from sklearn_clidmu.estimator.labels import check_labels, positions
from sklearn_clidmu.estimator.learning import Learned, join_curves
from sklearn_clidmu.mathematics.noise_matrix import NoiseEstimate
from sklearn_clidmu.mathematics.weighting import EvidenceWeightNet

ROW_ATTRIBUTES = ("sample_weights_", "noise_scores_", "suggested_labels_", "_given", "_wrong")
"""What is known of every row."""

N_LISTED = 8
"""Classes, and rows, that a report names at most."""

WIDTH = 24
"""Characters of a label that are printed at most."""


class LabelReportMixin:
    """Methods of a classifier that scores labels; ``fit`` calls :meth:`_audit` at its end."""

    classes_: np.ndarray
    noise_scores_: np.ndarray
    history_: dict[str, np.ndarray]
    n_iter_: int
    predict_proba: Callable[[Any], np.ndarray]

    def noise_scores(self, X: Any, y: Any) -> np.ndarray:
        """Score how suspect the labels of rows are that were not passed to ``fit``.

        One minus the probability that the trained network predicts for the given label.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows, in the features of ``fit``.
        y : array-like of shape (n_samples,)
            Given labels, all of them among ``classes_``.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In [0, 1]; higher means more likely wrong.

        Raises
        ------
        ValueError
            If y has a label that is not among ``classes_``.
        """
        probabilities = self.predict_proba(X)
        y = check_labels(y)
        check_consistent_length(probabilities, y)
        codes = positions(y, self.classes_)
        scores = 1 - np.take_along_axis(probabilities, codes[:, None], axis=1)[:, 0]
        return scores.clip(0, 1)

    def noise_report(self) -> str:
        """Say in plain language which labels passed to ``fit`` look wrong.

        How many, of which classes and what they should be, which rows to look at first, and what
        the scores can be relied on for. Of many classes and rows, the worst are named.

        Returns
        -------
        str
            Under 25 lines, to print.
        """
        check_is_fitted(self, "net_")
        advice = [
            "Scores are in-sample: the network trained on these labels and may have memorised",
            "some. For scores by networks that have not seen a row's label:",
            "    sklearn_clidmu.cross_val_noise_scores(estimator, X, y)",
        ]
        return describe(self._joint, self.classes_, self.noise_scores_, advice)

    def _audit(self, learned: Learned, given: np.ndarray, noise: NoiseEstimate | None) -> None:
        """Set what is estimated of the noise in the given labels, of the codes ``given``."""
        predicted, right = learned.predicted, None
        weight_net = getattr(learned.net, "weight_net_", None)
        # With another net nothing is known of the noise, or CLID has overruled what is.
        if noise is not None and isinstance(weight_net, EvidenceWeightNet):
            right = noise.believed.double().cpu().numpy()
        self._given = given.astype(np.int32)
        self._wrong = find_wrong(learned.suspicion, given, predicted, right)
        joint = count_joint(self._wrong, given, predicted, len(self.classes_))
        self.suggested_labels_ = self.classes_[predicted]
        self._count_wrong(joint)

    def _put_behind(self, earlier: dict[str, Any]) -> None:
        """Put all that is known of rows and epochs behind what was known of ``earlier`` ones."""
        for name in ROW_ATTRIBUTES:
            setattr(self, name, np.concatenate([earlier[name], getattr(self, name)]))
        self._count_wrong(earlier["_joint"] + self._joint)
        self.history_ = join_curves(earlier["history_"], self.history_)
        self.n_iter_ += earlier["n_iter_"]

    def _count_wrong(self, joint: np.ndarray) -> None:
        self._joint = joint
        self.noise_rate_ = float(1 - self._joint.trace() / self._joint.sum())
        self.noise_matrix_ = noise_matrix(self._joint)


def shorten(label: object) -> str:
    """Text of a label on one line of limited width."""
    text = " ".join(str(label).split())
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def describe(joint: np.ndarray, classes: np.ndarray, scores: np.ndarray, advice: list[str]) -> str:
    """Report on the labels in plain language.

    Parameters
    ----------
    joint : ndarray of shape (n_classes, n_classes), int
        From :func:`count_joint`.
    classes : ndarray of shape (n_classes,)
    scores : ndarray of shape (n,)
        nan for rows without a label.
    advice : list of str
        Lines to end with.
    """
    n_labels, n_rows = int(joint.sum()), len(scores)
    n_wrong = n_labels - int(joint.trace())
    lines = [
        f"{n_labels} labels in {len(classes)} classes"
        + (f", and {n_rows - n_labels} rows without a label." if n_rows > n_labels else "."),
        f"About {n_wrong} of the labels ({n_wrong / n_labels:.0%}) are estimated to be wrong.",
        "",
        *_class_lines(joint, classes),
        "",
    ]
    first = np.argsort(-np.nan_to_num(scores, nan=-1), kind="stable")[: min(N_LISTED, n_labels)]
    lines.append(f"Rows to look at first, counted from 0: {', '.join(map(str, first))}.")
    return "\n".join(lines + advice)


def _class_lines(joint: np.ndarray, classes: np.ndarray) -> list[str]:
    """Table of the classes with the most wrong labels."""
    given = joint.sum(axis=1)
    wrong = given - joint.diagonal()
    worst = [code for code in np.argsort(-wrong, kind="stable")[:N_LISTED] if wrong[code]]
    if not worst:
        return ["No class has labels that are estimated to be wrong."]
    lines = [f"{'given label':{WIDTH}}  {'rows':>9}  {'wrong':>9}  should mostly be"]
    for code in worst:
        mended = np.where(np.arange(len(joint)) == code, 0, joint[code])
        rival = int(mended.argmax())
        lines.append(
            f"{shorten(classes[code]):{WIDTH}}  {given[code]:>9}  {wrong[code]:>9}  "
            f"{shorten(classes[rival])} ({mended[rival]})"
        )
    n_others = np.count_nonzero(wrong) - len(worst)
    if n_others:
        n_left = int(wrong.sum() - wrong[worst].sum())
        lines.append(f"and {n_left} wrong labels in {n_others} more classes.")
    return lines
