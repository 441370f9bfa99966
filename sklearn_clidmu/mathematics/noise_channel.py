"""How likely given labels are under predictions, seen through the noise that explains them best.

A classifier that predicts the true class is unlikely to have produced wrong labels, and so scores
badly on them by log loss, the more so the surer it is. Behind a *noise channel*, a matrix T with
the probability of each given label (column) in each class (row), it scores as it deserves. The
channel is fitted to the very labels that are scored: on rows that were not trained on, the
predictions cannot have followed their labels.

Source of the channel: Sukhbaatar et al., "Training convolutional networks with noisy labels",
2014, arXiv 1406.2080. The fit is that of Dawid and Skene (Applied Statistics 1979), with the
predictions as what is known of each row's class.
"""

from __future__ import annotations

import torch
from torch import Tensor

PRIOR_ROWS = 1.0
"""As many rows of each class with their own label, and as many again with labels spread evenly,
are seen before any other: they keep the channel where rows are few."""

N_ITERATIONS = 100
"""Of expectation maximisation, which climbs to the one maximum of a concave function."""


def fit_noise_channel(probabilities: Tensor, targets: Tensor, n_labels: int) -> Tensor:
    """Noise channel that makes the given labels likeliest, shape (n_classes, n_labels).

    Maximises the log likelihood, sum_i log(p_i T)[y_i], plus that of the prior rows.

    Parameters
    ----------
    probabilities : Tensor of shape (n, n_classes)
        Predicted.
    targets : Tensor of shape (n,), int64
        Given labels, below ``n_labels``.
    n_labels : int
        At least n_classes. Further labels are such as the classifier has never seen.
    """
    n_classes = probabilities.shape[1]
    eye = torch.eye(n_classes, n_labels, dtype=probabilities.dtype, device=probabilities.device)
    prior = PRIOR_ROWS * (eye + 1 / n_labels)
    channel = prior / prior.sum(dim=1, keepdim=True)
    for _ in range(N_ITERATIONS):
        joint = probabilities * channel.T[targets]
        posterior = joint / joint.sum(dim=1, keepdim=True)
        counts = prior.T.index_add(0, targets, posterior).T
        channel = counts / counts.sum(dim=1, keepdim=True)
    return channel


def channel_log_likelihood(probabilities: Tensor, targets: Tensor, n_labels: int) -> Tensor:
    """Mean log likelihood of the given labels behind the channel fitted to them, shape ().

    Parameters are those of :func:`fit_noise_channel`. Finite whatever the predictions, as long as
    the probabilities of each row add up to one.
    """
    channel = fit_noise_channel(probabilities, targets, n_labels)
    return (probabilities * channel.T[targets]).sum(dim=1).log().mean()
