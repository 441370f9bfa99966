import os

import pytest
from hypothesis import HealthCheck, settings

from sklearn_clidmu.noise import loo_kernel_ridge

# A fit takes a moment, not an instant; what is found is printed, and needs no data base.
common = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("ci", max_examples=40, derandomize=True, **common)
settings.register_profile("nightly", max_examples=400, **common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module", autouse=True)
def fewer_steps():
    """What costs most of a fit on a handful of rows, and changes nothing of what is promised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loo_kernel_ridge, "N_FREQUENCIES", 8)
        yield
