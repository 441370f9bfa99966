"""From constructor parameters to numbers, and the constants that were chosen by evidence.

A constant stands here with the evidence for its value where it was measured; cells are pairs of a
real data set and a kind of label noise, as in docs/benchmarks.md. Bounds of memory, time and
rounding stay with the code that they protect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from sklearn.utils._param_validation import Hidden, Interval, MissingValues, StrOptions

# Length of training

N_EPOCHS = 24
"""Epochs of a stage. 20 and 30 are as accurate (56 cells: within 0.3 points)."""

BATCH_ROWS = (64, 256)
"""Fewest and most rows of a batch, a sixteenth of the training set. Batches of 256 rows take half
the time of batches of 64, with the same accuracy."""

EPOCH_STEPS = 8
"""Fewest steps of an epoch. With ten, 200 rows are trained on half as long again, and 0.5 points
worse where 20 % of their labels are wrong (standard error 0.2; 0.1 where all are right)."""

WARMUP_STEPS = {"evidence": 0, "vri": 80, "wnet": 200}
"""Steps of plain training before the first meta step. The evidence net knows beforehand which
labels to trust. WNet reads the loss alone and collapses on the classes learned first unless all of
them have been."""

LR, LR_ROWS = 0.05, 64
"""Initial learning rate of SGD with Nesterov momentum 0.9, for a batch of so many rows. It grows
with the batch, up to four times as much."""

MAX_GRADIENT_NORM = 3.0
"""Longer gradients are shortened. Unclipped, a learning rate of 0.2 now and then throws the network
back: 0.78 instead of 0.97 on one seed of ring. Clipped at 1, it learns too slowly under pair-flip
noise: 0.84 instead of 0.91 on digits."""

EMA_DECAY = 0.99
"""Largest decay of the moving average of the parameters that predicts, reached after 891 steps.
Before, the average spans about the last tenth of the steps."""

# Regularization

L2_PENALTIES = (6, 30, 150, 750, 3_750, 18_000)
"""Candidates of the weight decay times the number of rows: of the penalty of the loss added up over
the rows, which need not change with their number. The noise, which no count of rows and features
tells, decides. Candidates that do not depend on the number of rows are 2 points worse for 300 rows
of which 40 % are wrong (47 sets, standard error 0.7), and 1 point for 7,000 to 38,000 rows (6 sets,
standard error 0.6). The last is worth 6 to 9 points on some sets at 40 %."""

STABLE_DECAY = 1.2
"""Most that learning rate times chosen weight decay is; with momentum 0.9 training is unstable
above 1.36."""

WEIGHT_DECAY = 0.0075
"""Weight decay where it is not chosen."""

DROPOUT, DROPOUT_ROWS = 0.15, 4_000
"""Dropout of trainings on up to so many rows. On more it falls as one over their number, like the
weight decay: hard functions of many rows are learned too slowly otherwise. On 7,000 to 38,000 rows,
0.03 is better by 0.6 points without weighting and by 0.4 with it, at any noise rate (13 sets,
standard error 0.4 to 0.5; 6 points on krkopt, and equal on easy sets)."""

SHORT_EPOCHS = 0.33
"""Share of a stage's epochs that networks which predict held-out rows are trained for. The accuracy
of the weight decay they choose is 0.6 points below the best in hindsight, and no nearer to it after
all epochs (40 cells, stages of 30 epochs). Longer, they have learned more wrong labels."""

CHOICE_ROWS, CHOICE_HELD_OUT = 5_000, 0.2
"""Most rows on which weight decays are tried, and the share of them that is held out to compare
them, with noisy labels."""

# Embedding of continuous features

FREQUENCY, N_PERIODS, N_OUTPUTS = 0.3, 16, 3
"""Standard deviation of the initial frequencies, in periods a unit; periodic functions and outputs
of a feature."""

# Meta step

META_LR = {"evidence": 3e-4, "vri": 1e-3, "wnet": 3e-4}
"""Learning rates of the weighting nets' Adam. Faster, VRI and WNet lose classes. The published 1e-5
with plain gradient descent barely moves them."""

META_BATCH_ROWS = (32, 64)
"""Fewest and most rows of a meta batch. CLID compares rows, so few tell little, and its graphs are
square: 64 rows of a batch of 256 are 0.1 points better than all (standard error 0.1)."""

META_STEP_ROWS = 512
"""Rows of the batches of one meta step of the evidence net. Joining saves a fifth of the time on
small batches; accuracy is the same."""

COLLAPSE_EPOCHS = 3
"""Epochs in a row of poor CLID that make a collapse; single ones are noise."""

PATIENCE = 5
"""Epochs without a better validation score after which early stopping ends a stage."""

# Label noise before training

N_FREQUENCIES = 256
"""Random frequencies of the kernel. Four times as many find wrong labels no better (AUROC within
0.01)."""

GAMMAS = (0.1, 0.3, 1.0, 3.0)
"""Candidates of the kernel's gamma, in units of one over the total variance of the features: that
is scikit-learn's gamma="scale", for centered features."""

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-4, 5))
"""Candidates of the ridge penalty, in rows."""

ANCHORS = 0.2
"""Share of the rows predicted to be of a class, the surest, that show its noise."""

PRIOR_ROWS = 10
"""Pseudo-count: so many rows with the noise of all classes together are added to each class."""

POWERS, POWERS_ENTRIES = (0.5, 2.0, 8.0), 100_000
"""Starts of the search for the powers of the sources, and entries of a source that it reads: rows
times classes. They are a handful of numbers."""

# Rows without a label

N_SPREADINGS = 2
"""Times that rows without a label get a pseudo-label and all rows are trained on. The second uses a
network that has learned from all rows."""

N_NEIGHBORS, SPREAD = 10, 0.8
"""Nearest rows in label spreading, and the share of a row's probabilities that comes from them.
With a larger share, large classes flow over small ones."""

PARAMETER_CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "dropout": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
    "module": [callable, None],
    "weighting": [StrOptions({"evidence", "wnet", "vri"}), None],
    "meta_objective": [StrOptions({"clid", "mae"}), callable],
    "virtual_step": [StrOptions({"head", "full"})],
    # Cosines of single precision are no better than 1e-7.
    "temperature": [Interval(Real, 1e-6, None, closed="left")],
    "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "warmup_epochs": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "meta_batch_size": [Interval(Integral, 2, None, closed="left"), None],
    "lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
    "meta_lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
    "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    "n_folds": [Interval(Integral, 2, None, closed="left"), None],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "class_weight": [StrOptions({"balanced"}), dict, None],
    "warm_start": ["boolean"],
    "missing_label": [Real, str, None, Hidden(MissingValues())],  # for pandas.NA alone
    "unlabeled": [StrOptions({"consistency", "ignore"})],
    "device": [str, torch.device],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}
"""What each constructor parameter may be; checked in ``fit``."""


class Schedule(NamedTuple):
    """Length of one stage."""

    n_epochs: int
    n_warmup: int
    """Epochs before the first meta step; without weighting there is none."""
    n_steps: int | None
    """Optimizer steps over which the learning rate falls to zero; None keeps it constant."""


@dataclass(frozen=True)
class Settings:
    """What training reads: the constructor's parameters with every "auto" made a number."""

    hidden_layer_sizes: tuple[int, ...]
    dropout: float | None
    """None where it follows from the number of rows."""
    module: Any
    weighting: str | None
    meta_objective: Any
    virtual_step: str
    temperature: float
    batch_size: int
    meta_batch_size: int | None
    """Rows drawn for a meta batch; None takes rows of the training batch."""
    n_meta_step_batches: int
    """Batches of one meta step of the evidence net."""
    lr: float
    meta_lr: float
    weight_decay: float | None
    """None where it follows from the L2 penalty."""
    l2_penalty: float | None
    """Weight decay times the number of rows that are trained on; None until it is chosen."""
    n_folds: int
    """Folds of the networks that predict each label without it; 0 for none."""
    n_spreadings: int
    labeled: Schedule
    """Of a stage on the rows that came with a label."""
    spread: Schedule
    """Of a stage on all rows, those with a pseudo-label too."""
    one_batch: bool
    """Whether the training set fits in one batch, where a row of weight s counts as s rows."""
    dtype: torch.dtype
    """Of the rows and the network, unless a feature needs float64."""
    verbose: int

    def dropout_of(self, n_rows: int) -> float:
        """Dropout of a training on so many rows."""
        if self.dropout is None:
            return DROPOUT * min(DROPOUT_ROWS / n_rows, 1)
        return self.dropout

    def decay_of(self, n_rows: int) -> float | None:
        """Weight decay of a training on so many rows."""
        if self.l2_penalty is None:
            return self.weight_decay
        least = L2_PENALTIES[0] / n_rows  # at which a learning rate that is far too high diverges
        return min(self.l2_penalty / n_rows, max(STABLE_DECAY / self.lr, least))

    @property
    def is_part(self) -> bool:
        """Whether this is a call of ``partial_fit``, whose learning rate is constant."""
        return self.labeled.n_steps is None

    @property
    def judges_labels(self) -> bool:
        """Whether each label is compared with what is predicted without it."""
        return self.weighting == "evidence" or self.n_spreadings > 0

    @property
    def n_trainings(self) -> int:
        """Stages of the fit at most."""
        return 1 + self.n_spreadings


def resolve(
    params: Mapping[str, Any],
    *,
    n_labeled: int,
    n_unlabeled: int,
    n_epochs_before: int | None = None,
    n_steps_before: int = 0,
) -> Settings:
    """Make a number of every "auto" among the constructor's parameters, which are validated.

    ``n_labeled`` rows with a label are trained on, and ``n_unlabeled`` will get a pseudo-label.
    ``n_epochs_before`` and ``n_steps_before`` are those of earlier calls of ``partial_fit``, which
    trains for one epoch; the first is None in ``fit``.
    """
    weighting, batch_size = params["weighting"], params["batch_size"]
    if isinstance(batch_size, str):
        batch_size = min(max(n_labeled // 16, BATCH_ROWS[0]), BATCH_ROWS[1])
    batch_size = int(batch_size)
    one_batch, is_part = n_labeled <= batch_size, n_epochs_before is not None
    if n_epochs_before is None:
        labeled = _schedule(params, n_labeled, batch_size)
        spread = _schedule(params, n_labeled + n_unlabeled, batch_size)
    else:
        labeled = spread = _epoch_schedule(params, n_epochs_before, n_steps_before)
    weight_decay = params["weight_decay"]
    if isinstance(weight_decay, str):
        is_fixed = one_batch or is_part or params["early_stopping"]
        weight_decay = WEIGHT_DECAY if is_fixed else None
    has_folds = weighting == "evidence" and not (one_batch or is_part)
    meta_batch_size = params["meta_batch_size"]
    if meta_batch_size is None and batch_size < META_BATCH_ROWS[0]:
        meta_batch_size = META_BATCH_ROWS[0]
    # Where each batch needs a pass through the network, there is nothing to join.
    is_joined = weighting == "evidence" and params["virtual_step"] == "head" and not one_batch
    is_joined = is_joined and params["module"] is None and meta_batch_size is None
    n_joined = max(META_STEP_ROWS // batch_size, 1) if is_joined else 1
    dropout = params["dropout"]
    if isinstance(dropout, str):
        dropout = DROPOUT if is_part else None  # the number of all rows is unknown
    kept = ("module", "weighting", "meta_objective", "virtual_step", "temperature")
    return Settings(
        **{name: params[name] for name in (*kept, "verbose")},
        hidden_layer_sizes=layer_sizes(params["hidden_layer_sizes"]),
        dropout=dropout,
        batch_size=batch_size,
        meta_batch_size=meta_batch_size,
        n_meta_step_batches=n_joined,
        lr=_number(params["lr"], LR * min(max(batch_size / LR_ROWS, 1), 4)),
        # Adam does not see that gradients of joined batches are sums.
        meta_lr=n_joined * _number(params["meta_lr"], META_LR.get(weighting, 0.0)),
        weight_decay=weight_decay,
        l2_penalty=None,
        n_folds=min(params["n_folds"] or 0, n_labeled) if has_folds else 0,
        n_spreadings=N_SPREADINGS if n_unlabeled else 0,
        labeled=labeled,
        spread=spread,
        one_batch=one_batch,
        dtype=torch.float64 if one_batch else torch.float32,
    )


def layer_sizes(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """Widths of the hidden layers; one integer stands for one layer."""
    one = isinstance(hidden_layer_sizes, Integral)
    sizes = [hidden_layer_sizes] if one else list(hidden_layer_sizes)
    if not sizes or not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes must be one or more positive integers, got {hidden_layer_sizes!r}."
        )
    return tuple(int(size) for size in sizes)


def steps_per_epoch(n_rows: int, batch_size: int) -> tuple[int, int]:
    """Count the batches, and the passes over them, of one epoch.

    An epoch passes over the data until it has taken :data:`EPOCH_STEPS`, so that the number of
    epochs means as much training for forty rows as for forty thousand.
    """
    n_batches = math.ceil(n_rows / batch_size)
    return n_batches, math.ceil(EPOCH_STEPS / n_batches)


def _number(value: Any, auto: float) -> float:
    return auto if isinstance(value, str) else float(value)


def _schedule(params: Mapping[str, Any], n_rows: int, batch_size: int) -> Schedule:
    """Schedule of a stage on so many rows."""
    n_steps = math.prod(steps_per_epoch(n_rows, batch_size))
    weighting, n_epochs, n_warmup = (
        params[name] for name in ("weighting", "max_epochs", "warmup_epochs")
    )
    if n_epochs == "auto":
        n_epochs = N_EPOCHS
    if n_warmup == "auto":
        n_warmup = min(math.ceil(WARMUP_STEPS.get(weighting, 0) / n_steps), n_epochs // 3)
    elif weighting is not None and n_warmup >= n_epochs:
        raise ValueError(
            f"warmup_epochs={n_warmup} leaves no epoch for the meta step: make it smaller than "
            f"max_epochs={n_epochs}, or set weighting=None."
        )
    return Schedule(n_epochs, n_warmup, n_epochs * n_steps)


def _epoch_schedule(params: Mapping[str, Any], n_epochs: int, n_steps: int) -> Schedule:
    """Schedule of one call of ``partial_fit`` after so many epochs and steps."""
    n_warmup = params["warmup_epochs"]
    if n_warmup == "auto":
        warm = n_steps >= WARMUP_STEPS.get(params["weighting"], 0)
    else:
        warm = n_epochs >= n_warmup
    return Schedule(1, 0 if warm else 1, None)
