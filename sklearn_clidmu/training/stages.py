"""The stages of a fit, and what is read out of the one that predicts.

A stage is one training. With the evidence net a second stage starts from the label confidence of
the first, as prior log odds. Where rows have no label, further stages train on all rows, those
without a label under pseudo-labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch.callbacks import Callback, GradientNormClipping, LRScheduler, PassthroughScoring
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu._settings import (
    CHOICE_EPOCHS,
    CHOICE_HELD_OUT,
    CHOICE_ROWS,
    MAX_GRADIENT_NORM,
    WEIGHT_DECAYS,
    Schedule,
    Settings,
    steps_per_epoch,
)
from sklearn_clidmu.clid.objective import make_objective
from sklearn_clidmu.clid.weight_nets import VRI, EvidenceNet, WNet
from sklearn_clidmu.clid.weighted import class_means, weighted_mean
from sklearn_clidmu.noise.label_spreading import spread_labels
from sklearn_clidmu.noise.loo_kernel_ridge import dense_rows, loo_margin
from sklearn_clidmu.noise.transition_matrix import (
    LABEL_PRECISION_BOUNDS,
    NoiseEstimate,
    estimate_label_noise,
)
from sklearn_clidmu.training.callbacks import (
    CollapseDetector,
    EarlyStopping,
    LossRecorder,
    Monitor,
    ParameterAverage,
    progress,
)
from sklearn_clidmu.training.data import (
    SampleHistory,
    ShuffledBatches,
    SparseRows,
    Table,
    TrainingData,
    hold_out,
)
from sklearn_clidmu.training.meta_step import BatchMetaStep, BlockMetaStep, MetaStep, make_rows
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.networks import build_network, feature_width

CONFIDENCE_BOUNDS = (1e-4, 1 - 1e-4)
"""The prior log odds of the next stage are finite."""

CHUNK = 8192
"""Rows whose features are in memory at a time in the final pass."""

N_SAMPLED = 500
"""Rows whose evidence is kept, to show what the weighting net makes of it."""

Callbacks = list[tuple[str, Callback]]

CURVES = ("train_loss", "meta_loss", "clid", "disagreement", "valid_loss", "valid_score")
"""Entries of a net's history that are passed on."""


class Prior(NamedTuple):
    """What the leave-one-out kernel regression says of the labels before training."""

    X: Tensor
    """Dense rows, shape (n, d)."""
    scaler: RobustScaler
    """Scales rows for the regression."""
    proba: Tensor
    """Probability of each given label at each row, without the row's own, (n, n_classes)."""
    noise: NoiseEstimate


@dataclass(eq=False)
class Stage:
    """One training."""

    net: ReweightedNet
    data: TrainingData
    history: SampleHistory

    @property
    def outcome(self) -> str:
        """How the stage ended: "finished", "collapsed" or "diverged"."""
        if self.net.diverged_:
            return "diverged"
        return "finished" if self.net.collapse_epoch_ is None else "collapsed"


class Readings(NamedTuple):
    """What the final pass reads out of a stage for every row, each of shape (n,)."""

    confidence: Tensor
    """In the row's label, in [0, 1] and not zero for all rows."""
    predicted: Tensor
    """Most probable class, int64."""
    noise_scores: Tensor
    """One minus the geometric mean, over the epochs, of the given label's probability."""


def run_stages(
    settings: Settings, data: TrainingData, start: ReweightedNet | None
) -> tuple[list[Stage], int, Prior | None]:
    """Train, stage by stage; the last sound stage predicts.

    The first stage starts from the parameters of ``start``, the net of an earlier fit. Returns the
    stages, the position of the one that predicts, and what was known of the given labels, which is
    None without evidence weighting.
    """
    stages: list[Stage] = []
    predicting, log_odds, schedule = 0, None, settings.labeled
    given = prior = estimate_prior(data, settings)
    chosen = None
    if settings.weight_decay is None:
        chosen = choose_weight_decay(settings, data)
        settings = replace(settings, weight_decay=chosen)
    n_labeled = len(data.training)
    with progress(settings.verbose, settings.n_trainings) as watchers:
        for number in range(settings.n_trainings):
            if number >= settings.n_stages:
                if prior is None or stages[predicting].outcome != "finished":
                    break
                data, prior = pseudo_label(data, prior, stages[predicting].net)
                schedule, log_odds = settings.spread, None
                if chosen is not None:  # the more rows, the less of it each needs
                    share = n_labeled / len(data.training)
                    settings = replace(settings, weight_decay=chosen * share)
            stage = prepare_stage(settings, schedule, data, prior, log_odds, watchers)
            if start is not None and not stages:
                start_from(stage.net, start)
            stage.net.partial_fit(data.training)
            stage.net.callbacks = stage.net.callbacks_ = []  # with what they keep of every row
            stage.net.meta_step = None
            stages.append(stage)
            if stage.outcome == "finished" or stages[predicting].outcome != "finished":
                predicting = number
            if stage.outcome == "finished" and number + 1 < settings.n_stages:
                confidence = read_rows(stage).confidence
                log_odds = -confidence.clamp(*CONFIDENCE_BOUNDS).logit()
    return stages, predicting, given if settings.weighting == "evidence" else None


def estimate_prior(data: TrainingData, settings: Settings) -> Prior | None:
    """Compare each label with all other rows, before any training, if the fit needs it."""
    if settings.weighting != "evidence" and not settings.n_spreadings:
        return None
    labels, X = data.table.labels, data.table.X
    if isinstance(X, SparseRows):
        dense = torch.from_numpy(dense_rows(X.matrix, torch.initial_seed() % 2**32))
        X = dense.to(X.device, X.dtype)
    weight = trained_weight(data)
    X = X.flatten(start_dim=1)
    scaler = data.scaler
    if scaler is None:
        scaler = RobustScaler.fit(X, data.table.sample_weight).to(X.dtype)
    proba, noise = estimate_label_noise(
        X, labels.targets, data.n_classes, weight, settings.one_batch, scaler
    )
    return Prior(X, scaler, proba, noise)


def choose_weight_decay(settings: Settings, data: TrainingData) -> float:
    """Weight decay of least Brier score on held-out rows, which keep their noisy labels.

    From the middle of the candidates, up or else down as long as the score falls. The Brier score
    is bounded, so that a few wrong labels that are predicted with certainty do not decide.
    """
    table, seed = data.training, torch.initial_seed()
    codes, random_state = table.targets.cpu().numpy(), seed % 2**32
    drawn = np.random.RandomState(random_state).permutation(len(codes))[:CHOICE_ROWS]
    held_out = hold_out(codes, drawn, CHOICE_HELD_OUT, random_state)
    kept = np.setdiff1d(drawn, held_out)
    valid, train = (table.take(torch.from_numpy(r).to(table.X.device)) for r in (held_out, kept))
    data = data._replace(training=train, held_out=None)

    @cache
    def score(number: int) -> float:
        torch.manual_seed(seed)
        return _brier_score(replace(settings, weight_decay=WEIGHT_DECAYS[number]), data, valid)

    number, last = len(WEIGHT_DECAYS) // 2, len(WEIGHT_DECAYS) - 1
    step = 1 if score(number + 1) < score(number) else -1
    while 0 <= number + step <= last and score(number + step) < score(number):
        number += step
    torch.manual_seed(seed)
    return WEIGHT_DECAYS[number]


def _brier_score(settings: Settings, data: TrainingData, valid: Table) -> float:
    """Brier score of a network trained without reweighting, for a part of a stage's epochs."""
    n_epochs = max(round(CHOICE_EPOCHS * settings.labeled.n_epochs), 1)
    n_steps = n_epochs * math.prod(steps_per_epoch(len(data.training), settings.batch_size))
    net = build_net(replace(settings, weighting=None), n_epochs, data, None)
    net.callbacks = step_callbacks(n_steps)
    net.initialize_callbacks().partial_fit(data.training)
    logits, _ = net.evaluate(valid.X)
    true = nn.functional.one_hot(valid.labels.targets, data.n_classes)
    score = weighted_mean((logits.softmax(1) - true).square().sum(1), valid.sample_weight)
    return float(score.nan_to_num(torch.inf))


def step_callbacks(n_steps: int | None) -> Callbacks:
    """Clipping, learning rate and moving average of a training; a constant rate for None."""
    callbacks: Callbacks = [("clipping", GradientNormClipping(MAX_GRADIENT_NORM))]
    if n_steps is not None:
        cosine = LRScheduler(CosineAnnealingLR, T_max=n_steps, step_every="batch", event_name=None)
        callbacks.append(("schedule", cosine))
    return [*callbacks, ("average", ParameterAverage())]


def trained_weight(data: TrainingData) -> Tensor:
    """Sample weights of all rows, 0 for those that are not trained on, shape (n,)."""
    labels = data.training.labels
    weight = torch.zeros_like(data.table.sample_weight)
    return weight.index_copy(0, labels.rows, labels.sample_weight)


def prepare_stage(
    settings: Settings,
    schedule: Schedule,
    data: TrainingData,
    prior: Prior | None,
    log_odds: Tensor | None,
    watchers: Callbacks,
) -> Stage:
    """Build the net of a stage, initialized, and the callbacks that will train it.

    A stage that starts from prior log odds has no warm-up.
    """
    weight = trained_weight(data)
    margin = torch.zeros_like(weight)
    if prior is not None:
        margin = loo_margin(prior.proba, data.table.labels.targets).to(weight)
    history = SampleHistory(weight, data.n_classes, margin, log_odds)
    net = build_net(settings, schedule.n_epochs, data, prior)
    if log_odds is not None:
        schedule = schedule._replace(n_warmup=0)
    # Without a warm-up to compare with, the first epochs may predict a single class.
    n_predicted = 1 if log_odds is not None or schedule.n_steps is None else 2
    if settings.weighting is not None:
        net.meta_step = build_meta_step(
            settings, net.weight_net_, data.training, history, schedule.n_warmup
        )
    net.callbacks = build_callbacks(settings, schedule, data, history, net.meta_step, n_predicted)
    net.callbacks += watchers
    net.initialize_callbacks()
    return Stage(net, data, history)


def build_net(
    settings: Settings, n_epochs: int, data: TrainingData, prior: Prior | None
) -> ReweightedNet:
    """Build the skorch net of a stage, initialized, without callbacks."""
    device = data.training.X.device
    network = partial(
        build_network,
        module=settings.module,
        hidden_layer_sizes=settings.hidden_layer_sizes,
        dropout=settings.dropout,
        one_mask=settings.one_batch,
        row_shape=tuple(data.training.X.shape[1:]),
        n_classes=data.n_classes,
        dtype=settings.dtype,
        scaler=data.scaler if settings.module is None else None,
    )
    weight_net = None
    if settings.weighting is not None:
        weight_net = partial(
            build_weight_net,
            weighting=settings.weighting,
            arguments=network.keywords,
            label_precision=None if prior is None else prior.noise.label_precision,
        )
    return ReweightedNet(
        network,
        weight_net=weight_net,
        averaged=True,
        lr=settings.lr,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        optimizer__nesterov=True,
        optimizer__weight_decay=settings.weight_decay,
        optimizer__fused=device.type in ("cpu", "cuda"),
        max_epochs=n_epochs,
        batch_size=settings.batch_size,
        iterator_train=ShuffledBatches,
        train_split=None,
        predict_nonlinearity=partial(torch.softmax, dim=-1),
        device=device,
        verbose=0,
    ).initialize()


def build_callbacks(
    settings: Settings,
    schedule: Schedule,
    data: TrainingData,
    history: SampleHistory,
    meta_step: Any,
    n_predicted: int,
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
        ("collapse", CollapseDetector(meta_step, history, n_predicted, evidence)),
    ]
    if data.held_out is not None:
        callbacks.append(("early_stopping", EarlyStopping()))
    return callbacks


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


def start_from(net: ReweightedNet, start: ReweightedNet) -> None:
    """Give a net the parameters of a trained one, and of its weighting net if it is of a kind."""
    try:
        net.module_.load_state_dict(start.module_.state_dict())
    except RuntimeError as error:
        raise ValueError(
            "hidden_layer_sizes or module has changed since the last fit, whose network "
            "warm_start=True and partial_fit continue: set it back, or fit with warm_start=False."
        ) from error
    net.n_steps_ = start.n_steps_
    old, new = getattr(start, "weight_net_", None), getattr(net, "weight_net_", None)
    if old is not None and new is not None and type(old) is type(new):
        new.load_state_dict({**old.state_dict(), **dict(new.named_buffers())})


def pseudo_label(
    data: TrainingData, prior: Prior, net: ReweightedNet
) -> tuple[TrainingData, Prior]:
    """Give rows without a label one, and put them among the rows trained on.

    The mean of what kernel regression and network predict is spread over neighboring rows. Rows
    without a label get the class that is then the most probable, and their labels count as right
    with that probability.
    """
    rows, table = data.unlabeled, data.table
    proba = prior.proba.double().clamp_min(0)
    proba = proba / proba.sum(dim=1, keepdim=True)
    proba += torch.cat([logits.double().softmax(dim=1) for logits, _ in net.outputs(table.X)])
    X = prior.scaler(prior.X).cpu().numpy()
    spread = spread_labels(X, proba.cpu().numpy() / 2, torch.initial_seed() % 2**32)
    confidence, predicted = torch.from_numpy(spread[rows.cpu().numpy()]).to(prior.X).max(dim=1)
    labels = table.labels
    targets = labels.targets.index_copy(0, rows, predicted)
    right = prior.noise.label_precision[targets].index_copy(0, rows, confidence)
    precision = class_means(right, targets, data.n_classes, labels.sample_weight)
    noise = prior.noise._replace(label_precision=precision.clamp(*LABEL_PRECISION_BOUNDS))
    table = Table(table.X, targets, table.sample_weight)
    weight = trained_weight(data).index_copy(0, rows, table.sample_weight[rows])
    training = table.take(weight.nonzero().squeeze(1))
    return data._replace(table=table, training=training), prior._replace(noise=noise)


def read_rows(stage: Stage) -> Readings:
    """Read every row in one final pass; ValueError if the net's output for one is not finite.

    The evidence of up to :data:`N_SAMPLED` rows stays with the net, as ``evidence_sample_``.
    """
    net, data, history = stage.net, stage.data, stage.history
    weight_net = getattr(net, "weight_net_", None) if stage.outcome == "finished" else None
    labels, training = data.table.labels, data.training.labels
    _record_unseen(stage)
    evidence = history.evidence()
    sample = training.rows[:: -(-len(training.rows) // N_SAMPLED)]
    net.evidence_sample_ = evidence[sample].cpu().numpy(), labels.targets[sample].cpu().numpy()
    if isinstance(weight_net, EvidenceNet):
        weight_net.calibrate(evidence[training.rows], training.targets, training.sample_weight)
    confidence = torch.ones_like(history.sample_weight)
    predicted = torch.empty_like(labels.targets)
    for chunk in torch.arange(len(confidence), device=confidence.device).split(CHUNK):
        part = data.table.take(chunk)
        logits, features = net.evaluate(part.X)
        predicted[chunk] = class_probabilities(logits, net.module_).argmax(dim=1)
        if weight_net is not None:
            confidence[chunk] = _confidence(weight_net, logits, features, part, evidence[chunk])
    # Weights that are all zero, or have overflown, do not compare rows.
    if not (confidence.any() and confidence.isfinite().all()):
        confidence = torch.ones_like(confidence)
    return Readings(confidence, predicted, -torch.expm1(-history.mean_loss().double()))


@torch.no_grad()
def _confidence(
    weight_net: Any, logits: Tensor, features: Tensor, part: Table, evidence: Tensor
) -> Tensor:
    """Confidence in the labels of some rows, shape (n,)."""
    if isinstance(weight_net, EvidenceNet):
        return weight_net.weights(evidence, part.labels.targets)
    rows = make_rows(logits, features, part.labels)
    return weight_net.confidence(weight_net.weights(rows), rows)


def _record_unseen(stage: Stage) -> None:
    """Record the losses of rows that training never saw."""
    unseen = (stage.history.n_visits == 0).nonzero().squeeze(1)
    if len(unseen):
        rows = stage.data.table.take(unseen)
        logits, _ = stage.net.evaluate(rows.X)
        losses = nn.functional.cross_entropy(logits, rows.labels.targets, reduction="none")
        stage.history.record_losses(rows.labels, losses)


def class_probabilities(logits: Tensor, network: nn.Module) -> Tensor:
    """Probability of each class, float64; ValueError if one is not finite."""
    probabilities = logits.double().softmax(dim=1)
    if not probabilities.isfinite().all():
        fault = "X has rows too large for the network, whose output overflows"
        remedy = "scale the features, for example with sklearn.preprocessing.StandardScaler"
        name = getattr(network, "name", None)  # of a module of the caller's
        if name is not None:
            fault = f"module {name} returns numbers that are not finite for rows of X"
            remedy += ", or mend the module"
        raise ValueError(f"{fault}: {remedy}.")
    return probabilities


def training_curves(stages: list[Stage], predicting: int) -> dict[str, np.ndarray]:
    """Curves over the epochs of all stages, one after the other, each of shape (n_epochs,)."""
    epochs = [epoch for stage in stages for epoch in stage.net.history]
    curves = {
        name: np.array([epoch.get(name, np.nan) for epoch in epochs], dtype=float)
        for name in CURVES
        if any(name in epoch for epoch in epochs)
    }
    lengths = [len(stage.net.history) for stage in stages]
    curves["stage"] = np.repeat(np.arange(1, len(stages) + 1), lengths)
    curves["chosen"] = np.zeros(len(epochs), dtype=bool)
    net = stages[predicting].net
    if not net.diverged_:
        best = getattr(net, "best_epoch_", len(net.history))
        curves["chosen"][sum(lengths[:predicting]) + best - 1] = True
    return curves


def join_curves(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Curves of one fit after those of another, of which the second predicts."""
    n_first, n_second = len(first["stage"]), len(second["stage"])
    unknown = np.full(n_first, math.nan), np.full(n_second, math.nan)
    joined = {
        name: np.concatenate([first.get(name, unknown[0]), second.get(name, unknown[1])])
        for name in {**first, **second}
    }
    joined["stage"][n_first:] += first["stage"].max()
    joined["chosen"][:n_first] = False
    return joined


@contextmanager
def explained_memory_errors() -> Iterator[None]:
    """Turn a lack of memory on the device into an error that says what to set."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(
            f"Out of memory ({error}). Lower batch_size, meta_batch_size or hidden_layer_sizes, "
            "or set device='cpu'."
        ) from error
