import pytest

from sklearn_clidmu.mathematics import leave_one_out


@pytest.fixture
def coarse_judge(monkeypatch):
    """A judge of few Fourier features, for tests that do not ask how well it judges.

    It takes a third of the time of a fit as short as theirs.
    """
    monkeypatch.setattr(leave_one_out, "N_FREQUENCIES", 16)
