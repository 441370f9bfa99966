"""What public functions say of arguments that they cannot use, and arrays of other libraries."""

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from sklearn_clidmu import (
    CLIDMUClassifier,
    NoiseMatrixDisplay,
    NoiseScoreDisplay,
    cross_val_noise_scores,
    export_onnx,
    find_label_issues,
    noisy_label_scorer,
)
from sklearn_clidmu.datasets import make_label_noise
from sklearn_clidmu.estimator.arguments import (
    as_numpy,
    check_numbers,
    check_same_length,
    check_scores,
    check_vector,
)

from .data import SMALL, make_rows

X, y, _ = make_rows()
SCORES = np.linspace(0, 1, len(y))


def small(**params):
    return CLIDMUClassifier(**{**SMALL, **params})


@pytest.fixture(scope="module")
def clf():
    return small().fit(X, y)


# Arrays of other libraries


def test_what_is_numpys_or_no_array_comes_back_itself():
    for values in (X, [1, 2], None, "words", 3):
        assert as_numpy(values) is values


def test_a_tensor_shares_its_memory():
    tensor = torch.arange(3.0)
    assert np.shares_memory(as_numpy(tensor), tensor.numpy())


def test_a_tensor_that_is_part_of_a_graph_is_taken_out_of_it():
    tensor = torch.arange(3.0, requires_grad=True)
    np.testing.assert_array_equal(as_numpy(tensor), [0, 1, 2])
    assert tensor.requires_grad


def test_brain_floats_which_numpy_lacks_become_single_precision():
    array = as_numpy(torch.tensor([0.5, -3.0], dtype=torch.bfloat16))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [0.5, -3.0])


class Foreign:
    """An array of a library of its own, which NumPy can read but nothing else."""

    def __array_namespace__(self, *, api_version=None):
        raise NotImplementedError

    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0], dtype)


def test_an_array_of_any_namespace_becomes_one_of_numpy():
    assert type(as_numpy(Foreign())) is np.ndarray
    np.testing.assert_array_equal(as_numpy(Foreign()), [1, 2])


# What is checked


def test_a_column_is_a_vector_and_a_table_is_not():
    np.testing.assert_array_equal(check_vector([[1], [2]], "y"), [1, 2])
    with pytest.raises(ValueError, match=r"y must have one entry per row.*shape \(2, 2\)"):
        check_vector(np.eye(2), "y")
    with pytest.raises(ValueError, match=r"y must have one entry per row.*got 3"):
        check_vector(3, "y")


def test_what_is_no_number_is_refused_by_its_name():
    np.testing.assert_array_equal(check_numbers([1, True, "2"], "rate"), [1, 1, 2])
    for values in (["a"], [None, {}], [[1], [1, 2]]):
        with pytest.raises(ValueError, match="rate must be numbers: "):
            check_numbers(values, "rate")


def test_scores_are_in_the_unit_interval_or_nan():
    np.testing.assert_array_equal(check_scores([0, None, 1], "s"), [0, np.nan, 1])
    for outside in (-0.1, 1.5, np.inf):
        with pytest.raises(ValueError, match=rf"s must be in \[0, 1\].*got {outside:g}\."):
            check_scores([0.5, outside], "s")
    for nothing in ([], [np.nan]):
        with pytest.raises(ValueError, match="not nan alone"):
            check_scores(nothing, "s")


def test_lengths_that_differ_are_told_by_name():
    check_same_length(X=[1, 2], y=[3, 4])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: X has 2, y has 1\."):
        check_same_length(X=[1, 2], y=[3])


# Through the public functions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clf_or_scores": SCORES, "y": y[1:]}, "scores has 40, y has 39"),
        ({"clf_or_scores": SCORES, "y": y, "suggested": y[1:]}, "y has 40, suggested has 39"),
        ({"clf_or_scores": SCORES, "y": y, "suggested": np.eye(40)}, "suggested must have one ent"),
        ({"clf_or_scores": np.eye(40), "y": y}, "scores must have one entry per row"),
        ({"clf_or_scores": SCORES, "y": 3}, r"y must have one entry per row.*got 3"),
        ({"clf_or_scores": ["a"] * 40, "y": y}, "scores must be numbers"),
        ({"clf_or_scores": 2 * SCORES, "y": y}, r"scores must be in \[0, 1\].*pass 1 - p"),
        ({"clf_or_scores": SCORES, "y": y, "threshold": SCORES}, "threshold must be 'auto' or a"),
        ({"clf_or_scores": GridSearchCV(small(), {})}, r"got GridSearchCV\..*best_estimator_"),
    ],
)
def test_label_issues_say_which_argument_is_unfit(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_label_issues(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": None}, "'estimator' parameter.*'fit' and 'predict_proba'. Got None"),
        ({"estimator": LinearSVC()}, r"'estimator' parameter.*Got LinearSVC\(\)"),
        ({"params": [1]}, "'params' parameter.*'dict' or None"),
        ({"missing_label": [-1]}, "'missing_label' parameter"),
        ({"y": y[1:]}, "inconsistent numbers of samples"),
    ],
)
def test_out_of_fold_scores_say_which_argument_is_unfit(arguments, message):
    with pytest.raises(ValueError, match=message):
        cross_val_noise_scores(**{"estimator": LogisticRegression(), "X": X, "y": y, **arguments})


@pytest.mark.parametrize("rows", [slice(1, None), slice(3)])
def test_the_scorer_says_how_many_labels_it_got(clf, rows):
    for classifier in (clf, CalibratedClassifierCV(LinearSVC(), cv=2).fit(X, y)):
        with pytest.raises(ValueError, match=rf"X has 40, y has {len(y[rows])}\."):
            noisy_label_scorer(classifier, X, y[rows])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1, np.nan], ValueError, "y must have a label for every row.*leave such rows out"),
        (np.array(["a", None], object), ValueError, "y must have a label for every row"),
        (np.array(["a", 1], object), TypeError, "labels of one type, got int and str"),
        (["a", 1], TypeError, "labels of one type, got int and str"),
    ],
)
def test_noise_is_made_of_labels_that_are_all_there_and_of_one_type(labels, error, message):
    with pytest.raises(error, match=message):
        make_label_noise(labels)


def test_noise_keeps_the_type_of_whole_numbers_that_might_be_missing():
    pandas = pytest.importorskip("pandas")
    noisy, _ = make_label_noise(pandas.Series(y, dtype="Int64"), random_state=0)
    expected, _ = make_label_noise(y, random_state=0)
    assert noisy.dtype == y.dtype
    np.testing.assert_array_equal(noisy, expected)


@pytest.mark.parametrize("rate", ["a", None, [0.1, 0.2], np.array([0.1])])
def test_the_rate_of_noise_is_a_number(rate):
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\), got"):
        make_label_noise(y, rate=rate)


def test_labels_of_several_types_are_refused_with_advice():
    with pytest.raises(TypeError, match=r"y must have labels of one type, got int and str: make"):
        small().fit(X, ["a", 1] * 20)


@pytest.mark.parametrize("weight", ["abc", ["a"] * 40, [None] * 39 + [{}]])
def test_sample_weights_that_are_no_numbers_are_refused_by_name(weight):
    with pytest.raises(ValueError, match="sample_weight must be numbers"):
        small().fit(X, y, weight)


def test_one_sample_weight_counts_for_all_rows(clf):
    same = small().fit(X, y, 2.0)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("weight", [-1, np.nan, np.inf])
def test_class_weights_are_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match=r"class_weight must be finite and not negative, got \{0"):
        small(class_weight={0: weight}).fit(X, y)


def test_a_graph_is_made_of_the_classifier_itself(clf, tmp_path):
    pipe = make_pipeline(StandardScaler(), clf)
    for stranger in (pipe, LogisticRegression(), None):
        with pytest.raises(TypeError, match=rf"got {type(stranger).__name__}.*pipeline\[-1\]"):
            export_onnx(stranger, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_saved_model(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        CLIDMUClassifier.load(tmp_path)


# Displays


@pytest.mark.parametrize("ax", ["a", 3, [None]])
def test_what_is_no_axes_cannot_be_drawn_on(clf, ax):
    pytest.importorskip("matplotlib")
    for display in (NoiseScoreDisplay, NoiseMatrixDisplay):
        kind = type(np.ravel(np.asarray(ax, dtype=object))[0]).__name__
        with pytest.raises(TypeError, match=rf"ax must be matplotlib Axes.*got {kind}: make"):
            display.from_estimator(clf, ax=ax)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5, 2], r"noise_scores must be in \[0, 1\].*got 2\."),
        ([np.nan], "noise_scores .*not nan alone"),
        ([], "noise_scores .*not nan alone"),
        (["a"], "noise_scores must be numbers"),
        (np.eye(2), "noise_scores must have one entry per row"),
    ],
)
def test_scores_that_are_none_are_not_drawn(scores, message):
    with pytest.raises(ValueError, match=message):
        NoiseScoreDisplay.from_predictions(scores)


@pytest.mark.parametrize(
    ("y_true", "y_noisy", "message"),
    [
        (y, y[1:], "y_true has 40, y_noisy has 39"),
        ([0.0, np.nan], [0.0, 1.0], "y_true must have a label for every row"),
        (["a", "b"], np.array(["a", None], object), "y_noisy must have a label for every row"),
    ],
)
def test_a_noise_matrix_is_of_labels_that_are_all_there(y_true, y_noisy, message):
    with pytest.raises(ValueError, match=message):
        NoiseMatrixDisplay.from_predictions(y_true, y_noisy)


def test_a_column_of_labels_has_the_noise_rate_of_the_vector():
    plt = pytest.importorskip("matplotlib.pyplot")
    with pytest.warns(UserWarning, match="column-vector"):
        shown = NoiseMatrixDisplay.from_predictions(np.array([[0], [1], [1], [1]]), [0, 1, 1, 0])
    plt.close(shown.figure_)
    assert shown.noise_rate == 0.25
