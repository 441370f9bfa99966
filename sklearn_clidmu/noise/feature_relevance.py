"""Relevance of each feature to the labels, from a kernel regression; why, docs/design.md says.

To scale features by it is a step of the recursive feature machine (Radhakrishnan et al., Science
2024). With g the mean squared gradient by each feature, the diagonal of the average gradient outer
product, over its mean, and c >= 0 the correlation of g - 1 between two halves of the rows:

    relevance = sqrt(1 + reliability * (g - 1)),     reliability = 2 c / (1 + c)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sklearn_clidmu._random import draw_rows
from sklearn_clidmu.noise.loo_kernel_ridge import (
    N_SELECTION,
    Kernel,
    StandardizedTable,
    choose_kernel,
    draw_frequencies,
)

N_ENTRIES = 2**24
"""Entries that are read at most: of more than 8,000 features, fewer rows."""


def feature_relevance(
    X: Tensor,
    targets: Tensor,
    n_classes: int,
    sample_weight: Tensor,
    generator: torch.Generator,
    scale: Callable[[Tensor], Tensor] = torch.as_tensor,
) -> Tensor:
    """Root mean square of a regression's gradient by each feature, shape (d,), float64.

    The squares have a mean of one and are shrunk towards it by their reliability (Kelley's
    formula), which is corrected from halves to all rows by the formula of Spearman and Brown.

    X is flattened, and scaled by ``scale``; rows of weight zero are not read. The generator draws
    the rows that are read, if there are many, the frequencies that choose the kernel, and the
    halves.
    """
    X = X.flatten(start_dim=1)
    n_rows = min(N_SELECTION, max(N_ENTRIES // X.shape[1], 2))
    drawn = draw_rows(sample_weight, n_rows, generator)
    targets, weight = targets[drawn], sample_weight[drawn].to(X.dtype)
    table = StandardizedTable(X[drawn], targets, weight, n_classes, scale)
    frequencies = draw_frequencies(table.width, generator).to(X)
    alone = torch.arange(len(weight), device=X.device)
    kernel = choose_kernel(table, weight, alone, frequencies, generator)
    rows, labels = table.rows(slice(None))

    def squares(part: Tensor) -> Tensor:
        return _squared_gradients(rows[part], labels[part], targets[part], weight[part], kernel)

    # By their values, so that copies of a row are in one half.
    direction = 1e3 * torch.randn(table.width, dtype=torch.float64, generator=generator)
    first = (rows.double() @ direction.to(rows.device)).cos() > 0
    one, other = squares(first) - 1, squares(~first) - 1
    correlation = (one @ other / (one.norm() * other.norm())).nan_to_num(0).clamp(0, 1)
    reliability = 2 * correlation / (1 + correlation)
    return (1 + reliability * (squares(torch.ones_like(first)) - 1)).sqrt()


def _squared_gradients(
    rows: Tensor, labels: Tensor, targets: Tensor, weight: Tensor, kernel: Kernel
) -> Tensor:
    """Squared gradient of the given label's probability by each feature, shape (d,), of mean one.

    All one where no feature varies.
    """
    # The kernel itself: the gradients of its random Fourier series are too noisy.
    wide = rows.double()
    similar = torch.cdist(wide, wide)  # changed in place, since it is large
    del wide
    similar.square_().mul_(-0.5 * kernel.gamma).exp_()
    root = weight.double().sqrt()[:, None]
    gram = (similar * root).mul_(root.T)
    gram.diagonal().add_(kernel.penalty)
    coefficients = root * torch.cholesky_solve(root * labels, torch.linalg.cholesky(gram))
    del gram
    # The sum over rows i of slope times (x_i - x) is the gradient at x, in units that cancel.
    slopes = similar.mul_(coefficients.T[targets]).to(rows)
    gradients = slopes @ rows - slopes.sum(dim=1, keepdim=True) * rows
    squares = weight.double() @ gradients.double().square()
    return torch.where(squares.sum() > 0, squares / squares.mean(), 1)
