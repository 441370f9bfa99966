"""Partial dependence of the learned weight on the inputs of the weighting net."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from sklearn_clidmu._classifier import CLIDMUClassifier
from sklearn_clidmu._torch_state import fresh_torch
from sklearn_clidmu.clid.weight_nets import EVIDENCE, EvidenceNet, WNet
from sklearn_clidmu.plotting._drawing import BLUE, STYLES, fitted_classifier, make_axes

PRIOR = EVIDENCE[-1]
"""The column of evidence has its log odds."""


class WeightFunctionDisplay:
    """Weight of a label against each input of a weighting net, made by :meth:`from_estimator`.

    Parameters
    ----------
    curves : dict of (ndarray of shape (n_points,), ndarray of shape (n_points,))
        By the name of the input: its values and the mean weights, in [0, 1]. "loss" is in nats;
        all other inputs are in [0, 1].

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        Weight against the loss and, if there are other inputs, against those.
    figure_ : matplotlib Figure
    """

    def __init__(self, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        self.curves = curves

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> WeightFunctionDisplay:
        """Draw the partial dependence of the weight on each input of the weighting net.

        A point of a curve is the mean weight of up to 500 training rows when one input has the
        same value in all of them and the other inputs are unchanged. The value runs from the
        smallest to the largest in these rows. An input that is constant is left out.

        Parameters
        ----------
        estimator : CLIDMUClassifier or Pipeline
            Fitted with ``weighting="evidence"`` or "wnet"; a pipeline must end in the classifier.
        ax : matplotlib Axes or array-like of Axes, default=None
            As in :meth:`plot`.

        Returns
        -------
        WeightFunctionDisplay

        Raises
        ------
        ValueError
            If there is no such function: without a weighting net, with VRI, whose weights depend
            on all features, and after a collapse, when all rows have the same weight.
        """
        return cls(_weight_curves(fitted_classifier(estimator))).plot(ax)

    def plot(self, ax: Any = None) -> WeightFunctionDisplay:
        """Draw the weight against the loss and, side by side, against the other inputs.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            Two Axes, or one for "wnet", whose only input is the loss; None makes a new figure.

        Returns
        -------
        WeightFunctionDisplay
            The display itself.
        """
        others = {name: curve for name, curve in self.curves.items() if name != "loss"}
        n_axes = 2 if others else 1
        self.ax_ = make_axes(self, ax, (1, n_axes), sharey=True, figsize=(4.8 * n_axes, 3.8))
        self.figure_ = self.ax_[0].figure
        self.ax_[0].plot(*self.curves["loss"], color=BLUE)
        self.ax_[0].set(xlabel="loss, nats", ylabel="mean weight", ylim=(-0.02, 1.02))
        if others:
            for (color, dash), (name, curve) in zip(STYLES, others.items(), strict=False):
                self.ax_[1].plot(*curve, dash, color=color, label=name)
            self.ax_[1].set(xlabel="other inputs", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            self.ax_[1].legend()
        return self


@fresh_torch()
@torch.no_grad()
def _weight_curves(classifier: CLIDMUClassifier) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the values of each input and the mean weights at these values."""
    net, epoch = classifier.weight_net_, classifier.collapse_epoch_
    if not isinstance(net, (EvidenceNet, WNet)):
        what = "no weighting net" if net is None else "VRI, whose weights use all features"
        raise ValueError(
            f"There is no weight function to draw: the classifier has {what}. The weight of each "
            "row is in sample_weights_."
        )
    if epoch is not None:
        raise ValueError(
            f"There is no weight function to draw: the weighting collapsed in epoch {epoch} and "
            "all rows have the same weight. See TrainingCurveDisplay."
        )
    like, log_n_classes = next(net.parameters()), math.log(len(classifier.classes_))
    sample, codes = classifier.net_.evidence_sample_
    evidence, targets = torch.as_tensor(sample).to(like), torch.as_tensor(codes).to(like.device)
    curves = {}
    for column, name in enumerate(EVIDENCE[:1] if isinstance(net, WNet) else EVIDENCE):
        values = np.linspace(sample[:, column].min(), sample[:, column].max(), 101)
        if values[0] == values[-1] and name != "loss":
            continue
        points = torch.as_tensor(values).to(evidence)
        if isinstance(net, WNet):
            weights = net(points * log_n_classes)
        else:
            changed = evidence.repeat(len(points), 1, 1)
            changed[..., column] = points[:, None]
            weights = net.weights(changed, targets).mean(dim=1)
        shown = {"loss": values * log_n_classes, PRIOR: 1 / (1 + np.exp(-values))}
        curves[name] = shown.get(name, values), weights.cpu().numpy()
    return curves
