import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible():
    """Every test from the same seed, without a trace in the global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
