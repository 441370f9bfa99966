"""Noise scores by classifiers that were not trained on a row's label."""

import joblib
import numpy as np
import pandas as pd
import pytest
from classifier.data import make_rows, small
from cleanlab.rank import get_label_quality_scores
from dask.distributed import Client, LocalCluster, get_worker
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from sklearn_clidmu import cross_val_noise_scores

NAMES = np.array(["ant", "bee", "cat"])
X, y, WRONG = make_rows(60, n_classes=3)


@pytest.mark.parametrize("cv", [3, KFold(4, shuffle=True, random_state=0)])
@pytest.mark.parametrize("model", [GaussianNB(), make_pipeline(StandardScaler(), GaussianNB())])
def test_cross_val_noise_scores_agree_with_cross_val_predict_and_cleanlab(model, cv):
    proba = cross_val_predict(model, X, y, cv=cv, method="predict_proba")
    scores, suggested = cross_val_noise_scores(model, X, y, cv=cv, return_suggested=True)
    np.testing.assert_allclose(scores, 1 - proba[np.arange(len(y)), y], atol=1e-12)
    quality = get_label_quality_scores(y, proba, method="self_confidence")
    np.testing.assert_allclose(scores, 1 - quality, atol=1e-12)
    np.testing.assert_array_equal(suggested, proba.argmax(axis=1))


def test_cross_val_noise_scores_do_not_depend_on_names_frames_or_the_form_of_splits():
    expected, codes = cross_val_noise_scores(GaussianNB(), X, y, return_suggested=True)
    by_name, names = cross_val_noise_scores(GaussianNB(), X, NAMES[y], return_suggested=True)
    np.testing.assert_allclose(by_name, expected, atol=1e-12)
    np.testing.assert_array_equal(names, NAMES[codes])
    index = np.arange(len(X))[::-1]
    frame = pd.DataFrame(X, index=index).rename(columns=str)
    by_frame = cross_val_noise_scores(GaussianNB(), frame, pd.Series(NAMES[y], index=index))
    np.testing.assert_array_equal(by_frame, by_name)
    splits = list(KFold(3).split(X))
    np.testing.assert_array_equal(
        cross_val_noise_scores(GaussianNB(), X, y, cv=iter(splits)),
        cross_val_noise_scores(GaussianNB(), X, y, cv=KFold(3)),
    )


def test_cross_val_noise_scores_of_the_classifier_find_wrong_labels():
    rows, given, wrong = make_rows(240, n_classes=3, noise=0.3, distance=12)
    scores = cross_val_noise_scores(small(max_epochs=8, n_folds=None), rows, NAMES[given], cv=2)
    assert scores[wrong].min() > scores[~wrong].max()


def test_cross_val_noise_scores_cut_fit_parameters_to_each_fold():
    weight = np.linspace(0.1, 5, len(X))
    scores = cross_val_noise_scores(
        GaussianNB(), X, y, cv=KFold(2), params={"sample_weight": weight}
    )
    half = GaussianNB().fit(X[30:], y[30:], weight[30:])
    expected = 1 - half.predict_proba(X[:30])[np.arange(30), y[:30]]
    np.testing.assert_allclose(scores[:30], expected, atol=1e-12)


def test_cross_val_noise_scores_are_one_for_a_class_that_a_fold_lacks():
    labels = np.where(np.arange(60) < 5, 7, y)  # all of class 7 are in the first of three folds
    scores, suggested = cross_val_noise_scores(
        GaussianNB(), X, labels, cv=KFold(3), return_suggested=True
    )
    np.testing.assert_array_equal(scores[:5], 1)
    assert 7 not in suggested[:20]
    assert (scores[5:] < 1).all()


class SkipsUnlabeled(ClassifierMixin, BaseEstimator):
    """Trains on the rows with a label and counts the others."""

    n_unlabeled = 0

    def __init__(self, missing):
        self.missing = missing

    def fit(self, X, y):
        known = ~np.isin(np.array(y, dtype=str), [str(self.missing), "None"])
        SkipsUnlabeled.n_unlabeled += np.count_nonzero(~known)
        self.model_ = GaussianNB().fit(X[known], np.array(y[known].tolist()))
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(X)


@pytest.mark.parametrize(
    ("labels", "missing"),
    [
        (y, -1),
        (NAMES[y], ""),
        (y.astype(float), np.nan),
        (NAMES[y].astype(object), np.nan),
        (y.astype(object), np.nan),
    ],
    ids=["-1", "empty", "nan", "nan or None among strings", "nan or None among numbers"],
)
def test_cross_val_noise_scores_pass_unlabeled_rows_to_fit(labels, missing, monkeypatch):
    monkeypatch.setattr(SkipsUnlabeled, "n_unlabeled", 0)
    labels = labels.copy()
    unlabeled = np.arange(len(labels)) % 6 == 0
    labels[unlabeled] = missing
    if labels.dtype == object:
        labels[0] = None
    scores, suggested = cross_val_noise_scores(
        SkipsUnlabeled(missing), X, labels, cv=2, missing_label=missing, return_suggested=True
    )
    np.testing.assert_array_equal(np.isnan(scores), unlabeled)
    assert SkipsUnlabeled.n_unlabeled == unlabeled.sum()  # each is in one of two training parts
    known = np.array(labels[~unlabeled].tolist())
    np.testing.assert_array_equal(np.unique(suggested), np.unique(known))
    assert len(suggested) == len(labels)
    assert (scores[~unlabeled & ~WRONG] < 0.5).mean() > 0.9


@pytest.mark.parametrize(
    "wrap",
    [
        lambda clf: clf,
        lambda clf: make_pipeline(StandardScaler(), clf),
        lambda clf: make_pipeline(StandardScaler(), GridSearchCV(clf, {"dropout": [0]}, cv=2)),
    ],
)
def test_cross_val_noise_scores_read_the_missing_label_of_the_estimator(wrap):
    rng = np.random.RandomState(0)
    X, labels = rng.normal(size=(60, 3)), np.arange(60) % 3 - 1
    scores = cross_val_noise_scores(wrap(small(missing_label=-1)), X, labels, cv=2)
    np.testing.assert_array_equal(np.isnan(scores), labels == -1)


def test_cross_val_noise_scores_leave_out_the_missing_label_as_a_class():
    labels = np.where(np.arange(60) % 6 == 0, -1, y)
    scores, suggested = cross_val_noise_scores(
        GaussianNB(), X, labels, missing_label=-1, return_suggested=True
    )
    np.testing.assert_array_equal(np.isnan(scores), labels == -1)
    np.testing.assert_array_equal(np.unique(suggested), [0, 1, 2])


def test_cross_val_noise_scores_take_masks_for_folds():
    first = np.arange(60) < 30
    masks, rows = [(first, ~first), (~first, first)], np.arange(60)
    positions = [(rows[train], rows[test]) for train, test in masks]
    scores = [cross_val_noise_scores(GaussianNB(), X, y, cv=cv) for cv in (masks, positions)]
    np.testing.assert_array_equal(*scores)


def test_cross_val_noise_scores_show_the_splitter_the_labels():
    class Halves(StratifiedKFold):
        def split(self, X, y, groups=None):
            assert set(y) == {"a", "b", "c"}
            return super().split(X, y, groups)

    names = np.array(["a", "b", "c"])[y]
    scores = cross_val_noise_scores(GaussianNB(), X, names, cv=Halves(2))
    np.testing.assert_array_equal(scores, cross_val_noise_scores(GaussianNB(), X, y, cv=2))


class ListOfClasses(GaussianNB):
    """Names its classes in a list."""

    def fit(self, X, y):
        super().fit(X, y)
        self.classes_ = list(self.classes_)
        return self

    def predict_proba(self, X):
        listed, self.classes_ = self.classes_, np.array(self.classes_)
        proba = super().predict_proba(X)
        self.classes_ = listed
        return proba


def test_cross_val_noise_scores_take_a_list_of_classes():
    expected = cross_val_noise_scores(GaussianNB(), X, y)
    np.testing.assert_array_equal(cross_val_noise_scores(ListOfClasses(), X, y), expected)


class OnWorkers(GaussianNB):
    """Fits on a Dask worker, and nowhere else."""

    def fit(self, X, y, sample_weight=None):
        get_worker()  # raises outside of a worker
        return super().fit(X, y, sample_weight)


def test_cross_val_noise_scores_run_on_a_dask_cluster():
    with pytest.raises(ValueError, match="worker"):
        cross_val_noise_scores(OnWorkers(), X, y, cv=3)
    cluster = LocalCluster(  # joblib ignores a cluster with a single slot
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    )
    with cluster, Client(cluster), joblib.parallel_backend("dask"):
        scores = cross_val_noise_scores(OnWorkers(), X, y, cv=3)
    np.testing.assert_array_equal(scores, cross_val_noise_scores(GaussianNB(), X, y, cv=3))


TWICE = RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)
HALF = [(np.arange(30), np.arange(30, 60))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cv": TWICE}, "cv must test every row exactly once, but tests row 0 2 times"),
        ({"cv": HALF}, "cv must test every row exactly once, but tests row 0 0 times"),
        ({"estimator": None}, "'estimator' parameter.*'fit' and 'predict_proba'. Got None"),
        ({"estimator": LinearSVC()}, r"'estimator' parameter.*Got LinearSVC\(\)"),
        ({"params": [1]}, "'params' parameter.*'dict' or None"),
        ({"missing_label": [-1]}, "'missing_label' parameter"),
        ({"y": y[1:]}, "inconsistent numbers of samples"),
        ({"y": np.full(60, -1), "missing_label": -1}, "y must have labels, got none, and 60 rows"),
    ],
)
def test_cross_val_noise_scores_name_the_invalid_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        cross_val_noise_scores(**{"estimator": GaussianNB(), "X": X, "y": y, **arguments})
