"""Ctrl-C reaches the caller and leaves an estimator as it was."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from classifier.data import make_rows, small
from sklearn.model_selection import GridSearchCV

from sklearn_clidmu import CLIDMUClassifier, _classifier
from sklearn_clidmu.training import prior, stages
from sklearn_clidmu.training.callbacks import Monitor
from sklearn_clidmu.training.cross_fitting import EpochSum
from sklearn_clidmu.training.meta_step import BlockMetaStep
from sklearn_clidmu.training.net import ReweightedNet

X, y, _ = make_rows(90, n_classes=3)


def make(**params):
    return small(batch_size=32, warmup_epochs=1, **params)


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


MOMENTS = {
    "in the choice of the weight decay": (ReweightedNet, "train_step_single", 5),
    "in a fold": (EpochSum, "on_epoch_end", 2),
    "when labels are judged": (prior, "label_confidence", 1),
    "in a meta step": (BlockMetaStep, "training_loss", 5),
    "at the end of an epoch": (Monitor, "on_epoch_end", 2),
    "between the stages": (stages, "pseudo_label", 1),
    "in the second stage": (Monitor, "on_epoch_end", 5),
    "in the final pass": (_classifier, "read_rows", 1),
    "when attributes are set": (_classifier, "training_curves", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_leaves_an_estimator_as_it_was(moment):
    labels = np.where(np.arange(90) % 5 == 4, -1, y)  # so that there are further stages
    new, fitted = (make(missing_label=-1) for _ in range(2))
    fitted.fit(X, labels)
    expected = fitted.predict_proba(X)
    for clf in (new, fitted):
        before = dict(vars(clf))
        with pytest.MonkeyPatch.context() as patch:
            send_sigint(patch, *MOMENTS[moment])
            with pytest.raises(KeyboardInterrupt):
                clf.fit(X, labels)
        assert vars(clf) == before
    np.testing.assert_array_equal(fitted.predict_proba(X), expected)


def test_ctrl_c_ends_a_grid_search(monkeypatch):
    send_sigint(monkeypatch, _classifier, "read_rows", 2)
    fits = []

    class Counting(CLIDMUClassifier):
        def fit(self, X, y, sample_weight=None):
            fits.append(1)
            return super().fit(X, y, sample_weight)

    clf = Counting(hidden_layer_sizes=(8,), max_epochs=2, n_folds=None)
    with pytest.raises(KeyboardInterrupt):
        GridSearchCV(clf, {"dropout": [0.1, 0.2, 0.3]}, cv=2).fit(X, y)
    assert len(fits) == 2


def test_ctrl_c_from_another_process_is_no_different():
    script = textwrap.dedent("""
        import numpy as np, signal
        from sklearn_clidmu import CLIDMUClassifier
        signal.signal(signal.SIGINT, signal.default_int_handler)
        X = np.random.RandomState(0).normal(size=(100, 4))
        y = (X[:, 0] > 0).astype(int)
        started = []

        def objective(features, logits, targets, sample_weight):
            if not started:
                print("started", flush=True)
                started.append(True)
            return logits.sum()

        params = {"max_epochs": 100_000, "weight_decay": 0, "n_folds": None}
        clf = CLIDMUClassifier(meta_objective=objective, **params)
        try:
            clf.fit(X, y)
        except KeyboardInterrupt:
            print(hasattr(clf, "net_"))
    """)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "started\n"
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read()
    assert (child.returncode, rest) == (0, "False\n")
