"""Fitted classifiers as ONNX graphs, for predictions without Python or torch."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_clidmu.estimator.classifier import CLIDMUClassifier
from sklearn_clidmu.estimator.saving import import_optional
from sklearn_clidmu.mathematics.backbone import MLP, members

OPSET = 17
"""The first with LayerNormalization."""

IR_VERSION = 8
"""File format of that opset; what is written by default, older runtimes do not read."""


def export_onnx(clf: CLIDMUClassifier, path: str | PathLike[str]) -> None:
    """Write the predictor of a fitted classifier as an ONNX graph.

    The input ``X`` has shape (n_samples, n_features) and the network's own floating-point type:
    float32, and float64 where the training set fitted in one batch (``dtype`` sets it). The
    outputs are ``label``, of shape (n_samples,), and ``probabilities``, of shape (n_samples,
    n_classes). What stands before the classifier in a pipeline is not part of the graph.

    Parameters
    ----------
    clf : CLIDMUClassifier
        Fitted, with a network of this package's own.
    path : str or path-like
        An existing file is overwritten.

    Raises
    ------
    TypeError
        If it is no CLIDMUClassifier.
    ValueError
        If the network is a ``module`` of the caller's own, or if the classes are neither
        numbers, nor booleans, nor strings.
    ImportError
        If the package onnx is missing.
    """
    if not isinstance(clf, CLIDMUClassifier):
        raise TypeError(
            f"export_onnx needs a CLIDMUClassifier, got {type(clf).__name__}: of a pipeline, pass "
            "the last step, pipeline[-1]; the steps before it are not part of the graph."
        )
    onnx = import_optional("onnx", extra="onnx")
    check_is_fitted(clf, "net_")
    networks: list[Any] = members(clf.net_.module_)
    if not all(isinstance(network, MLP) for network in networks):
        raise ValueError(
            "export_onnx writes this package's own network, got a classifier with a module of its "
            "own: use torch.onnx.export on clf.net_.module_, whose outputs are logits and features."
        )
    graph = _Graph(onnx)
    each = [graph.probabilities(network, f"{i}.", clf._unit) for i, network in enumerate(networks)]
    share = graph.constant("share", np.array(1 / len(each), dtype=graph.dtype))
    graph.add("Sum", each, "total")  # not Mean, which runtimes lack in double precision
    graph.add("Mul", ["total", share], "probabilities")
    graph.add("ArgMax", ["probabilities"], "best", axis=1, keepdims=0)
    classes = graph.constant("classes", _exportable(clf.classes_))
    graph.add("Gather", [classes, "best"], "label")
    model = graph.model(clf.n_features_in_, len(clf.classes_))
    Path(path).write_bytes(model.SerializeToString())


class _Graph:
    """A graph under construction."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add an array; its name."""
        self.constants[name] = self.onnx.numpy_helper.from_array(values, name)
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one output; its name."""
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def probabilities(self, network: MLP, prefix: str, unit: float) -> str:
        """Add a network for rows in that unit, down to its probabilities; their name."""
        hidden = "X"
        for i, layer in enumerate([*network.body, network.head]):
            name = f"{prefix}{i}"
            if isinstance(layer, nn.Linear):
                hidden = self._linear(layer, hidden, name, unit if i == 0 else 1.0)
            elif isinstance(layer, nn.LayerNorm):
                scale = np.ones(layer.normalized_shape, dtype=self.dtype)
                inputs = [hidden, self.constant(f"{name}.scale", scale)]
                hidden = self.add("LayerNormalization", inputs, name, axis=-1, epsilon=layer.eps)
            elif isinstance(layer, nn.ReLU):
                hidden = self.add("Relu", [hidden], name)
            # What remains is dropout.
        return self.add("Softmax", [hidden], f"{prefix}probabilities", axis=1)

    def _linear(self, layer: nn.Linear, hidden: str, name: str, unit: float) -> str:
        weight, bias = (p.detach().cpu().numpy() for p in (layer.weight, layer.bias))
        self.dtype = weight.dtype
        weight = (weight / unit).astype(self.dtype)
        names = self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)
        return self.add("Gemm", [hidden, *names], name, transB=1)

    def model(self, n_features: int, n_classes: int) -> Any:
        """Close the graph."""
        helper = self.onnx.helper
        number = helper.np_dtype_to_tensor_dtype(self.dtype)
        label = self.constants["classes"].data_type
        graph = helper.make_graph(
            self.nodes,
            "CLIDMUClassifier",
            [helper.make_tensor_value_info("X", number, ["n_samples", n_features])],
            [
                helper.make_tensor_value_info("label", label, ["n_samples"]),
                helper.make_tensor_value_info("probabilities", number, ["n_samples", n_classes]),
            ],
            list(self.constants.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        self.onnx.checker.check_model(model, full_check=True)
        return model


def _exportable(classes: np.ndarray) -> np.ndarray:
    """Return the classes in a type that ONNX has: strings are of type object there."""
    if classes.dtype.kind in "OU" and all(isinstance(name, str) for name in classes):
        return classes.astype(object)
    if classes.dtype.kind in "biuf":
        return classes
    raise ValueError(f"classes_ must be numbers, booleans or strings, got {classes!r}.")
