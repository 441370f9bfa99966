"""A checkpoint as bytes that are nothing but numbers and text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_clidmu.estimator.encoding import decode, encode

MAGIC = b"sklearn-clidmu checkpoint 1\n"
"""First bytes. Then come the SHA-256 of all that follows, the length of a JSON text as eight bytes,
the text, and the arrays that it names, one after the other."""

START = len(MAGIC) + hashlib.sha256().digest_size


def dump(state: dict[str, Any]) -> bytes:
    """Bytes of a state.

    Parameters
    ----------
    state : dict
        Of None, bool, int, float, str and tensors, in dicts, lists and tuples.
    """
    arrays: dict[str, np.ndarray] = {}
    plain = _map_leaves(state, Tensor, lambda tensor: tensor.detach().cpu().numpy())
    tree = encode(plain, arrays, "state")
    table = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({"state": tree, "arrays": table}).encode()
    blocks = [len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in arrays.values())]
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return b"".join([MAGIC, digest.digest(), *blocks])


def load(content: bytes) -> dict[str, Any]:
    """State from its bytes, of which none is executed.

    Raises
    ------
    ValueError
        If they are not those of a whole checkpoint.
    """
    body = memoryview(content)[START:]
    digest = hashlib.sha256(body).digest()
    if not content.startswith(MAGIC) or digest != content[len(MAGIC) : START]:
        raise ValueError("it is cut short, has changed, or is no checkpoint.")
    try:
        return _parse(body)
    except Exception as error:  # whatever a file made to do harm brings about
        raise ValueError(f"its content does not fit ({type(error).__name__}: {error}).") from error


def _parse(body: memoryview) -> dict[str, Any]:
    end = 8 + int.from_bytes(body[:8], "little")
    document = json.loads(bytes(body[8:end]))
    arrays: dict[str, np.ndarray] = {}
    for name, dtype, shape in document["arrays"]:
        kind = np.dtype(dtype)
        if kind.kind not in "biuf":
            raise ValueError(f"{name} is of type {dtype}.")
        n_entries = int(np.prod(shape, dtype=object))
        if n_entries < 0:
            raise ValueError(f"{name} is of shape {shape}.")
        arrays[name] = np.frombuffer(body, kind, n_entries, end).reshape(shape)
        end += arrays[name].nbytes
    # Copied: the memory of the file is read-only.
    return _map_leaves(decode(document["state"], arrays), np.ndarray, torch.tensor)


def _map_leaves(tree: Any, kind: type, change: Any) -> Any:
    """Change all leaves of a type in dicts, lists and tuples."""
    if isinstance(tree, dict):
        return {key: _map_leaves(value, kind, change) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map_leaves(value, kind, change) for value in tree)
    return change(tree) if isinstance(tree, kind) else tree
