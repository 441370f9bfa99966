"""A pass through the package's own network, and back, by hand.

The network has all its parameters in linear layers, so that autograd knows nothing about it that is
not written down here in a few lines; and without autograd a small batch takes a fifth less time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sklearn_clidmu.mathematics.backbone import MLP
from sklearn_clidmu.mathematics.products import affine, product

aten = torch.ops.aten


class TracedPass:
    """A pass of a batch, with all that its backward passes need; none of it has a gradient.

    Parameters
    ----------
    network : MLP
        In the mode that it is in.
    X : Tensor of shape (n, n_features)

    Attributes
    ----------
    layers : list of nn.Linear
        First to last.
    inputs : list of Tensor
        Of those layers.
    logits : Tensor of shape (n, n_classes)
    """

    @torch.no_grad()
    def __init__(self, network: MLP, X: Tensor) -> None:
        self.layers: list[nn.Linear] = []
        self.inputs = [X]
        self.normalisations: list[tuple[Tensor, Sequence[int], Tensor, Tensor, Tensor]] = []
        for linear, norm, _, dropout in network.blocks():
            output = affine(self.inputs[-1], linear.weight, linear.bias)
            kept, scale = dropout.draw(output)
            # The units that are kept are scaled here; with a weight, it takes half the time, too.
            shape = norm.normalized_shape
            gain = output.new_full(shape, scale)
            units, mean, rstd = torch.native_layer_norm(output, shape, gain, None, norm.eps)
            units.relu_()
            if kept is not None:
                units.mul_(kept)
            self.layers.append(linear)
            self.normalisations.append((output, shape, mean, rstd, gain))
            self.inputs.append(units)
        self.layers.append(network.head)
        self.logits = affine(self.features, network.head.weight, network.head.bias)

    @property
    def features(self) -> Tensor:
        """Last hidden features, shape (n, d)."""
        return self.inputs[-1]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters of all layers, in the order of :meth:`gradient`."""
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    @torch.no_grad()
    def errors(self, by_logits: Tensor) -> list[Tensor]:
        """Gradients by the outputs of all layers, first to last, from that by the logits.

        Of the first rows alone, where that is given for no more.
        """
        found, n = [by_logits], len(by_logits)
        hidden = zip(self.layers[1:], self.inputs[1:], self.normalisations, strict=True)
        for above, units, (output, shape, mean, rstd, gain) in reversed(list(hidden)):
            by_units = product(found[-1], above.weight)
            # A unit is above zero if it was both active and kept.
            by_norm = aten.threshold_backward.default(by_units, units[:n], 0)
            by_output, _, _ = aten.native_layer_norm_backward.default(
                by_norm, output[:n], shape, mean[:n], rstd[:n], gain, None, [True, False, False]
            )
            found.append(by_output)
        return found[::-1]

    def gradient(self, errors: Sequence[Tensor]) -> list[Tensor]:
        """Gradients by the parameters, from those by the layers' outputs."""
        found = []
        for X, by_output in zip(self.inputs, errors, strict=True):
            found += [product(by_output.T, X[: len(by_output)]), by_output.sum(dim=0)]
        return found

    def set_gradient(self, errors: Sequence[Tensor]) -> None:
        """Set the parameters' ``grad`` to :meth:`gradient`."""
        for parameter, found in zip(self.parameters, self.gradient(errors), strict=True):
            parameter.grad = found

    def backward(self, by_logits: Tensor) -> None:
        """Set the parameters' ``grad``, from the gradient by the logits.

        That may be given for the first rows alone, where the others have none.
        """
        self.set_gradient(self.errors(by_logits))
