from fractions import Fraction

import pytest
import torch

from sklearn_clidmu.noise import transition_matrix
from sklearn_clidmu.noise.transition_matrix import LABEL_PRECISION_BOUNDS, estimate_noise

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
        self.shares = probabilities @ self.matrix
        self.true = draw(probabilities)
        self.given = draw(self.matrix[self.true])

    def right_share(self):
        """Share of right labels among those given to each class."""
        right = self.given == self.true
        return torch.stack([right[self.given == c].double().mean() for c in range(3)])

    def asymmetry(self):
        """Lead of each row's likelier wrong label over the other one, on average."""
        mistaken = [[self.matrix[c, (c + k) % 3] for k in (1, 2)] for c in range(3)]
        leads = torch.tensor([abs(first - second) for first, second in mistaken])
        return leads[self.true].mean()


def random_rows(n_rows=300, n_classes=4):
    return torch.randn(n_rows, n_classes), torch.randint(n_classes, (n_rows,))


# Known noise


@pytest.mark.usefixtures("round_numbers")
@pytest.mark.parametrize("class_logits", [(0.0, 0.0, 0.0), (4.0, 0.0, -4.0)], ids=str)
@pytest.mark.parametrize("name", NOISE)
def test_estimate_noise_recovers_known_noise(name, class_logits, dtype):
    known = Known(NOISE[name], class_logits=class_logits)
    found = estimate_noise(known.shares.to(dtype), known.given, torch.ones(len(known.given)))
    assert {figures.dtype for figures in found} == {dtype}
    torch.testing.assert_close(found.matrix.double(), known.matrix, rtol=0, atol=0.04)
    expected = known.right_share().clamp(LOWEST, HIGHEST)
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
    assert (estimate_noise(known.shares, known.given, torch.ones(600)).label_precision > 0.95).all()


def test_label_precision_of_a_class_is_shrunk_by_a_quarter_to_the_common_one(monkeypatch):
    known = Known(NOISE["one class"])
    monkeypatch.setattr(transition_matrix, "PRIOR_ROWS", 0)
    precision = []
    for share in (0.0, 0.25, 1 - 1e-9):
        monkeypatch.setattr(transition_matrix, "COMMON_SHARE", share)
        precision.append(
            estimate_noise(known.shares, known.given, torch.ones(40_000)).label_precision
        )
    alone, drawn, together = precision
    torch.testing.assert_close(drawn, 0.75 * alone + 0.25 * together, rtol=0, atol=2e-3)
    assert (together - together[0]).abs().max() < 1e-4
    assert (drawn - alone).abs().max() > 0.02


def test_label_precision_of_a_class_never_predicted_is_lower_but_not_least():
    shares = torch.tensor([[0.9, 0.1, 0.0]]).repeat(100, 1)
    given = torch.zeros(100, dtype=torch.int64)
    given[::10], given[5::10] = 1, 2
    found = estimate_noise(shares.double(), given, torch.ones(100))
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
    shares = torch.tensor([[s, 1 - s] if p == 0 else [1 - s, s] for s, p, _, _ in rows])
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

    found = estimate_noise(shares, given, weight)
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


@pytest.mark.usefixtures("round_numbers")
def test_estimate_noise_takes_the_surest_rows_as_anchors():
    n_rows, n_anchors = 1000, 100
    sure = torch.linspace(0.5, 1.0, n_rows)
    given = torch.ones(n_rows, dtype=torch.int64)
    given[-n_anchors:] = 0  # the surest hundred are right, all others wrong
    shares, order = torch.stack([sure, 1 - sure], dim=1), torch.randperm(n_rows)
    found = estimate_noise(shares[order], given[order], torch.ones(n_rows))
    torch.testing.assert_close(found.matrix, torch.eye(2))
    given[-n_anchors - 50 : -50] = torch.tensor([1, 0]).repeat_interleave(50)
    given[-50:] = 1
    found = estimate_noise(shares[order], given[order], torch.ones(n_rows))
    # Of the surest hundred, fifty carry each label.
    torch.testing.assert_close(found.matrix[0], torch.tensor([0.5, 0.5]))


# What counts, and how much


def test_rows_of_the_matrix_are_probabilities():
    shares, given = random_rows()
    matrix = estimate_noise(shares, given, torch.rand(300)).matrix
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(4))
    assert (matrix >= 0).all()


@pytest.mark.parametrize("n_rows", [12, 60, 600])
@pytest.mark.parametrize("row", [1.0, 0.3, 7.5])
def test_row_of_integer_weight_is_as_many_copies(n_rows, row):
    shares, given = random_rows(n_rows)
    times = torch.randint(1, 6, (n_rows,))
    weighted = estimate_noise(shares, given, times.double(), row)
    copies = shares.repeat_interleave(times, dim=0), given.repeat_interleave(times)
    repeated = estimate_noise(*copies, torch.ones(int(times.sum())), row)
    for here, there in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e6])
def test_only_weights_in_units_of_a_row_matter(scale):
    shares, given = random_rows()
    weight = torch.rand(300) + 0.5
    expected = estimate_noise(shares, given, weight)
    for here, there in zip(
        estimate_noise(shares, given, scale * weight, scale), expected, strict=True
    ):
        torch.testing.assert_close(here, there)


def test_order_of_the_rows_does_not_matter():
    shares, given = random_rows()
    weight, order = torch.rand(300) + 0.5, torch.randperm(300)
    shuffled = estimate_noise(shares[order], given[order], weight[order])
    for here, there in zip(shuffled, estimate_noise(shares, given, weight), strict=True):
        torch.testing.assert_close(here, there)


def test_rows_of_weight_zero_count_for_nothing():
    shares, given = random_rows()
    weight = torch.rand(300) + 0.5
    weight[::3] = 0
    counted = weight > 0
    expected = estimate_noise(shares[counted], given[counted], weight[counted])
    shares[::3] *= 100
    for here, there in zip(estimate_noise(shares, given, weight), expected, strict=True):
        torch.testing.assert_close(here, there)


# Classes of which little or nothing is known


def check_bounds(found):
    assert found.matrix.isfinite().all()
    assert ((found.label_precision >= LOWEST) & (found.label_precision <= HIGHEST)).all()
    assert 0 <= found.rate <= 1


@pytest.mark.parametrize("noisy", [False, True])
def test_class_never_predicted_has_the_noise_of_all_and_a_belief_within_bounds(noisy):
    given = torch.arange(300) % 2
    shares = torch.eye(3)[given] + 0.1 * torch.rand(300, 3)
    if noisy:
        given[torch.rand(300) < 0.3] = 1
    given[:4] = 2
    found = estimate_noise(shares, given, torch.ones(300))
    check_bounds(found)
    assert found.matrix[2, 0].item() == pytest.approx(found.matrix[2, 1].item())


def test_rare_class_never_predicted_is_precision_where_no_noise_is_seen():
    given = torch.arange(300) % 2
    shares = torch.eye(3)[given]
    shares[4:] *= 2
    given[:4] = 2
    found = estimate_noise(shares, given, torch.ones(300))
    torch.testing.assert_close(found.matrix, torch.eye(3))
    torch.testing.assert_close(found.label_precision, torch.full((3,), HIGHEST))


@pytest.mark.parametrize("predicted", [False, True])
def test_class_never_given_has_a_belief_within_bounds(predicted):
    shares, given = random_rows(n_classes=3)
    if not predicted:
        shares[:, 2] = -100
    check_bounds(estimate_noise(shares, given % 2, torch.ones(300)))


def test_class_whose_rows_all_have_weight_zero_has_a_belief_within_bounds():
    shares, given = random_rows(n_classes=3)
    check_bounds(estimate_noise(shares, given, (given != 2).double()))


@pytest.mark.parametrize("n_rows", [1, 2, 5])
@pytest.mark.parametrize("n_classes", [2, 4, 30])
def test_hardly_any_rows_give_beliefs_within_bounds(n_rows, n_classes):
    check_bounds(estimate_noise(*random_rows(n_rows, n_classes), torch.ones(n_rows)))


def test_no_class_is_precision_beyond_the_bounds():
    given = torch.arange(300) % 30
    surely_right, surely_wrong = torch.eye(30)[given], torch.eye(30)[(given + 1) % 30]
    highest = estimate_noise(surely_right, given, torch.ones(300)).label_precision
    lowest = estimate_noise(surely_wrong, given, torch.ones(300)).label_precision
    torch.testing.assert_close(highest, torch.full((30,), HIGHEST))
    torch.testing.assert_close(lowest, torch.full((30,), LOWEST))
