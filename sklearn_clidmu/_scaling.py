"""Robust scaling of features, fitted on the training rows and part of the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

N_ROWS = 10_000
"""Quantiles are those of at most as many rows, drawn at random."""

CLIP, FAR = 3.0, 1e6
"""Scaled values approach plus and minus the first, RealMLP's published value. Beyond the second
they are as good as there, and their squares would overflow."""

MARGIN = 1 - 1e-9
"""Rounding of sample weights must not decide which row is a quantile."""


class RobustScaler(nn.Module):
    """Centre and scale by median and quartiles, clip tails smoothly, then standardize.

    A missing value becomes 0, the mean. Each feature that has missing values in the training rows
    also gets an indicator, 1 where it is missing, as a further column. A constant feature is 0.

    Source: the preprocessing of RealMLP (Holzmüller et al., NeurIPS 2024).

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

    def __init__(self, n_features: int, n_missing: int, n_continuous: int) -> None:
        super().__init__()
        for name in ("center", "scale", "mean", "deviation"):
            self.register_buffer(name, torch.ones(n_features))
        for name, size in (("missing", n_missing), ("continuous", n_continuous)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.int64))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Arguments of the constructor."""
        return len(self.center), len(self.missing), len(self.continuous)

    @classmethod
    def fit(cls, X: Tensor, sample_weight: Tensor) -> RobustScaler:
        """Measure a table of shape (n, d); a row of weight s counts s times."""
        rows = sample_weight.nonzero().squeeze(1)
        if len(rows) > N_ROWS:
            generator = torch.Generator().manual_seed(torch.initial_seed())
            drawn = torch.randperm(len(rows), generator=generator)[:N_ROWS]
            rows = rows[drawn.to(rows.device)]
        X = X.index_select(0, rows).double()
        weight = sample_weight.index_select(0, rows).double()[:, None] * ~X.isnan()
        ordered, order = X.nan_to_num(torch.inf).sort(dim=0)
        reached = weight.gather(0, order).cumsum(dim=0)
        total = reached[-1].clamp_min(torch.finfo(X.dtype).tiny)

        def quantile(share: float) -> Tensor:
            position = (reached < share * MARGIN * total).sum(dim=0, keepdim=True)
            return ordered.gather(0, position.clamp_max(len(X) - 1))[0]

        low, middle, high = (quantile(share) for share in (0.25, 0.5, 0.75))
        width = torch.where(high > low, high - low, (quantile(1.0) - quantile(1e-12)) / 2)
        n_values = 1 + ((ordered[1:] > ordered[:-1]) & ordered[1:].isfinite()).sum(dim=0)
        known = total > 1e-300
        missing, continuous = X.isnan().any(dim=0), n_values > 2
        scaler = cls(X.shape[1], int(missing.sum()), int(continuous.sum())).to(X.device)
        scaler.missing.copy_(missing.nonzero().squeeze(1))
        scaler.continuous.copy_(continuous.nonzero().squeeze(1))
        scaler = scaler.double()
        scaler.center.copy_(torch.where(known, middle, 0))
        scaler.scale.copy_(torch.where(known & (width > 0), 1 / width, 0))
        clipped = scaler.clipped(X).nan_to_num()
        mean = (weight * clipped).sum(dim=0) / total
        variance = (weight * (clipped - mean).square()).sum(dim=0) / total
        scaler.mean.copy_(torch.where(known, mean, 0))
        scaler.deviation.copy_(torch.where(variance > 0, variance.sqrt(), 1))
        return scaler

    def clipped(self, X: Tensor) -> Tensor:
        """Robustly scaled and clipped features, shape (n, d)."""
        Z = ((X - self.center) * self.scale).clamp(-FAR, FAR)
        return Z / (1 + (Z / CLIP).square()).sqrt()

    def forward(self, X: Tensor) -> Tensor:
        """Scaled features and indicators of missing values, shape (n, d + n_missing)."""
        Z = (self.clipped(X) - self.mean) / self.deviation
        Z = torch.where(X.isnan(), 0, Z)
        if not len(self.missing):
            return Z
        return torch.cat([Z, X.index_select(1, self.missing).isnan().to(Z)], dim=1)
