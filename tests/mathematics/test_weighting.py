import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sklearn_clidmu.mathematics.evidence import N_EVIDENCE
from sklearn_clidmu.mathematics.weighting import (
    EvidenceWeightNet,
    LogitRectifier,
    LossWeightNet,
    WeightingNet,
)

from .helpers import N_CLASSES, WIDTH, make_rows, repeat_rows, sum_copies

N_ROWS = 50
NETS = {
    "loss": LossWeightNet,
    "evidence": lambda: EvidenceWeightNet(N_CLASSES),
    "rectifier": lambda: LogitRectifier(WIDTH, N_CLASSES),
}


def perturb(net, scale=1.0):
    """Move every parameter at random, across zero too."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return net


def per_row_losses(logits, targets):
    return logits.logsumexp(dim=1) - logits[torch.arange(len(logits)), targets]


# Weights


@pytest.mark.parametrize("name", NETS)
def test_weights_lie_between_zero_and_one(name):
    net, rows = perturb(NETS[name](), 0.1), make_rows(N_ROWS)
    noise = torch.randn(N_ROWS, net.noise_width) if net.noise_width else None
    weights = net(rows, noise)
    assert weights.shape == ((N_ROWS, N_CLASSES) if name == "rectifier" else (N_ROWS,))
    assert ((weights > 0) & (weights < 1)).all()


def test_loss_weight_net_looks_at_the_loss_alone():
    net, rows, others = LossWeightNet(), make_rows(N_ROWS), make_rows(N_ROWS)
    assert torch.equal(net(rows), net(others._replace(losses=rows.losses)))
    assert not torch.equal(net(rows), net(rows._replace(losses=others.losses)))


@pytest.mark.parametrize("seed", range(5))
def test_evidence_weight_net_never_rises_with_any_input(seed):
    torch.manual_seed(seed)
    net, rows = perturb(EvidenceWeightNet(N_CLASSES)), make_rows(N_ROWS)
    assert (net.hidden.weight < 0).any()
    assert (net.output.weight < 0).any()
    weights = net(rows)
    worse = [rows._replace(losses=rows.losses + 3 * torch.rand(N_ROWS))]
    for column in range(N_EVIDENCE):
        evidence = rows.evidence.clone()
        evidence[:, column] += (1 - evidence[:, column]) * torch.rand(N_ROWS)
        worse.append(rows._replace(evidence=evidence))
    for changed in worse:
        assert (net(changed) <= weights).all()
        assert (net(changed) < weights).any()


@pytest.mark.parametrize("seed", range(5))
def test_evidence_weight_net_starts_with_nearly_equal_weights(seed):
    torch.manual_seed(seed)
    weights = EvidenceWeightNet(N_CLASSES)(make_rows(500))
    assert weights.max() - weights.min() < 0.02


@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_every_parameter(name):
    net, rows = NETS[name](), make_rows(N_ROWS)
    noise = torch.randn(N_ROWS, net.noise_width) if net.noise_width else None
    net.training_loss(net(rows, noise), torch.randn(N_ROWS, N_CLASSES), rows).backward()
    for parameter in net.parameters():
        assert parameter.grad.abs().sum() > 0


def test_evidence_weight_net_reads_the_loss_in_units_of_a_blind_guess():
    few, many = EvidenceWeightNet(2), EvidenceWeightNet(1000)
    many.load_state_dict({**few.state_dict(), "guess_loss": many.guess_loss})
    rows = make_rows(N_ROWS)
    scale = torch.tensor(1000.0).log() / torch.tensor(2.0).log()
    torch.testing.assert_close(many(rows._replace(losses=scale * rows.losses)), few(rows))


def test_only_the_evidence_weight_net_looks_at_the_evidence():
    rows = make_rows(N_ROWS)
    changed = rows._replace(evidence=torch.rand_like(rows.evidence))
    for net in (make() for make in NETS.values()):
        assert net.uses_evidence == (not torch.equal(net(rows), net(changed)))


def test_rectifier_without_noise_is_the_squashed_mean():
    net, rows = LogitRectifier(WIDTH, N_CLASSES), make_rows(N_ROWS)
    torch.testing.assert_close(net(rows), net.posterior(rows)[0].sigmoid(), rtol=0, atol=0)


def test_rectifier_draws_from_its_posterior():
    net, rows = perturb(LogitRectifier(WIDTH, N_CLASSES), 0.1), make_rows(N_ROWS)
    mean, log_variance = net.posterior(rows)
    normal = Normal(mean, log_variance.exp().sqrt())
    noise = torch.randn(N_ROWS, net.noise_width)
    quantile = normal.cdf(net(rows, noise).logit())
    torch.testing.assert_close(quantile, Normal(0, 1).cdf(noise))


# Trust and penalty


@pytest.mark.parametrize("name", ["loss", "evidence"])
def test_trust_is_the_weight_where_there_is_one_per_row(name):
    rows, weights = make_rows(N_ROWS), torch.rand(N_ROWS)
    trust = NETS[name]().trust(weights, torch.randn(N_ROWS, N_CLASSES), rows)
    assert torch.equal(trust, weights)


def test_trust_of_the_rectifier_is_the_share_of_the_gradient_that_it_lets_through():
    net, rows = LogitRectifier(WIDTH, N_CLASSES), make_rows(N_ROWS)
    factors, logits = torch.rand(N_ROWS, N_CLASSES), torch.randn(N_ROWS, N_CLASSES)
    logits.requires_grad_()

    def gradient_norms(factors):
        losses = per_row_losses(factors * logits, rows.targets)
        return torch.autograd.grad(losses.sum(), logits)[0].norm(dim=1)

    share = gradient_norms(factors) / gradient_norms(torch.ones(N_ROWS, N_CLASSES))
    expected = share.clamp(max=1)
    assert 0 < (share > 1).sum() < N_ROWS
    torch.testing.assert_close(net.trust(factors, logits, rows), expected)


@pytest.mark.parametrize("margin", [1.0, 10.0, 30.0, 60.0, 300.0])
def test_rectifier_trusts_rows_that_fit_however_well_they_fit(margin):
    rows = make_rows(1)._replace(targets=torch.tensor([0]))
    logits = torch.tensor([[margin, 0.0, 0.0]], dtype=torch.float32)
    trust = LogitRectifier(WIDTH, N_CLASSES).trust(torch.full_like(logits, 0.99), logits, rows)
    assert trust.item() > 0.9


@pytest.mark.parametrize("name", ["loss", "evidence"])
def test_nets_without_noise_have_no_penalty(name):
    assert NETS[name]().penalty(make_rows(N_ROWS)).item() == 0


def test_penalty_is_the_weighted_divergence_to_a_standard_gaussian():
    net = perturb(LogitRectifier(WIDTH, N_CLASSES, kl_weight=0.3), 0.1)
    rows = make_rows(N_ROWS, sample_weight=torch.rand(N_ROWS) + 0.5)
    mean, log_variance = net.posterior(rows)
    per_row = kl_divergence(Normal(mean, log_variance.exp().sqrt()), Normal(0, 1)).sum(dim=1)
    expected = 0.3 * (per_row * rows.sample_weight / rows.sample_weight.sum()).sum()
    torch.testing.assert_close(net.penalty(rows), expected)


# Training loss


@pytest.mark.parametrize("name", ["loss", "evidence"])
def test_training_loss_is_the_weighted_mean_of_the_losses(name):
    rows = make_rows(N_ROWS, sample_weight=torch.rand(N_ROWS) + 0.5)
    weights, logits = torch.rand(N_ROWS), torch.randn(N_ROWS, N_CLASSES)
    total = weights * rows.sample_weight
    expected = (total * per_row_losses(logits, rows.targets)).sum() / total.sum()
    torch.testing.assert_close(NETS[name]().training_loss(weights, logits, rows), expected)


def test_training_loss_of_the_rectifier_multiplies_the_logits():
    rows = make_rows(N_ROWS, sample_weight=torch.rand(N_ROWS) + 0.5)
    factors, logits = torch.rand(N_ROWS, N_CLASSES), torch.randn(N_ROWS, N_CLASSES)
    losses = per_row_losses(factors * logits, rows.targets)
    expected = (rows.sample_weight * losses).sum() / rows.sample_weight.sum()
    net = LogitRectifier(WIDTH, N_CLASSES)
    torch.testing.assert_close(net.training_loss(factors, logits, rows), expected)


@pytest.mark.parametrize("name", NETS)
def test_training_loss_does_not_depend_on_the_scale_of_sample_weights(name):
    net, rows = NETS[name](), make_rows(N_ROWS, sample_weight=torch.rand(N_ROWS) + 0.5)
    logits = torch.randn(N_ROWS, N_CLASSES)
    scaled = rows._replace(sample_weight=7 * rows.sample_weight)
    expected = net.training_loss(net(rows), logits, rows)
    torch.testing.assert_close(net.training_loss(net(scaled), logits, scaled), expected)


@pytest.mark.parametrize("name", NETS)
def test_integer_sample_weights_equal_repeated_rows(name):
    times = torch.randint(1, 4, (N_ROWS,))
    rows = make_rows(N_ROWS, sample_weight=times.double())
    net = perturb(NETS[name](), 0.1)
    logits = torch.randn(N_ROWS, N_CLASSES).requires_grad_()
    copies = logits.detach().repeat_interleave(times, dim=0).requires_grad_()
    noise = torch.randn(N_ROWS, net.noise_width)

    def loss_of(rows, logits, noise):
        weights = net(rows, noise if net.noise_width else None)
        return net.training_loss(weights, logits, rows) + net.penalty(rows)

    weighted = loss_of(rows, logits, noise)
    repeated = loss_of(repeat_rows(rows), copies, noise.repeat_interleave(times, dim=0))
    weighted.backward()
    repeated.backward()
    torch.testing.assert_close(weighted, repeated)
    torch.testing.assert_close(logits.grad, sum_copies(copies.grad, times))


def test_interface_leaves_the_weights_to_the_nets():
    with pytest.raises(NotImplementedError):
        WeightingNet()(make_rows(N_ROWS))
