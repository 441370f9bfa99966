import numpy as np
import pytest
import torch

from sklearn_clidmu.noise.label_z_score import label_z_score

rng = np.random.RandomState(0)


def draw(n=400, n_classes=3):
    proba = rng.dirichlet(np.ones(n_classes), n)
    targets = rng.randint(0, n_classes, n)
    return torch.from_numpy(proba), torch.from_numpy(targets), torch.ones(n)


def test_label_z_score_of_labels_that_follow_nothing_is_standard_normal():
    found = [label_z_score(*draw()) for _ in range(400)]
    assert np.mean(found) == pytest.approx(0, abs=0.15)
    assert np.std(found) == pytest.approx(1, abs=0.1)


def test_label_z_score_is_the_excess_in_deviations_over_permutations():
    proba, targets, _ = draw(60)
    targets = torch.where(torch.rand(60) < 0.4, proba.argmax(dim=1), targets)
    weight = torch.rand(60, dtype=torch.float64) + 0.5

    def excess(labels):
        return float(weight @ proba[torch.arange(60), labels])

    shuffled = [excess(targets[torch.randperm(60)]) for _ in range(4000)]
    expected = (excess(targets) - np.mean(shuffled)) / np.std(shuffled)
    assert label_z_score(proba, targets, weight) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("rounding", [0, 1e-13])
def test_label_z_score_of_constant_predictions_is_zero(rounding):
    proba, targets, weight = draw()
    constant = torch.tensor([0.8, 0.1, 0.1]) + rounding * proba
    assert label_z_score(constant, targets, weight) == 0


def test_label_z_score_counts_rare_labels_that_are_never_predicted():
    targets = (torch.arange(500) % 50 == 0).long()
    rare = 0.02 + 0.2 * targets
    proba = torch.stack([1 - rare, rare], dim=1)
    assert (proba.argmax(dim=1) == 0).all()
    assert label_z_score(proba, targets, torch.ones(500)) > 20


def test_label_z_score_does_not_count_rows_of_weight_zero():
    proba, targets, weight = draw()
    weight[::2] = 0
    alone = label_z_score(proba[1::2], targets[1::2], weight[1::2])
    assert label_z_score(proba, targets, 7 * weight) == pytest.approx(alone)
