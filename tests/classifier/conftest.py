import pytest

from sklearn_clidmu.noise import loo_kernel_ridge


@pytest.fixture
def coarse_kernel(monkeypatch):
    """A kernel regression of few frequencies, for tests that do not ask how accurate it is.

    It takes a third of the time of a fit as short as theirs.
    """
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", 16)
