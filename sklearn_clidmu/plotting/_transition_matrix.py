"""Heat map of the transition matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.utils.multiclass import unique_labels

from sklearn_clidmu._validation import check_labels, check_same_length, is_missing
from sklearn_clidmu.label_issues import shorten
from sklearn_clidmu.plotting._drawing import fitted_classifier, make_axes

MAX_ANNOTATED = 15
"""Largest number of classes with a number in every cell."""

MAX_TICKS = 25
"""Largest number of class names along an axis; with more classes some names are left out."""


class TransitionMatrixDisplay:
    """Heat map of a transition matrix: the distribution of given labels in each true class.

    Made by :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    transition_matrix : ndarray of shape (n_classes, n_classes)
        Probability of each given label (column) in each true class (row); rows add up to one.
    display_labels : array-like of shape (n_classes,)
        Names of the classes; long names are cut.
    noise_rate : float
        Share of wrong labels, shown in the title.

    Attributes
    ----------
    im_ : matplotlib AxesImage
    text_ : ndarray of shape (n_classes, n_classes) of matplotlib Text, or None
        Numbers in the cells; None with more than 15 classes.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(
        self, transition_matrix: np.ndarray, display_labels: Any, noise_rate: float
    ) -> None:
        self.transition_matrix = transition_matrix
        self.display_labels = display_labels
        self.noise_rate = noise_rate

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, display_labels: Any = None, cmap: Any = "Blues", ax: Any = None
    ) -> TransitionMatrixDisplay:
        """Draw the ``transition_matrix_`` of a fitted classifier.

        Parameters
        ----------
        estimator : CLIDMUClassifier or Pipeline
            Fitted; a pipeline must end in the classifier.
        display_labels : array-like of shape (n_classes,), default=None
            Names of the classes in the order of ``classes_``; None shows ``classes_``.
        cmap : str or matplotlib Colormap, default="Blues"
            The default darkens evenly, also in greyscale.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        Returns
        -------
        TransitionMatrixDisplay
        """
        classifier = fitted_classifier(estimator)
        labels = classifier.classes_ if display_labels is None else display_labels
        display = cls(classifier.transition_matrix_, labels, classifier.noise_rate_)
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
    ) -> TransitionMatrixDisplay:
        """Draw the transition matrix of labels whose true classes are known.

        Parameters
        ----------
        y_true, y_noisy : array-like of shape (n_samples,)
            True classes and given labels.
        display_labels : array-like of shape (n_classes,), default=None
            Names of all classes that occur, in sorted order; None shows the classes.
        cmap : str or matplotlib Colormap, default="Blues"
            As in :meth:`from_estimator`.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        Returns
        -------
        TransitionMatrixDisplay

        Raises
        ------
        ValueError
            If the arrays differ in length, or if a label is missing.
        """
        y_true, y_noisy = check_labels(y_true), check_labels(y_noisy)
        check_same_length(y_true=y_true, y_noisy=y_noisy)
        for name, labels in {"y_true": y_true, "y_noisy": y_noisy}.items():
            if is_missing(labels, np.nan).any():
                raise ValueError(f"{name} must have no nan or None: drop these rows.")
        classes = unique_labels(y_true, y_noisy)
        matrix = confusion_matrix(y_true, y_noisy, labels=classes, normalize="true")
        noise_rate = float(np.mean(y_true != y_noisy))
        names = classes if display_labels is None else display_labels
        return cls(matrix, names, noise_rate).plot(ax, cmap=cmap)

    def plot(self, ax: Any = None, *, cmap: Any = "Blues") -> TransitionMatrixDisplay:
        """Draw the matrix; with up to 15 classes, cells of at least 0.005 show their number.

        The colour scales with the square root of the probability, so that small values show.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        cmap : str or matplotlib Colormap, default="Blues"
            As in :meth:`from_estimator`.

        Returns
        -------
        TransitionMatrixDisplay
            The display itself.

        Raises
        ------
        ValueError
            If there are not as many names as classes.
        """
        n_classes = len(self.transition_matrix)
        names = [shorten(label) for label in self.display_labels]
        if len(names) != n_classes:
            raise ValueError(
                f"display_labels must name all {n_classes} classes, got {len(names)} names."
            )
        width = min(max(4.8, 2.4 + 0.48 * n_classes), 9.6)
        [self.ax_] = make_axes(self, ax, (1, 1), (width, 0.85 * width))
        self.figure_ = self.ax_.figure
        from matplotlib.colors import PowerNorm

        norm = PowerNorm(0.5, vmin=0, vmax=1)
        self.im_ = self.ax_.imshow(self.transition_matrix, cmap=cmap, norm=norm)
        self.text_ = self._annotate() if n_classes <= MAX_ANNOTATED else None
        self.figure_.colorbar(self.im_, ax=self.ax_, label="share of the true class")
        title = f"noise rate {self.noise_rate:.1%}"
        self.ax_.set(xlabel="given label", ylabel="true class", title=title)
        step = -(-n_classes // MAX_TICKS)
        ticks, shown = np.arange(0, n_classes, step), names[::step]
        self.ax_.set_xticks(ticks, shown, rotation=0 if sum(map(len, shown)) <= 40 else 90)
        self.ax_.set_yticks(ticks, shown)
        return self

    def _annotate(self) -> np.ndarray:
        """Write the numbers into the cells."""
        texts = np.empty_like(self.transition_matrix, dtype=object)
        size = "medium" if len(texts) <= 8 else "x-small"
        for (row, column), value in np.ndenumerate(self.transition_matrix):
            # The text is black or white by the brightness (luma) of the cell.
            luma = np.dot(self.im_.cmap(self.im_.norm(value))[:3], (0.299, 0.587, 0.114))
            color = "black" if luma > 0.5 else "white"
            text = f"{value:.2f}" if value >= 0.005 else ""
            texts[row, column] = self.ax_.text(
                column, row, text, ha="center", va="center", color=color, fontsize=size
            )
        return texts
