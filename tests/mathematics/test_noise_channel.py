"""The likelihood of given labels behind the noise that explains them best."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from sklearn_clidmu.mathematics.noise_channel import channel_log_likelihood, fit_noise_channel


def draw(n_rows=300, n_classes=3, sharpness=3.0, seed=0):
    """Random predictions, and labels drawn from them through a random channel."""
    rng = np.random.RandomState(seed)
    probabilities = np.exp(log_softmax(sharpness * rng.normal(size=(n_rows, n_classes)), axis=1))
    channel = rng.dirichlet(np.ones(n_classes), size=n_classes) + np.eye(n_classes)
    channel /= channel.sum(axis=1, keepdims=True)
    labels = [rng.choice(n_classes, p=row) for row in probabilities @ channel]
    return torch.from_numpy(probabilities), torch.tensor(labels), channel


def test_the_channel_is_the_one_that_a_general_optimizer_finds():
    probabilities, targets, _ = draw()
    p, y, eye = probabilities.numpy(), targets.numpy(), np.eye(3)

    def loss(logits):
        log_channel = log_softmax(logits.reshape(3, 3), axis=1)
        likelihood = np.log((p @ np.exp(log_channel))[np.arange(len(y)), y]).sum()
        return -likelihood - ((eye + 1 / 3) * log_channel).sum()

    best = minimize(loss, np.zeros(9), tol=1e-10)
    expected = np.exp(log_softmax(best.x.reshape(3, 3), axis=1))
    found = fit_noise_channel(probabilities, targets, 3).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_channel_of_sure_predictions_is_counted():
    predicted = torch.tensor([0, 0, 0, 1, 1])
    targets = torch.tensor([0, 0, 1, 1, 1])
    found = fit_noise_channel(torch.eye(2, dtype=torch.float64)[predicted], targets, 2)
    # Two prior rows of each class: one and a half with its own label, half with the other.
    expected = torch.tensor([[3.5 / 5, 1.5 / 5], [0.5 / 4, 3.5 / 4]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_many_rows_show_the_channel_that_made_their_labels():
    probabilities, targets, channel = draw(n_rows=20_000)
    found = fit_noise_channel(probabilities, targets, 3).numpy()
    np.testing.assert_allclose(found, channel, atol=0.03)


def test_the_likelihood_is_higher_than_without_a_channel_where_labels_are_wrong():
    probabilities, targets, _ = draw()
    plain = probabilities[torch.arange(len(targets)), targets].log().mean()
    assert channel_log_likelihood(probabilities, targets, 3) > plain + 0.1


def test_predictions_that_say_nothing_are_worth_the_shares_of_the_labels():
    _, targets, _ = draw(n_rows=5000)
    uniform = torch.full((5000, 3), 1 / 3, dtype=torch.float64)
    shares = torch.bincount(targets) / len(targets)
    expected = (shares * shares.log()).sum()
    found = channel_log_likelihood(uniform, targets, 3)
    assert float(found) == pytest.approx(float(expected), abs=1e-3)


def test_the_likelihood_is_finite_for_sure_predictions_and_labels_never_seen():
    sure = torch.eye(2, dtype=torch.float64)[[0, 1, 1, 0]]
    assert channel_log_likelihood(sure, torch.tensor([1, 0, 2, 3]), 4).isfinite()
