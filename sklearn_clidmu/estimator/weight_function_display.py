"""Picture of what a weighting net has learned."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from sklearn_clidmu.estimator.classifier import CLIDMUClassifier
from sklearn_clidmu.estimator.drawing import STYLES, fitted_classifier, panels
from sklearn_clidmu.mathematics.weighting import LogitRectifier, Rows, WeightingNet

DOUBT = "doubt that the first training left"

INPUTS = {
    "loss": 0,
    "rank of the mean loss": 1,
    "rank of the influence on CLID": 2,
    "rank of a rival class's lead": 3,
    DOUBT: 4,
}
"""Columns of the evidence, by what is said of them."""

N_POINTS = 101
"""Points of a curve."""


class WeightFunctionDisplay:
    """The weight that a trained weighting net gives to a row's label, by all that it looks at.

    Made by :meth:`from_estimator`.

    Parameters
    ----------
    curves : dict of (ndarray, ndarray)
        By the name of the input its values and the mean weights, in [0, 1]. "loss" is in nats;
        all other inputs lie in [0, 1].

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        Weight against loss and, where there are any, against the other inputs.
    figure_ : matplotlib Figure
    """

    def __init__(self, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        self.curves = curves

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> WeightFunctionDisplay:
        """Draw what the weighting net of a fitted classifier has learned.

        Partial dependence: the mean weight of up to 500 training rows if all of them had the
        same value of one input, which runs through the range that it had, and all others as they
        were.

        Parameters
        ----------
        estimator : CLIDMUClassifier or Pipeline
            Fitted with ``weighting="evidence"`` or "wnet"; a pipeline must end in the classifier.
        ax : matplotlib Axes or array-like of them, default=None
            As in :meth:`plot`.

        Returns
        -------
        WeightFunctionDisplay

        Raises
        ------
        ValueError
            If there is no such function: without a weighting net, for that of VRI, which looks at
            all features of a row, and after a collapse, when all rows weigh the same.
        """
        return cls(_weight_curves(fitted_classifier(estimator))).plot(ax)

    def plot(self, ax: Any = None) -> WeightFunctionDisplay:
        """Draw the weight against the loss, and beside it against all other inputs.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of them, default=None
            Two axes, one for "wnet", which looks at nothing but the loss; None makes a new figure.

        Returns
        -------
        WeightFunctionDisplay
            The display itself.
        """
        others = {name: curve for name, curve in self.curves.items() if name != "loss"}
        n_panels = 2 if others else 1
        self.ax_ = panels(self, ax, (1, n_panels), (4.8 * n_panels, 3.8), sharey=True)
        self.figure_ = self.ax_[0].figure
        self.ax_[0].plot(*self.curves["loss"], **STYLES[0])
        self.ax_[0].set(xlabel="loss, nats", ylabel="mean weight", ylim=(-0.02, 1.02))
        if others:
            for style, (name, curve) in zip(STYLES, others.items(), strict=False):
                self.ax_[1].plot(*curve, **style, label=name)
            self.ax_[1].set(
                xlabel="other inputs, from 0 to 1", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
            )
            self.ax_[1].legend()
        return self


def _weight_curves(classifier: CLIDMUClassifier) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean weight of training rows against each input in turn, the others as they are."""
    weight_net = classifier.weight_net_
    if weight_net is None or isinstance(weight_net, LogitRectifier):
        what = "no weighting net" if weight_net is None else "that of VRI, which sees all features"
        raise ValueError(
            f"There is no weight function to draw: the classifier has {what}. Its trust in each "
            "row is sample_weights_."
        )
    if classifier.collapse_epoch_ is not None:
        raise ValueError(
            f"The weighting collapsed in epoch {classifier.collapse_epoch_} and was switched off: "
            "all rows weigh the same. TrainingCurveDisplay shows how it came."
        )
    evidence, targets = classifier.net_.evidence_sample_
    blind_guess = math.log(len(classifier.classes_))
    inputs = INPUTS if weight_net.uses_evidence else {"loss": INPUTS["loss"]}
    curves = {}
    for name, column in inputs.items():
        lowest, highest = evidence[:, column].min(), evidence[:, column].max()
        if lowest == highest and name != "loss":
            continue  # nothing to tell rows apart by
        values = np.linspace(lowest, highest, N_POINTS)
        weights = [
            _mean_weight(weight_net, _with_column(evidence, column, value), targets, blind_guess)
            for value in values
        ]
        shown = {"loss": values * blind_guess, DOUBT: 1 / (1 + np.exp(-values))}.get(name, values)
        curves[name] = shown, np.array(weights)
    return curves


def _with_column(evidence: np.ndarray, column: int, value: float) -> np.ndarray:
    changed = evidence.copy()
    changed[:, column] = value
    return changed


def _mean_weight(
    weight_net: WeightingNet, evidence: np.ndarray, targets: np.ndarray, blind_guess: float
) -> float:
    """Mean weight of rows of which nothing but the evidence and the given label is known."""
    some = next(weight_net.parameters())
    seen = torch.as_tensor(evidence).to(some)
    unknown = seen.new_empty(0)
    rows = Rows(
        logits=unknown,
        losses=seen[:, 0] * blind_guess,
        errors=unknown,
        targets=torch.as_tensor(targets, device=some.device),
        features=unknown,
        evidence=seen,
        sample_weight=unknown,
    )
    with torch.no_grad():
        return weight_net.applied(rows).mean().item()
