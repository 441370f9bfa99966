"""Plain Python values and NumPy arrays as JSON beside named arrays of numbers, and back.

JSON keeps None, bool, int, float, str and list as they are. Everything else is an object of one
entry that says what it is: {"tuple": [...]}, {"dict": [[key, value], ...]}, {"array": name},
{"scalar": name}, {"text": name} and {"objects": [...]}.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np


def encode(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """Value as JSON can hold it; its numbers in bulk are added to ``arrays``.

    Parameters
    ----------
    value : object
        None, bool, int, float, str, a path, which becomes a str, a NumPy scalar, an array of
        numbers, strings or (of one dimension) of any of these, or a list, tuple or dict of all
        that.
    arrays : dict of ndarray
        Receives arrays of numbers or booleans, under names that begin with ``name``.
    name : str
        What the value is called, in ``arrays`` and in errors.

    Raises
    ------
    ValueError
        If there is something else in it; the message says where.
    """
    if isinstance(value, np.generic) and _is_number(value.dtype):
        return {"scalar": _put(np.asarray(value), arrays, name)}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, PathLike)):
        return str(value)  # np.str_ is one
    if isinstance(value, list):
        return _encode_all(value, arrays, name)
    if isinstance(value, tuple) and type(value) is tuple:
        return {"tuple": _encode_all(value, arrays, name)}
    if isinstance(value, dict):
        keys = _encode_all(value, arrays, f"{name}.keys")
        values = [encode(entry, arrays, f"{name}.{key}") for key, entry in value.items()]
        return {"dict": [list(pair) for pair in zip(keys, values, strict=True)]}
    if isinstance(value, np.ndarray):
        if _is_number(value.dtype):
            return {"array": _put(value, arrays, name)}
        if value.dtype.kind == "U":
            width = value.dtype.itemsize // 4
            codes = value.astype(value.dtype.newbyteorder("<")).reshape(-1).view("<u4")
            return {"text": _put(codes.reshape(*value.shape, width), arrays, name)}
        if value.dtype.kind == "O" and value.ndim == 1:
            return {"objects": _encode_all(value, arrays, name)}
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else repr(value)
    raise ValueError(
        f"{name} cannot be saved, being {kind}: only numbers, strings and containers and arrays of "
        "them can. Use pickle, or put another value in its place."
    )


def decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Invert :func:`encode`.

    Raises
    ------
    ValueError, TypeError, KeyError
        If the value was not made by it. Nothing is allocated that is larger than what is given.
    """
    if isinstance(value, list):
        return [decode(entry, arrays) for entry in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    return _DECODERS[kind](content, arrays)


def _is_number(dtype: np.dtype) -> bool:
    return dtype.kind in "biuf" and dtype.itemsize <= 8  # no long doubles


def _encode_all(values: Any, arrays: dict[str, np.ndarray], name: str) -> list:
    return [encode(entry, arrays, f"{name}.{i}") for i, entry in enumerate(values)]


def _put(array: np.ndarray, arrays: dict[str, np.ndarray], name: str) -> str:
    while name in arrays:  # such as those of the keys 1 and "1" of a dict
        name += "_"
    little = array.dtype.newbyteorder("<")
    arrays[name] = np.asarray(array, dtype=little, order="C")
    return name


def _text(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    codes = np.ascontiguousarray(arrays[name], dtype="<u4")
    text = codes.reshape(-1).view(f"<U{codes.shape[-1]}").reshape(codes.shape[:-1])
    text.tolist()  # fails if a code is no character
    return text


def _objects(content: list, arrays: dict[str, np.ndarray]) -> np.ndarray:
    objects = np.empty(len(content), dtype=object)
    for i, entry in enumerate(content):
        objects[i] = decode(entry, arrays)
    return objects


_DECODERS: dict[str, Callable[[Any, dict[str, np.ndarray]], Any]] = {
    "tuple": lambda content, arrays: tuple(decode(content, arrays)),
    "dict": lambda content, arrays: {decode(k, arrays): decode(v, arrays) for k, v in content},
    "array": lambda name, arrays: arrays[name],
    "scalar": lambda name, arrays: arrays[name][()],
    "text": _text,
    "objects": _objects,
}
