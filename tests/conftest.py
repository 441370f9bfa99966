"""Settings that must stand before anything is imported, and for all tests."""

import os

# SciPy reads it once; without it scikit-learn skips its check of array API inputs.
os.environ["SCIPY_ARRAY_API"] = "1"

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks as small as these gain nothing by a second thread, and lose much on a busy CPU."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
