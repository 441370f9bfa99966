"""The transition matrix: known noise, numbers worked out by hand, and what counts."""

from fractions import Fraction

import pytest
import torch

from sklearn_clidmu.noise import transition_matrix
from sklearn_clidmu.noise.loo_kernel_ridge import loo_proba
from sklearn_clidmu.noise.transition_matrix import estimate_transition_matrix

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


def draw(probabilities):
    return torch.multinomial(probabilities, 1).squeeze(1)


class Known:
    """Rows whose probabilities are known, of classes that overlap a little."""

    def __init__(self, noise, n_rows=40_000, class_logits=(0.0, 0.0, 0.0)):
        self.matrix = torch.tensor(noise)
        probabilities = (20 * torch.randn(n_rows, 3) + torch.tensor(class_logits)).softmax(dim=1)
        self.proba = probabilities @ self.matrix
        self.given = draw(self.matrix[draw(probabilities)])


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
def test_estimate_transition_matrix_recovers_known_noise(name, class_logits, dtype):
    known = Known(NOISE[name], class_logits=class_logits)
    weight = torch.ones(len(known.given))
    found = estimate_transition_matrix(known.proba.to(dtype), known.given, weight)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), known.matrix, rtol=0, atol=0.04)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45])
def test_estimate_transition_matrix_finds_pair_flips_and_symmetric_noise(rate):
    true = torch.arange(40_000) % 10
    flipped = torch.rand(40_000) < rate
    eye = torch.eye(10)
    pairs, symmetric = eye.roll(1, dims=1), (1 - eye) / 9
    for step, wrong in ((1, pairs), (torch.randint(1, 10, (40_000,)), symmetric)):
        given = torch.where(flipped, (true + step) % 10, true)
        found = estimate_transition_matrix(eye[true], given, torch.ones(40_000))
        expected = (1 - rate) * eye + rate * wrong
        assert found.diagonal().mean().item() == pytest.approx(1 - rate, abs=0.02)
        # Of 800 anchors a share has a standard error of 0.018, and this is the worst of 100.
        torch.testing.assert_close(found, expected, rtol=0, atol=0.06)


# By hand


@pytest.mark.usefixtures("round_numbers")
def test_estimate_transition_matrix_of_six_rows_is_that_worked_out_by_hand(monkeypatch):
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
    anchors = [sum(row) for row in counts]
    wrong = (wrong * sum(anchors) + 1) / (sum(anchors) + 2)  # rule of succession
    prior = [[1 - wrong, wrong], [wrong, 1 - wrong]]
    both = (0, 1)
    matrix = [[(counts[i][j] + 10 * prior[i][j]) / (anchors[i] + 10) for j in both] for i in both]

    found = estimate_transition_matrix(proba, given, weight)
    floats = [[float(entry) for entry in row] for row in matrix]
    torch.testing.assert_close(found, torch.tensor(floats))


@pytest.mark.usefixtures("round_numbers")
def test_estimate_transition_matrix_of_ten_rows_is_that_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr(transition_matrix, "ANCHORS", 1.0)
    # Four classes, the last of them never predicted.
    predicted = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    given = torch.tensor([0, 0, 1, 1, 0, 1, 2, 2, 2, 2])
    found = estimate_transition_matrix(torch.eye(4)[predicted], given, torch.ones(10))
    # Half of the ten are wrong: of ten further rows of each class 5 are right, 5/3 of each other.
    twelfths = [[84, 44, 20, 20], [32, 72, 44, 20], [20, 20, 84, 20]]
    expected = [[n / d for n in row] for row, d in zip(twelfths, (168, 168, 144), strict=True)]
    torch.testing.assert_close(found, torch.tensor([*expected, [1 / 6, 1 / 6, 1 / 6, 1 / 2]]))


def test_estimate_transition_matrix_takes_the_surest_fifth_of_the_rows_as_anchors():
    n_rows, n_anchors = 500, 100
    sure = torch.linspace(0.5, 1.0, n_rows)
    given = torch.ones(n_rows, dtype=torch.int64)
    given[-n_anchors:] = 0  # the surest hundred are right, all others wrong
    proba, order = torch.stack([sure, 1 - sure], dim=1), torch.randperm(n_rows)
    found = estimate_transition_matrix(proba[order], given[order], torch.ones(n_rows))
    # By the rule of succession one of 102 is wrong, and of ten further rows of each class, too.
    expected = [[1 - 10 / 102 / 110, 10 / 102 / 110], [1 / 102, 1 - 1 / 102]]
    torch.testing.assert_close(found, torch.tensor(expected))
    given[-n_anchors - 50 : -50] = torch.tensor([1, 0]).repeat_interleave(50)
    given[-50:] = 1
    found = estimate_transition_matrix(proba[order], given[order], torch.ones(n_rows))
    # Of the surest hundred, fifty carry each label.
    torch.testing.assert_close(found[0], torch.tensor([0.5, 0.5]))


# What counts, and how much


def test_estimate_transition_matrix_has_probabilities_in_rows():
    proba, given = random_rows()
    matrix = estimate_transition_matrix(proba, given, torch.rand(300))
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(4))
    assert (matrix >= 0).all()


@pytest.mark.parametrize("n_rows", [12, 60, 600])
@pytest.mark.parametrize("row", [1.0, 0.3, 7.5])
def test_estimate_transition_matrix_counts_a_row_of_weight_s_as_s_rows(n_rows, row):
    proba, given = random_rows(n_rows)
    times = torch.randint(1, 6, (n_rows,))
    weighted = estimate_transition_matrix(proba, given, times.double(), row)
    copies = proba.repeat_interleave(times, dim=0), given.repeat_interleave(times)
    repeated = estimate_transition_matrix(*copies, torch.ones(int(times.sum())), row)
    torch.testing.assert_close(weighted, repeated)


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e6])
def test_estimate_transition_matrix_depends_on_weights_in_units_of_a_row(scale):
    proba, given = random_rows()
    weight = torch.rand(300) + 0.5
    expected = estimate_transition_matrix(proba, given, weight)
    found = estimate_transition_matrix(proba, given, scale * weight, scale)
    torch.testing.assert_close(found, expected)


def test_estimate_transition_matrix_does_not_depend_on_the_order_of_rows():
    proba, given = random_rows()
    weight, order = torch.rand(300) + 0.5, torch.randperm(300)
    shuffled = estimate_transition_matrix(proba[order], given[order], weight[order])
    expected = estimate_transition_matrix(proba, given, weight)
    torch.testing.assert_close(shuffled, expected)


def test_estimate_transition_matrix_does_not_see_rows_of_weight_zero():
    proba, given = random_rows()
    weight = torch.rand(300) + 0.5
    weight[::3] = 0
    counted = weight > 0
    expected = estimate_transition_matrix(proba[counted], given[counted], weight[counted])
    proba[::3] *= 100
    found = estimate_transition_matrix(proba, given, weight)
    torch.testing.assert_close(found, expected)


# Classes of which little or nothing is known


def check_bounds(found):
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))


@pytest.mark.parametrize("noisy", [False, True])
def test_estimate_transition_matrix_gives_a_class_never_predicted_the_noise_of_all(noisy):
    given = torch.arange(300) % 2
    proba = torch.eye(3)[given] + 0.1 * torch.rand(300, 3)
    if noisy:
        given[torch.rand(300) < 0.3] = 1
    given[:4] = 2
    found = estimate_transition_matrix(proba, given, torch.ones(300))
    check_bounds(found)
    assert found[2, 0].item() == pytest.approx(found[2, 1].item())


def test_estimate_transition_matrix_sees_hardly_any_noise_in_a_rare_class_among_clean_ones():
    given = torch.arange(300) % 2
    proba = torch.eye(3)[given]
    proba[4:] *= 2
    given[:4] = 2
    found = estimate_transition_matrix(proba, given, torch.ones(300))
    # By the rule of succession one of 62 is wrong, and of ten further rows of each class, too.
    wrong = torch.tensor([10 / 62 / 40, 10 / 62 / 40, 1 / 62])[:, None]
    eye = torch.eye(3)
    torch.testing.assert_close(found, (1 - wrong) * eye + wrong / 2 * (1 - eye))


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("gone", ["never given", "of weight zero"])
def test_estimate_transition_matrix_keeps_the_estimates_of_a_class_without_labels_in_bounds(
    gone, predicted
):
    proba, given = random_rows(n_classes=3)
    weight = torch.ones(300)
    if gone == "never given":
        given = given % 2
    else:
        weight[given == 2] = 0
    if not predicted:
        proba[:, 2] = -100
    check_bounds(estimate_transition_matrix(proba, given, weight))


@pytest.mark.parametrize("n_rows", [1, 2, 5])
@pytest.mark.parametrize("n_classes", [2, 4, 30])
def test_estimate_transition_matrix_of_hardly_any_rows_is_in_bounds(n_rows, n_classes):
    check_bounds(estimate_transition_matrix(*random_rows(n_rows, n_classes), torch.ones(n_rows)))


# Together with the leave-one-out kernel regression


def test_estimate_transition_matrix_of_a_kernel_regression_is_the_noise_of_distant_blobs(dtype):
    X, given = noisy_blobs(1500)
    generator, weight = torch.Generator().manual_seed(0), torch.ones(1500)
    proba = loo_proba(X.to(dtype), given, 3, weight, generator)
    found = estimate_transition_matrix(proba, given, weight)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), torch.tensor(NOISE["pairs"]), rtol=0, atol=0.1)
    assert found.diagonal().mean().item() == pytest.approx(0.7, abs=0.05)
