"""Picture of the noise matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.utils.multiclass import unique_labels

from sklearn_clidmu.estimator.arguments import check_same_length
from sklearn_clidmu.estimator.drawing import fitted_classifier, panels
from sklearn_clidmu.estimator.label_report import shorten
from sklearn_clidmu.estimator.labels import check_labels, is_missing

MAX_ANNOTATED = 15
"""A matrix of more classes has no room for a number in every cell."""

MAX_TICKS = 25
"""Classes named along an axis at most; of more, every other or third is."""


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
            As in :meth:`from_estimator`.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        Returns
        -------
        NoiseMatrixDisplay

        Raises
        ------
        ValueError
            If there are more labels of one kind than of the other, or some are missing.
        """
        y_true, y_noisy = check_labels(y_true), check_labels(y_noisy)
        check_same_length(y_true=y_true, y_noisy=y_noisy)
        for name, labels in {"y_true": y_true, "y_noisy": y_noisy}.items():
            if is_missing(labels, np.nan).any():
                raise ValueError(f"{name} must have a label for every row: leave out nan and None.")
        classes = unique_labels(y_true, y_noisy)
        matrix = confusion_matrix(y_noisy, y_true, labels=classes, normalize="pred")
        rate = float(np.mean(y_true != y_noisy))
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
            As in :meth:`from_estimator`.

        Returns
        -------
        NoiseMatrixDisplay
            The display itself.

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
