import os

import pytest
from hypothesis import HealthCheck, settings

from sklearn_clidmu.mathematics import leave_one_out
from sklearn_clidmu.training import batches

# A fit takes a moment, not an instant; what is found is printed, and needs no data base.
common = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("ci", max_examples=50, derandomize=True, **common)
settings.register_profile("nightly", max_examples=500, **common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module", autouse=True)
def fewer_steps():
    """What costs most of a fit on a handful of rows, and changes nothing of what is promised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leave_one_out, "N_FREQUENCIES", 8)
        patch.setattr(batches, "MIN_STEPS", 2)
        yield
