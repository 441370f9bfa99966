"""Arrays of any library as NumPy arrays, scores, and names of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

ROUNDING = 1e-6  # of scores that were added up in single precision


def as_numpy(values: Any) -> Any:
    """Convert an array of another library, on any device, to NumPy; return others unchanged.

    A lazy frame is refused.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, np.ma.MaskedArray):
        return _unmasked(values)
    if hasattr(type(values), "collect"):  # not a column of this name
        raise ValueError(f"A {type(values).__name__} has no values yet: pass its collect().")
    if hasattr(values, "__array_namespace__") and not isinstance(values, np.ndarray):
        return np.asarray(values)
    return values


def _unmasked(values: Any) -> np.ndarray:
    """Array with nan where a number is masked, and None where another entry is."""
    mask = np.ma.getmaskarray(values)
    if not mask.any():
        return values.data
    unmasked = values.data.astype(values.dtype if values.dtype.kind == "f" else object)
    unmasked[mask] = np.nan if values.dtype.kind == "f" else None
    return unmasked


def check_vector(values: Any, name: str) -> np.ndarray:
    """Convert values to shape (n,); a column of shape (n, 1) is accepted."""
    array = np.asarray(as_numpy(values))
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"{name} must have one entry per row, shape (n_samples,), got "
            + (f"an array of shape {array.shape}." if array.ndim else f"{values!r}.")
        )
    return array


def check_numbers(values: Any, name: str) -> np.ndarray:
    """Convert values to float64."""
    try:
        return np.asarray(as_numpy(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}.") from error


def check_scores(scores: Any, name: str) -> np.ndarray:
    """Convert noise scores to float64 of shape (n,); nan marks rows without a label.

    What rounding has moved out of [0, 1], as in means of probabilities, is moved back.
    """
    numbers = check_numbers(check_vector(scores, name), name)
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        raise ValueError(f"{name} must have at least one entry that is not nan, got {numbers}.")
    outside = known[(known < -ROUNDING) | (known > 1 + ROUNDING)]
    if len(outside):
        raise ValueError(
            f"{name} must be in [0, 1], or nan where there is no label, got {outside[0]:g}. If p "
            "is the probability of the given label, pass 1 - p: higher means more likely wrong."
        )
    return numbers.clip(0, 1)


def check_same_length(**arrays: np.ndarray) -> None:
    """Check that all arguments, passed by name, have the same number of rows."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"Found inconsistent numbers of samples: {found}.")


def row_names(*tables: Any) -> tuple[np.ndarray | None, list[Any] | None]:
    """Index of the first table that has one of its own, shape (n,), and the names of its levels.

    Both are None for plain positions.
    """
    for table in tables:
        index = _index(table)
        if index is not None:
            names = np.asarray(index)
            levels = list(map(_plain_name, getattr(index, "names", [None])))
            if levels != [None] or not np.array_equal(names, np.arange(len(names))):
                return names, levels
    return None, None


def _index(table: Any) -> Any:
    """Index of a frame or series; a list has a method of that name."""
    index = getattr(table, "index", None)
    return None if callable(index) else index


def check_order(table: Any, names: np.ndarray | None, name: str) -> None:
    """Check that the index of a table is not the names of the rows in another order."""
    index = _index(table)
    if names is None or index is None:
        return
    found, expected = (list(map(repr, values.tolist())) for values in (np.asarray(index), names))
    if found != expected and Counter(found) == Counter(expected):
        raise ValueError(
            f"{name} has the row names of the labels in another order: reorder its rows, or pass "
            f"{name}.set_axis(issues.row_names) if only its index differs."
        )


def join_row_names(parts: Sequence[np.ndarray | None], lengths: Sequence[int]) -> np.ndarray | None:
    """Names of the rows of several tables, one after the other; None for plain positions."""
    if all(names is None for names in parts):
        return None
    known = [np.arange(n) if one is None else one for one, n in zip(parts, lengths, strict=True)]
    if len({names.dtype.kind for names in known}) > 1:  # such as dates and numbers
        known = [np.fromiter(names, object, len(names)) for names in known]
    return np.concatenate(known)


def plain_names(names: np.ndarray) -> np.ndarray:
    """Row names of Python and NumPy; other objects, such as dates with a time zone, as text."""
    return names if names.dtype != object else np.fromiter(map(_plain_name, names), object)


def _plain_name(name: Any) -> Any:
    if isinstance(name, tuple):
        return tuple(map(_plain_name, name))
    name = name.item() if isinstance(name, np.generic) else name
    return name if name is None or type(name) in (str, int, float, bool) else str(name)
