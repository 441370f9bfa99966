"""The weighting nets' closed forms, and what EvidenceNet promises of its weights."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit
from torch.nn import functional as F

from sklearn_clidmu.clid.weight_nets import VRI, EvidenceNet, Rows, WNet, row_grad_logits

from .helpers import N_CLASSES, WIDTH, class_means

PRECISION = torch.tensor([0.9, 0.6, 0.75], dtype=torch.float64)


def tolerance(net, evidence):
    """A millionth of the range of the scores, to which the offsets are found."""
    score = net(evidence).detach()
    return 1e-6 * (score.max() - score.min()).item()


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


def test_vri_draws_from_its_posterior():
    rows, net, noise = make_rows(), VRI(WIDTH, N_CLASSES), torch.randn(20, N_CLASSES)
    mean, log_variance = net(rows.features, rows.targets)
    posterior = torch.distributions.Normal(mean, log_variance.exp().sqrt())
    standard = torch.distributions.Normal(0, 1).cdf(noise)
    torch.testing.assert_close(posterior.cdf(net.weights(rows, noise).logit()), standard)


def test_vri_confidence_is_the_share_of_the_gradient_that_passes():
    net, rows = VRI(WIDTH, N_CLASSES), make_rows()
    factors, logits = torch.rand(20, N_CLASSES), rows.logits.clone().requires_grad_()

    def norms(factors):
        losses = F.cross_entropy(factors * logits, rows.targets, reduction="sum")
        return torch.autograd.grad(losses, logits)[0].norm(dim=1)

    share = norms(factors) / norms(torch.ones(20, N_CLASSES))
    assert 0 < (share > 1).sum() < 20
    torch.testing.assert_close(net.confidence(factors, rows), share.clamp(max=1))


@pytest.mark.parametrize("margin", [1.0, 10.0, 30.0, 60.0, 300.0])
def test_vri_confidence_is_high_for_rows_that_fit_however_well(margin):
    logits = torch.tensor([[margin, 0.0, 0.0]], dtype=torch.float32)
    rows = make_rows(1)._replace(logits=logits, targets=torch.tensor([0]))
    assert VRI(WIDTH, N_CLASSES).confidence(torch.full_like(logits, 0.99), rows).item() > 0.9


def test_wnet_reads_the_loss_alone_and_its_weights_are_the_confidence():
    rows, net = make_rows(), WNet()
    weights = net.weights(rows)
    others = make_rows()._replace(losses=rows.losses)
    assert torch.equal(net.weights(others), weights)
    assert torch.equal(net.confidence(weights, rows), weights)
    assert net.penalty(rows) == 0


def test_wnet_loss_of_weights_that_are_all_zero_is_zero():
    rows, net = make_rows(), WNet()
    assert net.loss(torch.zeros(20), rows.logits, rows) == 0
    assert net.grad_logits(torch.zeros(20), rows.logits, rows).abs().max() == 0


def test_evidence_net_score_never_rises_with_evidence():
    net, evidence = EvidenceNet(PRECISION), make_evidence()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    for column in range(5):
        more = evidence.clone()
        more[:, column] += 0.3
        assert (net(more) <= net(evidence) + 1e-12).all()


def test_evidence_net_score_falls_by_the_prior_log_odds():
    net, evidence = EvidenceNet(PRECISION), make_evidence()
    more = evidence.clone()
    more[:, 4] += 1.5
    torch.testing.assert_close(net(evidence) - net(more), torch.full((200,), 1.5))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_evidence_net_calibrates_the_mean_weight_of_each_class(scale):
    net, evidence, targets = EvidenceNet(PRECISION), make_evidence(), torch.arange(200) % 3
    evidence[:, 4] *= scale
    sample_weight = torch.rand(200) + 0.1
    weights = net.calibrate(evidence, targets, sample_weight)
    torch.testing.assert_close(weights, net.weights(evidence, targets).detach())
    found = class_means(weights, targets, sample_weight)
    # A weight changes by no more than a quarter of what its offset does.
    torch.testing.assert_close(found, PRECISION, rtol=0, atol=tolerance(net, evidence) / 4)
    assert weights.min() >= 0
    assert weights.max() <= 1


def test_evidence_net_virtual_shares_are_a_weighted_softmax():
    net, evidence = EvidenceNet(PRECISION), make_evidence(12).view(3, 4, 5)
    weight = torch.rand(3, 4)
    shares = net.virtual_shares(evidence, weight).detach()
    expected = net(evidence).detach().exp() * weight
    torch.testing.assert_close(shares, expected / expected.sum(dim=1, keepdim=True))
    moved = evidence.clone()
    moved[..., 4] += 7  # a level that all rows share
    torch.testing.assert_close(net.virtual_shares(moved, weight).detach(), shares)


def calibrated(scale=5.0, n=200, targets=None, sample_weight=None):
    """A net with scores far apart, calibrated on rows of which it returns all columns."""
    net, evidence = EvidenceNet(PRECISION), make_evidence(n)
    evidence[:, 4] *= scale
    targets = torch.arange(n) % 3 if targets is None else targets
    sample_weight = torch.rand(n) + 0.1 if sample_weight is None else sample_weight
    net.calibrate(evidence, targets, sample_weight)
    return net, evidence, targets, sample_weight


def test_evidence_net_offsets_are_the_roots_that_scipy_finds():
    net, evidence, targets, weight = calibrated()
    score = net(evidence).detach().numpy()
    for code, precision in enumerate(PRECISION.tolist()):
        mine = targets.numpy() == code

        def excess(offset, mine=mine, precision=precision):
            return np.average(expit(score[mine] + offset), weights=weight.numpy()[mine]) - precision

        root = brentq(excess, -40, 40)
        assert net.offset[code].item() == pytest.approx(root, abs=tolerance(net, evidence))


@pytest.mark.parametrize("empty", ["no rows", "weight zero"])
@pytest.mark.parametrize("scale", [0.0, 5.0, 1e3])
def test_evidence_net_calibrates_around_a_class_without_rows(scale, empty):
    targets, weight = torch.arange(200) % 3, torch.ones(200)
    if empty == "no rows":
        targets = targets % 2
    else:
        weight[targets == 2] = 0
    net, evidence, targets, weight = calibrated(scale, targets=targets, sample_weight=weight)
    assert net.offset.isfinite().all()
    found = class_means(net.weights(evidence, targets).detach(), targets, weight)
    atol = tolerance(net, evidence) / 4 + 1e-9
    torch.testing.assert_close(found[:2], PRECISION[:2], rtol=0, atol=atol)


def test_evidence_net_calibration_moves_the_offsets_alone_and_forgets_the_last():
    net, evidence, targets, weight = calibrated()
    before = copy.deepcopy(net.state_dict())
    net.calibrate(make_evidence(), targets, weight)
    changed = [k for k, value in net.state_dict().items() if not torch.equal(value, before[k])]
    assert changed == ["offset"]
    net.calibrate(evidence, targets, weight)
    assert torch.equal(net.offset, before["offset"])


def test_evidence_net_calibration_counts_a_row_of_weight_s_as_s_rows():
    times = torch.arange(200) % 4 + 1
    net, evidence, targets, _ = calibrated(sample_weight=times.double())
    offset = net.offset.clone()
    copies = (part.repeat_interleave(times, dim=0) for part in (evidence, targets))
    net.calibrate(*copies, torch.ones(int(times.sum())))
    torch.testing.assert_close(net.offset, offset)


def test_evidence_net_calibration_is_met_in_single_precision():
    net, evidence, targets, weight = calibrated(30.0, n=2000)
    net, evidence, weight = net.float(), evidence.float(), weight.float()
    net.calibrate(evidence, targets, weight)
    weights = net.weights(evidence, targets).detach()
    assert weights.dtype == torch.float32
    found = class_means(weights, targets, weight)
    torch.testing.assert_close(found, PRECISION.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_evidence_net_starts_from_the_confidence_of_the_stage_before(seed):
    torch.manual_seed(seed)
    confidence, targets = torch.linspace(0.02, 0.98, 25).repeat(3), torch.arange(75) // 25
    net, evidence = EvidenceNet(confidence.mean().expand(3)), make_evidence(75)
    evidence[:, 4] = -confidence.logit()
    net.calibrate(evidence, targets, torch.ones(75))
    found = net.weights(evidence, targets).detach()
    torch.testing.assert_close(found, confidence, rtol=0, atol=0.03)


def test_evidence_net_state_carries_precision_and_offsets():
    net, evidence, targets, _ = calibrated()
    twin = EvidenceNet(torch.full((3,), 0.5))
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin.label_precision, PRECISION)
    assert torch.equal(twin.weights(evidence, targets), net.weights(evidence, targets))
