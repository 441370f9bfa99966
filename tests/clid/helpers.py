"""What several test files share: small networks, rows, and derivatives by other means."""

import torch
from torch import nn

from sklearn_clidmu.training.networks import MLP, FeatureTap

N_FEATURES, N_CLASSES, WIDTH = 9, 3, 6


def class_means(values, targets, sample_weight):
    """Weighted mean of the values of each of three classes, all of which have rows."""
    sums = (torch.bincount(targets, v) for v in (sample_weight * values, sample_weight))
    return torch.divide(*sums)


class Pair(nn.Module):
    """Returns (logits, features) itself, with no layer after the features but its head."""

    def __init__(self, bias=True):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(N_FEATURES, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, N_CLASSES, bias=bias)

    def forward(self, X):
        features = self.body(X)
        return self.head(features), features


def tapped(*layers):
    return FeatureTap(nn.Sequential(*layers), N_CLASSES)


def mlp(**settings):
    return MLP(N_FEATURES, N_CLASSES, (7, WIDTH), **{"dropout": 0.0, **settings})


NETWORKS = {
    "mlp": mlp,
    "tapped sequence": lambda: tapped(
        nn.Linear(N_FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, N_CLASSES)
    ),
    "tapped batch norm": lambda: tapped(
        nn.Linear(N_FEATURES, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, N_CLASSES)
    ),
    "tapped convolution": lambda: tapped(
        nn.Unflatten(1, (1, 3, 3)),
        nn.Conv2d(1, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, N_CLASSES),
    ),
    "tapped pair": lambda: FeatureTap(Pair(), N_CLASSES),
}
"""Every kind of network, by name; each maps (n, N_FEATURES) to N_CLASSES logits."""


def sum_copies(values, times):
    """Sum the values of each row's copies, in the order of ``repeat_interleave``."""
    return torch.stack([copies.sum(dim=0) for copies in values.split(times.tolist())])


def central_difference(function, point, step):
    """Gradient of a scalar function at a tensor, by two evaluations per entry."""
    gradient = torch.zeros_like(point)
    for index in range(point.numel()):
        offset = torch.zeros_like(point)
        offset.view(-1)[index] = step
        difference = function(point + offset) - function(point - offset)
        gradient.view(-1)[index] = difference / (2 * step)
    return gradient


def relative_error(actual, expected):
    return float((actual - expected).norm() / expected.norm())
