"""Noise estimates: known noise, numbers worked out by hand, and what counts."""

from fractions import Fraction

import pytest
import torch

from sklearn_clidmu.noise import transition_matrix
from sklearn_clidmu.noise.loo_kernel_ridge import Kernel, loo_proba
from sklearn_clidmu.noise.transition_matrix import (
    LABEL_PRECISION_BOUNDS,
    estimate_label_noise,
    estimate_noise,
)

LOWEST, HIGHEST = LABEL_PRECISION_BOUNDS
NOISE = {
    "none": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "symmetric": [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]],
    "pairs": [[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]],
    "one class": [[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
}


@pytest.fixture
def round_numbers(monkeypatch):
    """Settings for which the numbers below were worked out."""
    monkeypatch.setattr(transition_matrix, "ANCHORS", 0.1)
    monkeypatch.setattr(transition_matrix, "PRIOR_ROWS", 10)
    monkeypatch.setattr(transition_matrix, "COMMON_SHARE", 0.0)


def draw(probabilities):
    return torch.multinomial(probabilities, 1).squeeze(1)


class Known:
    """Rows whose probabilities are known, of classes that overlap a little."""

    def __init__(self, noise, n_rows=40_000, class_logits=(0.0, 0.0, 0.0)):
        self.matrix = torch.tensor(noise)
        probabilities = (20 * torch.randn(n_rows, 3) + torch.tensor(class_logits)).softmax(dim=1)
        self.proba = probabilities @ self.matrix
        self.true = draw(probabilities)
        self.given = draw(self.matrix[self.true])

    def label_precision(self):
        """Share of right labels among those given to each class."""
        right = self.given == self.true
        return torch.stack([right[self.given == c].double().mean() for c in range(3)])

    def asymmetry(self):
        """Lead of each row's likelier wrong label over the other one, on average."""
        mistaken = [[self.matrix[c, (c + k) % 3] for k in (1, 2)] for c in range(3)]
        leads = torch.tensor([abs(first - second) for first, second in mistaken])
        return leads[self.true].mean()


def noisy_blobs(n_rows):
    """Rows far apart by class, of which three tenths have the label of the next class."""
    true = torch.arange(n_rows) % 3
    X = torch.randn(n_rows, 4) + 8 * torch.eye(4)[true]
    return X, torch.where(torch.rand(n_rows) < 0.3, (true + 1) % 3, true)


def random_rows(n_rows=300, n_classes=4):
    return torch.randn(n_rows, n_classes), torch.randint(n_classes, (n_rows,))


# Known noise


@pytest.mark.usefixtures("round_numbers")
@pytest.mark.parametrize("class_logits", [(0.0, 0.0, 0.0), (4.0, 0.0, -4.0)], ids=str)
@pytest.mark.parametrize("name", NOISE)
def test_estimate_noise_recovers_known_noise(name, class_logits, dtype):
    known = Known(NOISE[name], class_logits=class_logits)
    found = estimate_noise(known.proba.to(dtype), known.given, torch.ones(len(known.given)))
    assert {figures.dtype for figures in found} == {dtype}
    torch.testing.assert_close(found.matrix.double(), known.matrix, rtol=0, atol=0.04)
    expected = known.label_precision().clamp(LOWEST, HIGHEST)
    torch.testing.assert_close(found.label_precision.double(), expected, rtol=0, atol=0.04)
    wrong = (known.given != known.true).double().mean().item()
    assert found.rate.item() == pytest.approx(wrong, abs=0.03)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45])
def test_estimate_noise_finds_the_rate_of_pair_flips_and_of_symmetric_noise(rate):
    true = torch.arange(40_000) % 10
    flipped = torch.rand(40_000) < rate
    for step in (1, torch.randint(1, 10, (40_000,))):
        given = torch.where(flipped, (true + step) % 10, true)
        found = estimate_noise(torch.eye(10)[true], given, torch.ones(40_000))
        assert found.rate.item() == pytest.approx(rate, abs=0.02)


def test_estimate_noise_finds_clean_labels_precise():
    known = Known(NOISE["none"], n_rows=600)
    assert (estimate_noise(known.proba, known.given, torch.ones(600)).label_precision > 0.95).all()


def test_estimate_noise_shrinks_each_label_precision_by_a_quarter_to_the_common_one(monkeypatch):
    known = Known(NOISE["one class"])
    monkeypatch.setattr(transition_matrix, "PRIOR_ROWS", 0)
    precision = []
    for share in (0.0, 0.25, 1 - 1e-9):
        monkeypatch.setattr(transition_matrix, "COMMON_SHARE", share)
        precision.append(
            estimate_noise(known.proba, known.given, torch.ones(40_000)).label_precision
        )
    alone, drawn, together = precision
    torch.testing.assert_close(drawn, 0.75 * alone + 0.25 * together, rtol=0, atol=2e-3)
    assert (together - together[0]).abs().max() < 1e-4
    assert (drawn - alone).abs().max() > 0.02


def test_estimate_noise_lowers_the_label_precision_of_a_class_never_predicted():
    proba = torch.tensor([[0.9, 0.1, 0.0]]).repeat(100, 1)
    given = torch.zeros(100, dtype=torch.int64)
    given[::10], given[5::10] = 1, 2
    found = estimate_noise(proba.double(), given, torch.ones(100))
    assert (found.label_precision[1:] > LOWEST).all()
    assert (found.label_precision[1:] < found.label_precision[0]).all()


# By hand


@pytest.mark.usefixtures("round_numbers")
def test_estimate_noise_of_six_rows_is_that_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr(transition_matrix, "ANCHORS", 5 / 7)
    # Two classes; each row as (its surest share, predicted, given, weight).
    rows = [
        (0.60, 0, 1, 1.0),  # less sure than five sevenths of the weight: no anchor
        (0.90, 0, 0, 2.0),
        (0.95, 1, 1, 1.0),
        (0.70, 0, 0, 2.0),  # the last anchor of class 0, of which half is wanted
        (0.55, 1, 0, 0.5),  # an anchor of class 1 by a fourteenth
        (0.80, 0, 1, 2.0),
    ]
    proba = torch.tensor([[s, 1 - s] if p == 0 else [1 - s, s] for s, p, _, _ in rows])
    given = torch.tensor([row[2] for row in rows])
    weight = torch.tensor([row[3] for row in rows])

    counts = [[3, 2], [Fraction(1, 14), 1]]
    mass = [7, Fraction(3, 2)]
    wrong = (mass[0] * Fraction(2, 5) + mass[1] * Fraction(1, 15)) / sum(mass)
    prior = [[1 - wrong, wrong], [wrong, 1 - wrong]]
    anchors = [sum(row) for row in counts]
    both = (0, 1)
    matrix = [[(counts[i][j] + 10 * prior[i][j]) / (anchors[i] + 10) for j in both] for i in both]
    joint = [[mass[i] * matrix[i][j] for j in both] for i in both]
    right = [joint[j][j] + 10 * (1 - wrong) for j in both]
    precision = [right[j] / (joint[0][j] + joint[1][j] + 10) for j in both]

    found = estimate_noise(proba, given, weight)
    floats = [[float(entry) for entry in row] for row in matrix]
    torch.testing.assert_close(found.matrix, torch.tensor(floats))
    torch.testing.assert_close(found.label_precision, torch.tensor([float(b) for b in precision]))
    assert found.rate.item() == pytest.approx(float(wrong))


@pytest.mark.usefixtures("round_numbers")
def test_estimate_noise_rate_of_ten_rows_is_that_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr(transition_matrix, "ANCHORS", 1.0)
    # Four classes, the last of them never predicted.
    predicted = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    given = torch.tensor([0, 0, 1, 1, 0, 1, 2, 2, 2, 2])
    found = estimate_noise(torch.eye(4)[predicted], given, torch.ones(10))
    assert found.rate.item() == pytest.approx(5 / 10)


def test_estimate_noise_takes_the_surest_fifth_of_the_rows_as_anchors():
    n_rows, n_anchors = 500, 100
    sure = torch.linspace(0.5, 1.0, n_rows)
    given = torch.ones(n_rows, dtype=torch.int64)
    given[-n_anchors:] = 0  # the surest hundred are right, all others wrong
    proba, order = torch.stack([sure, 1 - sure], dim=1), torch.randperm(n_rows)
    found = estimate_noise(proba[order], given[order], torch.ones(n_rows))
    torch.testing.assert_close(found.matrix, torch.eye(2))
    given[-n_anchors - 50 : -50] = torch.tensor([1, 0]).repeat_interleave(50)
    given[-50:] = 1
    found = estimate_noise(proba[order], given[order], torch.ones(n_rows))
    # Of the surest hundred, fifty carry each label.
    torch.testing.assert_close(found.matrix[0], torch.tensor([0.5, 0.5]))


# What counts, and how much


def test_estimate_noise_matrix_has_probabilities_in_rows():
    proba, given = random_rows()
    matrix = estimate_noise(proba, given, torch.rand(300)).matrix
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(4))
    assert (matrix >= 0).all()


@pytest.mark.parametrize("n_rows", [12, 60, 600])
@pytest.mark.parametrize("row", [1.0, 0.3, 7.5])
def test_estimate_noise_counts_a_row_of_weight_s_as_s_rows(n_rows, row):
    proba, given = random_rows(n_rows)
    times = torch.randint(1, 6, (n_rows,))
    weighted = estimate_noise(proba, given, times.double(), row)
    copies = proba.repeat_interleave(times, dim=0), given.repeat_interleave(times)
    repeated = estimate_noise(*copies, torch.ones(int(times.sum())), row)
    torch.testing.assert_close(tuple(weighted), tuple(repeated))


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e6])
def test_estimate_noise_depends_on_weights_in_units_of_a_row(scale):
    proba, given = random_rows()
    weight = torch.rand(300) + 0.5
    expected = estimate_noise(proba, given, weight)
    found = estimate_noise(proba, given, scale * weight, scale)
    torch.testing.assert_close(tuple(found), tuple(expected))


def test_estimate_noise_does_not_depend_on_the_order_of_rows():
    proba, given = random_rows()
    weight, order = torch.rand(300) + 0.5, torch.randperm(300)
    shuffled = estimate_noise(proba[order], given[order], weight[order])
    expected = estimate_noise(proba, given, weight)
    torch.testing.assert_close(tuple(shuffled), tuple(expected))


def test_estimate_noise_does_not_see_rows_of_weight_zero():
    proba, given = random_rows()
    weight = torch.rand(300) + 0.5
    weight[::3] = 0
    counted = weight > 0
    expected = estimate_noise(proba[counted], given[counted], weight[counted])
    proba[::3] *= 100
    found = estimate_noise(proba, given, weight)
    torch.testing.assert_close(tuple(found), tuple(expected))


# Classes of which little or nothing is known


def check_bounds(found):
    assert found.matrix.isfinite().all()
    assert ((found.label_precision >= LOWEST) & (found.label_precision <= HIGHEST)).all()
    assert 0 <= found.rate <= 1


@pytest.mark.parametrize("noisy", [False, True])
def test_estimate_noise_gives_a_class_never_predicted_the_noise_of_all(noisy):
    given = torch.arange(300) % 2
    proba = torch.eye(3)[given] + 0.1 * torch.rand(300, 3)
    if noisy:
        given[torch.rand(300) < 0.3] = 1
    given[:4] = 2
    found = estimate_noise(proba, given, torch.ones(300))
    check_bounds(found)
    assert found.matrix[2, 0].item() == pytest.approx(found.matrix[2, 1].item())


def test_estimate_noise_sees_no_noise_in_a_rare_class_never_predicted_among_clean_ones():
    given = torch.arange(300) % 2
    proba = torch.eye(3)[given]
    proba[4:] *= 2
    given[:4] = 2
    found = estimate_noise(proba, given, torch.ones(300))
    torch.testing.assert_close(found.matrix, torch.eye(3))
    torch.testing.assert_close(found.label_precision, torch.full((3,), HIGHEST))


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("gone", ["never given", "of weight zero"])
def test_estimate_noise_keeps_the_estimates_of_a_class_without_labels_in_bounds(gone, predicted):
    proba, given = random_rows(n_classes=3)
    weight = torch.ones(300)
    if gone == "never given":
        given = given % 2
    else:
        weight[given == 2] = 0
    if not predicted:
        proba[:, 2] = -100
    check_bounds(estimate_noise(proba, given, weight))


@pytest.mark.parametrize("n_rows", [1, 2, 5])
@pytest.mark.parametrize("n_classes", [2, 4, 30])
def test_estimate_noise_of_hardly_any_rows_is_in_bounds(n_rows, n_classes):
    check_bounds(estimate_noise(*random_rows(n_rows, n_classes), torch.ones(n_rows)))


def test_estimate_noise_bounds_every_label_precision():
    given = torch.arange(300) % 30
    surely_right, surely_wrong = torch.eye(30)[given], torch.eye(30)[(given + 1) % 30]
    highest = estimate_noise(surely_right, given, torch.ones(300)).label_precision
    lowest = estimate_noise(surely_wrong, given, torch.ones(300)).label_precision
    torch.testing.assert_close(highest, torch.full((30,), HIGHEST))
    torch.testing.assert_close(lowest, torch.full((30,), LOWEST))


# Together with the leave-one-out kernel regression


def test_estimate_label_noise_finds_the_noise_of_distant_blobs(dtype):
    X, given = noisy_blobs(1500)
    proba, noise = estimate_label_noise(X.to(dtype), given, 3, torch.ones(1500), one_batch=False)
    assert proba.dtype == noise.matrix.dtype == dtype
    assert noise.rate.item() == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(
        noise.matrix.double(), torch.tensor(NOISE["pairs"]), rtol=0, atol=0.1
    )


@pytest.mark.parametrize("n_copies", [1, 3])
def test_estimate_label_noise_of_one_batch_counts_a_row_of_weight_s_as_s_rows(n_copies):
    X, given = noisy_blobs(30)
    times = n_copies * torch.randint(1, 4, (30,))
    proba, noise = estimate_label_noise(X, given, 3, times.double(), one_batch=True)
    copies = X.repeat_interleave(times, dim=0), given.repeat_interleave(times)
    repeated, expected = estimate_label_noise(*copies, 3, torch.ones(len(copies[0])), True)
    torch.testing.assert_close(proba.repeat_interleave(times, dim=0), repeated)
    torch.testing.assert_close(tuple(noise), tuple(expected))


def test_estimate_label_noise_counts_one_batch_as_64_rows():
    X, given = noisy_blobs(16)
    proba, noise = estimate_label_noise(X, given, 3, torch.ones(16), one_batch=True)
    generator, weight = torch.Generator().manual_seed(torch.initial_seed()), torch.full((16,), 4.0)
    kernel = Kernel(inverse_width=0.3, penalty=3.0)
    torch.testing.assert_close(proba, loo_proba(X, given, 3, weight, generator, kernel))
    torch.testing.assert_close(tuple(noise), tuple(estimate_noise(proba, given, weight)))
