"""Batches cut as slices from tensors that already lie on the training device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

MIN_STEPS = 10
"""An epoch passes over the data until it has taken as many steps, so that the number of
epochs means as much training for forty rows as for forty thousand."""


DENSE_ENTRIES = 2**24
"""Entries of a sparse table that are made dense at a time, where batches are not that small."""


class Labels(NamedTuple):
    """What belongs to the rows of a batch beside their features."""

    rows: Tensor
    """Positions among all rows passed to fit, int64, shape (n,)."""
    targets: Tensor
    """Given labels, int64, shape (n,)."""
    sample_weight: Tensor
    """Shape (n,)."""


class SparseRows:
    """Rows of a sparse matrix, which become a dense tensor where some of them are asked for.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array or csr_matrix of shape (n, d)
    dtype : torch.dtype
    device : torch.device
        Of the tensors; the matrix stays where it is.
    """

    def __init__(self, matrix: Any, dtype: torch.dtype, device: torch.device) -> None:
        self.matrix = matrix
        self.dtype = dtype
        self.device = device
        self.shape = torch.Size(matrix.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Make some of the rows dense; as of a tensor, but along ``dim=0`` alone."""
        return self._dense(self.matrix[index.cpu().numpy()])

    def take(self, index: Tensor) -> SparseRows:
        """Keep some of the rows, still sparse."""
        return SparseRows(self.matrix[index.cpu().numpy()], self.dtype, self.device)

    def split(self, n_rows: int) -> Iterator[Tensor]:
        """All rows in their order, at most ``n_rows`` at a time."""
        n_rows = min(n_rows, max(DENSE_ENTRIES // self.shape[1], 1))
        for start in range(0, len(self), n_rows):
            yield self._dense(self.matrix[start : start + n_rows])

    def _dense(self, matrix: Any) -> Tensor:
        return torch.from_numpy(matrix.toarray()).to(self.device, self.dtype)


class Table(Dataset):
    """Rows with their labels, on one device.

    Parameters
    ----------
    X : Tensor of shape (n, ...), or SparseRows of shape (n, d)
    targets : Tensor of shape (n,)
        Given labels; kept as int32.
    sample_weight : Tensor of shape (n,)
    rows : Tensor of shape (n,), int64, optional
        Positions among all rows passed to fit; by default these are all of them.

    Attributes
    ----------
    idle : Tensor of shape (n,), bool, or None
        Rows that have no part in the loss, for now: every batch gets the same share of them, and
        has them last. None where there are none.
    """

    idle: Tensor | None = None

    def __init__(
        self,
        X: Tensor | SparseRows,
        targets: Tensor,
        sample_weight: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        self.X = X
        self.targets = targets.to(torch.int32)
        self.sample_weight = sample_weight
        self.rows = rows

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Labels]:
        return self.X.index_select(0, index), self._labels(index)

    def take(self, index: Tensor) -> Table:
        """Make a table of some of the rows."""
        X = self.X.take(index) if isinstance(self.X, SparseRows) else self.X.index_select(0, index)
        rows, targets, sample_weight = self._labels(index)
        return Table(X, targets, sample_weight, rows)

    @property
    def labels(self) -> Labels:
        """Those of all rows of the table; made anew at every call."""
        rows = torch.arange(len(self), device=self.X.device) if self.rows is None else self.rows
        return Labels(rows, self.targets.long(), self.sample_weight)

    def _labels(self, index: Tensor) -> Labels:
        rows = index if self.rows is None else self.rows.index_select(0, index)
        targets = self.targets.index_select(0, index).long()
        return Labels(rows, targets, self.sample_weight.index_select(0, index))


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
            for index in self._deal(torch.randperm(n, device=device)):
                yield self.table[index]

    def _deal(self, order: Tensor) -> Sequence[Tensor]:
        """Rows of each batch, from all rows in random order."""
        batches = order.tensor_split(self.n_batches)
        if self.table.idle is None:
            return batches
        idle = self.table.idle[order]
        first = order[~idle].tensor_split(self.n_batches)
        n_last = [len(batch) - len(part) for batch, part in zip(batches, first, strict=True)]
        last = order[idle].split(n_last)
        return [torch.cat(parts) for parts in zip(first, last, strict=True)]
