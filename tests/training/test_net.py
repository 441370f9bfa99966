"""The skorch net: steps, losses, the end of training, predictions."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from clid.helpers import N_CLASSES, NETWORKS, mlp
from scipy.sparse import csr_array
from skorch.callbacks import Callback
from torch.nn import functional as F

from sklearn_clidmu.training.data import as_rows
from sklearn_clidmu.training.net import StopTraining

from .helpers import (
    WEIGHT_NETS,
    Diary,
    Raise,
    add_meta_step,
    flat_gradient,
    make_history,
    make_net,
    make_table,
    plain_loss,
    vector,
)

HOOKS = ["on_train_begin", "on_epoch_begin", "on_batch_begin", "on_batch_end", "on_epoch_end"]


def probabilities(module, X):
    with torch.no_grad():
        return module.eval()(X)[0].softmax(dim=1).numpy()


@pytest.mark.parametrize("weighting", WEIGHT_NETS)
def test_net_optimizer_trains_the_network_alone(weighting):
    net = make_net(weighting=weighting, averaged=True, optimizer__momentum=0.5, lr=0.25)
    [group] = net.optimizer_.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in net.module_.parameters()}
    assert (group["lr"], group["momentum"]) == (0.25, 0.5)


def test_net_has_all_its_networks_on_its_device():
    net = make_net(weighting="vri", averaged=True, device="meta")
    for module in (net.module_, net.weight_net_, net.averaged_module_):
        assert {p.device.type for p in module.parameters()} == {"meta"}


def test_net_average_starts_as_a_copy_with_tensors_of_its_own():
    net = make_net(averaged=True, network=NETWORKS["tapped batch norm"])
    average, module = net.averaged_module_.state_dict(), net.module_.state_dict()
    assert average.keys() == module.keys()
    for name, value in module.items():
        assert torch.equal(average[name], value)
        assert average[name].data_ptr() != value.data_ptr()


def test_net_takes_a_step_of_sgd_on_the_weighted_cross_entropy_of_every_batch():
    diary = Diary()
    net = make_net(diary, max_epochs=2).partial_fit(make_table(20))
    assert net.n_steps_ == len(diary.batches) == 18  # three batches a pass, three passes
    steps = zip(diary.before(), diary.batches, diary.losses, diary.modules, strict=True)
    for module, (X, labels, _), recorded, moved in steps:
        loss = plain_loss(module(X)[0], labels)
        assert recorded == pytest.approx(loss.item(), rel=1e-12)
        expected = vector(module) - 0.3 * flat_gradient(loss, module.parameters())
        torch.testing.assert_close(vector(moved), expected, rtol=1e-10, atol=1e-12)


class SquaredLogits:
    """Gives the loss of the first batches."""

    def __init__(self, n_batches):
        self.n_batches = n_batches

    def training_loss(self, net, X, labels, logits, features, losses):
        self.n_batches -= 1
        return None if self.n_batches < 0 else 3 * logits.square().mean()


def test_net_steps_on_the_loss_of_the_meta_step_where_there_is_one():
    diary = Diary()
    make_net(diary, meta_step=SquaredLogits(5)).partial_fit(make_table(20))
    steps = zip(diary.before(), diary.batches, diary.losses, diary.modules, strict=True)
    for number, (module, (X, labels, _), recorded, moved) in enumerate(steps):
        logits, _ = module(X)
        loss = 3 * logits.square().mean() if number < 5 else plain_loss(logits, labels)
        assert recorded == pytest.approx(loss.item(), rel=1e-12)
        expected = vector(module) - 0.3 * flat_gradient(loss, module.parameters())
        torch.testing.assert_close(vector(moved), expected, rtol=1e-10, atol=1e-12)


class Outputs(Callback):
    """Keeps what callbacks are told of every batch."""

    def on_train_begin(self, net, **kwargs):
        self.told = []

    def on_batch_end(self, net, batch, y_pred, features, losses, **kwargs):
        self.told.append((batch, y_pred, features, losses))


def test_net_tells_callbacks_the_outputs_and_losses_of_every_row():
    outputs, diary = Outputs(), Diary()
    make_net(outputs, diary).partial_fit(make_table(20))
    for module, ((X, labels), *found) in zip(diary.before(), outputs.told, strict=True):
        logits, features = module(X)
        expected = logits, features, F.cross_entropy(logits, labels.targets, reduction="none")
        for part, whole in zip(found, expected, strict=True):
            assert not part.requires_grad
            torch.testing.assert_close(part, whole.detach())


@pytest.mark.parametrize("virtual_step", [None, "head", "full"])
def test_net_trains_in_training_mode_whatever_mode_the_network_was_left_in(virtual_step):
    class Switch(Callback):
        def on_batch_begin(self, net, **kwargs):
            net.module_.eval()

        def on_batch_end(self, net, **kwargs):
            assert all(module.training for module in net.module_.modules())

    table = make_table(20)
    net = make_net(Switch(), weighting="wnet", network=lambda: mlp(dropout=0.5))
    if virtual_step is not None:
        add_meta_step(net, table, virtual_step=virtual_step, meta_batch_size=7)
    net.partial_fit(table)
    assert net.n_steps_ == 9


def test_net_predicts_softmax_probabilities():
    table = make_table(30)
    net = make_net(max_epochs=3).partial_fit(table)
    expected = probabilities(net.module_, table.X)
    np.testing.assert_allclose(net.predict(table.X), expected, rtol=1e-12)
    np.testing.assert_allclose(net.predict_proba(table.X), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["float64", "float32", "sparse"])
def test_net_outputs_do_not_depend_on_the_batches(kind):
    net = make_net(network=NETWORKS["tapped batch norm"]).partial_fit(make_table(30))
    X = make_table(30).X.float().double()
    given = {
        "float64": X,
        "float32": X.float(),
        "sparse": as_rows(csr_array(X.numpy())),
    }[kind]
    logits, features = map(torch.cat, zip(*net.outputs(given, 7), strict=True))
    torch.testing.assert_close(net.evaluate(given), (logits, features))
    expected_logits, expected_features = net.module_.eval()(X)
    torch.testing.assert_close(logits, expected_logits.detach())
    torch.testing.assert_close(features, expected_features.detach())
    assert not logits.requires_grad
    assert not features.requires_grad


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("exception", [KeyboardInterrupt(), RuntimeError("on purpose")], ids=repr)
def test_net_lets_ctrl_c_and_errors_through(hook, exception):
    net = make_net(Raise(hook, exception))
    with pytest.raises(type(exception)):
        net.partial_fit(make_table(20))


@pytest.mark.parametrize("hook", HOOKS[1:])
def test_net_stop_training_ends_training_in_good_order(hook):
    diary = Diary()
    net = make_net(diary, Raise(hook, StopTraining()), max_epochs=5).partial_fit(make_table(20))
    assert diary.n_ends == 1
    assert len(net.history) == 1
    assert net.predict(make_table(3).X).shape == (3, N_CLASSES)


@pytest.mark.parametrize("copy", [lambda net: pickle.loads(pickle.dumps(net)), deepcopy])
def test_net_without_an_optimizer_predicts_and_its_copies_do(copy):
    def build(optimizer):
        net = make_net(weighting="evidence", optimizer=optimizer)
        net.set_params(module=_module, weight_net=None)
        return net

    trained, net = build(torch.optim.SGD).partial_fit(make_table(20)), build(None)
    assert not hasattr(net, "optimizer_")
    net.module_.load_state_dict(trained.module_.state_dict())
    X, twin = make_table(9).X, copy(net)
    np.testing.assert_array_equal(twin.predict_proba(X), trained.predict_proba(X))
    net.module_.head.bias.data += torch.arange(N_CLASSES)
    np.testing.assert_array_equal(twin.predict_proba(X), trained.predict_proba(X))


def _module():
    return mlp().double()


@pytest.mark.parametrize("weighting", WEIGHT_NETS)
def test_net_draws_the_same_numbers_with_and_without_a_weighting_net(weighting):
    table, diaries = make_table(20), []
    for kind in (None, weighting):
        torch.manual_seed(5)
        diaries.append(Diary())
        net = make_net(diaries[-1], weighting=kind, averaged=kind is not None)
        net.partial_fit(table)
    plain, other = diaries
    assert torch.equal(vector(plain.initial), vector(other.initial))
    assert plain.losses == other.losses


def test_net_of_the_same_seed_is_the_same():
    table, history, found = make_table(20), make_history(20), []
    for _ in range(2):
        torch.manual_seed(5)
        net = make_net(weighting="vri", network=lambda: mlp(dropout=0.5), max_epochs=2)
        add_meta_step(net, table, history)
        net.partial_fit(table)
        found.append(torch.cat([vector(net.module_), vector(net.weight_net_)]))
    assert torch.equal(*found)
