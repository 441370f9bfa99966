"""Whole fits whose training steps are recorded and replayed, as on a GPU."""

import numpy as np
import pytest
from training.host_recorder import HostRecorder, record_on_the_host

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator.checkpoints import Checkpoints

from .data import SMALL, make_rows

X, y, _ = make_rows()

FITS = {
    "default": {},
    "without reweighting": {"weighting": None},
    "the paper's": {"weighting": "vri", "virtual_step": "full", "meta_batch_size": 32},
    "with early stopping": {"early_stopping": True},
}


@pytest.fixture
def recorders(monkeypatch):
    """Recorders of all nets that are trained from here on, which record on the CPU."""
    return record_on_the_host(monkeypatch, n_eager=2)


def fitted(params):
    return CLIDMUClassifier(**{**SMALL, "batch_size": 16, "dtype": "float64", **params}).fit(X, y)


@pytest.mark.parametrize("fit", FITS)
def test_a_fit_of_recorded_steps_ends_where_any_other_does(fit, request):
    expected = fitted(FITS[fit])
    recorders = request.getfixturevalue("recorders")
    found = fitted(FITS[fit])
    assert len(recorders) == found.history_["training"].max()
    assert all(recorder.n_replays > recorder.n_recordings > 0 for recorder in recorders)
    for key in ("noise_scores_", "sample_weights_"):
        np.testing.assert_allclose(getattr(found, key), getattr(expected, key), atol=1e-4)
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-4)


def test_a_warning_says_why_steps_could_not_be_recorded(recorders, monkeypatch):
    def refuse(recorder, work):
        raise RuntimeError("operation not permitted when stream is capturing")

    expected = fitted({}).predict_proba(X)
    monkeypatch.setattr(HostRecorder, "__call__", refuse)
    with pytest.warns(RuntimeWarning, match=r"could not be recorded on cpu \(operation not perm"):
        clf = fitted({})
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-8)


def test_a_fit_that_was_stopped_goes_on_with_recorded_steps(recorders, tmp_path, monkeypatch):
    expected = fitted({}).predict_proba(X)
    n_written, write = [], Checkpoints.write

    def stop(*args):
        write(*args)
        n_written.append(1)
        if len(n_written) == 5:  # in the second training
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            fitted({"checkpoint_dir": tmp_path})
    found = fitted({"checkpoint_dir": tmp_path}).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=1e-8)
