import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_clidmu.training.averaging import EarlyStopping, Snapshots, WeightAverage

from .helpers import (
    N_FEATURES,
    WIDTH,
    CountingMLP,
    Diary,
    Script,
    make_net,
    make_table,
    probabilities,
    vector,
)

NAN, INF = math.nan, math.inf
BatchNormMLP = partial(CountingMLP, partial(nn.BatchNorm1d, WIDTH))


# The moving average


def ramped_average(vectors, decay):
    """Average that starts at the first vector and comes to its full length step by step."""
    average = vectors[0]
    for step, value in enumerate(vectors[1:], start=1):
        weight = min(decay, step / (9 + step))
        average = weight * average + (1 - weight) * value
    return average


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9, 0.999])
def test_the_average_predicts_in_the_end(decay):
    diary, table = Diary(), make_table(20)
    net = make_net(diary, WeightAverage(), ema_decay=decay, max_epochs=2).fit(table)
    vectors = [vector(module) for module in diary.modules]
    assert len(vectors) == 24
    torch.testing.assert_close(vector(net.module_), ramped_average(vectors, decay))
    expected = probabilities(net.module_, table.X).numpy()
    assert net.predict(table.X) == pytest.approx(expected)


def test_the_average_is_what_is_evaluated_while_training():
    class Compare(Diary):
        def on_epoch_end(self, net, **kwargs):
            average = ramped_average([vector(module) for module in self.modules], 0.9)
            torch.testing.assert_close(vector(net.evaluated_module), average)
            logits, _ = net.evaluate(table.X)
            torch.testing.assert_close(logits, net.evaluated_module(table.X)[0])
            assert not torch.allclose(vector(net.module_), average)

    table = make_table(20)
    make_net(WeightAverage(), Compare(), ema_decay=0.9, max_epochs=3).fit(table)


class KeepAverage(Diary):
    """Keeps the average after every batch beside the network itself."""

    def on_train_begin(self, net, **kwargs):
        super().on_train_begin(net, **kwargs)
        self.averages = []

    def on_batch_end(self, net, **kwargs):
        super().on_batch_end(net, **kwargs)
        self.averages.append(deepcopy(net.averaged_module_))


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9])
def test_every_step_moves_the_average_by_the_recursion(decay):
    kept = KeepAverage()
    make_net(WeightAverage(), kept, ema_decay=decay, max_epochs=2).fit(make_table(20))
    vectors = [vector(module) for module in kept.modules]
    averages = [vector(module) for module in kept.averages]
    assert torch.equal(averages[0], vectors[0])
    for n_steps, average in enumerate(averages, start=1):
        assert average.dtype == torch.float64
        expected = ramped_average(vectors[:n_steps], decay)
        torch.testing.assert_close(average, expected, rtol=1e-12, atol=1e-14)


def test_the_average_forgets_its_start():
    kept = KeepAverage()
    make_net(WeightAverage(), kept, ema_decay=0.999).fit(make_table(20))
    first, second, third, *_ = (vector(module) for module in kept.modules)
    pair = 0.1 * first + 0.9 * second
    torch.testing.assert_close(vector(kept.averages[1]), pair)
    torch.testing.assert_close(vector(kept.averages[2]), (2 * pair + 9 * third) / 11)


def test_the_average_is_a_network_like_the_one_that_is_trained_with_tensors_of_its_own():
    class Compare(Callback):
        def on_batch_end(self, net, **kwargs):
            average, module = net.averaged_module_, net.module_
            assert net.evaluated_module is average
            assert type(average) is type(module)
            assert average.state_dict().keys() == module.state_dict().keys()
            tensors = zip(average.state_dict().values(), module.state_dict().values(), strict=True)
            assert all(mean.data_ptr() != value.data_ptr() for mean, value in tensors)

    net = make_net(WeightAverage(), Compare(), ema_decay=0.9, network=BatchNormMLP)
    net.fit(make_table(20))


def test_every_training_starts_its_average_anew():
    kept = KeepAverage()
    net = make_net(WeightAverage(), kept, ema_decay=0.999)
    for _ in range(2):
        net.fit(make_table(20))
        assert torch.equal(vector(kept.averages[0]), vector(kept.modules[0]))
        average = ramped_average([vector(module) for module in kept.modules], 0.999)
        torch.testing.assert_close(vector(net.module_), average)


def test_training_itself_does_not_feel_the_average():
    table, plain, averaged = make_table(20), Diary(), Diary()
    for callbacks, decay in (((plain,), None), ((averaged, WeightAverage()), 0.9)):
        torch.manual_seed(0)
        make_net(*callbacks, ema_decay=decay).fit(table)
    assert plain.losses == averaged.losses


def test_running_statistics_of_the_average_are_the_last_ones():
    diary = Diary()
    net = make_net(diary, WeightAverage(), ema_decay=0.9, network=BatchNormMLP)
    net.fit(make_table(20))
    last = dict(diary.modules[-1].named_buffers())
    assert len(last) == 3
    for name, value in net.module_.named_buffers():
        torch.testing.assert_close(value, last[name])


def test_running_statistics_of_the_average_are_those_of_the_network_after_every_step():
    kept = KeepAverage()
    make_net(WeightAverage(), kept, ema_decay=0.9, network=BatchNormMLP).fit(make_table(20))
    for step, (module, average) in enumerate(zip(kept.modules, kept.averages, strict=True), 1):
        statistics = dict(average.named_buffers())
        assert statistics["body.1.num_batches_tracked"] == step
        for name, value in module.named_buffers():
            assert torch.equal(statistics[name], value)


class RunningCentre(CountingMLP):
    """Puts another tensor in the place of its running statistic at every step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(N_FEATURES, dtype=torch.float64))

    def forward(self, X):
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * X.mean(dim=0)
        return super().forward(X)


def test_running_statistics_that_are_replaced_are_followed():
    kept = KeepAverage()
    make_net(WeightAverage(), kept, ema_decay=0.9, network=RunningCentre).fit(make_table(20))
    for module, average in zip(kept.modules, kept.averages, strict=True):
        assert module.centre.abs().min() > 0
        assert torch.equal(average.centre, module.centre)


def test_nothing_is_left_of_the_average_after_training():
    net = make_net(WeightAverage(), ema_decay=0.9).fit(make_table(20))
    assert not hasattr(net, "averaged_module_")
    assert net.evaluated_module is net.module_


# Snapshots


def snapshot_run(n_snapshots, values, lower_is_better=True, **settings):
    """Training rows, the trained net, and the networks as they were after every epoch."""
    table, diary = make_table(20), Diary()
    snapshots = Snapshots(n_snapshots, "figure", lower_is_better)
    callbacks = (diary, Script(figure=values), snapshots)
    net = make_net(*callbacks, max_epochs=len(values), **settings).fit(table)
    return table, net, diary.epochs


@pytest.mark.parametrize(
    ("n_snapshots", "values", "kept"),
    [
        (2, [0.3, 0.1, 0.2, 0.4], [1, 2]),
        (3, [0.3, 0.1, 0.2, 0.4], [0, 1, 2]),
        (2, [-0.1, -0.2, -0.3, -0.4, -0.5], [3, 4]),
        (2, [0.3, NAN, 0.2, -INF, 0.1, INF], [2, 4]),
        (2, [0.5, 0.5, 0.5], [0, 1]),
        (5, [0.3, 0.1], [0, 1]),
        (3, [NAN, 0.1, INF, 0.2], [1, 3]),
    ],
)
def test_the_epochs_of_lowest_key_predict_with_their_mean_probability(n_snapshots, values, kept):
    table, net, epochs = snapshot_run(n_snapshots, values)
    expected = sum(probabilities(epochs[i], table.X) for i in kept) / len(kept)
    assert net.predict(table.X) == pytest.approx(expected.numpy())
    logits, features = net.evaluate(table.X)
    torch.testing.assert_close(logits.softmax(dim=1), expected)
    members = [epochs[i](table.X)[1] for i in kept]
    torch.testing.assert_close(features, sum(members) / len(kept))


@pytest.mark.parametrize(
    ("values", "lower_is_better", "best"),
    [
        ([0.3, 0.1, 0.2], True, 1),
        ([0.3, 0.1, 0.2], False, 0),
        ([0.1, 0.7, 0.7, 0.2], False, 1),
        ([0.4, 0.2, 0.2], True, 1),
        ([NAN, 0.2, INF], False, 1),
    ],
)
def test_one_snapshot_restores_its_epochs_network(values, lower_is_better, best):
    _, net, epochs = snapshot_run(1, values, lower_is_better)
    assert torch.equal(vector(net.module_), vector(epochs[best]))


def test_without_a_finite_value_the_last_network_predicts():
    _, net, epochs = snapshot_run(2, [NAN, INF, NAN])
    assert torch.equal(vector(net.module_), vector(epochs[-1]))


def test_a_snapshot_holds_running_statistics_too():
    _, net, epochs = snapshot_run(1, [0.3, 0.1, 0.2], network=BatchNormMLP)
    for value, expected in zip(net.module_.buffers(), epochs[1].buffers(), strict=True):
        assert torch.equal(value, expected)


def test_snapshots_are_of_the_average_where_there_is_one():
    table, diary = make_table(20), Diary()
    snapshots = Snapshots(1, "figure", True)
    callbacks = (diary, WeightAverage(), Script(figure=[0.1, 0.2]), snapshots)
    net = make_net(*callbacks, ema_decay=0.9, max_epochs=2).fit(table)
    first_epoch = [vector(module) for module in diary.modules[:12]]
    torch.testing.assert_close(vector(net.module_), ramped_average(first_epoch, 0.9))


def test_fitting_again_forgets_earlier_snapshots():
    table, diary, script = make_table(20), Diary(), Script(figure=[0.1, 0.2])
    net = make_net(diary, script, Snapshots(1, "figure", True), max_epochs=2).fit(table)
    script.curves = {"figure": [0.5, 0.4]}
    net.fit(table)
    assert torch.equal(vector(net.module_), vector(diary.epochs[1]))


# Early stopping


@pytest.mark.parametrize(
    ("patience", "scores", "n_epochs"),
    [
        (2, [0.5, 0.6, 0.6, 0.6, 0.6, 0.6], 4),
        (2, [0.5, 0.6, 0.5, 0.7, 0.1, 0.1, 0.9], 6),
        (1, [0.5, 0.5, 0.9], 2),
        (3, [0.9, 0.1, 0.2, 0.3, 0.4], 4),
        (3, [0.1, 0.2, 0.3, 0.4], 4),
    ],
)
def test_training_stops_after_n_iter_no_change_epochs_without_a_new_best(
    patience, scores, n_epochs
):
    diary = Diary()
    callbacks = (diary, Script(valid_score=scores), EarlyStopping(patience))
    net = make_net(*callbacks, max_epochs=len(scores)).fit(make_table(20))
    assert len(net.history) == n_epochs
    assert diary.n_ends == 1


def test_the_best_epoch_predicts_after_early_stopping():
    diary = Diary()
    script = Script(valid_score=[0.5, 0.8, 0.8, 0.7, 0.9])
    callbacks = (diary, script, Snapshots(1, "valid_score", False), EarlyStopping(2))
    net = make_net(*callbacks, max_epochs=5).fit(make_table(20))
    assert len(net.history) == 4
    assert torch.equal(vector(net.module_), vector(diary.epochs[1]))
