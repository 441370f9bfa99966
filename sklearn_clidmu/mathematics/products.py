"""Matrix products without a gradient, by the faster of the libraries that torch carries.

On x86 processors torch multiplies with MKL, which gives those of AMD 256 bits at a time. From Zen 5
on they take 512, and oneDNN, which torch uses for other things, gives them as many: there it takes
0.45 to 0.7 of the time. On earlier ones it takes 0.8 to 1.0 of it for large products, and more for
small ones. On Intel's own MKL is the faster: 0.6 to 1.0 of oneDNN's time.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

ONEDNN = "_linear_pointwise"
"""Name of oneDNN's affine map, which torch keeps for the code that it compiles."""

CPU_INFO = Path("/proc/cpuinfo")
"""Where Linux says what processors there are."""

ZEN_5 = 26
"""Family of the first processors of AMD that work through 512 bits at a time."""

WORTHWHILE = (2**24, 2**21)
"""Multiplications from which on oneDNN is the faster, on AMD's processors before Zen 5 and since. A
call takes 15 microseconds."""


def product(A: Tensor, B: Tensor) -> Tensor:
    """Product of two matrices, or of each two of two stacks, shape (..., m, n).

    Parameters
    ----------
    A, B : Tensor of shape (..., m, k) and (..., k, n)
    """
    if A.ndim > 2:
        if _linear(A[0], B.shape[-1]) is None:
            return A @ B
        return torch.stack([product(*pair) for pair in zip(A, B, strict=True)])
    linear = _linear(A, B.shape[1])
    if linear is None or not (_is_dense(A) and _is_dense(B)):
        return A @ B
    return linear(A, B.T, None)


def affine(X: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map the rows of X as a linear layer does, shape (m, n).

    Parameters
    ----------
    X, weight, bias : Tensor of shape (m, k), (n, k) and (n,)
    """
    linear = _linear(X, len(weight))
    return torch.addmm(bias, X, weight.T) if linear is None else linear(X, weight, bias)


def _is_dense(matrix: Tensor) -> bool:
    """Whether rows or columns lie without gaps; with gaps, oneDNN may take 1,000 times as long."""
    return matrix.is_contiguous() or matrix.T.is_contiguous()


def _linear(X: Tensor, width: int) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """Return oneDNN's affine map where it is at hand and worth its while."""
    if X.numel() * width < worthwhile() or X.dtype != torch.float32 or X.device.type != "cpu":
        return None
    return _onednn() if torch.backends.mkldnn.enabled else None


@cache
def _onednn() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """Look for oneDNN's affine map, and try it out."""
    try:
        pointwise = getattr(torch.ops.mkldnn, ONEDNN).default
        X, weight, bias = (torch.ones(s, dtype=torch.float32) for s in ((2, 3), (4, 3), (4,)))
        found = pointwise(X, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    if not torch.equal(found, torch.full_like(found, 4)):
        return None
    return lambda X, weight, bias: pointwise(X, weight, bias, "none", [], "")


@cache
def worthwhile() -> float:
    """Multiplications from which on oneDNN is the faster on this processor; inf where never."""
    family = amd_family()
    if family is None:
        return math.inf
    return WORTHWHILE[family >= ZEN_5]


def amd_family() -> int | None:
    """Which family of AMD's the processor says it is, on Linux and on Windows; None if of none."""
    try:
        with CPU_INFO.open() as file:
            said = file.read(1000)  # the first processor; they are all of one make
    except OSError:
        said = platform.processor()
    family = re.search(r"family\W+(\d+)", said, re.IGNORECASE)
    return int(family[1]) if family and "AuthenticAMD" in said else None
