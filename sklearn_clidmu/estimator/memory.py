"""What is done when the memory of a device runs out in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from sklearn.base import BaseEstimator

from sklearn_clidmu.estimator.building import MIN_META_ROWS
from sklearn_clidmu.estimator.constraints import PARAMETER_CONSTRAINTS
from sklearn_clidmu.estimator.preparation import Prepared, generators
from sklearn_clidmu.estimator.warning import warn
from sklearn_clidmu.training.meta_step import MAX_META_ROWS
from sklearn_clidmu.training.net import ReweightedNet


def with_less_memory(
    params: BaseEstimator, data: Prepared, work: Callable[[Any], ReweightedNet]
) -> ReweightedNet:
    """Carry out a training; begin anew with smaller batches where memory runs out.

    First the meta batch is halved, whose graphs are square in its rows, and then the batch, once
    each.

    Parameters
    ----------
    params : CLIDMUClassifier
        Read for its constructor parameters only.
    data : Prepared
        Its ledger is empty, and emptied whenever training begins anew.
    work : callable
        Called with the parameters.

    Raises
    ------
    MemoryError
        If that is not enough; the message says what to set.

    Warns
    -----
    RuntimeWarning
        Of what has been halved.
    """
    device = data.training.X.device
    states = [(generator, generator.get_state()) for generator in generators(device)]
    settings: Any = SimpleNamespace(
        **{name: getattr(params, name) for name in PARAMETER_CONSTRAINTS}
    )
    for name in ("meta_batch_size", "batch_size"):
        try:
            return work(settings)
        except torch.cuda.OutOfMemoryError:
            pass  # only after the handler is the memory given back of what failed
        halved = max(_batch_size(settings, name) // 2, 2)
        warn(
            f"Out of memory on {device}: training begins anew with "
            f"{name}={halved}. Set it, and no time is lost.",
            RuntimeWarning,
        )
        setattr(settings, name, halved)
        data.ledger.clear()
        for generator, state in states:
            generator.set_state(state)
    with explained():
        return work(settings)


@contextmanager
def explained() -> Iterator[None]:
    """Turn a lack of memory on the device into an error that says what to do."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(
            f"Out of memory ({error}). Lower batch_size, meta_batch_size or hidden_layer_sizes, "
            "or set device='cpu'."
        ) from error


def _batch_size(settings: Any, name: str) -> int:
    size = getattr(settings, name)
    return min(max(settings.batch_size, MIN_META_ROWS), MAX_META_ROWS) if size is None else size
