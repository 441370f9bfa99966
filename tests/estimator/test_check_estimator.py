"""scikit-learn's own estimator checks, every one of them, for every way of weighting."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_clidmu import CLIDMUClassifier


# Some checks train on labels that are pure noise, and some of them from a random seed.
@pytest.mark.filterwarnings("ignore:The weighting collapsed:sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        CLIDMUClassifier(),
        CLIDMUClassifier(weighting="vri"),
        CLIDMUClassifier(weighting=None),
        CLIDMUClassifier(meta_objective="mae"),
    ]
)
def test_scikit_learn_check(estimator, check):
    check(estimator)
