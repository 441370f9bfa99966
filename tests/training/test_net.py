import pickle
from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch.nn import functional as F

from sklearn_clidmu.training.averaging import WeightAverage
from sklearn_clidmu.training.net import StopTraining

from .helpers import (
    N_CLASSES,
    CountingMLP,
    Diary,
    Seed,
    batch_norm,
    make_meta_step,
    make_net,
    make_network,
    make_table,
    probabilities,
    vector,
)


def counted(optimizer):
    """The optimizer, made to count its steps and the closures they run."""

    class Counted(optimizer):
        def step(self, closure=None):
            self.counts = getattr(self, "counts", Counter())
            self.counts["steps"] += 1
            self.counts["closures"] += closure is not None
            return super().step(closure)

    return Counted


class Raise(Callback):
    """Raises an exception from one hook."""

    def __init__(self, hook, exception):
        setattr(self, hook, self.strike)
        self.exception = exception

    def strike(self, net, **kwargs):
        raise self.exception


def trained_ids(optimizer):
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def parameter_ids(module):
    return {id(p) for p in module.parameters()}


@pytest.mark.parametrize("weighting", ["wnet", "vri", "evidence"])
def test_each_optimizer_trains_its_own_network_alone(weighting):
    net = make_net(weighting=weighting, ema_decay=0.9).initialize()
    assert trained_ids(net.optimizer_) == parameter_ids(net.module_)
    assert trained_ids(net.meta_optimizer_) == parameter_ids(net.weight_net_)


def test_without_weight_net_there_is_no_meta_optimizer():
    net = make_net().initialize()
    assert trained_ids(net.optimizer_) == parameter_ids(net.module_)
    assert not hasattr(net, "weight_net_")
    assert not hasattr(net, "meta_optimizer_")


def test_dunder_parameters_reach_their_optimizer():
    net = make_net(weighting="wnet", lr=0.25, optimizer__momentum=0.5, meta_optimizer__lr=0.125)
    net.initialize()
    assert net.optimizer_.param_groups[0]["lr"] == 0.25
    assert net.optimizer_.param_groups[0]["momentum"] == 0.5
    assert net.meta_optimizer_.param_groups[0]["lr"] == 0.125


def test_all_networks_lie_on_the_nets_device():
    net = make_net(weighting="vri", ema_decay=0.9, device="meta").initialize()
    for module in (net.module_, net.weight_net_, net.averaged_module_):
        tensors = [*module.parameters(), *module.buffers()]
        assert {t.device.type for t in tensors} == {"meta"}
    for optimizer in (net.optimizer_, net.meta_optimizer_):
        assert {p.device.type for p in optimizer.param_groups[0]["params"]} == {"meta"}


@pytest.mark.parametrize("weighting", [None, "wnet"])
def test_a_batch_is_one_forward_pass_one_closure_and_one_step(weighting):
    net = make_net(
        weighting=weighting,
        network=CountingMLP,
        optimizer=counted(torch.optim.SGD),
        max_epochs=2,
    )
    net.fit(make_table(50))  # 7 batches, twice per epoch
    assert net.module_.n_forwards == {True: 28, False: 0}
    assert net.optimizer_.counts == {"steps": 28, "closures": 28}


@pytest.mark.parametrize("virtual_step", ["head", "full"])
@pytest.mark.parametrize(("interval", "n_meta_steps"), [(1, 28), (3, 10)])
def test_the_meta_optimizer_steps_once_per_due_meta_step(virtual_step, interval, n_meta_steps):
    table = make_table(50)
    net = make_net(
        make_meta_step(table, virtual_step=virtual_step, interval=interval),
        weighting="wnet",
        network=CountingMLP,
        optimizer=counted(torch.optim.SGD),
        meta_optimizer=counted(torch.optim.Adam),
        max_epochs=2,
    )
    net.fit(table)
    assert net.module_.n_forwards[True] == 28
    assert net.optimizer_.counts == {"steps": 28, "closures": 28}
    assert net.meta_optimizer_.counts["steps"] == n_meta_steps


@pytest.mark.parametrize(("batch_size", "n_evaluations"), [(None, 0), (10, 14), (50, 14)])
def test_a_head_step_costs_no_pass_but_that_of_a_drawn_meta_batch(batch_size, n_evaluations):
    table = make_table(50)
    meta_step = make_meta_step(table, batch_size=batch_size)
    net = make_net(meta_step, weighting="wnet", network=CountingMLP).fit(table)
    assert net.module_.n_forwards == {True: 14, False: n_evaluations}


def test_without_callbacks_the_loss_is_the_weighted_cross_entropy():
    diary = Diary()
    make_net(diary).fit(make_table(20))
    for (_, labels, logits), loss in zip(diary.batches, diary.losses, strict=True):
        losses = -logits.log_softmax(dim=1)[torch.arange(len(logits)), labels.targets]
        assert loss == pytest.approx(np.average(losses, weights=labels.sample_weight), rel=1e-12)


def test_every_batch_takes_a_step_of_sgd_on_its_loss():
    diary = Diary()
    make_net(diary, lr=0.3).fit(make_table(20))
    before = [diary.initial, *diary.modules[:-1]]
    for module, (X, labels, _), moved in zip(before, diary.batches, diary.modules, strict=True):
        losses = F.cross_entropy(module(X)[0], labels.targets, reduction="none")
        loss = (losses * labels.sample_weight).sum() / labels.sample_weight.sum()
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        expected = vector(module) - 0.3 * torch.cat([g.flatten() for g in gradients])
        torch.testing.assert_close(vector(moved), expected, rtol=1e-10, atol=1e-12)


def test_the_module_trains_in_train_mode_in_every_epoch():
    class Evaluate(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.evaluate(table.X)

    table = make_table(20)
    net = make_net(Evaluate(), network=CountingMLP, max_epochs=3).fit(table)
    assert net.module_.n_forwards == {True: 36, False: 3}


def test_predict_and_predict_proba_are_softmax_probabilities():
    table = make_table(30)
    net = make_net(max_epochs=3).fit(table)
    expected = probabilities(net.module_, table.X).numpy()
    np.testing.assert_allclose(net.predict(table.X), expected, rtol=1e-12)
    np.testing.assert_allclose(net.predict_proba(table.X), expected, rtol=1e-12)
    np.testing.assert_allclose(expected.sum(axis=1), 1)


@pytest.mark.parametrize("batch_size", [7, 4096])
def test_evaluate_gives_logits_and_features_of_all_rows_whatever_the_batches(batch_size):
    net = make_net(network=make_network(batch_norm)).fit(make_table(30))
    X = make_table(30).X
    logits, features = map(torch.cat, zip(*net.outputs(X, batch_size), strict=True))
    torch.testing.assert_close(net.evaluate(X), (logits, features))
    expected_logits, expected_features = net.module_.eval()(X)
    torch.testing.assert_close(logits, expected_logits.detach())
    torch.testing.assert_close(features, expected_features.detach())
    assert not logits.requires_grad
    assert not features.requires_grad


HOOKS = ["on_train_begin", "on_epoch_begin", "on_logits", "on_batch_end", "on_epoch_end"]


@pytest.mark.parametrize("hook", HOOKS)
def test_keyboard_interrupt_reaches_the_caller(hook):
    net = make_net(Raise(hook, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        net.fit(make_table(20))


@pytest.mark.parametrize("hook", HOOKS[1:])
def test_stop_training_ends_training_in_good_order(hook):
    diary = Diary()
    net = make_net(diary, Raise(hook, StopTraining()), max_epochs=5).fit(make_table(20))
    assert diary.n_ends == 1
    assert len(net.history) == 1
    assert net.predict(make_table(3).X).shape == (3, N_CLASSES)


def test_other_errors_reach_the_caller():
    net = make_net(Raise("on_batch_end", RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        net.fit(make_table(20))


def trimmed_net(table, module):
    net = make_net(
        make_meta_step(table),
        WeightAverage(),
        weighting="evidence",
        network=make_network(module),
        ema_decay=0.9,
    ).fit(table)
    net.trim_for_prediction()
    return net


def by_pickle(net):
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("copy", [by_pickle, deepcopy])
@pytest.mark.parametrize("module", [None, batch_norm])
def test_a_trimmed_net_survives_pickle_and_deepcopy(copy, module):
    table = make_table(20)
    net = trimmed_net(table, module)
    twin = copy(net)
    np.testing.assert_array_equal(twin.predict(table.X), net.predict(table.X))
    torch.testing.assert_close(twin.evaluate(table.X), net.evaluate(table.X), rtol=0, atol=0)
    torch.testing.assert_close(
        twin.weight_net_.state_dict(), net.weight_net_.state_dict(), rtol=0, atol=0
    )
    assert not parameter_ids(twin.module_) & parameter_ids(net.module_)


def test_a_pickled_net_carries_no_training_rows():
    small, large = (len(pickle.dumps(trimmed_net(make_table(n), None))) for n in (20, 500))
    assert large < small + 1000


def test_fitting_again_starts_anew():
    table = make_table(20)
    net = make_net(make_meta_step(table), Seed(), weighting="wnet", max_epochs=2)
    torch.manual_seed(5)
    first = vector(net.fit(table).module_)
    torch.manual_seed(5)
    again = vector(net.fit(table).module_)
    assert len(net.history) == 2
    assert torch.equal(first, again)
