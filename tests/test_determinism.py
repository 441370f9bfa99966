"""The same data, parameters and ``random_state``: the same result, whatever goes on around it."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from classifier.data import SMALL, make_rows
from classifier.own_checks import assert_same, results
from joblib import parallel_backend
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sklearn_clidmu import CLIDMUClassifier, cross_val_noise_scores

X, y, _ = make_rows(60, n_classes=3)

SETTINGS = {
    "whole": {"batch_size": 64},
    "batches": {"batch_size": 16, "early_stopping": True},
    "vri, all parameters": {"batch_size": 16, "weighting": "vri", "virtual_step": "full"},
    "wnet": {"batch_size": 32, "weighting": "wnet"},
    "unweighted": {"batch_size": 32, "weighting": None},
}


def fitted(name, labels=y, **params):
    return CLIDMUClassifier(**{**SMALL, "max_epochs": 2, **SETTINGS[name], **params}).fit(X, labels)


@cache
def once(name):
    return results(fitted(name), X)


@pytest.mark.parametrize("name", SETTINGS)
def test_fit_gives_the_same_twice_to_the_bit(name):
    assert_same(results(fitted(name), X), once(name))
    other = results(fitted(name, random_state=1), X)
    assert not np.array_equal(other["predict_proba"], once(name)["predict_proba"])


def test_fit_gives_the_same_in_a_new_process_to_the_bit(tmp_path):
    # Its hashes of strings are others, and the generators are as they are when torch is imported.
    code = f"""
import numpy as np
import test_determinism as t
t.torch.set_num_threads(1)
for i, name in enumerate(t.SETTINGS):
    np.savez(f"{tmp_path.as_posix()}/{{i}}.npz", **t.results(t.fitted(name), t.X))
"""
    paths = [p for p in sys.path if p]
    code = f"import sys; sys.path[:0] = {paths!r}\n{code}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    for i, name in enumerate(SETTINGS):
        with np.load(tmp_path / f"{i}.npz") as there:
            assert_same(dict(there), once(name))


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("name", ["whole", "batches"])
def test_fit_does_not_depend_on_verbose(name, verbose):
    assert_same(results(fitted(name, verbose=verbose), X), once(name))


def test_search_does_not_depend_on_the_number_of_jobs():
    clf = CLIDMUClassifier(**{**SMALL, "max_epochs": 2, "weighting": "wnet", "batch_size": 16})
    folds = StratifiedKFold(2)

    def search(n_jobs):
        found = GridSearchCV(clone(clf), {"dropout": [0.0, 0.5]}, cv=folds, n_jobs=n_jobs)
        found.fit(X, y)
        return results(found.best_estimator_, X), found.cv_results_["mean_test_score"]

    with parallel_backend("threading"):
        alone, together = search(1), search(4)
        scores = [cross_val_noise_scores(clf, X, y, cv=folds, n_jobs=n) for n in (1, 2)]
    assert_same(together[0], alone[0])
    np.testing.assert_array_equal(together[1], alone[1])
    np.testing.assert_array_equal(*scores)


def test_fit_depends_on_threads_of_torch_by_rounding_alone():
    rng = np.random.RandomState(0)
    labels = np.arange(400) % 3
    rows = rng.normal(size=(400, 20)) + 2 * np.eye(3, 20)[labels]
    clf = CLIDMUClassifier(**{**SMALL, "max_epochs": 1, "warmup_epochs": 0, "n_folds": None})
    clf.set_params(batch_size=400)
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        found.append(results(clone(clf).fit(rows, labels), rows))
    torch.set_num_threads(1)
    assert_same(*found, tolerance=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("name", ["whole"])
def test_fit_on_cuda_gives_the_same_twice_up_to_rounding(name):
    # Sums by index are made in no fixed order there.
    first, second = (results(fitted(name, device="cuda"), X) for _ in range(2))
    assert_same(first, second, tolerance=1e-6)


def test_fit_on_the_cpu_seeds_no_other_device(monkeypatch):
    seeded = []
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, seeded.append)
    X, y, _ = make_rows(80)
    CLIDMUClassifier(**SMALL, device="cpu").fit(X, y)
    assert not seeded
