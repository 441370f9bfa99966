import pytest

from sklearn_clidmu.noise import loo_kernel_ridge


@pytest.fixture
def coarse_kernel(monkeypatch):
    """Kernel regression on few Fourier features, for tests that do not measure it.

    It takes a third of the time of a fit as short as theirs.
    """
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", 16)
