import math
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from skorch.callbacks import Callback

from sklearn_clidmu.mathematics.clid import clid_loss
from sklearn_clidmu.training.averaging import WeightAverage
from sklearn_clidmu.training.ledger import Ledger, LossRecord
from sklearn_clidmu.training.monitor import N_MONITORED, PATIENCE, CollapseGuard, Monitor
from sklearn_clidmu.training.net import BatchLoss

from .helpers import (
    DTYPE,
    N_CLASSES,
    Diary,
    Script,
    make_ledger,
    make_meta_step,
    make_net,
    make_table,
    probabilities,
    train_loss,
    vector,
)


def ones(n):
    return torch.ones(n, dtype=DTYPE)


# Monitor


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_clid_is_that_of_all_rows_less_log_n(temperature):
    table, diary = make_table(40, sample_weight=ones(40)), Diary()
    monitor = Monitor(table, temperature, make_ledger(40), None)
    net = make_net(diary, monitor, max_epochs=3).fit(table)
    outputs = [module.eval()(table.X) for module in diary.epochs]
    expected = [clid_loss(h, z, temperature).item() - math.log(40) for z, h in outputs]
    assert net.history[:, "clid"] == pytest.approx(expected, rel=1e-10)


def test_clid_is_that_of_the_average_where_there_is_one():
    table = make_table(40, sample_weight=ones(40))
    monitor = Monitor(table, 0.5, make_ledger(40), None)
    net = make_net(WeightAverage(), monitor, ema_decay=0.9).fit(table)
    logits, features = net.module_.eval()(table.X)  # the average, by now
    expected = clid_loss(features, logits, 0.5).item() - math.log(40)
    assert net.history[-1, "clid"] == pytest.approx(expected, rel=1e-10)


def test_clid_counts_a_row_of_weight_s_as_s_rows():
    weight = torch.tensor([1, 2, 3, 4, 5], dtype=DTYPE).repeat(8)
    table, diary = make_table(40, sample_weight=weight), Diary()
    net = make_net(diary, Monitor(table, 0.5, make_ledger(40), None)).fit(table)
    repeated = table.X.repeat_interleave(weight.long(), dim=0)
    logits, features = diary.epochs[0].eval()(repeated)
    expected = clid_loss(features, logits, 0.5).item() - math.log(120)
    # Not quite equal: the small constant in the logarithm is not repeated.
    assert net.history[-1, "clid"] == pytest.approx(expected, abs=1e-4)


def test_clid_of_a_large_table_is_measured_on_the_same_rows_in_every_epoch():
    table = make_table(N_MONITORED + 200)
    monitor = Monitor(table, 0.5, make_ledger(len(table)), None)
    net = make_net(monitor, lr=0.0, max_epochs=2, batch_size=len(table)).fit(table)
    first, second = net.history[:, "clid"]
    assert first == second
    index = (monitor.rows.X[:, :1] == table.X[:, 0]).int().argmax(dim=1)
    assert len(index.unique()) == N_MONITORED
    assert torch.equal(monitor.rows.X, table.X[index])
    assert torch.equal(monitor.rows.labels.sample_weight, table.labels.sample_weight[index])


def test_dissent_and_predicted_classes_are_those_of_the_network_after_each_epoch():
    table, diary = make_table(30), Diary()
    monitor = Monitor(table, 0.5, make_ledger(30), None)
    net = make_net(diary, monitor, max_epochs=4).fit(table)
    _, y, weight = (part.numpy() for part in table.labels)
    for module, epoch in zip(diary.epochs, net.history, strict=True):
        predicted = probabilities(module, table.X).argmax(dim=1).numpy()
        accuracy = accuracy_score(y, predicted, sample_weight=weight)
        assert epoch["dissent"] == pytest.approx(1 - accuracy)
        assert epoch["n_predicted"] == len(set(predicted))


class Reader(torch.nn.Module):
    """Reads its logits off the first columns of X."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones((), dtype=DTYPE))

    def forward(self, X):
        return self.scale * X[:, :N_CLASSES], X


@pytest.mark.parametrize("n_predicted", range(1, N_CLASSES + 1))
def test_classes_are_counted_only_if_they_are_predicted(n_predicted):
    table = make_table(10)
    table.X[:] = torch.eye(N_CLASSES, table.X.shape[1])[torch.arange(10) % n_predicted]
    monitor = Monitor(table, 0.5, make_ledger(10), None)
    net = make_net(monitor, network=Reader, lr=0.0).fit(table)
    assert net.history[-1, "n_predicted"] == n_predicted


def test_the_hold_out_is_scored_as_scikit_learn_would():
    table, held_out, diary = make_table(30), make_table(17), Diary()
    net = make_net(diary, Monitor(table, 0.5, make_ledger(30), held_out), max_epochs=3)
    net.fit(table)
    _, y, weight = (part.numpy() for part in held_out.labels)
    for module, epoch in zip(diary.epochs, net.history, strict=True):
        predicted = probabilities(module, held_out.X).numpy()
        score = accuracy_score(y, predicted.argmax(axis=1), sample_weight=weight)
        loss = log_loss(y, predicted, sample_weight=weight, labels=range(N_CLASSES))
        assert epoch["valid_score"] == pytest.approx(score)
        assert epoch["valid_loss"] == pytest.approx(loss)


def test_losses_of_the_hold_out_are_entered_once_an_epoch():
    ledger = Ledger(torch.cat([ones(30), torch.zeros(17)]), N_CLASSES)
    table, held_out, diary = make_table(30), make_table(17, rows=torch.arange(30, 47)), Diary()
    make_net(diary, Monitor(table, 0.5, ledger, held_out), max_epochs=3).fit(table)
    given = [
        probabilities(module, held_out.X)[torch.arange(17), held_out.labels.targets].log()
        for module in diary.epochs
    ]
    assert ledger.n_visits.tolist() == [0] * 30 + [3] * 17
    torch.testing.assert_close(ledger.mean_loss()[30:], -sum(given) / 3)


def test_without_a_hold_out_there_is_no_validation_score():
    table = make_table(30)
    net = make_net(Monitor(table, 0.5, make_ledger(30), None)).fit(table)
    assert not {"valid_score", "valid_loss"} & set(net.history[-1])


# The collapse guard, at work


class Poison(Callback):
    """Makes the loss of one batch nan."""

    def __init__(self, epoch, batch=0):
        self.epoch = epoch
        self.batch = batch

    def on_epoch_begin(self, net, **kwargs):
        self.n_batches = 0

    def on_logits(self, net, logits, backward, **kwargs):
        self.n_batches += 1
        if len(net.history) == self.epoch and self.n_batches == self.batch + 1:
            gradient = torch.full_like(logits, math.nan)
            return BatchLoss(gradient.sum(), partial(backward, gradient))
        return None


class EvaluatedDiary(Diary):
    """Keeps the network that would predict too."""

    def on_train_begin(self, net, **kwargs):
        super().on_train_begin(net, **kwargs)
        self.evaluated = []

    def on_epoch_end(self, net, **kwargs):
        super().on_epoch_end(net, **kwargs)
        self.evaluated.append(vector(net.evaluated_module))


OPTIMIZERS = {
    "sgd": {"optimizer__momentum": 0.9, "optimizer__nesterov": True},
    "adamw": {"optimizer": torch.optim.AdamW, "lr": 0.01},
}


def poisoned_run(*poisons, weighting="wnet", warmup_epochs=1, optimizer="sgd", batch_size=8):
    """Five epochs, in one or more of which the loss is nan."""
    table, diary = make_table(20), EvaluatedDiary()
    meta_step = None
    if weighting is not None:
        meta_step = make_meta_step(table, warmup_epochs=warmup_epochs)
    callbacks = (
        *([] if meta_step is None else [meta_step]),
        *poisons,
        WeightAverage(),
        train_loss(),
        Script(clid=[-1.0] * 5, n_predicted=[N_CLASSES] * 5),
        CollapseGuard(meta_step, make_ledger(20), 2),
        diary,
    )
    settings = {"ema_decay": 0.9, "max_epochs": 5, "batch_size": batch_size}
    net = make_net(*callbacks, weighting=weighting, **settings, **OPTIMIZERS[optimizer])
    return net.fit(table), meta_step, diary


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("batch_size", "batch"), [(8, 0), (8, 11), (20, 0), (20, 9)])
def test_nan_while_reweighting_goes_back_to_the_last_sound_epoch(optimizer, batch_size, batch):
    poison = Poison(epoch=3, batch=batch)
    net, meta_step, diary = poisoned_run(poison, optimizer=optimizer, batch_size=batch_size)
    assert math.isnan(net.history[2, "train_loss"])
    assert torch.equal(vector(diary.epochs[2]), vector(diary.epochs[1]))
    assert torch.equal(diary.evaluated[2], diary.evaluated[1])
    assert net.collapse_epoch_ == 3
    assert net.diverged_ is False
    assert meta_step.enabled is False


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("weighting", ["wnet", "vri", "evidence"])
def test_training_goes_on_with_equal_weights_after_a_collapse(weighting, optimizer):
    net, _, diary = poisoned_run(Poison(3), weighting=weighting, optimizer=optimizer)
    assert len(net.history) == 5
    assert np.isfinite(net.history[3:, "train_loss"]).all()
    assert vector(net.module_).isfinite().all()
    assert not torch.equal(vector(diary.epochs[3]), vector(diary.epochs[2]))
    for (_, labels, logits), loss in list(zip(diary.batches, diary.losses, strict=True))[36:]:
        losses = -logits.log_softmax(dim=1)[torch.arange(len(logits)), labels.targets]
        assert loss == pytest.approx(np.average(losses, weights=labels.sample_weight))


@pytest.mark.parametrize(("weighting", "warmup_epochs"), [(None, 0), ("wnet", 4), ("evidence", 4)])
@pytest.mark.parametrize("epoch", [1, 3])
def test_nan_without_reweighting_ends_training_with_the_last_sound_network(
    weighting, warmup_epochs, epoch
):
    net, _, diary = poisoned_run(Poison(epoch), weighting=weighting, warmup_epochs=warmup_epochs)
    assert net.diverged_ is True
    assert net.collapse_epoch_ is None
    assert len(net.history) == epoch
    assert diary.n_ends == 1
    assert vector(net.module_).isfinite().all()
    last_sound = vector(diary.initial) if epoch == 1 else diary.evaluated[epoch - 2]
    assert torch.equal(vector(net.module_), last_sound)


def test_nan_after_a_collapse_ends_training():
    net, _, _ = poisoned_run(Poison(2), Poison(4))
    assert net.collapse_epoch_ == 2
    assert net.diverged_ is True
    assert len(net.history) == 4
    assert vector(net.module_).isfinite().all()


@pytest.mark.parametrize("warmup_epochs", [1, 4])
def test_nan_leaves_no_trace_in_the_ledger(warmup_epochs):
    rows = torch.arange(20)
    table, held_out = make_table(20, rows=rows), make_table(9, rows=rows[:9] + 20)
    ledger = Ledger(torch.cat([table.labels.sample_weight, torch.zeros(9)]), N_CLASSES)
    meta_step = make_meta_step(table, ledger, warmup_epochs=warmup_epochs)
    monitor = Monitor(table, 0.5, ledger, held_out)
    callbacks = (LossRecord(ledger), meta_step, Poison(3), train_loss(), monitor)
    guard = CollapseGuard(meta_step, ledger, 2)
    net = make_net(*callbacks, guard, weighting="evidence", max_epochs=5).fit(table)
    assert net.diverged_ is (warmup_epochs == 4)
    assert ledger.mean_loss().isfinite().all()
    assert ledger.evidence().isfinite().all()


def test_a_sound_training_is_left_alone():
    net, meta_step, _ = poisoned_run(Poison(99))
    assert net.collapse_epoch_ is None
    assert net.diverged_ is False
    assert meta_step.enabled
    assert len(net.history) == 5


# The collapse guard, by hand


class Drive:
    """Runs the guard over scripted epochs, the network of each having parameters of its own.

    An epoch is its CLID and the number of classes predicted after it.
    """

    def __init__(self, warmup, reweighted, n_predicted=2, n_classes=N_CLASSES, weighting="wnet"):
        self.net = make_net(weighting=weighting).initialize()
        self.meta_step = SimpleNamespace(enabled=True, reweighting=False)
        ledger = make_ledger(20)
        ledger.n_classes = n_classes
        self.guard = CollapseGuard(self.meta_step, ledger, n_predicted)
        self.fill_parameters()
        self.guard.on_train_begin(self.net)
        for clid, n_predicted in warmup:
            self.epoch(clid, n_predicted, reweighting=False)
        for clid, n_predicted in reweighted:
            self.epoch(clid, n_predicted, reweighting=self.meta_step.enabled)

    def epoch(self, clid, n_predicted, reweighting):
        self.meta_step.reweighting = reweighting
        self.net.history.new_epoch()
        self.net.history.record("train_loss", 1.0)
        self.net.history.record("clid", clid)
        self.net.history.record("n_predicted", n_predicted)
        self.fill_parameters()
        self.guard.on_epoch_end(self.net)

    def fill_parameters(self):
        with torch.no_grad():
            for parameter in self.net.module_.parameters():
                parameter.fill_(float(len(self.net.history)))

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
        (epochs(3, -0.3), epochs(1, 0.1, 0.2, 0.3)),
        (epochs(3, -0.3), [(0.1, 2), (0.1, 1), (0.1, 2)]),
        (epochs(2, 0.2), epochs(1, 0.2, 0.2, 0.2)),
        (epochs(2, 0.9, 0.2), epochs(1, 0.3, 0.2, 0.3)),
        # The end of warm-up counts, not its best epoch.
        ([(-0.3, 1), (-0.3, 2)], epochs(1, 0.0, 0.0, 0.0)),
        ([], epochs(1, *[0.5] * PATIENCE)),
    ],
)
def test_three_reweighted_epochs_of_poor_clid_and_fewer_classes_are_a_collapse(warmup, reweighted):
    drive = Drive(warmup, reweighted)
    assert drive.net.collapse_epoch_ == len(warmup) + PATIENCE
    assert drive.meta_step.enabled is False
    assert drive.restored() == len(warmup)
    assert drive.net.diverged_ is False


def check_no_alarm(warmup, reweighted):
    """Reweighting went on to the end, and the last epoch is the sound one."""
    drive = Drive(warmup, reweighted)
    assert drive.net.collapse_epoch_ is None
    assert drive.meta_step.enabled is True
    assert drive.restored() == len(warmup) + len(reweighted)


@pytest.mark.parametrize(
    ("warmup", "reweighted"),
    [
        (epochs(3, -0.3), epochs(2, 0.1, 0.1)),
        (epochs(3, -0.3), epochs(2, 0.1, 0.1, -0.1, 0.1, 0.1)),
        (epochs(3, -0.3), epochs(2, *[-0.01] * 6)),
        (epochs(3, 0.2), epochs(2, *[0.19] * 6)),
        (epochs(3, 0.1, 0.4), epochs(2, *[0.3] * 6)),
        (epochs(3, *[0.5] * 6), []),
        (epochs(3, -0.3) + epochs(1, *[0.5] * 6), []),
    ],
)
def test_fewer_or_milder_epochs_are_none(warmup, reweighted):
    check_no_alarm(warmup, reweighted)


@pytest.mark.parametrize(
    ("warmup", "reweighted"),
    [
        (epochs(3, -0.3), epochs(3, *[0.5] * 6)),
        (epochs(2, -0.3), epochs(3, *[0.5] * 6)),
        (epochs(2, 0.1), epochs(2, *[5.0] * 6)),
        (epochs(3, -0.3), [*epochs(2, 0.5, 0.5), (0.5, 3), *epochs(2, 0.5, 0.5)]),
        ([(-0.3, 3), (-0.3, 2)], epochs(2, *[0.5] * 6)),
        ([], epochs(2, *[0.5] * 6)),
    ],
)
def test_poor_clid_alone_raises_no_alarm_while_no_class_is_lost(warmup, reweighted):
    check_no_alarm(warmup, reweighted)


@pytest.mark.parametrize(
    ("asked_for", "n_predicted", "collapse_epoch"),
    [(1, 1, None), (2, 1, PATIENCE), (2, 2, None), (3, 2, PATIENCE)],
)
def test_without_warm_up_as_many_classes_must_be_predicted_as_are_asked_for(
    asked_for, n_predicted, collapse_epoch
):
    drive = Drive([], epochs(n_predicted, *[0.5] * 6), asked_for)
    assert drive.net.collapse_epoch_ == collapse_epoch
    assert drive.meta_step.enabled is (collapse_epoch is None)


@pytest.mark.parametrize("asked_for", [1, 2, 3])
def test_after_warm_up_its_end_alone_tells_how_many_classes_must_be_predicted(asked_for):
    assert Drive(epochs(2, -0.3), epochs(1, *[0.5] * 6), asked_for).net.collapse_epoch_ == 4
    assert Drive(epochs(1, -0.3), epochs(1, *[0.5] * 6), asked_for).net.collapse_epoch_ is None


def test_clid_that_is_not_finite_is_a_collapse_however_few_classes_are_asked_for():
    drive = Drive([], epochs(1, 0.5, math.nan), n_predicted=1)
    assert drive.net.collapse_epoch_ == 2
    assert drive.restored() == 1


def test_lost_classes_alone_raise_no_alarm_while_clid_is_good():
    drive = Drive(epochs(3, -0.3), epochs(1, *[-0.3] * 6))
    assert drive.net.collapse_epoch_ is None
    assert drive.restored() == 7


@pytest.mark.parametrize(
    ("n_classes", "weighting", "collapses"),
    [(2, "evidence", False), (2, "wnet", True), (2, "vri", True), (3, "evidence", True)],
)
def test_of_two_classes_with_the_evidence_net_one_may_be_predicted_alone(
    n_classes, weighting, collapses
):
    poor = epochs(2, -0.3), epochs(1, *[0.1] * PATIENCE)
    drive = Drive(*poor, n_classes=n_classes, weighting=weighting)
    assert drive.net.collapse_epoch_ == (1 + PATIENCE if collapses else None)


def test_a_collapse_goes_back_to_the_epoch_before_the_poor_ones():
    drive = Drive(epochs(3, -0.3, -0.2), epochs(2, -0.1, 0.1, -0.1, 0.1, 0.2, 0.3))
    assert drive.net.collapse_epoch_ == 8
    assert drive.restored() == 5


def test_poor_clid_after_a_collapse_is_accepted():
    drive = Drive(epochs(3, -0.3), epochs(2, *[0.1] * 8))
    assert drive.net.collapse_epoch_ == 4
    assert drive.restored() == 9


class Swallow(Callback):
    """Makes the network predict its first class alone, from one epoch on, by its head's bias."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) >= self.epoch:
            with torch.no_grad():
                net.module_.head.weight.zero_()
                net.module_.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))


def test_a_class_that_swallows_the_others_is_seen_by_monitor_and_guard_together():
    table, ledger, diary = make_table(40), make_ledger(40), Diary()
    table.targets[:] = table.X[:, :N_CLASSES].argmax(dim=1)  # there is something to lose
    meta_step = make_meta_step(table, ledger, warmup_epochs=4)
    guard = CollapseGuard(meta_step, ledger, 2)
    monitor = Monitor(table, 0.5, ledger, None)
    callbacks = (meta_step, Swallow(6), train_loss(), monitor, guard, diary)
    settings = {"weighting": "wnet", "meta_optimizer__lr": 1e-9, "lr": 0.1}
    net = make_net(*callbacks, max_epochs=8, **settings).fit(table)
    assert net.history[3:5, "n_predicted"] == [N_CLASSES] * 2
    assert net.history[5:, "n_predicted"] == [1, 1, 1]
    assert net.collapse_epoch_ == 8
    assert torch.equal(vector(net.module_), vector(diary.epochs[4]))


@pytest.mark.parametrize("figure", ["train_loss", "clid"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_is_a_collapse_at_once(figure, value):
    table, diary = make_table(20), Diary()
    meta_step = make_meta_step(table)
    curves = {"train_loss": [1.0] * 4, "clid": [-1.0] * 4, "n_predicted": [N_CLASSES] * 4}
    curves[figure] = [curves[figure][0], value, *curves[figure][2:]]
    guard = CollapseGuard(meta_step, make_ledger(20), 2)
    callbacks = (meta_step, Script(**curves), guard, diary)
    net = make_net(*callbacks, weighting="wnet", max_epochs=4).fit(table)
    assert net.collapse_epoch_ == 2
    assert torch.equal(vector(diary.epochs[1]), vector(diary.epochs[0]))


def test_the_guard_starts_anew_with_every_training():
    net, _, _ = poisoned_run(Poison(3), weighting=None)
    assert net.diverged_
    net.set_params(callbacks__callback_0=Poison(99))
    net.fit(make_table(20))
    assert not net.diverged_
    assert len(net.history) == 5


def test_running_statistics_are_restored_too():
    net = make_net().initialize()
    net.module_.register_buffer("statistic", torch.zeros(2))
    guard = CollapseGuard(SimpleNamespace(reweighting=True), make_ledger(20), 2)
    guard.on_train_begin(net)
    expected = deepcopy(net.module_.state_dict())
    net.module_.statistic.fill_(math.nan)
    net.history.new_epoch()
    net.history.record("train_loss", math.nan)
    net.history.record("clid", math.nan)
    net.history.record("n_predicted", 1)
    guard.on_epoch_end(net)
    assert torch.equal(net.module_.statistic, expected["statistic"])
