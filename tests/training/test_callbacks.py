"""Averages, monitor, collapse detector, early stopping, and the progress bar."""

import math
from types import SimpleNamespace

import pytest
import torch
from clid.helpers import N_CLASSES, NETWORKS
from sklearn.metrics import accuracy_score, log_loss
from skorch.callbacks import Callback, PassthroughScoring
from torch import nn

from sklearn_clidmu._settings import COLLAPSE_EPOCHS, EMA_DECAY, PATIENCE
from sklearn_clidmu.clid.objective import clid_loss
from sklearn_clidmu.training.callbacks import (
    N_MONITORED,
    CollapseDetector,
    EarlyStopping,
    LossRecorder,
    Monitor,
    ParameterAverage,
    progress,
)
from sklearn_clidmu.training.data import SampleHistory
from sklearn_clidmu.training.net import StopTraining

from .helpers import (
    DTYPE,
    Diary,
    Raise,
    Script,
    add_meta_step,
    make_history,
    make_net,
    make_table,
    plain_loss,
    vector,
)

NAN, INF = math.nan, math.inf


def train_loss():
    return PassthroughScoring("train_loss", on_train=True)


def new_history(n):
    return SampleHistory(torch.ones(n, dtype=DTYPE), N_CLASSES, torch.zeros(n, dtype=DTYPE))


# Losses


def test_loss_recorder_records_every_training_batch_under_the_rows_of_fit():
    history, diary = new_history(30), Diary()
    table = make_table(20, rows=torch.arange(20) + 10)
    make_net(LossRecorder(history), diary).partial_fit(table)
    total, last = torch.zeros(30, dtype=DTYPE), torch.zeros(30, dtype=DTYPE)
    for _, labels, logits in diary.batches:
        losses = nn.functional.cross_entropy(logits, labels.targets, reduction="none")
        total[labels.rows] += losses
        last[labels.rows] = losses
    assert history.n_visits.tolist() == [0] * 10 + [3] * 20
    torch.testing.assert_close(history.mean_loss(), total / 3)
    torch.testing.assert_close(history.evidence()[:, 0], last / math.log(N_CLASSES))


# The moving average


def ramped_average(vectors):
    """Average that starts at the first vector and comes to its full length step by step."""
    average = vectors[0]
    for step, value in enumerate(vectors[1:], start=1):
        weight = min(EMA_DECAY, step / (9 + step))
        average = weight * average + (1 - weight) * value
    return average


def test_parameter_average_follows_its_recursion_and_predicts_in_the_end():
    diary, table = Diary(), make_table(20)
    settings = {"averaged": True, "max_epochs": 112, "batch_size": len(table)}
    net = make_net(ParameterAverage(), diary, **settings).partial_fit(table)
    vectors = [nn.utils.parameters_to_vector(state.values()) for state in diary.states]
    assert len(vectors) / (9 + len(vectors)) > EMA_DECAY
    for n_steps in (1, 2, 3, 50, len(vectors)):
        expected = ramped_average(vectors[:n_steps])
        found = diary.averages[n_steps - 1]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    assert torch.equal(vector(net.module_), found)
    assert net.evaluated_module is net.module_
    expected = net.module_.eval()(table.X)[0].softmax(dim=1).detach().numpy()
    assert net.predict(table.X) == pytest.approx(expected)


def test_parameter_average_is_evaluated_while_training_and_changes_no_step():
    class Compare(Callback):
        def on_epoch_end(self, net, **kwargs):
            logits, _ = net.evaluate(table.X)
            torch.testing.assert_close(logits, net.averaged_module_(table.X)[0])
            assert not torch.allclose(vector(net.module_), vector(net.averaged_module_))

    table, plain, averaged = make_table(20), Diary(), Diary()
    for callbacks in ([plain], [ParameterAverage(), averaged, Compare()]):
        torch.manual_seed(0)
        make_net(*callbacks, averaged=len(callbacks) > 1, max_epochs=2).partial_fit(table)
    assert plain.losses == averaged.losses


def test_parameter_average_has_the_last_running_statistics():
    diary = Diary()
    network = NETWORKS["tapped batch norm"]
    net = make_net(ParameterAverage(), diary, averaged=True, network=network)
    net.partial_fit(make_table(20))
    buffers = dict(net.module_.named_buffers())
    assert len(buffers) == 3
    for name, value in buffers.items():
        torch.testing.assert_close(value, diary.states[-1][name])


# The monitor


def monitored(table, held_out=None, history=None, temperature=0.5, **settings):
    diary = Diary()
    history = new_history(len(table)) if history is None else history
    monitor = Monitor(table, temperature, history, held_out)
    return make_net(diary, monitor, **settings).partial_fit(table), diary, monitor


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_monitor_clid_is_that_of_all_rows_less_log_n(temperature):
    table = make_table(40, sample_weight=torch.ones(40, dtype=DTYPE))
    net, diary, _ = monitored(table, temperature=temperature, max_epochs=3)
    outputs = [module.eval()(table.X) for module in diary.epochs]
    expected = [clid_loss(h, z, temperature).item() - math.log(40) for z, h in outputs]
    assert net.history[:, "clid"] == pytest.approx(expected, rel=1e-10)


def test_monitor_clid_counts_a_row_of_weight_s_as_s_rows():
    weight = torch.tensor([1, 2, 3, 4, 5], dtype=DTYPE).repeat(8)
    table = make_table(40, sample_weight=weight)
    net, diary, _ = monitored(table)
    logits, features = diary.epochs[0].eval()(table.X.repeat_interleave(weight.long(), dim=0))
    expected = clid_loss(features, logits, 0.5).item() - math.log(120)
    # Not quite equal: the small constant in the logarithm is not repeated.
    assert net.history[-1, "clid"] == pytest.approx(expected, abs=1e-4)


def test_monitor_measures_a_large_table_on_the_same_rows_in_every_epoch():
    table = make_table(N_MONITORED + 200)
    net, _, monitor = monitored(table, lr=0.0, max_epochs=2, batch_size=len(table))
    first, second = net.history[:, "clid"]
    assert first == second
    rows = monitor.rows.labels.rows
    assert len(rows.unique()) == N_MONITORED
    assert torch.equal(monitor.rows.inputs, table.X[rows])
    assert torch.equal(monitor.rows.labels.sample_weight, table.sample_weight[rows])


def test_monitor_scores_are_those_of_scikit_learn():
    table, held_out = make_table(30), make_table(17)
    net, diary, _ = monitored(table, held_out, max_epochs=4)

    def labels_weights_and_proba(module, table):
        proba = module.eval()(table.X)[0].softmax(dim=1).detach()
        return [part.numpy() for part in (table.targets, table.sample_weight, proba)]

    for module, epoch in zip(diary.epochs, net.history, strict=True):
        y, weight, proba = labels_weights_and_proba(module, table)
        accuracy = accuracy_score(y, proba.argmax(axis=1), sample_weight=weight)
        assert epoch["disagreement"] == pytest.approx(1 - accuracy)
        assert epoch["n_predicted"] == len(set(proba.argmax(axis=1)))
        y, weight, proba = labels_weights_and_proba(module, held_out)
        score = accuracy_score(y, proba.argmax(axis=1), sample_weight=weight)
        loss = log_loss(y, proba, sample_weight=weight, labels=range(N_CLASSES))
        assert epoch["valid_score"] == pytest.approx(score)
        assert epoch["valid_loss"] == pytest.approx(loss)


def test_monitor_records_the_losses_of_held_out_rows_once_an_epoch():
    history, held_out = new_history(47), make_table(17, rows=torch.arange(30, 47))
    _, diary, _ = monitored(make_table(30), held_out, history, max_epochs=3)
    given = [
        module.eval()(held_out.inputs)[0].log_softmax(dim=1)[
            torch.arange(17), held_out.labels.targets
        ]
        for module in diary.epochs
    ]
    assert history.n_visits.tolist() == [0] * 30 + [3] * 17
    torch.testing.assert_close(history.mean_loss()[30:], -sum(given).detach() / 3)


def test_monitor_has_no_validation_score_without_held_out_rows():
    net, _, _ = monitored(make_table(30))
    assert not {"valid_score", "valid_loss"} & set(net.history[-1])


# The collapse detector, in training


class Poison(Callback):
    """Makes the network return nan from one batch of an epoch on."""

    def __init__(self, epoch, batch=0):
        self.epoch = epoch
        self.batch = batch

    def on_epoch_begin(self, net, **kwargs):
        self.n_batches = 0

    def on_batch_begin(self, net, **kwargs):
        if len(net.history) == self.epoch and self.n_batches == self.batch:
            net.module_.head.bias.data.fill_(NAN)
        self.n_batches += 1


def poisoned(*poisons, weighting="wnet", n_warmup=1, batch_size=8):
    """Five epochs, in one or more of which the loss is nan."""
    table, history, diary = make_table(20), make_history(20), Diary()
    detector = CollapseDetector(None, history, calibrated=False)
    callbacks = (
        *poisons,
        LossRecorder(history),
        ParameterAverage(),
        train_loss(),
        Script(clid=[-1.0] * 5, n_predicted=[N_CLASSES] * 5),
        detector,
        diary,
    )
    settings = {"averaged": True, "max_epochs": 5, "batch_size": batch_size}
    net = make_net(
        *callbacks,
        weighting=weighting,
        optimizer__momentum=0.9,
        optimizer__nesterov=True,
        **settings,
    )
    if weighting is not None:
        detector.meta_step = add_meta_step(net, table, history, n_warmup=n_warmup)
    return net.partial_fit(table), diary, history


@pytest.mark.parametrize("weighting", ["wnet", "vri", "evidence"])
@pytest.mark.parametrize(("batch_size", "batch"), [(8, 0), (8, 8), (20, 7)])
def test_collapse_detector_restores_the_last_sound_epoch_after_nan(weighting, batch_size, batch):
    net, diary, history = poisoned(Poison(3, batch), weighting=weighting, batch_size=batch_size)
    assert math.isnan(net.history[2, "train_loss"])
    assert torch.equal(vector(diary.epochs[2]), vector(diary.epochs[1]))
    assert torch.equal(diary.evaluated[2], diary.evaluated[1])
    assert net.collapse_epoch_ == 3
    assert net.diverged_ is False
    assert vector(net.weight_net_).isfinite().all()
    assert history.evidence().isfinite().all()


@pytest.mark.parametrize("weighting", ["wnet", "vri", "evidence"])
def test_collapse_detector_goes_on_with_equal_weights(weighting):
    net, diary, _ = poisoned(Poison(3), weighting=weighting)
    assert len(net.history) == 5
    assert vector(net.module_).isfinite().all()
    assert not torch.equal(vector(diary.epochs[3]), vector(diary.epochs[2]))
    for (_, labels, logits), loss in list(zip(diary.batches, diary.losses, strict=True))[36:]:
        assert loss == pytest.approx(plain_loss(logits, labels).item())


@pytest.mark.parametrize(("weighting", "n_warmup"), [(None, 0), ("wnet", 4), ("evidence", 4)])
@pytest.mark.parametrize("epoch", [1, 3])
def test_collapse_detector_ends_training_after_nan_without_reweighting(weighting, n_warmup, epoch):
    net, diary, history = poisoned(Poison(epoch), weighting=weighting, n_warmup=n_warmup)
    assert net.diverged_ is True
    assert net.collapse_epoch_ is None
    assert len(net.history) == epoch
    assert diary.n_ends == 1
    last_sound = vector(diary.initial) if epoch == 1 else diary.evaluated[epoch - 2]
    assert torch.equal(vector(net.module_), last_sound)
    assert history.evidence().isfinite().all()


def test_collapse_detector_ends_training_after_nan_that_follows_a_collapse():
    net, _, _ = poisoned(Poison(2), Poison(4))
    assert net.collapse_epoch_ == 2
    assert net.diverged_ is True
    assert len(net.history) == 4
    assert vector(net.module_).isfinite().all()


def test_collapse_detector_leaves_sound_training_alone():
    net, _, _ = poisoned()
    assert net.collapse_epoch_ is None
    assert net.diverged_ is False
    assert net.meta_step.enabled
    assert len(net.history) == 5


class Swallow(Callback):
    """Makes the network predict its first class alone, from one epoch on, by its head's bias."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) >= 6:
            net.module_.head.weight.data.zero_()
            net.module_.shortcut.weight.data.zero_()
            net.module_.head.bias.data.copy_(torch.tensor([9.0, 0.0, 0.0]))


def test_collapse_detector_and_monitor_see_a_class_that_swallows_the_others():
    table, history, diary = make_table(40), make_history(40), Diary()
    table.targets[:] = table.X[:, :N_CLASSES].argmax(dim=1)  # there is something to lose
    detector = CollapseDetector(None, history, calibrated=False)
    callbacks = (Swallow(), train_loss(), Monitor(table, 0.5, history, None), detector, diary)
    net = make_net(*callbacks, weighting="wnet", max_epochs=8, lr=0.1)
    detector.meta_step = add_meta_step(net, table, history, n_warmup=4, lr=1e-9)
    net.partial_fit(table)
    assert net.history[:, "n_predicted"][3:] == [N_CLASSES] * 2 + [1] * 3
    assert net.collapse_epoch_ == 8
    assert torch.equal(vector(net.module_), vector(diary.epochs[4]))


# The collapse detector, by hand


class Drive:
    """Runs the detector over scripted epochs, the network of each having parameters of its own.

    An epoch is its CLID and the number of classes predicted after it.
    """

    def __init__(self, warmup, reweighted, n_classes=N_CLASSES, calibrated=False):
        self.net = make_net(weighting="wnet")
        self.meta_step = SimpleNamespace(enabled=True, reweighting=False)
        history = make_history(20)
        history.n_classes = n_classes
        self.detector = CollapseDetector(self.meta_step, history, calibrated)
        self.fill_parameters()
        self.detector.on_train_begin(self.net)
        for epoch in warmup:
            self.epoch(*epoch, reweighting=False)
        for epoch in reweighted:
            self.epoch(*epoch, reweighting=self.meta_step.enabled)

    def epoch(self, clid, n_predicted, reweighting, train_loss=1.0):
        self.meta_step.reweighting = reweighting
        self.net.history.new_epoch()
        self.net.history.record("train_loss", train_loss)
        self.net.history.record("clid", clid)
        self.net.history.record("n_predicted", n_predicted)
        self.fill_parameters()
        self.detector.on_epoch_end(self.net)

    def fill_parameters(self):
        for parameter in self.net.module_.parameters():
            parameter.data.fill_(float(len(self.net.history)))

    def restored(self):
        """Epoch whose network the net has now."""
        (value,) = vector(self.net.module_).unique().tolist()
        return value


def epochs(n_predicted, *clids):
    """Epochs of the same number of predicted classes."""
    return [(clid, n_predicted) for clid in clids]


@pytest.mark.parametrize(
    ("warmup", "reweighted"),
    [
        (epochs(3, -0.3), epochs(2, 0.0, 0.1, 0.0)),
        (epochs(3, -0.3), [(0.1, 2), (0.1, 1), (0.1, 2)]),
        (epochs(2, 0.9, 0.2), epochs(1, 0.3, 0.2, 0.3)),
        # The end of warm-up counts, not its best epoch.
        ([(-0.3, 1), (-0.3, 2)], epochs(1, 0.0, 0.0, 0.0)),
    ],
)
def test_collapse_detector_sees_three_epochs_of_poor_clid_and_fewer_classes(warmup, reweighted):
    drive = Drive(warmup, reweighted)
    assert drive.net.collapse_epoch_ == len(warmup) + COLLAPSE_EPOCHS
    assert drive.meta_step.enabled is False
    assert drive.restored() == len(warmup)
    assert drive.net.diverged_ is False


@pytest.mark.parametrize(
    ("warmup", "reweighted"),
    [
        # Too few in a row.
        (epochs(3, -0.3), epochs(2, 0.1, 0.1)),
        (epochs(3, -0.3), epochs(2, 0.1, 0.1, -0.1, 0.1, 0.1)),
        # Better than a constant predictor, or than the end of warm-up.
        (epochs(3, -0.3), epochs(2, *[-0.01] * 6)),
        (epochs(3, 0.1, 0.4), epochs(2, *[0.3] * 6)),
        # In warm-up.
        (epochs(3, -0.3) + epochs(1, *[0.5] * 6), []),
        # No class is lost.
        (epochs(2, -0.3), epochs(3, *[0.5] * 6)),
        (epochs(3, -0.3), [*epochs(2, 0.5, 0.5), (0.5, 3), *epochs(2, 0.5, 0.5)]),
        ([(-0.3, 3), (-0.3, 2)], epochs(2, *[0.5] * 6)),
        ([], epochs(1, *[0.5] * 6)),  # nothing to compare with
        # Classes are lost, but CLID is good.
        (epochs(3, -0.3), epochs(1, *[-0.3] * 6)),
    ],
)
def test_collapse_detector_raises_no_false_alarm(warmup, reweighted):
    drive = Drive(warmup, reweighted)
    assert drive.net.collapse_epoch_ is None
    assert drive.meta_step.enabled is True
    assert drive.restored() == len(warmup) + len(reweighted)


@pytest.mark.parametrize(
    ("n_classes", "calibrated", "collapses"),
    [(2, True, False), (2, False, True), (3, True, True)],
)
def test_collapse_detector_lets_one_of_two_calibrated_classes_be_predicted_alone(
    n_classes, calibrated, collapses
):
    poor = epochs(2, -0.3), epochs(1, *[0.1] * COLLAPSE_EPOCHS)
    drive = Drive(*poor, n_classes=n_classes, calibrated=calibrated)
    assert drive.net.collapse_epoch_ == (1 + COLLAPSE_EPOCHS if collapses else None)


def test_collapse_detector_goes_back_to_the_epoch_before_the_poor_ones():
    drive = Drive(epochs(3, -0.3, -0.2), epochs(2, -0.1, 0.1, -0.1, 0.1, 0.2, 0.3))
    assert drive.net.collapse_epoch_ == 8
    assert drive.restored() == 5


def test_collapse_detector_accepts_poor_clid_after_a_collapse():
    drive = Drive(epochs(3, -0.3), epochs(2, *[0.1] * 8))
    assert drive.net.collapse_epoch_ == 4
    assert drive.restored() == 9


@pytest.mark.parametrize("figure", ["train_loss", "clid"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_collapse_detector_sees_a_figure_that_is_not_finite_at_once(figure, value):
    drive = Drive([], epochs(1, -1.0))
    drive.epoch(**{"clid": -1.0, "n_predicted": 3, "reweighting": True, figure: value})
    assert drive.net.collapse_epoch_ == 2
    assert drive.restored() == 1


def test_collapse_detector_sees_a_weighting_net_that_is_not_finite():
    drive = Drive([], epochs(3, -1.0))
    drive.net.weight_net_.output.bias.data.fill_(NAN)
    drive.epoch(-1.0, 3, reweighting=True)
    assert drive.net.collapse_epoch_ == 2
    assert vector(drive.net.weight_net_).isfinite().all()


def test_collapse_detector_restores_running_statistics_and_the_sample_history():
    drive = Drive([], [])
    history = drive.detector.history
    drive.net.module_.register_buffer("statistic", torch.zeros(2))
    expected = history.evidence()
    drive.detector.on_train_begin(drive.net)
    drive.net.module_.statistic.fill_(NAN)
    history.record_losses(make_table(20).labels, torch.rand(20, dtype=DTYPE))
    drive.epoch(NAN, 1, reweighting=True)
    assert drive.net.module_.statistic.tolist() == [0, 0]
    assert torch.equal(history.evidence(), expected)


# Early stopping


@pytest.mark.parametrize(
    ("scores", "best", "n_epochs"),
    [
        ([0.5, 0.6, *[0.6] * 9], 2, 2 + PATIENCE),
        ([0.9, *[0.1] * 9], 1, 1 + PATIENCE),
        ([0.5, 0.6, *[0.5] * (PATIENCE - 1), 0.7, 0.1], 2 + PATIENCE, 3 + PATIENCE),
        ([0.1, 0.2, 0.3, 0.4], 4, 4),
    ],
)
def test_early_stopping_ends_without_a_new_best_and_the_best_epoch_predicts(scores, best, n_epochs):
    diary = Diary()
    net = make_net(
        diary, Script(valid_score=scores), EarlyStopping(), max_epochs=len(scores)
    ).partial_fit(make_table(20))
    assert len(net.history) == n_epochs
    assert net.best_epoch_ == best
    assert diary.n_ends == 1
    assert torch.equal(vector(net.module_), vector(diary.epochs[best - 1]))


def test_early_stopping_takes_no_epoch_for_the_best_in_which_the_weighting_collapsed():
    net = make_net(Script(valid_score=[0.5, 0.9, 0.6]), EarlyStopping(), max_epochs=3)
    net.collapse_epoch_ = 2
    net.partial_fit(make_table(20))
    assert net.best_epoch_ == 3


def test_early_stopping_keeps_the_moving_average_of_the_best_epoch():
    diary, scores = Diary(), Script(valid_score=[0.1, 0.7, 0.2])
    callbacks = (ParameterAverage(), diary, scores, EarlyStopping())
    net = make_net(*callbacks, averaged=True, max_epochs=3).partial_fit(make_table(20))
    assert torch.equal(vector(net.module_), diary.evaluated[1])


# The progress bar


def train(verbose, *more, held_out=None, n_stages=1, n_expected=None):
    """Stages of three epochs each; returns the last net."""
    table = make_table(20)
    with progress(verbose, "CLID-MU", n_expected or n_stages) as watchers:
        for _ in range(n_stages):
            monitor = Monitor(table, 0.5, make_history(20), held_out)
            shown = [callback for _, callback in watchers]
            net = make_net(train_loss(), monitor, *shown, *more, max_epochs=3)
            net.partial_fit(table)
    return net


def last_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.split("\r")[-1]


def test_progress_bar_on_stderr_shows_the_figures_of_the_last_epoch(capsys):
    row = train(1, held_out=make_table(9)).history[-1]
    line = last_line(capsys)
    assert line.startswith("CLID-MU 1/1: 100%")
    assert "3/3" in line
    loss, clid, score = row["train_loss"], row["clid"], row["valid_score"]
    assert line.rstrip().endswith(f"loss {loss:.3f}, CLID {clid:.3f}, valid {score:.3f}]")


def test_progress_bar_counts_the_epochs_of_all_stages(capsys):
    train(1, n_stages=2)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1  # it is one and the same line
    lines = captured.err.split("\r")
    assert any(line.startswith("CLID-MU 1/2:  50%") and "3/6" in line for line in lines)
    assert lines[-1].startswith("CLID-MU 2/2: 100%")
    assert "6/6" in lines[-1]


def test_progress_bar_leaves_out_figures_that_do_not_exist_or_are_not_finite(capsys):
    with progress(1, "CLID-MU", 1) as [(_, bar)]:
        net = make_net(Script(train_loss=[NAN], clid=[0.5]), bar)
        net.partial_fit(make_table(20))
    line = last_line(capsys)
    assert line.rstrip().endswith(", CLID 0.500]")
    assert "nan" not in line
    assert "valid" not in line


@pytest.mark.parametrize("n_stages", [1, 2])
def test_progress_bar_takes_off_epochs_that_were_not_needed(n_stages, capsys):
    train(1, Raise("on_epoch_end", StopTraining()), n_stages=n_stages)
    line = last_line(capsys)
    assert f"{n_stages}/{n_stages} [" in line
    assert "100%" in line


def test_progress_bar_is_full_where_fewer_stages_run_than_expected(capsys):
    train(1, n_expected=2)
    line = last_line(capsys)
    assert line.startswith("CLID-MU 1/1: 100%")
    assert "3/3" in line
    assert line.endswith("\n")


def test_progress_bar_is_closed_after_an_error(capsys):
    with pytest.raises(RuntimeError, match="on purpose"):
        train(1, Raise("on_epoch_end", RuntimeError("on purpose")))
    assert last_line(capsys).endswith("\n")


@pytest.mark.parametrize(("verbose", "n_stages"), [(0, 1), (1, 0)])
def test_progress_shows_nothing_when_silent_or_without_a_stage(verbose, n_stages, capsys):
    with progress(verbose, "CLID-MU", 2) as watchers:
        for _ in range(n_stages):
            make_net(*[callback for _, callback in watchers]).partial_fit(make_table(20))
    assert capsys.readouterr() == ("", "")
