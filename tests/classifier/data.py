"""Rows that several test files share, and classifiers that are fitted in a moment."""

import numpy as np
from scipy import sparse

from sklearn_clidmu import CLIDMUClassifier

SMALL = {"hidden_layer_sizes": (12, 8), "max_epochs": 3, "random_state": 0}


def small(**params):
    return CLIDMUClassifier(**{**SMALL, **params})


def make_rows(n_samples=40, n_classes=2, noise=0.2, seed=0, distance=3):
    """Blobs in four dimensions: rows, noisy labels and a mask of the wrong ones."""
    rng = np.random.RandomState(seed)
    y = np.arange(n_samples) % n_classes
    X = rng.normal(size=(n_samples, 4)) + distance * np.eye(n_classes, 4)[y]
    flipped = rng.uniform(size=n_samples) < noise
    return X, np.where(flipped, (y + 1) % n_classes, y), flipped


def wide(rows):
    """A sparse table of so many columns that it stays sparse."""
    return sparse.coo_array(np.hstack([rows, np.zeros((len(rows), 256))]))
