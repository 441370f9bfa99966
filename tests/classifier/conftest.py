import math

import pytest

from sklearn_clidmu import _settings
from sklearn_clidmu.noise import loo_kernel_ridge
from sklearn_clidmu.training import data


@pytest.fixture
def coarse_kernel(monkeypatch):
    """A kernel regression of few frequencies, for tests that do not ask how accurate it is.

    It takes a third of the time of a fit as short as theirs.
    """
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", 16)


@pytest.fixture
def few_steps(monkeypatch):
    """Epochs of at least four steps instead of ten, for tests that do not ask what is learned."""

    def steps_per_epoch(n_rows, batch_size):
        n_batches = math.ceil(n_rows / batch_size)
        return n_batches, math.ceil(4 / n_batches)

    for module in (_settings, data):
        monkeypatch.setattr(module, "steps_per_epoch", steps_per_epoch)
