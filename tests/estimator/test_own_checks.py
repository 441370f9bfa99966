"""The package's own promises, on one configuration for every way of weighting."""

import pytest

from sklearn_clidmu import CLIDMUClassifier

from . import own_checks
from .own_checks import all_checks

SMALL = {"hidden_layer_sizes": (12, 8), "max_epochs": 3}
CONFIGURATIONS = {
    "evidence": {"warmup_epochs": 1},
    "vri": {"warmup_epochs": 1, "weighting": "vri"},
    "unweighted": {"weighting": None},
    "mae": {"warmup_epochs": 1, "meta_objective": "mae"},
    "wnet": {"warmup_epochs": 1, "weighting": "wnet"},
    "full step": {"warmup_epochs": 1, "virtual_step": "full"},
}


@pytest.mark.parametrize("check", all_checks)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_own_check(name, check):
    check(name, CLIDMUClassifier(**SMALL, **CONFIGURATIONS[name]))


def test_all_checks_leaves_out_no_check():
    defined = {name for name in vars(own_checks) if name.startswith("check_")}
    assert {check.__name__ for check in all_checks} == defined
