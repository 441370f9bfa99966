"""From constructor parameters to the parts of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback, PassthroughScoring
from torch import Tensor, nn

from sklearn_clidmu.estimator.constraints import layer_sizes
from sklearn_clidmu.mathematics.backbone import MLP, FeatureTap
from sklearn_clidmu.mathematics.objectives import (
    CLID,
    MetaObjective,
    cross_entropy,
    mean_absolute_error,
)
from sklearn_clidmu.mathematics.weighting import (
    EvidenceWeightNet,
    LogitRectifier,
    LossWeightNet,
    WeightingNet,
)
from sklearn_clidmu.training.averaging import EarlyStopping, Snapshots, WeightAverage
from sklearn_clidmu.training.batches import ShuffledBatches, Table
from sklearn_clidmu.training.ledger import Ledger, LossRecord
from sklearn_clidmu.training.meta_step import MAX_META_ROWS, MetaStep
from sklearn_clidmu.training.monitor import CollapseGuard, Monitor
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.schedule import CosineDecay

TRAINING_STEPS = 900
"""Optimizer steps that a training takes by itself, within :data:`EPOCHS`."""

EPOCHS = (15, 30)
"""Fewest and most epochs that a training takes by itself."""

MIN_META_ROWS = 32
"""A training batch of fewer rows is too small to measure CLID on."""

WARMUP_STEPS = {"evidence": 80, "vri": 80, "wnet": 200}
"""Optimizer steps of plain training before the first meta step. WNet sees a row's loss alone
and collapses on the classes learned first unless all of them have been."""

WEIGHT_DECAY = 0.002
"""Weight decay per square root of the number of features, on many rows."""

WEIGHT_DECAY_ROWS = (200, 4000)
"""Rows between which weight decay falls as one over their number: as a prior, it counts as much as
so many rows. On fewer it rises no more, for nothing would be learned; on more it falls no further,
for then the end of training is what regularises."""

LEARNING_RATES = {"sgd": 0.05, "adamw": 0.002}

BLOCK_BATCHES, BLOCK_ROWS = 8, 1024
"""Most batches, and most rows, whose virtual steps are taken together: it saves time on small
batches, and nothing on large ones."""

META_LEARNING_RATES = {"evidence": 3e-3, "vri": 1e-3, "wnet": 3e-4}
"""The paper's nets lose classes when they learn faster: VRI at 3e-3 on some data, WNet on most."""


def build_network(
    module: Callable[[Any, int], nn.Module] | None,
    hidden_layer_sizes: tuple[int, ...],
    dropout: float,
    one_mask: bool,
    row_shape: tuple[int, ...],
    n_classes: int,
    dtype: torch.dtype,
) -> nn.Module:
    """Build the network: the caller's module, tapped for its features, or an MLP."""
    n_features = row_shape[0] if len(row_shape) == 1 else row_shape
    if module is None:
        network: nn.Module = MLP(row_shape[0], n_classes, hidden_layer_sizes, dropout, one_mask)
        return network.to(dtype)
    built = module(n_features, n_classes)
    if not isinstance(built, nn.Module):
        raise TypeError(
            "module must build a torch.nn.Module when called as module(n_features, n_classes), "
            f"got {built!r}."
        )
    name = type(built).__name__
    if not any(parameter.requires_grad for parameter in built.parameters()):
        raise ValueError(f"module {name} has no parameters to train: none requires a gradient.")
    network = FeatureTap(built, n_classes)
    try:
        network = network.to("cpu", dtype)  # wherever it was built; training moves it
        _feature_width(network, row_shape, dtype)  # an unfit module is found out here
    except RuntimeError as error:  # torch's own, which do not know whose the module is
        raise ValueError(
            f"module {name} cannot take a batch of shape {(2, *row_shape)} and type {dtype} on the "
            f"CPU: {error}"
        ) from error
    return network


def build_weight_net(
    network: nn.Module,
    weighting: str,
    row_shape: tuple[int, ...],
    n_classes: int,
    believed: Tensor | None,
    dtype: torch.dtype,
) -> WeightingNet:
    """Build the weighting net for a network."""
    weight_net: WeightingNet
    if weighting == "evidence":
        assert believed is not None
        weight_net = EvidenceWeightNet(believed)
    elif weighting == "wnet":
        weight_net = LossWeightNet()
    else:
        weight_net = LogitRectifier(_feature_width(network, row_shape, dtype), n_classes)
    return weight_net.to(dtype)


def _feature_width(network: nn.Module, row_shape: tuple[int, ...], dtype: torch.dtype) -> int:
    network.eval()
    with torch.no_grad():
        _, features = network(torch.zeros(2, *row_shape, dtype=dtype))
    return features.shape[1]


def build_objective(meta_objective: str | Callable, temperature: float) -> MetaObjective:
    """Build the meta objective from its name; a callable is taken as it is."""
    if not isinstance(meta_objective, str):
        return meta_objective
    named: dict[str, MetaObjective] = {
        "clid": CLID(temperature),
        "mae": mean_absolute_error,
        "small_loss": cross_entropy,
    }
    return named[meta_objective]


class Course(NamedTuple):
    """How long a training is."""

    n_epochs: int
    n_warmup: int | None
    """Epochs before the first meta step; None where there is none."""
    n_predicted: int
    """Classes that must be predicted from the start where there is no warm-up."""
    n_decay_steps: int | None
    """Optimizer steps over which the learning rate falls to zero; None where it stays."""
    n_rows: int | None
    """Rows that there are to learn from; None where that is not known, or must not matter."""


def build_callbacks(
    params: BaseEstimator,
    table: Table,
    meta_table: Table,
    ledger: Ledger,
    held_out: Table | None,
    course: Course,
    n_joined: int,
    watchers: list[tuple[str, Callback]],
) -> list[tuple[str, Callback]]:
    """Build the callbacks, in the order in which they act.

    Parameters
    ----------
    params : CLIDMUClassifier
        Read for its constructor parameters only, here and below.
    table, meta_table, held_out : Table
        Training set, the rows that meta batches are drawn from, which may be more, and, with
        early stopping, the rows kept from it.
    ledger : Ledger
    course : Course
    n_joined : int
        From :func:`count_joined`.
    watchers : list of (str, Callback)
        Those that follow the whole fit.
    """
    meta_step = None
    callbacks: list[tuple[str, Callback]] = [("losses", LossRecord(ledger))]
    if course.n_warmup is not None:
        meta_step = MetaStep(
            table,
            meta_table,
            ledger,
            build_objective(params.meta_objective, params.temperature),
            virtual_step=params.virtual_step,
            warmup_epochs=course.n_warmup,
            interval=params.meta_interval,
            batch_size=meta_batch_size(params, drawn=meta_table is not table),
            batches_per_step=n_joined,
        )
        callbacks.append(("meta_step", meta_step))
    if course.n_decay_steps is not None:
        callbacks.append(("schedule", CosineDecay(course.n_decay_steps)))
    if params.ema_decay is not None:
        callbacks.append(("average", WeightAverage()))
    callbacks.append(("train_loss", PassthroughScoring("train_loss", on_train=True)))
    callbacks.append(("monitor", Monitor(table, params.temperature, ledger, held_out)))
    callbacks.append(("guard", CollapseGuard(meta_step, ledger, course.n_predicted)))
    if params.n_snapshots is not None:
        callbacks.append(("snapshots", Snapshots(params.n_snapshots, "clid", True)))
    elif held_out is not None:
        callbacks.append(("snapshots", Snapshots(1, "valid_score", False)))
    callbacks += watchers
    if held_out is not None:
        callbacks.append(("early_stopping", EarlyStopping(params.n_iter_no_change)))
    return callbacks


def count_epochs(params: BaseEstimator, n_steps: int) -> int:
    """Epochs of a training; "auto" counts optimizer steps, within :data:`EPOCHS`."""
    if params.max_epochs == "auto":
        fewest, most = EPOCHS
        return min(max(math.ceil(TRAINING_STEPS / n_steps), fewest), most)
    return params.max_epochs


def meta_batch_size(params: BaseEstimator, drawn: bool) -> int | None:
    """Rows of a drawn meta batch; None where the training batch serves, as it does by itself.

    ``drawn`` says that there are other rows to draw, too.
    """
    if params.meta_batch_size is None and (drawn or params.batch_size < MIN_META_ROWS):
        return min(max(params.batch_size, MIN_META_ROWS), MAX_META_ROWS)
    return params.meta_batch_size


def count_joined(params: BaseEstimator, weighting: str | None, drawn: bool) -> int:
    """Batches whose virtual steps are taken together; one where these ask for more passes."""
    alone = weighting != "evidence" or params.virtual_step != "head" or params.module is not None
    if alone or meta_batch_size(params, drawn) is not None:
        return 1
    return min(max(BLOCK_ROWS // params.batch_size, 1), BLOCK_BATCHES)


def warmup_epochs(params: BaseEstimator, weighting: str, n_epochs: int, n_steps: int) -> int:
    """Epochs of plain training before the first meta step.

    "auto" counts optimizer steps (:data:`WARMUP_STEPS`), at most a third of all epochs.

    Raises
    ------
    ValueError
        If a given number leaves no epoch for the meta step.
    """
    if params.warmup_epochs == "auto":
        wanted = math.ceil(WARMUP_STEPS[weighting] / n_steps)
        return min(wanted, n_epochs // 3)
    if params.warmup_epochs >= n_epochs:
        raise ValueError(
            f"warmup_epochs={params.warmup_epochs} leaves no epoch for the meta step: make it "
            f"smaller than max_epochs={n_epochs}, or set weighting=None."
        )
    return params.warmup_epochs


def is_warm(params: BaseEstimator, weighting: str, n_epochs: int, n_steps: int) -> bool:
    """Whether warm-up is over after so many epochs and optimizer steps, one epoch at a time."""
    if params.warmup_epochs == "auto":
        return n_steps >= WARMUP_STEPS[weighting]
    return n_epochs >= params.warmup_epochs


def weight_decay(params: BaseEstimator, n_features: int, n_rows: int | None) -> float:
    """Weight decay of the network; "auto" grows with the features, and on few rows.

    That of a caller's module does not grow on few rows: where no layer is normalised, so much decay
    leaves little of it.
    """
    if params.weight_decay != "auto":
        return params.weight_decay
    fewest, most = WEIGHT_DECAY_ROWS
    if n_rows is None or params.module is not None:
        n_rows = most
    return WEIGHT_DECAY * math.sqrt(n_features) * most / min(max(n_rows, fewest), most)


def build_net(
    params: BaseEstimator,
    row_shape: tuple[int, ...],
    n_classes: int,
    *,
    weighting: str | None,
    course: Course,
    n_joined: int,
    believed: Tensor | None,
    one_mask: bool,
    dtype: torch.dtype,
    device: torch.device,
    callbacks: list[tuple[str, Callback]],
) -> ReweightedNet:
    """Build the skorch net, not yet initialized.

    ``believed`` is the share of right labels among those given to each class, for the weighting
    net that asks for it, and None for the others; ``n_joined`` is from :func:`count_joined`.
    """
    # By keyword, so that a saved model can name them.
    common: dict[str, Any] = {"row_shape": row_shape, "n_classes": n_classes, "dtype": dtype}
    network = partial(
        build_network,
        module=params.module,
        hidden_layer_sizes=layer_sizes(params.hidden_layer_sizes),
        dropout=params.dropout,
        one_mask=one_mask,
        **common,
    )
    fused = device.type in ("cpu", "cuda")  # one call for all parameters
    meta: dict[str, Any] = {}
    if weighting is not None:
        build = partial(build_weight_net, weighting=weighting, believed=believed, **common)
        lr = META_LEARNING_RATES[weighting] if params.meta_lr == "auto" else params.meta_lr
        # Steps along sums of gradients, which Adam does not see the scale of.
        lr *= n_joined
        meta = {"weight_net": build, "meta_optimizer__lr": lr, "meta_optimizer__fused": fused}
    optimizer: dict[str, Any] = {"optimizer": torch.optim.AdamW}
    if params.optimizer == "sgd":
        optimizer = {
            "optimizer": torch.optim.SGD,
            "optimizer__momentum": 0.9,
            "optimizer__nesterov": True,
        }
    return ReweightedNet(
        network,
        **meta,
        lr=LEARNING_RATES[params.optimizer] if params.lr == "auto" else params.lr,
        ema_decay=params.ema_decay,
        keep_interrupted=params.on_interrupt == "keep",
        optimizer__fused=fused,
        optimizer__weight_decay=weight_decay(params, math.prod(row_shape), course.n_rows),
        **optimizer,
        max_epochs=course.n_epochs,
        batch_size=params.batch_size,
        iterator_train=ShuffledBatches,
        train_split=None,
        callbacks=callbacks,
        predict_nonlinearity=partial(torch.softmax, dim=-1),
        device=device,
        verbose=0,
    )
