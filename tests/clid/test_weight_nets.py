"""The weighting nets' closed forms, and what EvidenceNet promises of its weights."""

import pytest
import torch
from torch.nn import functional as F

from sklearn_clidmu.clid.weight_nets import VRI, EvidenceNet, Rows, WNet, row_grad_logits
from sklearn_clidmu.clid.weighted import class_means

from .helpers import N_CLASSES, WIDTH

PRECISION = torch.tensor([0.9, 0.6, 0.75], dtype=torch.float64)


def make_rows(n=20, sample_weight=None):
    logits, targets = 2 * torch.randn(n, N_CLASSES), torch.randint(N_CLASSES, (n,))
    losses = F.cross_entropy(logits, targets, reduction="none")
    weight = torch.ones(n) if sample_weight is None else sample_weight
    return Rows(logits, torch.randn(n, WIDTH), losses, targets, weight)


def make_evidence(n=200):
    return torch.cat([torch.rand(n, 4), torch.randn(n, 1)], dim=1)


NETS = {"wnet": WNet, "vri": lambda: VRI(WIDTH, N_CLASSES)}


def test_row_grad_logits_is_the_gradient_of_each_rows_cross_entropy():
    rows = make_rows()
    logits = rows.logits.requires_grad_()
    F.cross_entropy(logits, rows.targets, reduction="sum").backward()
    torch.testing.assert_close(row_grad_logits(logits.detach(), rows.targets), logits.grad)


@pytest.mark.parametrize("kind", NETS)
def test_weight_net_grad_logits_is_that_of_its_loss(kind):
    rows, net = make_rows(sample_weight=torch.rand(20) + 0.1), NETS[kind]()
    noise = torch.randn(20, N_CLASSES) if net.noise_width else None
    weights = net.weights(rows, noise).detach()
    logits = rows.logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net.loss(weights, logits, rows), logits)
    torch.testing.assert_close(net.grad_logits(weights, rows.logits, rows), expected)


@pytest.mark.parametrize("kind", NETS)
def test_weight_net_loss_counts_a_row_of_weight_s_as_s_rows(kind):
    times = torch.tensor([1, 3, 2, 1, 4])
    rows, net = make_rows(5, times.double()), NETS[kind]()
    repeated = Rows(*(part.repeat_interleave(times, dim=0) for part in rows))
    repeated = repeated._replace(sample_weight=torch.ones(11))
    losses = [net.loss(net.weights(some), some.logits, some) for some in (rows, repeated)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(net.penalty(rows), net.penalty(repeated))


@pytest.mark.parametrize("kind", NETS)
def test_weight_net_confidence_lies_between_zero_and_one(kind):
    rows, net = make_rows(), NETS[kind]()
    confidence = net.confidence(net.weights(rows), rows)
    assert confidence.shape == (20,)
    assert confidence.min() > 0
    assert confidence.max() <= 1


def test_vri_penalty_is_the_divergence_that_torch_computes():
    rows, net = make_rows(), VRI(WIDTH, N_CLASSES, kl_weight=0.5)
    mean, log_variance = net(rows.features, rows.targets)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(net.penalty(rows), 0.5 * divergence.sum(dim=1).mean())


def test_vri_without_noise_gives_the_posterior_mean():
    rows, net = make_rows(), VRI(WIDTH, N_CLASSES)
    torch.testing.assert_close(net.weights(rows), net.weights(rows, torch.zeros(20, N_CLASSES)))


def test_evidence_score_never_rises_with_evidence():
    net, evidence = EvidenceNet(PRECISION), make_evidence()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    for column in range(5):
        more = evidence.clone()
        more[:, column] += 0.3
        assert (net(more) <= net(evidence) + 1e-12).all()


def test_evidence_score_falls_by_the_prior_log_odds():
    net, evidence = EvidenceNet(PRECISION), make_evidence()
    more = evidence.clone()
    more[:, 4] += 1.5
    torch.testing.assert_close(net(evidence) - net(more), torch.full((200,), 1.5))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_evidence_net_calibrates_the_mean_weight_of_each_class(scale):
    net, evidence, targets = EvidenceNet(PRECISION), make_evidence(), torch.arange(200) % 3
    evidence[:, 4] *= scale
    sample_weight = torch.rand(200) + 0.1
    net.calibrate(evidence, targets, sample_weight)
    weights = net.weights(evidence, targets).detach()
    found = class_means(weights, targets, 3, sample_weight)
    torch.testing.assert_close(found, PRECISION, rtol=1e-6, atol=0)
    assert weights.min() >= 0
    assert weights.max() <= 1


def test_evidence_net_virtual_shares_are_a_weighted_softmax():
    net, evidence, weight = (
        EvidenceNet(PRECISION),
        make_evidence(12).view(3, 4, 5),
        torch.rand(3, 4),
    )
    shares = net.virtual_shares(evidence, weight).detach()
    expected = net(evidence).detach().exp() * weight
    torch.testing.assert_close(shares, expected / expected.sum(dim=1, keepdim=True))
    moved = evidence.clone()
    moved[..., 4] += 7  # a level that all rows share
    torch.testing.assert_close(net.virtual_shares(moved, weight).detach(), shares)
