import numpy as np
import torch
from scipy.stats import norm

from sklearn_clidmu.mathematics.evidence import N_EVIDENCE
from sklearn_clidmu.training.batches import Labels
from sklearn_clidmu.training.ledger import Ledger, LossRecord

from .helpers import DTYPE, Diary, make_net, make_table


def labels_of(*rows):
    rows = torch.tensor(rows)
    return Labels(rows, torch.zeros_like(rows), torch.ones(len(rows), dtype=DTYPE))


def tensor(*values):
    return torch.tensor(values, dtype=DTYPE)


def empty_ledger(n):
    return Ledger(torch.ones(n, dtype=DTYPE), torch.linspace(0, 1, n, dtype=DTYPE))


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


def test_evidence_is_standing_of_loss_standing_of_influence_and_disagreement():
    weight = tensor(1.0, 2.0, 0.0, 0.5)  # the third row is not trained on
    disagreement = tensor(0.1, 0.9, 0.4, 0.0)
    ledger = Ledger(weight, disagreement)
    losses, influence = tensor(0.2, 1.0, 9.0, 0.4), tensor(-3.0, 1.0, 50.0, 2.0)
    ledger.record_losses(labels_of(0, 1, 2, 3), losses)
    ledger.record_influence(labels_of(0, 1, 2, 3), influence)
    expected = [
        normal_standing(losses.numpy(), weight.numpy()),
        normal_standing(influence.numpy(), weight.numpy()),
        disagreement.numpy(),
    ]
    assert ledger.evidence().shape == (4, N_EVIDENCE)
    np.testing.assert_allclose(ledger.evidence().numpy(), np.stack(expected, axis=1), rtol=1e-12)


def test_evidence_is_neutral_before_the_first_batch():
    evidence = empty_ledger(5).evidence()
    assert evidence[:, :2].eq(0.5).all()
    torch.testing.assert_close(evidence[:, 2], torch.linspace(0, 1, 5, dtype=DTYPE))


def test_loss_record_enters_every_training_batch_under_the_rows_of_fit():
    rows = torch.tensor([1, 4, 5, 8, 10, 11, 13, 17, 19])  # the other rows are held out
    ledger = empty_ledger(20)
    diary = Diary()
    make_net(LossRecord(ledger), diary, batch_size=4, max_epochs=2).fit(make_table(9, rows=rows))
    losses, visits = np.zeros(20), np.zeros(20)
    for _, labels, logits in diary.batches:
        given = logits.softmax(dim=1)[torch.arange(len(logits)), labels.targets]
        losses[labels.rows] -= np.log(given.numpy())
        visits[labels.rows] += 1
    assert visits.max() == visits[rows].min() == 8  # two epochs of four passes
    np.testing.assert_allclose(ledger.n_visits.numpy(), visits)
    np.testing.assert_allclose(ledger.mean_loss().numpy(), losses / np.maximum(visits, 1))
