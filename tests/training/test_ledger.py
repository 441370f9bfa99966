import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.nn import functional as F

from sklearn_clidmu.mathematics.evidence import N_EVIDENCE
from sklearn_clidmu.training.batches import Labels
from sklearn_clidmu.training.ledger import LARGEST_LOSS, Ledger, LossRecord

from .helpers import DTYPE, Diary, make_net, make_table


def labels_of(*rows):
    rows = torch.tensor(rows)
    return Labels(rows, torch.zeros_like(rows), torch.ones(len(rows), dtype=DTYPE))


def tensor(*values):
    return torch.tensor(values, dtype=DTYPE)


def empty_ledger(n):
    return Ledger(torch.ones(n, dtype=DTYPE), 3)


def test_mean_loss_is_the_mean_over_a_rows_visits_and_zero_before_the_first():
    ledger = empty_ledger(4)
    ledger.record_losses(labels_of(3, 0), tensor(1.0, 5.0))
    ledger.record_losses(labels_of(0, 1), tensor(2.0, 4.0))
    ledger.record_losses(labels_of(0), tensor(2.0))
    torch.testing.assert_close(ledger.mean_loss(), tensor(3.0, 4.0, 0.0, 1.0))
    assert ledger.n_visits.tolist() == [3, 1, 0, 1]


def test_influence_is_the_sum_over_a_rows_visits():
    ledger = empty_ledger(3)
    ledger.record_influence(labels_of(2, 0), tensor(-1.0, 0.25))
    ledger.record_influence(labels_of(0, 2), tensor(0.5, 3.0))
    torch.testing.assert_close(ledger.influence, tensor(0.75, 0.0, 2.0))


def normal_standing(values, weight):
    mean = np.average(values, weights=weight)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=weight))
    return norm.cdf((values - mean) / deviation)


def test_evidence_is_the_last_loss_the_standings_of_loss_influence_and_rivalry_and_the_distrust():
    weight = tensor(1.0, 2.0, 0.0, 0.5)  # the third row is not trained on
    rivalry, distrust = tensor(-0.4, 0.9, 0.4, 0.0), tensor(2.0, -7.0, 0.0, 9.0)
    ledger = Ledger(weight, 5, rivalry, distrust)
    first, last = tensor(0.2, 1.0, 9.0, 0.4), tensor(0.7, 0.1, 3.0, 2.0)
    influence = tensor(-3.0, 1.0, 50.0, 2.0)
    everyone = labels_of(0, 1, 2, 3)
    for losses in (first, last):
        ledger.record_losses(everyone, losses)
    ledger.record_influence(everyone, influence)
    expected = [
        last.numpy() / np.log(5),
        normal_standing((first + last).numpy() / 2, weight.numpy()),
        normal_standing(influence.numpy(), weight.numpy()),
        normal_standing(rivalry.numpy(), weight.numpy()),
        distrust.numpy(),
    ]
    assert ledger.evidence().shape == (4, N_EVIDENCE)
    np.testing.assert_allclose(ledger.evidence().numpy(), np.stack(expected, axis=1), rtol=1e-12)


def test_the_last_loss_is_that_of_a_rows_latest_visit_and_zero_before_the_first():
    ledger = empty_ledger(4)
    ledger.record_losses(labels_of(3, 0), tensor(1.0, 5.0))
    ledger.record_losses(labels_of(0, 1), tensor(2.0, 4.0))
    torch.testing.assert_close(ledger.last_loss, tensor(2.0, 4.0, 0.0, 1.0))


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_a_blind_guess_is_evidence_of_one_whatever_the_number_of_classes(n_classes):
    ledger = Ledger(tensor(1.0, 1.0), n_classes)
    guess = F.cross_entropy(torch.zeros(2, n_classes, dtype=DTYPE), torch.tensor([0, 1]))
    ledger.record_losses(labels_of(0, 1), guess.repeat(2))
    torch.testing.assert_close(ledger.evidence()[:, 0], tensor(1.0, 1.0))


def test_a_loss_without_bound_is_entered_as_the_largest():
    ledger = empty_ledger(2)
    for _ in range(2):
        ledger.record_losses(labels_of(0, 1), tensor(math.inf, LARGEST_LOSS + 1))
    assert ledger.mean_loss().tolist() == ledger.last_loss.tolist() == [LARGEST_LOSS] * 2


def test_evidence_is_neutral_before_the_first_batch_and_where_neither_rivals_nor_trust_are_known():
    evidence = empty_ledger(5).evidence()
    assert torch.equal(evidence, tensor(0.0, 0.5, 0.5, 0.5, 0.0).expand(5, N_EVIDENCE))


def test_rivalry_and_distrust_are_known_before_the_first_batch():
    rivalry, weight = tensor(0.5, -1.0, 0.0), tensor(1.0, 2.0, 3.0)
    distrust = tensor(-1.5, 0.0, 4.0)
    evidence = Ledger(weight, 2, rivalry, distrust).evidence()
    expected = normal_standing(rivalry.numpy(), weight.numpy())
    np.testing.assert_allclose(evidence[:, 3].numpy(), expected, rtol=1e-12)
    assert torch.equal(evidence[:, 4], distrust)


def test_put_back_forgets_what_was_entered_since_the_copy_as_often_as_asked():
    def enter():
        ledger.record_losses(labels_of(0, 2), 3 * torch.rand(2, dtype=DTYPE))
        ledger.record_influence(labels_of(0, 2), torch.randn(2, dtype=DTYPE))

    def state():
        parts = (ledger.n_visits, ledger.last_loss, ledger.mean_loss(), ledger.influence)
        return [*(part.clone() for part in parts), ledger.evidence()]

    ledger = empty_ledger(3)
    enter()
    expected, copied = state(), ledger.copy_entries()
    for _ in range(2):
        enter()
        assert all(not torch.equal(a, b) for a, b in zip(state(), expected, strict=True))
        ledger.put_back(copied)
        assert all(torch.equal(a, b) for a, b in zip(state(), expected, strict=True))


def test_loss_record_enters_every_training_batch_under_the_rows_of_fit():
    rows = torch.tensor([1, 4, 5, 8, 10, 11, 13, 17, 19])  # the other rows are held out
    ledger = empty_ledger(20)
    diary = Diary()
    make_net(LossRecord(ledger), diary, batch_size=4, max_epochs=2).fit(make_table(9, rows=rows))
    losses, visits, last = np.zeros(20), np.zeros(20), np.zeros(20)
    for _, labels, logits in diary.batches:
        given = logits.softmax(dim=1)[torch.arange(len(logits)), labels.targets]
        last[labels.rows] = -np.log(given.numpy())
        losses += np.where(np.isin(np.arange(20), labels.rows), last, 0)
        visits[labels.rows] += 1
    assert visits.max() == visits[rows].min() == 8  # two epochs of four passes
    np.testing.assert_allclose(ledger.n_visits.numpy(), visits)
    np.testing.assert_allclose(ledger.mean_loss().numpy(), losses / np.maximum(visits, 1))
    np.testing.assert_allclose(ledger.last_loss.numpy(), last)
