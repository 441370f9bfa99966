"""Histogram of noise scores; ROC and precision-recall curves where wrong labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from sklearn_clidmu._validation.arrays import check_same_length, check_scores, check_vector
from sklearn_clidmu.plotting._drawing import BLUE, VERMILLION, fitted_classifier, make_axes

RIGHT: dict[str, Any] = {"fill": True, "facecolor": BLUE, "edgecolor": BLUE}
WRONG: dict[str, Any] = {"edgecolor": VERMILLION, "linewidth": 2, "hatch": "////"}


class NoiseScoreDisplay:
    """Histogram of noise scores, made by :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    noise_scores : ndarray of shape (n_labels,)
        In [0, 1]; higher means more likely wrong.
    wrong : ndarray of shape (n_labels,), bool, or None
        Mask of the labels that are known to be wrong, which adds ROC and precision-recall curves.

    Attributes
    ----------
    ax_ : matplotlib Axes or ndarray of three Axes
        Histogram and, where they are drawn, the two curves.
    figure_ : matplotlib Figure
    """

    def __init__(self, noise_scores: np.ndarray, wrong: np.ndarray | None = None) -> None:
        self.noise_scores = noise_scores
        self.wrong = wrong

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
        ax : matplotlib Axes or array-like of three Axes, default=None
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
        """Draw noise scores of any source, for example of ``cross_val_noise_scores``.

        Parameters
        ----------
        noise_scores : array-like of shape (n_samples,)
            In [0, 1]; higher means more likely wrong. nan, for rows without a label, is left out.
        wrong : array-like of shape (n_samples,), bool, default=None
            Mask of the labels that are known to be wrong.
        bins : int, default=30
            Number of bins of the histogram.
        ax : matplotlib Axes or array-like of three Axes, default=None
            As in :meth:`plot`.

        Returns
        -------
        NoiseScoreDisplay

        Raises
        ------
        ValueError
            If a score is not in [0, 1], or if ``wrong`` is not a boolean mask that is true for
            some labels and false for others.
        """
        scores = check_scores(noise_scores, "noise_scores")
        labeled = ~np.isnan(scores)
        if wrong is None:
            return cls(scores[labeled]).plot(ax, bins=bins)
        wrong = check_vector(wrong, "wrong")
        if wrong.dtype != bool:
            raise ValueError(
                f"wrong must be a boolean mask, got dtype {wrong.dtype}. Pass y_noisy != y_true."
            )
        check_same_length(noise_scores=scores, wrong=wrong)
        scores, wrong = scores[labeled], wrong[labeled]
        if wrong.all() or not wrong.any():
            raise ValueError(
                f"wrong must be true for some labels and false for others, got {wrong.sum()} true "
                f"of {len(wrong)}. Leave wrong out to draw the histogram alone."
            )
        return cls(scores, wrong).plot(ax, bins=bins)

    def plot(self, ax: Any = None, *, bins: int = 30) -> NoiseScoreDisplay:
        """Draw the histogram and, where the wrong labels are known, the two curves.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of three Axes, default=None
            Axes to draw on; None makes a new figure. Single Axes get the histogram alone.
        bins : int, default=30
            Number of bins of the histogram, from 0 to 1.

        Returns
        -------
        NoiseScoreDisplay
            The display itself.
        """
        scores, wrong = self.noise_scores, self.wrong
        single = wrong is None or (ax is not None and np.ndim(ax) == 0)
        size = (6.4, 4.0) if single else (11.0, 3.6)
        axes = make_axes(self, ax, (1, 1 if single else 3), figsize=size)
        first = axes[0]
        self.ax_, self.figure_ = (first if single else axes), first.figure
        if wrong is None:
            first.stairs(*np.histogram(scores, bins, (0, 1)), **RIGHT)
        else:
            first.stairs(*np.histogram(scores[~wrong], bins, (0, 1)), **RIGHT, label="label right")
            first.stairs(*np.histogram(scores[wrong], bins, (0, 1)), **WRONG, label="label wrong")
            first.legend()
        first.set(xlabel="noise score", ylabel="number of labels", xlim=(0, 1))
        if wrong is not None and not single:
            known = np.where(wrong, "wrong", "right")  # the axes name the positive label
            style = {"pos_label": "wrong", "name": "noise scores", "plot_chance_level": True}
            RocCurveDisplay.from_predictions(known, scores, ax=axes[1], **style)
            PrecisionRecallDisplay.from_predictions(known, scores, ax=axes[2], **style)
        return self
