"""A table on disk is trained on where it lies: under a limit that has no room for a copy of it."""

import ctypes
import multiprocessing
import sys
import warnings

import numpy as np
import pytest

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.noise import loo_kernel_ridge

resource = pytest.importorskip("resource", reason="a module of Unix")
N_ROWS, WIDTH = 80_000, 1024  # 312 MiB
ROOM = 200 * 2**20
M_MMAP_THRESHOLD = -3  # of malloc.h

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA means this on Linux")


def data_in_use():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def limited(work):
    """Exit code of a forked process that has little room beyond what it was born with."""

    def working():
        # Whether freed memory lies in usable pieces must not decide: large arrays are given back.
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
        limit = data_in_use() + ROOM
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        work()

    with warnings.catch_warnings():  # of threads, none of which the child needs
        warnings.simplefilter("ignore", DeprecationWarning)
        child = multiprocessing.get_context("fork").Process(target=working)
        child.start()
    child.join()
    return child.exitcode


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "X.npy"
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(N_ROWS, WIDTH))
    rng = np.random.RandomState(0)
    for rows in np.array_split(np.arange(N_ROWS), 20):
        X[rows] = rng.randint(-1, 2, size=(len(rows), WIDTH))
    X.flush()
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize(
    ("weighting", "n_folds"), [("evidence", 2), ("evidence", None), (None, None)]
)
def test_fit_does_not_copy_a_table_on_disk(weighting, n_folds, table, monkeypatch):
    monkeypatch.setattr(loo_kernel_ridge, "N_FREQUENCIES", 64)  # of the time; memory goes by chunks
    y = (np.array(table[:, 0]) > 0).astype(int)
    clf = CLIDMUClassifier(
        hidden_layer_sizes=(8,),
        max_epochs=1,
        batch_size=512,
        n_folds=n_folds,
        weighting=weighting,
        warmup_epochs=0,
        random_state=0,
    )

    def fit_and_predict():
        assert clf.fit(table, y).predict(table).shape == (N_ROWS,)

    def copy():
        np.array(table)

    assert limited(fit_and_predict) == 0
    assert limited(copy) == 1  # so there was no room for one
