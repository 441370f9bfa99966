"""Threads and processes: every fit gives what it gives alone, and fitted models can be shared."""

import multiprocessing
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import numpy as np
import pytest
import torch
from classifier.data import SMALL, make_rows
from torch import nn

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu._random import local_generators
from sklearn_clidmu._torch_state import fresh_torch
from sklearn_clidmu.training.networks import FeatureTap

X, y, _ = make_rows()
SEEDS = [0, 1, 2, 3]
DEADLINE = 120
"""Seconds after which a process that should long have ended is taken to hang."""


def dropping(n_features, n_classes):
    """A module whose dropout draws from torch's global generator."""
    return nn.Sequential(nn.Linear(n_features, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, n_classes))


def results(seed=0):
    """Probabilities of two fits, one of them with a module of the caller's own."""
    params = {**SMALL, "batch_size": 16, "weighting": "vri", "max_epochs": 2, "random_state": seed}
    fits = [CLIDMUClassifier(**params, module=module).fit(X, y) for module in (None, dropping)]
    return [clf.predict_proba(X) for clf in fits]


@pytest.fixture(scope="module")
def alone():
    return [results(seed) for seed in SEEDS]


@pytest.fixture
def eager():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager")
def test_fits_in_threads_give_what_they_give_alone(alone):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        with ThreadPoolExecutor(len(SEEDS)) as threads:
            together = list(threads.map(results, SEEDS))
        assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(together, alone)
    assert not np.array_equal(alone[0], alone[1])


@pytest.mark.usefixtures("eager")
def test_fit_is_not_disturbed_by_models_copied_meanwhile(alone):
    fitted = CLIDMUClassifier(**SMALL, weighting="wnet").fit(X, y)
    done = Event()

    def copy_on():
        while not done.is_set():
            pickle.loads(pickle.dumps(fitted))

    copying = Thread(target=copy_on)
    copying.start()
    try:
        actual = results()
    finally:
        done.set()
        copying.join(DEADLINE)
    np.testing.assert_array_equal(actual, alone[0])


def test_fit_inside_a_fit_does_not_wait_for_itself():
    inner = CLIDMUClassifier(**SMALL, weighting=None)

    def build(n_features, n_classes):
        inner.fit(X, y)
        return nn.Linear(n_features, n_classes)

    CLIDMUClassifier(module=build, max_epochs=1, weighting=None).fit(X, y)
    assert inner.score(X, y) > 0.5


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("module", [None, dropping], ids=["own", "module"])
def test_predict_works_in_many_threads(module):
    clf = CLIDMUClassifier(**SMALL, module=module, weighting=None).fit(X, y)
    many = [np.tile(X, (1 + 30 * i, 1)) for i in range(8)]  # of other lengths: nothing may mix
    for rows in many[::2]:
        rows.flags.writeable = False  # torch would warn of those
    expected = [clf.predict_proba(rows) for rows in many]
    # Put back in the end: scikit-learn's check of X changes the filters that all threads share.
    with warnings.catch_warnings(), ThreadPoolExecutor(len(many)) as threads:
        for _ in range(10):
            for actual, wanted in zip(threads.map(clf.predict_proba, many), expected, strict=True):
                np.testing.assert_array_equal(actual, wanted)


class Meeting(nn.Module):
    """Two threads have to be in its pass before either comes out of it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.both = Barrier(2)

    def forward(self, rows):
        logits = self.layer(rows)
        self.both.wait(DEADLINE)
        return logits


def test_feature_tap_does_not_mix_the_features_of_threads():
    network = FeatureTap(Meeting(), n_classes=2)
    inputs = [torch.zeros(3, 4), torch.ones(5, 4)]
    with ThreadPoolExecutor(2) as threads:
        outputs = list(threads.map(network, inputs))
    for rows, (_, features) in zip(inputs, outputs, strict=True):
        assert torch.equal(features, rows)


def answer(connection):
    torch.set_num_threads(1)
    connection.send(results())
    connection.close()


def answer_as_forked(connection):
    connection.send(results())


def in_child(start, target=answer):
    """What :func:`results` gives in a process that is started in this way."""
    context = multiprocessing.get_context(start)
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(there,))
    child.start()
    there.close()
    try:
        assert here.poll(DEADLINE), "the child hangs"
        return here.recv()
    finally:
        child.kill()
        child.join()


forks = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="nothing is forked here"
)


@pytest.mark.parametrize("start", [pytest.param("fork", marks=forks), "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fit_in_a_child_process_gives_what_the_parent_gives(start, alone):
    np.testing.assert_array_equal(in_child(start), alone[0])


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fit_in_a_process_forked_after_one_with_several_threads_does_not_hang(alone):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        table = torch.ones(2000, 200)
        (table @ table.T).exp()  # torch starts its threads, whose locks the child inherits
        np.testing.assert_allclose(in_child("fork", answer_as_forked), alone[0], rtol=0, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def fitted_dtype(pipe):
    """Send the default dtype after a fit."""
    results()
    pipe.send(torch.get_default_dtype())


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_process_forked_during_a_fit_keeps_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        with fresh_torch():
            assert in_child("fork", fitted_dtype) == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fit_in_a_process_forked_during_a_fit_does_not_hang(alone):
    fitting, forked = Event(), Event()

    def fit():
        with local_generators(0, torch.device("cpu")):
            fitting.set()
            forked.wait(DEADLINE)

    thread = Thread(target=fit)
    thread.start()
    try:
        assert fitting.wait(DEADLINE)
        actual = in_child("fork")
    finally:
        forked.set()
        thread.join(DEADLINE)
    np.testing.assert_array_equal(actual, alone[0])
