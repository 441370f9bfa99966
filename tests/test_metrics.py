"""Scorers for labels that may be wrong, and the transition matrix."""

import pickle

import numpy as np
import pytest
import torch
from classifier.data import make_rows, wide
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from sklearn_clidmu import CLIDMUClassifier, clid_loss, clid_score, noisy_label_scorer
from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu.metrics import CLID_ROWS, WORST_CLID_SCORE, fit_transition_matrix
from sklearn_clidmu.noise.loo_kernel_ridge import loo_proba

NAMES = np.array(["ant", "bee", "cat"])
BOTH = {"clid": clid_score, "noisy": noisy_label_scorer}


X, y, _ = make_rows(60, n_classes=3)


def small(**params):
    params = {"hidden_layer_sizes": (12, 8), "max_epochs": 10, "lr": 0.2, **params}
    return CLIDMUClassifier(random_state=0, **params)


@pytest.fixture(scope="module")
def fitted():
    return small().fit(X, y)


def direct_clid(clf, rows):
    logits, features = clf.net_.evaluate(torch.as_tensor(rows))
    return float(clid_loss(features.double(), logits.double(), 0.5)) - np.log(len(rows))


class Constant(nn.Module):
    """A network that predicts the same for every row."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = nn.Linear(n_features, n_classes)

    def forward(self, rows):
        return 0 * self.layer(rows) + self.layer.bias, rows


# CLID


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_clid_score_is_log_n_minus_clid_at_one_temperature(temperature):
    clf = small(temperature=temperature).fit(X, y)
    assert clid_score(clf, X) == pytest.approx(-direct_clid(clf, X), abs=1e-6)
    assert clid_score(clf, X) > 0
    assert clid_score(clf, X, y) == clid_score(clf, X, y[::-1]) == clid_score(clf, X)


def test_clid_score_of_a_pipeline_scores_the_last_step_on_transformed_rows():
    pipe = make_pipeline(StandardScaler(), FunctionTransformer(np.tanh), small()).fit(9 * X, y)
    rows = np.tanh(StandardScaler().fit_transform(9 * X))
    assert clid_score(pipe, 9 * X) == clid_score(pipe[-1], rows)
    nested = make_pipeline(StandardScaler(), make_pipeline(FunctionTransformer(np.tanh), small()))
    assert clid_score(nested.fit(9 * X, y), 9 * X) == clid_score(pipe, 9 * X)
    assert clid_score(make_pipeline(pipe[-1]), rows) == clid_score(pipe[-1], rows)


def test_clid_score_compares_samples_of_any_order_and_size(fitted):
    rows, _, _ = make_rows(3 * CLID_ROWS, n_classes=3, seed=1)
    few = rows[:CLID_ROWS]
    assert clid_score(fitted, few[::-1]) == pytest.approx(clid_score(fitted, few), abs=1e-6)
    drawn = np.random.RandomState(0).choice(len(rows), CLID_ROWS, replace=False)
    assert clid_score(fitted, rows) == pytest.approx(-direct_clid(fitted, rows[drawn]), abs=1e-6)
    assert clid_score(fitted, rows[:150]) == pytest.approx(clid_score(fitted, rows), abs=0.05)
    assert clid_score(fitted, X[:1]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("output", ["one class", "nan", "inf"])
def test_clid_score_of_a_collapsed_output_is_the_worst(output):
    clf = small(module=Constant, weighting=None, max_epochs=1).fit(X, y)
    bias = {"one class": [0.0, 5.0, 0.0], "nan": [0.0, np.nan, 0.0], "inf": [0.0, np.inf, 0.0]}
    with torch.no_grad():
        clf.net_.module_.module.layer.bias.copy_(torch.as_tensor(bias[output]))
    assert clid_score(clf, X) == WORST_CLID_SCORE == -2


def test_clid_score_of_a_training_that_collapsed_or_diverged_is_the_worst(fitted):
    def scored(collapse_epoch=None, predicts=True, outcome="finished"):
        clf = pickle.loads(pickle.dumps(fitted))
        clf.collapse_epoch_ = collapse_epoch
        clf.stages_ = [*clf.stages_, {"predicts": predicts, "outcome": outcome}]
        return clid_score(clf, X)

    assert scored(collapse_epoch=2) == WORST_CLID_SCORE
    assert scored(outcome="diverged") == WORST_CLID_SCORE
    assert scored(outcome="diverged", predicts=False) == scored() > 0


def test_clid_score_has_a_lower_bound():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(30, 3, dtype=torch.float64, generator=generator)
        logits = 50 * torch.randn(30, 3, dtype=torch.float64, generator=generator)
        assert np.log(30) - float(clid_loss(features, logits, 0.5)) > WORST_CLID_SCORE


@pytest.mark.parametrize("wrap", [lambda clf: clf, make_pipeline], ids=["alone", "pipeline"])
def test_clid_score_refuses_other_classifiers_with_advice(wrap):
    with pytest.raises(TypeError, match=r"clid_score needs a CLIDMUClassifier.*noisy_label_scorer"):
        clid_score(wrap(LogisticRegression()).fit(X, y), X)


# Labels that may be wrong


class Predicts(ClassifierMixin, BaseEstimator):
    """Predicts given probabilities, whatever the rows."""

    def __init__(self, probabilities):
        self.probabilities = probabilities
        self.classes_ = np.arange(3)

    def predict_proba(self, X):
        return self.probabilities


def proportions(rows, labels):
    generator = torch.Generator().manual_seed(0)
    targets, weight = torch.from_numpy(labels), torch.ones(len(rows), dtype=torch.float64)
    rows = torch.from_numpy(rows)
    scaler = RobustScaler.fit(rows, weight, generator)
    return loo_proba(rows, targets, 3, weight, generator, scale=scaler).numpy()


def log_likelihood(decisions, labels):
    args = torch.from_numpy(decisions), torch.from_numpy(labels)
    return np.log(fit_transition_matrix(*args, 3, 3).numpy()[decisions, labels]).mean()


def test_noisy_label_scorer_sums_likelihood_probability_and_agreement(fitted):
    p = fitted.predict_proba(X)
    agreement = (proportions(X, y) * p).sum(axis=1).mean()
    probability = p[np.arange(len(y)), y].mean()
    likelihood = log_likelihood(p.argmax(axis=1), y)
    expected = likelihood + (agreement + probability) / 2
    assert noisy_label_scorer(fitted, X, y) == pytest.approx(expected, abs=1e-12)


def test_noisy_label_scorer_of_the_true_classes_follows_from_the_noise_rate():
    rows, noisy, wrong = make_rows(3000, n_classes=3, noise=0.4)
    true, rate = np.arange(3000) % 3, wrong.mean()
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    agreement = proportions(rows, noisy)[np.arange(len(true)), true].mean()
    score = noisy_label_scorer(Predicts(np.eye(3)[true]), rows, noisy)
    assert score == pytest.approx(-entropy + (agreement + 1 - rate) / 2, abs=0.02)


def test_noisy_label_scorer_ranks_the_truth_first():
    rows, noisy, _ = make_rows(600, n_classes=3, noise=0.4)
    true = np.arange(600) % 3
    right = 0.97 * np.eye(3)[true] + 0.01
    merged = right[:, [0, 1, 1]] / right[:, [0, 1, 1]].sum(axis=1, keepdims=True)
    blank = np.full_like(right, 1 / 3)
    assert log_loss(noisy, right) > log_loss(noisy, blank)  # log loss prefers the blank one
    half_wrong = np.eye(3)[np.where(np.arange(len(true)) % 2 == 0, true, (true + 1) % 3)]
    candidates = (right, merged, blank, half_wrong, np.eye(3)[true])
    scores = [noisy_label_scorer(Predicts(p), rows, noisy) for p in candidates]
    assert scores[0] > scores[1] + 0.1
    assert scores[1] > scores[2] + 0.1
    assert scores[4] > scores[3] + 0.3


def test_noisy_label_scorer_does_not_depend_on_the_units_of_the_features():
    rows, noisy, _ = make_rows(300, n_classes=3, noise=0.2)
    clf = Predicts(np.eye(3)[np.arange(300) % 3])
    scaled = 100 + rows * np.geomspace(1e-3, 1e5, rows.shape[1])
    score = noisy_label_scorer(clf, rows, noisy)
    assert noisy_label_scorer(clf, scaled, noisy) == pytest.approx(score, abs=1e-5)


def test_noisy_label_scorer_ignores_order_and_names(fitted):
    score = noisy_label_scorer(fitted, X, y)
    assert noisy_label_scorer(fitted, X[::-1], y[::-1]) == pytest.approx(score, abs=1e-6)
    assert noisy_label_scorer(fitted, X, y) == score
    pipes = [make_pipeline(StandardScaler(), LogisticRegression()) for _ in range(2)]
    by_name, by_number = (
        noisy_label_scorer(pipe.fit(X, labels), X, labels)
        for pipe, labels in zip(pipes, (NAMES[y], y), strict=True)
    )
    assert by_name == by_number


@pytest.mark.parametrize("names", [np.arange(3), NAMES], ids=["numbers", "strings"])
@pytest.mark.parametrize("missing", [-1, None, np.nan], ids=str)
def test_noisy_label_scorer_leaves_out_unlabeled_rows(missing, names):
    clf = LogisticRegression().fit(X, names[y])
    clf.missing_label = missing
    unlabeled = np.arange(len(y)) % 4 == 0
    expected = noisy_label_scorer(clf, X[~unlabeled], names[y[~unlabeled]])
    labels = names[y].astype(object)
    labels[unlabeled] = missing
    if names is not NAMES:
        labels = np.array(labels.tolist(), dtype=float)
    assert noisy_label_scorer(make_pipeline(clf), X, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("form", [np.asarray, wide])
def test_noisy_label_scorer_leaves_rows_without_a_label_out_of_gaps_and_singular_vectors(form):
    rows, noisy, _ = make_rows(90, n_classes=3, noise=0.2)
    labels, given = noisy.astype(float), np.arange(90) % 3 > 0
    labels[~given], rows[~given] = np.nan, 1e6
    if form is np.asarray:
        rows[::5, 0] = np.nan
    proba = np.eye(3)[np.arange(90) % 3]
    score = noisy_label_scorer(Predicts(proba), form(rows), labels)
    expected = noisy_label_scorer(Predicts(proba[given]), form(rows[given]), labels[given])
    assert score == pytest.approx(expected, abs=1e-12)


def test_noisy_label_scorer_is_finite_for_one_row_and_for_new_labels(fitted):
    assert np.isfinite(noisy_label_scorer(fitted, X[:1], y[:1]))
    score = noisy_label_scorer(fitted, X, np.where(np.arange(len(y)) < 3, 7, y))
    assert np.isfinite(score)
    assert score < noisy_label_scorer(fitted, X, y)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_noisy_label_scorer_takes_a_missing_value_for_the_mean(form):
    clf = DummyClassifier(strategy="prior").fit(X, y)
    rows = X.copy()
    rows[::3, 1] = np.nan
    rows[:, 2] = np.nan
    filled = rows.copy()
    filled[::3, 1] = np.nanmean(rows[:, 1])
    filled[:, 2] = 0
    expected = noisy_label_scorer(clf, filled, y)
    assert noisy_label_scorer(clf, form(rows), y) == pytest.approx(expected, abs=1e-12)


def test_noisy_label_scorer_refuses_missing_values_in_rows_that_are_no_vectors():
    clf, images = DummyClassifier().fit(X, y), X[:, :, None].copy()
    images[0, 0] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        noisy_label_scorer(clf, images, y)


def test_noisy_label_scorer_names_the_invalid_argument(fitted):
    with pytest.raises(TypeError, match="with predict_proba, got LinearSVC"):
        noisy_label_scorer(LinearSVC().fit(X, y), X, y)
    with pytest.raises(ValueError, match="every y is missing"):
        noisy_label_scorer(fitted, X, np.full(len(y), np.nan))
    calibrated = CalibratedClassifierCV(LinearSVC(), cv=2).fit(X, y)
    for clf in (fitted, calibrated):
        for labels in (y[1:], y[:3]):
            with pytest.raises(ValueError, match=rf"X has 60, y has {len(labels)}\."):
                noisy_label_scorer(clf, X, labels)


# In scikit-learn's tools


def test_scorers_choose_in_a_grid_search_of_two_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    grid = {"clidmuclassifier__lr": [1e-5, 0.2]}
    pipe = make_pipeline(StandardScaler(), small())
    settings = {"cv": 2, "n_jobs": 2, "error_score": "raise"}
    search = GridSearchCV(pipe, grid, scoring=BOTH, refit="noisy", **settings).fit(X, NAMES[y])
    assert search.best_params_ == {"clidmuclassifier__lr": 0.2}
    assert search.cv_results_["rank_test_clid"][1] == 1
    expected = noisy_label_scorer(search.best_estimator_, X, NAMES[y])
    assert search.score(X, NAMES[y]) == expected


@pytest.mark.parametrize("scorer", BOTH.values(), ids=BOTH)
def test_scorers_choose_alone_in_a_grid_search(scorer):
    search = GridSearchCV(small(), {"lr": [1e-5, 0.2]}, cv=2, scoring=scorer, error_score="raise")
    assert search.fit(X, y).best_params_ == {"lr": 0.2}
    assert search.score(X, y) == scorer(search.best_estimator_, X, y)


def test_scorers_are_finite_in_cross_validation_and_for_collapsed_networks():
    found = cross_validate(small(), X, NAMES[y], cv=3, scoring=BOTH, error_score="raise")
    assert np.isfinite(found["test_noisy"]).all()
    assert found["test_clid"].min() > WORST_CLID_SCORE
    grid = {"module": [Constant, None]}
    search = GridSearchCV(small(), grid, cv=2, scoring=BOTH, refit="clid", error_score="raise")
    assert search.fit(X, y).best_params_ == {"module": None}
    assert search.cv_results_["mean_test_clid"][0] == WORST_CLID_SCORE
    assert np.isfinite(search.cv_results_["mean_test_noisy"]).all()


@pytest.mark.parametrize("scorer", BOTH.values(), ids=BOTH)
def test_scorers_pickle_and_refuse_unfitted_classifiers_and_other_features(scorer, fitted):
    assert pickle.loads(pickle.dumps(scorer)) is scorer
    with pytest.raises(NotFittedError):
        scorer(small(), X, y)
    with pytest.raises(ValueError, match="features"):
        scorer(fitted, X[:, :2], y)


# Transition matrix


def test_fit_transition_matrix_counts_decisions_and_two_assumed_rows_of_each_class():
    decisions, targets = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 1, 3])
    found = fit_transition_matrix(decisions, targets, 2, 4)
    # One assumed row has the class as its label, and one a quarter of each label.
    expected = torch.tensor([[3.25, 1.25, 0.25, 0.25], [0.25, 3.25, 0.25, 1.25]]) / 5
    torch.testing.assert_close(found, expected.double())
