"""A warning points at the line that called for the work."""

import inspect
import warnings
from functools import partial

import pytest
from sklearn.exceptions import ConvergenceWarning

from sklearn_clidmu import CLIDMUClassifier

from .data import make_rows

X, y, _ = make_rows()


@pytest.mark.parametrize("way", ["fit", "partial_fit"])
def test_warning_points_at_the_line_of_the_caller(way):
    clf = CLIDMUClassifier(hidden_layer_sizes=(4,), lr=1e200, max_epochs=2, random_state=0)
    works = {
        "fit": clf.fit,
        "partial_fit": partial(clf.partial_fit, classes=[0, 1]),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.currentframe().f_lineno + 1
        works[way](X, y)
    places = {(w.filename, w.lineno) for w in caught if w.category is ConvergenceWarning}
    assert places == {(__file__, line)}
