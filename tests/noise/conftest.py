import pytest
import torch


@pytest.fixture(autouse=True)
def double_precision():
    """Every test in float64 and from the same seed, without a trace in the global state."""
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
