"""Where a device has too little memory, the error says what to set."""

import numpy as np
import pytest
import torch
from classifier.data import make_rows, small

from sklearn_clidmu.training.networks import MLP

X, y, _ = make_rows()
ADVICE = r"2 TiB.*Lower batch_size, meta_batch_size.*device='cpu'"


@pytest.fixture
def no_memory(monkeypatch):
    """A device without room for a pass through a network, once this is called."""

    def fail(self, rows):
        raise torch.cuda.OutOfMemoryError("tried to allocate 2 TiB")

    return lambda: monkeypatch.setattr(MLP, "forward", fail)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_fit_without_memory_says_what_to_set_and_leaves_no_trace(method, no_memory):
    no_memory()
    clf = small()
    args = (X, y) if method == "fit" else (X, y, [0, 1])
    with pytest.raises(MemoryError, match=ADVICE):
        getattr(clf, method)(*args)
    assert vars(clf).keys() == clf.get_params().keys()


def test_predict_without_memory_says_what_to_set(no_memory, monkeypatch):
    clf = small().fit(X, y)
    expected = clf.predict_proba(X)
    no_memory()
    with pytest.raises(MemoryError, match=ADVICE):
        clf.predict(X)
    monkeypatch.undo()
    np.testing.assert_array_equal(clf.predict_proba(X), expected)
