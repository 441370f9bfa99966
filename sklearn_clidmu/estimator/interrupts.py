"""What a fit cut short leaves behind: everything as it was, or the best so far."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from sklearn.base import BaseEstimator

Method = TypeVar("Method", bound=Callable)


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C, after which the estimator holds the best that it had learned so far."""


def all_or_nothing(method: Method) -> Method:
    """Decorate a method that fits: where it raises, the estimator is as it was before."""

    @wraps(method)
    def fitting(estimator: BaseEstimator, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(estimator))
        try:
            return method(estimator, *args, **kwargs)
        except FitInterrupted:
            raise
        except BaseException:
            vars(estimator).clear()
            vars(estimator).update(before)
            raise

    return fitting  # type: ignore[return-value]
