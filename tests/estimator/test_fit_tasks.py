"""scikit-learn's own callbacks, where it has some."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator import fit_tasks

from .data import SMALL, make_rows

X, y, _ = make_rows(60)
TREE = ["fit", *2 * ["training", *3 * ["epoch"]]]

pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "batch_size": 16, **params})


class Recorder:
    """Keeps which tasks began and ended; stops after the named task."""

    max_propagation_depth = None

    def __init__(self, stop=None):
        self.stop = stop
        self.begun, self.ended, self.fitted, self.seen = [], [], {}, []
        self.n_setups = self.n_teardowns = 0

    def setup(self, estimator, context):
        self.n_setups += 1

    def teardown(self, estimator, context):
        self.n_teardowns += 1

    def on_fit_task_begin(self, estimator, context):
        self.begun.append(context.task_name)

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.ended.append(context.task_name)
        self.seen.append((X, y, metadata))
        self.fitted.setdefault(context.task_name, []).append(fitted_estimator)
        return context.task_name == self.stop


def assert_same(first, second):
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    np.testing.assert_array_equal(first.noise_scores_, second.noise_scores_)


def test_a_fit_is_made_of_trainings_and_those_of_epochs():
    recorder = Recorder()
    small().set_callbacks(recorder).fit(X, y)
    assert recorder.begun == TREE
    assert recorder.ended == [*2 * [*3 * ["epoch"], "training"], "fit"]
    assert (recorder.n_setups, recorder.n_teardowns) == (1, 1)


def test_callbacks_do_not_change_what_is_learned():
    assert_same(small().fit(X, y), small().set_callbacks(Recorder()).fit(X, y))


def test_callbacks_see_an_estimator_that_predicts_as_if_fit_had_stopped():
    recorder = Recorder()
    clf = small(refit=False).set_callbacks(recorder).fit(X, y)
    as_long = [small(refit=False, max_epochs=3).set_callbacks(Recorder(stop="epoch")).fit(X, y)]
    epochs = recorder.fitted["epoch"]
    np.testing.assert_array_equal(epochs[0].predict_proba(X), as_long[0].predict_proba(X))
    np.testing.assert_array_equal(epochs[-1].predict_proba(X), clf.predict_proba(X))
    assert np.abs(epochs[0].predict_proba(X) - clf.predict_proba(X)).max() > 1e-3
    assert_same(recorder.fitted["fit"][0], clf)


def test_callbacks_see_the_data_as_they_were_given():
    frame, names = pd.DataFrame(X, columns=list("abcd")), np.array(["no", "yes"])[y]
    weight = np.linspace(1, 2, len(X))
    recorder = Recorder()
    small().set_callbacks(recorder).fit(frame, names, weight)
    for seen_X, seen_y, metadata in recorder.seen:
        assert seen_X is frame
        assert seen_y is names
        assert metadata["sample_weight"] is weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of feature names that are missing
        assert set(recorder.fitted["epoch"][0].predict(frame)) <= {"no", "yes"}


def test_a_callback_can_end_every_training():
    recorder = Recorder(stop="epoch")
    clf = small().set_callbacks(recorder).fit(X, y)
    assert clf.n_iter_ == 1
    assert recorder.begun == ["fit", *2 * ["training", "epoch"]]


@pytest.mark.parametrize("params", [{"n_iter_no_change": 1}, {"n_iter_no_change": 2}])
def test_every_task_that_began_ends_when_training_stops_early(params):
    recorder = Recorder()
    small(early_stopping=True, max_epochs=20, **params).set_callbacks(recorder).fit(X, y)
    assert sorted(recorder.begun) == sorted(recorder.ended)
    assert recorder.begun.count("epoch") < 40


@pytest.mark.filterwarnings("ignore:Training diverged:sklearn.exceptions.ConvergenceWarning")
def test_every_task_that_began_ends_when_training_diverges():
    recorder = Recorder()
    clf = small(weighting=None, lr=1e30, optimizer="adamw").set_callbacks(recorder).fit(X, y)
    assert clf.net_.diverged_
    assert sorted(recorder.begun) == sorted(recorder.ended)


def test_callbacks_are_torn_down_after_an_error():
    recorder = Recorder()
    with pytest.raises(ValueError, match="warmup_epochs"):
        small(warmup_epochs=3).set_callbacks(recorder).fit(X, y)
    assert (recorder.n_setups, recorder.n_teardowns) == (1, 1)


def test_callbacks_reach_the_classifier_inside_a_pipeline_and_a_search():
    recorder = Recorder()
    pipe = make_pipeline(StandardScaler(), small())
    search = GridSearchCV(pipe, {"clidmuclassifier__dropout": [0.1, 0.2]}, cv=2)
    search.set_callbacks(recorder).fit(X, y)
    assert recorder.begun.count("epoch") == 5 * 2 * 3  # 2 x 2 candidates and splits, and a refit
    best = search.best_estimator_
    np.testing.assert_array_equal(best[-1].noise_scores_, clone(best).fit(X, y)[-1].noise_scores_)


def test_the_scores_of_every_epoch_can_be_monitored():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    clf = small().set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs().data
    assert [row["task_name"] for row in log].count("epoch") == 6
    [of_fit] = [row["accuracy"] for row in log if row["task_name"] == "fit"]
    assert of_fit == clf.score(X, y)


def test_without_scikit_learns_support_fit_works_as_before(monkeypatch):
    expected = small().fit(X, y)
    monkeypatch.delattr(fit_tasks.CallbackSupportMixin, "_init_callback_context")
    assert_same(small().fit(X, y), expected)
