"""What is drawn: parameters by the table of their constraints, and small data of every kind."""

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse
from sklearn.utils._param_validation import Hidden, Interval, StrOptions, make_constraint
from torch import nn

from sklearn_clidmu._settings import PARAMETER_CONSTRAINTS

LARGEST = {
    "hidden_layer_sizes": 5,
    "max_epochs": 3,
    "warmup_epochs": 2,
    "n_folds": 3,
    "verbose": 2,
}
"""Bounds of integers on which the time of a fit depends; 40 for the others."""

# Parameters


def linear(n_features, n_classes):
    return nn.Linear(n_features, n_classes)


def total(features, logits, targets, sample_weight):
    return (sample_weight * logits.square().sum(dim=1)).sum()


NAMED: dict[Any, st.SearchStrategy] = {
    None: st.none(),
    "boolean": st.booleans(),
    "random_state": st.integers(0, 2**32 - 1) | st.builds(np.random.RandomState, st.just(0)),
    "verbose": st.integers(0, 2) | st.booleans(),
    "array-like": st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dict: st.dictionaries(st.integers(0, 3), st.floats(0, 5), max_size=4),
}

BY_PARAMETER = {
    "module": st.just(linear) | st.none(),
    "meta_objective": st.just(total) | st.sampled_from(["clid", "mae"]),
    "device": st.just("cpu"),
    "missing_label": st.none() | st.just(-1) | st.just(float("nan")) | st.just("?"),
}
"""Where a constraint says too little: callables and names of devices."""


def interval(constraint, name):
    """Numbers inside an interval, its ends among them."""
    low, high = constraint.left, constraint.right
    if constraint.type is Integral:
        return st.integers(low, LARGEST.get(name, 40) if high is None else high)
    return st.floats(
        low,
        high,
        exclude_min=constraint.closed in ("right", "neither"),
        exclude_max=high is not None and constraint.closed in ("left", "neither"),
        allow_infinity=False,
        allow_nan=False,
    )


def valid(name):
    """Values that the table allows for a parameter."""
    if name in BY_PARAMETER:
        return BY_PARAMETER[name]
    drawn = []
    for constraint in PARAMETER_CONSTRAINTS[name]:
        if isinstance(constraint, Interval):
            drawn.append(interval(constraint, name))
        elif isinstance(constraint, StrOptions):
            drawn.append(st.sampled_from(sorted(constraint.options)))
        elif not isinstance(constraint, Hidden):
            drawn.append(NAMED[constraint])
    return st.one_of(drawn)


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers(-5, 50)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=2)
    | st.complex_numbers()
    | st.lists(st.integers(-2, 3), max_size=2)
    | st.dictionaries(st.integers(), st.none(), max_size=1)
    | st.builds(object)
)


def invalid(name):
    """Values that the table forbids."""
    constraints = [make_constraint(c) for c in PARAMETER_CONSTRAINTS[name]]
    return ANYTHING.filter(lambda value: not any(c.is_satisfied_by(value) for c in constraints))


@st.composite
def parameters(draw):
    """Some valid values; what is not drawn keeps a default that makes the fit a short one."""
    names = draw(st.sets(st.sampled_from(sorted(PARAMETER_CONSTRAINTS)), max_size=8))
    quick = {"hidden_layer_sizes": (4,), "max_epochs": 2, "random_state": 0, "device": "cpu"}
    return {**quick, **{name: draw(valid(name)) for name in sorted(names)}}


# Data


class Data(NamedTuple):
    X: Any
    y: Any
    sample_weight: Any
    missing_label: Any
    classes: list


KINDS = {
    "array": np.asarray,
    "column by column": np.asfortranarray,
    "list": np.ndarray.tolist,
    "sparse": lambda X: sparse.csr_array(X.astype(float) if X.dtype == np.float16 else X),
    "frame": lambda X: pd.DataFrame(X).add_prefix("column "),
}
TYPES = [np.float64, np.float32, np.float16, np.int64, np.uint8, bool]
NAMES = {
    "integers": [0, 1, 2, 3],
    "negative": [-7, -3, 5, 2**40],
    "floats": [-0.0, 1.0, 2.0, 3.0],
    "strings": ["b", "a", "", "\N{SNOWMAN}"],
    "booleans": [False, True],
    "objects": np.array(["yes", "no", "perhaps", "never"], dtype=object).tolist(),
}


@st.composite
def data(draw):
    """Rows, labels and weights, as a user might have them; a few are unfit."""
    rng = np.random.RandomState(draw(st.integers(0, 2**31)))
    n, width = draw(st.integers(1, 3) | st.integers(4, 24)), draw(st.integers(1, 4))
    X = rng.normal(size=(n, width)) * draw(st.sampled_from([1, 1, 1, 0, 1e-8, 1e3, 1e25]))
    X = X * (rng.random_sample((n, width)) > 0.3)
    with np.errstate(all="ignore"):
        X = X.astype(draw(st.sampled_from(TYPES)))
    names = draw(st.sampled_from(sorted(NAMES)))
    classes = NAMES[names][: draw(st.integers(2, len(NAMES[names])))]
    codes = rng.randint(len(classes), size=n)
    dtype = object if names == "objects" else None
    y = np.array(classes, dtype=dtype)[codes]
    missing_label = draw(st.sampled_from([None, None, None, "one of them", "another"]))
    if missing_label is not None:
        stands = {"strings": "?", "objects": None}.get(names, -1)
        missing_label = float("nan") if stands is None else stands
        without = rng.random_sample(n) < 0.4
        y = y.astype(object if stands is None else np.result_type(y, np.array(stands)))
        y[without] = stands
    if draw(st.booleans()):
        y = y.tolist()
    weight = None
    if draw(st.booleans()):
        weight = rng.choice([0.0, 0.5, 1.0, 2.0, 1e9], size=n)
    kind = draw(st.sampled_from(sorted(KINDS)))
    return Data(KINDS[kind](X), y, weight, missing_label, classes)
