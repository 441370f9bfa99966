"""Robust scaling of features, fitted on rows of positive weight and part of the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sklearn_clidmu._random import draw_rows

N_ROWS = 10_000
"""Most rows that are measured, drawn at random. Missing values of the others get no indicator."""

N_ENTRIES = 2**18
"""Entries that are measured at a time."""

CLIP, FAR = 3.0, 1e6
"""Scaled values approach plus and minus the first, RealMLP's published value. Beyond the second
they are as good as there, and their squares would overflow."""

ROUNDING = 1e-3
"""Largest rounding of a feature, in units of its spread."""

N_ULPS = 8
"""Entries that differ by less, in units of the last place, may be equal but for rounding."""

MARGIN = 1 - 1e-9
"""A quantile is the least value that reaches its share of the weight times this: sums of weights
are rounded, and a row that reaches the share exactly must not miss it for that."""


class RobustScaler(nn.Module):
    """Center and scale by median and quartiles, clip tails smoothly, then standardize.

    A missing value becomes 0, the mean. Each feature that has missing values in the rows measured
    also gets an indicator, 1 where it is missing, as a further column. A constant feature is 0.
    Features and indicators are multiplied by their ``relevance``, which is one until it is set.

    Source: the preprocessing of RealMLP (Holzmüller et al., NeurIPS 2024). Where the quartiles are
    equal, that divides by half the range, which one outlier can spoil; here by twice the median
    distance from the median of the entries that differ from it by more than rounding.

    Parameters
    ----------
    n_features, n_missing, n_continuous : int
        Features, those of them that have missing values, and those of more than two values.
    """

    center: Tensor
    scale: Tensor
    mean: Tensor
    deviation: Tensor
    missing: Tensor
    continuous: Tensor
    relevance: Tensor

    def __init__(self, n_features: int, n_missing: int, n_continuous: int) -> None:
        super().__init__()
        for name in ("center", "scale", "mean", "deviation"):
            self.register_buffer(name, torch.ones(n_features))
        for name, size in (("missing", n_missing), ("continuous", n_continuous)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.int64))
        self.register_buffer("relevance", torch.ones(n_features + n_missing))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Arguments of the constructor."""
        return len(self.center), len(self.missing), len(self.continuous)

    @classmethod
    def fit(cls, X: Tensor, sample_weight: Tensor, generator: torch.Generator) -> RobustScaler:
        """Measure a table of shape (n, d); a row of weight s counts s times.

        The generator draws the rows that are measured, if there are many.
        """
        rows = draw_rows(sample_weight, N_ROWS, generator)
        X, weight = X.index_select(0, rows), sample_weight.index_select(0, rows).double()
        blocks = X.split(max(N_ENTRIES // len(rows), 1), dim=1)
        eps = torch.finfo(X.dtype).eps
        figures = [_measure(block.double(), weight[:, None], eps) for block in blocks]
        center, scale, mean, deviation, missing, continuous = map(
            torch.cat, zip(*figures, strict=True)
        )
        scaler = cls(X.shape[1], int(missing.sum()), int(continuous.sum())).to(X.device).double()
        found = center, scale, mean, deviation, missing.nonzero()[:, 0], continuous.nonzero()[:, 0]
        for buffer, values in zip(scaler.buffers(), found, strict=False):  # all but the relevance
            buffer.copy_(values)
        return scaler

    def adopt(self, other: RobustScaler) -> None:
        """Take from a scaler of later rows how features are scaled that have been constant here."""
        constant = self.scale == 0
        for name in ("center", "scale", "mean", "deviation"):
            getattr(self, name)[constant] = getattr(other, name)[constant].to(self.scale)
        self.relevance[: len(constant)][constant] = 1

    def needs_double(self) -> bool:
        """Whether a feature lies so far from 0 that single precision rounds it by too much.

        As times in seconds do. What double precision would lose, too, is rounding already.
        """
        size = self.center.abs() * self.scale
        rounding = [size * torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)]
        return bool(((rounding[0] > ROUNDING) & (rounding[1] < ROUNDING)).any())

    def forward(self, X: Tensor) -> Tensor:
        """Scaled features and indicators of missing values, shape (n, d + n_missing)."""
        Z = _clipped(X, self.center, self.scale).sub_(self.mean).div_(self.deviation)
        Z = Z.nan_to_num_(0)  # a constant feature that overflows is 0 times infinity
        if len(self.missing):
            Z = torch.cat([Z, X.index_select(1, self.missing).isnan().to(Z)], dim=1)
        return Z.mul_(self.relevance)


def _clipped(X: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """Robustly scaled and clipped features, shape (n, d)."""
    Z = (X - center).mul_(scale).clamp_(-FAR, FAR)  # in place: rows may be many
    return Z.div_(Z.square().div_(CLIP**2).add_(1).sqrt_())


def _measure(X: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Measure each feature, for weights of shape (n, 1); ``eps`` is that of the table's dtype.

    Returns center, scale, mean, deviation, whether any value is missing, and whether there are more
    than two values, each of shape (d,).
    """
    gaps, tiny = X.isnan(), torch.finfo(torch.float32).tiny
    weight = weight * ~gaps
    total = weight.sum(dim=0)
    low, center, high = _quantiles(X, weight, (0.25, 0.5, 0.75))
    width, rounding = high - low, N_ULPS * eps * center.abs()
    if (equal := width <= rounding).any():
        distance, weight_of_equal = (X - center)[:, equal].abs(), weight[:, equal]
        differ = weight_of_equal * (distance > rounding[equal])
        # Levels as near as that are no rounding if there is nothing else.
        differ = differ.where(differ.any(dim=0), weight_of_equal * (distance > 0))
        [median] = _quantiles(distance, differ, (0.5,))
        width[equal] = 2 * median
    known = (total > 0) & (width >= tiny)
    center, scale = center.where(total > 0, 0), (1 / width).where(known, 0)
    clipped = _clipped(X, center, scale).nan_to_num()
    total = total.clamp_min(tiny)
    mean = (weight * clipped).sum(dim=0) / total
    variance = (weight * (clipped - mean).square()).sum(dim=0) / total
    deviation = variance.sqrt().where(variance > 0, 1)
    ends = X.nan_to_num(torch.inf).amin(dim=0), X.nan_to_num(-torch.inf).amax(dim=0)
    between = X.gt(ends[0]).logical_and_(X.lt(ends[1])).any(dim=0)
    return center, scale, mean, deviation, gaps.any(dim=0), between


def _quantiles(values: Tensor, weight: Tensor, shares: Sequence[float]) -> list[Tensor]:
    """Least value of each feature that reaches each share of its weight, each of shape (d,)."""
    ordered, order = values.nan_to_num(torch.inf).sort(dim=0)
    reached = weight.gather(0, order).cumsum(dim=0)
    positions = [(reached < share * MARGIN * reached[-1]).sum(dim=0) for share in shares]
    return [ordered.gather(0, position[None])[0] for position in positions]
