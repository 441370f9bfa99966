"""The two meta steps against Algorithm 1, against double backward, and against each other."""

import copy
import math
from functools import partial
from typing import NamedTuple

import pytest
import torch
from clid.helpers import N_CLASSES, N_FEATURES, NETWORKS, WIDTH, Pair, mlp, tapped
from skorch.callbacks import Callback
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sklearn_clidmu.clid.algorithm import clid_mu_step
from sklearn_clidmu.clid.hypergradient import MetaBatch
from sklearn_clidmu.clid.objective import clid_loss, make_objective
from sklearn_clidmu.clid.weight_nets import EvidenceNet, Rows, row_grad_logits
from sklearn_clidmu.training import meta_step as module_of_meta_step
from sklearn_clidmu.training.net import StopTraining

from .helpers import (
    DTYPE,
    PRECISION,
    Diary,
    add_meta_step,
    close,
    flat_gradient,
    make_history,
    make_net,
    make_table,
    plain_loss,
    vector,
)

LR, META_LR = 0.7, 0.01
WEIGHTINGS, VIRTUAL_STEPS = ["wnet", "vri", "evidence"], ["head", "full"]


def ones(n):
    return torch.ones(n, dtype=DTYPE)


# Algorithm 1


def unscaled_clid(features, logits, targets, sample_weight):
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        value = clid_loss(features, logits, 0.5)
        return value.detach(), torch.autograd.grad(value, logits)[0]


def test_batch_meta_step_follows_algorithm_1():
    # Adam's epsilon sees the scale of a gradient, so that it is set to the paper's.
    table = make_table(12, ones(12))
    net = make_net(network=Pair, weighting="wnet", lr=0.1, batch_size=12)
    network, weight_net = copy.deepcopy(net.module_), copy.deepcopy(net.weight_net_)
    step = add_meta_step(net, table, virtual_step="full", lr=0.05)
    step.objective = unscaled_clid
    step._scale = lambda harm, sample_weight: torch.tensor(1 / 0.1, dtype=DTYPE)
    net.partial_fit(table)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    meta_optimizer = torch.optim.Adam(weight_net.parameters(), 0.05)
    batch = table.X, table.labels.targets, table.X
    for _ in range(8):  # an epoch takes eight steps at least
        clid_mu_step(network, weight_net, optimizer, meta_optimizer, *batch)
    torch.testing.assert_close(vector(net.module_), vector(network), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(vector(net.weight_net_), vector(weight_net), rtol=1e-5, atol=1e-7)


# One batch, watched


class OneBatch(Callback):
    """Keeps all parts as they were before one batch, and ends training after it."""

    def __init__(self, n_skipped=0):
        self.n_skipped = n_skipped

    def on_batch_begin(self, net, batch, **kwargs):
        if self.n_skipped:
            return
        self.X, self.labels = batch
        self.module, self.weight_net = copy.deepcopy(net.module_), copy.deepcopy(net.weight_net_)
        self.influence = net.meta_step.history.influence.clone()
        self.random_state = torch.get_rng_state()
        self.draws, weights = [], net.weight_net_.weights

        def keep(rows, noise=None):
            self.draws.append(noise)
            return weights(rows, noise)

        if not isinstance(net.weight_net_, EvidenceNet):
            net.weight_net_.weights = keep

    def on_batch_end(self, net, loss, **kwargs):
        self.n_skipped -= 1
        if self.n_skipped < 0:
            self.loss = loss.item()
            raise StopTraining

    def forward(self, module=None):
        """The batch's pass in training mode once more, with the same units dropped."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random_state)
            return (copy.deepcopy(self.module) if module is None else module).train()(self.X)


class Run(NamedTuple):
    """All there is to know of one batch."""

    net: nn.Module
    batch: OneBatch
    table: object
    calls: list
    """Arguments of the meta objective."""


def watch_objective(step):
    """Keep what the meta objective is called with."""
    calls, objective = [], step.objective

    def keep(*args):
        calls.append(args)
        return objective(*args)

    step.objective = keep
    return calls


def run_one_batch(
    weighting, virtual_step, *callbacks, n=14, batch_size=64, size=None, n_skipped=0, network=mlp
):
    """Train for one batch; six of the rows passed to fit are not in the training set."""
    rows = torch.randperm(n + 6)[:n].sort().values
    history = make_history(n + 6)
    table = make_table(n, history.sample_weight[rows], rows)
    batch = OneBatch(n_skipped)
    net = make_net(*callbacks, network=network, weighting=weighting, lr=LR, batch_size=batch_size)
    settings = {"virtual_step": virtual_step, "meta_batch_size": size, "lr": META_LR}
    calls = watch_objective(add_meta_step(net, table, history, **settings))
    net.callbacks = [*net.callbacks, ("one_batch", batch)]
    net.initialize_callbacks()
    return Run(net.partial_fit(table), batch, table, calls)


def callers_module():
    head = nn.Linear(WIDTH, N_CLASSES)
    return tapped(nn.Linear(N_FEATURES, WIDTH), nn.Tanh(), nn.Dropout(), head)


SMALL = {"n": 40, "batch_size": 10}
DROPOUT = {"network": lambda: mlp(dropout=0.5)}
CASES = {
    "whole table": {},
    "a later batch and dropout": {**SMALL, **DROPOUT, "n_skipped": 2},
    "drawn meta batch and dropout": {**SMALL, **DROPOUT, "size": 12},
    "whole table drawn": {"n": 20, "batch_size": 10, "size": 20, "n_skipped": 1},
    "caller's module": {**SMALL, "network": callers_module, "n_skipped": 1},
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


# Double backward


def rows_of(run):
    """What the weighting net may see of the batch."""
    logits, features = (part.detach() for part in run.batch.forward())
    labels = run.batch.labels
    losses = F.cross_entropy(logits, labels.targets, reduction="none")
    return Rows(logits, features, losses, labels.targets, labels.sample_weight)


def share(weight):
    return weight / weight.sum()


def positions(table, weight):
    """Rows of a table, all of different weights, that a meta batch with these weights has."""
    for first in table.sample_weight:
        near = (weight[:, None] * first / weight[0] - table.sample_weight).abs() < 1e-9
        if near.any(dim=1).all():
            return near.int().argmax(dim=1)
    raise AssertionError("the meta batch has rows that are not in the table")


def virtual_loss(run, rows, logits):
    """Reweighted loss of the virtual step, with graphs into the weighting net and the logits."""
    weight_net, losses = (
        run.batch.weight_net,
        F.cross_entropy(logits, rows.targets, reduction="none"),
    )
    if isinstance(weight_net, EvidenceNet):
        score = weight_net(run.net.meta_step.evidence[run.batch.labels.rows])
        return share(score.softmax(dim=0) * rows.sample_weight) @ losses
    weights = weight_net.weights(rows, run.batch.draws[0])
    return written_out_loss(weights, logits, rows)


def written_out_loss(weights, logits, rows, noise_rate=0.0):
    """Equation 7 for one weight per row; the rectified cross entropy for one per class.

    With a noise rate, the evidence net's mean of the cross entropy and of its bounded reverse.
    """
    if weights.ndim == 2:
        losses = F.cross_entropy(weights * logits, rows.targets, reduction="none")
        return share(rows.sample_weight) @ losses
    losses = F.cross_entropy(logits, rows.targets, reduction="none")
    given = F.one_hot(rows.targets, N_CLASSES).bool()
    wrong = 1 - logits.softmax(dim=1)[given]
    reverse = math.log(N_CLASSES) * N_CLASSES / (N_CLASSES - 1) * wrong
    losses = (1 - noise_rate) * losses + noise_rate * reverse
    return share(weights * rows.sample_weight) @ losses


class Textbook(NamedTuple):
    meta_loss: torch.Tensor
    harm: torch.Tensor
    """Change of the meta objective per unit of each row's weight and of the step size."""
    deviation: torch.Tensor
    meta_gradient: torch.Tensor


def textbook(run, virtual_step, lr=LR):
    """One meta step on the meta batch that was used, by double backward.

    A virtual step of the head takes the training batch as the network saw it in training, and as
    the meta batch too unless one was drawn. All other passes are made in evaluation mode.
    """
    rows, drawn = rows_of(run), run.net.meta_step.meta_batch_size is not None
    evidence = isinstance(run.batch.weight_net, EvidenceNet)
    now = copy.deepcopy(run.batch.module).eval()
    *_, targets, weight = run.calls[-1]
    index = positions(run.table, weight)
    assert torch.equal(targets, run.table.labels.targets[index])
    X_meta = run.table.inputs[index]
    if virtual_step == "head":
        run.batch.module.eval()(run.batch.X)  # a tapped module knows its head after a pass
        now(run.batch.X)
        head = run.batch.module.head
        meta_logits, meta_features = rows.logits[: len(index)], rows.features[: len(index)]
        if drawn:
            meta_logits, meta_features = (output.detach() for output in now(X_meta))
        start_head = now.head if drawn else head
        training, start = (dict(layer.named_parameters()) for layer in (head, start_head))
        beside = rows.logits - head(rows.features).detach()  # what else the logits add up
        meta_beside = meta_logits - start_head(meta_features).detach()

        def logits_of(parameters):
            return functional_call(head, parameters, (rows.features,)) + beside

        def meta_outputs(parameters):
            logits = functional_call(head, parameters, (meta_features,)) + meta_beside
            return logits, meta_features

    else:
        training = start = dict(now.named_parameters())

        def logits_of(parameters):
            return functional_call(now, parameters, (run.batch.X,))[0]

        def meta_outputs(parameters):
            return functional_call(now, parameters, (X_meta,))

    loss = virtual_loss(run, rows, logits_of(training))
    gradients = torch.autograd.grad(loss, list(training.values()), create_graph=True)
    moved = {k: p - lr * g for (k, p), g in zip(start.items(), gradients, strict=True)}
    logits, features = meta_outputs(moved)
    value = clid_loss(features, logits, 0.5, sample_weight=weight)
    slope = flat_gradient(value, moved.values())
    losses = F.cross_entropy(logits_of(training), rows.targets, reduction="none")
    harm = torch.stack([-flat_gradient(loss, training.values()) @ slope for loss in losses])
    mean = share(rows.sample_weight) @ harm
    deviation = (share(rows.sample_weight) @ (harm - mean) ** 2).sqrt()
    parameters = list(run.batch.weight_net.parameters())
    gradient = flat_gradient(value, parameters) / (lr * deviation)
    if not evidence:
        gradient += flat_gradient(run.batch.weight_net.penalty(rows) + 0 * value, parameters)
    return Textbook(value.detach(), harm, deviation, gradient)


def gradient_of(module):
    return torch.cat([p.grad.flatten() for p in module.parameters()])


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_meta_step_gradient_is_that_of_double_backward(weighting, virtual_step, case):
    run = run_one_batch(weighting, virtual_step, **case)
    expected = textbook(run, virtual_step)
    assert expected.meta_gradient.norm() > 1e-3
    close(gradient_of(run.net.weight_net_), expected.meta_gradient)
    close(run.net.meta_step.meta_losses[-1], expected.meta_loss.reshape(1))
    if weighting == "evidence":
        influence = run.batch.influence.clone()
        influence[run.batch.labels.rows] += expected.harm / expected.deviation
        close(run.net.meta_step.history.influence, influence)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_meta_step_of_a_large_batch_takes_its_first_rows(weighting, virtual_step, monkeypatch):
    monkeypatch.setattr(module_of_meta_step, "META_BATCH_ROWS", (2, 5))
    run = run_one_batch(weighting, virtual_step, **SMALL)
    *_, weight = run.calls[-1]
    close(weight, 256 * share(run.batch.labels.sample_weight[:5]))
    close(gradient_of(run.net.weight_net_), textbook(run, virtual_step).meta_gradient)
    whole = run_one_batch(weighting, virtual_step)  # unless the batch is the whole table
    close(whole.calls[-1][-1], 256 * share(whole.table.sample_weight))


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_meta_step_moves_the_weighting_net_by_one_step_of_adam(weighting, virtual_step):
    run = run_one_batch(weighting, virtual_step)
    gradient = textbook(run, virtual_step).meta_gradient
    moved = vector(run.batch.weight_net) - META_LR * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(vector(run.net.weight_net_), moved, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_meta_step_is_followed_by_a_real_step_under_the_weights(weighting, virtual_step, case):
    run = run_one_batch(weighting, virtual_step, **case)
    rows, module = rows_of(run), copy.deepcopy(run.batch.module)
    noise_rate = 0.0
    if weighting == "evidence":  # the weights of the epoch
        weights = run.net.meta_step.weights[run.batch.labels.rows]
        labels = run.net.meta_step.table.labels
        precision = run.net.weight_net_.label_precision[labels.targets]
        noise_rate = 1 - share(labels.sample_weight) @ precision
    else:  # of the net as it is after the meta step, with another draw
        weights = type(run.net.weight_net_).weights(run.net.weight_net_, rows, run.batch.draws[1])
    loss = written_out_loss(weights.detach(), run.batch.forward(module)[0], rows, noise_rate)
    assert run.batch.loss == pytest.approx(loss.item(), rel=1e-8)
    moved = vector(module) - LR * flat_gradient(loss, module.parameters())
    torch.testing.assert_close(vector(run.net.module_), moved, rtol=1e-7, atol=1e-9)


class SetLearningRate(Callback):
    def on_train_begin(self, net, **kwargs):
        net.optimizer_.param_groups[0]["lr"] = 5 * LR


class SetLargestDeviation(Callback):
    def on_train_begin(self, net, **kwargs):
        net.meta_step.largest_deviation = torch.tensor(1e5, dtype=DTYPE)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_meta_step_takes_a_virtual_step_of_the_scheduled_size(virtual_step):
    run = run_one_batch("wnet", virtual_step, SetLearningRate())
    expected = textbook(run, virtual_step, lr=5 * LR)
    close(run.net.meta_step.meta_losses[-1], expected.meta_loss.reshape(1))
    close(gradient_of(run.net.weight_net_), expected.meta_gradient)


@pytest.mark.parametrize("weighting", ["wnet", "evidence"])
def test_meta_step_does_not_blow_up_influences_that_have_vanished(weighting):
    run = run_one_batch(weighting, "head", SetLargestDeviation())
    expected = textbook(run, "head")
    assert expected.deviation < 10
    close(gradient_of(run.net.weight_net_), expected.meta_gradient * expected.deviation / 1000)


@pytest.mark.parametrize("weighting", ["wnet", "evidence"])
@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_meta_step_without_any_influence_moves_nothing(weighting, virtual_step):
    table, net = make_table(20), make_net(weighting=weighting)
    before = vector(net.weight_net_)
    nothing = lambda features, logits, *_: 0 * logits.sum()  # noqa: E731
    step = add_meta_step(net, table, objective=nothing, virtual_step=virtual_step)
    net.partial_fit(table)
    assert torch.equal(vector(net.weight_net_), before)
    assert vector(net.module_).isfinite().all()
    assert step.history.evidence().isfinite().all()


@pytest.mark.parametrize(("batch_size", "n_draws"), [(14, 1), (7, 7)])
def test_batch_meta_step_draws_once_for_a_whole_table_and_else_for_every_row(batch_size, n_draws):
    run = run_one_batch("vri", "head", batch_size=batch_size)
    first, second = run.batch.draws
    assert first.shape == second.shape == (n_draws, N_CLASSES)
    assert not torch.equal(first, second)


# Joined batches


class KeepGradients(Callback):
    """Keeps the weighting net's gradient after every batch, and at the end of the epoch."""

    def on_train_begin(self, net, **kwargs):
        self.gradients = []

    def on_batch_end(self, net, **kwargs):
        found = [p.grad for p in net.weight_net_.parameters()]
        missing = any(g is None for g in found)
        self.gradients.append(None if missing else torch.cat([g.flatten() for g in found]))

    def on_epoch_end(self, net, **kwargs):
        self.on_batch_end(net)


def one_epoch(n, n_batches, objective, meta_lr=0.0):
    """An epoch that is always the same but for how batches are joined."""
    torch.manual_seed(1)
    table, kept, diary = make_table(n), KeepGradients(), Diary()
    net = make_net(kept, diary, weighting="evidence", **DROPOUT)
    add_meta_step(net, table, objective=objective, n_batches=n_batches, lr=meta_lr)
    return net.partial_fit(table), kept.gradients, diary


# By the number of rows: the nine batches, of 8 rows each or of 7, 7 and 6, as blocks of five at
# most, by the batch that ends each; 10 is the end of the epoch.
BLOCKS = {
    24: {5: range(1, 6), 10: range(6, 10)},
    20: {3: (1, 2), 4: (3,), 6: (4, 5), 7: (6,), 9: (7, 8), 10: (9,)},
}


@pytest.mark.parametrize("objective", ["clid", "mae"])
@pytest.mark.parametrize("n", BLOCKS)
def test_block_meta_step_learns_from_joined_batches_as_much_as_from_single_ones(n, objective):
    net, single, diary = one_epoch(n, 1, objective)
    same, joined, joined_diary = one_epoch(n, 5, objective)
    for end, batches in BLOCKS[n].items():
        expected = sum(single[i - 1] for i in batches)
        assert expected.norm() > 1e-6
        close(joined[end - 1], expected)
    close(same.meta_step.history.influence, net.meta_step.history.influence)
    assert same.history[:, "meta_loss"] == pytest.approx(net.history[:, "meta_loss"])
    assert joined_diary.losses == diary.losses


@pytest.mark.parametrize("n", BLOCKS)
def test_block_meta_step_takes_one_step_a_block(n):
    net, gradients, diary = one_epoch(n, 5, "clid", META_LR)
    vectors = [*diary.weight_nets, vector(net.weight_net_)]
    moved = [b for b in range(2, 11) if not torch.equal(vectors[b - 2], vectors[b - 1])]
    assert moved == list(BLOCKS[n])
    first = min(BLOCKS[n])
    gradient = gradients[first - 1]
    expected = vectors[0] - META_LR * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(vectors[first - 1], expected, rtol=1e-7, atol=1e-9)


def test_block_meta_step_calibrates_its_weights_before_every_epoch():
    class Compare(Callback):
        def on_epoch_begin(self, net, **kwargs):
            close(step.evidence, history.evidence())
            self.weights = step.weights.clone()
            self.all.append(self.weights)
            _, targets, sample_weight = table.labels
            for code, precision in enumerate(PRECISION):
                mine = targets == code
                mean = share(sample_weight[mine]) @ self.weights[table.rows[mine]]
                assert mean.item() == pytest.approx(precision.item(), abs=1e-5)

        def on_batch_end(self, net, **kwargs):
            assert torch.equal(step.weights, self.weights)

    compare = Compare()
    compare.all = []
    history, rows = make_history(30), torch.arange(20) + 10
    history.sample_weight[:10] = 0
    table = make_table(20, history.sample_weight[10:], rows)
    net = make_net(compare, weighting="evidence", max_epochs=3)
    step = add_meta_step(net, table, history, n_batches=2, lr=0.05)
    net.partial_fit(table)
    assert len(compare.all) == 3
    assert not torch.allclose(compare.all[0], compare.all[1], atol=1e-4)


# Warm-up


def trained(weighting, table, network, **settings):
    """Net and diary of a training that starts from the same network and random numbers."""
    torch.manual_seed(3)
    diary = Diary()
    net = make_net(diary, weighting=weighting, network=network, max_epochs=3)
    if weighting is not None:
        history = make_history(len(table), table.sample_weight)
        add_meta_step(net, table, history, **settings)
    torch.manual_seed(4)
    return net.partial_fit(table), diary


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_meta_step_waits_for_the_end_of_warm_up(weighting, virtual_step, size):
    table, network = make_table(20), lambda: mlp(dropout=0.5)
    settings = {"virtual_step": virtual_step, "meta_batch_size": size, "n_warmup": 2}
    net, diary = trained(weighting, table, network, **settings)
    _, plain = trained(None, table, network)
    n = 2 * 9  # three batches a pass, three passes
    for (_, labels, logits), loss in list(zip(diary.batches, diary.losses, strict=True))[:n]:
        assert loss == pytest.approx(plain_loss(logits, labels).item())
    assert diary.losses[:n] == plain.losses[:n]
    assert diary.losses[n + 1 :] != plain.losses[n + 1 :]
    first = diary.weight_nets[0]
    assert all(torch.equal(weights, first) for weights in diary.weight_nets[:n])
    assert not torch.equal(vector(net.weight_net_), first)
    # The batches and the dropped units stay the same, whatever the meta step draws.
    assert all(torch.equal(a[0], b[0]) for a, b in zip(diary.batches, plain.batches, strict=True))
    nan = [math.isnan(value) for value in net.history[:, "meta_loss"]]
    assert nan == [weighting != "evidence"] * 2 + [False]


@pytest.mark.parametrize("n_batches", [1, 3])
def test_block_meta_step_records_the_influence_of_plain_training_in_warm_up(n_batches):
    # At a learning rate so small that the network stays where it is.
    table, history = make_table(12, ones(12)), make_history(12)
    net = make_net(network=Pair, weighting="evidence", lr=1e-9, batch_size=12)
    add_meta_step(net, table, history, n_warmup=1, n_batches=n_batches)
    before = history.influence.clone()
    net.partial_fit(table)
    logits, features = (part.detach() for part in net.module_(table.X))
    targets = table.labels.targets
    meta = MetaBatch(targets, 256 * share(table.sample_weight))
    _, by_logits = make_objective("clid", 0.5)(features, logits, *meta)
    gradient = F.linear(features, by_logits.T @ features) + by_logits.sum(dim=0)
    influence = -(row_grad_logits(logits, targets) * gradient).sum(dim=1)
    expected = before + 8 * influence / influence.std(correction=0)  # eight steps an epoch
    torch.testing.assert_close(history.influence, expected, rtol=1e-5, atol=1e-6)


# The network and the meta batches


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", ["wnet", "evidence"])
def test_meta_step_leaves_running_statistics_of_one_pass_a_batch(weighting, virtual_step, size):
    table, diary = make_table(20), Diary()
    net = make_net(diary, weighting=weighting, network=NETWORKS["tapped batch norm"])
    add_meta_step(net, table, virtual_step=virtual_step, meta_batch_size=size)
    net.partial_fit(table)
    expected = copy.deepcopy(diary.initial).train()
    for module, (X, _, _) in zip(diary.before(), diary.batches, strict=True):
        nn.utils.vector_to_parameters(vector(module), expected.parameters())
        expected(X)
    found = dict(net.module_.named_buffers())
    assert len(found) == 3
    for name, value in expected.named_buffers():
        torch.testing.assert_close(found[name], value)


def meta_rows(table, weighting="wnet", **settings):
    """Meta batches of one epoch, and the training batches, as positions in the table."""
    diary = Diary()
    net = make_net(diary, weighting=weighting)
    calls = watch_objective(add_meta_step(net, table, **settings))
    net.partial_fit(table)
    drawn = []
    for *_, targets, weight in calls:
        index = positions(table, weight)
        assert torch.equal(targets, table.labels.targets[index])
        drawn.append(index.tolist())
    return drawn, [labels.rows.tolist() for _, labels, _ in diary.batches], net


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_meta_step_takes_the_training_batch_as_the_meta_batch(weighting, virtual_step):
    drawn, trained_on, _ = meta_rows(make_table(30), weighting, virtual_step=virtual_step)
    assert drawn == trained_on


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_meta_step_draws_meta_batches_anew_and_takes_all_rows_where_they_fit(virtual_step):
    draw = partial(meta_rows, make_table(30), virtual_step=virtual_step)
    drawn, *_ = draw(meta_batch_size=29)
    assert [len(index) for index in drawn] == [29] * 8
    assert len(set(map(tuple, drawn))) == 8
    assert set().union(*drawn) == set(range(30))
    for size in (30, 1000):
        assert draw(meta_batch_size=size)[0] == [list(range(30))] * 8


def test_meta_step_records_the_mean_meta_loss_of_every_epoch():
    table, net = make_table(20), make_net(weighting="wnet", max_epochs=2)
    calls = watch_objective(add_meta_step(net, table))
    net.partial_fit(table)
    values = [clid_loss(f, z, 0.5, sample_weight=s).item() for f, z, _, s in calls]
    means = [sum(values[:9]) / 9, sum(values[9:]) / 9]
    assert net.history[:, "meta_loss"] == pytest.approx(means)
