"""Batches cut as slices from tensors that already lie on the training device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

MIN_STEPS = 10
"""An epoch passes over the data until it has taken as many steps, so that the number of
epochs means as much training for forty rows as for forty thousand."""


class Labels(NamedTuple):
    """What belongs to the rows of a batch beside their features."""

    rows: Tensor
    """Positions among all rows passed to fit, int64, shape (n,)."""
    targets: Tensor
    """Given labels, int64, shape (n,)."""
    sample_weight: Tensor
    """Shape (n,)."""


class Table(Dataset):
    """Rows with their labels, as tensors on one device.

    Parameters
    ----------
    X : Tensor of shape (n, ...)
    labels : Labels
    """

    def __init__(self, X: Tensor, labels: Labels) -> None:
        self.X = X
        self.labels = labels

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Labels]:
        return self.X[index], Labels(*(part[index] for part in self.labels))


class ShuffledBatches:
    """Passes over a table in random order, in batches whose sizes differ by one at most.

    There is no small last batch, and from ``batch_size=3`` on none of a single row. A table
    that fits in one batch is passed whole and in its own order.

    Parameters
    ----------
    table : Table
    batch_size : int
        The largest batch.
    """

    def __init__(self, table: Table, batch_size: int) -> None:
        self.table = table
        self.n_batches = math.ceil(len(table) / batch_size)
        self.n_passes = math.ceil(MIN_STEPS / self.n_batches)

    def __len__(self) -> int:
        return self.n_batches * self.n_passes

    def __iter__(self) -> Iterator[tuple[Tensor, Labels]]:
        n, device = len(self.table), self.table.X.device
        for _ in range(self.n_passes):
            if self.n_batches == 1:
                yield self.table[torch.arange(n, device=device)]
                continue
            for index in torch.randperm(n, device=device).tensor_split(self.n_batches):
                yield self.table[index]
