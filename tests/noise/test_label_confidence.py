"""Probability that each label is right: closed forms, SciPy, simulated labels, and what counts."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import roc_auc_score

from sklearn_clidmu.noise import label_confidence as module
from sklearn_clidmu.noise.label_confidence import (
    LABEL_PRECISION_BOUNDS,
    LEAST_PROBA,
    NoiseEstimate,
    fit_powers,
)
from sklearn_clidmu.noise.transition_matrix import estimate_transition_matrix

LOWEST, HIGHEST = LABEL_PRECISION_BOUNDS


def label_confidence(sources, targets, sample_weight, seed=0, **row):
    """With a generator of its own; of few rows it draws nothing."""
    generator = torch.Generator().manual_seed(seed)
    return module.label_confidence(sources, targets, sample_weight, generator, **row)


@pytest.fixture
def few_powers_rows(monkeypatch):
    """Rows that are read for the powers of three classes: few, to save time."""
    monkeypatch.setattr(module, "POWERS_ENTRIES", 3 * 2000)
    return 2000


def draw(probabilities):
    return torch.multinomial(probabilities, 1).squeeze(1)


def make_matrix(kind, rate, n_classes):
    """Transition matrix of noise whose wrong labels are of the next class, or of any other."""
    eye = torch.eye(n_classes)
    if kind == "pairs":
        return (1 - rate) * eye + rate * eye.roll(1, dims=1)
    return (1 - rate) * eye + rate / (n_classes - 1) * (1 - eye)


class Simulated:
    """Rows whose true probabilities are known, and classifiers that have learned of noisy labels.

    The first knows the probabilities of the given labels, the second has them inexactly and says
    them with less certainty.
    """

    def __init__(self, kind, rate, n_classes=3, n_rows=4000, spread=8.0):
        self.matrix = make_matrix(kind, rate, n_classes)
        self.proba = (spread * torch.randn(n_rows, n_classes)).softmax(dim=1)
        true = draw(self.proba)
        self.given = draw(self.matrix[true])
        self.right = true == self.given
        labels = self.proba @ self.matrix
        inexact = (0.6 * (labels.log() + 0.7 * torch.randn(n_rows, n_classes))).softmax(dim=1)
        self.sources = [labels, inexact]
        self.weight = torch.ones(n_rows)

    def optimal(self):
        """Probability by Bayes' rule that each label is right, from what nobody is told."""
        return by_bayes(self.proba, self.matrix, self.given)

    def found(self, rows=slice(None), times=1.0):
        sources = [source[rows] for source in self.sources]
        return label_confidence(sources, self.given[rows], self.weight[rows] * times)


def by_bayes(proba, matrix, given):
    """p[k] T[k, k] / (p T)[k], row by row."""
    rows = zip(proba.tolist(), given.tolist(), strict=True)
    entries = matrix.tolist()
    return torch.tensor(
        [p[k] * entries[k][k] / sum(p[j] * entries[j][k] for j in range(len(p))) for p, k in rows]
    )


def few_rows(n_rows=200, n_classes=3):
    simulated = Simulated("symmetric", 0.3, n_classes, n_rows, spread=2.0)
    return simulated.sources, simulated.given, 0.5 + torch.rand(n_rows)


def assert_same(found, expected, atol=1e-4):
    torch.testing.assert_close(found.confidence, expected.confidence, rtol=0, atol=atol)
    torch.testing.assert_close(tuple(found.noise), tuple(expected.noise), rtol=0, atol=atol)


# By a closed form, where the powers and the matrix are known


@pytest.mark.parametrize("powers", [(1.0, 0.0, 0.0, 0.0), (0.5, 2.0, 0.3, 1.7)], ids=str)
@pytest.mark.parametrize("kind", ["symmetric", "pairs"])
def test_label_confidence_is_bayes_rule_on_a_product_of_powers(kind, powers, monkeypatch):
    sources, given, weight = few_rows()
    matrix = make_matrix(kind, 0.3, 3)
    monkeypatch.setattr(module, "estimate_transition_matrix", lambda *_: matrix)
    monkeypatch.setattr(module, "fit_powers", lambda *_: torch.tensor(powers))
    found = label_confidence(sources, given, weight)
    forward = [(source + LEAST_PROBA) / (1 + 3 * LEAST_PROBA) for source in sources]
    backward = [(source @ matrix.T).clamp_min(1e-12) for source in forward]
    backward = [source / source.sum(dim=1, keepdim=True) for source in backward]
    product = torch.ones(200, 3)
    for power, source in zip(powers, [*forward, *backward], strict=True):
        product *= source**power
    expected = by_bayes(product / product.sum(dim=1, keepdim=True), matrix, given)
    torch.testing.assert_close(found.confidence, expected, rtol=0, atol=1e-5)
    assert torch.equal(found.noise.matrix, matrix)
    assert found.noise.rate.item() == pytest.approx(1 - np.average(expected, weights=weight))


def test_label_confidence_of_noise_recovers_bayes_rule_where_classes_are_far_apart():
    simulated = Simulated("symmetric", 0.3, n_rows=3000, spread=60.0)
    simulated.sources = [simulated.proba]  # certain, but for some rows between two classes
    certain = simulated.proba.max(dim=1).values > 0.999
    found = simulated.found().confidence
    assert (found[certain & simulated.right] > 0.99).all()
    assert (found[certain & ~simulated.right] < 0.01).all()


def test_label_confidence_counts_ten_further_rows_for_the_precision_of_each_class():
    sources, given, weight = few_rows()
    found = label_confidence(sources, given, weight)
    right = np.average(found.confidence, weights=weight)
    expected = []
    for k in range(3):
        own = weight[given == k]
        total = (own * found.confidence[given == k]).sum().item()
        expected.append((total + 10 * right) / (own.sum().item() + 10))
    torch.testing.assert_close(found.noise.label_precision, torch.tensor(expected))
    assert found.noise.rate.item() == pytest.approx(1 - right)


def test_label_confidence_estimates_the_matrix_from_the_geometric_mean_of_the_sources():
    sources, given, weight = few_rows()
    least = [(source / source.sum(dim=1, keepdim=True) + LEAST_PROBA) for source in sources]
    first, second = (source / source.sum(dim=1, keepdim=True) for source in least)
    pooled = (first * second).sqrt()
    pooled = pooled / pooled.sum(dim=1, keepdim=True)
    expected = estimate_transition_matrix(pooled, given, weight)
    found = label_confidence(sources, given, weight)
    torch.testing.assert_close(found.noise.matrix, expected, rtol=1e-3, atol=1e-5)


# The powers, by SciPy


def make_problem(seed, n_sources=4, n_rows=300, n_classes=3):
    """Sources of which some tell more than others, and the transitions to the given labels."""
    torch.manual_seed(seed)
    logits = 2 * torch.randn(n_rows, n_classes)
    matrix = make_matrix(["symmetric", "pairs"][seed % 2], 0.1 + 0.05 * seed, n_classes)
    given = draw(matrix[draw(logits.softmax(dim=1))])
    error = torch.rand(n_sources, 1, 1) * 3
    scale = 0.2 + 2 * torch.rand(n_sources, 1, 1)
    log_proba = (scale * (logits + error * torch.randn(n_sources, n_rows, n_classes))).log_softmax(
        dim=2
    )
    return log_proba, matrix.log()[:, given].T, 0.2 + 2 * torch.rand(n_rows)


def penalized(log_powers, log_proba, log_transition, weight):
    """Negative log likelihood plus a tenth of the squared logarithms, in NumPy."""
    pooled = np.tensordot(np.exp(log_powers), log_proba, axes=1)
    likelihood = logsumexp(log_softmax(pooled, axis=1) + log_transition, axis=1)
    return 0.1 * np.square(log_powers).sum() - weight @ likelihood


@pytest.mark.parametrize("seed", range(8))
def test_fit_powers_finds_the_greatest_likelihood_that_scipy_finds(seed):
    arrays = [part.numpy() for part in make_problem(seed)]
    powers = fit_powers(*make_problem(seed)).numpy()
    starts = [np.full(4, np.log(start)) for start in (0.5, 2.0, 8.0)]
    starts += list(np.random.RandomState(seed).normal(size=(5, 4)))
    best = min(
        (minimize(penalized, start, args=tuple(arrays), method="BFGS") for start in starts),
        key=lambda result: result.fun,
    )
    assert penalized(np.log(powers), *arrays) <= best.fun + 1e-3
    np.testing.assert_allclose(powers, np.exp(best.x), rtol=0.01, atol=0.01)


def test_fit_powers_trusts_the_source_that_explains_the_labels():
    torch.manual_seed(0)
    proba = (3 * torch.randn(3000, 3)).softmax(dim=1)
    given = draw(proba)
    log_transition = torch.eye(3).log()[:, given].T
    noise = torch.randn(3000, 3).log_softmax(dim=1)
    good, bad = fit_powers(torch.stack([proba.log(), noise]), log_transition, torch.ones(3000))
    assert good.item() == pytest.approx(1, abs=0.1)
    assert bad < 0.1


@pytest.mark.parametrize("certainty", [0.25, 3.0])
def test_fit_powers_undoes_what_a_source_says_with_too_much_or_too_little_certainty(certainty):
    torch.manual_seed(0)
    log_proba = (3 * torch.randn(4000, 3)).log_softmax(dim=1)
    matrix = make_matrix("symmetric", 0.2, 3)
    log_transition = matrix.log()[:, draw(matrix[draw(log_proba.exp())])].T
    [power] = fit_powers(certainty * log_proba[None], log_transition, torch.ones(4000))
    assert (power * certainty).item() == pytest.approx(1, rel=0.1)


def test_fit_powers_leaves_no_gradient_and_needs_none():
    problem = make_problem(0)
    with torch.no_grad():
        found = fit_powers(*problem)
    assert not found.requires_grad
    assert torch.equal(found, fit_powers(*problem))


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e6])
def test_label_confidence_depends_on_weights_in_units_of_a_row(scale):
    sources, given, weight = few_rows()
    found = label_confidence(sources, given, scale * weight, row=scale)
    assert_same(found, label_confidence(sources, given, weight))


@pytest.mark.parametrize("seed", range(4))
def test_label_confidence_counts_a_row_of_weight_s_as_s_rows(seed):
    torch.manual_seed(seed)
    sources, given, _ = few_rows()
    times = torch.randint(1, 5, (200,))
    weighted = label_confidence(sources, given, times.double())
    copies = [part.repeat_interleave(times, dim=0) for part in (*sources, given)]
    repeated = label_confidence(copies[:-1], copies[-1], torch.ones(len(copies[-1])))
    spread = weighted._replace(confidence=weighted.confidence.repeat_interleave(times))
    assert_same(repeated, spread)


@pytest.mark.parametrize("seed", range(4))
def test_label_confidence_does_not_depend_on_the_names_of_the_classes(seed):
    torch.manual_seed(seed)
    sources, given, weight = few_rows(n_classes=4)
    order = torch.randperm(4)
    names = torch.argsort(order)  # class order[i] is now called i
    found = label_confidence([source[:, order] for source in sources], names[given], weight)
    expected = label_confidence(sources, given, weight)
    noise = NoiseEstimate(
        expected.noise.matrix[order][:, order],
        expected.noise.rate,
        expected.noise.label_precision[order],
    )
    assert_same(found, expected._replace(noise=noise))


def test_label_confidence_does_not_depend_on_the_order_of_rows_and_sources():
    sources, given, weight = few_rows()
    expected = label_confidence(sources, given, weight)
    order = torch.randperm(200)
    shuffled = label_confidence([s[order] for s in sources[::-1]], given[order], weight[order])
    assert_same(shuffled, expected._replace(confidence=expected.confidence[order]))


def test_label_confidence_reads_alike_of_a_large_table_in_any_order(few_powers_rows):
    """Of many rows a part shows the powers; it must not be of one class where labels alternate."""
    simulated = Simulated("pairs", 0.3, n_rows=2 * few_powers_rows)
    simulated.sources = simulated.sources[:1]
    by_class = [(simulated.given == k).nonzero().squeeze(1) for k in (0, 1)]
    n_rows = min(map(len, by_class))
    alternating = torch.stack([rows[:n_rows] for rows in by_class], dim=1).flatten()
    right = simulated.right[alternating].double().mean().item()
    for rows in (alternating, alternating[torch.randperm(2 * n_rows)]):
        assert simulated.found(rows).confidence.mean().item() == pytest.approx(right, abs=0.05)


def test_label_confidence_draws_from_its_generator_alone_and_only_of_many_rows(few_powers_rows):
    generator, state = torch.Generator().manual_seed(5), torch.get_rng_state()
    untouched = generator.get_state()
    for n_rows, drawn in ((few_powers_rows, False), (few_powers_rows + 1, True)):
        weight = torch.cat([torch.ones(n_rows), torch.zeros(50)])  # rows that are not read
        source, given = torch.rand(n_rows + 50, 3), torch.arange(n_rows + 50) % 3
        expected = label_confidence([source], given, weight, seed=5)
        generator.manual_seed(5)
        torch.manual_seed(n_rows)
        state = torch.get_rng_state()
        found = module.label_confidence([source], given, weight, generator)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(found.confidence, expected.confidence)
        assert torch.equal(generator.get_state(), untouched) != drawn


def test_label_confidence_hardly_depends_on_the_rows_drawn(few_powers_rows):
    simulated = Simulated("symmetric", 0.3, n_rows=3 * few_powers_rows)
    one, other = (
        label_confidence(simulated.sources, simulated.given, simulated.weight, seed)
        for seed in range(2)
    )
    assert not torch.equal(one.confidence, other.confidence)
    assert torch.equal(one.noise.matrix, other.noise.matrix)
    assert (one.confidence - other.confidence).abs().mean() < 0.02


@pytest.mark.parametrize("chunk", [1, 7, 200])
def test_label_confidence_is_the_same_whatever_fits_in_memory(chunk, monkeypatch):
    sources, given, weight = few_rows()
    expected = label_confidence(sources, given, weight)
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert_same(label_confidence(sources, given, weight), expected, atol=1e-12)


@pytest.mark.usefixtures("few_powers_rows")
@pytest.mark.parametrize("n_rows", [300, 6000])
def test_label_confidence_judges_rows_of_weight_zero_by_the_others(n_rows):
    simulated = Simulated("symmetric", 0.3, n_rows=n_rows)
    kept = torch.arange(n_rows) % 3 == 1
    simulated.weight[~kept] = 0
    alone, expected = simulated.found(kept.nonzero().squeeze(1)), simulated.found()
    assert_same(expected._replace(confidence=expected.confidence[kept]), alone, atol=0.02)
    right, confidence = simulated.right[~kept], expected.confidence[~kept]
    optimal = roc_auc_score(right, simulated.optimal()[~kept])
    assert roc_auc_score(right, confidence) > optimal - 0.02
    simulated.given[~kept] = (simulated.given[~kept] + 1) % 3
    found = simulated.found()
    torch.testing.assert_close(found.confidence[kept], expected.confidence[kept])
    torch.testing.assert_close(tuple(found.noise), tuple(expected.noise))


def test_label_confidence_changes_little_where_one_other_label_changes():
    sources, given, weight = few_rows(1000)
    changed = given.clone()
    changed[7] = (changed[7] + 1) % 3
    before, after = (label_confidence(sources, g, weight).confidence for g in (given, changed))
    assert (before - after)[torch.arange(1000) != 7].abs().max() < 0.05


# Calibration and order, on simulated labels


NOISES = [("symmetric", 0.2), ("symmetric", 0.4), ("pairs", 0.2), ("pairs", 0.4)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("n_classes", "gap"), [(2, 0.02), (3, 0.01), (10, 0.04)])
@pytest.mark.parametrize(("kind", "rate"), NOISES)
def test_label_confidence_orders_labels_nearly_as_bayes_rule_does(kind, rate, n_classes, gap, seed):
    torch.manual_seed(seed)
    simulated = Simulated(kind, rate, n_classes)
    optimal = roc_auc_score(simulated.right, simulated.optimal())
    assert optimal > 0.98
    assert roc_auc_score(simulated.right, simulated.found().confidence) > optimal - gap


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("n_classes", "error"), [(2, 0.03), (3, 0.03), (10, 0.07)])
@pytest.mark.parametrize(("kind", "rate"), NOISES)
def test_label_confidence_has_the_share_of_right_labels_as_its_mean(
    kind, rate, n_classes, error, seed
):
    torch.manual_seed(seed)
    simulated = Simulated(kind, rate, n_classes)
    found, share = simulated.found(), simulated.right.double().mean().item()
    assert found.confidence.mean().item() == pytest.approx(share, abs=error)
    assert found.noise.rate.item() == pytest.approx(1 - share, abs=error)
    precision = [simulated.right[simulated.given == k].double().mean() for k in range(n_classes)]
    torch.testing.assert_close(
        found.noise.label_precision, torch.stack(precision), rtol=0, atol=2 * error
    )


@pytest.mark.parametrize("spread", [3.0, 8.0])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_label_confidence_calls_few_clean_labels_wrong(n_classes, spread):
    simulated = Simulated("symmetric", 0.0, n_classes, spread=spread)
    assert simulated.right.all()
    confidence = simulated.found().confidence
    assert confidence.mean() > 0.95
    assert (confidence < 0.5).double().mean() < 0.02


# Sources and classes of which little or nothing is known


def check_bounds(found):
    assert found.confidence.isfinite().all()
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
    assert found.noise.matrix.isfinite().all()
    assert 0 <= found.noise.rate <= 1
    precision = found.noise.label_precision
    assert ((precision >= LOWEST) & (precision <= HIGHEST)).all()


def test_label_confidence_gives_no_source_a_veto():
    simulated = Simulated("symmetric", 0.3, spread=60.0)
    blind = torch.zeros(4000, 3)
    blind[:, 0] = 1  # certain of the same class in all rows
    simulated.sources = [simulated.proba, blind]
    found = simulated.found()
    check_bounds(found)
    optimal = roc_auc_score(simulated.right, simulated.optimal())
    assert roc_auc_score(simulated.right, found.confidence) > optimal - 0.01


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_label_confidence_of_sources_that_say_nothing_is_in_bounds(value):
    given = torch.arange(90) % 3
    found = label_confidence([torch.full((90, 3), value)] * 2, given, torch.ones(90))
    check_bounds(found)
    torch.testing.assert_close(found.confidence[0::3], found.confidence[:1].expand(30))


@pytest.mark.parametrize("n_classes", [2, 4, 30])
@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_label_confidence_of_hardly_any_rows_is_in_bounds(n_rows, n_classes):
    sources = [torch.rand(n_rows, n_classes) for _ in range(2)]
    given = torch.randint(n_classes, (n_rows,))
    check_bounds(label_confidence(sources, given, torch.ones(n_rows)))


@pytest.mark.parametrize("right", [True, False])
def test_label_confidence_of_sources_always_right_or_always_wrong_is_in_bounds(right):
    given = torch.arange(90) % 3
    source = torch.eye(3)[given if right else (given + 1) % 3]
    found = label_confidence([source, source], given, torch.ones(90))
    check_bounds(found)
    expected = torch.full((90,), float(right))
    torch.testing.assert_close(found.confidence, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("right", "bound"), [(True, HIGHEST), (False, LOWEST)])
def test_label_confidence_bounds_every_label_precision(right, bound):
    given = torch.arange(300) % 30
    source = torch.eye(30)[given if right else (given + 1) % 30]
    found = label_confidence([source], given, torch.ones(300))
    torch.testing.assert_close(found.noise.label_precision, torch.full((30,), bound))


def test_label_confidence_lowers_the_label_precision_of_a_class_never_predicted():
    source = torch.tensor([[0.9, 0.1, 0.0]]).repeat(100, 1)
    given = torch.zeros(100, dtype=torch.int64)
    given[::10], given[5::10] = 1, 2
    precision = label_confidence([source], given, torch.ones(100)).noise.label_precision
    assert (precision[1:] > LOWEST).all()
    assert (precision[1:] < precision[0]).all()


def test_label_confidence_sees_no_noise_in_a_rare_class_never_predicted_among_clean_ones():
    given = torch.arange(300) % 2
    source = torch.eye(3)[given]
    source[:4] = torch.tensor([0.5, 0.4, 0.1])
    given[:4] = 2
    found = label_confidence([source], given, torch.ones(300))
    assert found.noise.rate < 0.001
    assert found.noise.label_precision.min() > 0.99


def test_label_confidence_takes_single_precision_and_answers_in_double():
    sources, given, weight = few_rows()
    found = label_confidence([source.float() for source in sources], given, weight.float())
    expected = label_confidence(sources, given, weight)
    assert {part.dtype for part in (found.confidence, *found.noise)} == {torch.float64}
    assert_same(found, expected, atol=1e-3)
