"""Exported graphs predict what the classifier does, in another runtime."""

import sys

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from torch import nn

from sklearn_clidmu import CLIDMUClassifier, export_onnx

from .data import SMALL, make_rows

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

X, y, _ = make_rows(60, n_classes=3)


def fitted(labels=y, **params):
    return CLIDMUClassifier(**{**SMALL, **params}).fit(X, labels)


def run(path, rows):
    """Labels and probabilities of the graph in a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    kind = {"tensor(float)": np.float32, "tensor(double)": np.float64}[given.type]
    return session.run(["label", "probabilities"], {"X": rows.astype(kind)}), given


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n_snapshots": 3},
        {"hidden_layer_sizes": 5, "early_stopping": True},
        {"weighting": "vri", "hidden_layer_sizes": (9, 8, 7)},
        {"batch_size": 16, "max_epochs": 12},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_graph_predicts_what_the_classifier_does(params, dtype, tmp_path):
    clf = fitted(dtype=dtype, **params)
    export_onnx(clf, tmp_path / "model.onnx")
    rows = np.concatenate([X, 10 * X, np.zeros((1, 4))])
    (label, probabilities), given = run(tmp_path / "model.onnx", rows)
    expected = clf.predict_proba(rows)
    assert given.type == {"float32": "tensor(float)", "float64": "tensor(double)"}[dtype]
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(label, clf.predict(rows))
    assert len(np.unique(label)) > 1


def test_the_graph_takes_any_number_of_rows(tmp_path):
    clf = fitted()
    export_onnx(clf, tmp_path / "model.onnx")
    for n in (1, 2, 50):
        (label, probabilities), given = run(tmp_path / "model.onnx", X[:n])
        assert given.shape == ["n_samples", 4]
        assert label.shape == (n,)
        assert probabilities.shape == (n, 3)


@pytest.mark.parametrize(
    "names",
    [
        np.array(["no", "yes", "\N{SNOWMAN}"]),
        np.array(["no", "yes", "\N{SNOWMAN}"], dtype=object),
        np.array([-7, 0, 2**40]),
        np.array([1, 3, 200], dtype=np.uint8),
        np.array([1.0, 2.0, 3.0], dtype=np.float32),
        np.array([False, True]),
    ],
    ids=lambda names: str(names.dtype),
)
def test_labels_are_the_classes(names, tmp_path):
    clf = fitted(names[y % len(names)])
    export_onnx(clf, tmp_path / "model.onnx")
    (label, _), _ = run(tmp_path / "model.onnx", X)
    np.testing.assert_array_equal(label, clf.predict(X))
    if names.dtype.kind != "U":
        assert label.dtype == names.dtype


def test_a_module_of_ones_own_is_refused_with_the_way_to_export_it(tmp_path):
    clf = fitted(module=nn.Linear)
    with pytest.raises(ValueError, match=r"torch\.onnx\.export on clf\.net_\.module_"):
        export_onnx(clf, tmp_path / "model.onnx")


def test_classes_that_onnx_does_not_know_are_refused(tmp_path):
    clf = fitted()
    clf.classes_ = np.array([1, "a", None], dtype=object)
    with pytest.raises(ValueError, match="classes_ must be numbers, booleans or strings"):
        export_onnx(clf, tmp_path / "model.onnx")


def test_an_unfitted_classifier_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        export_onnx(CLIDMUClassifier(), tmp_path / "model.onnx")


def test_a_missing_package_is_named_with_its_mend(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-clidmu\[onnx\]'"):
        export_onnx(fitted(), tmp_path / "model.onnx")
