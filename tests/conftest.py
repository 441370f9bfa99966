"""Settings that must be made before anything is imported, and for all tests."""

import os

# SciPy reads it once; without it scikit-learn skips its check of array API inputs.
os.environ["SCIPY_ARRAY_API"] = "1"
# Networks as small as these gain nothing by a second thread, nor do those of child processes.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Torch may have been imported before this file."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def double_precision():
    """Float64 and the same seed for every test, without a trace in the global state."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(dtype)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request):
    """The floating-point types that a fit may be carried out in."""
    return request.param
