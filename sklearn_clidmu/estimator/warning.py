"""Warnings that point at the line of the caller, however deep in a fit they arise."""

from __future__ import annotations

import sys
import warnings

PACKAGES = {"sklearn_clidmu", "sklearn", "skorch"}
"""Whose calls are between a warning and the caller."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn, as if in the last line that is not of this package or of those below it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in PACKAGES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
