"""Builds the nets of a fit and the callbacks that train them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from skorch.callbacks import Callback, GradientNormClipping, LRScheduler, PassthroughScoring
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_clidmu._settings import MAX_GRADIENT_NORM, Schedule, Settings
from sklearn_clidmu.clid.objective import make_objective
from sklearn_clidmu.clid.weight_nets import VRI, EvidenceNet, WNet
from sklearn_clidmu.training.callbacks import (
    CollapseDetector,
    EarlyStopping,
    LossRecorder,
    Monitor,
    ParameterAverage,
)
from sklearn_clidmu.training.data import SampleHistory, ShuffledBatches, Table, TrainingData
from sklearn_clidmu.training.meta_step import BatchMetaStep, BlockMetaStep, MetaStep
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.networks import build_network, feature_width

Callbacks = list[tuple[str, Callback]]


def build_net(
    settings: Settings, n_epochs: int, data: TrainingData, label_precision: Tensor | None
) -> ReweightedNet:
    """Build the skorch net of a stage, initialized, without callbacks."""
    device = data.training.X.device
    network = partial(
        build_network,
        module=settings.module,
        hidden_layer_sizes=settings.hidden_layer_sizes,
        dropout=settings.dropout_of(len(data.training)),
        one_mask=settings.one_batch,
        row_shape=tuple(data.training.X.shape[1:]),
        n_classes=data.n_classes,
        dtype=data.training.X.dtype,
        scaler=data.scaler if settings.module is None else None,
    )
    return ReweightedNet(
        network,
        weight_net=weight_net_builder(settings.weighting, network.keywords, label_precision),
        averaged=True,
        lr=settings.lr,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        optimizer__nesterov=True,
        optimizer__weight_decay=settings.decay_of(len(data.training)),
        optimizer__fused=device.type in ("cpu", "cuda"),
        max_epochs=n_epochs,
        batch_size=settings.batch_size,
        iterator_train=ShuffledBatches,
        device=device,
    ).initialize()


def weight_net_builder(
    weighting: str | None, arguments: dict[str, Any], label_precision: Tensor | None = None
) -> partial[nn.Module] | None:
    """Make what builds the weighting net of a network built with these arguments, if it has one."""
    if weighting is None:
        return None
    return partial(
        build_weight_net,
        weighting=weighting,
        arguments=arguments,
        label_precision=label_precision,
    )


def build_weight_net(
    network: nn.Module, weighting: str, arguments: dict[str, Any], label_precision: Tensor | None
) -> nn.Module:
    """Build the weighting net for a network that was built with these arguments."""
    weight_net: nn.Module
    n_classes, dtype = arguments["n_classes"], arguments["dtype"]
    if weighting == "evidence":
        if label_precision is None:
            label_precision = torch.full((n_classes,), 0.5)
        weight_net = EvidenceNet(label_precision)
    elif weighting == "wnet":
        weight_net = WNet()
    else:
        width = feature_width(network, arguments["row_shape"], dtype)
        weight_net = VRI(width, n_classes)
    return weight_net.to(dtype)


def build_meta_step(
    settings: Settings, weight_net: nn.Module, table: Table, history: SampleHistory, n_warmup: int
) -> MetaStep:
    """Build the callback that trains the weighting net."""
    kind: Any = BatchMetaStep
    if isinstance(weight_net, EvidenceNet):
        kind = partial(BlockMetaStep, n_batches=settings.n_meta_step_batches)
    return kind(
        weight_net,
        table,
        history,
        make_objective(settings.meta_objective, settings.temperature),
        virtual_step=settings.virtual_step,
        n_warmup=n_warmup,
        meta_batch_size=settings.meta_batch_size,
        lr=settings.meta_lr,
    )


def step_callbacks(n_steps: int | None) -> Callbacks:
    """Clipping, learning rate and moving average of a training; a constant rate for None."""
    callbacks: Callbacks = [("clipping", GradientNormClipping(MAX_GRADIENT_NORM))]
    if n_steps is not None:
        cosine = LRScheduler(CosineAnnealingLR, T_max=n_steps, step_every="batch", event_name=None)
        callbacks.append(("schedule", cosine))
    return [*callbacks, ("average", ParameterAverage())]


def build_callbacks(
    settings: Settings,
    schedule: Schedule,
    data: TrainingData,
    history: SampleHistory,
    meta_step: Any,
) -> Callbacks:
    """Build the callbacks of a stage; of one batch they are called in this order."""
    table = data.training
    callbacks: Callbacks = [("losses", LossRecorder(history))]
    if meta_step is not None:
        callbacks.append(("meta_step", meta_step))
    evidence = settings.weighting == "evidence"
    callbacks += [
        *step_callbacks(schedule.n_steps),
        ("train_loss", PassthroughScoring("train_loss", on_train=True)),
        ("monitor", Monitor(table, settings.temperature, history, data.held_out)),
        ("collapse", CollapseDetector(meta_step, history, evidence)),
    ]
    if data.held_out is not None:
        callbacks.append(("early_stopping", EarlyStopping()))
    return callbacks
