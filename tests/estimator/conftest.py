import pytest
import torch

from sklearn_clidmu.mathematics import leave_one_out


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks as small as these gain nothing by a second thread, and lose much on a busy CPU."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def coarse_judge(monkeypatch):
    """A judge of few Fourier features, for tests that do not ask how well it judges.

    It takes a third of the time of a fit as short as theirs.
    """
    monkeypatch.setattr(leave_one_out, "N_FREQUENCIES", 16)
