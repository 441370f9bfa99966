"""The two meta steps, held against Algorithm 1 and against finite differences."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklearn_clidmu.clid.algorithm import clid_mu_step
from sklearn_clidmu.clid.hypergradient import MetaBatch
from sklearn_clidmu.clid.objective import clid_loss, make_objective
from sklearn_clidmu.clid.weight_nets import EvidenceNet, WNet, row_grad_logits
from sklearn_clidmu.training.data import SampleHistory, ShuffledBatches, Table
from sklearn_clidmu.training.meta_step import BatchMetaStep, BlockMetaStep
from sklearn_clidmu.training.net import ReweightedNet

from .helpers import N_CLASSES, N_FEATURES, Pair

DTYPE, LR, META_LR = torch.float64, 0.1, 0.05


def make_table(n=12):
    X = torch.randn(n, N_FEATURES, dtype=DTYPE)
    return Table(X, torch.arange(n) % N_CLASSES, torch.ones(n, dtype=DTYPE))


def make_net(network, meta_step, batch_size, n_epochs):
    net = ReweightedNet(
        lambda: network,
        meta_step=meta_step,
        lr=LR,
        max_epochs=n_epochs,
        batch_size=batch_size,
        iterator_train=ShuffledBatches,
        train_split=None,
        callbacks=[("meta_step", meta_step)],
        verbose=0,
    ).initialize()
    net.callbacks_ = [("meta_step", meta_step)]
    return net


def make_step(kind, weight_net, table, objective=None, **settings):
    history = SampleHistory(
        torch.ones(len(table), dtype=DTYPE), N_CLASSES, torch.zeros(len(table), dtype=DTYPE)
    )
    defaults = {"virtual_step": "full", "n_warmup": 0, "meta_batch_size": None, "lr": META_LR}
    objective = objective or make_objective("clid", 0.5)
    return kind(weight_net, table, history, objective, **{**defaults, **settings})


def unscaled_clid(features, logits, targets, sample_weight):
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        value = clid_loss(features, logits, 0.5)
        return value.detach(), torch.autograd.grad(value, logits)[0]


def test_batch_meta_step_follows_algorithm_1():
    # Adam's epsilon sees the scale of a gradient, so that it is set to the paper's.
    table, network = make_table(), Pair().to(DTYPE)
    weight_net = WNet(n_hidden=5).to(DTYPE)
    expected_network, expected_net = copy.deepcopy(network), copy.deepcopy(weight_net)
    step = make_step(BatchMetaStep, weight_net, table, unscaled_clid)
    step._scale = lambda harm, sample_weight: torch.tensor(1 / LR, dtype=DTYPE)
    make_net(network, step, 12, n_epochs=1).partial_fit(table)
    optimizer = torch.optim.SGD(expected_network.parameters(), LR)
    meta_optimizer = torch.optim.Adam(expected_net.parameters(), META_LR)
    targets = table.labels.targets
    for _ in range(10):  # an epoch takes ten steps at least
        clid_mu_step(
            expected_network, expected_net, optimizer, meta_optimizer, table.X, targets, table.X
        )
    for found, expected in zip(network.parameters(), expected_network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    for found, expected in zip(weight_net.parameters(), expected_net.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["wnet", "evidence"])
def test_meta_step_waits_for_the_end_of_warm_up(kind):
    table, network = make_table(), Pair().to(DTYPE)
    if kind == "wnet":
        weight_net = WNet().to(DTYPE)
        step = make_step(BatchMetaStep, weight_net, table, n_warmup=2)
    else:
        weight_net = EvidenceNet(torch.tensor([0.9, 0.8, 0.7], dtype=DTYPE)).to(DTYPE)
        step = make_step(BlockMetaStep, weight_net, table, n_warmup=2, n_batches=1)
    before = copy.deepcopy(weight_net.state_dict())
    plain = Pair().to(DTYPE)
    plain.load_state_dict(network.state_dict())
    make_net(network, step, 12, n_epochs=2).partial_fit(table)
    for name, value in weight_net.state_dict().items():
        assert torch.equal(value, before[name])
    optimizer = torch.optim.SGD(plain.parameters(), LR)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(plain(table.X)[0], table.labels.targets).backward()
        optimizer.step()
    for found, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_block_meta_step_trains_on_the_calibrated_weights_of_the_epoch():
    table, network = make_table(), Pair().to(DTYPE)
    weight_net = EvidenceNet(torch.tensor([0.9, 0.8, 0.7], dtype=DTYPE)).to(DTYPE)
    step = make_step(BlockMetaStep, weight_net, table, virtual_step="head", n_batches=2)
    net = make_net(network, step, 12, n_epochs=1)
    net.partial_fit(table)
    targets = table.labels.targets
    for code, precision in enumerate([0.9, 0.8, 0.7]):
        assert step.weights[targets == code].mean().item() == pytest.approx(precision, abs=1e-6)


@pytest.mark.parametrize("n_batches", [1, 3])
def test_block_meta_step_records_the_influence_of_the_last_layer(n_batches):
    # In warm-up, at a learning rate so small that the network stays where it is.
    table, network = make_table(), Pair().to(DTYPE)
    weight_net = EvidenceNet(torch.full((3,), 0.8, dtype=DTYPE)).to(DTYPE)
    settings = {"virtual_step": "head", "n_warmup": 1, "n_batches": n_batches}
    step = make_step(BlockMetaStep, weight_net, table, **settings)
    net = make_net(network, step, 12, n_epochs=1)
    net.optimizer_.param_groups[0]["lr"] = 1e-9
    net.partial_fit(table)
    logits, features = (part.detach() for part in network(table.X))
    targets = table.labels.targets
    meta = MetaBatch(targets, table.sample_weight)
    _, by_logits = make_objective("clid", 0.5)(features, logits, *meta)
    gradient = nn.functional.linear(features, by_logits.T @ features) + by_logits.sum(dim=0)
    influence = -(row_grad_logits(logits, targets) * gradient).sum(dim=1)
    expected = 10 * influence / influence.std(correction=0)  # ten steps an epoch
    torch.testing.assert_close(step.history.influence, expected, rtol=1e-5, atol=1e-6)
