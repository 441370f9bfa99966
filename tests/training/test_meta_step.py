"""The meta step against the textbook: double backward through the virtual step, written out."""

import math
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import pytest
import torch
from scipy.optimize import brentq
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sklearn_clidmu.estimator.building import build_objective
from sklearn_clidmu.mathematics.backbone import MLP
from sklearn_clidmu.mathematics.clid import clid_loss
from sklearn_clidmu.mathematics.objectives import CLID
from sklearn_clidmu.mathematics.weighting import Rows
from sklearn_clidmu.training.batches import Table
from sklearn_clidmu.training.ledger import Ledger, LossRecord
from sklearn_clidmu.training.net import StopTraining

from .helpers import (
    BELIEVED,
    DTYPE,
    N_CLASSES,
    WIDTH,
    CountingMLP,
    CountingTracedMLP,
    Diary,
    Seed,
    batch_norm,
    dropping,
    make_ledger,
    make_meta_step,
    make_net,
    make_network,
    make_table,
    train_loss,
    vector,
)

LR, META_LR = 0.7, 0.01
WEIGHTINGS = ["wnet", "vri", "evidence"]
VIRTUAL_STEPS = ["head", "full"]


# One batch, watched


class Calls(NamedTuple):
    """What a weighting net was asked for: (rows, noise, weights) of each step of its kind."""

    virtual: list
    real: list


def watch(weight_net):
    """Keep what the weighting net is called with; gradients are wanted in virtual steps alone.

    The evidence net is not asked for the weights of a real step, which stay for an epoch. They are
    the last of a batch of which the shares are taken.
    """
    calls, draw, applied = Calls([], []), weight_net.draw, weight_net.applied
    shares = weight_net.shares

    def keep_virtual(rows, noise=None):
        drawn = draw(rows, noise)
        if torch.is_grad_enabled():
            calls.virtual.append((rows, noise, drawn.weights))
        return drawn

    def keep_real(rows, noise=None):
        weights = applied(rows, noise)
        calls.real.append((rows, noise, weights))
        return weights

    def keep_last(weights, rows):
        calls.real[:] = [(rows, None, weights)]
        return shares(weights, rows)

    weight_net.draw, weight_net.applied = keep_virtual, keep_real
    if weight_net.uses_evidence:
        weight_net.shares, weight_net.applied = keep_last, pytest.fail
    return calls


class OneBatch(Callback):
    """Keeps all parts as they were before one batch, and ends training after it."""

    def __init__(self, n_skipped=0):
        self.n_skipped = n_skipped

    def on_epoch_begin(self, net, **kwargs):
        self.initial_weight_net = deepcopy(net.weight_net_)

    def on_batch_begin(self, net, batch, **kwargs):
        if self.n_skipped:
            return
        (_, meta_step), *_ = net.callbacks_
        self.influence = meta_step.ledger.influence.clone()
        self.X, self.labels = batch
        self.module, self.weight_net = deepcopy(net.module_), deepcopy(net.weight_net_)
        self.random_state = torch.get_rng_state()
        self.calls = watch(net.weight_net_)

    def on_batch_end(self, net, loss, **kwargs):
        self.n_skipped -= 1
        if self.n_skipped < 0:
            self.loss = loss.item()
            raise StopTraining

    @contextmanager
    def same_units_dropped(self):
        """For passes in training mode that are to draw what the batch's own pass has drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random_state)
            yield

    def forward(self):
        """The batch's pass in training mode once more, with the same units dropped."""
        with self.same_units_dropped():
            return deepcopy(self.module).train()(self.X)


class WatchedCLID:
    """CLID that keeps what it is called with, and what it returns; autograd differentiates it."""

    def __init__(self):
        self.calls, self.values = [], []

    def __call__(self, features, logits, targets, sample_weight):
        self.calls.append((features, logits, targets, sample_weight))
        value = clid_loss(features, logits, 0.5, sample_weight=sample_weight)
        self.values.append(value.detach())
        return value

    def written_out(self, features, logits, sample_weight):
        return clid_loss(features, logits, 0.5, sample_weight=sample_weight)


class WatchedClosedForm(CLID):
    """CLID as it is trained with, its closed form; keeps the same as :class:`WatchedCLID`."""

    def __init__(self):
        super().__init__(0.5)
        self.calls, self.values = [], []

    def gradient(self, features, logits, targets, sample_weight):
        self.calls.append((features, logits, targets, sample_weight))
        value, gradient = super().gradient(features, logits, targets, sample_weight)
        self.values.append(value)
        return value, gradient

    def written_out(self, features, logits, sample_weight):
        weight = 256 * sample_weight / sample_weight.sum()
        return clid_loss(features, logits, 0.5, sample_weight=weight)


class Run(NamedTuple):
    """All there is to know of one batch."""

    net: nn.Module
    batch: OneBatch
    objective: WatchedCLID | WatchedClosedForm
    table: Table
    ledger: Ledger
    evidence: Tensor


def run_one_batch(
    weighting,
    virtual_step,
    *callbacks,
    n=14,
    batch_size=64,
    meta_batch_size=None,
    n_skipped=0,
    network=None,
    objective=WatchedCLID,
):
    """Train for one batch; six of the rows passed to fit are not in the training set."""
    rows = torch.randperm(n + 6)[:n].sort().values
    ledger = make_ledger(n + 6)
    table = make_table(n, rows=rows, sample_weight=ledger.sample_weight[rows])
    evidence = written_out_evidence(ledger)
    objective, batch = objective(), OneBatch(n_skipped)
    meta_step = make_meta_step(
        table,
        ledger,
        objective,
        virtual_step=virtual_step,
        batch_size=meta_batch_size,
    )
    net = make_net(
        meta_step,
        batch,
        *callbacks,
        weighting=weighting,
        lr=LR,
        meta_optimizer__lr=META_LR,
        batch_size=batch_size,
        network=network,
    )
    return Run(net.fit(table), batch, objective, table, ledger, evidence)


SMALL = {"n": 40, "batch_size": 10}
DROPOUT = {"network": make_network(dropout=0.5)}
DROPPING = {"network": make_network(dropping)}
ONE_MASK = {"network": make_network(dropout=0.5, one_mask=True)}
SIZES = {
    "whole table": {},
    "small batches": SMALL,
    "a later batch": {**SMALL, "n_skipped": 2},
    "dropout": {**SMALL, **DROPOUT},
    "drawn meta batch": {**SMALL, "meta_batch_size": 12},
    "drawn meta batch, later": {**SMALL, "meta_batch_size": 12, "n_skipped": 2},
    "drawn meta batch and dropout": {**SMALL, **DROPOUT, "meta_batch_size": 12},
    "whole table drawn": {"n": 20, "batch_size": 10, "meta_batch_size": 20},
    "whole table and dropout of one mask": ONE_MASK,
    "caller's module": {**SMALL, **DROPPING},
    "caller's module, later": {**SMALL, **DROPPING, "n_skipped": 2},
    "caller's module and drawn meta batch": {**SMALL, **DROPPING, "meta_batch_size": 12},
}


@pytest.fixture(params=SIZES)
def size(request):
    return SIZES[request.param]


# The textbook


def written_out_evidence(ledger):
    def standing(values):
        mean = (weight * values).sum() / weight.sum()
        deviation = ((weight * (values - mean) ** 2).sum() / weight.sum()) ** 0.5
        return torch.special.erfc((mean - values) / deviation / 2**0.5) / 2

    weight = ledger.sample_weight
    last_loss = ledger.last_loss / math.log(N_CLASSES)
    seen = (ledger.loss / ledger.n_visits, ledger.influence, ledger.rivalry)
    return torch.stack([last_loss, *(standing(values) for values in seen), ledger.distrust], 1)


def rows_of(run):
    """What the weighting net may see of the batch."""
    logits, features = run.batch.forward()
    labels = run.batch.labels
    losses = F.cross_entropy(logits, labels.targets, reduction="none")
    return Rows(
        logits=logits.detach(),
        losses=losses.detach(),
        errors=logits.softmax(dim=1).detach() - torch.eye(N_CLASSES, dtype=DTYPE)[labels.targets],
        targets=labels.targets,
        features=features.detach(),
        evidence=run.evidence[labels.rows],
        sample_weight=labels.sample_weight,
    )


def balanced_offsets(weight_net, evidence, labels):
    """Offsets at which the mean weight of each class of the table is the share believed."""
    scores = weight_net.score(evidence[labels.rows]).detach()
    offsets = []
    for k, believed in enumerate(BELIEVED):
        mine, weight = scores[labels.targets == k], labels.sample_weight[labels.targets == k]

        def excess(offset, mine=mine, weight=weight, believed=believed):
            mean = (weight * (mine + offset).sigmoid()).sum() / weight.sum()
            return (mean - believed).item()

        offsets.append(brentq(excess, -50, 50, xtol=1e-13))
    return torch.tensor(offsets, dtype=DTYPE)


def real_weights(run, rows, noise):
    """Weights of the real step, from the weighting net as it is after the meta step.

    Those of the evidence net are as they were, and balanced, before the epoch.
    """
    if not run.net.weight_net_.uses_evidence:
        return run.net.weight_net_(rows, noise).detach()
    weight_net = run.batch.initial_weight_net
    offsets = balanced_offsets(weight_net, run.evidence, run.table.labels)
    score = weight_net.score(rows.evidence).detach()
    return 1 / (1 + (-score - offsets[rows.targets]).exp())


def reweighted(weights, logits, rows):
    """Equation 7 for one weight per row; the rectified cross entropy for one per class."""
    if weights.ndim == 2:
        losses = F.cross_entropy(weights * logits, rows.targets, reduction="none")
        return (rows.sample_weight * losses).sum() / rows.sample_weight.sum()
    losses = F.cross_entropy(logits, rows.targets, reduction="none")
    weights = weights * rows.sample_weight
    return (weights * losses).sum() / weights.sum()


def meta_index(run):
    """Rows of the meta batch, by their sample weights, of which no two are equal."""
    (_, _, _, sample_weight) = run.objective.calls[-1]
    return (sample_weight[:, None] == run.table.labels.sample_weight).int().argmax(dim=1)


def flat_gradient(value, parameters):
    gradients = torch.autograd.grad(
        value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])


class Textbook(NamedTuple):
    """One meta step, by double backward through the virtual step."""

    meta_loss: Tensor
    harm: Tensor
    """Change of the meta objective per unit of each row's weight and of the step size."""
    deviation: Tensor
    meta_gradient: Tensor


def textbook(run, virtual_step, lr=LR):
    """One meta step on the meta batch that was used.

    A virtual step of the head takes the training batch as the network saw it in training, and
    as the meta batch too unless one was drawn. So does a full one of the package's own MLP where
    weights scale losses, for the training batch. All other passes are made in evaluation mode.
    """
    weight_net, rows = run.batch.weight_net, rows_of(run)
    module = deepcopy(run.batch.module).eval()
    (_, meta_step), *_ = run.net.callbacks_
    labels, index = run.table.labels, meta_index(run)
    if meta_step.batch_size is None:
        assert torch.equal(labels.rows[index], run.batch.labels.rows[: len(index)])
    if virtual_step == "head":
        moving = dict(module.head.named_parameters())
        meta_features = module(run.table.X[index])[1].detach()
        if meta_step.batch_size is None:
            meta_features = rows.features[: len(index)]

        def logits_of(parameters):
            return functional_call(module.head, parameters, (rows.features,))

        def meta_outputs(parameters):
            return functional_call(module.head, parameters, (meta_features,)), meta_features

    else:
        moving = dict(module.named_parameters())
        is_traced = isinstance(module, MLP) and weight_net.scales_losses
        in_training = deepcopy(module).train(is_traced)

        def logits_of(parameters):
            with run.batch.same_units_dropped():
                return functional_call(in_training, parameters, (run.batch.X,))[0]

        def meta_outputs(parameters):
            return functional_call(module, parameters, (run.table.X[index],))

    weights = weight_net(rows, run.batch.calls.virtual[0][1])
    loss = reweighted(weights, logits_of(moving), rows)
    gradients = torch.autograd.grad(loss, list(moving.values()), create_graph=True)
    moved = {
        name: parameter - lr * gradient
        for (name, parameter), gradient in zip(moving.items(), gradients, strict=True)
    }
    logits, features = meta_outputs(moved)
    value = run.objective.written_out(features, logits, labels.sample_weight[index])
    slope = flat_gradient(value, list(moved.values()))
    losses = F.cross_entropy(logits_of(moving), rows.targets, reduction="none")
    harm = [-flat_gradient(loss, list(moving.values())) @ slope for loss in losses]
    harm = torch.stack(harm)
    mean = (rows.sample_weight * harm).sum() / rows.sample_weight.sum()
    deviation = ((rows.sample_weight * (harm - mean) ** 2).sum() / rows.sample_weight.sum()).sqrt()
    parameters = list(weight_net.parameters())
    hypergradient = flat_gradient(value, parameters) / (lr * deviation)
    return Textbook(
        value.detach(), harm, deviation, hypergradient + penalty_gradient(weight_net, rows)
    )


def penalty_gradient(weight_net, rows):
    """Gradient of VRI's divergence to the prior, zero for the other nets."""
    parameters = list(weight_net.parameters())
    if not hasattr(weight_net, "posterior"):
        return torch.zeros_like(vector(weight_net))
    mean, log_variance = weight_net.posterior(rows)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(dim=1)
    mean_divergence = (rows.sample_weight * divergence).sum() / rows.sample_weight.sum()
    return flat_gradient(1e-3 * mean_divergence, parameters)


def gradient_of(module):
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-12)


# Against the textbook


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_weighting_net_receives_the_textbook_gradient(weighting, virtual_step, size):
    run = run_one_batch(weighting, virtual_step, **size)
    expected = textbook(run, virtual_step)
    assert expected.meta_gradient.norm() > 1e-3
    close(gradient_of(run.net.weight_net_), expected.meta_gradient)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_weighting_net_takes_one_step_of_adam(weighting, virtual_step):
    run = run_one_batch(weighting, virtual_step)
    gradient = textbook(run, virtual_step).meta_gradient
    first_step_of_adam = META_LR * gradient / (gradient.abs() + 1e-8)
    moved = vector(run.batch.weight_net) - first_step_of_adam
    torch.testing.assert_close(vector(run.net.weight_net_), moved, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_network_steps_on_the_loss_with_the_weights_of_the_real_step(
    weighting, virtual_step, size
):
    run = run_one_batch(weighting, virtual_step, **size)
    module, rows = run.batch.module, rows_of(run)
    [(_, _, virtual)], [(_, noise, real)] = run.batch.calls
    expected = real_weights(run, rows, noise)
    torch.testing.assert_close(real, expected, rtol=1e-7, atol=1e-9)
    assert not torch.allclose(real, virtual)
    assert not real.requires_grad
    with run.batch.same_units_dropped():
        logits, _ = module.train()(run.batch.X)
    loss = reweighted(expected, logits, rows)
    assert run.batch.loss == pytest.approx(loss.item(), rel=1e-8)
    moved = vector(module) - LR * flat_gradient(loss, list(module.parameters()))
    torch.testing.assert_close(vector(run.net.module_), moved, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_network_receives_the_gradient_of_an_ordinary_backward_pass(
    weighting, virtual_step, size
):
    run = run_one_batch(weighting, virtual_step, **size)
    module = run.batch.module.train()
    with run.batch.same_units_dropped():
        logits, _ = module(run.batch.X)
    [(rows, _, weights)] = run.batch.calls.real
    reweighted(weights, logits, rows).backward()
    expected = gradient_of(module)
    assert expected.norm() > 1e-3
    torch.testing.assert_close(gradient_of(run.net.module_), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_closed_form_of_clid_changes_nothing(weighting, virtual_step, size):
    run = run_one_batch(weighting, virtual_step, **size, objective=WatchedClosedForm)
    expected = textbook(run, virtual_step)
    close(run.objective.values[-1], expected.meta_loss)
    close(gradient_of(run.net.weight_net_), expected.meta_gradient)
    influence = run.batch.influence.clone()
    influence[run.batch.labels.rows] += expected.harm / expected.deviation
    close(run.ledger.influence, influence)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_virtual_step_takes_weights_of_the_net_before_its_own_step(weighting, size):
    run = run_one_batch(weighting, "head", **size)
    [(_, noise, weights)] = run.batch.calls.virtual
    close(weights, run.batch.weight_net(rows_of(run), noise))


def test_rows_compete_by_their_scores_in_the_virtual_step(size):
    run = run_one_batch("evidence", "head", **size)
    [(_, _, weights)] = run.batch.calls.virtual
    score = run.batch.weight_net.score(rows_of(run).evidence)
    close(weights / weights.sum(), score.softmax(dim=0))


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_meta_loss_is_that_after_the_virtual_step(weighting, virtual_step, size):
    run = run_one_batch(weighting, virtual_step, **size)
    (_, meta_step), *_ = run.net.callbacks_
    close(run.objective.values[-1], textbook(run, virtual_step).meta_loss)
    close(meta_step.meta_loss, torch.stack(run.objective.values).sum())
    assert meta_step.n_meta_steps == len(run.objective.values)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_ledger_gets_the_rows_influence_in_standard_deviations(weighting, virtual_step, size):
    run = run_one_batch(weighting, virtual_step, **size)
    expected = textbook(run, virtual_step)
    influence = run.batch.influence.clone()
    influence[run.batch.labels.rows] += expected.harm / expected.deviation
    close(run.ledger.influence, influence)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_weighting_net_sees_the_rows_of_the_batch(weighting, virtual_step, size):
    run = run_one_batch(weighting, virtual_step, **size)
    [(virtual, _, _)], [(real, _, _)] = run.batch.calls
    for rows in (virtual, real):
        for seen, expected in zip(rows, rows_of(run), strict=True):
            assert not seen.requires_grad
            close(seen, expected)


class SetLearningRate(Callback):
    def on_train_begin(self, net, **kwargs):
        net.optimizer_.param_groups[0]["lr"] = 5 * LR


class SetLargestDeviation(Callback):
    def on_train_begin(self, net, **kwargs):
        (_, meta_step), *_ = net.callbacks_
        meta_step.largest_deviation = torch.tensor(1e4, dtype=DTYPE)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_the_virtual_step_is_of_the_size_that_the_schedule_has_come_to(virtual_step):
    run = run_one_batch("wnet", virtual_step, SetLearningRate())
    (_, meta_step), *_ = run.net.callbacks_
    close(meta_step.meta_loss, textbook(run, virtual_step, lr=5 * LR).meta_loss)


def test_vanished_influences_are_not_blown_up():
    run = run_one_batch("wnet", "head", SetLargestDeviation())
    expected = textbook(run, "head")
    assert expected.deviation < 1
    close(gradient_of(run.net.weight_net_), expected.meta_gradient * expected.deviation / 100)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_rows_without_any_influence_leave_everything_finite(virtual_step):
    diary, table = Diary(), make_table(20)
    meta_step = make_meta_step(
        table, objective=lambda features, logits, *_: 0 * logits.sum(), virtual_step=virtual_step
    )
    net = make_net(meta_step, diary, weighting="wnet").fit(table)
    assert not any(diary.weight_net_moved())
    assert vector(net.module_).isfinite().all()
    assert meta_step.ledger.evidence().isfinite().all()


# Virtual steps that are taken together


def distrusted(n, n_idle):
    """Table and ledger in which some rows are not trusted at all, and which these are."""
    torch.manual_seed(0)
    table, ledger = make_table(n), make_ledger(n)
    idle = torch.zeros(n, dtype=torch.bool)
    idle[torch.randperm(n)[:n_idle]] = True
    ledger.distrust.copy_(50 * idle)
    return table, ledger, idle


class FewBelieved(Callback):
    """Makes room for many distrusted rows: each class has a mean weight of a tenth."""

    def on_train_begin(self, net, **kwargs):
        net.weight_net_.believed.fill_(0.1)


class KeepGradients(Callback):
    """Keeps the weighting net's gradient after every batch, and at the end of the epoch."""

    def on_train_begin(self, net, **kwargs):
        self.gradients = []

    def on_batch_end(self, net, **kwargs):
        found = [p.grad for p in net.weight_net_.parameters()]
        none_yet = any(g is None for g in found)
        self.gradients.append(None if none_yet else torch.cat([g.flatten() for g in found]))

    def on_epoch_end(self, net, **kwargs):
        self.on_batch_end(net)


def one_epoch(n, objective, meta_lr=0.0, n_idle=0, **settings):
    """Net, meta step, gradients and diary of an epoch, the same but for how batches are joined."""
    table, ledger, _ = distrusted(n, n_idle)
    meta_step = make_meta_step(table, ledger, build_objective(objective, 0.5), **settings)
    kept, diary = KeepGradients(), Diary()
    callbacks = (FewBelieved(), meta_step, Seed(), train_loss(), kept, diary)
    net = make_net(
        *callbacks,
        weighting="evidence",
        network=make_network(dropout=0.5),
        meta_optimizer__lr=meta_lr,
    )
    return net.fit(table), meta_step, kept.gradients, diary


# Rows of the table and interval; and of each block, of five batches at most, its batches and the
# one with which it ends. There are twelve, of 8 rows each, or of 7, 7 and 6; then the epoch ends.
EPOCH_END = 13
BLOCKS = {
    "one size": (24, 1, {5: range(1, 6), 10: range(6, 11), EPOCH_END: (11, 12)}),
    "two sizes": (
        20,
        1,
        {
            3: (1, 2),
            4: (3,),
            6: (4, 5),
            7: (6,),
            9: (7, 8),
            10: (9,),
            12: (10, 11),
            EPOCH_END: (12,),
        },
    ),
    "every third": (24, 3, {EPOCH_END: (1, 4, 7, 10)}),
}


@pytest.mark.parametrize("objective", ["clid", "mae", "small_loss"])
@pytest.mark.parametrize(("n", "interval", "blocks"), BLOCKS.values(), ids=BLOCKS)
def test_joined_batches_teach_the_weighting_net_as_much_as_single_ones(
    n, interval, blocks, objective
):
    net, meta_step, single, diary = one_epoch(n, objective, interval=interval)
    same, joined_step, joined, joined_diary = one_epoch(
        n, objective, interval=interval, batches_per_step=5
    )
    sums = {end: sum(single[i - 1] for i in batches) for end, batches in blocks.items()}
    assert max(expected.norm() for expected in sums.values()) > 1e-3
    for end, expected in sums.items():
        close(joined[end - 1], expected)
    close(joined_step.ledger.influence, meta_step.ledger.influence)
    close(joined_step.meta_loss, meta_step.meta_loss)
    assert same.history[:, "meta_loss"] == pytest.approx(net.history[:, "meta_loss"])
    assert joined_diary.losses == diary.losses
    assert torch.equal(vector(same.module_), vector(net.module_))


@pytest.mark.parametrize(("n", "interval", "blocks"), BLOCKS.values(), ids=BLOCKS)
def test_the_weighting_net_takes_one_step_for_all_joined_batches(n, interval, blocks):
    net, _, gradients, diary = one_epoch(
        n, "clid", interval=interval, batches_per_step=5, meta_lr=META_LR
    )
    moved = [
        *diary.weight_net_moved(),
        not torch.equal(diary.weight_vectors[-1], vector(net.weight_net_)),
    ]
    assert [batch for batch, has_moved in enumerate(moved, 1) if has_moved] == list(blocks)
    first_end = min(blocks)
    before, after = diary.weight_vectors[0], [*diary.weight_vectors[1:], vector(net.weight_net_)]
    gradient = gradients[first_end - 1]
    first_step_of_adam = META_LR * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(
        after[first_end - 1], before - first_step_of_adam, rtol=1e-7, atol=1e-9
    )


def test_batches_of_an_epoch_that_was_cut_short_do_not_join_the_next():
    class CutShort(Callback):
        def on_batch_end(self, net, **kwargs):
            if len(net.history) == 1 and meta_step.block.n_entered == 2:
                meta_step.on_epoch_begin(net)
                assert meta_step.block.n_entered == 0

    table = make_table(24)
    meta_step = make_meta_step(table, batches_per_step=3)
    make_net(meta_step, CutShort(), weighting="evidence").fit(table)
    assert meta_step.block.n_entered == 0


# Rows that are hardly trusted


class KeepBackward(Callback):
    """Keeps how many rows of each batch the backward pass was given."""

    def on_train_begin(self, net, **kwargs):
        self.n_rows = []

    def on_logits(self, net, traced, **kwargs):
        if traced is not None:
            set_gradient = traced.set_gradient
            traced.set_gradient = lambda e: (self.n_rows.append(len(e[0])), set_gradient(e))


@pytest.mark.parametrize("network", [make_network(dropout=0.5), make_network(dropping)])
def test_rows_that_are_hardly_trusted_have_no_part_in_the_loss(network):
    table, ledger, idle = distrusted(40, 13)
    kept, diary, watched = KeepBackward(), Diary(), WatchWeights()
    meta_step = make_meta_step(table, ledger)
    callbacks = (FewBelieved(), kept, meta_step, watched, diary)
    make_net(*callbacks, weighting="evidence", network=network, batch_size=10).fit(table)
    assert len(watched.calls) == 12
    for calls, (_, labels, _) in zip(watched.calls, diary.batches, strict=True):
        [(_, _, weights)] = calls.real
        assert torch.equal(weights == 0, idle[labels.rows])
    if isinstance(diary.initial, MLP):  # which goes back through the others alone
        assert kept.n_rows == [int((~idle[labels.rows]).sum()) for _, labels, _ in diary.batches]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_without_such_rows_the_network_steps_on_the_loss_of_the_others(batch_size):
    table, ledger, idle = distrusted(40, 13)
    kept, diary, watched = KeepBackward(), Diary(), WatchWeights()
    meta_step = make_meta_step(table, ledger)
    callbacks = (FewBelieved(), kept, meta_step, watched, train_loss(), diary)
    make_net(*callbacks, weighting="evidence", batch_size=batch_size).fit(table)
    assert sum(kept.n_rows) == (~idle).sum() * sum(len(X) for X, *_ in diary.batches) / 40
    before = [diary.initial, *diary.modules[:-1]]
    batches = zip(before, diary.batches, watched.calls, diary.losses, diary.modules, strict=True)
    for module, (X, labels, _), calls, recorded, after in batches:
        [(rows, _, weights)] = calls.real
        if idle[labels.rows].all():
            assert recorded == 0
            assert torch.equal(vector(after), vector(module))
            continue
        loss = reweighted(weights, module(X)[0], rows)
        assert recorded == pytest.approx(loss.item())
        close(vector(after), vector(module) - 0.3 * flat_gradient(loss, list(module.parameters())))


@pytest.mark.parametrize("batches_per_step", [1, 3])
def test_evidence_is_gathered_on_such_rows_too(batches_per_step):
    table, ledger, _ = distrusted(40, 13)
    before = ledger.copy_entries()
    meta_step = make_meta_step(table, ledger, batches_per_step=batches_per_step)
    callbacks = (FewBelieved(), meta_step, LossRecord(ledger))
    make_net(*callbacks, weighting="evidence", batch_size=10).fit(table)
    n_visits, last_loss, loss, influence = (
        now != then for now, then in zip(ledger.copy_entries(), before, strict=True)
    )
    assert all(changed.all() for changed in (n_visits, last_loss, loss, influence))


@pytest.mark.usefixtures("five_meta_rows")
def test_joined_batches_with_such_rows_teach_as_much_as_single_ones():
    _, meta_step, single, diary = one_epoch(32, "clid", n_idle=13)
    _, joined_step, joined, joined_diary = one_epoch(32, "clid", n_idle=13, batches_per_step=12)
    close(joined[-1], sum(single[:12]))
    close(joined_step.ledger.influence, meta_step.ledger.influence)
    assert joined_diary.losses == diary.losses


@pytest.mark.usefixtures("five_meta_rows")
@pytest.mark.parametrize("n_idle", [8, 16, 24])
@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_the_meta_batch_has_as_large_a_share_of_such_rows_as_the_table(virtual_step, n_idle):
    table, ledger, idle = distrusted(40, n_idle)
    objective, diary = WatchedCLID(), Diary()
    meta_step = make_meta_step(table, ledger, objective, virtual_step=virtual_step)
    make_net(FewBelieved(), meta_step, diary, weighting="evidence", batch_size=10).fit(table)
    assert len(objective.calls) == 12
    for (*_, sample_weight), (_, labels, _) in zip(objective.calls, diary.batches, strict=True):
        index = (sample_weight[:, None] == table.sample_weight).int().argmax(dim=1)
        assert len(index) == 5
        assert set(index.tolist()) < set(labels.rows.tolist())
        assert idle[index].sum() == 5 * n_idle / 40


def test_no_row_is_idle_in_warm_up_or_once_reweighting_has_ended():
    table, ledger, idle = distrusted(40, 13)
    meta_step, found = make_meta_step(table, ledger, warmup_epochs=1), []

    class Look(Callback):
        def on_epoch_end(self, net, **kwargs):
            found.append(table.idle)
            meta_step.enabled = len(net.history) < 2

    make_net(FewBelieved(), meta_step, Look(), weighting="evidence", max_epochs=3).fit(table)
    assert found[0] is None
    assert torch.equal(found[1], idle)
    assert found[2] is None


# VRI's draws


@pytest.mark.parametrize(("batch_size", "n_draws"), [(14, 1), (7, 7)])
def test_a_whole_table_shares_one_draw_and_rows_of_a_batch_have_their_own(batch_size, n_draws):
    run = run_one_batch("vri", "head", batch_size=batch_size)
    [(_, first, _)], [(_, second, _)] = run.batch.calls
    assert first.shape == second.shape == (n_draws, 3)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("weighting", ["wnet", "evidence"])
def test_nets_that_draw_nothing_get_no_noise(weighting):
    run = run_one_batch(weighting, "head")
    [(_, first, _)], [(_, second, _)] = run.batch.calls
    assert first is second is None


# The passes


class WatchPasses(Callback):
    """Keeps the batches, and what a :class:`CountingTracedMLP` saw and in which mode."""

    def on_train_begin(self, net, **kwargs):
        self.batches = []

    def on_batch_begin(self, net, batch, **kwargs):
        net.module_.n_forwards = {True: 0, False: 0}
        net.module_.seen = []

    def on_batch_end(self, net, batch, **kwargs):
        module, (X, _) = net.module_, batch
        self.batches.append((X, module.n_forwards, module.seen))


@pytest.mark.parametrize("batch_size", [None, 5, 20])
@pytest.mark.parametrize(("weighting", "n_more"), [("wnet", 0), ("evidence", 0), ("vri", 2)])
def test_a_full_step_shares_the_training_pass_of_the_packages_own_network(
    weighting, n_more, batch_size
):
    # VRI's weights do not scale losses: its full step makes two passes of the batch of its own.
    table, watched = make_table(20), WatchPasses()
    meta_step = make_meta_step(table, virtual_step="full", batch_size=batch_size)
    make_net(meta_step, watched, weighting=weighting, network=CountingTracedMLP).fit(table)
    assert len(watched.batches) == 12
    for X, n_forwards, seen in watched.batches:
        assert n_forwards == {True: 1, False: 1 + n_more}
        X_meta = seen[0 if n_more == 0 else 1]
        if batch_size is None:
            assert torch.equal(X_meta, X)
        elif batch_size == 20:
            assert torch.equal(X_meta, table.X)
        else:
            assert X_meta.shape == (5, X.shape[1])


@pytest.mark.parametrize(("weighting", "n_evaluations"), [("wnet", 0), ("evidence", 1)])
def test_the_meta_batch_is_all_that_a_full_step_passes_in_warm_up(weighting, n_evaluations):
    table, watched = make_table(20), WatchPasses()
    meta_step = make_meta_step(table, virtual_step="full", warmup_epochs=1)
    make_net(meta_step, watched, weighting=weighting, network=CountingTracedMLP).fit(table)
    for _, n_forwards, _ in watched.batches:
        assert n_forwards == {True: 1, False: n_evaluations}


# The schedule


def plain_losses(diary):
    """Cross entropy of every batch under the caller's sample weights, by its definition."""
    for _, labels, logits in diary.batches:
        losses = -logits.log_softmax(dim=1).gather(1, labels.targets[:, None]).squeeze(1)
        yield ((labels.sample_weight * losses).sum() / labels.sample_weight.sum()).item()


def trained(weighting, table, *callbacks, **settings):
    """Net and diary of a training that starts from the same network and random numbers."""
    diary = Diary()
    torch.manual_seed(0)
    net = make_net(
        *callbacks, Seed(), train_loss(), diary, weighting=weighting, max_epochs=3, **settings
    )
    return net.fit(table), diary


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(
    "network",
    [make_network(), make_network(dropout=0.5), make_network(dropping), CountingMLP],
    ids=["mlp", "mlp with dropout", "caller's with dropout", "caller's pair"],
)
def test_warm_up_is_plain_training(network, weighting, virtual_step):
    table = make_table(20)
    meta_step = make_meta_step(table, warmup_epochs=2, virtual_step=virtual_step)
    net, diary = trained(weighting, table, meta_step, network=network)
    _, plain = trained(None, table, network=network)
    n_warmup = 2 * 12  # three batches a pass, four passes
    assert diary.losses[:n_warmup] == pytest.approx(list(plain_losses(diary))[:n_warmup])
    # A traced batch sums the rows' gradients in another order: the same but for rounding.
    is_traced = isinstance(net.module_, MLP) and (weighting, virtual_step) == ("evidence", "full")
    rounding = {"rtol": 1e-12, "atol": 1e-13} if is_traced else {"rtol": 0, "atol": 0}
    for module, expected in zip(diary.modules[:n_warmup], plain.modules, strict=False):
        torch.testing.assert_close(vector(module), vector(expected), **rounding)
    assert diary.weight_net_moved() == [False] * n_warmup + [True] * 12
    assert not torch.allclose(vector(diary.modules[-1]), vector(plain.modules[-1]))
    assert math.isfinite(net.history[-1, "meta_loss"])


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("interval", [1, 3, 5, 100])
def test_a_meta_step_is_taken_on_every_interval_th_batch_of_an_epoch(interval, virtual_step):
    table = make_table(20)
    settings = {"warmup_epochs": 1, "interval": interval, "virtual_step": virtual_step}
    _, diary = trained("wnet", table, make_meta_step(table, **settings))
    per_epoch = [i % interval == 0 for i in range(12)]
    assert diary.weight_net_moved() == [False] * 12 + 2 * per_epoch


class WatchWeights(Callback):
    """Keeps all weights that are computed during each batch."""

    def on_train_begin(self, net, **kwargs):
        self.calls = []
        self.every = watch(net.weight_net_)

    def on_batch_end(self, net, **kwargs):
        self.calls.append(Calls(self.every.virtual.copy(), self.every.real.copy()))
        for calls in self.every:
            calls.clear()


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", ["wnet", "evidence"])
def test_batches_without_a_meta_step_are_reweighted_with_the_weights_as_they_are(
    weighting, virtual_step
):
    table = make_table(20)
    watched, diary = WatchWeights(), Diary()
    meta_step = make_meta_step(table, interval=3, virtual_step=virtual_step)
    make_net(meta_step, watched, diary, weighting=weighting).fit(table)
    n_virtual = [1 if i % 3 == 0 else 0 for i in range(12)]
    assert [len(calls.virtual) for calls in watched.calls] == n_virtual
    before = [diary.initial, *diary.modules[:-1]]
    batches = zip(before, diary.batches, watched.calls, diary.losses, diary.modules, strict=True)
    for module, (X, labels, logits), calls, recorded, after in batches:
        [(rows, _, weights)] = calls.real
        assert torch.equal(rows.sample_weight, labels.sample_weight)
        close(rows.logits, logits)
        loss = reweighted(weights, module(X)[0], rows)
        assert recorded == pytest.approx(loss.item())
        moved = vector(module) - 0.3 * flat_gradient(loss, list(module.parameters()))
        close(vector(after), moved)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_disabled_meta_step_is_plain_training(weighting, virtual_step):
    table = make_table(20)
    meta_step = make_meta_step(table, virtual_step=virtual_step)
    meta_step.enabled = False
    _, diary = trained(weighting, table, meta_step)
    _, plain = trained(None, table)
    assert not any(diary.weight_net_moved())
    assert diary.losses == plain.losses
    assert torch.equal(vector(diary.modules[-1]), vector(plain.modules[-1]))


@pytest.mark.parametrize("weighting", ["wnet", "vri"])
def test_nets_without_evidence_do_not_pay_for_the_warm_up(weighting):
    table = make_table(20)
    meta_step = make_meta_step(table, warmup_epochs=3)
    before = meta_step.ledger.influence.clone()
    net, _ = trained(weighting, table, meta_step, network=CountingMLP)
    assert net.module_.n_forwards[False] == (1 if weighting == "vri" else 0)  # to learn the width
    assert torch.equal(meta_step.ledger.influence, before)
    assert all(math.isnan(value) for value in net.history[:, "meta_loss"])


@pytest.mark.parametrize(
    ("network", "virtual_step", "n_evaluations"),
    [
        (CountingMLP, "head", 0),
        (CountingTracedMLP, "head", 0),
        (CountingMLP, "full", 3),  # of a batch, its meta batch, and the batch's tangent
        (CountingTracedMLP, "full", 1),
    ],
)
def test_evidence_is_gathered_in_warm_up(network, virtual_step, n_evaluations):
    table = make_table(20)
    meta_step = make_meta_step(table, warmup_epochs=3, interval=2, virtual_step=virtual_step)
    before = meta_step.ledger.influence.clone()
    net, diary = trained("evidence", table, meta_step, network=network)
    assert net.module_.n_forwards == {True: 3 * 12, False: 3 * 6 * n_evaluations}
    assert meta_step.ledger.influence.ne(before).all()
    assert not any(diary.weight_net_moved())
    assert all(math.isfinite(value) for value in net.history[:, "meta_loss"])


def test_influence_in_warm_up_is_that_of_the_plain_loss():
    table = make_table(14)
    ledger, objective, batch = make_ledger(14), WatchedCLID(), OneBatch()
    meta_step = make_meta_step(table, ledger, objective, warmup_epochs=1)
    before = ledger.influence.clone()
    make_net(meta_step, batch, weighting="evidence", lr=LR, batch_size=64).fit(table)
    assert batch.calls.virtual == []
    [(_, _, weights)] = batch.calls.real
    assert torch.equal(weights, torch.ones_like(weights))
    logits, features = (part.detach() for part in batch.module(table.X))
    labels, weight = table.labels, table.labels.sample_weight / table.labels.sample_weight.sum()
    error = logits.softmax(dim=1) - F.one_hot(labels.targets, 3)
    step = (weight[:, None] * error).T
    moved = logits - LR * (features @ (step @ features).T + step.sum(dim=1))
    moved.requires_grad_()
    (pull,) = torch.autograd.grad(objective(features, moved, *labels[1:]), moved)
    harm = -(error * (features @ (pull.T @ features).T + pull.sum(dim=0))).sum(dim=1)
    deviation = (weight * (harm - (weight * harm).sum()) ** 2).sum().sqrt()
    close(ledger.influence, before + harm / deviation)


def test_influence_in_warm_up_is_that_of_the_plain_loss_in_a_full_step_too():
    table, ledger = make_table(14), make_ledger(14)
    objective, batch = WatchedCLID(), OneBatch()
    settings = {"warmup_epochs": 1, "virtual_step": "full"}
    meta_step = make_meta_step(table, ledger, objective, **settings)
    net = make_net(meta_step, batch, weighting="evidence", lr=LR, batch_size=64, **DROPOUT)
    net.fit(table)
    assert batch.calls.virtual == []
    [(_, _, weights)] = batch.calls.real
    assert torch.equal(weights, torch.ones_like(weights))
    run = Run(net, batch, objective, table, ledger, ledger.evidence())
    in_training = deepcopy(batch.module).train()
    with batch.same_units_dropped():
        logits, _ = in_training(batch.X)
    losses = F.cross_entropy(logits, table.labels.targets, reduction="none")
    parameters = dict(in_training.named_parameters())
    rows = rows_of(run)
    step = torch.autograd.grad(
        reweighted(torch.ones_like(losses), logits, rows),
        list(parameters.values()),
        retain_graph=True,
    )
    moved = {k: p - LR * g for (k, p), g in zip(parameters.items(), step, strict=True)}
    logits, features = functional_call(deepcopy(batch.module).eval(), moved, (batch.X,))
    value = objective.written_out(features, logits, rows.sample_weight)
    slope = flat_gradient(value, list(moved.values()))
    harm = [-flat_gradient(loss, list(parameters.values())) @ slope for loss in losses]
    harm, weight = torch.stack(harm), rows.sample_weight / rows.sample_weight.sum()
    deviation = (weight * (harm - (weight * harm).sum()) ** 2).sum().sqrt()
    close(meta_step.meta_loss, value.detach())
    close(ledger.influence, batch.influence + harm / deviation)


def test_evidence_is_taken_stock_of_at_the_start_of_an_epoch():
    class Inspect(Callback):
        def on_epoch_begin(self, net, **kwargs):
            self.evidence = written_out_evidence(ledger)

        def on_logits(self, net, labels, **kwargs):
            close(meta_step.evidence, self.evidence)

    table, ledger = make_table(20), make_ledger(20)
    meta_step = make_meta_step(table, ledger)
    before = written_out_evidence(ledger)
    trained("evidence", table, meta_step, Inspect())
    assert not torch.allclose(written_out_evidence(ledger), before)


# The offsets


class KeepOffsets(Callback):
    """Keeps the offsets at the start of every epoch, and those written out."""

    def __init__(self, ledger, table):
        self.ledger = ledger
        self.table = table
        self.offsets, self.expected, self.means = [], [], []

    def on_epoch_begin(self, net, **kwargs):
        evidence, labels = written_out_evidence(self.ledger), self.table.labels
        self.offsets.append(net.weight_net_.offset.clone())
        self.expected.append(balanced_offsets(net.weight_net_, evidence, labels))
        rows = Rows(*[torch.zeros(0)] * len(Rows._fields))
        rows = rows._replace(evidence=evidence[labels.rows], targets=labels.targets)
        weights = net.weight_net_.applied(rows).detach() * labels.sample_weight
        self.means.append(
            torch.stack(
                [
                    weights[labels.targets == k].sum()
                    / labels.sample_weight[labels.targets == k].sum()
                    for k in range(N_CLASSES)
                ]
            )
        )


def offsets_of(warmup_epochs):
    """Four epochs on a table of 30 out of 40 rows, with losses entered as in earnest."""
    rows = torch.randperm(40)[:30].sort().values
    weight = torch.zeros(40, dtype=DTYPE)
    weight[rows] = 0.5 + torch.rand(30, dtype=DTYPE)
    table, ledger = make_table(30, rows=rows, sample_weight=weight[rows]), make_ledger(40, weight)
    meta_step = make_meta_step(table, ledger, warmup_epochs=warmup_epochs)
    kept = KeepOffsets(ledger, table)
    callbacks = (LossRecord(ledger), meta_step, kept)
    make_net(*callbacks, weighting="evidence", meta_optimizer__lr=0.05, max_epochs=4).fit(table)
    return kept


def test_offsets_are_balanced_over_the_table_before_each_reweighted_epoch():
    kept = offsets_of(warmup_epochs=0)
    for offsets, expected, means in zip(kept.offsets, kept.expected, kept.means, strict=True):
        torch.testing.assert_close(offsets, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(means, BELIEVED, rtol=0, atol=1e-6)
    assert all(
        not torch.allclose(first, second, atol=1e-4)
        for first, second in zip(kept.offsets[:-1], kept.offsets[1:], strict=True)
    )


def test_offsets_rest_in_warm_up():
    kept = offsets_of(warmup_epochs=2)
    for offsets in kept.offsets[:2]:
        close(offsets, BELIEVED.logit())
    for means in kept.means[2:]:
        torch.testing.assert_close(means, BELIEVED, rtol=0, atol=1e-6)


def test_offsets_rest_within_an_epoch_and_are_no_parameters():
    class Compare(Callback):
        def on_epoch_begin(self, net, **kwargs):
            self.offset = net.weight_net_.offset.clone()

        def on_batch_end(self, net, **kwargs):
            assert torch.equal(net.weight_net_.offset, self.offset)
            assert not net.weight_net_.offset.requires_grad
            assert torch.equal(net.weight_net_.believed, BELIEVED)

    table = make_table(20)
    trained("evidence", table, make_meta_step(table), Compare())


def test_a_collapse_of_the_weighting_leaves_the_offsets_alone():
    class Disable(Callback):
        def on_epoch_end(self, net, **kwargs):
            meta_step.enabled = False
            self.offset = net.weight_net_.offset.clone()

    table, disable = make_table(20), Disable()
    meta_step = make_meta_step(table)
    net, _ = trained("evidence", table, meta_step, disable)
    assert torch.equal(net.weight_net_.offset, disable.offset)


# The history


def test_the_history_holds_the_mean_meta_loss_of_an_epoch():
    table, objective = make_table(20), WatchedCLID()
    net, _ = trained("wnet", table, make_meta_step(table, objective=objective, interval=4))
    values = [clid_loss(f, z, 0.5, sample_weight=s).item() for f, z, _, s in objective.calls]
    assert len(values) == 9
    means = [sum(values[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert net.history[:, "meta_loss"] == pytest.approx(means)


# The network is left as it was


class Inspect(Callback):
    """Keeps mode, buffers, gradients and parameters of the network between other callbacks."""

    def on_train_begin(self, net, **kwargs):
        self.states = []

    def on_logits(self, net, **kwargs):
        module = net.module_
        gradients = [p.grad is None for p in module.parameters()]
        modes = [m.training for m in module.modules()]
        self.states.append((modes, gradients, deepcopy(module.state_dict())))


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("module", [None, batch_norm, dropping])
def test_a_meta_step_leaves_mode_buffers_and_parameters_alone(module, virtual_step):
    before, after, table = Inspect(), Inspect(), make_table(20)
    meta_step = make_meta_step(table, virtual_step=virtual_step)
    net = make_net(before, meta_step, after, weighting="evidence", network=make_network(module))
    net.fit(table)
    assert len(after.states) == 12
    for (_, no_gradients, state), (modes, still_none, same) in zip(
        before.states, after.states, strict=True
    ):
        assert all(modes)
        assert no_gradients == still_none
        for name, value in state.items():
            assert torch.equal(value, same[name])


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_running_statistics_are_those_of_one_pass_per_batch(virtual_step):
    table, diary = make_table(20), Diary()
    meta_step = make_meta_step(table, virtual_step=virtual_step)
    network = partial(CountingMLP, partial(nn.BatchNorm1d, WIDTH))
    net = make_net(meta_step, diary, weighting="wnet", network=network).fit(table)
    expected = deepcopy(diary.initial).train()
    for module, (X, _, _) in zip([diary.initial, *diary.modules], diary.batches, strict=False):
        nn.utils.vector_to_parameters(vector(module), expected.parameters())
        expected(X)
    (_, statistics), (_, same) = net.module_.body, expected.body
    assert statistics.num_batches_tracked == same.num_batches_tracked == 12
    torch.testing.assert_close(statistics.running_mean, same.running_mean)
    torch.testing.assert_close(statistics.running_var, same.running_var)


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("module", [None, batch_norm])
def test_the_network_can_be_copied_after_a_meta_step(module, virtual_step):
    table = make_table(20)
    meta_step = make_meta_step(table, virtual_step=virtual_step)
    net = make_net(meta_step, weighting="wnet", network=make_network(module)).fit(table)
    assert torch.equal(vector(deepcopy(net.module_)), vector(net.module_))


# The meta batch


def drawn_rows(table, **settings):
    """The meta batches of one epoch, as positions in the table, and the training batches."""
    objective, diary = WatchedCLID(), Diary()
    meta_step = make_meta_step(table, objective=objective, **settings)
    make_net(meta_step, diary, weighting="wnet").fit(table)
    weights = table.labels.sample_weight
    drawn = []
    for features, logits, targets, sample_weight in objective.calls:
        index = (sample_weight[:, None] == weights).int().argmax(dim=1)
        assert torch.equal(targets, table.labels.targets[index])
        assert torch.equal(sample_weight, weights[index])
        assert len(features) == len(logits) == len(index)
        drawn.append(index.tolist())
    return drawn, [labels.rows.tolist() for _, labels, _ in diary.batches]


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("interval", [1, 3])
def test_the_meta_batch_is_the_training_batch_itself(virtual_step, interval):
    drawn, trained_on = drawn_rows(make_table(30), virtual_step=virtual_step, interval=interval)
    assert drawn == trained_on[::interval]


@pytest.fixture
def five_meta_rows(monkeypatch):
    monkeypatch.setattr("sklearn_clidmu.training.meta_step.MAX_META_ROWS", 5)


@pytest.mark.usefixtures("five_meta_rows")
@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_a_large_training_batch_lends_the_meta_batch_some_of_its_rows(virtual_step):
    drawn, trained_on = drawn_rows(make_table(30), virtual_step=virtual_step)
    assert min(len(rows) for rows in trained_on) > 5
    assert drawn == [rows[:5] for rows in trained_on]


@pytest.mark.usefixtures("five_meta_rows")
@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_with_some_rows_as_meta_batch_the_gradient_is_the_textbooks(weighting, virtual_step):
    run = run_one_batch(weighting, virtual_step, **SMALL)
    expected = textbook(run, virtual_step)
    assert len(meta_index(run)) == 5
    close(gradient_of(run.net.weight_net_), expected.meta_gradient)


@pytest.mark.usefixtures("five_meta_rows")
@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_a_table_that_fits_one_batch_is_the_meta_batch_however_large(virtual_step):
    run = run_one_batch("wnet", virtual_step)
    assert meta_index(run).tolist() == list(range(14))


@pytest.mark.parametrize("batch_size", [30, 31, 1000])
def test_a_drawn_meta_batch_is_the_whole_table_where_it_fits(batch_size):
    drawn, _ = drawn_rows(make_table(30), batch_size=batch_size)
    assert drawn == [list(range(30))] * 12


@pytest.mark.parametrize("virtual_step", VIRTUAL_STEPS)
def test_a_smaller_meta_batch_is_drawn_anew_at_each_meta_step(virtual_step):
    drawn, _ = drawn_rows(make_table(30), batch_size=29, virtual_step=virtual_step)
    assert [len(index) for index in drawn] == [29] * 12
    assert len({tuple(index) for index in drawn}) == 12
    assert set().union(*drawn) == set(range(30))


@pytest.mark.parametrize("batch_size", [None, 5, 30])
def test_drawing_meta_batches_does_not_change_the_training_batches(batch_size):
    torch.manual_seed(3)
    _, expected = drawn_rows(make_table(30), interval=100)
    torch.manual_seed(3)
    assert drawn_rows(make_table(30), batch_size=batch_size)[1] == expected


def test_features_of_the_training_batch_are_those_it_was_trained_with():
    run = run_one_batch("wnet", "head", **SMALL, **DROPOUT)
    seen, (_, expected) = run.objective.calls[-1][0], run.batch.forward()
    close(seen, expected.detach())
    assert not torch.allclose(seen, run.batch.module.eval()(run.batch.X)[1])


def test_features_of_the_training_batch_are_normalised_by_the_batch():
    run = run_one_batch("wnet", "head", **SMALL, network=make_network(batch_norm))
    _, expected = deepcopy(run.batch.module).train()(run.batch.X)
    close(run.objective.calls[-1][0], expected.detach())


def test_features_of_a_drawn_meta_batch_are_without_dropout():
    run = run_one_batch("wnet", "head", n=40, meta_batch_size=12, **DROPOUT)
    _, expected = run.batch.module.eval()(run.table.X[meta_index(run)])
    close(run.objective.calls[-1][0], expected.detach())


CLEAN = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
BIMODAL = (torch.where(CLEAN, 0.1, 3.0) + 0.02 * torch.arange(10)).tolist()


def small_loss_run(losses, batch_size=64, meta_batch_size=None):
    """First meta loss, the virtual step being negligible; logits, labels and rows in it."""
    n = len(losses)
    rows = torch.arange(n) + 3  # the ledger knows of rows that are not trained on
    table, weight = make_table(n, rows=rows), torch.ones(n + 3, dtype=DTYPE)
    ledger, batch = Ledger(weight, N_CLASSES), OneBatch()
    ledger.record_losses(table.labels, torch.tensor(losses, dtype=DTYPE))
    objective = build_objective("small_loss", 0.5)
    only_first = {"batch_size": meta_batch_size, "interval": 1000}
    meta_step = make_meta_step(table, ledger, objective, **only_first)
    make_net(meta_step, batch, weighting="wnet", lr=1e-12, batch_size=batch_size).fit(table)
    X, labels = (batch.X, batch.labels) if meta_batch_size is None else (table.X, table.labels)
    return meta_step.meta_loss, batch.module(X)[0].detach(), labels


def mean_cross_entropy(logits, labels, counted):
    plain = F.cross_entropy(logits, labels.targets, reduction="none")
    weight = labels.sample_weight * counted
    return (plain * weight).sum() / weight.sum()


@pytest.mark.parametrize("meta_batch_size", [None, 10])
@pytest.mark.parametrize("batch_size", [5, 64])
def test_small_loss_counts_only_rows_of_small_mean_loss(batch_size, meta_batch_size):
    # Which rows these are is found among all rows, not within the batch.
    meta_loss, logits, labels = small_loss_run(BIMODAL, batch_size, meta_batch_size)
    counted = CLEAN[labels.rows - 3]
    torch.testing.assert_close(meta_loss, mean_cross_entropy(logits, labels, counted))


def test_small_loss_counts_all_rows_before_any_has_been_seen():
    meta_loss, logits, labels = small_loss_run([0.0] * 10)
    torch.testing.assert_close(meta_loss, mean_cross_entropy(logits, labels, torch.ones(10)))


def test_other_objectives_count_all_rows():
    run = run_one_batch("wnet", "head")
    (_, _, targets, sample_weight) = run.objective.calls[-1]
    assert torch.equal(targets, run.table.labels.targets)
    assert torch.equal(sample_weight, run.table.labels.sample_weight)
