"""Arguments as they come, brought to NumPy; what cannot be is refused by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_numpy(values: Any) -> Any:
    """Array of another library as one of NumPy, from whatever device; anything else as it is."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if hasattr(values, "__array_namespace__") and not isinstance(values, np.ndarray):
        return np.asarray(values)
    return values


def check_vector(values: Any, name: str) -> np.ndarray:
    """Values as an array of shape (n,), also of a column of shape (n, 1).

    Raises
    ------
    ValueError
        If they have another shape.
    """
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
    """Values as an array of float64.

    Raises
    ------
    ValueError
        If one of them is no number.
    """
    try:
        return np.asarray(as_numpy(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}.") from error


def check_scores(scores: Any, name: str) -> np.ndarray:
    """Noise scores as an array of shape (n,), float64; nan for rows without a label.

    Raises
    ------
    ValueError
        If they are not in [0, 1], or if there are none.
    """
    numbers = check_numbers(check_vector(scores, name), name)
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        raise ValueError(f"{name} must tell of at least one row, and not nan alone, got {numbers}.")
    if known.min() < 0 or known.max() > 1:
        outside = known[(known < 0) | (known > 1)][0]
        raise ValueError(
            f"{name} must be in [0, 1], or nan where there is no label, got {outside:g}. Of the "
            "probability p of a given label, pass 1 - p: higher means more likely wrong."
        )
    return numbers


def check_same_length(**arrays: np.ndarray) -> None:
    """Compare how many rows arguments have, passed by their names.

    Raises
    ------
    ValueError
        If one has more or fewer than another.
    """
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"There are inconsistent numbers of samples: {found}.")
