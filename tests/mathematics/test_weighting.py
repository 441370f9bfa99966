import copy

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit, softmax
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from sklearn_clidmu.mathematics.evidence import N_EVIDENCE
from sklearn_clidmu.mathematics.weighting import (
    EvidenceWeightNet,
    LogitRectifier,
    LossWeightNet,
    WeightingNet,
    cross_entropy_errors,
)

from .helpers import N_CLASSES, WIDTH, make_rows, repeat_rows, rows_at, sum_copies

N_ROWS = 50
NETS = {
    "loss": LossWeightNet,
    "evidence": lambda: evidence_net(),
    "rectifier": lambda: LogitRectifier(WIDTH, N_CLASSES),
}


def evidence_net(believed=(0.6, 0.8, 0.95), **settings):
    return EvidenceWeightNet(torch.tensor(believed), **settings)


def perturb(net, scale=1.0):
    """Move every parameter at random, across zero too."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return net


def per_row_losses(logits, targets):
    return logits.logsumexp(dim=1) - logits[torch.arange(len(logits)), targets]


def uneven_rows():
    return make_rows(N_ROWS, sample_weight=torch.rand(N_ROWS) + 0.5)


def random_weights(net):
    """Weights in (0, 1) of the shape that the net gives them."""
    return torch.rand((N_ROWS,) if net.scales_losses else (N_ROWS, N_CLASSES)).requires_grad_()


def written_out_loss(name, weights, logits, rows):
    """Reweighted loss of each net, as its definition has it."""
    if name == "rectifier":
        losses, total = per_row_losses(weights * logits, rows.targets), rows.sample_weight
    else:
        losses, total = per_row_losses(logits, rows.targets), weights * rows.sample_weight
    return (total * losses).sum() / total.sum()


# What is known of a row


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_cross_entropy_errors_are_torchs_loss_and_its_gradient(scale, dtype):
    logits = scale * torch.randn(N_ROWS, N_CLASSES, dtype=dtype)
    logits[:8] = scale * torch.randint(-1, 2, (8, N_CLASSES)).to(dtype)
    targets = torch.randint(N_CLASSES, (N_ROWS,))
    leaf = logits.clone().requires_grad_()
    expected = F.cross_entropy(leaf, targets, reduction="none")
    expected.sum().backward()
    losses, errors = cross_entropy_errors(logits, targets)
    assert losses.dtype == errors.dtype == dtype
    exactly = (
        {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 1e-15}
    )
    torch.testing.assert_close(losses, expected.detach(), **exactly)
    torch.testing.assert_close(errors, leaf.grad, **exactly)
    assert torch.equal(logits, leaf)


# Weights


@pytest.mark.parametrize("name", NETS)
def test_weights_lie_between_zero_and_one(name):
    net, rows = perturb(NETS[name](), 0.1), make_rows(N_ROWS)
    noise = torch.randn(N_ROWS, net.noise_width) if net.noise_width else None
    shape = (N_ROWS, N_CLASSES) if name == "rectifier" else (N_ROWS,)
    for weights in (net(rows, noise), net.applied(rows, noise)):
        assert weights.shape == shape
        assert ((weights > 0) & (weights <= 1)).all()


@pytest.mark.parametrize("name", ["loss", "rectifier"])
def test_the_papers_nets_weigh_both_steps_alike_and_take_no_stock(name):
    net, rows = perturb(NETS[name](), 0.1), make_rows(N_ROWS)
    before = copy.deepcopy(net.state_dict())
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
    noise = torch.randn(N_ROWS, net.noise_width) if net.noise_width else None
    assert torch.equal(net.applied(rows, noise), net(rows, noise))


def test_loss_weight_net_looks_at_the_loss_alone():
    net, rows, others = LossWeightNet(), make_rows(N_ROWS), make_rows(N_ROWS)
    assert torch.equal(net(rows), net(others._replace(losses=rows.losses)))
    assert not torch.equal(net(rows), net(rows._replace(losses=others.losses)))


@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_every_parameter_that_tells_rows_apart(name):
    net, rows = NETS[name](), make_rows(N_ROWS)
    noise = torch.randn(N_ROWS, net.noise_width) if net.noise_width else None
    net.loss_and_errors(net(rows, noise), rows)[0].backward()
    for key, parameter in net.named_parameters():
        if (name, key) != ("evidence", "output.bias"):  # common to all scores
            assert parameter.grad.abs().max() > 1e-9, key


def test_only_the_evidence_weight_net_looks_at_the_evidence():
    rows = make_rows(N_ROWS)
    changed = rows._replace(evidence=torch.rand_like(rows.evidence))
    for net in (make() for make in NETS.values()):
        assert net.uses_evidence == (not torch.equal(net(rows), net(changed)))
        assert net.uses_evidence == (not torch.equal(net.applied(rows), net.applied(changed)))


def test_evidence_weight_net_looks_at_nothing_but_evidence_and_in_the_real_step_the_class():
    net, rows, others = perturb(evidence_net()), make_rows(N_ROWS), make_rows(N_ROWS)
    changed = others._replace(evidence=rows.evidence)
    assert torch.equal(net(rows), net(changed))
    assert not torch.equal(net.applied(rows), net.applied(changed))
    assert torch.equal(net.applied(rows), net.applied(changed._replace(targets=rows.targets)))


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


# The scores of the evidence net


@pytest.mark.parametrize("seed", range(5))
def test_score_never_rises_with_any_evidence(seed):
    torch.manual_seed(seed)
    net, evidence = perturb(evidence_net()), make_rows(N_ROWS).evidence
    assert (net.hidden.weight < 0).any()
    assert (net.output.weight < 0).any()
    score = net.score(evidence)
    assert score.shape == (N_ROWS,)
    for column in range(N_EVIDENCE):
        more = evidence.clone()
        more[:, column] += 3 * torch.rand(N_ROWS)
        assert (net.score(more) <= score).all()
        assert (net.score(more) < score).any()


def with_distrust(rows, values):
    """The rows, left with this distrust by an earlier training."""
    evidence = rows.evidence.clone()
    evidence[:, -1] = values
    return rows._replace(evidence=evidence)


def test_score_falls_by_exactly_the_distrust():
    net, rows = perturb(evidence_net()), make_rows(N_ROWS)
    distrust = 10 * torch.randn(N_ROWS)
    score, without = (net.score(with_distrust(rows, values).evidence) for values in (distrust, 0))
    torch.testing.assert_close(score, without - distrust)


@pytest.mark.parametrize("common", [-5.0, 0.5, 20.0])
def test_distrust_common_to_all_rows_changes_no_weight(common):
    net, rows = perturb(evidence_net()), make_rows(N_ROWS)
    doubted = with_distrust(rows, rows.evidence[:, -1] + common)
    torch.testing.assert_close(net(doubted), net(rows))
    applied = []
    for each in (rows, doubted):
        net.balance(each.evidence, each.targets, each.sample_weight)
        applied.append(net.applied(each))
    torch.testing.assert_close(*applied, rtol=0, atol=1e-6)


def test_hidden_units_of_the_evidence_net_start_with_steps_all_over_the_evidence():
    net = evidence_net(n_hidden=500)
    for values, lowest, highest in ((net.hidden.weight, 0, 1), (net.hidden.bias, -1, 1)):
        assert lowest <= values.min() < lowest + 0.05
        assert highest - 0.05 < values.max() <= highest
    assert (net.output.weight == 0.001).all()


@pytest.mark.parametrize("seed", range(5))
def test_evidence_weight_net_starts_with_nearly_equal_weights_where_no_distrust_is_left(seed):
    torch.manual_seed(seed)
    net, rows = evidence_net(), with_distrust(make_rows(500), 0)
    weights = net(rows)
    assert weights.max() < 1.2 * weights.min()
    applied = net.applied(rows)
    assert (applied - net.believed[rows.targets]).abs().max() < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_evidence_weight_net_starts_with_weights_close_to_the_trust_that_is_left(seed):
    torch.manual_seed(seed)
    trust, targets = torch.linspace(0.02, 0.98, 25).repeat(N_CLASSES), torch.arange(75) // 25
    net = evidence_net(believed=[trust.mean()] * N_CLASSES)
    rows = with_distrust(make_rows(75)._replace(targets=targets), -trust.logit())
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    applied = net.applied(rows)
    torch.testing.assert_close(applied, trust, rtol=0, atol=0.03)
    for mine in applied.split(25):
        assert (mine.diff() > 0).all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_rows_of_a_virtual_step_compete_as_in_a_softmax(scale):
    net, rows = perturb(evidence_net(), scale), make_rows(N_ROWS)
    score = net.score(rows.evidence).detach().numpy()
    np.testing.assert_allclose(net(rows).detach().numpy(), softmax(score), rtol=1e-12)


def test_gradient_of_the_virtual_step_is_that_of_a_softmax():
    net, rows = perturb(evidence_net()), uneven_rows()
    share = (net.score(rows.evidence) + rows.sample_weight.log()).softmax(dim=0)
    expected = (share * per_row_losses(rows.logits, rows.targets)).sum()
    found = net.loss_and_errors(net(rows), rows)[0]
    torch.testing.assert_close(found, expected)
    wanted = list(net.parameters())
    for here, there in zip(
        torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True
    ):
        torch.testing.assert_close(here, there, rtol=1e-7, atol=1e-12)


def test_weight_of_the_real_step_is_the_squashed_score_of_the_row_in_its_class():
    net, rows = perturb(evidence_net()), make_rows(N_ROWS)
    net.offset = torch.randn(N_CLASSES)
    expected = expit((net.score(rows.evidence) + net.offset[rows.targets]).detach().numpy())
    np.testing.assert_allclose(net.applied(rows).detach().numpy(), expected, rtol=1e-12)


# Balance


def spread_out(spread, rows, **settings):
    """An evidence net, and the rows with their distrust scaled: scores lie ``spread`` apart."""
    net, evidence = perturb(evidence_net(**settings)), rows.evidence.clone()
    with torch.no_grad():
        score = net.score(evidence)
        factor = spread / (score.max() - score.min())
        net.output.weight *= factor
        evidence[:, -1] *= factor
    return net, rows._replace(evidence=evidence)


def mean_applied(net, rows):
    """Weighted mean of the applied weights of each class."""
    weights, targets = net.applied(rows).detach().double().numpy(), rows.targets.numpy()
    per_row = rows.sample_weight.double().numpy()
    return [
        np.average(weights[targets == c], weights=per_row[targets == c]) for c in range(N_CLASSES)
    ]


@pytest.mark.parametrize("believed", [(0.1, 0.5, 0.999), (0.6, 0.8, 0.95)], ids=str)
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("weighted", [False, True])
def test_balance_gives_every_class_the_mean_weight_that_is_believed(believed, spread, weighted):
    rows = make_rows(N_ROWS, sample_weight=10 * torch.rand(N_ROWS) if weighted else None)
    net, rows = spread_out(spread, rows, believed=believed)
    weights = net.balance(rows.evidence, rows.targets, rows.sample_weight)
    np.testing.assert_allclose(mean_applied(net, rows), believed, rtol=0, atol=1e-5)
    in_full = net.applied(rows).detach()
    expected = torch.where(in_full < 0.01, 0.0, in_full)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)
    assert (weights == 0).any() == (spread > 1)


def test_a_batch_without_a_weight_has_no_loss():
    rows = make_rows(4)
    loss, errors = LossWeightNet().loss_and_errors(torch.zeros(4), rows)
    assert loss == 0
    assert torch.equal(errors, torch.zeros_like(rows.errors))


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_balance_is_met_in_single_precision(spread):
    rows = make_rows(2000, sample_weight=torch.rand(2000))
    net, rows = spread_out(spread, rows)
    net.float()
    single = rows._replace(evidence=rows.evidence.float(), sample_weight=rows.sample_weight.float())
    net.balance(single.evidence, single.targets, single.sample_weight)
    assert net.offset.dtype == torch.float32
    np.testing.assert_allclose(mean_applied(net, single), net.believed.numpy(), rtol=0, atol=1e-5)


def test_offsets_are_the_roots_that_scipy_finds():
    rows = make_rows(N_ROWS, sample_weight=torch.rand(N_ROWS) + 0.5)
    net, rows = spread_out(5.0, rows)
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    score = net.score(rows.evidence).detach().numpy()
    for c, believed in enumerate(net.believed.tolist()):
        mine = rows.targets.numpy() == c
        weight = rows.sample_weight.numpy()[mine]

        def excess(offset, score=score[mine], weight=weight, believed=believed):
            return np.average(expit(score + offset), weights=weight) - believed

        assert net.offset[c].item() == pytest.approx(brentq(excess, -30, 30), abs=1e-6)


def test_balance_forgets_the_one_before():
    rows, others = make_rows(N_ROWS), make_rows(N_ROWS)
    net, rows = spread_out(5.0, rows)
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    expected = net.offset.clone()
    net.balance(others.evidence, others.targets, others.sample_weight)
    assert not torch.allclose(net.offset, expected)
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    assert torch.equal(net.offset, expected)


@pytest.mark.parametrize("name", [name for name in NETS if name != "evidence"])
def test_the_papers_nets_have_no_weights_that_stay_for_an_epoch(name):
    net, rows = NETS[name](), make_rows(N_ROWS)
    assert net.balance(rows.evidence, rows.targets, rows.sample_weight) is None


def test_balance_moves_nothing_but_the_offsets():
    net, rows = spread_out(5.0, make_rows(N_ROWS))
    before = copy.deepcopy(net.state_dict())
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    changed = [
        key for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    ]
    assert changed == ["offset"]
    assert not net.offset.requires_grad


@pytest.mark.parametrize("spread", [0.0, 5.0, 1e3])
@pytest.mark.parametrize("empty", ["no rows", "weight zero"])
def test_class_without_rows_has_a_finite_offset_and_leaves_the_others_alone(spread, empty):
    rows = make_rows(N_ROWS)
    net, rows = spread_out(spread, rows)
    if empty == "no rows":
        rows = rows._replace(targets=rows.targets % 2)
    else:
        rows = rows._replace(sample_weight=(rows.targets < 2).double())
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    assert net.offset.isfinite().all()
    assert net.applied(rows).isfinite().all()
    for c in range(2):
        mean = net.applied(rows)[rows.targets == c].mean().item()
        assert mean == pytest.approx(net.believed[c].item(), abs=1e-5)


def test_balance_of_integer_sample_weights_equals_that_of_repeated_rows():
    times = torch.randint(1, 4, (N_ROWS,))
    rows = make_rows(N_ROWS, sample_weight=times.double())
    net, rows = spread_out(5.0, rows)
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    weighted = net.offset.clone()
    repeated = repeat_rows(rows)
    net.balance(repeated.evidence, repeated.targets, repeated.sample_weight)
    torch.testing.assert_close(net.offset, weighted)


def test_state_carries_believed_shares_and_offsets_to_another_net():
    net, rows = spread_out(5.0, make_rows(N_ROWS))
    twin = evidence_net(believed=(0.5, 0.5, 0.5))
    net.balance(rows.evidence, rows.targets, rows.sample_weight)
    assert {"offset", "believed"} <= set(net.state_dict())
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin.believed, net.believed)
    assert torch.equal(twin.offset, net.offset)
    assert torch.equal(twin.applied(rows), net.applied(rows))


# Trust and penalty


@pytest.mark.parametrize("name", ["loss", "evidence"])
def test_trust_is_the_weight_where_there_is_one_per_row(name):
    rows, weights = make_rows(N_ROWS), torch.rand(N_ROWS)
    assert torch.equal(NETS[name]().trust(weights, rows), weights)


def test_trust_of_the_rectifier_is_the_share_of_the_gradient_that_it_lets_through():
    net, rows = LogitRectifier(WIDTH, N_CLASSES), make_rows(N_ROWS)
    factors, logits = torch.rand(N_ROWS, N_CLASSES), rows.logits.clone().requires_grad_()

    def gradient_norms(factors):
        losses = per_row_losses(factors * logits, rows.targets)
        return torch.autograd.grad(losses.sum(), logits)[0].norm(dim=1)

    share = gradient_norms(factors) / gradient_norms(torch.ones(N_ROWS, N_CLASSES))
    expected = share.clamp(max=1)
    assert 0 < (share > 1).sum() < N_ROWS
    torch.testing.assert_close(net.trust(factors, rows), expected)


@pytest.mark.parametrize("margin", [1.0, 10.0, 30.0, 60.0, 300.0])
def test_rectifier_trusts_rows_that_fit_however_well_they_fit(margin):
    logits = torch.tensor([[margin, 0.0, 0.0]], dtype=torch.float32)
    rows = rows_at(logits, make_rows(1)._replace(targets=torch.tensor([0])))
    trust = LogitRectifier(WIDTH, N_CLASSES).trust(torch.full_like(logits, 0.99), rows)
    assert trust.item() > 0.9


@pytest.mark.parametrize("name", ["loss", "evidence"])
def test_nets_without_noise_have_no_penalty(name):
    net, rows = NETS[name](), make_rows(N_ROWS)
    draw = net.draw(rows)
    assert torch.equal(draw.weights, net(rows))
    assert draw.penalty == 0


def test_noise_reaches_a_net_that_asks_for_it():
    class Lottery(WeightingNet):
        noise_width = 1

        def forward(self, rows, noise=None):
            return noise.squeeze(1).sigmoid()

    rows, noise = make_rows(N_ROWS), torch.randn(N_ROWS, 1)
    for weights in (Lottery().draw(rows, noise).weights, Lottery().applied(rows, noise)):
        assert torch.equal(weights, noise.squeeze(1).sigmoid())


def test_penalty_is_the_weighted_divergence_to_a_standard_gaussian():
    net = perturb(LogitRectifier(WIDTH, N_CLASSES, kl_weight=0.3), 0.1)
    rows = make_rows(N_ROWS, sample_weight=torch.rand(N_ROWS) + 0.5)
    mean, log_variance = net.posterior(rows)
    per_row = kl_divergence(Normal(mean, log_variance.exp().sqrt()), Normal(0, 1)).sum(dim=1)
    expected = 0.3 * (per_row * rows.sample_weight / rows.sample_weight.sum()).sum()
    noise = torch.randn(N_ROWS, net.noise_width)
    for each in (None, noise):
        draw = net.draw(rows, each)
        assert torch.equal(draw.weights, net(rows, each))
        torch.testing.assert_close(draw.penalty, expected)


# The loss of a batch and its derivatives


@pytest.mark.parametrize("name", ["loss", "evidence"])
def test_loss_is_the_weighted_mean_of_the_losses(name):
    rows, weights = uneven_rows(), torch.rand(N_ROWS)
    total = weights * rows.sample_weight
    expected = (total * per_row_losses(rows.logits, rows.targets)).sum() / total.sum()
    torch.testing.assert_close(NETS[name]().loss_and_errors(weights, rows)[0], expected)


def test_loss_of_the_rectifier_multiplies_the_logits():
    rows, factors = uneven_rows(), torch.rand(N_ROWS, N_CLASSES)
    losses = per_row_losses(factors * rows.logits, rows.targets)
    expected = (rows.sample_weight * losses).sum() / rows.sample_weight.sum()
    found, _ = LogitRectifier(WIDTH, N_CLASSES).loss_and_errors(factors, rows)
    torch.testing.assert_close(found, expected)


def differentiable_loss(name, weighted):
    """A net, rows, weights for them, their logits as a leaf, and the loss written out from it."""
    net, rows = NETS[name](), uneven_rows() if weighted else make_rows(N_ROWS)
    weights, logits = random_weights(net), rows.logits.clone().requires_grad_()
    return net, rows, weights, logits, written_out_loss(name, weights, logits, rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_errors_are_the_gradient_of_the_loss_by_the_logits(name, weighted):
    net, rows, weights, logits, value = differentiable_loss(name, weighted)
    (expected,) = torch.autograd.grad(value, logits)
    loss, errors = net.loss_and_errors(weights, rows)
    torch.testing.assert_close(loss, value, rtol=1e-12, atol=0)
    for found in (errors, net.errors(weights, rows)):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_derivative_of_the_errors_by_the_weights_is_that_of_double_backward(name, weighted):
    net, rows, weights, logits, value = differentiable_loss(name, weighted)
    (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
    direction = torch.randn(N_ROWS, N_CLASSES)
    (expected,) = torch.autograd.grad(gradient, weights, direction)
    (found,) = torch.autograd.grad(net.errors(weights, rows), weights, direction)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", NETS)
def test_gradient_of_the_surrogate_is_that_of_minus_the_errors_along_the_tangent(name):
    net, rows = perturb(NETS[name](), 0.1), uneven_rows()
    noise = torch.randn(N_ROWS, N_CLASSES)
    tangent, parameters = torch.randn(N_ROWS, N_CLASSES), list(net.parameters())
    logits = rows.logits.clone().requires_grad_()
    value = written_out_loss(name, net(rows, noise), logits, rows)
    (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
    expected = torch.autograd.grad(-(gradient * tangent).sum(), parameters)
    harm = -(rows.errors * tangent).sum(dim=1)
    scalar = net.surrogate(net(rows, noise), harm, None if net.scales_losses else tangent, rows)
    found = torch.autograd.grad(scalar, parameters)
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", NETS)
def test_backward_sets_the_gradient_of_the_surrogate_and_the_penalty(name):
    net, rows = perturb(NETS[name](), 0.1), uneven_rows()
    parameters, noise = list(net.parameters()), torch.randn(N_ROWS, net.noise_width)
    noise = noise if net.noise_width else None
    harm, tangent = torch.randn(N_ROWS), torch.randn(N_ROWS, N_CLASSES)
    scalar = net.surrogate(net(rows, noise), harm, tangent, rows) + net.draw(rows, noise).penalty
    expected = torch.autograd.grad(scalar, parameters)
    net.backward(net.draw(rows, noise), harm, tangent, rows)
    for parameter, there in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, there, rtol=1e-11, atol=1e-15)
        assert not parameter.grad.requires_grad


@pytest.mark.parametrize("name", ["loss", "evidence"])
def test_shares_add_up_to_one_and_make_the_loss_of_the_rows_losses(name):
    net, rows = NETS[name](), uneven_rows()
    weights = torch.rand(N_ROWS)
    share = net.shares(weights, rows)
    assert share.shape == (N_ROWS,)
    assert (share > 0).all()
    assert share.sum().item() == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(share @ rows.losses, net.loss_and_errors(weights, rows)[0])
    ratio = (weights * rows.sample_weight)[1:] / (weights * rows.sample_weight)[:-1]
    torch.testing.assert_close(share[1:] / share[:-1], ratio)


@pytest.mark.parametrize("name", NETS)
def test_a_net_that_scales_losses_gives_one_weight_per_row(name):
    net, rows = NETS[name](), make_rows(N_ROWS)
    assert net.scales_losses is (net(rows).shape == (N_ROWS,))


@pytest.mark.parametrize("name", NETS)
def test_loss_does_not_depend_on_the_scale_of_sample_weights(name):
    net, rows = NETS[name](), uneven_rows()
    scaled = rows._replace(sample_weight=7 * rows.sample_weight)
    here, there = (net.loss_and_errors(net(each), each) for each in (scaled, rows))
    torch.testing.assert_close(here, there)


@pytest.mark.parametrize("name", NETS)
def test_integer_sample_weights_equal_repeated_rows(name):
    times = torch.randint(1, 4, (N_ROWS,))
    rows = make_rows(N_ROWS, sample_weight=times.double())
    net = perturb(NETS[name](), 0.1)
    noise = torch.randn(N_ROWS, net.noise_width)

    def loss_and_errors(rows, noise):
        draw = net.draw(rows, noise if net.noise_width else None)
        loss, errors = net.loss_and_errors(draw.weights, rows)
        return loss + draw.penalty, errors

    loss, errors = loss_and_errors(rows, noise)
    repeated = loss_and_errors(repeat_rows(rows), noise.repeat_interleave(times, dim=0))
    torch.testing.assert_close(loss, repeated[0])
    torch.testing.assert_close(errors, sum_copies(repeated[1], times))


def test_interface_leaves_the_weights_to_the_nets():
    with pytest.raises(NotImplementedError):
        WeightingNet()(make_rows(N_ROWS))
