"""The stages of a fit, each of which is one training.

One trains on the rows that have a label. Where rows have none, further stages train on all rows,
those without a label under pseudo-labels.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch

from sklearn_clidmu._random import fit_seed
from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu._settings import Schedule, Settings
from sklearn_clidmu.noise.label_confidence import estimate_noise
from sklearn_clidmu.noise.label_spreading import spread_labels
from sklearn_clidmu.noise.loo_kernel_ridge import loo_margin
from sklearn_clidmu.training.callbacks import progress
from sklearn_clidmu.training.data import SampleHistory, Table, TrainingData
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.net_factory import (
    Callbacks,
    build_callbacks,
    build_meta_step,
    build_net,
)
from sklearn_clidmu.training.prior import (
    Prior,
    judge_labels,
    trained_weight,
    trust_confirmed,
    weigh_features,
)

CONFIDENCE_BOUNDS = (1e-4, 1 - 1e-4)
"""Confidences are kept within these bounds, so that their log odds are finite."""


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


def run_stages(
    settings: Settings, data: TrainingData, start: ReweightedNet | None
) -> tuple[list[Stage], int, Prior | None]:
    """Train, stage by stage; the last sound stage predicts.

    The first stage starts from the parameters of ``start``, the net of an earlier fit. Returns the
    stages, the position of the one that predicts, and what was known of the labels before training,
    which is None without evidence weighting.
    """
    stages: list[Stage] = []
    predicting, schedule = 0, settings.labeled
    if start is not None:  # the columns that it embeds, or marks as missing, stay the same
        data = data._replace(scaler=continued_scaler(start, data))
    else:
        data = weigh_features(settings, data)
    settings, prior = judge_labels(settings, data)
    data, prior = trust_confirmed(data, prior)
    prior_of_first = prior if settings.weighting == "evidence" else None
    with progress(settings.verbose, "Training", settings.n_trainings) as watchers:
        for number in range(settings.n_trainings):
            if number > 0:
                if prior is None or stages[predicting].outcome != "finished":
                    break
                data, prior = pseudo_label(data, prior, stages[predicting].net)
                schedule = settings.spread
            stage = prepare_stage(settings, schedule, data, prior, watchers)
            if start is not None and not stages:
                start_from(stage.net, start, data.scaler)
            stage.net.partial_fit(data.training)
            stage.net.callbacks = stage.net.callbacks_ = []  # with what they keep of every row
            stage.net.meta_step = None
            stages.append(stage)
            if stage.outcome == "finished" or stages[predicting].outcome != "finished":
                predicting = number
    return stages, predicting, prior_of_first


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
        margin = loo_margin(prior.proba, data.table.targets).to(weight)
        log_odds = -prior.confidence.clamp(*CONFIDENCE_BOUNDS).logit()
        precision = prior.noise.label_precision
    history = SampleHistory(weight, data.n_classes, margin, log_odds)
    net = build_net(settings, schedule.n_epochs, data, precision)
    if settings.weighting is not None:
        net.meta_step = build_meta_step(
            settings, net.weight_net_, data.training, history, schedule.n_warmup
        )
    net.callbacks = build_callbacks(settings, schedule, data, history, net.meta_step)
    net.callbacks += watchers
    net.initialize_callbacks()
    return Stage(net, data, history)


def scaler_of(net: ReweightedNet) -> RobustScaler | None:
    """Scaler of the net's network; None of sparse rows and of a module of the caller's."""
    parts = net.module_.modules()
    return next((part for part in parts if isinstance(part, RobustScaler)), None)


def continued_scaler(start: ReweightedNet, data: TrainingData) -> RobustScaler | None:
    """Scaler of an earlier net; features that were constant are scaled as in the present rows."""
    scaler = deepcopy(scaler_of(start))
    if scaler is None:
        return None
    scaler.to(data.training.X.device)
    if data.scaler is not None:
        scaler.to(data.scaler.center.dtype)  # offsets may be far from 0
        scaler.adopt(data.scaler)
    return scaler


def start_from(net: ReweightedNet, start: ReweightedNet, scaler: RobustScaler | None) -> None:
    """Give a net the parameters of a trained one, and its weighting net those of one of its kind.

    ``scaler`` is the scaler of the trained net, after :func:`continued_scaler`.
    """
    try:
        net.module_.load_state_dict(start.module_.state_dict())
    except RuntimeError as error:
        raise ValueError(
            "hidden_layer_sizes or module has changed since the last fit, whose network "
            "warm_start=True and partial_fit continue: set it back, or fit with warm_start=False."
        ) from error
    own = scaler_of(net)
    if own is not None and scaler is not None:
        own.load_state_dict(scaler.state_dict())
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
    table = data.table
    rows = (~data.labeled & (table.sample_weight > 0)).nonzero()[:, 0]
    proba = prior.proba.double().clamp_min(0)
    proba = proba / proba.sum(dim=1, keepdim=True)
    proba += torch.cat([logits.double().softmax(dim=1) for logits, _ in net.outputs(table.X)])
    counted = table.sample_weight > 0
    X = prior.scaler(prior.X[counted]).cpu().numpy()
    spread = spread_labels(X, proba[counted].cpu().numpy() / 2, fit_seed())
    proba[counted] = torch.from_numpy(spread).to(proba)
    confidence, predicted = proba[rows].to(prior.X).max(dim=1)
    targets = table.targets.index_copy(0, rows, predicted)
    right = prior.confidence.index_copy(0, rows, confidence)
    table = Table(table.X, targets, table.sample_weight)
    weight = trained_weight(data).index_copy(0, rows, table.sample_weight[rows])
    noise = estimate_noise(prior.noise.matrix, right, targets, weight, prior.row)
    training = table.take(weight.nonzero().squeeze(1))
    data = data._replace(table=table, training=training)
    return data, prior._replace(confidence=right, noise=noise)
