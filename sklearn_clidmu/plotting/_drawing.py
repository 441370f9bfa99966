"""Code shared by the displays: the classifier to draw, the axes and the line styles."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from sklearn_clidmu._classifier import CLIDMUClassifier

# From the palette of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, VERMILLION, GREEN, BLACK, GREY = "#0072b2", "#d55e00", "#009e73", "#000000", "#999999"

STYLES: list[dict[str, Any]] = [
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILLION, "linestyle": "--"},
    {"color": GREEN, "linestyle": "-."},
    {"color": BLACK, "linestyle": ":"},
]
"""Styles of the lines on one axes, in drawing order."""

GUIDE: dict[str, Any] = {"color": GREY, "linewidth": 1, "zorder": 0}
"""Style of reference lines."""


def fitted_classifier(estimator: Any) -> CLIDMUClassifier:
    """Return the fitted classifier; of a pipeline, its last step."""
    classifier = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(classifier, CLIDMUClassifier):
        raise TypeError(
            "estimator must be a CLIDMUClassifier or a Pipeline that ends in one, got "
            f"{type(classifier).__name__}. For a search, pass its best_estimator_."
        )
    check_is_fitted(classifier, "net_")
    return classifier


def make_axes(
    display: object, ax: Any, shape: tuple[int, int], size: tuple[float, float], **kwargs: Any
) -> np.ndarray:
    """Return the axes to draw on, shape (n_axes,): those passed by the caller, or new ones.

    A new figure has ``shape`` (rows, columns) axes and the ``size`` (width, height) in inches;
    ``kwargs`` are passed to ``matplotlib.pyplot.subplots``.
    """
    name = type(display).__name__
    check_matplotlib_support(f"{name}.plot")
    if ax is None:
        import matplotlib.pyplot as plt

        kwargs = {"figsize": size, "layout": "constrained", "squeeze": False, **kwargs}
        return plt.subplots(*shape, **kwargs)[1].ravel()
    axes, n_axes = np.asarray(ax, dtype=object).ravel(), shape[0] * shape[1]
    for part in axes:
        if not hasattr(part, "get_xaxis"):
            raise TypeError(
                f"ax must be matplotlib Axes or an array of them, got {type(part).__name__}. "
                "Make them with matplotlib.pyplot.subplots."
            )
    if len(axes) != n_axes:
        raise ValueError(
            f"{name}.plot needs {n_axes} axes, got {len(axes)}. Pass "
            f"plt.subplots({shape[0]}, {shape[1]})[1] or ax=None."
        )
    return axes
