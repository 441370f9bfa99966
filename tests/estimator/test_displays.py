"""Displays show the numbers that they are asked to show; what they look like is not tested."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.exceptions import NotFittedError
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import (
    CLIDMUClassifier,
    NoiseMatrixDisplay,
    NoiseScoreDisplay,
    TrainingCurveDisplay,
    WeightFunctionDisplay,
)
from sklearn_clidmu.estimator.drawing import STYLES
from sklearn_clidmu.estimator.weight_function_display import DOUBT

from .data import SMALL, make_rows

mpl.use("Agg")
import matplotlib.pyplot as plt

X, y, WRONG = make_rows(80, n_classes=3, noise=0.3)
DISPLAYS = [NoiseScoreDisplay, NoiseMatrixDisplay, TrainingCurveDisplay, WeightFunctionDisplay]
N_AXES = [1, 1, 4, 2]


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "batch_size": 32, "warmup_epochs": 1, **params})


@pytest.fixture(scope="module")
def clf():
    return small().fit(X, y)


@pytest.fixture(scope="module")
def wnet():
    return small(weighting="wnet", early_stopping=True, n_snapshots=2).fit(X, y)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def lines(ax):
    """Lines on axes by their label; those of no label are called _child0 and so on."""
    return {line.get_label(): line for line in ax.get_lines()}


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


# All displays


@pytest.mark.parametrize("display", DISPLAYS)
def test_a_pipeline_is_shown_as_its_last_step_is(display):
    pipe = make_pipeline(StandardScaler(), small()).fit(X, y)
    shown, alone = (display.from_estimator(estimator) for estimator in (pipe, pipe[-1]))
    for ours, theirs in zip(np.ravel(shown.ax_), np.ravel(alone.ax_), strict=True):
        assert len(ours.get_lines()) == len(theirs.get_lines())
        for line, other in zip(ours.get_lines(), theirs.get_lines(), strict=True):
            np.testing.assert_array_equal(line.get_xydata(), other.get_xydata())
        assert (len(ours.patches), len(ours.images)) == (len(theirs.patches), len(theirs.images))


@pytest.mark.parametrize("display", DISPLAYS)
def test_what_is_no_fitted_classifier_is_refused(display):
    with pytest.raises(NotFittedError):
        display.from_estimator(small())
    with pytest.raises(TypeError, match="ends in one, got StandardScaler"):
        display.from_estimator(make_pipeline(StandardScaler()))
    with pytest.raises(TypeError, match=r"got GridSearchCV\. Of a search, pass its best_"):
        display.from_estimator(GridSearchCV(small(), {}))


@pytest.mark.parametrize(("display", "n_axes"), [*zip(DISPLAYS, N_AXES, strict=True)])
def test_given_axes_are_drawn_on_and_nothing_else_of_pyplot_is_touched(display, n_axes, clf):
    figure, axes = plt.subplots(2, n_axes, squeeze=False)
    current = plt.figure()
    settings, numbers = dict(mpl.rcParams), plt.get_fignums()
    shown = [display.from_estimator(clf, ax=row if n_axes > 1 else row[0]) for row in axes]
    for one, row in zip(shown, axes, strict=True):
        assert one.figure_ is figure
        assert list(np.ravel(one.ax_)) == list(row)
    assert plt.gcf() is current
    assert plt.get_fignums() == numbers
    assert dict(mpl.rcParams) == settings
    figure.canvas.draw()


@pytest.mark.parametrize("display", DISPLAYS)
def test_a_figure_of_its_own_is_made_without_axes_and_drawn_again_on_request(display, clf):
    shown = display.from_estimator(clf)
    first = shown.figure_
    assert plt.get_fignums() == [first.number]
    first.canvas.draw()
    assert shown.plot() is shown
    assert shown.figure_ is not first


@pytest.mark.parametrize(("display", "n_needed"), [*zip(DISPLAYS, N_AXES, strict=True)])
def test_too_many_axes_are_refused(display, n_needed, clf):
    _, axes = plt.subplots(1, 5)
    with pytest.raises(ValueError, match=rf"{display.__name__}.plot needs {n_needed} axes, got 5"):
        display.from_estimator(clf, ax=axes)


@pytest.mark.parametrize("display", DISPLAYS)
def test_an_error_says_that_matplotlib_is_missing(display, clf, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf"{display.__name__}.plot requires matplotlib"):
        display.from_estimator(clf)


def test_lines_that_share_axes_differ_in_more_than_colour():
    for key in ("color", "linestyle"):
        assert len({style[key] for style in STYLES}) == len(STYLES)


# Noise scores


def test_bars_are_the_histogram_of_the_scores(clf):
    shown = NoiseScoreDisplay.from_estimator(clf, bins=12)
    [bars] = shown.ax_.patches
    counts, edges = np.histogram(clf.noise_scores_, np.linspace(0, 1, 13))
    np.testing.assert_array_equal(bars.get_data().values, counts)
    np.testing.assert_allclose(bars.get_data().edges, edges)


def test_rows_without_a_label_are_left_out_of_the_scores():
    scores = np.array([0.1, np.nan, 0.9, 0.2, np.nan])
    [bars] = NoiseScoreDisplay.from_predictions(scores, bins=2).ax_.patches
    np.testing.assert_array_equal(bars.get_data().values, [2, 1])
    wrong = np.array([False, True, True, False, False])  # the second has no score
    right, found = NoiseScoreDisplay.from_predictions(scores, wrong=wrong, bins=2).ax_[0].patches
    np.testing.assert_array_equal(right.get_data().values, [2, 0])
    np.testing.assert_array_equal(found.get_data().values, [0, 1])


def test_known_wrong_labels_stand_apart_and_are_hatched(clf):
    shown = NoiseScoreDisplay.from_estimator(clf, wrong=WRONG, bins=10)
    bars = shown.ax_[0].patches
    for mask, drawn in zip([~WRONG, WRONG], bars, strict=True):
        counts, _ = np.histogram(clf.noise_scores_[mask], np.linspace(0, 1, 11))
        np.testing.assert_array_equal(drawn.get_data().values, counts)
    assert texts(shown.ax_[0].get_legend()) == ["label right", "label wrong"]
    assert [bool(drawn.get_hatch()) for drawn in bars] == [False, True]


def test_curves_are_those_of_scikit_learn(clf):
    _, roc, precision_recall = NoiseScoreDisplay.from_estimator(clf, wrong=WRONG).ax_
    fpr, tpr, _ = roc_curve(WRONG, clf.noise_scores_)
    line, diagonal = roc.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([fpr, tpr]))
    assert line.get_label() == f"AUROC = {roc_auc_score(WRONG, clf.noise_scores_):.3f}"
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    precision, recall, _ = precision_recall_curve(WRONG, clf.noise_scores_)
    line, level = precision_recall.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([recall, precision]))
    mean = -np.sum(np.diff(recall) * precision[:-1])
    assert line.get_label() == f"average precision = {mean:.3f}"
    np.testing.assert_allclose(level.get_ydata(), WRONG.mean())


def test_single_axes_take_the_histogram_alone(clf):
    _, ax = plt.subplots()
    shown = NoiseScoreDisplay.from_estimator(clf, wrong=WRONG, ax=ax)
    assert shown.ax_ is ax
    assert len(ax.patches) == 2
    assert ax.figure.axes == [ax]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.flatnonzero(WRONG), "wrong must be a boolean mask, got dtype int64"),
        (WRONG[1:], "inconsistent numbers of samples"),
        (np.zeros(len(X), bool), "mark some labels and leave others, got 0 of 80"),
        (np.ones(len(X), bool), "mark some labels and leave others, got 80 of 80"),
    ],
)
def test_what_is_no_mask_of_wrong_labels_is_refused(wrong, message, clf):
    with pytest.raises(ValueError, match=message):
        NoiseScoreDisplay.from_estimator(clf, wrong=wrong)


# The noise matrix


def test_the_matrix_is_shown_with_its_numbers_classes_and_rate(clf):
    shown = NoiseMatrixDisplay.from_estimator(clf)
    np.testing.assert_array_equal(shown.im_.get_array(), clf.noise_matrix_)
    for text, value in zip(shown.text_.ravel(), clf.noise_matrix_.ravel(), strict=True):
        assert text.get_text() == (f"{value:.2f}" if value >= 0.005 else "")
    for axis in (shown.ax_.xaxis, shown.ax_.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["0", "1", "2"]
    assert shown.ax_.get_title() == f"noise rate {100 * clf.noise_rate_:.1f}%"
    assert (shown.ax_.get_xlabel(), shown.ax_.get_ylabel()) == ("true class", "given label")


def test_numbers_stand_in_their_cells_and_out_from_what_is_behind():
    shown = NoiseMatrixDisplay(np.array([[0.9, 0.0], [0.1, 1.0]]), ["no", "yes"], 0.05).plot()
    found = [[text.get_text() for text in row] for row in shown.text_]
    assert found == [["0.90", ""], ["0.10", "1.00"]]
    places = [[text.get_position() for text in row] for row in shown.text_]
    assert places == [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]
    colours = [[text.get_color() for text in row] for row in shown.text_]
    assert colours == [["white", "black"], ["black", "white"]]


def test_the_matrix_of_known_classes_counts_given_labels_in_each_true_class():
    true, given = ["a", "a", "a", "a", "b", "b"], ["a", "a", "a", "b", "b", "b"]
    shown = NoiseMatrixDisplay.from_predictions(true, given, display_labels=["ant", "bee"])
    np.testing.assert_allclose(shown.im_.get_array(), [[0.75, 0], [0.25, 1]])
    assert [label.get_text() for label in shown.ax_.get_xticklabels()] == ["ant", "bee"]
    assert shown.ax_.get_title() == "noise rate 16.7%"


def test_long_names_are_shortened_and_stand_upright():
    names = ["a class of a name that is much too long for it", "another"]
    shown = NoiseMatrixDisplay(np.eye(2), names, 0.0).plot()
    found = [label.get_text() for label in shown.ax_.get_yticklabels()]
    assert found == ["a class of a name that …", "another"]
    many = NoiseMatrixDisplay(np.eye(4), 4 * names[:1], 0.0).plot()
    assert {label.get_rotation() for label in many.ax_.get_xticklabels()} == {90}
    assert {label.get_rotation() for label in shown.ax_.get_xticklabels()} == {0}


def test_a_hundred_classes_have_no_numbers_and_every_fourth_its_name():
    shown = NoiseMatrixDisplay(np.eye(100), range(100), 0.0).plot()
    assert shown.text_ is None
    np.testing.assert_array_equal(shown.ax_.get_xticks(), np.arange(0, 100, 4))
    assert [label.get_text() for label in shown.ax_.get_yticklabels()][:3] == ["0", "4", "8"]


def test_as_many_names_as_classes_are_needed(clf):
    with pytest.raises(ValueError, match="must name all 3 classes, got 2 names"):
        NoiseMatrixDisplay.from_estimator(clf, display_labels=["ant", "bee"])


def test_the_colours_of_the_matrix_grow_evenly_darker_in_greyscale():
    image = NoiseMatrixDisplay(np.eye(2), ["no", "yes"], 0.0).plot().im_
    luma = image.cmap(np.linspace(0, 1, 50))[:, :3] @ (0.299, 0.587, 0.114)
    assert (np.diff(luma) < 0).all()


# Training curves


def test_curves_are_those_of_the_history_each_training_apart(clf):
    shown = TrainingCurveDisplay.from_estimator(clf)
    titles = ["loss", "meta loss", "CLID - log n", "share of rows"]
    assert [ax.get_ylabel() for ax in shown.ax_] == titles
    for ax, key in zip(shown.ax_, ["train_loss", "meta_loss", "clid", "dissent"], strict=True):
        curve = clf.history_[key]
        first, second, *_ = ax.get_lines()
        np.testing.assert_array_equal(first.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(first.get_ydata(), curve[:3])
        np.testing.assert_array_equal(second.get_xdata(), [4, 5, 6])
        np.testing.assert_array_equal(second.get_ydata(), curve[3:])


def test_the_start_of_the_second_training_and_the_epoch_that_predicts_are_marked(clf):
    shown = TrainingCurveDisplay.from_estimator(clf)
    for ax, key in zip(shown.ax_, ["train_loss", "meta_loss", "clid", "dissent"], strict=True):
        _, _, circle, border = ax.get_lines()
        np.testing.assert_array_equal(border.get_xdata(), [3.5, 3.5])
        np.testing.assert_array_equal(circle.get_xydata(), [[6, clf.history_[key][-1]]])
    assert texts(shown.ax_[0].get_legend()) == ["training", "predicts"]
    assert [text.get_text() for text in shown.ax_[0].texts] == ["training 2"]


def test_the_epochs_whose_mean_predicts_and_the_hold_out_are_shown(wnet):
    shown = TrainingCurveDisplay.from_estimator(wnet)
    loss, *_, shares = shown.ax_
    validation = lines(loss)["validation"]
    np.testing.assert_array_equal(validation.get_ydata(), wnet.history_["valid_loss"])
    score = lines(shares)["validation accuracy"]
    np.testing.assert_array_equal(score.get_ydata(), wnet.history_["valid_score"])
    lowest = np.sort(np.argsort(wnet.history_["clid"], kind="stable")[:2])
    np.testing.assert_array_equal(lines(loss)["predicts"].get_xdata(), lowest + 1)


def test_a_network_without_weighting_has_no_meta_loss_to_show():
    shown = TrainingCurveDisplay.from_estimator(small(weighting=None).fit(X, y))
    assert [ax.get_ylabel() for ax in shown.ax_] == ["loss", "CLID - log n", "share of rows"]


def nan_objective(features, logits, targets, sample_weight):
    return logits.sum() * torch.nan


@pytest.fixture(scope="module")
def collapsed():
    with pytest.warns(match="The weighting collapsed"):
        return small(meta_objective=nan_objective).fit(X, y)


def test_a_collapse_is_marked_in_the_training_that_predicts(collapsed):
    first = 3  # epochs of the training before
    shown = TrainingCurveDisplay.from_estimator(collapsed)
    [mark] = [line for line in shown.ax_[0].get_lines() if line.get_marker() == "X"]
    assert mark.get_xdata() == [first + collapsed.collapse_epoch_]


# Weight functions


def test_the_weight_of_wnet_is_that_of_its_network_by_hand(wnet):
    shown = WeightFunctionDisplay.from_estimator(wnet)
    [line] = shown.ax_[0].get_lines()
    assert len(shown.ax_) == 1
    net = {name: values.detach().numpy() for name, values in wnet.weight_net_.named_parameters()}
    hidden = np.maximum(
        net["hidden.weight"] @ line.get_xdata()[None] + net["hidden.bias"][:, None], 0
    )
    expected = expit(net["output.weight"] @ hidden + net["output.bias"])[0]
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-5)


def mean_weights(weight_net, evidence, targets):
    """Of the evidence net, by hand."""
    net = {
        name: values.detach().double().numpy() for name, values in weight_net.state_dict().items()
    }
    sums = -evidence[:, :4] @ np.abs(net["hidden.weight"]).T + net["hidden.bias"]
    score = 2 * expit(2 * sums) @ np.abs(net["output.weight"])[0] - evidence[:, 4]
    return expit(score + net["offset"][targets]).mean()


@pytest.mark.parametrize(
    ("name", "column"),
    [("rank of the mean loss", 1), ("rank of the influence on CLID", 2), (DOUBT, 4), ("loss", 0)],
)
def test_the_weight_of_evidence_is_its_partial_dependence_by_hand(name, column, clf):
    shown = WeightFunctionDisplay.from_estimator(clf)
    line = shown.ax_[0].get_lines()[0] if name == "loss" else lines(shown.ax_[1])[name]
    evidence, targets = clf.net_.evidence_sample_
    values = np.linspace(evidence[:, column].min(), evidence[:, column].max(), 101)
    shown_at = {"loss": values * np.log(3), DOUBT: expit(values)}.get(name, values)
    np.testing.assert_allclose(line.get_xdata(), shown_at, rtol=1e-5, atol=1e-7)
    for at in (0, 50, 100):
        changed = evidence.astype(float)
        changed[:, column] = values[at]
        expected = mean_weights(clf.weight_net_, changed, targets)
        np.testing.assert_allclose(line.get_ydata()[at], expected, rtol=1e-5)


def test_the_evidence_shown_is_that_of_rows_trained_on(clf):
    evidence, targets = clf.net_.evidence_sample_
    assert evidence.shape == (len(X), 5)
    np.testing.assert_array_equal(targets, y)
    # On average the weights are what the mean of the trust in the same rows was.
    expected = mean_weights(clf.weight_net_, evidence.astype(float), targets)
    believed = clf.weight_net_.believed.numpy()[y].mean()
    np.testing.assert_allclose(expected, believed, atol=0.02)


def test_no_evidence_lets_the_weight_rise(clf):
    shown = WeightFunctionDisplay.from_estimator(clf)
    for ax in shown.ax_:
        for line in ax.get_lines():
            assert (np.diff(line.get_ydata()) <= 1e-7).all()


def test_the_doubt_of_a_first_training_is_shown_only_where_there_was_one(clf):
    assert DOUBT in lines(WeightFunctionDisplay.from_estimator(clf).ax_[1])
    once = WeightFunctionDisplay.from_estimator(small(refit=False).fit(X, y))
    assert DOUBT not in lines(once.ax_[1])
    assert len(once.ax_[1].get_lines()) == 3


@pytest.mark.parametrize(
    ("weighting", "message"), [(None, "no weighting net"), ("vri", "that of VRI")]
)
def test_what_has_no_weight_function_is_refused(weighting, message):
    fitted = small(weighting=weighting).fit(X, y)
    with pytest.raises(ValueError, match=rf"{message}.* row is sample_weights_"):
        WeightFunctionDisplay.from_estimator(fitted)


def test_after_a_collapse_there_is_no_weight_function(collapsed):
    with pytest.raises(ValueError, match=r"collapsed in epoch \d and was switched off"):
        WeightFunctionDisplay.from_estimator(collapsed)
