"""Curves of a fit over its epochs."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_clidmu.plotting._drawing import (
    GUIDE,
    STYLES,
    VERMILLION,
    fitted_classifier,
    make_axes,
)

PANELS = {
    "loss": {"train_loss": "training", "valid_loss": "validation"},
    "meta loss": {"meta_loss": "meta loss"},
    "CLID - log n": {"clid": "CLID - log n"},
    "share of rows": {
        "disagreement": "disagreement rate",
        "valid_score": "validation accuracy",
    },
}
"""By label of the axes: keys of the history and the names of their curves."""


class TrainingCurveDisplay:
    """Curves over the epochs of all stages of a fit.

    Made by :meth:`from_estimator`.

    Parameters
    ----------
    history : dict of ndarray of shape (n_epochs,)
        ``history_`` of a classifier.
    collapse_epoch : int or None
        Epoch of the collapse, counted from 1 over all stages.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        Loss, meta loss (where there is one), CLID - log n, and shares of the rows.
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
        history, epoch = classifier.history_, classifier.collapse_epoch_
        if epoch is not None:  # counted within the stage that predicts
            stage = history["stage"]
            predicts = np.append(stage[history["chosen"]], stage[-1])[0]
            epoch += int(np.argmax(stage == predicts))
        return cls(history, epoch).plot(ax)

    def plot(self, ax: Any = None) -> TrainingCurveDisplay:
        """Draw the curves, one panel above the other.

        Vertical lines separate the stages. A circle marks the epoch whose network predicts, a
        cross the epoch of a collapse.

        Parameters
        ----------
        ax : array-like of matplotlib Axes, default=None
            Four Axes, or three if the history has no meta loss; None makes a new figure.

        Returns
        -------
        TrainingCurveDisplay
            The display itself.
        """
        known = {key for key, curve in self.history.items() if not np.isnan(curve).all()}
        shown = {
            title: {key: name for key, name in curves.items() if key in known}
            for title, curves in PANELS.items()
            if known.intersection(curves)
        }
        size = (6.4, 0.6 + 1.7 * len(shown))
        self.ax_ = make_axes(self, ax, (len(shown), 1), size, sharex=True)
        self.figure_ = self.ax_[0].figure
        for axes, (title, curves) in zip(self.ax_, shown.items(), strict=True):
            for style, (key, name) in zip(STYLES, curves.items(), strict=False):
                self._draw(axes, key, name, style)
            axes.set_ylabel(title)
            if list(curves.values()) != [title]:
                axes.legend()
        self._separate_stages()
        self.ax_[-1].set_xlabel("epoch")
        self.ax_[-1].xaxis.get_major_locator().set_params(integer=True)
        return self

    def _draw(self, axes: Any, key: str, name: str, style: dict[str, Any]) -> None:
        """Draw one curve with a gap between the stages, and its marks."""
        curve, stage, chosen = self.history[key], self.history["stage"], self.history["chosen"]
        epochs = np.arange(1, len(curve) + 1)
        for number in np.unique(stage):
            rows = stage == number
            label = name if number == stage[0] else None
            axes.plot(epochs[rows], curve[rows], **style, label=label)
        circle = {"marker": "o", "markerfacecolor": "white", "color": style["color"]}
        label = "predicts" if key == "train_loss" else None
        axes.plot(epochs[chosen], curve[chosen], **circle, linestyle="none", label=label)
        if self.collapse_epoch is not None:
            at = self.collapse_epoch
            axes.plot(at, curve[at - 1], marker="X", markersize=9, color=VERMILLION, zorder=3)

    def _separate_stages(self) -> None:
        """Draw a line at the start of every stage but the first, and number it."""
        stage = self.history["stage"]
        for last in np.flatnonzero(np.diff(stage)):
            for axes in self.ax_:
                axes.axvline(last + 1.5, **GUIDE)
            place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            text = f"stage {stage[last + 1]}"
            self.ax_[0].annotate(text, (last + 1.5, 1), (4, -4), va="top", **place)
