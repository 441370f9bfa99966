"""The displays draw the numbers of the fit; their appearance is not tested."""

import sys

import joblib
import matplotlib as mpl
import numpy as np
import pytest
import torch
from classifier.data import make_rows
from scipy.special import expit
from sklearn.exceptions import NotFittedError
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import (
    CLIDMUClassifier,
    NoiseScoreDisplay,
    TrainingCurveDisplay,
    WeightFunctionDisplay,
)
from sklearn_clidmu.plotting._weight_function import PRIOR

mpl.use("Agg")
import matplotlib.pyplot as plt

N_AXES = {NoiseScoreDisplay: 1, TrainingCurveDisplay: 4, WeightFunctionDisplay: 2}
every_display = pytest.mark.parametrize("display", N_AXES)

X, y, WRONG = make_rows(80, n_classes=3, noise=0.3)


def small(**params):
    sizes = {"hidden_layer_sizes": (12, 8), "max_epochs": 3, "warmup_epochs": 1, "batch_size": 32}
    return CLIDMUClassifier(**sizes, random_state=0, **params)


def nan_objective(features, logits, targets, sample_weight):
    return logits.sum() * torch.nan


@pytest.fixture(scope="module")
def clf():
    return small().fit(X, y)


@pytest.fixture(scope="module")
def staged():
    """A fit of three stages: the later ones train on pseudo-labels, too."""
    return small(missing_label=-1).fit(X, np.where(np.arange(80) % 5 == 4, -1, y))


@pytest.fixture(scope="module")
def wnet():
    return small(weighting="wnet", early_stopping=True).fit(X, y)


@pytest.fixture(scope="module")
def collapsed():
    with pytest.warns(match="collapsed"):
        return small(meta_objective=nan_objective).fit(X, y)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def lines(ax):
    """Lines on axes by their label; matplotlib calls lines without a label _child0 and so on."""
    return {line.get_label(): line for line in ax.get_lines()}


# All displays


@every_display
def test_from_estimator_draws_a_pipeline_as_its_last_step(display):
    pipe = make_pipeline(StandardScaler(), small()).fit(X, y)
    drawn, expected = (display.from_estimator(estimator) for estimator in (pipe, pipe[-1]))
    for ours, theirs in zip(np.ravel(drawn.ax_), np.ravel(expected.ax_), strict=True):
        for line, other in zip(ours.get_lines(), theirs.get_lines(), strict=True):
            np.testing.assert_array_equal(line.get_xydata(), other.get_xydata())
        for bars, other in zip(ours.patches, theirs.patches, strict=True):
            np.testing.assert_array_equal(bars.get_data().values, other.get_data().values)


@every_display
def test_from_estimator_rejects_anything_but_a_fitted_classifier(display):
    with pytest.raises(NotFittedError):
        display.from_estimator(small())
    with pytest.raises(TypeError, match="ends in one, got StandardScaler"):
        display.from_estimator(make_pipeline(StandardScaler()))
    with pytest.raises(TypeError, match=r"got GridSearchCV\. For a search, pass its best_"):
        display.from_estimator(GridSearchCV(small(), {}))


@every_display
def test_from_estimator_leaves_the_classifier_as_it_was(display, clf):
    before = joblib.hash(clf)
    display.from_estimator(clf)
    assert joblib.hash(clf) == before


@every_display
def test_plot_uses_the_given_axes_and_leaves_pyplot_alone(display, clf):
    figure, axes = plt.subplots(1, N_AXES[display])
    current = plt.figure()
    settings, numbers = dict(mpl.rcParams), plt.get_fignums()
    drawn = display.from_estimator(clf, ax=axes)
    assert drawn.figure_ is figure
    assert list(np.ravel(drawn.ax_)) == list(np.ravel(axes))
    assert plt.gcf() is current
    assert plt.get_fignums() == numbers
    assert dict(mpl.rcParams) == settings
    figure.canvas.draw()


@every_display
def test_plot_without_axes_makes_a_new_figure_each_time(display, clf):
    drawn = display.from_estimator(clf)
    first = drawn.figure_
    assert plt.get_fignums() == [first.number]
    assert drawn.plot() is drawn
    assert drawn.figure_ is not first


@every_display
def test_plot_rejects_a_wrong_number_of_axes_and_other_objects(display, clf):
    _, axes = plt.subplots(1, 5)
    message = rf"ax must be {N_AXES[display]} matplotlib Axes, .* None, got"
    with pytest.raises(ValueError, match=rf"{message} 5 \(Axes, Axes"):
        display.from_estimator(clf, ax=axes)
    with pytest.raises(ValueError, match=rf"{message} {N_AXES[display]} \(str"):
        display.from_estimator(clf, ax=["left"] * N_AXES[display])


@every_display
def test_plot_reports_missing_matplotlib(display, clf, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf"{display.__name__}.plot requires matplotlib"):
        display.from_estimator(clf)


# Noise scores


def test_noise_score_display_draws_the_histogram_of_the_scores(clf):
    [bars] = NoiseScoreDisplay.from_estimator(clf, bins=12).ax_.patches
    counts, edges = np.histogram(clf.noise_scores_, np.linspace(0, 1, 13))
    np.testing.assert_array_equal(bars.get_data().values, counts)
    np.testing.assert_allclose(bars.get_data().edges, edges)


def test_noise_score_display_leaves_out_rows_without_a_label():
    scores = np.array([0.1, np.nan, 0.9, 0.2, np.nan])
    [bars] = NoiseScoreDisplay.from_predictions(scores, bins=2).ax_.patches
    np.testing.assert_array_equal(bars.get_data().values, [2, 1])


def test_noise_score_display_separates_wrong_labels_from_right_ones():
    scores = np.array([0.1, np.nan, 0.9, 0.2, np.nan])
    wrong = np.array([False, True, True, False, False])  # the second row has no score
    ax = NoiseScoreDisplay.from_predictions(scores, wrong=wrong, bins=2).ax_[0]
    bars = {bars.get_label(): list(bars.get_data().values) for bars in ax.patches}
    assert bars == {"label right": [2, 0], "label wrong": [0, 1]}


def test_noise_score_display_draws_the_curves_of_scikit_learn(clf):
    _, roc, precision_recall = NoiseScoreDisplay.from_estimator(clf, wrong=WRONG).ax_
    fpr, tpr, _ = roc_curve(WRONG, clf.noise_scores_)
    line, _ = roc.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([fpr, tpr]))
    assert f"AUC = {roc_auc_score(WRONG, clf.noise_scores_):.2f}" in line.get_label()
    precision, recall, _ = precision_recall_curve(WRONG, clf.noise_scores_)
    line, level = precision_recall.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([recall, precision]))
    mean = -np.sum(np.diff(recall) * precision[:-1])
    assert f"AP = {mean:.2f}" in line.get_label()
    np.testing.assert_allclose(level.get_ydata(), WRONG.mean())


def test_noise_score_display_draws_the_histogram_alone_on_single_axes(clf):
    _, ax = plt.subplots()
    assert NoiseScoreDisplay.from_estimator(clf, wrong=WRONG, ax=ax).ax_ is ax
    assert len(ax.patches) == 2
    assert ax.figure.axes == [ax]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.flatnonzero(WRONG), "wrong must be a boolean mask, got dtype int64"),
        (WRONG[1:], "inconsistent numbers of samples"),
        (np.zeros(len(X), bool), "true for some labels and false for others, got 0 true of 80"),
        (np.ones(len(X), bool), "true for some labels and false for others, got 80 true of 80"),
    ],
)
def test_noise_score_display_rejects_an_invalid_mask(wrong, message, clf):
    with pytest.raises(ValueError, match=message):
        NoiseScoreDisplay.from_estimator(clf, wrong=wrong)


# Training curves

CURVES = ["train_loss", "meta_loss", "clid", "disagreement"]


def test_training_curve_display_draws_the_history_of_each_stage(staged):
    drawn = TrainingCurveDisplay.from_estimator(staged)
    titles = ["loss", "meta loss", "CLID - log n", "share of rows"]
    assert [ax.get_ylabel() for ax in drawn.ax_] == titles
    for ax, key in zip(drawn.ax_, CURVES, strict=True):
        points = np.column_stack([np.arange(1, 10), staged.history_[key]])
        curve, predicts, *borders = ax.get_lines()
        first, gap, second, another, third = np.split(curve.get_xydata(), [3, 4, 7, 8])
        np.testing.assert_array_equal(first, points[:3])
        np.testing.assert_array_equal(second, points[3:6])
        np.testing.assert_array_equal(third, points[6:])
        assert np.isnan([gap, another]).all()
        np.testing.assert_array_equal(predicts.get_xydata(), points[8:])
        found = [border.get_xdata() for border in borders]
        np.testing.assert_array_equal(found, [[3.5, 3.5], [6.5, 6.5]])
    texts = [text.get_text().strip() for text in drawn.ax_[0].texts]
    assert texts == ["stage 2", "stage 3"]


@pytest.mark.parametrize("change", [{"xticks": [1, 2, 3]}, {"xscale": "log"}])
def test_training_curve_display_leaves_ticks_of_the_caller_alone(change, clf):
    axes = plt.subplots(4)[1]
    axes[-1].set(**change)
    locator = axes[-1].xaxis.get_major_locator()
    TrainingCurveDisplay.from_estimator(clf, ax=axes)
    assert axes[-1].xaxis.get_major_locator() is locator


def test_training_curve_display_shows_the_validation_rows(wnet):
    loss, *_, shares = TrainingCurveDisplay.from_estimator(wnet).ax_
    validation, score = lines(loss)["validation"], lines(shares)["validation accuracy"]
    np.testing.assert_array_equal(validation.get_ydata(), wnet.history_["valid_loss"])
    np.testing.assert_array_equal(score.get_ydata(), wnet.history_["valid_score"])
    chosen = np.flatnonzero(wnet.history_["chosen"])
    np.testing.assert_array_equal(lines(loss)["predicts"].get_xdata(), chosen + 1)


def test_training_curve_display_without_weighting_has_no_meta_loss():
    drawn = TrainingCurveDisplay.from_estimator(small(weighting=None).fit(X, y))
    assert [ax.get_ylabel() for ax in drawn.ax_] == ["loss", "CLID - log n", "share of rows"]


def test_training_curve_display_marks_a_collapse_in_the_stage_that_predicts(collapsed):
    drawn = TrainingCurveDisplay.from_estimator(collapsed)
    [mark] = [line for line in drawn.ax_[0].get_lines() if line.get_marker() == "X"]
    stage = [part["predicts"] for part in collapsed.stages_].index(True)
    before = sum(part["n_epochs"] for part in collapsed.stages_[:stage])
    assert mark.get_xdata() == [before + collapsed.collapse_epoch_]


# Weight functions


def test_weight_function_of_wnet_is_that_of_the_net(wnet):
    [ax] = WeightFunctionDisplay.from_estimator(wnet).ax_
    [line] = ax.get_lines()
    losses = torch.tensor(line.get_xdata(), dtype=torch.float32)
    expected = wnet.weight_net_(losses).detach()
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "column"),
    [("loss", 0), ("rank of mean loss", 1), ("rank of influence on CLID", 2), (PRIOR, 4)],
)
def test_weight_function_is_the_partial_dependence_on_the_evidence(name, column, clf):
    left, right = WeightFunctionDisplay.from_estimator(clf).ax_
    line = left.get_lines()[0] if name == "loss" else lines(right)[name]
    evidence, targets = map(torch.tensor, clf.net_.evidence_sample_)
    low, high = (end.item() for end in evidence[:, column].aminmax())
    for at, value in ((0, low), (50, (low + high) / 2), (100, high)):
        shown = {"loss": value * np.log(3), PRIOR: expit(value)}.get(name, value)
        evidence[:, column] = value
        weight = clf.weight_net_.weights(evidence, targets).mean().item()
        np.testing.assert_allclose(line.get_xydata()[at], [shown, weight], rtol=1e-5, atol=1e-7)


def test_weight_function_shows_the_prior_with_and_without_folds(clf):
    for one in (clf, small(n_folds=None).fit(X, y)):
        assert PRIOR in WeightFunctionDisplay.from_estimator(one).curves


@pytest.mark.parametrize(
    ("weighting", "message"), [(None, "no weighting net"), ("vri", "VRI, whose weights use all")]
)
def test_weight_function_rejects_weightings_without_one(weighting, message):
    fitted = small(weighting=weighting).fit(X, y)
    with pytest.raises(ValueError, match=rf"{message}.* row is in sample_weights_"):
        WeightFunctionDisplay.from_estimator(fitted)


def test_weight_function_rejects_a_collapsed_weighting(collapsed):
    with pytest.raises(ValueError, match=r"the weighting collapsed in epoch \d"):
        WeightFunctionDisplay.from_estimator(collapsed)
