"""The stages of a fit: what starts from what, which predicts, and what is read out of it."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from clid.helpers import N_CLASSES
from skorch.callbacks import Callback

from sklearn_clidmu._settings import resolve
from sklearn_clidmu.clid.weight_nets import EvidenceNet
from sklearn_clidmu.clid.weighted import class_means
from sklearn_clidmu.noise import loo_kernel_ridge
from sklearn_clidmu.noise.label_spreading import spread_labels
from sklearn_clidmu.noise.loo_kernel_ridge import loo_margin
from sklearn_clidmu.training import stages as module_of_stages
from sklearn_clidmu.training.data import make_training_data
from sklearn_clidmu.training.stages import (
    CONFIDENCE_BOUNDS,
    class_probabilities,
    join_curves,
    pseudo_label,
    read_rows,
    run_stages,
    trained_weight,
    training_curves,
)

from .helpers import vector


@pytest.fixture(autouse=True)
def coarse_kernel(monkeypatch):
    """A kernel regression of few frequencies, for rows as far apart as these."""
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", 16)


PARAMS = {
    "hidden_layer_sizes": (8,),
    "dropout": 0.3,
    "module": None,
    "weighting": "evidence",
    "meta_objective": "clid",
    "virtual_step": "head",
    "temperature": 0.5,
    "max_epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 32,
    "meta_batch_size": None,
    "lr": "auto",
    "meta_lr": "auto",
    "weight_decay": 0.01,
    "n_stages": 2,
    "verbose": 0,
    "early_stopping": False,
}


def blobs(n=90, n_wrong=9, n_unlabeled=0):
    """Rows far apart by class, their codes of which the first are wrong and the last missing."""
    rng = np.random.RandomState(0)
    codes = np.arange(n) % N_CLASSES
    X = rng.normal(size=(n, 4)) + 5 * np.eye(N_CLASSES, 4)[codes]
    codes[:n_wrong] = (codes[:n_wrong] + 1) % N_CLASSES
    codes[n - n_unlabeled :] = -1
    return X.astype(np.float32), codes


def run(watcher=None, n_unlabeled=0, weight=None, held_out=(), start=None, **params):
    """Fit the blobs; return the stages, the one that predicts, the data and the prior."""
    X, codes = blobs(n_unlabeled=n_unlabeled)
    weight = np.ones(len(X)) if weight is None else weight
    n_labeled = int(((codes >= 0) & (weight > 0)).sum())
    settings = resolve({**PARAMS, **params}, n_labeled=n_labeled, n_unlabeled=n_unlabeled)
    held_out = np.array(held_out, dtype=int)
    cpu = torch.device("cpu")
    data = make_training_data(X, codes, weight, held_out, N_CLASSES, settings.dtype, cpu)
    with pytest.MonkeyPatch.context() as patch:
        if watcher is not None:  # in the place of the progress bar, which follows all stages, too
            patch.setattr(
                module_of_stages, "progress", lambda *_: nullcontext([("watcher", watcher)])
            )
        stages, predicting, prior = run_stages(settings, data, start)
    assert (prior is None) == (settings.weighting != "evidence")
    return stages, predicting, data, prior


class PoisonStage(Callback):
    """Makes the networks of given stages return nan from the last epoch on."""

    def __init__(self, *numbers):
        self.numbers = numbers
        self.number = 0

    def on_train_begin(self, net, **kwargs):
        self.number += 1

    def on_epoch_begin(self, net, **kwargs):
        if self.number in self.numbers and len(net.history) == 3:
            net.module_.head.bias.data.fill_(math.nan)


@pytest.mark.parametrize("n_stages", [1, 2, 3])
def test_run_stages_trains_new_nets_of_which_the_last_predicts(n_stages):
    stages, predicting, _, _ = run(n_stages=n_stages)
    assert len(stages) == n_stages
    assert predicting == n_stages - 1
    assert [stage.outcome for stage in stages] == ["finished"] * n_stages
    assert len({id(stage.net.module_) for stage in stages}) == n_stages
    assert [len(stage.net.history) for stage in stages] == [3] * n_stages


def test_run_stages_starts_the_second_from_the_confidence_of_the_first():
    (first, second), _, data, prior = run()
    confidence = read_rows(first).confidence.double()
    low, high = (math.log(p / (1 - p)) for p in CONFIDENCE_BOUNDS)
    expected = -(confidence / (1 - confidence)).log().clamp(low, high)
    found = second.history.prior_log_odds.double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert first.history.prior_log_odds.abs().max() == 0
    margin = loo_margin(prior.proba, data.table.labels.targets)
    for stage in (first, second):
        torch.testing.assert_close(stage.history.loo_margin, margin)
        assert isinstance(stage.net.weight_net_, EvidenceNet)
        assert torch.equal(stage.net.weight_net_.label_precision, prior.noise.label_precision)


@pytest.mark.parametrize(
    ("poisoned", "outcomes", "predicting"),
    [
        ((1,), ["collapsed", "finished"], 1),
        ((2,), ["finished", "collapsed"], 0),
        ((1, 2), ["collapsed", "collapsed"], 1),
    ],
)
def test_run_stages_lets_the_last_sound_stage_predict(poisoned, outcomes, predicting):
    stages, found, _, _ = run(PoisonStage(*poisoned))
    assert [stage.outcome for stage in stages] == outcomes
    assert found == predicting
    if poisoned == (1,):  # a collapsed stage leaves no prior log odds
        assert stages[1].history.prior_log_odds.abs().max() == 0


def test_run_stages_reports_divergence_without_reweighting():
    [stage], predicting, _, _ = run(PoisonStage(1), weighting=None)
    assert stage.outcome == "diverged"
    assert predicting == 0
    assert vector(stage.net.module_).isfinite().all()
    assert not training_curves([stage], 0)["chosen"].any()


@pytest.mark.parametrize("weighting", ["evidence", None])
def test_run_stages_trains_on_pseudo_labels_last(weighting):
    stages, predicting, data, _ = run(n_unlabeled=30, weighting=weighting)
    n_labeled = 2 if weighting == "evidence" else 1
    assert [len(stage.data.training) for stage in stages] == [60] * n_labeled + [90] * 2
    assert predicting == len(stages) - 1
    right = torch.arange(90) % N_CLASSES
    for stage in stages[n_labeled:]:
        found = stage.data.table.labels.targets
        assert torch.equal(found[60:], right[60:])
        assert torch.equal(found[:60], data.table.labels.targets[:60])
        assert stage.history.prior_log_odds.abs().max() == 0


def test_run_stages_ends_where_no_stage_can_give_pseudo_labels():
    stages, predicting, _, _ = run(PoisonStage(1, 2), n_unlabeled=30)
    assert len(stages) == 2
    assert predicting == 1


def test_run_stages_continues_the_parameters_of_an_earlier_net():
    [before], _, _, _ = run(n_stages=1)
    [after], _, _, _ = run(n_stages=1, start=before.net, lr=1e-12, meta_lr=1e-12)
    torch.testing.assert_close(vector(after.net.module_), vector(before.net.module_))
    torch.testing.assert_close(vector(after.net.weight_net_), vector(before.net.weight_net_))
    assert after.net.n_steps_ == 2 * before.net.n_steps_
    [other], _, _, _ = run(n_stages=1, start=before.net, lr=1e-12, weighting="wnet")
    torch.testing.assert_close(vector(other.net.module_), vector(before.net.module_))


def test_run_stages_refuses_an_earlier_net_of_other_layers():
    [before], *_ = run(n_stages=1)
    with pytest.raises(ValueError, match="hidden_layer_sizes or module has changed"):
        run(start=before.net, hidden_layer_sizes=(9,))


# Data


def test_trained_weight_is_zero_for_rows_that_are_not_trained_on():
    X, codes = blobs(n_unlabeled=5)
    weight = np.linspace(0.5, 1.5, 90)
    weight[3] = 0
    cpu, held_out = torch.device("cpu"), np.array([10, 20])
    data = make_training_data(X, codes, weight, held_out, N_CLASSES, torch.float64, cpu)
    expected = weight.copy()
    expected[[10, 20]] = expected[-5:] = 0
    np.testing.assert_array_equal(trained_weight(data), expected)
    assert data.held_out.rows.tolist() == [10, 20]
    assert data.unlabeled.tolist() == [85, 86, 87, 88, 89]
    assert len(data.table) == 90
    assert len(data.training) == 82


def test_pseudo_label_counts_labels_as_right_with_the_probability_of_the_class():
    stages, _, data, prior = run(n_unlabeled=30, n_stages=1, max_epochs=4)
    torch.manual_seed(0)
    labeled, after = pseudo_label(data, prior, stages[0].net)
    targets, precision = labeled.table.labels.targets, after.noise.label_precision
    assert torch.equal(labeled.training.labels.rows, torch.arange(90))
    known = prior.proba.double().clamp_min(0)
    known = known / known.sum(dim=1, keepdim=True)
    network = stages[0].net.evaluate(data.table.X)[0].double().softmax(dim=1)
    rows = prior.scaler(data.table.X).numpy()
    spread = spread_labels(rows, ((known + network) / 2).numpy(), 0)
    assert targets[60:].tolist() == spread[60:].argmax(axis=1).tolist()
    # Labels that came with the rows keep their precision.
    right = prior.noise.label_precision[targets].clone()
    right[60:] = torch.from_numpy(spread[60:].max(axis=1))
    expected = class_means(right, targets, N_CLASSES, torch.ones(90))
    torch.testing.assert_close(precision, expected)
    assert torch.equal(after.proba, prior.proba)


# The final pass


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
def test_read_rows_gives_confidence_class_and_noise_score_of_every_row(weighting):
    weight = np.ones(90)
    weight[40] = 0  # never seen in training
    stages, predicting, data, prior = run(weight=weight, weighting=weighting, max_epochs=6)
    stage = stages[predicting]
    n_visits = stage.history.n_visits.clone()
    found = read_rows(stage)
    assert n_visits[40] == 0
    assert stage.history.n_visits[40] == 1
    assert 0 <= found.confidence.min() <= found.confidence.max() <= 1
    assert torch.equal(found.predicted, stage.net.evaluate(data.table.X)[0].argmax(dim=1))
    expected = 1 - (-stage.history.loss.double() / stage.history.n_visits).exp()
    torch.testing.assert_close(found.noise_scores, expected)
    assert found.noise_scores[:9].mean() > found.noise_scores[9:].mean() + 0.2
    if weighting == "evidence":
        labels = data.training.labels
        means = class_means(
            found.confidence[labels.rows], labels.targets, N_CLASSES, labels.sample_weight
        )
        torch.testing.assert_close(means, prior.noise.label_precision, rtol=1e-4, atol=0)
    if weighting is None:
        assert (found.confidence == 1).all()


def test_read_rows_of_a_collapsed_stage_gives_equal_confidence():
    [stage], *_ = run(PoisonStage(1), n_stages=1)
    assert stage.outcome == "collapsed"
    assert (read_rows(stage).confidence == 1).all()


def test_class_probabilities_name_the_rows_or_the_module_where_they_are_not_finite():
    logits, module = torch.tensor([[math.nan, 0.0]]), torch.nn.Module()
    with pytest.raises(ValueError, match="X has rows too large for the network"):
        class_probabilities(logits, module)
    module.name = "Broken"
    with pytest.raises(ValueError, match="module Broken returns numbers that are not finite"):
        class_probabilities(logits, module)


# The curves


def test_training_curves_follow_the_stages_and_mark_the_epoch_that_predicts():
    stages, predicting, _, _ = run(max_epochs=3)
    curves = training_curves(stages, predicting)
    assert curves["stage"].tolist() == [1, 1, 1, 2, 2, 2]
    assert np.flatnonzero(curves["chosen"]).tolist() == [5]
    for name in ("train_loss", "meta_loss", "clid", "disagreement"):
        expected = [value for stage in stages for value in stage.net.history[:, name]]
        np.testing.assert_array_equal(curves[name], expected)
    assert "valid_score" not in curves


def test_join_curves_fills_what_one_does_not_know_and_counts_stages_on():
    def curves(stage, chosen, **more):
        return {"stage": np.array(stage), "chosen": np.array(chosen), **more}

    first = curves([1, 2], [False, True], clid=np.array([0.1, 0.2]))
    second = curves([1], [True], valid_score=np.array([0.9]))
    joined = join_curves(first, second)
    assert joined["stage"].tolist() == [1, 2, 3]
    assert joined["chosen"].tolist() == [False, False, True]
    np.testing.assert_array_equal(joined["clid"], [0.1, 0.2, math.nan])
    np.testing.assert_array_equal(joined["valid_score"], [math.nan, math.nan, 0.9])
