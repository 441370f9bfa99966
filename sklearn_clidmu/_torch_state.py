"""Torch's global state, put aside while the package computes, and its errors of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

AUTOCAST = ("cpu", "cuda")
"""Kinds of device whose passes a caller may have set to a lower precision."""


class _SinglePrecision:
    """Default dtype float32 as long as any thread is inside; all threads share the default."""

    def __init__(self) -> None:
        self.lock, self.n_inside = Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.n_inside:
                self.before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.n_inside -= 1
            if not self.n_inside:
                torch.set_default_dtype(self.before)


_single_precision = _SinglePrecision()
_forked = False


def _renew_state() -> None:
    """Forget the threads of the parent in a forked process, where they do not exist."""
    global _forked, _single_precision
    if _single_precision.n_inside:
        torch.set_default_dtype(_single_precision.before)
    _forked, _single_precision = True, _SinglePrecision()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_state)


@contextmanager
def fresh_torch() -> Iterator[None]:
    """Compute as in a fresh process: with gradients, in float32, on the CPU unless told otherwise.

    What the caller has set holds again at the end. A forked process stays with one thread, since
    torch would wait for threads of the parent.
    """
    if _forked:
        torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":  # a mode that slows down every call of torch
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_single_precision)
        yield


def check_deterministic(device: torch.device) -> None:
    """Refuse a device on which training cannot be deterministic where the caller demands it."""
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type != "cpu" and torch.are_deterministic_algorithms_enabled() and not warn_only:
        raise ValueError(
            f"device={str(device)!r} has operations without a deterministic algorithm, and "
            "torch.use_deterministic_algorithms(True) is set: set warn_only=True there, or "
            "device='cpu'."
        )


@contextmanager
def explained_memory_errors() -> Iterator[None]:
    """Turn a lack of memory on the device into an error that says what to set."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(
            f"Out of memory ({error}). Lower batch_size, meta_batch_size or hidden_layer_sizes, "
            "or set device='cpu'."
        ) from error
