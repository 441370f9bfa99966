"""Scorers that choose a model when no label can be relied on."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from sklearn_clidmu import CLIDMUClassifier, clid_loss, clid_score, noisy_label_scorer
from sklearn_clidmu.estimator.selection import CLID_ROWS, WORST_CLID_SCORE
from sklearn_clidmu.mathematics.leave_one_out import leave_one_out_shares
from sklearn_clidmu.mathematics.noise_channel import fit_noise_channel

from .data import SMALL, make_rows

X, y, _ = make_rows(60, n_classes=3)
NAMES = np.array(["ant", "bee", "cat"])


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "max_epochs": 10, "lr": 0.2, **params})


@pytest.fixture(scope="module")
def fitted():
    return small().fit(X, y)


def direct_clid(clf, rows, temperature=0.5):
    logits, features = clf.net_.evaluate(torch.as_tensor(rows))
    value = clid_loss(features.double(), logits.double(), temperature)
    return float(value) - np.log(len(rows))


class Answers(nn.Module):
    """A network whose every output is set by the test, through the last layer's bias."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.body = nn.Linear(n_features, 5)
        self.head = nn.Linear(5, n_classes)

    def forward(self, rows):
        return self.head(self.body(rows).relu())


class Constant(nn.Module):
    """A network that predicts the same of every row."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = nn.Linear(n_features, n_classes)

    def forward(self, rows):
        return 0 * self.layer(rows) + self.layer.bias, rows


def with_head(weight, bias):
    """A fitted classifier whose last layer was overwritten."""
    clf = small(module=Answers, ema_decay=None, max_epochs=2).fit(X, y)
    with torch.no_grad():
        head = [layer for layer in clf.net_.module_.modules() if isinstance(layer, nn.Linear)][-1]
        head.weight.mul_(weight)
        head.bias.copy_(torch.as_tensor(bias))
    return clf


# CLID


def test_clid_score_is_the_negative_of_clid_less_log_n(fitted):
    assert clid_score(fitted, X) == pytest.approx(-direct_clid(fitted, X), abs=1e-6)
    assert clid_score(fitted, X) > 0


def test_clid_score_reads_no_label(fitted):
    assert clid_score(fitted, X, y) == clid_score(fitted, X, y[::-1]) == clid_score(fitted, X)


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_clid_score_is_measured_at_one_temperature_whatever_the_candidates_own(temperature):
    clf = small(temperature=temperature).fit(X, y)
    assert clid_score(clf, X) == pytest.approx(-direct_clid(clf, X), abs=1e-6)


def test_clid_score_of_a_pipeline_is_that_of_its_last_step_on_transformed_rows():
    pipe = make_pipeline(StandardScaler(), FunctionTransformer(np.tanh), small()).fit(9 * X, y)
    rows = np.tanh(StandardScaler().fit_transform(9 * X))
    assert clid_score(pipe, 9 * X) == clid_score(pipe[-1], rows)
    nested = make_pipeline(StandardScaler(), make_pipeline(FunctionTransformer(np.tanh), small()))
    assert clid_score(nested.fit(9 * X, y), 9 * X) == clid_score(pipe, 9 * X)
    alone = make_pipeline(small()).fit(X, y)
    assert clid_score(alone, X) == clid_score(alone[-1], X)


def test_clid_score_does_not_depend_on_the_order_of_up_to_as_many_rows_as_it_takes(fitted):
    rows, _, _ = make_rows(CLID_ROWS, n_classes=3, seed=1)
    assert clid_score(fitted, rows[::-1]) == pytest.approx(clid_score(fitted, rows), abs=1e-6)


def test_clid_score_of_more_rows_takes_a_fixed_part_of_them(fitted):
    rows, _, _ = make_rows(3 * CLID_ROWS, n_classes=3, seed=1)
    drawn = np.random.RandomState(0).choice(len(rows), CLID_ROWS, replace=False)
    assert clid_score(fitted, rows) == pytest.approx(-direct_clid(fitted, rows[drawn]), abs=1e-6)
    assert clid_score(fitted, rows) == clid_score(fitted, rows)


def test_clid_scores_of_folds_of_different_size_are_comparable(fitted):
    rows, _, _ = make_rows(1500, n_classes=3, seed=1)
    whole = clid_score(fitted, rows)
    assert clid_score(fitted, rows[:150]) == pytest.approx(whole, abs=0.05)
    assert abs(direct_clid(fitted, rows) - np.log(10) - direct_clid(fitted, rows[:150])) > 2


def test_a_network_that_predicts_one_class_alone_scores_worst():
    clf = with_head(0.01, [0.0, 5.0, 0.0])
    assert len(set(clf.predict(X))) == 1
    assert clid_score(clf, X) == WORST_CLID_SCORE == -2


def test_a_network_whose_output_is_not_finite_scores_worst():
    assert clid_score(with_head(1.0, [0.0, np.nan, 0.0]), X) == WORST_CLID_SCORE
    assert clid_score(with_head(1.0, [0.0, np.inf, 0.0]), X) == WORST_CLID_SCORE


def test_a_network_that_collapsed_or_diverged_in_training_scores_worst(fitted):
    collapsed = pickle.loads(pickle.dumps(fitted))
    collapsed.collapse_epoch_ = 2
    assert clid_score(collapsed, X) == WORST_CLID_SCORE
    diverged = pickle.loads(pickle.dumps(fitted))
    diverged.net_.diverged_ = True
    assert clid_score(diverged, X) == WORST_CLID_SCORE


def test_no_clid_score_is_below_the_worst():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(30, 3, dtype=torch.float64, generator=generator)
        logits = 50 * torch.randn(30, 3, dtype=torch.float64, generator=generator)
        assert np.log(30) - float(clid_loss(features, logits, 0.5)) > WORST_CLID_SCORE


def test_one_row_has_a_clid_score(fitted):
    assert clid_score(fitted, X[:1]) == pytest.approx(0, abs=1e-6)


# Labels that may be wrong


class Told(ClassifierMixin, BaseEstimator):
    """Predicts what the test says, and looks at no row."""

    def __init__(self, probabilities, classes=(0, 1, 2)):
        self.probabilities = probabilities
        self.classes_ = np.asarray(classes)

    def predict_proba(self, X):
        return self.probabilities


def blobs(n_samples=600, rate=0.4, seed=0):
    """Rows of three classes, true labels, and labels of which two in five name the next class."""
    rng = np.random.RandomState(seed)
    true = np.arange(n_samples) % 3
    rows = rng.normal(size=(n_samples, 4)) + 3 * np.eye(3, 4)[true]
    return rows, true, np.where(rng.uniform(size=n_samples) < rate, (true + 1) % 3, true)


def shares_around(rows, labels):
    generator = torch.Generator().manual_seed(0)
    targets, weight = torch.from_numpy(labels), torch.ones(len(rows), dtype=torch.float64)
    return leave_one_out_shares(torch.from_numpy(rows), targets, 3, weight, generator).numpy()


def log_likelihood(p, labels):
    channel = fit_noise_channel(torch.from_numpy(p), torch.from_numpy(labels), 3).numpy()
    return np.log((p @ channel)[np.arange(len(labels)), labels]).mean()


def test_the_noisy_label_score_adds_up_a_likelihood_and_two_shares(fitted):
    p = fitted.predict_proba(X)
    around = (shares_around(X, y) * p).sum(axis=1).mean()
    given = p[np.arange(len(y)), y].mean()
    expected = log_likelihood(np.eye(3)[p.argmax(axis=1)], y) + (around + given) / 2
    assert noisy_label_scorer(fitted, X, y) == pytest.approx(expected, abs=1e-12)


def test_the_noisy_label_score_of_the_truth_follows_from_the_noise():
    rows, true, noisy = blobs(n_samples=3000)
    share = (true != noisy).mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    around = shares_around(rows, noisy)[np.arange(len(true)), true].mean()
    score = noisy_label_scorer(Told(np.eye(3)[true]), rows, noisy)
    assert score == pytest.approx(-entropy + (around + 1 - share) / 2, abs=0.02)


def test_classes_told_apart_count_and_sureness_of_wrong_labels_costs_nothing():
    rows, true, noisy = blobs()
    right = 0.97 * np.eye(3)[true] + 0.01
    merged = right[:, [0, 1, 1]] / right[:, [0, 1, 1]].sum(axis=1, keepdims=True)
    blank = np.full_like(right, 1 / 3)
    assert log_loss(noisy, right) > log_loss(noisy, blank)  # misled by sureness
    scores = [noisy_label_scorer(Told(p), rows, noisy) for p in (right, merged, blank)]
    assert scores[0] > scores[1] + 0.1
    assert scores[1] > scores[2] + 0.1


def test_following_wrong_labels_that_were_held_out_does_not_pay():
    rows, true, noisy = blobs()
    follower = np.where(np.arange(len(true)) % 2 == 0, true, (true + 1) % 3)
    scores = [noisy_label_scorer(Told(np.eye(3)[told]), rows, noisy) for told in (true, follower)]
    assert scores[0] > scores[1] + 0.3


def test_the_noisy_label_score_does_not_depend_on_the_order_of_rows(fitted):
    score = noisy_label_scorer(fitted, X, y)
    turned = noisy_label_scorer(fitted, X[::-1], y[::-1])
    assert turned == pytest.approx(score, abs=1e-6)
    assert noisy_label_scorer(fitted, X, y) == score


def test_rows_without_a_label_are_left_out(fitted):
    missing = np.arange(len(y)) % 4 == 0
    expected = noisy_label_scorer(fitted, X[~missing], y[~missing])
    holes = np.where(missing, np.nan, y)
    assert noisy_label_scorer(fitted, X, holes) == pytest.approx(expected, abs=1e-12)
    marked = make_pipeline(fitted)
    fitted.missing_label = -1
    try:
        found = noisy_label_scorer(marked, X, np.where(missing, -1, y))
    finally:
        del fitted.missing_label
    assert found == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="every y is missing"):
        noisy_label_scorer(fitted, X, np.full(len(y), np.nan))


@pytest.mark.parametrize("mark", [-1, None, np.nan], ids=str)
def test_names_may_be_missing_whatever_marks_it(mark):
    clf = LogisticRegression().fit(X, NAMES[y])
    clf.missing_label = mark
    missing = np.arange(len(y)) % 4 == 0
    expected = noisy_label_scorer(clf, X[~missing], NAMES[y[~missing]])
    holes = NAMES[y].astype(object)
    holes[missing] = mark
    assert noisy_label_scorer(clf, X, holes) == pytest.approx(expected, abs=1e-12)
    assert noisy_label_scorer(clf, X[~missing], NAMES[y[~missing]]) == expected


def test_one_row_has_a_noisy_label_score(fitted):
    assert np.isfinite(noisy_label_scorer(fitted, X[:1], y[:1]))


def test_a_label_that_training_never_had_is_scored_like_any_other(fitted):
    found = noisy_label_scorer(fitted, X, np.where(np.arange(len(y)) < 3, 7, y))
    assert np.isfinite(found)
    assert found < noisy_label_scorer(fitted, X, y)


def test_any_classifier_with_probabilities_has_a_noisy_label_score():
    logistic = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, NAMES[y])
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    assert noisy_label_scorer(logistic, X, NAMES[y]) == noisy_label_scorer(plain, X, y)


# Both, in scikit-learn's tools


BOTH = {"clid": clid_score, "noisy": noisy_label_scorer}


def test_a_grid_search_in_two_processes_takes_both_scorers_and_refits():
    grid = {"clidmuclassifier__lr": [1e-5, 0.2]}
    pipe = make_pipeline(StandardScaler(), small())
    settings = {"cv": 2, "n_jobs": 2, "error_score": "raise"}
    search = GridSearchCV(pipe, grid, scoring=BOTH, refit="noisy", **settings).fit(X, NAMES[y])
    assert search.best_params_ == {"clidmuclassifier__lr": 0.2}
    assert search.cv_results_["rank_test_clid"][1] == 1
    held = noisy_label_scorer(search.best_estimator_, X, NAMES[y])
    assert search.score(X, NAMES[y]) == held


@pytest.mark.parametrize("scorer", BOTH.values(), ids=BOTH)
def test_a_grid_search_by_one_scorer_refits_the_best(scorer):
    search = GridSearchCV(small(), {"lr": [1e-5, 0.2]}, cv=2, scoring=scorer, error_score="raise")
    assert search.fit(X, y).best_params_ == {"lr": 0.2}
    assert search.score(X, y) == scorer(search.best_estimator_, X, y)


def test_cross_validation_takes_both_scorers_at_once():
    found = cross_validate(small(), X, NAMES[y], cv=3, scoring=BOTH, error_score="raise")
    for name in BOTH:
        scores = found[f"test_{name}"]
        assert scores.shape == (3,)
        assert np.isfinite(scores).all()
    assert found["test_clid"].min() > WORST_CLID_SCORE


def test_a_search_over_networks_that_collapse_has_finite_scores():
    grid = {"module": [Constant, None]}
    search = GridSearchCV(small(), grid, cv=2, scoring=BOTH, refit="clid", error_score="raise")
    search.fit(X, y)
    assert search.best_params_ == {"module": None}
    assert search.cv_results_["mean_test_clid"][0] == WORST_CLID_SCORE
    assert np.isfinite(search.cv_results_["mean_test_noisy"]).all()


def test_both_scorers_pickle():
    for scorer in BOTH.values():
        assert pickle.loads(pickle.dumps(scorer)) is scorer


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())],
    ids=["alone", "in a pipeline"],
)
def test_clid_score_of_another_classifier_is_an_error_that_says_what_to_do(estimator):
    with pytest.raises(TypeError, match=r"clid_score needs a CLIDMUClassifier.*noisy_label_scorer"):
        clid_score(clone(estimator).fit(X, y), X)


def test_the_noisy_label_score_of_a_classifier_without_probabilities_is_an_error():
    with pytest.raises(TypeError, match=r"with predict_proba, got LinearSVC"):
        noisy_label_scorer(LinearSVC().fit(X, y), X, y)


def test_a_classifier_that_is_not_fitted_has_no_score():
    for scorer in BOTH.values():
        with pytest.raises(NotFittedError):
            scorer(small(), X, y)


def test_rows_with_a_wrong_number_of_features_are_an_error(fitted):
    for scorer in BOTH.values():
        with pytest.raises(ValueError, match="features"):
            scorer(fitted, X[:, :2], y)
