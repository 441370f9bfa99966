"""Between other people's estimators and tables."""

import datetime
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import torch
from cleanlab.classification import CleanLearning
from imblearn.pipeline import make_pipeline as make_resampling_pipeline
from imblearn.under_sampling import RandomUnderSampler
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from classifier.data import SMALL, make_rows, wide
from sklearn_clidmu import (
    CLIDMUClassifier,
    clid_score,
    cross_val_noise_scores,
    find_label_issues,
    noisy_label_scorer,
)

pytestmark = pytest.mark.usefixtures("few_steps", "coarse_kernel")

X, y, _ = make_rows(120)


def small(**params):
    return CLIDMUClassifier(n_folds=None, **{**SMALL, **params})


class Half(BaseEstimator):
    """A resampler in the manner of imbalanced-learn: it keeps half of the training rows."""

    def fit_resample(self, X, y):
        return X[::2], y[::2]


class ResamplingPipeline(Pipeline):
    """A pipeline in the manner of imbalanced-learn, whose resamplers work in fit alone."""

    def fit(self, X, y):
        for _, step in self.steps[:-1]:
            if hasattr(step, "fit_resample"):
                X, y = step.fit_resample(X, y)
            else:
                X = step.fit_transform(X, y)
        self.steps[-1][1].fit(X, y)
        return self

    def predict_proba(self, X):
        return self.steps[-1][1].predict_proba(self.steps[0][1].transform(X))

    @property
    def classes_(self):
        return self.steps[-1][1].classes_


def resampling(last):
    return ResamplingPipeline([("scale", StandardScaler()), ("half", Half()), ("last", last)])


@pytest.mark.parametrize("last", [small(), LogisticRegression()], ids=["own", "other"])
def test_scorers_pass_all_rows_by_a_resampler(last):
    pipe = resampling(clone(last)).fit(X, y)
    scaled = pipe.steps[0][1].transform(X)
    scorers = [noisy_label_scorer, clid_score] if isinstance(last, CLIDMUClassifier) else []
    for scorer in [noisy_label_scorer, *scorers]:
        assert scorer(pipe, X, y) == scorer(pipe.steps[-1][1], scaled, y)
    assert cross_val_noise_scores(pipe, X, y, cv=2).shape == (120,)


def test_find_label_issues_refuses_a_pipeline_that_resamples():
    pipe = resampling(small()).fit(X, y)
    for one in (pipe, Pipeline([("inner", pipe)])):
        with pytest.raises(ValueError, match=r"step 'half' .* Half, resamples .* cross_val_noise"):
            find_label_issues(one)


@pytest.mark.parametrize("last", ["own", "other"])
def test_resamplers_of_imbalanced_learn_are_passed_by(last):
    last = small() if last == "own" else LogisticRegression()
    steps = StandardScaler(), RandomUnderSampler(random_state=0), last
    pipe = make_resampling_pipeline(*steps).fit(X, y)
    scaled = pipe[0].transform(X)
    assert noisy_label_scorer(pipe, X, y) == noisy_label_scorer(pipe[-1], scaled, y)
    with pytest.raises(ValueError, match="resamples"):
        find_label_issues(pipe)


def wrapped(kind):
    pipe = make_pipeline(StandardScaler(), small())
    return {
        "search": GridSearchCV(pipe, {"clidmuclassifier__dropout": [0.1, 0.2]}, cv=2),
        "search in a pipeline": Pipeline([("search", GridSearchCV(pipe, {}, cv=2))]),
        "frozen": FrozenEstimator(clone(pipe).fit(X, y)),
        "fixed threshold": FixedThresholdClassifier(
            pipe, threshold=0.4, response_method="predict_proba"
        ),
        "tuned threshold": TunedThresholdClassifierCV(pipe, cv=2),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["search", "search in a pipeline", "frozen", "fixed threshold", "tuned threshold"]
)
def test_estimators_around_one_that_was_fitted_on_all_rows_are_unwrapped(kind):
    outer = wrapped(kind).fit(X, y)
    issues = find_label_issues(outer)
    assert len(issues.mask) == 120
    np.testing.assert_array_equal(issues.given_labels, y)
    assert -2 <= clid_score(outer, X) <= 2
    np.testing.assert_array_equal(
        noisy_label_scorer(outer, 3 * X + 5, y),
        noisy_label_scorer(make_pipeline(outer), 3 * X + 5, y),
    )


@pytest.mark.parametrize(
    "outer",
    [
        CalibratedClassifierCV(small(), cv=2),
        StackingClassifier([("own", small())], cv=2),
        TunedThresholdClassifierCV(small(), cv=0.5, refit=False),
    ],
    ids=["calibrated", "stacked", "trained on a part"],
)
def test_find_label_issues_refuses_estimators_of_several_meanings(outer):
    outer = outer.fit(X, y)
    assert np.isfinite(noisy_label_scorer(outer, X, y))
    with pytest.raises(ValueError, match=f"got {type(outer).__name__}"):
        find_label_issues(outer)


def test_classifiers_without_classes_get_scores_or_a_named_error():
    expected = cross_val_noise_scores(LogisticRegression(), X, y, cv=2)
    model = CleanLearning(LogisticRegression())
    found = cross_val_noise_scores(model, X, y, cv=2)
    assert np.corrcoef(found, expected)[0, 1] > 0.8
    with pytest.raises(TypeError, match=r"needs a fitted classifier with classes_.*CleanLearning"):
        noisy_label_scorer(model.fit(X, y), X, y)


class Narrow(LogisticRegression):
    """Has no classes, and a column too few."""

    def fit(self, X, y):
        self.kept = LogisticRegression().fit(X, y)
        return self

    def predict_proba(self, X):
        return self.kept.predict_proba(X)[:, 1:]


def test_cross_val_noise_scores_names_an_estimator_of_unknown_columns():
    with pytest.raises(ValueError, match=r"estimator Narrow has no classes_, .* 1 columns for 2"):
        cross_val_noise_scores(Narrow(), X, y, cv=2)


INDEXES = {
    "names": pd.Index([f"row {i}" for i in range(120)]),
    "numbers": pd.Index(np.arange(120)[::-1]),
    "two levels": pd.MultiIndex.from_product([range(60), ["a", "b"]]),
    "days": pd.date_range("2020-01-01", periods=120),
    "positions": pd.RangeIndex(120),
    "positions in the first part": pd.Index([*range(80), *range(1000, 1040)]),
}


def test_label_issues_frame_joins_row_names_of_different_kinds():
    days, names = INDEXES["days"][:40], [f"row {i}" for i in range(40)]
    parts = small().partial_fit(pd.DataFrame(X[:40], index=days), y[:40], classes=[0, 1])
    parts.partial_fit(X[40:80], y[40:80])
    parts.partial_fit(pd.DataFrame(X[80:], index=names), y[80:])
    found = find_label_issues(parts).to_frame().index.tolist()
    assert found == [*days, *range(40), *names]


def test_label_issues_frame_has_the_index_of_the_rows_where_the_labels_have_none():
    index = INDEXES["days"]
    clf = small().fit(pd.DataFrame(X, index=index), pd.Series(y))
    assert find_label_issues(clf).to_frame().index.tolist() == index.tolist()


@pytest.mark.parametrize("kind", INDEXES)
def test_label_issues_frame_has_the_index_of_the_callers_table(kind):
    index = INDEXES[kind]
    frame, column = pd.DataFrame(X, index=index), pd.Series(y, index=index)
    in_frame = small().fit(frame, y)
    fits = [in_frame, pickle.loads(pickle.dumps(in_frame))]
    fits.append(make_pipeline(StandardScaler(), small()).fit(frame, column))
    for fitted in fits:
        assert find_label_issues(fitted).to_frame().index.tolist() == index.tolist()
    scores = pd.Series(in_frame.noise_scores_, index=index)
    for arguments in ((scores, y), (scores.to_numpy(), column)):
        assert find_label_issues(*arguments).to_frame().index.tolist() == index.tolist()
    parts = small().partial_fit(frame[:80], column[:80], classes=[0, 1])
    parts.partial_fit(frame[80:], column[80:])
    found = find_label_issues(parts).to_frame().index.tolist()
    assert found == (list(range(120)) if kind == "positions" else index.tolist())


@pytest.mark.parametrize("names", [["id"], [7], ["group", "id"], ["group", None]], ids=str)
def test_label_issues_frame_keeps_the_names_of_the_index(names):
    kind = "two levels" if len(names) == 2 else "positions"
    index = INDEXES[kind].set_names(names)
    frame = pd.DataFrame(X, index=index)
    clf = small().fit(frame, y)
    scores = pd.Series(clf.noise_scores_, index=index)
    parts = small().partial_fit(frame[:80], y[:80], classes=[0, 1]).partial_fit(frame[80:], y[80:])
    for arguments in ((clf,), (pickle.loads(pickle.dumps(clf)),), (scores, y), (parts,)):
        found = find_label_issues(*arguments).to_frame()
        pd.testing.assert_index_equal(found.index, index, exact="equiv")
        assert len(frame.join(found)) == 120
    parts.partial_fit(frame.rename_axis(["other"] * len(names)), y)
    assert len(find_label_issues(parts).to_frame()) == 240


# Modules and devices


def network(d=4, c=2, *last):
    return nn.Sequential(nn.Linear(d, 8), nn.ReLU(), nn.Linear(8, c), *last)


def test_module_that_is_a_network_is_refused_before_the_fit():
    with pytest.raises(TypeError, match=r"module must be a class or a function .* of Sequential"):
        small(module=network()).fit(X, y)


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.Sigmoid()])
def test_module_that_returns_probabilities_is_refused_before_the_fit(last):
    with pytest.raises(ValueError, match="module Sequential returns probabilities"):
        small(module=lambda d, c: network(d, c, last)).fit(X, y)


def test_module_may_end_in_a_log_softmax():
    clf = small(module=lambda d, c: network(d, c, nn.LogSoftmax(dim=1))).fit(X, y)
    assert clf.predict_proba(X).shape == (120, 2)


def test_device_of_torch_is_one_of_its_name():
    clf = small(device=torch.device("cpu"))
    fitted = clone(clf).fit(X, y)
    plain = small(device="cpu").fit(X, y)
    data = skops.io.dumps(fitted)
    trusted = ["sklearn_clidmu._classifier.CLIDMUClassifier"]
    assert skops.io.get_untrusted_types(data=data) == trusted
    loaded = skops.io.loads(data, trusted=trusted), pickle.loads(pickle.dumps(fitted))
    for one in (fitted, *loaded):
        np.testing.assert_array_equal(one.predict_proba(X), plain.predict_proba(X))


# Numbers


@pytest.mark.parametrize("factor", [1e308, 1e-300])
def test_weights_of_any_size_count_by_their_ratios(factor):
    weight = np.random.RandomState(0).uniform(0.1, 1, 120)
    clf, huge = (small().fit(X, y, sample_weight=w) for w in (weight, factor * weight))
    np.testing.assert_allclose(huge.predict_proba(X), clf.predict_proba(X), atol=1e-4)
    assert huge.score(X, y, factor * weight) == pytest.approx(clf.score(X, y, weight))
    huge = small(class_weight={0: 1e200, 1: 1e200}).fit(X, y, sample_weight=factor * weight)
    np.testing.assert_allclose(huge.predict_proba(X), clf.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_read_only_sparse_tables_are_those_that_can_be_written_to(form):
    table = form(X)
    for name in ("data", "indices", "indptr", "coords"):
        part = getattr(table, name, ())
        for values in part if isinstance(part, tuple) else (part,):
            values.flags.writeable = False
    clf, other = small().fit(table, y), small().fit(form(X), y)
    np.testing.assert_array_equal(clf.predict_proba(table), other.predict_proba(form(X)))
    assert noisy_label_scorer(clf, table, y) == noisy_label_scorer(other, form(X), y)


DAYS = pd.date_range("2020-01-01", periods=120)
DATES = {
    "time zone": DAYS.tz_localize("UTC"),
    "objects": [datetime.date(2020, 1, 1)] * 120,
    "stamps": pd.Series(DAYS).astype(object),
    "periods": pd.period_range("2020-01-01", periods=120),
    "nanoseconds": DAYS,
}


@pytest.mark.parametrize("kind", DATES)
def test_dates_of_any_kind_are_refused_with_advice(kind):
    mixed = pd.DataFrame({"size": X[:, 0], "day": DATES[kind]})
    for table in (mixed, mixed[["day"]], mixed.to_numpy()):
        with pytest.raises(ValueError, match=r"X has dates.*TableVectorizer"):
            small().fit(table, y)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named_under_assume_finite(value):
    spoiled, weight = X.copy(), np.ones(120)
    spoiled[3, 1] = weight[3] = value
    with sklearn.config_context(assume_finite=True):
        forms = [(wide(spoiled), {}), (spoiled, {"module": network})]
        for rows, params in forms if np.isnan(value) else [*forms, (spoiled, {})]:
            with pytest.raises(ValueError, match=r"X contains (NaN|infinity)"):
                small(**params).fit(rows, y)
        with pytest.raises(ValueError, match=r"sample_weight contains (NaN|infinity)"):
            small().fit(X, y, sample_weight=weight)
        if np.isinf(value):
            with pytest.raises(ValueError, match="contains infinity"):
                noisy_label_scorer(small().fit(X, y), spoiled, y)
        else:  # a missing value is taken
            assert np.isfinite(noisy_label_scorer(small().fit(X, y), spoiled, y))
            assert np.isfinite(small().fit(spoiled, y).predict_proba(spoiled)).all()
