"""Random generators of NumPy and torch, rows drawn at random, and the device of a fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor


def numpy_generator(random_state: Any) -> np.random.RandomState:
    """Make a generator; None means fresh entropy, never NumPy's global generator."""
    return check_random_state(np.random.RandomState() if random_state is None else random_state)


_lock = RLock()
"""Held by the thread that draws from torch's global generators."""


def _renew_lock() -> None:
    """Replace the lock in a forked process, where the thread that held it does not exist."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def forked_generators(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Restore the state of torch's generators at the end, of the CPU and of CUDA ``devices``.

    Only one thread enters at a time, because initialization and dropout draw from generators that
    all threads share.
    """
    with _lock, torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def local_generators(
    random_state: object, device: torch.device, n_earlier: int = 0
) -> Iterator[int]:
    """Seed torch's generators for a fit, yield the seed and restore the generators at the end.

    The number of earlier epochs is added to the seed, so that successive calls of ``partial_fit``
    draw differently.
    """
    seed = int(numpy_generator(random_state).randint(np.iinfo(np.int32).max)) + n_earlier
    with forked_generators([device] if device.type == "cuda" else []):
        seed_generators(seed, device)
        yield seed


def fit_seed() -> int:
    """Seed of the fit that is running, as NumPy takes it."""
    return torch.initial_seed() % 2**32


def own_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator with the seed of the fit.

    Drawing from it leaves torch's own as they are, so that training draws the same numbers with and
    without reweighting.
    """
    return torch.Generator(device).manual_seed(torch.initial_seed())


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of a device; ``torch.manual_seed`` seeds all."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def resolve_device(device: str | torch.device) -> torch.device:
    """Torch device that can be allocated on; "auto" is CUDA if available, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, dtype=torch.float64, device=resolved).item()  # which Apple's GPUs lack
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition(". ")[0]  # some go on for a page
        raise ValueError(
            f"device={device!r} cannot be used here ({reason}). Use 'auto' or 'cpu'."
        ) from error
    return resolved


def draw_rows(weight: Tensor, n_rows: int, generator: torch.Generator) -> Tensor:
    """Positions of the rows that have a weight, or of ``n_rows`` of them, drawn at random."""
    rows = weight.nonzero().squeeze(1)
    if len(rows) > n_rows:
        drawn = torch.randperm(len(rows), generator=generator)[:n_rows]
        rows = rows[drawn.to(rows.device)]
    return rows
