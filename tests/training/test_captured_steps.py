"""Steps that are recorded and replayed against the same steps taken one by one."""

import math
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_clidmu.mathematics.objectives import cross_entropy, mean_absolute_error
from sklearn_clidmu.training import captured_steps
from sklearn_clidmu.training.averaging import WeightAverage
from sklearn_clidmu.training.batches import Labels
from sklearn_clidmu.training.captured_steps import CapturedSteps, CudaRecorder
from sklearn_clidmu.training.ledger import LossRecord
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.schedule import CosineDecay

from .helpers import (
    Seed,
    dropping,
    make_ledger,
    make_meta_step,
    make_net,
    make_network,
    make_table,
)
from .host_recorder import HostRecorder, record_on_the_host

N_EPOCHS, N_STEPS = 8, 12
"""Of every training below; steps of an epoch."""

OWN_RECORDER = ReweightedNet.make_recorder


@pytest.fixture(autouse=True)
def few_eager_steps(monkeypatch):
    monkeypatch.setattr(captured_steps, "N_EAGER", 2)


@pytest.fixture
def recorders(monkeypatch):
    """Recorders of the nets that are trained from here on, which record on the CPU."""
    return record_on_the_host(monkeypatch, n_eager=2)


def trained(weighting, *callbacks, optimizer=torch.optim.SGD, network=None, **settings):
    """Train on 20 rows, an epoch in four passes over batches of 6, 7 and 7; return the net."""
    torch.manual_seed(0)
    table, ledger = make_table(20), make_ledger(20)
    parts = [LossRecord(ledger)]
    more = {"optimizer__momentum": 0.9} if optimizer is torch.optim.SGD else {}
    if weighting is not None:
        parts.append(make_meta_step(table, ledger, **{"warmup_epochs": 2, **settings}))
        more["meta_optimizer__fused"] = True
    net = make_net(
        Seed(),
        *parts,
        CosineDecay(N_EPOCHS * N_STEPS),
        WeightAverage(),
        *callbacks,
        weighting=weighting,
        network=make_network(dropout=0.3) if network is None else network,
        optimizer=optimizer,
        optimizer__fused=True,
        lr=0.1,
        ema_decay=0.9,
        max_epochs=N_EPOCHS,
        batch_size=7,
        **more,
    )
    return net.fit(table)


def same(found, expected):
    """In all that training leaves behind; forward mode alone rounds another way in a replay."""

    def close(first, second):
        torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-8, equal_nan=True)

    for name in ("module_", "weight_net_"):
        modules = [getattr(net, name, nn.Identity()) for net in (found, expected)]
        close(*(module.state_dict() for module in modules))
    close(*(net.callbacks[1][1].ledger.copy_entries() for net in (found, expected)))
    close(*(net.history[:, "batches", :, "train_loss"] for net in (found, expected)))
    if expected.weight_net is not None:
        close(*(net.history[:, "meta_loss"] for net in (found, expected)))


SETTINGS = {
    "head": {},
    "full": {"virtual_step": "full"},
    "every third": {"interval": 3},
    "drawn": {"batch_size": 9},
    "full, drawn": {"virtual_step": "full", "batch_size": 9},
    "mae": {"objective": mean_absolute_error},
    "small loss": {"objective": cross_entropy},
}


def one_by_one(monkeypatch, *args, **settings):
    """Train as a GPU would without recordings: the learning rate is a tensor of float32."""
    with monkeypatch.context() as patch:
        patch.setattr(captured_steps, "N_EAGER", math.inf)
        return trained(*args, **settings)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weighting", ["wnet", "vri", "evidence"])
def test_replayed_steps_train_as_steps_taken_one_by_one(
    weighting, settings, optimizer, recorders, monkeypatch
):
    settings = {"optimizer": optimizer, **SETTINGS[settings]}
    expected = one_by_one(monkeypatch, weighting, **settings)
    found = trained(weighting, **settings)
    assert found.capture_error_ is None
    assert recorders[0].n_replays == 0
    assert recorders[1].n_replays > 60
    same(found, expected)


@pytest.mark.parametrize("interval", [1, 3])
def test_batches_of_replayed_steps_join_as_those_of_others_do(interval, recorders, monkeypatch):
    settings = {"batches_per_step": 4, "interval": interval}
    expected = one_by_one(monkeypatch, "evidence", **settings)
    found = trained("evidence", **settings)
    assert found.capture_error_ is None
    assert recorders[1].n_replays > 60
    same(found, expected)


def test_plain_steps_are_replayed_too(recorders, monkeypatch):
    expected = one_by_one(monkeypatch, None)
    found = trained(None)
    assert recorders[1].n_replays == N_EPOCHS * N_STEPS - 2 * 2  # two sizes, twice eager each
    same(found, expected)


def test_every_kind_of_step_is_recorded_once(recorders):
    trained("evidence", interval=2)
    # Two sizes of batches; with and without a meta step, in warm-up and after it.
    assert recorders[0].n_recordings == 2 * 2 * 2


def test_steps_of_batches_that_join_are_of_one_kind_with_and_without_a_meta_step(recorders):
    trained("evidence", interval=2, batches_per_step=4)
    assert recorders[0].n_recordings == 2 * 2  # two sizes, in warm-up and after it


class Restart(Callback):
    """Puts the ledger and the optimizer back where they were, as after a collapse."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def on_epoch_end(self, net, **kwargs):
        ledger = net.callbacks_[1][1].ledger
        if len(net.history) == 1:
            self.entries = ledger.copy_entries()
        if len(net.history) == self.n_epochs:
            ledger.put_back(self.entries)
            net.restart_optimizer()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_are_recorded_anew_once_the_optimizer_begins_anew(optimizer, recorders, monkeypatch):
    settings = {"optimizer": optimizer}
    expected = one_by_one(monkeypatch, "evidence", Restart(5), **settings)
    found = trained("evidence", Restart(5), **settings)
    assert recorders[1].n_recordings == 2 * 2 + 2
    same(found, expected)


# What is not recorded


def test_on_the_cpu_nothing_is_recorded():
    assert OWN_RECORDER(trained(None)) is None


def test_the_callers_network_is_not_recorded(monkeypatch):
    net = trained(None, network=make_network(dropping))
    net.device = "cuda"
    assert OWN_RECORDER(net) is None


class Silent(Callback):
    """Does not say what it decides in a step."""

    def on_logits(self, net, **kwargs):
        pass


class Undecided(Silent):
    kind = None


@pytest.mark.parametrize("callback", [Silent, Undecided])
def test_steps_are_taken_one_by_one_where_a_callback_does_not_say_of_what_kind(callback, recorders):
    trained("evidence", callback())
    assert recorders[0].n_recordings == 0


def test_steps_with_the_callers_objective_are_taken_one_by_one(recorders):
    trained("evidence", objective=lambda *args: mean_absolute_error(*args))
    assert recorders[0].n_recordings == 0


class Waits(Callback):
    """Waits for the device in every step."""

    kind = ()

    def on_logits(self, net, losses, **kwargs):
        losses.sum().item()


def test_a_step_that_cannot_be_recorded_is_taken_and_no_other_is_tried(recorders, monkeypatch):
    expected = one_by_one(monkeypatch, "evidence", Waits())
    found = trained("evidence", Waits())
    assert recorders[1].n_recordings == 1
    assert recorders[1].n_replays == 0
    assert "not permitted" in found.capture_error_
    same(found, expected)


def test_a_device_without_memory_for_a_recording_is_no_reason_to_go_on(recorders, monkeypatch):
    def full(recorder, work):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(HostRecorder, "__call__", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        trained(None)


def test_nothing_is_left_of_recordings_after_training(recorders):
    net = trained("evidence")
    assert net.captured_steps_ is None
    assert net.capture_error_ is None
    deepcopy(net)


def test_nothing_is_left_of_recordings_after_an_error(recorders):
    nets = []

    class Fail(Callback):
        def on_epoch_end(self, net, **kwargs):
            nets.append(net)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trained("evidence", Fail())
    assert nets[0].captured_steps_ is None


# One by one


def test_a_recorded_step_reads_its_batch_and_leaves_its_result_where_they_were():
    recorder, seen = HostRecorder(), []

    def step(batch):
        X, labels = batch
        seen.append(len(X))
        return {"loss": (X.sum(dim=1) * labels.sample_weight).sum() + labels.targets.sum()}

    steps = CapturedSteps(step, recorder)
    results = []
    for i in range(6):
        X, weight = torch.full((4, 3), float(i)), torch.full((4,), 0.5)
        labels = Labels(torch.arange(4), torch.full((4,), i), weight)
        results.append(steps((X, labels), "kind")["loss"])
        assert results[-1].item() == 10 * i
    assert seen == [4, 4, 4]  # the third is recorded, and replayed from then on
    assert results[3] is results[5]
    assert (recorder.n_recordings, recorder.n_replays) == (1, 4)


@pytest.mark.parametrize("n_steps", [1, 10])
def test_the_learning_rate_falls_along_half_a_wave_of_the_cosine(n_steps):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    net = make_net().initialize()
    decay = CosineDecay(n_steps)
    decay.on_train_begin(net)
    for _ in range(n_steps):
        decay.on_batch_end(net, training=True)
        optimizer.step()
        theirs.step()
        expected = theirs.get_last_lr()[0]
        assert net.optimizer_.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-15)


def test_a_learning_rate_that_is_a_tensor_is_set_in_place():
    net = make_net().initialize()
    [group] = net.optimizer_.param_groups
    group["lr"] = rate = torch.tensor(0.3)
    net.set_learning_rate(0.25)
    assert group["lr"] is rate
    assert rate.item() == 0.25


# CUDA graphs, without CUDA


class FakeGraph:
    """Notes what is done with it."""

    def __init__(self):
        self.events = []

    def register_generator_state(self, generator):
        self.events.append(generator)

    def replay(self):
        self.events.append("replay")


@pytest.fixture
def cuda(monkeypatch):
    """The parts of torch.cuda that record graphs, which note how they are called."""

    @contextmanager
    def graph(graph, pool, stream, capture_error_mode):
        graph.events.append((pool, stream.device, capture_error_mode))
        yield

    @contextmanager
    def device(device):
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device=device))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "device", device)


def test_cuda_graphs_are_recorded_on_a_stream_of_their_own_with_all_generators(cuda):
    device, generator = torch.device("cuda:1"), torch.Generator()
    result, replay = CudaRecorder(device, [], [generator])(lambda: {"loss": 1})
    replay()
    assert result == {"loss": 1}
    assert replay.__self__.events == [generator, ("pool", device, "thread_local"), "replay"]


def test_optimizers_say_that_they_can_be_recorded_while_they_are(cuda):
    parameters = [nn.Parameter(torch.zeros(1))]
    optimizers = [torch.optim.SGD(parameters), torch.optim.Adam(parameters)]
    group = optimizers[1].param_groups[0]
    recorder = CudaRecorder(torch.device("cuda"), optimizers, [])
    assert recorder(lambda: {"loss": group["capturable"]})[0] == {"loss": True}
    assert group["capturable"] is False

    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        recorder(fail)
    assert group["capturable"] is False
    assert "capturable" not in optimizers[0].param_groups[0]


def test_on_cuda_all_optimizers_and_generators_of_a_training_are_recorded(cuda):
    net = trained("vri")
    net.device = "cuda:1"
    recorder = OWN_RECORDER(net)
    groups = net.optimizer_.param_groups + net.meta_optimizer_.param_groups
    assert recorder.groups == groups
    assert recorder.generators == [net.callbacks[2][1].generator]
    assert recorder.stream.device == torch.device("cuda:1")


def test_a_training_that_draws_nothing_of_its_own_registers_no_generator(cuda):
    net = trained("evidence")
    net.device = "cuda"
    assert OWN_RECORDER(net).generators == []
