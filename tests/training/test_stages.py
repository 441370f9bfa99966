"""The stages of a fit: what starts from what, which predicts, and what is read out of it."""

import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from clid.helpers import N_CLASSES, class_means
from skorch.callbacks import Callback

from sklearn_clidmu._settings import resolve
from sklearn_clidmu.clid.weight_nets import EvidenceNet
from sklearn_clidmu.noise import loo_kernel_ridge
from sklearn_clidmu.noise.label_confidence import label_confidence
from sklearn_clidmu.noise.label_spreading import spread_labels
from sklearn_clidmu.noise.loo_kernel_ridge import loo_margin, loo_proba
from sklearn_clidmu.training import prior as module_of_prior
from sklearn_clidmu.training import stages as module_of_stages
from sklearn_clidmu.training.cross_fitting import cross_fit
from sklearn_clidmu.training.data import make_training_data
from sklearn_clidmu.training.networks import FeatureTap
from sklearn_clidmu.training.prior import judge_labels, trained_weight
from sklearn_clidmu.training.readings import (
    class_probabilities,
    join_curves,
    read_rows,
    training_curves,
)
from sklearn_clidmu.training.stages import CONFIDENCE_BOUNDS, pseudo_label, run_stages

from .helpers import PARAMS, blobs, prepare, vector


@pytest.fixture(autouse=True)
def coarse_kernel(monkeypatch):
    """A kernel regression of few frequencies, for rows as far apart as these."""
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", 16)


def run(watcher=None, n_unlabeled=0, weight=None, held_out=(), start=None, **params):
    """Fit the blobs; return the stages, the one that predicts, the data and the prior."""
    settings, data = prepare(n_unlabeled, weight, held_out, **params)
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


@pytest.mark.parametrize("n_folds", [None, 2, 5])
def test_run_stages_trains_one_net_where_all_rows_have_a_label(n_folds):
    [stage], predicting, data, _ = run(n_folds=n_folds)
    assert predicting == 0
    assert stage.outcome == "finished"
    assert len(stage.net.history) == 3
    assert stage.data.training is data.training  # the folds are gone


@pytest.mark.parametrize("n_folds", [None, 3])
@pytest.mark.parametrize(("warmup_epochs", "n_plain"), [("auto", 0), (0, 0), (1, 1), (2, 2)])
def test_run_stages_warms_up_with_the_evidence_net_only_if_told_to(warmup_epochs, n_plain, n_folds):
    losses = []
    for params in ({"n_folds": n_folds, "warmup_epochs": warmup_epochs}, {"weighting": None}):
        torch.manual_seed(0)
        [stage], *_ = run(**params)
        losses.append(stage.net.history[:, "train_loss"])
    assert np.equal(*losses).tolist() == [epoch < n_plain for epoch in range(3)]


@pytest.mark.parametrize("n_folds", [None, 3])
def test_run_stages_starts_from_the_confidence_in_each_label(n_folds):
    [stage], _, data, prior = run(n_folds=n_folds)
    low, high = (math.log(p / (1 - p)) for p in CONFIDENCE_BOUNDS)
    confidence = prior.confidence.double()
    expected = -(confidence / (1 - confidence)).log().clamp(low, high)
    found = stage.history.prior_log_odds.double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (found[:9] > 0).sum() >= 8  # wrong labels, one of them of a row between the blobs
    assert found[9:].max() < 0
    torch.testing.assert_close(
        stage.history.loo_margin, loo_margin(prior.proba, data.table.labels.targets)
    )
    assert isinstance(stage.net.weight_net_, EvidenceNet)
    assert torch.equal(stage.net.weight_net_.label_precision, prior.noise.label_precision)


@pytest.mark.parametrize(
    ("poisoned", "outcomes", "predicting"),
    [
        ((2,), ["finished", "collapsed", "finished"], 2),
        ((3,), ["finished", "finished", "collapsed"], 1),
        ((2, 3), ["finished", "collapsed", "collapsed"], 0),
    ],
)
def test_run_stages_lets_the_last_sound_stage_predict(poisoned, outcomes, predicting):
    stages, found, _, _ = run(PoisonStage(*poisoned), n_unlabeled=30)
    assert [stage.outcome for stage in stages] == outcomes
    assert found == predicting
    assert len({id(stage.net.module_) for stage in stages}) == 3


def test_run_stages_reports_divergence_without_reweighting():
    [stage], predicting, _, _ = run(PoisonStage(1), weighting=None)
    assert stage.outcome == "diverged"
    assert predicting == 0
    assert vector(stage.net.module_).isfinite().all()
    assert not training_curves([stage], 0)["chosen"].any()


@pytest.mark.parametrize(("weighting", "n_folds"), [("evidence", 3), ("evidence", None), (None, 3)])
def test_run_stages_trains_on_pseudo_labels_last(weighting, n_folds):
    stages, predicting, data, _ = run(n_unlabeled=30, weighting=weighting, n_folds=n_folds)
    assert [len(stage.data.training) for stage in stages] == [60, 90, 90]
    assert predicting == 2
    right, first = torch.arange(90) % N_CLASSES, stages[0].history.prior_log_odds
    for stage in stages[1:]:
        found = stage.data.table.labels.targets
        assert torch.equal(found[60:], right[60:])
        assert torch.equal(found[:60], data.table.labels.targets[:60])
        log_odds = stage.history.prior_log_odds
        assert torch.equal(log_odds[:60], first[:60])
        assert log_odds[60:].max() < 0


def test_run_stages_ends_where_no_stage_can_give_pseudo_labels():
    stages, predicting, _, _ = run(PoisonStage(1), n_unlabeled=30)
    assert len(stages) == 1
    assert predicting == 0


def test_run_stages_continues_the_parameters_of_an_earlier_net():
    [before], _, _, _ = run(n_folds=None)
    [after], _, _, _ = run(n_folds=None, start=before.net, lr=1e-12, meta_lr=1e-12)
    torch.testing.assert_close(vector(after.net.module_), vector(before.net.module_))
    torch.testing.assert_close(vector(after.net.weight_net_), vector(before.net.weight_net_))
    assert after.net.n_steps_ == 2 * before.net.n_steps_
    [other], _, _, _ = run(n_folds=None, start=before.net, lr=1e-12, weighting="wnet")
    torch.testing.assert_close(vector(other.net.module_), vector(before.net.module_))


def test_run_stages_refuses_an_earlier_net_of_other_layers():
    [before], *_ = run(n_folds=None)
    with pytest.raises(ValueError, match="hidden_layer_sizes or module has changed"):
        run(start=before.net, hidden_layer_sizes=(9,))


# What is known of the labels before training


def generator():
    """Such as that of the kernel regression and of the rows that are read for the powers."""
    return torch.Generator().manual_seed(0)


def assert_judged(prior, sources, data, generator, row=1.0):
    """That a prior is what these sources say of the labels."""
    weight = trained_weight(data)
    expected = label_confidence(sources, data.table.labels.targets, weight, generator, row)
    torch.testing.assert_close(prior.confidence.double(), expected.confidence)
    for found, figures in zip(prior.noise, expected.noise, strict=True):
        torch.testing.assert_close(found.double(), figures.double())
    assert {part.dtype for part in (prior.confidence, *prior.noise)} == {weight.dtype}


@pytest.mark.parametrize("n_folds", [None, 3])
def test_judge_labels_asks_the_kernel_regression_and_cross_fitted_networks(n_folds):
    weight = np.linspace(0.5, 1.5, 90)
    weight[40] = 0
    settings, data = prepare(weight=weight, held_out=[10, 20], n_folds=n_folds)
    _, prior = judge_labels(settings, data)
    X, targets, drawn = data.table.X, data.table.labels.targets, generator()
    proba = loo_proba(X, targets, N_CLASSES, trained_weight(data), drawn, scale=data.scaler)
    assert torch.equal(prior.proba, proba)
    sources = [proba]
    if n_folds is not None:
        rows, predicted = cross_fit(settings, data)
        assert torch.equal(rows, torch.arange(90))
        sources.append(predicted)
    assert_judged(prior, sources, data, drawn)


def test_judge_labels_asks_the_kernel_regression_alone_of_rows_without_a_label():
    settings, data = prepare(n_unlabeled=30)
    _, prior = judge_labels(settings, data)
    rows, predicted = cross_fit(settings, data)
    assert torch.equal(rows, torch.arange(60))
    proba = torch.cat([predicted, prior.proba[60:].double()])
    assert_judged(prior, [prior.proba, proba], data, generator())


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_judge_labels_of_one_batch_leaves_each_row_out(weight):
    settings, data = prepare(weight=np.full(90, weight), batch_size=90)
    assert settings.one_batch
    _, prior = judge_labels(settings, data)
    X, targets, drawn = data.table.X, data.table.labels.targets, generator()
    proba = loo_proba(X, targets, N_CLASSES, torch.ones(90).to(X), drawn, scale=data.scaler)
    torch.testing.assert_close(prior.proba, proba)
    assert_judged(prior, [proba], data, drawn, weight)


def test_judge_labels_of_one_batch_counts_a_row_of_weight_s_as_s_rows():
    X, codes = blobs(n=30, n_wrong=3)
    times = np.random.RandomState(0).randint(1, 4, size=30)
    found = []
    for rows, weight in (
        ((X, codes), times.astype(float)),
        ((X.repeat(times, axis=0), codes.repeat(times)), np.ones(times.sum())),
    ):
        _, prior = judge_labels(*prepare(rows=rows, weight=weight, batch_size=100))
        found.append(prior)
    weighted, repeated = found
    times = torch.from_numpy(times)
    assert repeated.proba.dtype == torch.float64
    for one, other in (
        (weighted.proba, repeated.proba),
        (weighted.confidence, repeated.confidence),
    ):
        torch.testing.assert_close(one.repeat_interleave(times, dim=0), other, rtol=0, atol=1e-5)
    torch.testing.assert_close(tuple(weighted.noise), tuple(repeated.noise), rtol=0, atol=1e-5)


@pytest.mark.parametrize("params", [{"n_folds": None}, {"n_folds": 3}, {"batch_size": 90}])
def test_judge_labels_finds_the_wrong_labels_of_distant_blobs(params):
    _, prior = judge_labels(*prepare(**params))
    assert prior.noise.rate.item() == pytest.approx(0.1, abs=0.03)
    assert (prior.confidence[:9] < 0.5).sum() >= 8
    assert prior.confidence[9:].min() > 0.5


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
@pytest.mark.parametrize("n_unlabeled", [0, 30])
def test_judge_labels_chooses_the_l2_penalty_unless_a_weight_decay_is_given(
    weighting, n_unlabeled, monkeypatch
):
    calls = []

    def choose(*args):
        calls.append(args)
        return 150

    monkeypatch.setattr(module_of_prior, "choose_l2_penalty", choose)
    settings, data = prepare(n_unlabeled, weighting=weighting, weight_decay="auto")
    assert judge_labels(settings, data)[0].l2_penalty == 150
    assert len(calls) == 1
    settings, data = prepare(n_unlabeled, weighting=weighting, weight_decay=0.02)
    assert judge_labels(settings, data)[0].weight_decay == 0.02
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("penalty", "n_rows", "lr", "expected"),
    [
        (30, 90, 0.05, 1 / 3),
        (30, 180, 0.05, 1 / 6),
        (3_750, 90, 0.05, 24),
        (3_750, 90, 0.1, 12),
        (3_750, 90, 1e10, 6 / 90),
    ],
)
def test_settings_give_the_penalty_per_row_but_no_unstable_weight_decay(
    penalty, n_rows, lr, expected
):
    settings = resolve({**PARAMS, "weight_decay": "auto", "lr": lr}, n_labeled=90, n_unlabeled=0)
    assert settings.decay_of(n_rows) is None
    chosen = replace(settings, l2_penalty=penalty)
    assert chosen.decay_of(n_rows) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("dropout", "n_epochs_before", "expected"),
    [
        ("auto", None, [0.15, 0.15, 0.075, 0.0006]),
        ("auto", 2, [0.15] * 4),
        (0.3, None, [0.3] * 4),
        (0.0, 2, [0.0] * 4),
    ],
)
def test_settings_lower_the_dropout_of_many_rows_unless_it_is_given(
    dropout, n_epochs_before, expected
):
    params = {**PARAMS, "dropout": dropout}
    counts = {"n_labeled": 90, "n_unlabeled": 0, "n_epochs_before": n_epochs_before}
    settings = resolve(params, **counts)
    found = [settings.dropout_of(n_rows) for n_rows in (90, 4_000, 8_000, 1_000_000)]
    assert found == pytest.approx(expected)


def test_settings_keep_a_given_weight_decay_for_any_number_of_rows():
    settings = resolve({**PARAMS, "weight_decay": 100.0}, n_labeled=90, n_unlabeled=0)
    assert settings.decay_of(90) == settings.decay_of(9_000) == 100


@pytest.mark.parametrize(("warmup_epochs", "n_plain"), [("auto", 0), (0, 0), (1, 1), (4, 4)])
def test_resolve_warms_up_in_partial_fit_only_if_told_to(warmup_epochs, n_plain):
    params = {**PARAMS, "warmup_epochs": warmup_epochs}
    warmups = [
        resolve(
            params, n_labeled=90, n_unlabeled=0, n_epochs_before=n, n_steps_before=12 * n
        ).labeled.n_warmup
        for n in range(5)
    ]
    assert warmups == [1] * n_plain + [0] * (5 - n_plain)


def test_run_stages_trains_as_if_nothing_had_been_chosen_or_cross_fitted(monkeypatch):
    chosen, choose = [], module_of_prior.choose_l2_penalty

    def watched(*args):
        chosen.append(choose(*args))
        return chosen[-1]

    monkeypatch.setattr(module_of_prior, "choose_l2_penalty", watched)
    torch.manual_seed(3)
    [expected], _, _, prior = run(weight_decay="auto")
    assert len(chosen) == 1
    monkeypatch.setattr(
        module_of_stages,
        "judge_labels",
        lambda settings, data: (replace(settings, l2_penalty=chosen[-1]), prior),
    )
    torch.manual_seed(3)
    [found], *_ = run(weight_decay="auto")
    assert torch.equal(vector(found.net.evaluated_module), vector(expected.net.evaluated_module))
    assert torch.equal(vector(found.net.weight_net_), vector(expected.net.weight_net_))


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
    assert data.labeled.logical_not().nonzero()[:, 0].tolist() == [85, 86, 87, 88, 89]
    assert len(data.table) == 90
    assert len(data.training) == 82


@pytest.mark.parametrize("n_folds", [None, 3])
def test_pseudo_label_counts_labels_as_right_with_the_probability_of_the_class(n_folds):
    stages, _, data, prior = run(n_unlabeled=30, n_folds=n_folds, max_epochs=4)
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
    # Labels that came with the rows keep what is known of each.
    right = prior.confidence.clone()
    right[60:] = torch.from_numpy(spread[60:].max(axis=1))
    # The class's mean, and ten further rows of the mean of all.
    counts = torch.bincount(targets, minlength=N_CLASSES)
    expected = torch.bincount(targets, right, N_CLASSES) + 10 * right.mean()
    torch.testing.assert_close(precision, expected / (counts + 10))
    assert torch.equal(after.proba, prior.proba)
    torch.testing.assert_close(after.confidence, right)


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
    if weighting == "evidence":
        expected = 1 - found.confidence.double()
    torch.testing.assert_close(found.noise_scores, expected)
    assert found.noise_scores[:9].mean() > found.noise_scores[9:].mean() + 0.2
    if weighting == "evidence":
        labels = data.training.labels
        confidence = found.confidence[labels.rows]
        means = class_means(confidence, labels.targets, labels.sample_weight)
        torch.testing.assert_close(means, prior.noise.label_precision, rtol=1e-4, atol=0)
    if weighting is None:
        assert (found.confidence == 1).all()


@pytest.mark.parametrize("n_folds", [None, 3])
def test_read_rows_of_a_collapsed_stage_gives_equal_confidence_and_scores_by_the_loss(n_folds):
    [stage], *_ = run(PoisonStage(1), n_folds=n_folds)
    assert stage.outcome == "collapsed"
    found = read_rows(stage)
    assert (found.confidence == 1).all()
    expected = 1 - (-stage.history.loss.double() / stage.history.n_visits).exp()
    torch.testing.assert_close(found.noise_scores, expected)


def test_class_probabilities_name_the_rows_or_the_module_where_they_are_not_finite():
    logits, module = torch.tensor([[math.nan, 0.0]]), torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="X has rows too large for the network"):
        class_probabilities(logits, module)
    with pytest.raises(ValueError, match="module Linear returns numbers that are not finite"):
        class_probabilities(logits, FeatureTap(module, 2))


# The curves


def test_training_curves_follow_the_stages_and_mark_the_epoch_that_predicts():
    stages, predicting, _, _ = run(n_unlabeled=30)
    curves = training_curves(stages, predicting)
    assert curves["stage"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert np.flatnonzero(curves["chosen"]).tolist() == [8]
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


def test_judge_labels_of_one_batch_takes_no_unlabeled_row_for_one_of_the_first_class():
    X, codes = blobs(n=30, n_wrong=3)
    rows = np.vstack([X, X]), np.concatenate([codes, np.full(30, -1)])
    _, prior = judge_labels(*prepare(rows=rows, batch_size=100))
    other = np.where(codes == 0, 1, np.where(codes == 1, 0, codes))  # names that are exchanged
    _, exchanged = judge_labels(
        *prepare(rows=(rows[0], np.concatenate([other, rows[1][30:]])), batch_size=100)
    )
    torch.testing.assert_close(exchanged.proba, prior.proba[:, [1, 0, 2]])
