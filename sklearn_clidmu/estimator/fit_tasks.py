"""scikit-learn's own callbacks, which it has from 1.9 on: a fit is made of trainings of epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback

from sklearn_clidmu.training.net import ReweightedNet, StopTraining
from sklearn_clidmu.training.progress import progress

__all__ = ["CallbackSupportMixin", "following", "with_callbacks"]

Method = TypeVar("Method", bound=Callable)

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn < 1.9: there is nothing to call

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's, with no methods."""

    def _with_callbacks(method: Callable) -> Callable:
        """Leave a method as it is."""
        return method


def with_callbacks(method: Method) -> Method:
    """Tell scikit-learn's callbacks of a fit; keeps its type, which theirs does not."""
    return _with_callbacks(method)


@contextmanager
def following(
    estimator: BaseEstimator,
    n_trainings: int,
    classes: np.ndarray,
    X: Any,
    y: Any,
    sample_weight: Any,
) -> Iterator[list[tuple[str, Callback]]]:
    """Yield the callbacks that follow all trainings of a fit; all is fitted where it ends.

    Parameters
    ----------
    estimator : CLIDMUClassifier
        In the midst of its ``fit``.
    n_trainings : int
        Trainings that are expected at most.
    classes : ndarray of shape (n_classes,)
    X, y, sample_weight : object
        As they were passed to ``fit``.
    """
    with progress(estimator.verbose, n_trainings) as watchers:
        if not hasattr(estimator, "_init_callback_context"):
            yield watchers
            return
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        given = {"X": X, "y": y, "metadata": metadata}
        tasks = FitTasks(estimator, n_trainings, classes, given)
        yield [*watchers, ("tasks", tasks)]
        tasks.end_fit()


class FitTasks(Callback):
    """Tells the callbacks that were set on an estimator of every training and epoch of its fit.

    A callback that asks to stop at the end of an epoch ends that training.

    Parameters
    ----------
    estimator : CLIDMUClassifier
        In the midst of its ``fit``.
    n_trainings : int
    classes : ndarray of shape (n_classes,)
    given : dict
        What the callbacks are to see of the data: X, y and metadata.
    """

    def __init__(
        self, estimator: BaseEstimator, n_trainings: int, classes: np.ndarray, given: dict[str, Any]
    ) -> None:
        self.estimator = estimator
        self.classes = classes
        self.given = given
        self.fit = estimator._init_callback_context(max_subtasks=n_trainings)
        self._begin(self.fit)
        self.training: Any = None
        self.epoch: Any = None

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Begin the next training, unless it is one that begins anew."""
        if self.training is not None:
            return
        self.n_epochs = 0
        self.training = self.fit.subcontext("training", max_subtasks=net.max_epochs)
        self._begin(self.training)

    def on_epoch_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Begin the next epoch, unless it is one that begins anew."""
        if len(net.history) <= self.n_epochs:
            return
        self.n_epochs = len(net.history)
        self.epoch = self.training.subcontext("epoch")
        self._begin(self.epoch)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """End the epoch, and the training if a callback says so."""
        if len(net.history) < self.n_epochs:
            return
        epoch, self.epoch = self.epoch, None
        if self._end(epoch, net):
            raise StopTraining

    def on_train_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """End the training, and the epoch that ended it before its time."""
        if self.epoch is not None:
            self.epoch.call_on_fit_task_end(estimator=self.estimator)
        training, self.training = self.training, None
        self._end(training, net)

    def end_fit(self) -> None:
        """End the fit, all attributes of which are set."""
        self.fit.call_on_fit_task_end(
            estimator=self.estimator, **self.given, reconstruction_attributes={}
        )

    def _begin(self, task: Any) -> None:
        task.call_on_fit_task_begin(estimator=self.estimator, **self.given)

    def _end(self, task: Any, net: ReweightedNet) -> bool:
        def attributes() -> dict[str, Any]:  # called only where a callback wants to predict
            seen = {name: getattr(self.estimator, name) for name in ("_row_shape", "_unit")}
            return {"classes_": self.classes, "net_": NetSoFar(net), **seen}

        return task.call_on_fit_task_end(
            estimator=self.estimator, **self.given, reconstruction_attributes=attributes
        )


class NetSoFar:
    """What would predict if training stopped now; it stays as it is when training goes on."""

    outputs = ReweightedNet.outputs

    def __init__(self, net: ReweightedNet) -> None:
        self.evaluated_module = deepcopy(net.evaluated_module)
        self.device = net.device
