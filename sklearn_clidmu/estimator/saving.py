"""Fitted classifiers in files that hold numbers and text but no code."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Set
from itertools import pairwise
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_clidmu.estimator.encoding import decode, encode

if TYPE_CHECKING:
    from sklearn_clidmu.estimator.classifier import CLIDMUClassifier

    Classifier = TypeVar("Classifier", bound=CLIDMUClassifier)

FORMAT = 1
"""Layout of saved files; raised when an older version could not read them."""

ENTRY = "sklearn_clidmu"
"""Metadata entry of a saved file that holds everything but the arrays."""

DIGEST = "sha256"
"""Array of a saved file that holds the digest of all the rest."""

REQUESTS = "_metadata_request"
"""Attribute in which scikit-learn keeps what meta-estimators should pass on; not saved."""


def save_model(clf: CLIDMUClassifier, path: str | PathLike[str]) -> None:
    """Write a fitted classifier to a file; see :meth:`CLIDMUClassifier.save`."""
    safetensors = import_optional("safetensors.numpy", extra="save")
    from sklearn_clidmu import __version__

    check_is_fitted(clf, "net_")
    state = {name: value for name, value in clf.__getstate__().items() if name != REQUESTS}
    described = {**state["net_"], "network": {**state["net_"]["network"], "module": None}}
    own_module = state["net_"]["network"]["module"] is not None
    state = {**state, "net_": described, "module": None}
    arrays: dict[str, np.ndarray] = {}
    entries = {name: encode(value, arrays, name) for name, value in state.items()}
    header = {"format": FORMAT, "version": __version__, "own_module": own_module}
    text = json.dumps({**header, "state": entries})
    arrays[DIGEST] = _digest(text, arrays)
    Path(path).write_bytes(safetensors.save(arrays, metadata={ENTRY: text}))


def load_model(
    cls: type[Classifier], path: str | PathLike[str], module: Callable | None = None
) -> Classifier:
    """Read a classifier from a file; see :meth:`CLIDMUClassifier.load`."""
    safetensors = import_optional("safetensors", extra="save")
    if Path(path).is_dir():  # of which safetensors would say "no such device"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        text, arrays = _read(safetensors, path)
        clf = cls()
        params = clf.get_params(deep=False).keys()
        state = _state(clf, params, text, arrays, module)
        clf.set_params(**{name: state[name] for name in params & state.keys()})
        clf._validate_params()
        clf.__setstate__(state)
    except OSError:
        raise
    except Exception as error:  # whatever a file made to do harm brings about
        reason = str(error)
        if not isinstance(error, ValueError):
            reason = f"its content does not fit ({type(error).__name__}: {error})."
        raise ValueError(f"{path} cannot be loaded as a {cls.__name__}: {reason}") from error
    return clf


def import_optional(name: str, extra: str) -> ModuleType:
    """Import a module of a package that not everybody has.

    Raises
    ------
    ImportError
        If it is missing; the message says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"This needs {package}: pip install 'sklearn-clidmu[{extra}]'."
        ) from error


def _digest(text: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """SHA-256 of the text and of the arrays with their names, types and shapes, 32 bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays.keys() - {DIGEST}):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _read(safetensors: ModuleType, path: str | PathLike[str]) -> tuple[str, dict[str, np.ndarray]]:
    """Text and arrays of a saved file, after a look at its digest."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(ENTRY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is cut short, damaged or another kind of file ({error}).") from error
    if text is None:
        raise ValueError("it is a safetensors file, but was not written by save.")
    digest = arrays.pop(DIGEST, None)
    if digest is None or not np.array_equal(digest, _digest(text, arrays)):
        raise ValueError("it has changed since it was written: its digest is another one.")
    return text, arrays


def _state(
    clf: CLIDMUClassifier,
    params: Set[str],
    text: str,
    arrays: dict[str, np.ndarray],
    module: Callable | None,
) -> dict[str, Any]:
    """State of the saved classifier, of which nothing is believed."""
    document = json.loads(text)
    if document["format"] != FORMAT:
        raise ValueError(
            f"it has format {document['format']!r}, written by sklearn-clidmu "
            f"{document['version']}, and this version reads format {FORMAT}: use that version."
        )
    if document["own_module"] and module is None:
        raise ValueError("it holds the parameters of a module of your own: load(path, module=...).")
    if module is not None and not document["own_module"]:
        raise ValueError("it was saved without a module of your own: load(path).")
    try:
        state = {name: decode(entry, arrays) for name, entry in document["state"].items()}
    except ValueError as error:  # such as "not enough values to unpack", which says too little
        raise TypeError(str(error)) from error
    strange = {k for k in state.keys() - params if k.startswith("__") or hasattr(type(clf), k)}
    strange |= state.keys() & {REQUESTS}
    if strange:
        raise ValueError(f"it has entries that are no fitted attributes: {sorted(strange)}.")
    state["module"] = state["net_"]["network"]["module"] = module
    _check_fitted(state)
    return state


def _check_fitted(state: dict[str, Any]) -> None:
    """Check that what predicts fits together, before anything is built by it."""
    description, classes = state["net_"], state["classes_"]
    network = description["network"]
    row_shape, n_classes = network["row_shape"], network["n_classes"]
    if not isinstance(row_shape, tuple) or not row_shape or state["_row_shape"] != row_shape:
        raise ValueError("_row_shape is not the shape of the network's input.")
    if len(row_shape) > 1 and network["module"] is None:
        raise ValueError("rows of more than one dimension need a module of your own.")
    if type(state["_unit"]) is not float or not 0 < state["_unit"] < np.inf:
        raise ValueError("_unit is not a positive number.")
    n_features = row_shape[0]
    widths = [*row_shape, *network["hidden_layer_sizes"], n_classes]
    if any(type(width) is not int or width < 1 for width in widths):
        raise ValueError(f"it has layers of widths {widths}.")
    if type(state["n_features_in_"]) is not int or state["n_features_in_"] != n_features:
        raise ValueError("n_features_in_ is not the width of the network's input.")
    if not isinstance(classes, np.ndarray) or classes.shape != (n_classes,) or n_classes < 2:
        raise ValueError("classes_ are not as many as the network's outputs.")
    names = state.get("feature_names_in_")
    if names is not None and (
        not isinstance(names, np.ndarray)
        or names.shape != (n_features,)
        or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError("feature_names_in_ are not the names of the network's inputs.")
    if not isinstance(state["device_"], str):
        raise ValueError("device_ is not the name of a device.")
    for arrays in [*description["members"], description["weight_net"]]:
        if not all(np.isfinite(value).all() for value in arrays.values()):
            raise ValueError("it has parameters that are not finite.")
    if network["module"] is None:
        claimed = sum((width + 1) * following for width, following in pairwise(widths))
        if any(
            sum(v.size for v in arrays.values()) != claimed for arrays in description["members"]
        ):
            raise ValueError("its arrays are not those of the network that it describes.")
