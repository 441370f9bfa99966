import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible():
    """Every test from the same seed and on one thread, without a trace in the global state."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(n_threads)
