"""Models in pickles and in files of joblib, cloudpickle and skops: what comes back, and where."""

import copy
import pickle
import subprocess
import sys
from functools import cache

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sklearn_clidmu import CLIDMUClassifier, find_label_issues

from .data import make_rows, small

cloudpickle = pytest.importorskip("cloudpickle")

pytestmark = pytest.mark.usefixtures("coarse_kernel", "few_steps")

X, y, _ = make_rows()
OWN_TYPE = "sklearn_clidmu._classifier.CLIDMUClassifier"


def fitted(labels=y, rows=X, **params):
    return small(**params).fit(rows, labels)


def normalizing(n_features, n_classes, width=6):
    """A module with running statistics."""
    return nn.Sequential(
        nn.Linear(n_features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, n_classes)
    )


def by_joblib(clf, path):
    joblib.dump(clf, path)
    return joblib.load(path)


def by_memory_map(clf, path):
    joblib.dump(clf, path)
    return joblib.load(path, mmap_mode="r")


def by_cloudpickle(clf, path):
    return cloudpickle.loads(cloudpickle.dumps(clf))


def by_pickle(clf, path):
    return pickle.loads(pickle.dumps(clf))


def by_deepcopy(clf, path):
    return copy.deepcopy(clf)


def by_skops(clf, path):
    skops_io = pytest.importorskip("skops.io")
    skops_io.dump(clf, path)
    assert skops_io.get_untrusted_types(file=path) == [OWN_TYPE]
    return skops_io.load(path, trusted=[OWN_TYPE])


PICKLED = [by_pickle, by_joblib, by_memory_map, by_cloudpickle, by_deepcopy]
WAYS = [*PICKLED, by_skops]

MODELS = {
    "default": {},
    "minibatches": {"batch_size": 16},
    "vri": {"weighting": "vri", "batch_size": 16},
    "wnet": {"weighting": "wnet"},
    "unweighted": {"weighting": None},
    "early stopping": {"early_stopping": True, "hidden_layer_sizes": 7},
    "class weights": {"class_weight": {0: 1, 1: np.float64(2)}},
}
OWN_MODULES = {
    "batches": {"module": normalizing, "batch_size": 16},
    "one batch": {"module": normalizing},
}


@cache
def fitted_once(model):
    """Fit one of the models above, for tests that leave it as it is."""
    return fitted(**{**MODELS, **OWN_MODULES}[model])


def assert_same(actual, expected):
    """Assert that two values are equal, in type too, down to the numbers in containers."""
    assert type(actual) is type(expected) or isinstance(actual, np.memmap)
    if isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b)
    elif expected != expected:  # nan
        assert actual != actual
    else:
        assert actual == expected


def assert_same_model(actual, expected, rows=X):
    """Assert equal predictions, parameters and attributes, those of the weighting net included."""
    np.testing.assert_array_equal(actual.predict_proba(rows), expected.predict_proba(rows))
    assert_same(actual.predict(rows), expected.predict(rows))
    assert_same(actual.__getstate__(), expected.__getstate__())
    assert type(actual.weight_net_) is type(expected.weight_net_)


# What comes back


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_model_comes_back_to_the_bit(way, model, tmp_path):
    clf = fitted_once(model)
    loaded = way(clf, tmp_path / "model")
    assert_same_model(loaded, clf)
    assert_same_model(way(loaded, tmp_path / "again"), clf)


@pytest.mark.parametrize("way", PICKLED)
@pytest.mark.parametrize("model", OWN_MODULES)
def test_model_with_a_module_comes_back_to_the_bit(way, model, tmp_path):
    clf = fitted_once(model)
    assert_same_model(way(clf, tmp_path / "model"), clf)


def test_cloudpickle_keeps_a_module_without_a_name():
    clf = fitted(module=lambda n_features, n_classes: nn.Linear(n_features, n_classes))
    loaded = by_cloudpickle(clf, None)
    np.testing.assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "names",
    [
        np.array(["no", "yes"]),
        np.array(["no", "yes"], dtype=object),
        np.array(["\N{SNOWMAN}", "\N{GRINNING FACE}" * 3]),
        np.array([False, True]),
        np.array([-7, 2**40]),
        np.array([1, 3], dtype=np.uint8),
        np.array([0.5, 1.5]),
    ],
    ids=lambda names: str(names.dtype),
)
def test_classes_of_every_kind_come_back(way, names, tmp_path):
    clf = by_pickle(fitted_once("default"), None)
    clf.classes_ = names
    assert_same_model(way(clf, tmp_path / "model"), clf)


def test_feature_names_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(X, columns=list("abcd"))
    clf = fitted(rows=rows)
    for way in WAYS:
        assert_same_model(way(clf, tmp_path / way.__name__), clf, rows)


@pytest.mark.parametrize("model", MODELS)
def test_loaded_model_fits_as_the_original_did(model):
    clf = fitted_once(model)
    assert_same_model(by_pickle(clf, None).fit(X, y), clf)


def test_unfitted_classifier_comes_back():
    clf = CLIDMUClassifier(lr=0.1)
    assert by_pickle(clf, None).get_params() == clf.get_params()


def test_loading_leaves_the_generators_alone():
    clf = fitted(module=normalizing, weighting="vri", batch_size=16)
    before = torch.get_rng_state()
    by_pickle(clf, None)
    assert torch.equal(torch.get_rng_state(), before)


def test_copy_shares_no_parameters_with_the_original():
    clf = fitted()
    for copied in (copy.copy(clf), by_pickle(clf, None)):
        theirs = {p.data_ptr() for p in copied.net_.module_.parameters()}
        assert not theirs & {p.data_ptr() for p in clf.net_.module_.parameters()}


def test_loading_imports_no_compiler(tmp_path):
    # The first optimizer of a process imports torch's compiler, which takes seconds.
    path = tmp_path / "model"
    joblib.dump(fitted(weighting="vri"), path)
    code = f"""
import sys
import joblib
joblib.load({str(path)!r}).predict([[0.0] * 4])
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# Devices


@pytest.mark.parametrize("way", WAYS)
def test_model_fitted_on_cuda_is_loaded_where_there_is_none(way, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    clf = by_pickle(fitted_once("vri"), None)
    expected = clf.predict_proba(X)
    clf.device_ = "cuda:7"  # the next test shows that no other device is known
    loaded = way(clf, tmp_path / "model")
    assert loaded.device_ == "cpu"
    assert loaded.net_.device == torch.device("cpu")
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)


@pytest.mark.parametrize("model", MODELS)
def test_pickle_is_plain_python_and_numpy(model):
    assert b"torch" not in pickle.dumps(fitted_once(model))


DAYS = pd.date_range("2020-01-01", periods=40, tz="UTC")
NAMES = {
    "time zone": DAYS,
    "periods": pd.period_range("2020-01-01", periods=40),
    "two levels": pd.MultiIndex.from_product([DAYS[:20], ["a", "b"]]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_files_hold_no_objects_of_pandas(kind, tmp_path):
    io = pytest.importorskip("skops.io")
    table = pd.DataFrame(X, index=NAMES[kind])
    clf = fitted(rows=table, missing_label=pd.NA)
    assert b"pandas" not in pickle.dumps(clf)
    io.dump(clf, tmp_path / "model.skops")
    loaded = io.load(tmp_path / "model.skops", trusted=[OWN_TYPE])
    np.testing.assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    found = find_label_issues(loaded).row_names
    texts = [tuple(map(str, name)) if kind == "two levels" else str(name) for name in table.index]
    assert found.tolist() == texts
    assert find_label_issues(clf).row_names.tolist() == table.index.tolist()
    assert np.isnan(loaded.missing_label)
