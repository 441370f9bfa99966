import pickle
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from sklearn_clidmu.training.averaging import WeightAverage
from sklearn_clidmu.training.net import BatchLoss, StopTraining, step_without_hooks

from .helpers import (
    N_CLASSES,
    CountingMLP,
    CountingTracedMLP,
    Diary,
    Seed,
    batch_norm,
    make_meta_step,
    make_net,
    make_network,
    make_table,
    probabilities,
    train_loss,
    vector,
)

COUNTING = [CountingMLP, CountingTracedMLP]


def counted(optimizer):
    """The optimizer, made to count its steps."""

    class Counted(optimizer):
        n_steps = 0

        def step(self, closure=None):
            self.n_steps += 1
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


@pytest.mark.parametrize("network", COUNTING)
@pytest.mark.parametrize("weighting", [None, "wnet"])
def test_a_batch_is_one_forward_pass_and_one_step(weighting, network):
    net = make_net(
        weighting=weighting,
        network=network,
        optimizer=counted(torch.optim.SGD),
        max_epochs=2,
    )
    net.fit(make_table(50))  # 7 batches, twice per epoch
    assert net.module_.n_forwards == {True: 28, False: 0}
    assert net.optimizer_.n_steps == 28


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "fused": True}),
        (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
        (torch.optim.Adam, {}),
    ],
)
def test_a_step_without_hooks_is_torchs_own(optimizer, settings):
    start = [torch.randn(3, 4), torch.randn(5)]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(3)]

    def trained(step):
        parameters = [nn.Parameter(p.clone()) for p in start]
        made = optimizer(parameters, lr=0.1, **settings)
        for given in gradients:
            for parameter, gradient in zip(parameters, given, strict=True):
                parameter.grad = gradient
            step(made)
        return parameters

    for found, expected in zip(trained(step_without_hooks), trained(optimizer.step), strict=True):
        assert found.requires_grad
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("network", "virtual_step", "n_evaluations"),
    [
        (CountingMLP, "head", 0),
        (CountingMLP, "full", 3),
        (CountingTracedMLP, "head", 0),
        (CountingTracedMLP, "full", 1),  # of the meta batch alone
    ],
)
@pytest.mark.parametrize(("interval", "n_meta_steps"), [(1, 28), (3, 10)])
def test_the_meta_optimizer_steps_once_per_due_meta_step(
    network, virtual_step, n_evaluations, interval, n_meta_steps
):
    table = make_table(50)
    net = make_net(
        make_meta_step(table, virtual_step=virtual_step, interval=interval),
        weighting="wnet",
        network=network,
        optimizer=counted(torch.optim.SGD),
        meta_optimizer=counted(torch.optim.Adam),
        max_epochs=2,
    )
    net.fit(table)
    assert net.module_.n_forwards == {True: 28, False: n_evaluations * n_meta_steps}
    assert net.optimizer_.n_steps == 28
    assert net.meta_optimizer_.n_steps == n_meta_steps


@pytest.mark.parametrize("network", COUNTING)
@pytest.mark.parametrize(("batch_size", "n_evaluations"), [(None, 0), (10, 14), (50, 14)])
def test_a_head_step_costs_no_pass_but_that_of_a_drawn_meta_batch(
    batch_size, n_evaluations, network
):
    table = make_table(50)
    meta_step = make_meta_step(table, batch_size=batch_size)
    net = make_net(meta_step, weighting="wnet", network=network).fit(table)
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


class LogitDecay(Callback):
    """Replaces the loss of every batch by the mean squared logit, times a factor."""

    def __init__(self, factor=1.0, shift=0.0, n_batches=100):
        self.factor, self.shift, self.n_batches = factor, shift, n_batches

    def on_logits(self, net, logits, backward, **kwargs):
        self.n_batches -= 1
        if self.n_batches < 0:
            return None
        loss = self.factor * logits.square().mean()
        gradient = 2 * self.factor * logits / logits.numel()
        return BatchLoss(loss + self.shift, partial(backward, gradient))


@pytest.mark.parametrize(
    "callbacks", [[LogitDecay(3.0)], [LogitDecay(7.0), LogitDecay(3.0), LogitDecay(n_batches=0)]]
)
def test_the_last_batch_loss_that_a_callback_returns_is_stepped_on(callbacks):
    diary = Diary()
    make_net(*callbacks, diary, lr=0.3).fit(make_table(20))
    before = [diary.initial, *diary.modules[:-1]]
    batches = zip(before, diary.batches, diary.losses, diary.modules, strict=True)
    for module, (X, _, _), recorded, moved in batches:
        loss = 3 * module(X)[0].square().mean()
        assert recorded == pytest.approx(loss.item(), rel=1e-12)
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        expected = vector(module) - 0.3 * torch.cat([g.flatten() for g in gradients])
        torch.testing.assert_close(vector(moved), expected, rtol=1e-10, atol=1e-12)


def test_the_batch_loss_of_a_callback_takes_the_place_of_the_meta_steps():
    table, plain, diary = make_table(20), Diary(), Diary()
    for callbacks in ([], [make_meta_step(table)]):
        torch.manual_seed(0)
        kept = diary if callbacks else plain
        net = make_net(*callbacks, LogitDecay(), Seed(), kept, weighting="wnet").fit(table)
    assert diary.losses == plain.losses
    assert torch.equal(vector(net.module_), vector(plain.modules[-1]))
    assert all(diary.weight_net_moved())


def test_the_value_of_the_batch_loss_is_what_is_recorded_as_train_loss():
    diary = Diary()
    callbacks = (LogitDecay(shift=100.0), train_loss(), diary)
    net = make_net(*callbacks, max_epochs=2).fit(make_table(20))
    sizes = [len(X) for X, _, _ in diary.batches]
    assert min(diary.losses) > 100
    expected = [np.average(diary.losses[i : i + 12], weights=sizes[i : i + 12]) for i in (0, 12)]
    assert net.history[:, "train_loss"] == pytest.approx(expected, rel=1e-12)


def test_without_a_batch_loss_of_a_callback_its_batches_are_plain():
    diary = Diary()
    make_net(LogitDecay(n_batches=5), diary).fit(make_table(20))
    for (_, labels, logits), loss in list(zip(diary.batches, diary.losses, strict=True))[5:]:
        losses = F.cross_entropy(logits, labels.targets, reduction="none").numpy()
        assert loss == pytest.approx(np.average(losses, weights=labels.sample_weight))


class Inspect(Callback):
    """Keeps what callbacks are told of every batch."""

    def on_train_begin(self, net, **kwargs):
        self.told = []

    def on_logits(self, net, **kwargs):
        self.told.append(kwargs)


@pytest.mark.parametrize("network", [None, make_network(dropout=0.5), *COUNTING])
def test_callbacks_are_told_of_every_rows_loss_and_its_gradient_by_the_logits(network):
    inspect, diary = Inspect(), Diary()
    make_net(inspect, diary, network=network).fit(make_table(20))
    assert len(inspect.told) == 12
    for told, (X, labels, logits) in zip(inspect.told, diary.batches, strict=True):
        assert torch.equal(told["X"], X)
        assert torch.equal(told["labels"].targets, labels.targets)
        assert torch.equal(told["logits"], logits)
        leaf = logits.clone().requires_grad_()
        losses = F.cross_entropy(leaf, labels.targets, reduction="none")
        torch.testing.assert_close(told["losses"], losses.detach())
        (errors,) = torch.autograd.grad(losses.sum(), leaf)
        torch.testing.assert_close(told["errors"], errors, rtol=1e-12, atol=1e-15)
        assert not told["losses"].requires_grad
        assert not told["errors"].requires_grad


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_callbacks_are_told_of_the_pass_of_the_packages_own_network(dropout):
    inspect = Inspect()
    net = make_net(inspect, network=make_network(dropout=dropout)).fit(make_table(20))
    linear = [m for m in net.module_.modules() if isinstance(m, torch.nn.Linear)]
    for told in inspect.told:
        traced = told["traced"]
        assert all(layer is m for layer, m in zip(traced.layers, linear, strict=True))
        assert traced.inputs[0] is told["X"]
        assert traced.features is told["features"]
        assert traced.logits is told["logits"]


@pytest.mark.parametrize("network", [CountingMLP, make_network(batch_norm)])
def test_other_networks_are_not_traced(network):
    inspect = Inspect()
    make_net(inspect, network=network).fit(make_table(20))
    assert [told["traced"] for told in inspect.told] == [None] * 12


@pytest.mark.parametrize("network", COUNTING)
def test_the_module_trains_in_train_mode_in_every_epoch(network):
    class Evaluate(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.evaluate(table.X)

    table = make_table(20)
    net = make_net(Evaluate(), network=network, max_epochs=3).fit(table)
    assert net.module_.n_forwards == {True: 36, False: 3}


@pytest.mark.parametrize("virtual_step", [None, "head", "full"])
@pytest.mark.parametrize("network", [*COUNTING, make_network(batch_norm)])
def test_a_module_in_evaluation_mode_is_put_into_training_mode_and_left_there(
    network, virtual_step
):
    class Switch(Callback):
        def on_batch_begin(self, net, **kwargs):
            net.module_.eval()

        def on_logits(self, net, **kwargs):
            assert all(module.training for module in net.module_.modules())

        def on_batch_end(self, net, **kwargs):
            assert all(module.training for module in net.module_.modules())

    table, first, last = make_table(20), Switch(), Switch()
    meta_steps = []
    if virtual_step is not None:
        meta_steps.append(make_meta_step(table, virtual_step=virtual_step, batch_size=7))
    net = make_net(first, *meta_steps, last, weighting="wnet", network=network).fit(table)
    if network in COUNTING:
        assert net.module_.n_forwards[True] == 12


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


def test_a_net_without_an_optimizer_predicts():
    table = make_table(20)
    net = make_net(weighting="evidence", optimizer=None).initialize()
    assert not hasattr(net, "optimizer_")
    assert not hasattr(net, "meta_optimizer_")
    net.trim_for_prediction()
    logits, _ = net.evaluate(table.X)
    torch.testing.assert_close(torch.tensor(net.predict_proba(table.X)), logits.softmax(dim=1))


def test_fitting_again_starts_anew():
    table = make_table(20)
    net = make_net(make_meta_step(table), Seed(), weighting="wnet", max_epochs=2)
    torch.manual_seed(5)
    first = vector(net.fit(table).module_)
    torch.manual_seed(5)
    again = vector(net.fit(table).module_)
    assert len(net.history) == 2
    assert torch.equal(first, again)


def test_a_first_partial_fit_is_a_fit():
    table, fitted, begun = make_table(20), make_net(), make_net()
    for train in (fitted.fit, begun.partial_fit):
        torch.manual_seed(5)
        train(table)
    assert len(begun.history) == len(fitted.history) > 0
    assert torch.equal(vector(begun.module_), vector(fitted.module_))
