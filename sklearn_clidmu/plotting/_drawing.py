"""Code shared by the displays: the classifier to draw, the axes and the line styles."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from sklearn_clidmu._classifier import CLIDMUClassifier
from sklearn_clidmu._pipelines import nested_estimators

# From the palette of Okabe and Ito, which color-blind readers can tell apart.
BLUE, VERMILLION = "#0072b2", "#d55e00"
STYLES = [(BLUE, "-"), (VERMILLION, "--"), ("#009e73", "-."), ("#000000", ":")]
"""Colors and dashes of the lines on one axes, in drawing order."""


def fitted_classifier(estimator: Any) -> CLIDMUClassifier:
    """Return the fitted classifier; of a pipeline, its last step."""
    *_, classifier = nested_estimators(estimator)
    if not isinstance(classifier, CLIDMUClassifier):
        raise TypeError(
            "estimator must be a CLIDMUClassifier or a Pipeline that ends in one, got "
            f"{type(classifier).__name__}. For a search, pass its best_estimator_."
        )
    check_is_fitted(classifier, "net_")
    return classifier


def make_axes(display: object, ax: Any, shape: tuple[int, int], **kwargs: Any) -> np.ndarray:
    """Return the axes to draw on, shape (n_axes,): the caller's, or new ones made with kwargs."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(*shape, layout="constrained", squeeze=False, **kwargs)[1].ravel()
    axes, n_axes = np.asarray(ax, dtype=object).ravel(), shape[0] * shape[1]
    if len(axes) != n_axes or not all(hasattr(part, "get_xaxis") for part in axes):
        got = ", ".join(type(part).__name__ for part in axes)
        raise ValueError(
            f"ax must be {n_axes} matplotlib Axes, for example plt.subplots{shape}[1], or None, "
            f"got {len(axes)} ({got})."
        )
    return axes
