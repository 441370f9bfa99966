"""Pictures of what a fit says of the labels: noise scores, and the noise matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sklearn_clidmu.estimator.drawing import (
    BLUE,
    GUIDE,
    STYLES,
    VERMILLION,
    fitted_classifier,
    panels,
)
from sklearn_clidmu.estimator.label_report import shorten

MAX_ANNOTATED = 15
"""A matrix of more classes has no room for a number in every cell."""

MAX_TICKS = 25
"""Classes named along an axis at most; of more, every other or third is."""


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
            If ``wrong`` is no mask, or marks none of the labels, or all.
        """
        scores = column_or_1d(noise_scores, dtype=np.float64)
        labeled = ~np.isnan(scores)
        if wrong is None:
            return cls(scores[labeled]).plot(ax, bins=bins)
        wrong = column_or_1d(wrong)
        if wrong.dtype != bool:
            raise ValueError(
                f"wrong must be a boolean mask, got dtype {wrong.dtype}: make one, for example "
                "with wrong = y_noisy != y_true."
            )
        check_consistent_length(scores, wrong)
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


class NoiseMatrixDisplay:
    """Heat map of a noise matrix: the given labels in each true class.

    Made by :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    noise_matrix : ndarray of shape (n_classes, n_classes)
        Probability of the given label (row) in a true class (column).
    display_labels : array-like of shape (n_classes,)
        Names of the classes; of long ones the beginning is shown.
    noise_rate : float
        Share of wrong labels, for the title.

    Attributes
    ----------
    im_ : matplotlib AxesImage
    text_ : ndarray of shape (n_classes, n_classes) of matplotlib Text, or None
        Numbers in the cells; None where there are too many.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, noise_matrix: np.ndarray, display_labels: Any, noise_rate: float) -> None:
        self.noise_matrix = noise_matrix
        self.display_labels = display_labels
        self.noise_rate = noise_rate

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, display_labels: Any = None, cmap: Any = "Blues", ax: Any = None
    ) -> NoiseMatrixDisplay:
        """Draw the ``noise_matrix_`` that a fitted classifier has estimated.

        Parameters
        ----------
        estimator : CLIDMUClassifier or Pipeline
            Fitted; a pipeline must end in the classifier.
        display_labels : array-like of shape (n_classes,), default=None
            Names of the classes in the order of ``classes_``, which serves by default.
        cmap : str or matplotlib Colormap, default="Blues"
            The default grows evenly darker, for the colour-blind as in greyscale.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        Returns
        -------
        NoiseMatrixDisplay
        """
        classifier = fitted_classifier(estimator)
        labels = classifier.classes_ if display_labels is None else display_labels
        display = cls(classifier.noise_matrix_, labels, classifier.noise_rate_)
        return display.plot(ax, cmap=cmap)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_noisy: Any,
        *,
        display_labels: Any = None,
        cmap: Any = "Blues",
        ax: Any = None,
    ) -> NoiseMatrixDisplay:
        """Draw the noise matrix of labels whose true classes are known.

        Parameters
        ----------
        y_true, y_noisy : array-like of shape (n_samples,)
            True classes and given labels.
        display_labels : array-like of shape (n_classes,), default=None
            Names of all classes that occur, in sorted order; by default the classes themselves.
        cmap : str or matplotlib Colormap, default="Blues"
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        Returns
        -------
        NoiseMatrixDisplay
        """
        classes = unique_labels(y_true, y_noisy)
        matrix = confusion_matrix(y_noisy, y_true, labels=classes, normalize="pred")
        rate = float(np.mean(np.asarray(y_true) != np.asarray(y_noisy)))
        labels = classes if display_labels is None else display_labels
        return cls(matrix, labels, rate).plot(ax, cmap=cmap)

    def plot(self, ax: Any = None, *, cmap: Any = "Blues") -> NoiseMatrixDisplay:
        """Draw the matrix, with numbers from 0.005 on in its cells where there is room for them.

        The colour grows with the square root of the probability, so that small ones show.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        cmap : str or matplotlib Colormap, default="Blues"

        Returns
        -------
        NoiseMatrixDisplay

        Raises
        ------
        ValueError
            If there are not as many names as classes.
        """
        n_classes = len(self.noise_matrix)
        names = [shorten(label) for label in self.display_labels]
        if len(names) != n_classes:
            raise ValueError(
                f"display_labels must name all {n_classes} classes, got {len(names)} names."
            )
        width = min(max(4.8, 2.4 + 0.48 * n_classes), 9.6)
        [self.ax_] = panels(self, ax, (1, 1), (width, 0.85 * width))
        self.figure_ = self.ax_.figure
        from matplotlib.colors import PowerNorm

        norm = PowerNorm(0.5, vmin=0, vmax=1)
        self.im_ = self.ax_.imshow(self.noise_matrix, cmap=cmap, norm=norm)
        self.text_ = self._annotate() if n_classes <= MAX_ANNOTATED else None
        self.figure_.colorbar(self.im_, ax=self.ax_, label="share of the true class")
        self.ax_.set(
            xlabel="true class",
            ylabel="given label",
            title=f"noise rate {self.noise_rate:.1%}",
        )
        self._name_classes(names)
        return self

    def _annotate(self) -> np.ndarray:
        n_classes = len(self.noise_matrix)
        texts = np.empty_like(self.noise_matrix, dtype=object)
        size = "medium" if n_classes <= 8 else "x-small"
        for (row, column), value in np.ndenumerate(self.noise_matrix):
            # By the luma of what is behind it, whatever the colour map.
            luma = np.dot(self.im_.cmap(self.im_.norm(value))[:3], (0.299, 0.587, 0.114))
            color = "black" if luma > 0.5 else "white"
            at = {"ha": "center", "va": "center", "color": color, "fontsize": size}
            text = f"{value:.2f}" if value >= 0.005 else ""
            texts[row, column] = self.ax_.text(column, row, text, **at)
        return texts

    def _name_classes(self, names: list[str]) -> None:
        step = -(-len(names) // MAX_TICKS)
        positions, shown = np.arange(0, len(names), step), names[::step]
        upright = sum(map(len, shown)) <= 40
        self.ax_.set_xticks(positions, shown, rotation=0 if upright else 90)
        self.ax_.set_yticks(positions, shown)
