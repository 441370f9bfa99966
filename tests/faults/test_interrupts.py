"""Ctrl-C reaches the caller, and leaves everything as it was or the best so far."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu import _classifier as classifier
from sklearn_clidmu.training.callbacks import Monitor
from sklearn_clidmu.training.meta_step import BlockMetaStep


def make_rows():
    rng = np.random.RandomState(0)
    y = np.arange(150) % 3
    X = rng.normal(size=(150, 5)) + 3 * np.eye(3, 5)[y]
    y[::4] = (y[::4] + 1) % 3
    return X, y


X, Y = make_rows()


def make(**params):
    small = {"hidden_layer_sizes": (12, 8), "max_epochs": 6, "random_state": 0, "batch_size": 32}
    return CLIDMUClassifier(**{**small, **params})


def state_of(clf):
    return {name: id(value) for name, value in vars(clf).items()}


def send_sigint(patch, owner, name, n_calls):
    """Send this process a real SIGINT in the n-th call of a function."""
    function, calls = getattr(owner, name), []

    def watched(*args, **kwargs):
        calls.append(None)
        if len(calls) == n_calls:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*args, **kwargs)

    patch.setattr(owner, name, watched)


@pytest.fixture(autouse=True)
def heard():
    """Shells let what they start in the background ignore SIGINT."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def ctrl_c(monkeypatch):
    return lambda *where: send_sigint(monkeypatch, *where)


MOMENTS = {
    "in warm-up": (BlockMetaStep, "training_loss", 15, 1),
    "in the first meta steps": (BlockMetaStep, "training_loss", 35, 3),
    "at the end of an epoch": (Monitor, "on_epoch_end", 4, 3),
    "in the second training": (BlockMetaStep, "training_loss", 75, 6),
    "when all is reported": (classifier, "training_curves", 1, 6),
}
"""Where it comes, and the epochs that the network that is then kept has learned for."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_it_leaves_an_estimator_as_it_was(moment):
    new = make(warmup_epochs=2)
    fitted = make(warmup_epochs=2).fit(X, Y)
    expected = fitted.predict_proba(X)
    for clf in (new, fitted):
        before = state_of(clf)
        with pytest.MonkeyPatch.context() as patch:
            send_sigint(patch, *MOMENTS[moment][:3])
            with pytest.raises(KeyboardInterrupt):
                clf.fit(X, Y)
        assert state_of(clf) == before
    np.testing.assert_array_equal(fitted.predict_proba(X), expected)


def test_while_rows_without_a_label_are_filled_in_it_keeps_the_training_before(ctrl_c):
    ctrl_c(BlockMetaStep, "training_loss", 90)
    y = np.where(np.arange(len(Y)) % 2, Y, -1)
    clf = make(on_interrupt="keep", n_stages=1, missing_label=-1)
    with pytest.warns(ConvergenceWarning, match="training 1"), pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    np.testing.assert_array_equal(np.unique(clf.history_["stage"]), [1, 2])
    assert clf.score(X, Y) > 0.5


@pytest.mark.parametrize("moment", MOMENTS)
def test_with_keep_it_leaves_the_best_so_far_and_says_so(moment, ctrl_c):
    *where, n_epochs = MOMENTS[moment]
    ctrl_c(*where)
    clf = make(warmup_epochs=2, on_interrupt="keep")
    with (
        pytest.warns(ConvergenceWarning, match=f"cut short by Ctrl-C.* {n_epochs} epochs"),
        pytest.raises(KeyboardInterrupt),
    ):
        clf.fit(X, Y)
    assert clf.interrupted_
    assert clf.n_iter_ == n_epochs
    assert clf.score(X, Y) > 0.5
    assert clf.sample_weights_.mean() == pytest.approx(1)
    assert np.isfinite(clf.noise_scores_).all()
    assert all(len(curve) >= n_epochs for curve in clf.history_.values())
    assert "labels in 3 classes" in clf.noise_report()


def test_what_is_kept_is_the_network_of_the_last_whole_epoch():
    """Five batches an epoch, two passes: batches 31 to 40 are those of the fourth."""
    kept = []
    for n_calls in (31, 40, 41):
        with pytest.MonkeyPatch.context() as patch:
            send_sigint(patch, MetaStep, "training_loss", n_calls)
            clf = make(warmup_epochs=2, on_interrupt="keep")
            with pytest.warns(ConvergenceWarning), pytest.raises(KeyboardInterrupt):
                clf.fit(X, Y)
        kept.append(clf)
    assert [clf.n_iter_ for clf in kept] == [3, 3, 4]
    probabilities = [clf.predict_proba(X) for clf in kept]
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
    assert not np.array_equal(probabilities[1], probabilities[2])
    np.testing.assert_array_equal(kept[0].noise_scores_, kept[1].noise_scores_)


def test_in_the_first_epoch_there_is_nothing_to_keep(ctrl_c):
    ctrl_c(BlockMetaStep, "training_loss", 3)
    clf = make(on_interrupt="keep")
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, Y)
    assert not hasattr(clf, "net_")


def test_a_whole_fit_was_not_interrupted():
    assert make(on_interrupt="keep", n_stages=1).fit(X, Y).interrupted_ is False


@pytest.mark.filterwarnings("ignore:Training was cut short")
def test_it_ends_a_grid_search(ctrl_c):
    ctrl_c(classifier, "read_rows", 2)
    fits = []

    class Counting(CLIDMUClassifier):
        def fit(self, X, y, sample_weight=None):
            fits.append(1)
            return super().fit(X, y, sample_weight)

    clf = Counting(hidden_layer_sizes=(8,), max_epochs=2, n_stages=1)
    with pytest.raises(KeyboardInterrupt):
        GridSearchCV(clf, {"dropout": [0.1, 0.2, 0.3]}, cv=2).fit(X, Y)
    assert len(fits) == 2


def test_a_signal_from_another_process_is_no_different(tmp_path):
    script = textwrap.dedent("""
        import numpy as np, signal, warnings
        from sklearn_clidmu import CLIDMUClassifier
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        X = np.random.RandomState(0).normal(size=(300, 4))
        y = (X[:, 0] > 0).astype(int)
        clf = CLIDMUClassifier(max_epochs=100_000, verbose=1, n_stages=1)
        try:
            clf.fit(X, y)
        except KeyboardInterrupt:
            print("score", clf.score(X, y), clf.interrupted_)
    """)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for _ in range(5):  # a headline and four epochs
            child.stdout.readline()
        child.send_signal(signal.SIGINT)
        last = child.stdout.read().splitlines()[-1].split()
    assert child.returncode == 0
    assert last[0] == "score"
    assert float(last[1]) > 0.7
    assert last[2] == "True"
