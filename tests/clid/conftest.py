from pathlib import Path

import numpy as np
import pytest
import torch

# A megabyte: whole networks, batches and all gradients, as the published code computed them.
REFERENCE = Path(__file__).resolve().parents[1] / "data" / "clid_reference.npz"


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


@pytest.fixture(scope="session")
def reference():
    """Inputs and outputs of the published implementation, as ``{name: tensor}``."""
    with np.load(REFERENCE) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
