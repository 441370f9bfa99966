"""Exported graphs predict what the classifier predicts, in another runtime."""

import os
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from classifier.data import make_rows, small
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.torch_version import TorchVersion

from sklearn_clidmu import CLIDMUClassifier, export_onnx

X, y, _ = make_rows(60, n_classes=3, noise=0)


def fitted(labels=y, rows=X, **params):
    return small(**params).fit(rows, labels)


def run(clf, path, rows):
    """Labels and probabilities of the exported graph, and its input."""
    export_onnx(clf, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64}[given.type]
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
    return [session.run(None, {"X": part.astype(dtype)}) for part in rows], given


@pytest.mark.parametrize(
    ("params", "dtype"),
    [
        ({}, "tensor(double)"),
        ({"batch_size": 16, "max_epochs": 12, "early_stopping": True}, "tensor(float)"),
        ({"hidden_layer_sizes": (9, 8, 7), "weighting": "vri"}, "tensor(double)"),
        ({"hidden_layer_sizes": 5, "weighting": None, "batch_size": 16}, "tensor(float)"),
    ],
    ids=str,
)
def test_export_onnx_predicts_what_the_classifier_predicts(params, dtype, tmp_path):
    clf = fitted(**params)
    rows = np.concatenate([X, 10 * X, np.zeros((1, 4))])
    parts = [rows, rows[:1], rows[:2]]  # any number of rows
    results, given = run(clf, tmp_path / "model.onnx", parts)
    assert (given.name, given.type, given.shape) == ("X", dtype, ["n_samples", 4])
    for part, (label, probabilities) in zip(parts, results, strict=True):
        np.testing.assert_allclose(probabilities, clf.predict_proba(part), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(label, clf.predict(part))
    assert len(np.unique(clf.predict(rows))) > 1


def test_export_onnx_divides_by_the_unit_of_a_sparse_table(tmp_path):
    rows = np.hstack([X / 1000, np.zeros((len(X), 256))])  # narrow ones have none
    table = sparse.csr_array(rows)
    clf = fitted(rows=table)
    [(_, probabilities)], _ = run(clf, tmp_path / "model.onnx", [rows])
    np.testing.assert_allclose(probabilities, clf.predict_proba(table), rtol=0, atol=1e-9)
    assert np.ptp(probabilities, axis=0).max() > 0.1
    clf.set_params(batch_size=16).fit(sparse.csr_array(1e-60 * rows), y)
    with pytest.raises(ValueError, match=r"columns too large or small for torch\.float32"):
        export_onnx(clf, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "names",
    [
        np.array(["no", "yes", "\N{SNOWMAN}"]),
        np.array(["no", "yes", "\N{SNOWMAN}"], dtype=object),
        np.array([-7, 0, 2**40]),
        np.array([1, 3, 200], dtype=np.uint8),
        np.array([1.0, 2.0, 3.0], dtype=np.float32),
        np.array([False, True]),
        np.array([-7, 0, 2**20], dtype=">i4"),
        np.array(["no", "yes"], dtype=">U3"),
    ],
    ids=lambda names: str(names.dtype),
)
def test_export_onnx_keeps_the_classes(names, tmp_path):
    clf = fitted(names[y % len(names)])
    [(label, _)], _ = run(clf, tmp_path / "model.onnx", [X])
    np.testing.assert_array_equal(label, clf.predict(X))
    if names.dtype.kind != "U":
        assert label.dtype == names.dtype.newbyteorder("=")


def test_export_onnx_writes_no_cosine_which_older_runtimes_lack_in_float64(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(fitted(), path)
    assert "Cos" not in {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("width", [8, 50])  # with an embedding of the features, and without
def test_export_onnx_writes_no_constant_that_is_not_used(width, tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(fitted(rows=np.random.RandomState(0).normal(size=(len(y), width))), path)
    graph = onnx.load(path).graph
    used = {name for node in graph.node for name in node.input}
    assert {one.name for one in graph.initializer} <= used


def test_export_onnx_writes_no_path_of_this_machine(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(fitted(), path)
    assert b".py" not in path.read_bytes()
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_export_onnx_prints_nothing_and_leaves_the_classifier_alone(tmp_path):
    code = f"""
import numpy as np
from sklearn_clidmu import CLIDMUClassifier, export_onnx
X, y = np.eye(4).repeat(5, axis=0), np.arange(20) // 5
clf = CLIDMUClassifier(max_epochs=3, random_state=0).fit(X, y)
before = clf.predict_proba(X)
export_onnx(clf, {str(tmp_path / "model.onnx")!r})
assert (clf.predict_proba(X) == before).all()
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    of_onnxscript = r"Applied \d+ of general pattern rewrite rules\.\n"  # before 0.7
    printed = re.sub(of_onnxscript, "", done.stdout)
    assert (done.returncode, printed, done.stderr) == (0, "", "")
    assert (tmp_path / "model.onnx").exists()


def test_export_onnx_refuses_what_it_cannot_write(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"torch\.onnx\.export on clf\.net_\.module_"):
        export_onnx(fitted(module=nn.Linear), path)
    clf = fitted()
    for classes in (np.array([1, "a", None], dtype=object), np.arange(3, dtype=np.longdouble)):
        clf.classes_ = classes
        with pytest.raises(ValueError, match="classes_ must be numbers, booleans or strings"):
            export_onnx(clf, path)
    with pytest.raises(NotFittedError):
        export_onnx(CLIDMUClassifier(), path)
    for other in (make_pipeline(clf), LogisticRegression(), None):
        with pytest.raises(TypeError, match=rf"got {type(other).__name__}.*pipeline\[-1\]"):
            export_onnx(other, path)
    assert not path.exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_export_onnx_says_how_to_install_a_missing_package(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-clidmu\[onnx\]'"):
        export_onnx(fitted(), tmp_path / "model.onnx")


def test_export_onnx_says_which_torch_it_needs(monkeypatch, tmp_path):
    clf, path = fitted(), tmp_path / "model.onnx"
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.4.1+cpu"))
    with pytest.raises(ImportError, match=r"torch 2\.5 or later, got 2\.4\.1\+cpu"):
        export_onnx(clf, path)
    assert not path.exists()
