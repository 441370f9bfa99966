"""What holds on a CUDA device as it does on the CPU."""

import math
import pickle

import numpy as np
import pytest
import torch

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.training import captured_steps

from .data import SMALL, make_rows
from .graph import names_of_cuda, tensors

# Most machines have no such device; what can be tested without one is tested in the other files.
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

X, y, _ = make_rows()


def on_cuda(**params):
    return CLIDMUClassifier(**{**SMALL, "device": "cuda", **params})


def test_auto_is_cuda_where_there_is_one():
    clf = on_cuda(device="auto").fit(X, y)
    assert torch.device(clf.device_).type == "cuda"


def test_tensors_on_the_device_are_taken_as_arrays():
    clf = on_cuda().fit(torch.tensor(X, device="cuda"), torch.tensor(y, device="cuda"))
    predicted = clf.predict_proba(torch.tensor(X, device="cuda"))
    assert type(clf.noise_scores_) is type(predicted) is np.ndarray
    np.testing.assert_array_equal(predicted, on_cuda().fit(X, y).predict_proba(X))


# Dropout draws other masks on another device, and VRI other noise.
@pytest.mark.parametrize("weighting", ["evidence", "wnet", None])
@pytest.mark.parametrize("virtual_step", ["head", "full"])
def test_a_fit_on_cuda_agrees_with_one_on_the_cpu(weighting, virtual_step):
    params = {"weighting": weighting, "virtual_step": virtual_step, "dropout": 0.0}
    there = on_cuda(dtype="float64", **params).fit(X, y)
    here = on_cuda(dtype="float64", device="cpu", **params).fit(X, y)
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), rtol=0, atol=1e-4)
    for key in ("noise_scores_", "sample_weights_"):
        np.testing.assert_allclose(getattr(there, key), getattr(here, key), rtol=0, atol=1e-4)


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
@pytest.mark.parametrize("virtual_step", ["head", "full"])
@pytest.mark.parametrize("meta_batch_size", [None, 32])
def test_a_fit_of_recorded_steps_ends_where_one_without_does(
    weighting, virtual_step, meta_batch_size, monkeypatch
):
    params = {"virtual_step": virtual_step, "meta_batch_size": meta_batch_size}
    params = {"weighting": weighting, "batch_size": 16, "dtype": "float64", **params}
    with monkeypatch.context() as patch:
        patch.setattr(captured_steps, "N_EAGER", math.inf)
        expected = on_cuda(**params).fit(X, y)
    clf = on_cuda(**params).fit(X, y)
    assert clf.net_.capture_error_ is None
    np.testing.assert_allclose(clf.predict_proba(X), expected.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("virtual_step", ["head", "full"])
def test_ten_steps_on_cuda_are_those_on_the_cpu(virtual_step, monkeypatch):
    monkeypatch.setattr(captured_steps, "N_EAGER", 2)
    # The table fits one batch, which no device shuffles; an epoch takes ten steps.
    params = {"max_epochs": 1, "warmup_epochs": 0, "refit": False, "virtual_step": virtual_step}
    params = {"dtype": "float32", "dropout": 0.0, **params}
    there, here = (on_cuda(**{**params, "device": d}).fit(X, y) for d in ("cuda", "cpu"))
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), rtol=1e-4)


@pytest.mark.parametrize("weighting", ["evidence", "vri", None])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_attributes_are_numpy_and_no_tensor_is_left_outside_the_net(weighting, early_stopping):
    clf = on_cuda(weighting=weighting, early_stopping=early_stopping, batch_size=16).fit(X, y)
    for key in ("classes_", "noise_scores_", "sample_weights_"):
        assert isinstance(getattr(clf, key), np.ndarray)
    assert all(isinstance(curve, np.ndarray) for curve in clf.history_.values())
    assert isinstance(clf.predict_proba(X), np.ndarray)
    copied = pickle.loads(pickle.dumps(clf))
    for fitted in (clf, copied):
        assert [path for path in tensors(fitted) if not path.startswith(".net_")] == []
    np.testing.assert_array_equal(copied.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("random_state", [None, 0])
def test_the_generators_of_cuda_are_left_alone(random_state):
    before = torch.cuda.get_rng_state_all()
    on_cuda(random_state=random_state, batch_size=16).fit(X, y).predict(X)
    after = torch.cuda.get_rng_state_all()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_is_pickled_on_cuda_names_the_device_once():
    clf = on_cuda(device="auto").fit(X, y)
    state = clf.__getstate__()
    assert tensors(state) == []
    assert names_of_cuda(state) == ["['device_']"]
    assert b"torch" not in pickle.dumps(clf)


def test_a_model_that_is_saved_on_cuda_is_loaded_on_it(tmp_path):
    pytest.importorskip("safetensors")
    clf = on_cuda().fit(X, y)
    clf.save(tmp_path / "model.safetensors")
    loaded = CLIDMUClassifier.load(tmp_path / "model.safetensors")
    assert loaded.device_ == clf.device_
    np.testing.assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))
