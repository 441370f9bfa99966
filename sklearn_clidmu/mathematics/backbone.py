"""Networks that return their logits together with their last hidden features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Multi-layer perceptron with layer normalisation, ReLU and dropout after every layer.

    Parameters
    ----------
    n_features : int
        Number of input features.
    n_classes : int
        Number of logits.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers, at least one.
    dropout : float
        Share of the hidden units that is dropped in training.
    one_mask : bool, default=False
        Drop the same units in all rows of a batch, so that the randomness does not depend on
        the number of rows.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        hidden_layer_sizes: Sequence[int],
        dropout: float,
        one_mask: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = n_features
        for size in hidden_layer_sizes:
            layers += [
                nn.Linear(width, size),
                nn.LayerNorm(size, elementwise_affine=False),
                nn.ReLU(),
                OneMaskDropout(dropout) if one_mask else Dropout(dropout),
            ]
            width = size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, n_classes)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (n, n_classes) and features of shape (n, hidden_layer_sizes[-1])."""
        features = self.body(X)
        return self.head(features), features

    def blocks(self) -> Iterator[tuple[Any, ...]]:
        """Yield the hidden layers: linear, normalisation, activation and dropout of each."""
        layers = iter(self.body)
        return zip(layers, layers, layers, layers, strict=True)


class Dropout(nn.Dropout):
    """Dropout that on the CPU takes 16 random bits a unit: four times as fast as torch's own."""

    def forward(self, X: Tensor) -> Tensor:
        """Drop entries of X, with probability p to the nearest 1 / 65536."""
        return drop(self, X)

    def draw(self, X: Tensor) -> tuple[Tensor | None, float]:
        """Draw which entries of X are kept, 1 or 0, and say by what to multiply them.

        None and 1 where all are kept.
        """
        if not self.training or self.p == 0:
            return None, 1.0
        if X.device.type != "cpu":
            return torch.empty_like(X).bernoulli_(1 - self.p), 1 / (1 - self.p)
        n_dropped = min(round(self.p * 65536), 65535)
        *rows, d = X.shape
        words = torch.empty((*rows, (d + 3) // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[..., :d]
        return bits.ge_(n_dropped - 32768), 65536 / (65536 - n_dropped)


class OneMaskDropout(nn.Module):
    """Dropout with one mask for all rows of the batch."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, X: Tensor) -> Tensor:
        """Drop columns of X, shape (n, d)."""
        return drop(self, X)

    def draw(self, X: Tensor) -> tuple[Tensor | None, float]:
        """Draw which columns of X are kept, as :meth:`Dropout.draw` does."""
        if not self.training or self.p == 0:
            return None, 1.0
        return torch.empty_like(X[:1]).bernoulli_(1 - self.p), 1 / (1 - self.p)


def drop(dropout: Dropout | OneMaskDropout, X: Tensor) -> Tensor:
    """Set entries of X to zero, and scale up the others."""
    kept, scale = dropout.draw(X)
    return X if kept is None else (X * kept).mul_(scale)


class FeatureTap(nn.Module):
    """Any module that computes logits, made to return (logits, features).

    A module that returns such a pair itself is taken at its word; of any other, the features
    are the input of the linear layer that comes last in ``module.modules()``.

    Parameters
    ----------
    module : nn.Module
        Maps a batch to logits of shape (n, n_classes), or to (logits, features). Of whatever
        floating-point type they are, they are converted to that of the batch.
    n_classes : int
        Number of logits it must return.

    Raises
    ------
    ValueError
        In a pass, if the module returns something else; the message names it.
    """

    def __init__(self, module: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.module = module
        self.n_classes = n_classes
        # By thread: several may predict with one network at a time.
        self._seen: dict[int, tuple[Tensor, Tensor, int]] = {}
        self._exposes_head = False
        last = self._last_linear()
        if last is not None:
            last.register_forward_hook(self._watch)

    @property
    def head(self) -> nn.Linear | None:
        """The last linear layer where its output *is* the logits; known after one forward."""
        return self._last_linear() if self._exposes_head else None

    def _last_linear(self) -> nn.Linear | None:
        linear = [m for m in self.module.modules() if isinstance(m, nn.Linear)]
        return linear[-1] if linear else None

    def _watch(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self._seen[get_ident()] = inputs[0], output, output._version

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (n, n_classes) and features of shape (n, d)."""
        try:
            output = self.module(X)
        finally:
            seen = self._seen.pop(get_ident(), None)
        if isinstance(output, tuple) and len(output) == 2:
            logits, features = output
        elif seen is None:
            raise ValueError(
                f"module {self.name} has no torch.nn.Linear layer to take the features from: let "
                "its forward return (logits, features)."
            )
        else:
            logits, features = output, seen[0]
        self._check(logits, features, X)
        # The version tells of operations in place, such as an activation after the layer.
        self._exposes_head = seen is not None and (
            seen[0] is features and seen[1] is logits and seen[2] == logits._version
        )
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


def members(network: nn.Module) -> list[nn.Module]:
    """List the networks that predict by their mean, the best first; any other is the only one."""
    return list(network.members) if isinstance(network, Ensemble) else [network]


class Ensemble(nn.Module):
    """Averages the predicted probabilities, and the features, of several networks."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the mean probabilities, (n, n_classes), and mean features, (n, d)."""
        logits, features = zip(*(member(X) for member in self.members), strict=True)
        log_probabilities = torch.stack(logits).log_softmax(dim=2)
        mean = log_probabilities.logsumexp(dim=0) - torch.tensor(len(logits)).log()
        return mean, torch.stack(features).mean(dim=0)
