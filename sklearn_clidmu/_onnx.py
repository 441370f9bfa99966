"""Export of fitted classifiers to ONNX, for predictions without Python or torch."""

from __future__ import annotations

import importlib
import logging
import warnings
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_clidmu._classifier import CLIDMUClassifier
from sklearn_clidmu._torch_state import fresh_torch
from sklearn_clidmu.training.networks import MLP

OPSET = 18  # the lowest that torch's exporter writes; older runtimes do not read higher ones


class _Predictor(nn.Module):
    """Most probable class, by position, and probabilities of all classes."""

    units: Tensor

    def __init__(self, network: nn.Module, units: Any) -> None:
        super().__init__()
        self.network = deepcopy(network).cpu()
        dtype = next(self.network.parameters()).dtype
        self.register_buffer("units", torch.as_tensor(units, dtype=dtype))

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the most probable classes, shape (n,), and probabilities (n, n_classes)."""
        logits, _ = self.network(X / self.units)
        probabilities = logits.softmax(dim=1)
        return probabilities.argmax(dim=1), probabilities


@fresh_torch()
def export_onnx(clf: CLIDMUClassifier, path: str | PathLike[str]) -> None:
    """Write a fitted classifier as an ONNX graph.

    The input ``X`` has shape (n_samples, n_features) and the network's dtype: float64 if the
    training set fitted in one batch or has features that float32 would round by too much, else
    float32. The outputs are ``label``, shape (n_samples,), and ``probabilities``, shape
    (n_samples, n_classes). Other steps of a pipeline are left out.

    Parameters
    ----------
    clf : CLIDMUClassifier
        Fitted, without a ``module``.
    path : str or path-like
        An existing file is overwritten.

    Raises
    ------
    TypeError
        If it is not a CLIDMUClassifier.
    ValueError
        If it has a ``module``, classes that are neither numbers, booleans nor strings, or columns
        of a sparse table whose size leaves the network's dtype.
    ImportError
        If onnx or onnxscript is not installed, or torch is older than 2.5.
    """
    if not isinstance(clf, CLIDMUClassifier):
        raise TypeError(
            f"export_onnx needs a CLIDMUClassifier, got {type(clf).__name__}: of a pipeline, pass "
            "the last step, pipeline[-1]; the other steps are not part of the graph."
        )
    try:
        onnx, _ = map(importlib.import_module, ("onnx", "onnxscript"))
    except ImportError as error:
        raise ImportError(
            "export_onnx needs onnx and onnxscript: pip install 'sklearn-clidmu[onnx]'."
        ) from error
    if torch.__version__ < "2.5":  # compared as versions
        raise ImportError(
            f"export_onnx needs torch 2.5 or later, got {torch.__version__}: "
            "pip install --upgrade torch."
        )
    check_is_fitted(clf, "net_")
    if not isinstance(clf.net_.module_, MLP):
        raise ValueError(
            "export_onnx cannot export a module of your own: call torch.onnx.export on "
            "clf.net_.module_, whose outputs are logits and features."
        )
    classes = onnx.numpy_helper.from_array(_exportable(clf.classes_), "classes")
    predictor = _Predictor(clf.net_.module_, clf._units).eval()
    units = predictor.units
    if not (units.isfinite() & (1 / units).isfinite()).all():
        raise ValueError(
            f"export_onnx cannot export columns too large or small for {units.dtype}: scale them."
        )
    model = _export(predictor, clf.n_features_in_)
    graph, helper = model.graph, onnx.helper
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")  # which contains paths of this machine
    graph.initializer.append(classes)
    graph.node.append(helper.make_node("Gather", ["classes", "position"], ["label"]))
    label = helper.make_tensor_value_info("label", classes.data_type, ["n_samples"])
    graph.output[0].CopyFrom(label)
    onnx.checker.check_model(model, full_check=True)
    Path(path).write_bytes(model.SerializeToString())


def _export(predictor: _Predictor, n_features: int) -> Any:
    """Graph of the predictor, an ``onnx.ModelProto``."""
    rows = torch.zeros(2, n_features, dtype=next(predictor.parameters()).dtype)
    options: dict[str, Any] = {"opset_version": OPSET, "dynamo": True, "verbose": False}
    options |= {"input_names": ["X"], "output_names": ["position", "probabilities"]}
    options["dynamic_shapes"] = ({0: torch.export.Dim("n_samples")},)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, which the caller cannot act on
        logger.setLevel(logging.ERROR)
        try:
            program: Any = torch.onnx.export(predictor, (rows,), **options)
        finally:
            logger.setLevel(level)
    return program.model_proto


def _exportable(classes: np.ndarray) -> np.ndarray:
    """Classes in a dtype that ONNX supports: object for strings."""
    if classes.dtype.kind in "OU" and all(isinstance(name, str) for name in classes):
        return classes.astype(object)
    if classes.dtype.kind in "biuf" and classes.dtype.itemsize <= 8:
        return classes.astype(classes.dtype.newbyteorder("="))
    raise ValueError(
        f"classes_ must be numbers, booleans or strings that ONNX has a type for, got {classes!r}."
    )
