"""The stages of a fit, and what is read out of the one that predicts.

Before the first, evidence weighting compares each label with what cross-fitted networks and a
kernel regression predict without it. A stage is one training. Where rows have no label, further
stages train on all rows, those without a label under pseudo-labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu._settings import ONE_BATCH_KERNEL, ONE_BATCH_ROWS, Schedule, Settings
from sklearn_clidmu.clid.weight_nets import EvidenceNet
from sklearn_clidmu.clid.weighted import class_means, weighted_mean
from sklearn_clidmu.noise.feature_relevance import feature_relevance
from sklearn_clidmu.noise.label_confidence import (
    LABEL_PRECISION_BOUNDS,
    NoiseEstimate,
    label_confidence,
)
from sklearn_clidmu.noise.label_information import label_information
from sklearn_clidmu.noise.label_spreading import spread_labels
from sklearn_clidmu.noise.loo_kernel_ridge import Kernel, dense_rows, loo_margin, loo_proba
from sklearn_clidmu.training.callbacks import progress
from sklearn_clidmu.training.cross_fitting import CHUNK, choose_weight_decay, cross_fit
from sklearn_clidmu.training.data import (
    SampleHistory,
    SparseRows,
    Table,
    TrainingData,
    with_confirmed,
)
from sklearn_clidmu.training.meta_step import make_rows
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.net_factory import (
    Callbacks,
    build_callbacks,
    build_meta_step,
    build_net,
)

CONFIDENCE_BOUNDS = (1e-4, 1 - 1e-4)
"""Prior log odds are finite."""

N_SAMPLED = 500
"""Rows whose evidence is kept, to show what the weighting net makes of it."""

CURVES = ("train_loss", "meta_loss", "clid", "disagreement", "valid_loss", "valid_score")
"""Entries of a net's history that are passed on."""


class Prior(NamedTuple):
    """What is known of the labels before training."""

    X: Tensor
    """Dense rows, shape (n, d)."""
    scaler: RobustScaler
    """Scales rows for the kernel regression."""
    proba: Tensor
    """Probability of each given label at each row, without the row's own, (n, n_classes): from the
    leave-one-out kernel regression."""
    confidence: Tensor
    """Probability that each label is right, shape (n,)."""
    noise: NoiseEstimate
    information: float | None
    """Greatest ``label_information`` of predictions without the row's own label; None without
    cross-fitted networks."""


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
    """With the evidence net one minus the confidence. Else one minus the geometric mean, over the
    epochs, of the given label's probability."""


def run_stages(
    settings: Settings, data: TrainingData, start: ReweightedNet | None
) -> tuple[list[Stage], int, Prior | None]:
    """Train, stage by stage; the last sound stage predicts.

    The first stage starts from the parameters of ``start``, the net of an earlier fit. Returns the
    stages, the position of the one that predicts, and what was known of the given labels, which is
    None without evidence weighting.
    """
    stages: list[Stage] = []
    predicting, schedule, chosen = 0, settings.labeled, settings.weight_decay is None
    if start is not None:  # the columns that it embeds, or marks as missing, stay the same
        scalers = [part for part in start.module_.modules() if isinstance(part, RobustScaler)]
        data = data._replace(scaler=scalers[0] if scalers else data.scaler)
    else:
        data = weigh_features(settings, data)
    settings, given = judge_labels(settings, data)
    data, given = trust_confirmed(data, given)
    prior, n_labeled, weight_decay = given, len(data.training), settings.weight_decay
    with progress(settings.verbose, "CLID-MU", settings.n_trainings) as watchers:
        for number in range(settings.n_trainings):
            if number > 0:
                if prior is None or stages[predicting].outcome != "finished":
                    break
                data, prior = pseudo_label(data, prior, stages[predicting].net)
                schedule = settings.spread
                if chosen and weight_decay:  # the more rows, the less of it each needs
                    share = n_labeled / len(data.training)
                    settings = replace(settings, weight_decay=weight_decay * share)
            stage = prepare_stage(settings, schedule, data, prior, watchers)
            if start is not None and not stages:
                start_from(stage.net, start)
            stage.net.partial_fit(data.training)
            stage.net.callbacks = stage.net.callbacks_ = []  # with what they keep of every row
            stage.net.meta_step = None
            stages.append(stage)
            if stage.outcome == "finished" or stages[predicting].outcome != "finished":
                predicting = number
    return stages, predicting, given if settings.weighting == "evidence" else None


def weigh_features(settings: Settings, data: TrainingData) -> TrainingData:
    """Make the scaler multiply each feature by its relevance to the labels that are trained on.

    A training set that fits in one batch has too few rows to tell.
    """
    is_read = settings.module is None or settings.judges_labels
    if data.scaler is None or settings.one_batch or not is_read:
        return data
    X, scaler = _dense_rows(data)
    targets = with_confirmed(data).table.labels.targets
    generator = torch.Generator().manual_seed(torch.initial_seed())
    relevance = feature_relevance(
        X, targets, data.n_classes, trained_weight(data), generator, scaler
    )
    scaler = deepcopy(scaler)
    scaler.relevance.copy_(relevance)
    return data._replace(scaler=scaler)


def judge_labels(settings: Settings, data: TrainingData) -> tuple[Settings, Prior | None]:
    """Choose the weight decay, and compare each label with what is predicted without it.

    The weight decay is chosen again with weighted labels, because these are less noisy.
    """
    choose, weighted = settings.weight_decay is None, settings.weighting == "evidence"
    if choose:
        settings = replace(settings, weight_decay=choose_weight_decay(settings, data))
    if not settings.judges_labels:
        return settings, None
    labels, weight = data.table.labels, trained_weight(data)
    X, scaler = _dense_rows(data)
    # A generator of its own: with and without reweighting, training draws the same numbers.
    generator = torch.Generator().manual_seed(torch.initial_seed())
    row, kernel = 1.0, None
    if settings.one_batch:
        row = float(weight.sum()) / ONE_BATCH_ROWS
        inverse_width, penalty = ONE_BATCH_KERNEL
        kernel = Kernel(inverse_width, penalty * row)
    proba = loo_proba(X, labels.targets, data.n_classes, weight, generator, kernel, scaler)
    sources, information = [proba], None
    if settings.n_folds:
        rows, predicted = cross_fit(settings, data)
        sources.append(proba.double().index_copy(0, rows, predicted))
        information = max(label_information(one, labels.targets, weight) for one in sources)
    judged = label_confidence(sources, labels.targets, weight, generator, row, data.confirmed)
    if choose and weighted:
        decay = choose_weight_decay(settings, data, judged)
        settings = replace(settings, weight_decay=decay)
    noise = NoiseEstimate(*(part.to(weight) for part in judged.noise))
    confidence = judged.confidence.to(weight)
    return settings, Prior(X, scaler, proba, confidence, noise, information)


def trust_confirmed(data: TrainingData, prior: Prior | None) -> tuple[TrainingData, Prior | None]:
    """Train on the labels that are known to be right, with full confidence.

    They take the place of the given ones after these have been judged. From mended labels the noise
    would be underestimated: those that are mended first are the surest to be wrong.
    """
    known = data.confirmed >= 0
    if not known.any():
        return data, prior
    data = with_confirmed(data)
    if prior is None:
        return data, None
    weight, targets = trained_weight(data), data.table.labels.targets
    right = prior.confidence.masked_fill(known, 1)
    precision = class_means(right, targets, data.n_classes, weight).clamp(*LABEL_PRECISION_BOUNDS)
    rate = 1 - weighted_mean(right, weight)
    noise = prior.noise._replace(rate=rate, label_precision=precision)
    return data, prior._replace(confidence=right, noise=noise)


def _dense_rows(data: TrainingData) -> tuple[Tensor, RobustScaler]:
    """Rows for the kernel regression as vectors, with their scaler."""
    X = data.table.X
    if isinstance(X, SparseRows):
        used = (data.table.sample_weight > 0).cpu().numpy().nonzero()[0]
        dense = torch.from_numpy(dense_rows(X.matrix, torch.initial_seed() % 2**32, used))
        X = dense.to(X.device, X.dtype)
    X = X.flatten(start_dim=1)
    if data.scaler is not None:
        return X, data.scaler
    return X, RobustScaler.fit(X, data.table.sample_weight).to(X.dtype)


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
    watchers: Callbacks,
) -> Stage:
    """Build the net of a stage, initialized, and the callbacks that will train it."""
    weight = trained_weight(data)
    margin, log_odds, precision = torch.zeros_like(weight), None, None
    if prior is not None:
        margin = loo_margin(prior.proba, data.table.labels.targets).to(weight)
        log_odds = -prior.confidence.clamp(*CONFIDENCE_BOUNDS).logit()
        precision = prior.noise.label_precision
    history = SampleHistory(weight, data.n_classes, margin, log_odds)
    net = build_net(settings, schedule.n_epochs, data, precision)
    # Without a warm-up to compare with, the first epochs may predict a single class.
    n_predicted = 1 if schedule.n_warmup == 0 or schedule.n_steps is None else 2
    if settings.weighting is not None:
        net.meta_step = build_meta_step(
            settings, net.weight_net_, data.training, history, schedule.n_warmup
        )
    net.callbacks = build_callbacks(settings, schedule, data, history, net.meta_step, n_predicted)
    net.callbacks += watchers
    net.initialize_callbacks()
    return Stage(net, data, history)


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
    right = prior.confidence.index_copy(0, rows, confidence)
    precision = class_means(right, targets, data.n_classes, labels.sample_weight)
    noise = prior.noise._replace(label_precision=precision.clamp(*LABEL_PRECISION_BOUNDS))
    table = Table(table.X, targets, table.sample_weight)
    weight = trained_weight(data).index_copy(0, rows, table.sample_weight[rows])
    training = table.take(weight.nonzero().squeeze(1))
    data = data._replace(table=table, training=training)
    return data, prior._replace(confidence=right, noise=noise)


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
    scores = -torch.expm1(-history.mean_loss().double())
    if isinstance(weight_net, EvidenceNet):
        scores = 1 - confidence.double()
    return Readings(confidence, predicted, scores)


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
