"""What each constructor parameter of the classifier may be; checked at fit."""

from __future__ import annotations

from numbers import Integral, Real
from os import PathLike
from typing import Any

from sklearn.utils._param_validation import Hidden, Interval, MissingValues, StrOptions

PARAMETER_CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "module": [callable, None],
    "weighting": [StrOptions({"evidence", "wnet", "vri"}), None],
    "meta_objective": [StrOptions({"clid", "mae", "small_loss"}), callable],
    "virtual_step": [StrOptions({"head", "full"})],
    # Cosines of single precision are no better than 1e-7.
    "temperature": [Interval(Real, 1e-6, None, closed="left")],
    "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "warmup_epochs": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "meta_batch_size": [Interval(Integral, 2, None, closed="left"), None],
    "meta_interval": [Interval(Integral, 1, None, closed="left")],
    "lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
    "meta_lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
    "optimizer": [StrOptions({"sgd", "adamw"})],
    "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    "ema_decay": [Interval(Real, 0, 1, closed="left"), None],
    "refit": ["boolean"],
    "n_snapshots": [Interval(Integral, 1, None, closed="left"), None],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "class_weight": [StrOptions({"balanced"}), dict, None],
    "warm_start": ["boolean"],
    "missing_label": [Real, str, None, Hidden(MissingValues())],  # for pandas.NA alone
    "unlabeled": [StrOptions({"consistency", "meta", "ignore"})],
    "device": [str],
    "dtype": [StrOptions({"auto", "float32", "float64"})],
    "random_state": ["random_state"],
    "checkpoint_dir": [str, PathLike, None],
    "on_interrupt": [StrOptions({"raise", "keep"})],
    "verbose": ["verbose"],
}


def layer_sizes(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """Widths of the hidden layers; one integer stands for one layer.

    Raises
    ------
    ValueError
        Unless there is at least one layer, and every width is a positive integer.
    """
    one = isinstance(hidden_layer_sizes, Integral)
    sizes = [hidden_layer_sizes] if one else list(hidden_layer_sizes)
    if not sizes or not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes must be one or more positive integers, got {hidden_layer_sizes!r}."
        )
    return tuple(int(size) for size in sizes)
