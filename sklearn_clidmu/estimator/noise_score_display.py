"""Picture of noise scores, and of how well they find the labels known to be wrong."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from sklearn_clidmu.estimator.arguments import check_same_length, check_scores, check_vector
from sklearn_clidmu.estimator.drawing import (
    BLUE,
    GUIDE,
    STYLES,
    VERMILLION,
    fitted_classifier,
    panels,
)


class Detection(NamedTuple):
    """How well noise scores find the labels that are known to be wrong."""

    fpr: np.ndarray
    tpr: np.ndarray
    roc_auc: float
    precision: np.ndarray
    recall: np.ndarray
    average_precision: float


class NoiseScoreDisplay:
    """Histogram of noise scores; with the wrong labels known, how well they are found.

    Made by :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    noise_scores : ndarray of shape (n_labels,)
        Higher means more likely wrong.
    wrong : ndarray of shape (n_labels,), bool, or None
        Mask of the labels that are known to be wrong.
    detection : Detection or None
        Receiver operating characteristic and precision-recall curve; None without a mask.

    Attributes
    ----------
    ax_ : matplotlib Axes or ndarray of three
        Histogram and, where they are drawn, the two curves.
    figure_ : matplotlib Figure
    """

    def __init__(
        self,
        noise_scores: np.ndarray,
        wrong: np.ndarray | None = None,
        detection: Detection | None = None,
    ) -> None:
        self.noise_scores = noise_scores
        self.wrong = wrong
        self.detection = detection

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, wrong: Any = None, bins: int = 30, ax: Any = None
    ) -> NoiseScoreDisplay:
        """Draw the ``noise_scores_`` of a fitted classifier.

        Parameters
        ----------
        estimator : CLIDMUClassifier or Pipeline
            Fitted; a pipeline must end in the classifier.
        wrong : array-like of shape (n_samples,), bool, default=None
            Mask of the labels passed to ``fit`` that are known to be wrong.
        bins : int, default=30
            Number of bins of the histogram.
        ax : matplotlib Axes or array-like of three, default=None
            As in :meth:`plot`.

        Returns
        -------
        NoiseScoreDisplay
        """
        scores = fitted_classifier(estimator).noise_scores_
        return cls.from_predictions(scores, wrong=wrong, bins=bins, ax=ax)

    @classmethod
    def from_predictions(
        cls, noise_scores: Any, *, wrong: Any = None, bins: int = 30, ax: Any = None
    ) -> NoiseScoreDisplay:
        """Draw any noise scores: out-of-fold ones, or those of rows not passed to ``fit``.

        Parameters
        ----------
        noise_scores : array-like of shape (n_samples,)
            In [0, 1]; higher means more likely wrong; nan for rows without a label, which are
            left out.
        wrong : array-like of shape (n_samples,), bool, default=None
            Mask of the labels that are known to be wrong.
        bins : int, default=30
            Number of bins of the histogram.
        ax : matplotlib Axes or array-like of three, default=None
            As in :meth:`plot`.

        Returns
        -------
        NoiseScoreDisplay

        Raises
        ------
        ValueError
            If a score is not in [0, 1], or if ``wrong`` is no mask, or marks none of the labels, or
            all.
        """
        scores = check_scores(noise_scores, "noise_scores")
        labeled = ~np.isnan(scores)
        if wrong is None:
            return cls(scores[labeled]).plot(ax, bins=bins)
        wrong = check_vector(wrong, "wrong")
        if wrong.dtype != bool:
            raise ValueError(
                f"wrong must be a boolean mask, got dtype {wrong.dtype}: make one, for example "
                "with wrong = y_noisy != y_true."
            )
        check_same_length(noise_scores=scores, wrong=wrong)
        scores, wrong = scores[labeled], wrong[labeled]
        if wrong.all() or not wrong.any():
            raise ValueError(
                f"wrong must mark some labels and leave others, got {wrong.sum()} of "
                f"{len(wrong)}. Without wrong=, the scores alone are drawn."
            )
        return cls(scores, wrong, _detection(wrong, scores)).plot(ax, bins=bins)

    def plot(self, ax: Any = None, *, bins: int = 30) -> NoiseScoreDisplay:
        """Draw the histogram and, where the wrong labels are known, the two curves.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of three, default=None
            Axes to draw on; None makes a new figure. Where the wrong labels are known, single
            Axes take the histogram and leave the curves out.
        bins : int, default=30
            Number of bins of the histogram, from 0 to 1.

        Returns
        -------
        NoiseScoreDisplay
            The display itself.
        """
        alone = self.detection is None or (ax is not None and np.ndim(ax) == 0)
        shape, size = ((1, 1), (6.4, 4.0)) if alone else ((1, 3), (11.0, 3.6))
        axes = panels(self, ax, shape, size)
        self._draw_histogram(axes[0], bins)
        if not alone:
            self._draw_curves(*axes[1:])
        self.ax_ = axes[0] if alone else axes
        self.figure_ = axes[0].figure
        return self

    def _draw_histogram(self, ax: Any, bins: int) -> None:
        def draw(scores: np.ndarray, **style: Any) -> None:
            ax.stairs(*np.histogram(scores, bins, range=(0, 1)), **style)

        right: dict[str, Any] = {"fill": True, "facecolor": BLUE, "edgecolor": BLUE}
        outline: dict[str, Any] = {"edgecolor": VERMILLION, "linewidth": 2, "hatch": "////"}
        if self.wrong is None:
            draw(self.noise_scores, **right)
        else:
            draw(self.noise_scores[~self.wrong], **right, label="label right")
            draw(self.noise_scores[self.wrong], **outline, label="label wrong")
            ax.legend()
        ax.set(xlabel="noise score", ylabel="labels", xlim=(0, 1))

    def _draw_curves(self, roc: Any, precision_recall: Any) -> None:
        assert self.detection is not None
        assert self.wrong is not None
        fpr, tpr, roc_auc, precision, recall, average_precision = self.detection
        roc.plot(fpr, tpr, **STYLES[0], label=f"AUROC = {roc_auc:.3f}")
        roc.plot([0, 1], [0, 1], **GUIDE, label="any order")
        roc.set(xlabel="right labels flagged", ylabel="wrong labels found")
        label = f"average precision = {average_precision:.3f}"
        precision_recall.plot(recall, precision, **STYLES[0], drawstyle="steps-post", label=label)
        precision_recall.axhline(self.wrong.mean(), **GUIDE, label="any order")
        precision_recall.set(xlabel="wrong labels found", ylabel="wrong among the flagged")
        for ax in (roc, precision_recall):
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            ax.legend(loc="lower right" if ax is roc else "lower left")


def _detection(wrong: np.ndarray, scores: np.ndarray) -> Detection:
    fpr, tpr, _ = roc_curve(wrong, scores)
    precision, recall, _ = precision_recall_curve(wrong, scores)
    roc_auc, mean = roc_auc_score(wrong, scores), average_precision_score(wrong, scores)
    return Detection(fpr, tpr, float(roc_auc), precision, recall, float(mean))
