"""Networks that return their logits together with their last hidden features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import pairwise
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu._settings import FREQUENCY, N_OUTPUTS, N_PERIODS

MAX_EMBEDDED = 40
"""Most features that are embedded. The time of an embedding grows with their number, and sets of
many features gain nothing."""


class MLP(nn.Module):
    """Multi-layer perceptron with layer normalization, ReLU and dropout after every layer.

    The logits are linear in the last hidden layer, and in the inputs and the earlier layers beside
    it, so that the layers need not learn what depends on the inputs linearly. Features are scaled
    by ``scaler``, and the continuous ones embedded where they are not too many. With ``one_mask``
    the same units are dropped in all rows of a batch, so that the randomness does not depend on the
    number of rows.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        hidden_layer_sizes: Sequence[int],
        dropout: float,
        one_mask: bool = False,
        scaler: RobustScaler | None = None,
    ) -> None:
        super().__init__()
        self.inputs = nn.Sequential()
        width = n_features
        if scaler is not None:
            scaler = deepcopy(scaler).cpu()  # the whole network is moved later
            self.inputs.append(scaler)
            _, n_missing, n_continuous = scaler.sizes
            width += n_missing
            if 0 < n_continuous <= MAX_EMBEDDED:
                self.inputs.append(PeriodicEmbedding(scaler.continuous))
                width += n_continuous * N_OUTPUTS
        widths = [width, *hidden_layer_sizes]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(n_in, n_out),
                nn.LayerNorm(n_out, elementwise_affine=False),
                nn.ReLU(),
                OneMaskDropout(dropout) if one_mask else Dropout(dropout),
            )
            for n_in, n_out in pairwise(widths)
        )
        self.shortcut = nn.Linear(sum(widths[:-1]), n_classes, bias=False)
        nn.init.zeros_(self.shortcut.weight)
        self.head = nn.Linear(widths[-1], n_classes)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (n, n_classes) and features of shape (n, hidden_layer_sizes[-1])."""
        outputs = [self.inputs(X)]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        *earlier, features = outputs
        return self.head(features) + self.shortcut(torch.cat(earlier, dim=-1)), features


class PeriodicEmbedding(nn.Module):
    """Append to the features periodic functions of some of them, learned for each by itself.

    They are linear in cos(w x + b), as in the "PBLD" embedding of RealMLP (Holzmüller et al.,
    NeurIPS 2024), after Gorishniy et al. (NeurIPS 2022).

    Parameters
    ----------
    columns : Tensor of shape (n_embedded,), int64
        The features that are embedded.
    """

    columns: Tensor

    def __init__(self, columns: Tensor) -> None:
        super().__init__()
        n, bound = len(columns), N_PERIODS**-0.5
        self.register_buffer("columns", columns.clone())
        self.frequencies = nn.Parameter(2 * math.pi * FREQUENCY * torch.randn(n, 1, N_PERIODS))
        self.phases = nn.Parameter(math.pi * (2 * torch.rand(n, 1, N_PERIODS) - 1))
        self.weight = nn.Parameter(bound * (2 * torch.rand(n, N_PERIODS, N_OUTPUTS) - 1))
        self.bias = nn.Parameter(bound * (2 * torch.rand(n, 1, N_OUTPUTS) - 1))

    def forward(self, X: Tensor) -> Tensor:
        """Rows of shape (n, d + n_embedded * N_OUTPUTS)."""
        embedded = X.index_select(1, self.columns).T[..., None]
        # cos(w x + b), by the sine: onnxruntime up to 1.24 has no cosine of float64.
        waves = (embedded * self.frequencies + (self.phases + math.pi / 2)).sin()
        outputs = torch.baddbmm(self.bias, waves, self.weight)
        return torch.cat([X, outputs.transpose(0, 1).flatten(start_dim=1)], dim=1)


class Dropout(nn.Dropout):
    """Dropout that on the CPU takes 16 random bits a unit: four times as fast as torch's own."""

    def forward(self, X: Tensor) -> Tensor:
        """Drop entries of X, with probability p to the nearest 1 / 65536."""
        if not self.training or self.p == 0 or X.device.type != "cpu":
            return super().forward(X)
        n_dropped = min(round(float(self.p) * 65536), 65535)
        *rows, d = X.shape
        words = torch.empty((*rows, (d + 3) // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[..., :d].ge_(n_dropped - 32768).to(X.dtype)
        return X * kept.mul_(65536 / (65536 - n_dropped))


class OneMaskDropout(nn.Dropout):
    """Dropout with one mask for all rows of the batch."""

    def forward(self, X: Tensor) -> Tensor:
        """Drop columns of X, shape (n, d)."""
        return X * super().forward(torch.ones_like(X[:1]))


class LinearCall(NamedTuple):
    """What a linear layer was called with, and what it returned."""

    name: str
    features: Tensor
    output: Tensor
    version: int

    def is_head(self, logits: Tensor) -> bool:
        """Whether the output is the logits; not after an operation in place, as an activation."""
        return self.output is logits and self.version == logits._version


class FeatureTap(nn.Module):
    """Any module that computes logits, made to return (logits, features).

    A module that returns such a pair itself is taken at its word; of any other, the features
    are the input of the linear layer whose output is the logits, or else of the last to be called.

    Both are converted to the floating-point type of the batch. A pass raises a ValueError if the
    module returns something else. The module gets a copy of the rows, because it may work in place,
    and they may be the caller's own, or read-only.
    """

    def __init__(self, module: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.module = module
        self.n_classes = n_classes
        # By thread: several may predict with one network at a time.
        self._seen: dict[int, list[LinearCall]] = {}
        self._head_name: str | None = None
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(partial(self._watch, name))

    @property
    def head(self) -> nn.Linear | None:
        """The linear layer whose output *is* the logits, if there is one; known after one pass."""
        layer = None if self._head_name is None else self.module.get_submodule(self._head_name)
        return layer if isinstance(layer, nn.Linear) else None

    def _watch(self, name: str, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        call = LinearCall(name, inputs[0], output, output._version)
        self._seen.setdefault(get_ident(), []).append(call)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (n, n_classes) and features of shape (n, d)."""
        self._seen.pop(get_ident(), None)  # calls that a backward pass has repeated
        try:
            output = self.module(X.clone())
        finally:
            calls = self._seen.pop(get_ident(), [])
        is_pair = isinstance(output, tuple) and len(output) == 2
        logits = output[0] if is_pair else output
        heads = [call for call in calls if call.is_head(logits)]
        if is_pair:
            features = output[1]
        elif calls:
            features = (heads or calls)[-1].features
        else:
            raise ValueError(
                f"module {self.name} calls no torch.nn.Linear layer to take the features from: let "
                "its forward return (logits, features)."
            )
        self._check(logits, features, X)
        names = [call.name for call in heads if call.features is features]
        self._head_name = names[-1] if names else None
        return logits.to(X.dtype), features.flatten(start_dim=1).to(X.dtype)

    @property
    def name(self) -> str:
        """Of the module's class, for messages."""
        return type(self.module).__name__

    def _check(self, logits: Any, features: Any, X: Tensor) -> None:
        for what, value in (("logits", logits), ("features", features)):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"module {self.name} must return logits, or the pair (logits, features), as "
                    f"tensors of floating-point numbers, got {what} of type {kind}."
                )
            if value.device != X.device:
                raise ValueError(
                    f"module {self.name} must stay on the device of its input, {X.device}, got "
                    f"{what} on {value.device}."
                )
        if logits.shape != (len(X), self.n_classes):
            raise ValueError(
                f"module {self.name} must return logits of shape (n_samples, {self.n_classes}), "
                f"got {tuple(logits.shape)} for {len(X)} rows."
            )
        if features.ndim < 2 or len(features) != len(X):
            raise ValueError(
                f"module {self.name} must return features of shape (n_samples, n_hidden), got "
                f"{tuple(features.shape)} for {len(X)} rows."
            )
        detached = self.training and torch.is_grad_enabled() and not logits.requires_grad
        if detached and any(parameter.requires_grad for parameter in self.parameters()):
            raise ValueError(
                f"module {self.name} returns logits without a gradient: do not detach them."
            )


def build_network(
    module: Callable[[Any, int], nn.Module] | None,
    hidden_layer_sizes: tuple[int, ...],
    dropout: float,
    one_mask: bool,
    row_shape: tuple[int, ...],
    n_classes: int,
    dtype: torch.dtype,
    scaler: RobustScaler | None = None,
) -> nn.Module:
    """Build the network: the caller's module, tapped for its features, or an MLP."""
    if module is None:
        sizes = row_shape[0], n_classes, hidden_layer_sizes
        return MLP(*sizes, dropout, one_mask, scaler).to(dtype)
    return _build_tapped(module, row_shape, n_classes, dtype)


def _build_tapped(
    module: Callable[[Any, int], nn.Module],
    row_shape: tuple[int, ...],
    n_classes: int,
    dtype: torch.dtype,
) -> FeatureTap:
    """Build the caller's module and tap it; an error names what cannot be built."""
    if isinstance(module, nn.Module):
        raise TypeError(
            "module must be a class or a function that builds the network when called as "
            f"module(n_features, n_classes), got a network, an instance of {type(module).__name__}:"
            " pass lambda n_features, n_classes: network, which is copied."
        )
    width = row_shape[0] if len(row_shape) == 1 else row_shape
    try:
        built = module(width, n_classes)
    except Exception as error:
        raise ValueError(
            f"module raised an error when called as module({width}, {n_classes}), which must build "
            f"the network: {error!r}"
        ) from error
    if not isinstance(built, nn.Module):
        raise TypeError(
            "module must build a torch.nn.Module when called as module(n_features, n_classes), "
            f"got {built!r}."
        )
    name = type(built).__name__
    if not any(parameter.requires_grad for parameter in built.parameters()):
        raise ValueError(f"module {name} has no parameters to train: none requires a gradient.")
    lazy = {id(one): UninitializedBuffer() for one in built.buffers() if is_lazy(one)}
    try:  # A copy, since the caller may hand out the same network every time.
        network = FeatureTap(deepcopy(built, lazy), n_classes)
    except RuntimeError as error:
        raise ValueError(
            f"module {name} cannot be copied: {error}. Of torch.nn.utils.weight_norm and "
            "spectral_norm, use those of torch.nn.utils.parametrizations."
        ) from error
    _probe(network, row_shape, dtype)
    return network


def _probe(network: FeatureTap, row_shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Convert the network and pass a batch; an error says what makes it unfit for training."""
    name = network.name  # that of a lazy layer is another afterwards
    try:
        network.to("cpu", dtype)  # wherever it was built; training moves it
        _first_outputs(network, row_shape, dtype)  # an unfit module is found out here
        # With gradients in a copy: a module may keep what it computes, and is copied later.
        logits, _ = deepcopy(network)(torch.zeros(2, *row_shape, dtype=dtype))
    except Exception as error:  # which does not know whose the module is, unless it is our own
        if f"module {name}" in str(error):
            raise
        raise ValueError(
            f"module {name} cannot take a batch of shape {(2, *row_shape)} and type {dtype} on the "
            f"CPU: {error!r}"
        ) from error
    adds_up = (logits >= 0).all() and (logits.sum(dim=1) - 1).abs().max() < 1e-5
    if adds_up or type(logits.grad_fn).__name__ == "SigmoidBackward0":
        raise ValueError(
            f"module {name} returns probabilities: leave out the softmax or sigmoid at its end and "
            "return logits."
        )


def feature_width(network: nn.Module, row_shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Width of the last hidden features."""
    return _first_outputs(network, row_shape, dtype)[1].shape[1]


@torch.no_grad()
def _first_outputs(
    network: nn.Module, row_shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Logits and features of two rows of zeros."""
    return network.eval()(torch.zeros(2, *row_shape, dtype=dtype))
