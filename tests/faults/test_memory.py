"""Where a device has too little memory, batches are halved, and what is left to do is said."""

import re

import numpy as np
import pytest
import torch

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.mathematics.backbone import MLP
from sklearn_clidmu.mathematics.traced_pass import TracedPass
from sklearn_clidmu.training.net import ReweightedNet


def make_rows():
    rng = np.random.RandomState(0)
    y = np.arange(120) % 3
    X = rng.normal(size=(120, 5)) + 3 * np.eye(3, 5)[y]
    y[::4] = (y[::4] + 1) % 3
    return X, y


X, Y = make_rows()


def make(**params):
    small = {"hidden_layer_sizes": (12, 8), "max_epochs": 3, "random_state": 0, "dtype": "float64"}
    return CLIDMUClassifier(**{**small, **params})


@pytest.fixture
def little_memory(monkeypatch):
    """A device that has no room for networks' passes over more than ``n_rows`` rows."""

    class Passes(list):
        n_rows = 10**9

    forward, trace, passes = MLP.forward, TracedPass.__init__, Passes()

    def watch(X):
        if len(X) > passes.n_rows:
            raise torch.cuda.OutOfMemoryError("tried to allocate 2 TiB")
        passes.append(len(X))

    def watched_forward(self, X):
        watch(X)
        return forward(self, X)

    def watched_trace(self, network, X):
        watch(X)
        trace(self, network, X)

    monkeypatch.setattr(MLP, "forward", watched_forward)
    monkeypatch.setattr(TracedPass, "__init__", watched_trace)
    return passes


def check_equal(clf, other):
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))
    np.testing.assert_array_equal(clf.sample_weights_, other.sample_weights_)
    np.testing.assert_array_equal(clf.noise_scores_, other.noise_scores_)


def test_first_the_meta_batch_is_halved(little_memory):
    little_memory.n_rows = 60
    with pytest.warns(RuntimeWarning, match="Out of memory on cpu.* meta_batch_size=50"):
        clf = make(batch_size=40, meta_batch_size=100, refit=False).fit(X, Y)
    assert clf.meta_batch_size == 100
    little_memory.n_rows = 10**9
    check_equal(clf, make(batch_size=40, meta_batch_size=50, refit=False).fit(X, Y))


def test_then_the_batch_is_halved(little_memory):
    little_memory.n_rows = 20
    with pytest.warns(RuntimeWarning) as caught:
        clf = make(batch_size=40, refit=False).fit(X, Y)
    asked = [re.search(r"meta_batch_size=\d+|batch_size=\d+", str(w.message))[0] for w in caught]
    assert asked == ["meta_batch_size=20", "batch_size=20"]
    little_memory.n_rows = 10**9
    check_equal(clf, make(batch_size=20, meta_batch_size=20, refit=False).fit(X, Y))


def test_memory_that_runs_out_late_costs_no_more_than_the_training(little_memory, monkeypatch):
    """The training that begins anew knows nothing of the one that failed."""
    calls, step = [], ReweightedNet.train_step_single

    def failing(self, batch, **kwargs):
        calls.append(1)
        if len(calls) == 25:
            raise torch.cuda.OutOfMemoryError
        return step(self, batch, **kwargs)

    monkeypatch.setattr(ReweightedNet, "train_step_single", failing)
    with pytest.warns(RuntimeWarning, match="meta_batch_size=16"):
        clf = make(batch_size=32, refit=False).fit(X, Y)
    monkeypatch.undo()
    check_equal(clf, make(batch_size=32, meta_batch_size=16, refit=False).fit(X, Y))


@pytest.mark.filterwarnings("ignore:Out of memory")
def test_where_that_is_not_enough_the_error_says_what_to_set(little_memory):
    little_memory.n_rows = 3
    clf = make()
    with pytest.raises(MemoryError, match=r"2 TiB.*Lower batch_size.*device='cpu'"):
        clf.fit(X, Y)
    assert not hasattr(clf, "n_features_in_")


@pytest.mark.filterwarnings("ignore:Out of memory")
def test_partial_fit_does_likewise(little_memory):
    little_memory.n_rows = 20
    clf = make(batch_size=40).partial_fit(X, Y, classes=[0, 1, 2])
    little_memory.n_rows = 10**9
    smaller = make(batch_size=20, meta_batch_size=20)
    check_equal(clf, smaller.partial_fit(X, Y, classes=[0, 1, 2]))


@pytest.mark.parametrize("n_rows", [1, 7, 60, 119])
def test_prediction_goes_on_with_smaller_batches(n_rows, little_memory):
    clf = make().fit(X, Y)
    expected = clf.predict_proba(X)
    little_memory.clear()
    little_memory.n_rows = n_rows
    np.testing.assert_allclose(clf.predict_proba(X), expected, rtol=0, atol=1e-12)
    assert sum(little_memory) == len(X)
    assert max(little_memory) <= n_rows


def test_prediction_without_room_for_a_row_says_what_to_set(little_memory):
    clf = make().fit(X, Y)
    little_memory.n_rows = 0
    with pytest.raises(MemoryError, match="device='cpu'"):
        clf.predict(X)
