"""Training data on the device: rows, labels, batches, and what training has seen of each row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_clidmu._random import fit_seed, own_generator
from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu._settings import steps_per_epoch
from sklearn_clidmu.clid.weighted import normal_rank
from sklearn_clidmu.noise.copies import find_copies

CHUNK = 8192
"""Rows that are predicted, and whose features are in memory, at a time."""

DENSE_ENTRIES = 2**24
"""Entries of a sparse table that are made dense at a time."""

LARGEST_LOSS = 100.0
"""Losses are recorded up to here, so that sums stay finite."""


class Labels(NamedTuple):
    """What belongs to the rows of a batch beside their features; or to a stack of batches."""

    rows: Tensor
    """Positions among all rows passed to fit, int64, shape (n,)."""
    targets: Tensor
    """Given labels, int64, shape (n,)."""
    sample_weight: Tensor
    """Shape (n,)."""


class SparseRows:
    """Rows of a csr matrix, which become dense on the device batch by batch."""

    def __init__(self, matrix: Any, dtype: torch.dtype, device: torch.device) -> None:
        self.matrix = matrix
        self.dtype = dtype
        self.device = device
        self.shape = torch.Size(matrix.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Make some of the rows dense."""
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
        kind = str(self.dtype).removeprefix("torch.")  # converted while it is small
        return torch.from_numpy(matrix.astype(kind, copy=False).toarray()).to(self.device)


class Table(Dataset):
    """Rows with their labels, on one device.

    ``X`` has all rows passed to fit, which the parts of a table share; ``rows`` are the positions
    there, int64, or None for all.
    """

    def __init__(
        self,
        X: Tensor | SparseRows,
        targets: Tensor,
        sample_weight: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        self.X = X
        self.targets = targets
        self.sample_weight = sample_weight
        self.rows = rows

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Labels]:
        labels = self._labels(index)
        return self.X.index_select(0, labels.rows), labels

    def take(self, index: Tensor) -> Table:
        """Make a table of some of the rows."""
        rows, targets, sample_weight = self._labels(index)
        return Table(self.X, targets, sample_weight, rows)

    @property
    def inputs(self) -> Tensor | SparseRows:
        """X of these rows; a copy at every call, unless they are all."""
        if self.rows is None:
            return self.X
        is_sparse = isinstance(self.X, SparseRows)
        return self.X.take(self.rows) if is_sparse else self.X.index_select(0, self.rows)

    @property
    def labels(self) -> Labels:
        """Those of all rows of the table; made anew at every call."""
        rows = torch.arange(len(self), device=self.X.device) if self.rows is None else self.rows
        return Labels(rows, self.targets, self.sample_weight)

    def _labels(self, index: Tensor) -> Labels:
        rows = index if self.rows is None else self.rows.index_select(0, index)
        targets = self.targets.index_select(0, index)
        return Labels(rows, targets, self.sample_weight.index_select(0, index))


class TrainingData(NamedTuple):
    """The rows of one fit, on the training device."""

    table: Table
    """All rows passed to fit, in the caller's order. Rows without a label are of class 0."""
    training: Table
    """The rows trained on."""
    held_out: Table | None
    """The rows kept for early stopping."""
    labeled: Tensor
    """Whether each row came with a label, shape (n,)."""
    first_copy: Tensor
    """Position of the first of the copies of each row, as ``find_copies`` has it, shape (n,)."""
    confirmed: Tensor
    """Labels that are known to be right, of all rows, int64; -1 for none."""
    n_classes: int
    scaler: RobustScaler | None
    """None for sparse rows and for rows that are no vectors."""


def with_confirmed(data: TrainingData) -> TrainingData:
    """Put the labels that are known to be right in the place of the given ones."""
    known = data.confirmed
    targets = torch.where(known < 0, data.table.targets, known)

    def corrected(table: Table) -> Table:
        return Table(table.X, targets[table.labels.rows], table.sample_weight, table.rows)

    held_out = None if data.held_out is None else corrected(data.held_out)
    return data._replace(
        table=corrected(data.table), training=corrected(data.training), held_out=held_out
    )


class ShuffledBatches:
    """Passes over a table in random order, in batches whose sizes differ by one at most.

    There is no small last batch, and from ``batch_size=3`` on none of a single row. A table that
    fits in one batch is passed whole and in its own order.
    """

    def __init__(self, table: Table, batch_size: int) -> None:
        self.table = table
        self.n_batches, self.n_passes = steps_per_epoch(len(table), batch_size)

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


class SampleHistory:
    """Training dynamics of every row: losses and summed influence over all its visits.

    Rows of sample weight 0 are not trained on. Losses are in nats; :meth:`evidence` gives the last
    one in units of log(n_classes), the loss of a uniform guess. ``loo_margin`` and
    ``prior_log_odds`` are evidence that does not change, the margin with the sign of evidence for
    the label; see ``EvidenceNet``.
    """

    def __init__(
        self,
        sample_weight: Tensor,
        n_classes: int,
        loo_margin: Tensor,
        prior_log_odds: Tensor | None = None,
    ) -> None:
        self.sample_weight = sample_weight
        self.n_classes = n_classes
        self.loo_margin = loo_margin
        zeros = torch.zeros_like(sample_weight)
        self.prior_log_odds = zeros if prior_log_odds is None else prior_log_odds
        self.state = zeros.new_zeros(4, len(zeros))
        """All that is recorded; the four figures are its rows."""
        self.n_visits, self.last_loss, self.loss, self.influence = self.state

    def record_losses(self, labels: Labels, losses: Tensor) -> None:
        """Record the losses of one batch, in which no row comes twice."""
        losses = losses.clamp_max(LARGEST_LOSS)
        self.n_visits.index_add_(0, labels.rows, torch.ones_like(losses))
        self.last_loss.index_copy_(0, labels.rows, losses)
        self.loss.index_add_(0, labels.rows, losses)

    def record_influence(self, labels: Labels, influence: Tensor) -> None:
        """Record the influences of one batch, or of a stack of batches."""
        self.influence.index_add_(0, labels.rows.flatten(), influence.flatten())

    def mean_loss(self) -> Tensor:
        """Mean cross entropy of each row over its visits, 0 before the first, shape (n,)."""
        return self.loss / self.n_visits.clamp_min(1)

    def evidence(self) -> Tensor:
        """Evidence against each row's label, as EvidenceNet reads it, shape (n, 5)."""
        columns = (
            self.last_loss / math.log(self.n_classes),
            normal_rank(self.mean_loss(), self.sample_weight),
            normal_rank(self.influence, self.sample_weight),
            normal_rank(-self.loo_margin, self.sample_weight),
            self.prior_log_odds,
        )
        return torch.stack(columns, dim=1)


def make_training_data(
    X: Any,
    codes: np.ndarray,
    sample_weight: np.ndarray,
    held_out: np.ndarray,
    n_classes: int,
    dtype: torch.dtype,
    device: torch.device,
    confirmed: np.ndarray | None = None,
    one_batch: bool = False,
) -> TrainingData:
    """Put the rows of one fit on the device; ValueError if a value is too large for the dtype.

    Labels are encoded, -1 for none. Rows of weight zero, and those held out, are not trained on.
    Features that ``dtype`` would round by too much make it float64.
    """

    def tensor(values: np.ndarray, kind: torch.dtype) -> Tensor:
        return share_memory(values).to(device, kind)

    sparse, scaler = not isinstance(X, np.ndarray), None
    if not sparse and X.ndim == 2:
        scaler = RobustScaler.fit(share_memory(X), torch.from_numpy(sample_weight), own_generator())
        if X.dtype == np.float64 and scaler.needs_double():  # others are rounded already
            dtype = torch.float64
        scaler = scaler.to(device, dtype)
    values = tensor(X.data if sparse else X, dtype)
    finite = torch.stack(values.aminmax()).isfinite().all() if values.numel() else True
    if not finite and values.isinf().any():
        raise ValueError(
            f"X has values too large for {str(dtype).removeprefix('torch.')}: scale the features, "
            "for example with sklearn.preprocessing.StandardScaler."
        )
    table = Table(
        SparseRows(X, dtype, device) if sparse else values,
        tensor(codes, torch.int64).clamp_min(0),
        tensor(sample_weight, dtype),
    )
    trained = trained_rows(codes, sample_weight, held_out)
    training = table if trained.all() else table.take(tensor(np.flatnonzero(trained), torch.int64))
    validation = table.take(tensor(held_out, torch.int64)) if len(held_out) else None
    labeled = tensor(codes >= 0, torch.bool)
    known = tensor(np.full(len(codes), -1) if confirmed is None else confirmed, torch.int64)
    # Where a row of weight s is s identical rows, all of these are copies.
    copies = find_copies(X, codes, trained, None if one_batch else fit_seed())
    first = tensor(copies, torch.int64)
    return TrainingData(table, training, validation, labeled, first, known, n_classes, scaler)


def trained_rows(codes: np.ndarray, sample_weight: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Mask of the rows with a label that are trained on, shape (n,)."""
    trained = (sample_weight > 0) & (codes >= 0)
    trained[held_out] = False
    return trained


def hold_out(codes: np.ndarray, candidates: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a fraction of the candidates to keep from training; their sorted positions.

    Stratified where every class has two rows to split.
    """
    counts = np.bincount(codes[candidates])
    n_held_out = int(np.ceil(fraction * len(candidates)))
    if n_held_out >= len(candidates):
        raise ValueError(
            f"validation_fraction={fraction} leaves none of the {len(candidates)} rows to train "
            "on: lower it, or set early_stopping=False."
        )
    n_classes = np.count_nonzero(counts)
    roomy = min(n_held_out, len(candidates) - n_held_out) >= n_classes
    stratify = codes[candidates] if roomy and counts[counts > 0].min() >= 2 else None
    _, held_out = train_test_split(
        candidates, test_size=n_held_out, stratify=stratify, random_state=seed
    )
    return np.sort(held_out)


def as_rows(X: Any) -> Tensor | SparseRows:
    """Rows to predict, without a copy: on the CPU, and of the dtype that they have."""
    if isinstance(X, np.ndarray):
        return share_memory(X)
    dtype = torch.from_numpy(np.empty(0, dtype=X.dtype)).dtype
    return SparseRows(X, dtype, torch.device("cpu"))


def share_memory(values: np.ndarray) -> Tensor:
    """Tensor on the memory of an array, which may be read-only and on disk: do not write to it.

    Copied only if its rows are not in C order, so that sums over them round alike.
    """
    values = np.ascontiguousarray(values)
    if min(values.strides) < 0:  # of an axis of length 1, which NumPy calls contiguous
        values = values.copy()
    return torch.from_numpy(values if values.flags.writeable else np.asarray(_Unlocked(values)))


class _Unlocked:
    """The memory of a read-only array as if it could be written to, of which torch would warn.

    Unlike a filter of warnings, which all threads share, it can be used in several at a time.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values  # kept alive
        described = values.__array_interface__
        self.__array_interface__ = {**described, "data": (described["data"][0], False)}
