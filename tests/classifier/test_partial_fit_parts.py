"""Parts of a table that differ in what their columns hold."""

import numpy as np
import pytest

from classifier.data import make_rows, small

pytestmark = pytest.mark.usefixtures("few_steps", "coarse_kernel")

X, y, _ = make_rows(200)
GAPS = np.where(np.random.RandomState(0).uniform(size=X.shape) < 0.2, np.nan, X)
PARTS = {"plain": X, "gaps": GAPS, "two values": np.sign(X), "constant": 0 * X}


@pytest.mark.parametrize("second", PARTS)
@pytest.mark.parametrize("first", PARTS)
def test_training_goes_on_with_columns_of_another_kind(first, second):
    clf = small().partial_fit(PARTS[first], y, classes=[0, 1])
    clf.partial_fit(PARTS[second], y)
    assert np.isfinite(clf.predict_proba(GAPS)).all()
    assert len(clf.noise_scores_) == 400
    if first != "constant" and second != "constant":
        warm = small(warm_start=True).fit(PARTS[first], y)
        assert np.isfinite(warm.fit(PARTS[second], y).predict_proba(GAPS)).all()
