"""Picture of the course of all trainings of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_clidmu.estimator.drawing import (
    GUIDE,
    STYLES,
    VERMILLION,
    fitted_classifier,
    panels,
)

PANELS = {
    "loss": {"train_loss": "training", "valid_loss": "validation"},
    "meta loss": {"meta_loss": "meta loss"},
    "CLID - log n": {"clid": "CLID - log n"},
    "share of rows": {"dissent": "given label not predicted", "valid_score": "validation accuracy"},
}
"""What is drawn where: titles of the axes, and on them curves of the history with their names."""


class TrainingCurveDisplay:
    """Curves over the epochs of all trainings of a fit.

    Made by :meth:`from_estimator`.

    Parameters
    ----------
    history : dict of ndarray of shape (n_epochs,)
        ``history_`` of a classifier.
    collapse_epoch : int or None
        Epoch at which the weighting collapsed, counted from 1 over all trainings.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        Of the loss, of the meta loss where there is one, of CLID - log n, and of shares of the
        rows.
    figure_ : matplotlib Figure
    """

    def __init__(self, history: dict[str, np.ndarray], collapse_epoch: int | None = None) -> None:
        self.history = history
        self.collapse_epoch = collapse_epoch

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> TrainingCurveDisplay:
        """Draw the ``history_`` of a fitted classifier.

        Parameters
        ----------
        estimator : CLIDMUClassifier or Pipeline
            Fitted; a pipeline must end in the classifier.
        ax : array-like of matplotlib Axes, default=None
            As in :meth:`plot`.

        Returns
        -------
        TrainingCurveDisplay
        """
        classifier = fitted_classifier(estimator)
        history, collapse = classifier.history_, classifier.collapse_epoch_
        if collapse is not None:
            predicting = np.append(history["training"][history["chosen"]], history["training"][-1])
            collapse += int(np.argmax(history["training"] == predicting[0]))
        return cls(history, collapse).plot(ax)

    def plot(self, ax: Any = None) -> TrainingCurveDisplay:
        """Draw the curves, one above the other.

        Vertical lines separate one training from the next, circles mark the epochs whose
        networks predict, and a cross that of a collapse.

        Parameters
        ----------
        ax : array-like of matplotlib Axes, default=None
            Four axes, three where no meta step was taken; None makes a new figure.

        Returns
        -------
        TrainingCurveDisplay
            The display itself.
        """
        shown = {
            title: {key: name for key, name in curves.items() if self._has(key)}
            for title, curves in PANELS.items()
        }
        shown = {title: curves for title, curves in shown.items() if curves}
        size = (6.4, 0.6 + 1.7 * len(shown))
        self.ax_ = panels(self, ax, (len(shown), 1), size, sharex=True)
        self.figure_ = self.ax_[0].figure
        for axes, (title, curves) in zip(self.ax_, shown.items(), strict=True):
            for style, (key, name) in zip(STYLES, curves.items(), strict=False):
                self._draw(axes, self.history[key], name, style)
            axes.set_ylabel(title)
            if list(curves.values()) != [title]:
                axes.legend()
        self._separate()
        self.ax_[-1].set_xlabel("epoch")
        self.ax_[-1].xaxis.get_major_locator().set_params(integer=True)
        return self

    def _has(self, key: str) -> bool:
        return key in self.history and not np.isnan(self.history[key]).all()

    def _draw(self, axes: Any, curve: np.ndarray, name: str, style: dict[str, Any]) -> None:
        """Draw a curve, the trainings apart, with marks on it."""
        epochs, training = np.arange(1, len(curve) + 1), self.history["training"]
        for number in np.unique(training):
            rows = training == number
            label = name if number == training[0] else None
            axes.plot(epochs[rows], curve[rows], **style, label=label)
        color, chosen = style["color"], self.history["chosen"]
        circles = {"marker": "o", "markerfacecolor": "white", "color": color, "linestyle": "none"}
        label = "predicts" if axes is self.ax_[0] and name == "training" else None
        axes.plot(epochs[chosen], curve[chosen], **circles, label=label)
        if self.collapse_epoch is not None:
            at = self.collapse_epoch
            axes.plot(at, curve[at - 1], marker="X", markersize=9, color=VERMILLION, zorder=3)

    def _separate(self) -> None:
        """Draw lines between the trainings, and number them."""
        training = self.history["training"]
        for last in np.flatnonzero(np.diff(training)):
            for axes in self.ax_:
                axes.axvline(last + 1.5, **GUIDE)
            place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            text = f"training {training[last + 1]}"
            self.ax_[0].annotate(text, (last + 1.5, 1), (4, -4), va="top", **place)
