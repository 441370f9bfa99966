"""What all displays share: the classifier to show, axes to draw on, styles of lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from sklearn_clidmu.estimator.classifier import CLIDMUClassifier

# Of Okabe and Ito, apart for the colour-blind; lines that share axes differ in style as well.
BLUE, VERMILLION, GREEN, BLACK, GREY = "#0072b2", "#d55e00", "#009e73", "#000000", "#999999"

STYLES: list[dict[str, Any]] = [
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILLION, "linestyle": "--"},
    {"color": GREEN, "linestyle": "-."},
    {"color": BLACK, "linestyle": ":"},
]
"""Of the lines that share axes, in this order."""

GUIDE: dict[str, Any] = {"color": GREY, "linewidth": 1, "zorder": 0}
"""Of lines that only help to read the others."""


def fitted_classifier(estimator: Any) -> CLIDMUClassifier:
    """Take the fitted classifier, out of a pipeline if it ends one.

    Raises
    ------
    TypeError
        If it is neither.
    NotFittedError
        If it is not fitted.
    """
    classifier = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(classifier, CLIDMUClassifier):
        raise TypeError(
            "estimator must be a CLIDMUClassifier or a Pipeline that ends in one, got "
            f"{type(classifier).__name__}. Of a search, pass its best_estimator_."
        )
    check_is_fitted(classifier, "net_")
    return classifier


def panels(
    display: object, ax: Any, shape: tuple[int, int], size: tuple[float, float], **kwargs: Any
) -> np.ndarray:
    """Axes to draw on: the given ones, or those of a new figure, as an array of shape (n,).

    Parameters
    ----------
    display : object
        That asks.
    ax : matplotlib Axes, array-like of them, or None
    shape : (int, int)
        Rows and columns of a new figure.
    size : (float, float)
        Width and height of a new figure, in inches.
    **kwargs
        Of ``matplotlib.pyplot.subplots``.

    Raises
    ------
    TypeError
        If they are no axes.
    ValueError
        If there are more or fewer axes than are needed.
    """
    name = type(display).__name__
    check_matplotlib_support(f"{name}.plot")
    if ax is None:
        import matplotlib.pyplot as plt

        kwargs = {"figsize": size, "layout": "constrained", "squeeze": False, **kwargs}
        return plt.subplots(*shape, **kwargs)[1].ravel()
    axes, n_panels = np.asarray(ax, dtype=object).ravel(), shape[0] * shape[1]
    strangers = [type(part).__name__ for part in axes if not hasattr(part, "get_xaxis")]
    if strangers:
        raise TypeError(
            f"ax must be matplotlib Axes or an array of them, got {strangers[0]}: make them, for "
            "example, with matplotlib.pyplot.subplots."
        )
    if len(axes) != n_panels:
        raise ValueError(
            f"{name}.plot needs {n_panels} axes, got {len(axes)}. Pass as many, for example "
            f"plt.subplots({shape[0]}, {shape[1]})[1], or ax=None."
        )
    return axes
