"""Leave-one-out kernel ridge regression of the labels.

Unlike a network's loss, its predictions cannot have memorized the row's own label, and they are
available before training. The Gaussian kernel is approximated by random Fourier features
(Rahimi and Recht, NeurIPS 2007) of orthogonal frequencies, which vary less (Yu et al., NeurIPS
2016), so that time and memory grow linearly with the rows; leaving one row out has a closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from torch import Tensor
from torch.nn import functional as F

from sklearn_clidmu._random import draw_rows
from sklearn_clidmu._settings import GAMMAS, N_FREQUENCIES, PENALTIES
from sklearn_clidmu._validation.rows import DENSE_COLUMNS, dense_if_narrow
from sklearn_clidmu.clid.weighted import class_sums

N_SELECTION = 2_000
"""The kernel is chosen on at most as many rows, drawn at random."""

FAR = 1e6
"""Rows farther from the mean, in units of about the kernel's width, are moved there: they are near
no other row, and must not overflow."""

CHUNK, CHUNK_ENTRIES = 2048, 2**20
"""Rows that are in memory at a time with their Fourier features, and at most as many entries. Of
four times as many the memory would go back to the system, and be asked for again."""


class Kernel(NamedTuple):
    """A choice among the candidates."""

    gamma: float
    penalty: float


def loo_proba(
    X: Tensor,
    targets: Tensor,
    n_classes: int,
    sample_weight: Tensor,
    generator: torch.Generator,
    *,
    first_copy: Tensor | None = None,
    row: float = 1.0,
    scale: Callable[[Tensor], Tensor] = torch.as_tensor,
) -> Tensor:
    """Probability of each given label at each row, from all other rows, shape (n, n_classes).

    Ridge regression of the one-hot labels on random Fourier features. The values of a row add up to
    one and estimate the probabilities of its *given* label; they may leave [0, 1].

    X is flattened, and scaled by ``scale`` some rows at a time. Rows of weight zero are predicted
    but not fitted. A row is left out together with its copies, those of the same ``first_copy``,
    the position of one of them. ``row`` is the weight that counts as one row, the unit of the
    penalties. The generator draws the frequencies, on the CPU, so that they are the same on
    every device.
    """
    weight = sample_weight.to(X.dtype)
    table = StandardizedTable(X.flatten(start_dim=1), targets, weight, n_classes, scale)
    frequencies = draw_frequencies(table.width, generator).to(X)
    if first_copy is None:
        first_copy = torch.arange(len(weight), device=weight.device)
    kernel = choose_kernel(table, weight, first_copy, frequencies, generator, row)
    ridge = Ridge(table.chunks(weight), frequencies * kernel.gamma**0.5)
    proba, left_out = weight.new_empty(len(weight), n_classes), _group_weight(weight, first_copy)
    parts = zip(
        proba.split(table.chunk), targets.split(table.chunk), table.chunks(left_out), strict=True
    )
    for part, labels, (rows, Y, left) in parts:
        residuals = ridge.residuals(*ridge.project(rows), Y, left, kernel.penalty)
        part.copy_(F.one_hot(labels, n_classes) - residuals)
    return proba


def draw_frequencies(d: int, generator: torch.Generator) -> Tensor:
    """Frequencies of a Gaussian kernel of gamma 1, shape (d, N_FREQUENCIES), float64.

    Normal vectors, d at a time orthogonal to each other (Yu et al., NeurIPS 2016).
    """
    n, options = N_FREQUENCIES, dict[str, Any](dtype=torch.float64, generator=generator)
    blocks = torch.randn(-(-n // d), d, min(d, n), **options)
    directions = torch.linalg.qr(blocks).Q.movedim(0, 1).flatten(start_dim=1)[:, :n]
    return directions * torch.randn(d, n, **options).norm(dim=0)


class StandardizedTable:
    """A table in the units of the regression, made chunk by chunk and never as a whole.

    Rows are scaled by ``scale``, centered, and have a mean square of 2; labels are one-hot and
    centered. What is summed over rows is float64, and all else of the type of X.
    """

    def __init__(
        self,
        X: Tensor,
        targets: Tensor,
        weight: Tensor,
        n_classes: int,
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        self.X, self.targets, self.n_classes, self.scale_rows = X, targets, n_classes, scale
        self.width = scale(X[:1]).shape[1]
        self.chunk = min(CHUNK, max(CHUNK_ENTRIES // self.width, 1))
        tiny = torch.finfo(torch.float64).tiny
        # The unit cancels; squares and sums of the largest numbers must not overflow.
        # Numbers, since a small tensor that is kept between large ones holds on to their memory.
        largest = max(float(scale(rows).abs().amax()) for rows in X.split(self.chunk))
        self.unit = max(largest, tiny)
        total = weight.sum()
        weight = weight.double()

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            for rows, w in zip(X.split(self.chunk), weight.split(self.chunk), strict=True):
                yield scale(rows).double() / self.unit, w

        self.mean = sum(w @ rows for rows, w in parts()) / total
        squares = sum((w @ (rows - self.mean).square()).sum() for rows, w in parts())
        self.scale = (2 / (squares / total).clamp_min(tiny)).sqrt()
        self.shares = class_sums(weight, targets, n_classes) / total

    def rows(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Rows and labels of some of the table."""
        X = self.scale_rows(self.X[index]).double() / self.unit
        X = ((X - self.mean) * self.scale).clamp(-FAR, FAR)
        Y = F.one_hot(self.targets[index], self.n_classes) - self.shares
        return X.to(self.X.dtype), Y.to(self.X.dtype)

    def chunks(self, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, labels and weights, as many at a time as fit in memory."""
        for start in range(0, len(self.X), self.chunk):
            part = slice(start, start + self.chunk)
            yield *self.rows(part), weight[part]


class Ridge:
    """Weighted ridge regression on Fourier features, ready for any penalty.

    ``chunks`` are parts of the table: rows (m, d), labels (m, n_classes) and weights (m,). The
    frequencies have the shape (d, n_frequencies).
    """

    def __init__(
        self, chunks: Iterable[tuple[Tensor, Tensor, Tensor]], frequencies: Tensor
    ) -> None:
        self.frequencies = frequencies
        size = 2 * frequencies.shape[1] + 1
        gram = frequencies.new_zeros(size, size, dtype=torch.float64)
        cross = frequencies.new_zeros((), dtype=torch.float64)
        for X, Y, weight in chunks:
            features = self._features(X)
            weighted = features * weight
            gram += weighted @ features.T
            cross = cross + (weighted @ Y).double()
        self.eigenvalues, basis = torch.linalg.eigh(gram)
        self.eigenvalues = self.eigenvalues.clamp_min(0)
        self.cross = basis.T @ cross
        self.basis = basis.to(frequencies)

    def project(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Fourier features in the basis in which the Gram matrix is diagonal, and their squares."""
        features = self._features(X).T @ self.basis
        return features, features.square()

    def residuals(
        self, features: Tensor, squares: Tensor, Y: Tensor, left_out: Tensor, penalty: float
    ) -> Tensor:
        """Errors at rows of which the weight ``left_out`` is not used, shape (m, n_classes)."""
        shrinkage = 1 / (self.eigenvalues + penalty)
        coefficients = (shrinkage[:, None] * self.cross).to(features)
        leverage = left_out * (squares @ shrinkage.to(features))
        kept = (1 - leverage).clamp_min(torch.finfo(leverage.dtype).eps)
        predicted = features @ coefficients
        return (Y - predicted) / kept[:, None]

    def _features(self, X: Tensor) -> Tensor:
        """Fourier features of the rows, as columns: cosines, sines and a constant."""
        angles, n = self.frequencies.T @ X.T, self.frequencies.shape[1]
        features = angles.new_ones(2 * n + 1, len(X))
        torch.cos(angles, out=features[:n])
        torch.sin(angles, out=features[n : 2 * n])
        return features.mul_(n**-0.5)


def _group_weight(weight: Tensor, groups: Tensor) -> Tensor:
    """Weight of each row's group, shape (n,)."""
    return class_sums(weight, groups, int(groups.max()) + 1)[groups]


def choose_kernel(
    table: StandardizedTable,
    weight: Tensor,
    first_copy: Tensor,
    frequencies: Tensor,
    generator: torch.Generator,
    row: float = 1.0,
) -> Kernel:
    """Candidate of least leave-one-out squared error; see :func:`loo_proba`."""
    drawn = draw_rows(weight, N_SELECTION, generator)
    left_out = _group_weight(weight[drawn], first_copy[drawn])  # of the rows that are fitted
    parts = [
        (*table.rows(rows), weight[rows], left)
        for rows, left in zip(drawn.split(table.chunk), left_out.split(table.chunk), strict=True)
    ]
    penalties = [penalty * row for penalty in PENALTIES]

    half = frequencies[:, ::2]  # enough to compare kernels, and five times as fast
    found = [(*_best_penalty(parts, half * gamma**0.5, penalties), gamma) for gamma in GAMMAS]
    _, penalty, gamma = min(found)
    return Kernel(gamma, penalty)


def _best_penalty(
    parts: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    frequencies: Tensor,
    penalties: Sequence[float],
) -> tuple[float, float]:
    """Least leave-one-out squared error of the penalties, and the penalty that has it."""
    ridge = Ridge((part[:3] for part in parts), frequencies)
    errors = torch.zeros(len(penalties), dtype=torch.float64, device=frequencies.device)
    for X, Y, weight, left_out in parts:
        rows = ridge.project(X)
        residuals = [ridge.residuals(*rows, Y, left_out, penalty) for penalty in penalties]
        errors += torch.stack([weight @ r.square().sum(dim=1) for r in residuals])
    least = int(errors.argmin())
    return float(errors[least]), penalties[least]


def loo_margin(proba: Tensor, targets: Tensor) -> Tensor:
    """Margin of the given class over the strongest other one, shape (n,)."""
    given = targets[:, None]
    others = proba.scatter(1, given, -torch.inf).amax(dim=1)
    return proba.gather(1, given).squeeze(1) - others


def dense_rows(X: Any, seed: int, used: Any = slice(None)) -> np.ndarray:
    """Rows as an array: of a wide sparse table, by the first singular vectors of those used.

    The rows ``used`` are those that may have an effect on others.
    """
    X = dense_if_narrow(X)
    if isinstance(X, np.ndarray):
        return X
    n_components = min(DENSE_COLUMNS, X[used].shape[0])
    return TruncatedSVD(n_components, random_state=seed).fit(X[used]).transform(X)
