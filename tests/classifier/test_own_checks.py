"""The package's own promises, on settings that together reach every branch of a fit."""

import pytest

from sklearn_clidmu import CLIDMUClassifier

from . import own_checks

CHECKS = [check for name, check in vars(own_checks).items() if name.startswith("check_")]
SMALL = {"hidden_layer_sizes": (12, 8), "max_epochs": 2}
CONFIGURATIONS = {
    "evidence": {"warmup_epochs": 1},
    "vri, full step": {"warmup_epochs": 1, "weighting": "vri", "virtual_step": "full"},
    "wnet, mae, full step": {
        "warmup_epochs": 1,
        "weighting": "wnet",
        "meta_objective": "mae",
        "virtual_step": "full",
    },
    "unweighted": {"weighting": None},
}


@pytest.mark.usefixtures("coarse_kernel", "few_steps")
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_classifier_passes_own_check(name, check):
    check(name, CLIDMUClassifier(**SMALL, **CONFIGURATIONS[name]))
