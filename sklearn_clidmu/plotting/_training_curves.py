"""Curves of a fit over its epochs."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_clidmu.plotting._drawing import STYLES, VERMILLION, fitted_classifier, make_axes

PANELS: dict[str, dict[str, str | None]] = {
    "loss": {"train_loss": "training", "valid_loss": "validation"},
    "meta loss": {"meta_loss": None},
    "CLID - log n": {"clid": None},
    "share of rows": {"disagreement": "disagreement rate", "valid_score": "validation accuracy"},
}
"""By label of the axes: keys of the history and the names of their curves in the legend."""


class TrainingCurveDisplay:
    """Curves over the epochs of all stages of a fit, made by :meth:`from_estimator`.

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
        panels = {title: curves for title, curves in PANELS.items() if known & curves.keys()}
        size = (6.4, 0.6 + 1.7 * len(panels))
        self.ax_ = make_axes(self, ax, (len(panels), 1), sharex=True, figsize=size)
        self.figure_ = self.ax_[0].figure
        for axes, (title, curves) in zip(self.ax_, panels.items(), strict=True):
            for (key, label), style in zip(curves.items(), STYLES, strict=False):
                if key in known:
                    self._draw(axes, key, label, *style)
            axes.set_ylabel(title)
            if axes.get_legend_handles_labels()[1]:
                axes.legend()
        stage, top = self.history["stage"], self.ax_[0].get_xaxis_transform()
        for last in np.flatnonzero(np.diff(stage)):
            for axes in self.ax_:
                axes.axvline(last + 1.5, color="#999999", linewidth=1, zorder=0)
            self.ax_[0].text(last + 1.5, 0.96, f" stage {stage[last + 1]}", va="top", transform=top)
        self.ax_[-1].set_xlabel("epoch")
        from matplotlib.ticker import MaxNLocator

        locator = self.ax_[-1].xaxis.get_major_locator()
        if isinstance(locator, MaxNLocator):  # not ticks of the caller's
            locator.set_params(integer=True)
        return self

    def _draw(self, axes: Any, key: str, label: str | None, color: str, dash: str) -> None:
        """Draw one curve with a gap between the stages, and its marks."""
        curve, chosen = self.history[key], self.history["chosen"]
        epochs = np.arange(1.0, len(curve) + 1)
        gaps = np.flatnonzero(np.diff(self.history["stage"])) + 1
        line = (np.insert(values, gaps, np.nan) for values in (epochs, curve))
        axes.plot(*line, dash, color=color, label=label)
        name = "predicts" if key == "train_loss" else None
        axes.plot(epochs[chosen], curve[chosen], "o", color=color, mfc="white", label=name)
        if (at := self.collapse_epoch) is not None:
            axes.plot(at, curve[at - 1], "X", markersize=9, color=VERMILLION, zorder=3)
