"""scikit-learn's own estimator checks, every one of them, with each weighting."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_clidmu import CLIDMUClassifier

# Few steps and large ones: enough for the checks that ask for an accuracy.
SMALL = {"hidden_layer_sizes": (16, 8), "max_epochs": 3, "lr": 0.4}


# Some checks train on labels that are pure noise, and some of them from a random seed.
@pytest.mark.filterwarnings("ignore:The weighting collapsed:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.usefixtures("coarse_kernel", "few_steps")
@parametrize_with_checks(
    [
        CLIDMUClassifier(**SMALL),
        CLIDMUClassifier(weighting="vri", virtual_step="full", meta_objective="mae", **SMALL),
        CLIDMUClassifier(weighting="wnet", **SMALL),
        CLIDMUClassifier(weighting=None, **SMALL),
    ]
)
def test_classifier_passes_scikit_learn_check(estimator, check):
    check(estimator)
