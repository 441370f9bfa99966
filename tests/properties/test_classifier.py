"""Whatever is passed: a sound result, or an error that names its cause."""

import pickle
import re
import warnings

import numpy as np
import pytest
from classifier.data import make_rows
from hypothesis import event, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu._settings import PARAMETER_CONSTRAINTS

from .strategies import data, invalid, parameters

X, y, _ = make_rows(20)
CAUSES = re.compile(
    rf"\b(X|y|sample_weight|labels?|class(es)?|{'|'.join(PARAMETER_CONSTRAINTS)})\b|StandardScaler"
)


def attempt(method, *args, **kwargs):
    """Call a method that fits; return None where it refuses, in words that name the cause."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        # scikit-learn's own, where it looks for infinity and finds it with both signs.
        warnings.filterwarnings("ignore", "invalid value encountered in reduce", RuntimeWarning)
        try:
            return method(*args, **kwargs)
        except (ValueError, TypeError) as error:
            refusal = error
    assert CAUSES.search(str(refusal)), repr(refusal)
    return None


def results(clf, rows):
    probabilities = clf.predict_proba(rows)
    return [probabilities, clf.sample_weights_, clf.noise_scores_, clf.transition_matrix_]


def assert_sound(clf, rows):
    n, n_classes = len(clf.sample_weights_), len(clf.classes_)
    probabilities, weights, scores, matrix = results(clf, rows)
    assert (np.sort(clf.classes_) == clf.classes_).all()
    assert len(set(clf.classes_.tolist())) == n_classes >= 2
    assert probabilities.shape[1] == n_classes
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-9)
    assert weights.shape == scores.shape == clf.suggested_labels_.shape == (n,)
    labeled = np.isfinite(scores)
    if clf.missing_label is None:
        assert labeled.all()
    assert ((scores[labeled] >= 0) & (scores[labeled] <= 1)).all()
    assert (weights >= 0).all()
    assert weights[labeled].mean() == pytest.approx(1, abs=1e-9)
    assert (weights[~labeled] == 0).all()
    assert matrix.shape == (n_classes, n_classes)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-9)
    assert 0 <= clf.noise_rate_ <= 1
    predicted = clf.predict(rows)
    assert predicted.dtype == clf.classes_.dtype
    assert np.isin(predicted, clf.classes_).all()


@given(st.data())
def test_fit_is_sound_or_names_the_cause(drawn):
    rows, y, weight, missing_label, _ = drawn.draw(data())
    params = drawn.draw(parameters())
    params.setdefault("missing_label", missing_label)
    clf = CLIDMUClassifier(**params)
    twin = clone(clf)
    if attempt(clf.fit, rows, y, weight) is None:
        event("refused")
        return
    event("sound")
    assert_sound(clf, rows)
    assert len(clf.sample_weights_) == len(y)
    np.testing.assert_array_equal(clf.suggested_labels_, clf.predict(rows))
    expected = results(clf, rows)
    copied, again = pickle.loads(pickle.dumps(clf)), attempt(twin.fit, rows, y, weight)
    for other in (copied, again):
        for actual, wanted in zip(results(other, rows), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)


@settings(max_examples=settings.default.max_examples // 2)
@given(st.data())
def test_fits_in_any_order_are_sound_or_name_the_cause(drawn):
    rows, y, weight, missing_label, classes = drawn.draw(data())
    params = drawn.draw(parameters())
    params.setdefault("missing_label", missing_label)
    clf = CLIDMUClassifier(**params)
    for step in drawn.draw(
        st.lists(st.sampled_from(["fit", "partial_fit"]), min_size=2, max_size=4)
    ):
        before = len(getattr(clf, "sample_weights_", ()))
        if step == "fit":
            fitted, n = attempt(clf.fit, rows, y, weight), 0
        else:
            fitted, n = attempt(clf.partial_fit, rows, y, classes, weight), before
        if fitted is None:
            event(f"refused by {step}")
            assert len(getattr(clf, "sample_weights_", ())) == before
            break
        event(f"sound after {step}")
        assert_sound(clf, rows)
        assert len(clf.sample_weights_) == n + len(y)
        clf = pickle.loads(pickle.dumps(clf))


@given(st.data())
def test_parameter_of_a_forbidden_value_is_named(drawn):
    name = drawn.draw(st.sampled_from(sorted(PARAMETER_CONSTRAINTS)))
    clf = CLIDMUClassifier(**{**drawn.draw(parameters()), name: drawn.draw(invalid(name))})
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        clf.fit(X, y)
