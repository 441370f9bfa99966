from pathlib import Path

import numpy as np
import pytest
import torch

# A megabyte: whole networks, batches and all gradients, as the published code computed them.
REFERENCE = Path(__file__).resolve().parents[1] / "data" / "clid_reference.npz"


@pytest.fixture(autouse=True)
def in_double_precision(double_precision):
    """Every test."""


@pytest.fixture(scope="session")
def reference():
    """Inputs and outputs of the published implementation, as ``{name: tensor}``."""
    with np.load(REFERENCE) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
