"""What holds on a CUDA device as it does on the CPU."""

import pickle

import numpy as np
import pytest
import torch

from sklearn_clidmu import CLIDMUClassifier

from .data import SMALL, make_rows

# Most machines have no such device; what can be tested without one is tested in the other files.
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

X, y, _ = make_rows()


def on_cuda(**params):
    return CLIDMUClassifier(**{**SMALL, "device": "cuda", **params})


def test_device_auto_is_cuda_where_there_is_one():
    clf = on_cuda(device="auto").fit(X, y)
    assert torch.device(clf.device_).type == "cuda"


def test_tensors_on_cuda_are_taken_as_arrays():
    clf = on_cuda().fit(torch.tensor(X, device="cuda"), torch.tensor(y, device="cuda"))
    predicted = clf.predict_proba(torch.tensor(X, device="cuda"))
    assert type(clf.noise_scores_) is type(predicted) is np.ndarray
    np.testing.assert_allclose(predicted, on_cuda().fit(X, y).predict_proba(X), atol=1e-6)


# Dropout draws other masks on another device, and VRI other noise.
@pytest.mark.parametrize("weighting", ["evidence", "wnet", None])
@pytest.mark.parametrize("virtual_step", ["head", "full"])
def test_fit_on_cuda_agrees_with_one_on_the_cpu(weighting, virtual_step):
    params = {"weighting": weighting, "virtual_step": virtual_step, "dropout": 0.0}
    there = on_cuda(**params).fit(X, y)
    here = on_cuda(device="cpu", **params).fit(X, y)
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), rtol=0, atol=1e-4)
    for key in ("noise_scores_", "sample_weights_"):
        np.testing.assert_allclose(getattr(there, key), getattr(here, key), rtol=0, atol=1e-4)


@pytest.mark.parametrize("weighting", ["evidence", "vri", None])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_attributes_are_numpy_and_a_pickle_names_the_device_once(weighting, early_stopping):
    params = {"weighting": weighting, "early_stopping": early_stopping, "batch_size": 16}
    clf = on_cuda(device="auto", **params).fit(X, y)
    for key in ("classes_", "noise_scores_", "sample_weights_"):
        assert isinstance(getattr(clf, key), np.ndarray)
    assert all(isinstance(curve, np.ndarray) for curve in clf.history_.values())
    pickled = pickle.dumps(clf)
    assert b"torch" not in pickled
    assert pickled.count(b"cuda") == 1
    np.testing.assert_array_equal(pickle.loads(pickled).predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("random_state", [None, 0])
def test_fit_leaves_the_generators_of_cuda_alone(random_state):
    before = torch.cuda.get_rng_state_all()
    on_cuda(random_state=random_state, batch_size=16).fit(X, y).predict(X)
    after = torch.cuda.get_rng_state_all()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
