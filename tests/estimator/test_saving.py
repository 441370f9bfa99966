"""Saved models: what comes back, on which device, and what a bad file can do.

tests/data/write_saved_model.py writes the files of earlier versions that are loaded here.
"""

import copy
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import joblib
import numpy as np
import pytest
import torch
from faults.mutations import places, put
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from torch import nn

from sklearn_clidmu import CLIDMUClassifier

from .data import SMALL, make_rows
from .graph import names_of_cuda, tensors

cloudpickle = pytest.importorskip("cloudpickle")
safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

pytestmark = pytest.mark.usefixtures("coarse_judge")

X, y, _ = make_rows()
DATA = Path(__file__).resolve().parents[1] / "data"
OWN_TYPE = "sklearn_clidmu.estimator.classifier.CLIDMUClassifier"


def fitted(labels=y, rows=X, **params):
    return CLIDMUClassifier(**{**SMALL, **params}).fit(rows, labels)


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


def by_save(clf, path):
    clf.save(path)
    return CLIDMUClassifier.load(path, module=clf.module)


def by_skops(clf, path):
    skops_io = pytest.importorskip("skops.io")
    skops_io.dump(clf, path)
    assert skops_io.get_untrusted_types(file=path) == [OWN_TYPE]
    return skops_io.load(path, trusted=[OWN_TYPE])


PICKLED = [by_pickle, by_joblib, by_memory_map, by_cloudpickle, by_deepcopy]
WAYS = [*PICKLED, by_save, by_skops]

MODELS = {
    "default": {},
    "minibatches": {"batch_size": 16},
    "vri": {"weighting": "vri", "batch_size": 16},
    "wnet": {"weighting": "wnet"},
    "unweighted": {"weighting": None},
    "snapshots": {"n_snapshots": 2},
    "early stopping": {"early_stopping": True, "hidden_layer_sizes": 7},
    "single precision": {"dtype": "float32", "class_weight": {0: 1, 1: np.float64(2)}},
}
OWN_MODULES = {
    "one": {"module": normalizing, "batch_size": 16},
    "mean of two": {"module": normalizing, "batch_size": 16, "n_snapshots": 2},
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
def test_a_saved_model_comes_back_to_the_bit(way, model, tmp_path):
    clf = fitted_once(model)
    loaded = way(clf, tmp_path / "model")
    assert_same_model(loaded, clf)
    assert_same_model(way(loaded, tmp_path / "again"), clf)


@pytest.mark.parametrize("way", [*PICKLED, by_save])
@pytest.mark.parametrize("model", OWN_MODULES)
def test_a_module_of_ones_own_comes_back_to_the_bit(way, model, tmp_path):
    clf = fitted_once(model)
    assert_same_model(way(clf, tmp_path / "model"), clf)


def test_cloudpickle_keeps_a_module_that_has_no_name():
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


def test_names_of_features_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(X, columns=list("abcd"))
    clf = fitted(rows=rows)
    for way in WAYS:
        assert_same_model(way(clf, tmp_path / way.__name__), clf, rows)


def test_what_is_set_beside_the_parameters_comes_back(tmp_path):
    clf = fitted()
    clf.remarks_ = {"a": (1, [None, True]), 2: np.array(["x", None, 3.5], dtype=object)}
    clf.figures_ = [np.float32(0.1), np.array(float("nan")), float("-inf"), 10**40, np.str_("é")]
    clf.twins_ = {1: np.int8(1), "1": np.int8(2)}
    clf.names_ = np.array([["ab", "c"], ["", "d"]], dtype=">U3")
    loaded = by_save(clf, tmp_path / "model")
    clf.figures_[-1], clf.names_ = "é", clf.names_.astype("<U3")
    assert_same_model(loaded, clf)


def test_a_loaded_model_fits_again_as_the_saved_one_does(tmp_path):
    clf = fitted()
    loaded = by_save(clf, tmp_path / "model")
    assert_same_model(loaded.fit(X, y), clf.fit(X, y))


def test_requests_of_metadata_are_not_part_of_a_saved_model(tmp_path):
    clf = fitted()
    with config_context(enable_metadata_routing=True):
        clf.set_fit_request(sample_weight=True)
    assert hasattr(clf, "_metadata_request")
    assert not hasattr(by_save(clf, tmp_path / "model"), "_metadata_request")


def test_an_unfitted_classifier_is_copied_but_not_saved(tmp_path):
    clf = CLIDMUClassifier(lr=0.1)
    assert by_pickle(clf, None).get_params() == clf.get_params()
    with pytest.raises(NotFittedError):
        clf.save(tmp_path / "model")


def test_a_subclass_comes_back_with_its_own_parameters(tmp_path):
    clf = Named(name="eve", **SMALL).fit(X, y)
    clf.save(tmp_path / "model")
    loaded = Named.load(tmp_path / "model")
    assert type(loaded) is Named
    assert_same_model(loaded, clf)


class Named(CLIDMUClassifier):
    def __init__(self, *, name="", hidden_layer_sizes=(3,), max_epochs=2, random_state=None):
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes, max_epochs=max_epochs, random_state=random_state
        )
        self.name = name

    _parameter_constraints: ClassVar = {**CLIDMUClassifier._parameter_constraints, "name": [str]}


def test_equal_models_make_equal_files(tmp_path):
    for name in ("first", "second"):
        fitted(n_snapshots=2).save(tmp_path / name)
    CLIDMUClassifier.load(tmp_path / "first").save(tmp_path / "third")
    first, second, third = ((tmp_path / n).read_bytes() for n in ("first", "second", "third"))
    assert first == second == third


def test_loading_leaves_the_generators_alone(tmp_path):
    clf = fitted(module=normalizing, weighting="vri", batch_size=16)
    before = torch.get_rng_state()
    for way in (by_pickle, by_save):
        way(clf, tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_shares_no_parameters_with_the_original():
    clf = fitted()
    for copied in (copy.copy(clf), by_pickle(clf, None)):
        theirs = {p.data_ptr() for p in copied.net_.module_.parameters()}
        assert not theirs & {p.data_ptr() for p in clf.net_.module_.parameters()}


def test_loading_does_not_bring_in_optimizers(tmp_path):
    # The first optimizer of a process imports torch's compiler, which takes seconds.
    path = tmp_path / "model"
    fitted(weighting="vri").save(path)
    code = f"""
import sys
from sklearn_clidmu import CLIDMUClassifier
CLIDMUClassifier.load({str(path)!r}).predict([[0.0] * 4])
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# Devices


@pytest.mark.parametrize("way", WAYS)
def test_a_model_fitted_on_cuda_is_loaded_where_there_is_none(way, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    clf = by_pickle(fitted_once("snapshots"), None)
    expected = clf.predict_proba(X)
    clf.device_ = "cuda:7"  # what is saved names no other device: the next test
    loaded = way(clf, tmp_path / "model")
    assert loaded.device_ == "cpu"
    assert names_of_cuda(loaded) == []
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_saved_is_plain_python_and_numpy(model):
    clf = fitted_once(model)
    assert tensors(clf.__getstate__()) == []
    assert b"torch" not in pickle.dumps(clf)


@pytest.mark.parametrize("way", WAYS)
def test_a_loaded_model_has_no_tensor_outside_the_net(way, tmp_path):
    loaded = way(fitted_once("snapshots"), tmp_path / "model")
    found = tensors(loaded)
    assert found
    assert [path for path in found if not path.startswith(".net_")] == []


def test_the_walk_finds_what_is_hidden():
    hidden = torch.zeros(1)
    device = torch.device("cuda:1")
    root = {"a": [partial(print, hidden)], "b": lambda: device, "c": fitted()}
    assert "['a'][0].args[0]" in tensors(root)
    assert names_of_cuda(root) == ["['b']<closure>"]
    assert any(path.startswith("['c'].net_") for path in tensors(root))


# Earlier versions

SAVED = sorted(DATA.glob("model-*.safetensors"))


def test_there_are_files_of_earlier_versions():
    assert SAVED


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_files_of_earlier_versions_are_loaded(path):
    clf = CLIDMUClassifier.load(path)
    expected = np.load(path.with_suffix(".npz"))
    probabilities = clf.predict_proba(expected["X"])
    np.testing.assert_allclose(probabilities, expected["probabilities"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(clf.noise_scores_, expected["noise_scores"])
    np.testing.assert_array_equal(clf.sample_weights_, expected["sample_weights"])
    assert list(clf.classes_) == ["ant", "bee", "wasp"]
    assert clf.weight_net_ is not None


# What is refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("random_state", np.random.RandomState(0)),
        ("meta_objective", lambda features, logits, targets, weight: logits.sum() * 0),
        ("class_weight", {0: np.longdouble(1), 1: 2}),
        ("class_weight", np.array([[{}]])),
        ("class_weight", np.array(["2020-01-01"], dtype="M8[D]")),
    ],
)
def test_a_parameter_that_is_code_is_refused_by_its_name(name, value, tmp_path):
    clf = fitted().set_params(**{name: value})
    with pytest.raises(ValueError, match=f"^{name}.* cannot be saved, being .*Use pickle"):
        clf.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_module_of_ones_own_has_to_be_given_again(tmp_path):
    path = tmp_path / "model"
    fitted(module=normalizing).save(path)
    with pytest.raises(ValueError, match=r"module of your own: load\(path, module=...\)"):
        CLIDMUClassifier.load(path)
    with pytest.raises(ValueError, match=f"{path} cannot be loaded[^$]*size mismatch"):
        CLIDMUClassifier.load(path, module=partial(normalizing, width=7))
    fitted().save(path)
    with pytest.raises(ValueError, match="without a module of your own"):
        CLIDMUClassifier.load(path, module=normalizing)


@pytest.mark.parametrize("name", ["save", "load"])
def test_a_missing_package_is_named_with_its_mend(name, monkeypatch, tmp_path):
    clf = fitted()
    for module in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-clidmu\[save\]'"):
        getattr(clf, name)(tmp_path / "model")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        CLIDMUClassifier.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fitted().save(tmp_path / "nowhere" / "model")


class Bomb:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_loading_executes_nothing(tmp_path):
    path, struck = tmp_path / "model", tmp_path / "struck"
    path.write_bytes(pickle.dumps(Bomb(struck)))
    with pytest.raises(ValueError, match=f"{path} cannot be loaded as a CLIDMUClassifier"):
        CLIDMUClassifier.load(path)
    assert not struck.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"{}",
        b"\0" * 100,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 10**15) + b"{}",
        struct.pack("<Q", 2**64 - 1),
        safetensors_numpy.save({"a": np.zeros(3)}),
        safetensors_numpy.save({"a": np.zeros(3)}, metadata={"sklearn_clidmu": "{}"}),
        pickle.dumps({"a": 1}),
    ],
)
def test_files_of_another_kind_are_refused(content, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} cannot be loaded as a CLIDMUClassifier: it "):
        CLIDMUClassifier.load(path)


# Files made to do harm


def read(path):
    """JSON text and arrays of a saved file."""
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata()["sklearn_clidmu"], arrays


def write(path, text, arrays):
    """Write a file whose digest is right, as somebody would who means it."""
    arrays = {name: array for name, array in arrays.items() if name != "sha256"}
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    arrays["sha256"] = np.frombuffer(digest.digest(), np.uint8)
    path.write_bytes(safetensors_numpy.save(arrays, metadata={"sklearn_clidmu": text}))


def load_or_refuse(path):
    """Whether a file is refused by its name; what is not must predict."""
    try:
        clf = CLIDMUClassifier.load(path)
    except ValueError as refusal:
        error = refusal
    else:
        error = None
    if error is not None:
        assert str(error).startswith(f"{path} cannot be loaded")
        return True
    probabilities = clf.predict_proba(X)
    assert probabilities.shape == (len(X), len(clf.classes_))
    assert clf.predict(X).shape == (len(X),)
    return False


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    labels = np.array(["no", "yes"])[y]
    fitted(labels, n_snapshots=2, hidden_layer_sizes=(4, 3), class_weight="balanced").save(path)
    return path


def test_files_that_are_cut_or_changed_by_accident_are_refused(saved, tmp_path):
    content, rng = saved.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "model"
    for i in range(200):
        where = int(rng.integers(len(content)))
        if i % 4 == 0:
            changed = content[:where]
        elif i % 4 == 1:
            changed = content[:where] + bytes(rng.bytes(9)) + content[where:]
        else:
            flipped = content[where] ^ (1 << int(rng.integers(8)))
            changed = content[:where] + bytes([flipped]) + content[where + 1 :]
        path.write_bytes(changed)
        assert load_or_refuse(path), f"change {i}, at {where}"


STRANGE = [None, True, -1, 0, 7, 2**70, 0.5, float("nan"), "", "cuda", [], [[]], {}, {"a": 1}]
STRANGE += [{"dict": [[[], 1]]}, {"array": "classes_"}, {"tuple": [4, 3]}, {"array": "none"}]


def test_a_forged_text_is_refused_or_harmless(saved, tmp_path):
    text, arrays = read(saved)
    document = json.loads(text)
    everywhere = list(places(document))
    rng = np.random.default_rng(0)
    path = tmp_path / "model"
    refused = 0
    for i in range(150):
        where = everywhere[int(rng.integers(len(everywhere)))]
        value = STRANGE[int(rng.integers(len(STRANGE)))]
        if i % 3 == 0:  # something from elsewhere in the file
            source = everywhere[int(rng.integers(len(everywhere)))]
            value = document
            for key in source:
                value = value[key]
        write(path, json.dumps(put(document, where, value)), arrays)
        refused += load_or_refuse(path)
    assert 50 < refused < 150


def test_forged_arrays_are_refused_or_harmless(saved, tmp_path):
    text, arrays = read(saved)
    path = tmp_path / "model"
    for name, array in arrays.items():
        others = [array.T, array.reshape(-1)[:1], array[..., None], np.zeros((0, 4))]
        others += [array.astype(np.float16), np.full(array.shape, np.nan)]
        for other in others:
            write(path, text, {**arrays, name: np.ascontiguousarray(other)})
            load_or_refuse(path)
        write(path, text, {key: value for key, value in arrays.items() if key != name})
        assert load_or_refuse(path) or name == "sha256"


@pytest.mark.parametrize("name", ["predict", "__class__", "__sklearn_is_fitted__", "weight_net_"])
def test_a_file_cannot_replace_a_method(name, saved, tmp_path):
    text, arrays = read(saved)
    document = json.loads(text)
    document["state"][name] = 1
    write(tmp_path / "model", json.dumps(document), arrays)
    with pytest.raises(ValueError, match="no fitted attributes"):
        CLIDMUClassifier.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_features_in_", 5),
        ("n_features_in_", 4.0),
        ("classes_", [0, 1]),
        ("classes_", {"objects": [0, 1, 2]}),
        ("feature_names_in_", {"objects": ["a", "b", "c"]}),
        ("feature_names_in_", {"objects": ["a", "b", "c", 4]}),
        ("device_", None),
        ("_row_shape", {"tuple": [5]}),
        ("_unit", 0.0),
        ("_unit", 1),
    ],
)
def test_attributes_that_do_not_fit_the_network_are_refused(name, value, saved, tmp_path):
    text, arrays = read(saved)
    document = json.loads(text)
    document["state"][name] = value
    write(tmp_path / "model", json.dumps(document), arrays)
    with pytest.raises(ValueError, match=f"CLIDMUClassifier: {name} (is|are) not "):
        CLIDMUClassifier.load(tmp_path / "model")


def test_rows_that_are_no_vectors_are_refused_without_a_module(saved, tmp_path):
    text, arrays = read(saved)
    document = json.loads(text)
    network = dict(document["state"]["net_"]["dict"])["network"]["dict"]
    [shape] = [entry for entry in network if entry[0] == "row_shape"]
    shape[1] = document["state"]["_row_shape"] = {"tuple": [4, 1]}
    write(tmp_path / "model", json.dumps(document), arrays)
    with pytest.raises(ValueError, match="more than one dimension need a module of your own"):
        CLIDMUClassifier.load(tmp_path / "model")


@pytest.mark.parametrize(("name", "value"), [("dropout", 2), ("weighting", "none"), ("lr", "-1")])
def test_parameters_are_validated(name, value, saved, tmp_path):
    text, arrays = read(saved)
    document = json.loads(text)
    document["state"][name] = value
    write(tmp_path / "model", json.dumps(document), arrays)
    with pytest.raises(ValueError, match=f"cannot be loaded .* The '{name}' parameter"):
        CLIDMUClassifier.load(tmp_path / "model")


def test_a_later_format_is_told_with_the_version_that_reads_it(saved, tmp_path):
    text, arrays = read(saved)
    later = json.dumps({**json.loads(text), "format": 99, "version": "9.8"})
    write(tmp_path / "model", later, arrays)
    with pytest.raises(ValueError, match=r"format 99, written by sklearn-clidmu 9\.8"):
        CLIDMUClassifier.load(tmp_path / "model")


def test_deep_nesting_is_refused(saved, tmp_path):
    text, arrays = read(saved)
    deep = text.replace('"n_iter_": 3', '"n_iter_": ' + "[" * 100_000 + "]" * 100_000)
    assert deep != text
    write(tmp_path / "model", deep, arrays)
    with pytest.raises(ValueError, match="model cannot be loaded"):
        CLIDMUClassifier.load(tmp_path / "model")


def header_of_terabytes(saved):
    """A file whose header says that an array has ten terabytes."""
    array = {"dtype": "F32", "shape": [2 * 10**12 + 500 * 10**9], "data_offsets": [0, 10**13]}
    header = json.dumps({"a": array}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 100


def network_of(n_units, saved):
    """A file that describes a network of two layers of as many units."""
    text, arrays = read(saved)
    document = json.loads(text)
    network = dict(document["state"]["net_"]["dict"])["network"]["dict"]
    [sizes] = [entry for entry in network if entry[0] == "hidden_layer_sizes"]
    sizes[1] = {"tuple": [n_units, n_units]}
    write(saved, json.dumps(document), arrays)
    return saved.read_bytes()


def input_of_terabytes(saved):
    """A file that describes a network of as many inputs, and says so everywhere."""
    text, arrays = read(saved)
    document = json.loads(text)
    document["state"]["n_features_in_"] = 10**12
    document["state"]["_row_shape"] = {"tuple": [10**12]}
    network = dict(document["state"]["net_"]["dict"])["network"]["dict"]
    [shape] = [entry for entry in network if entry[0] == "row_shape"]
    shape[1] = {"tuple": [10**12]}
    write(saved, json.dumps(document), arrays)
    return saved.read_bytes()


ATTACKS = {
    "array of 10 TB": header_of_terabytes,
    "network of 4 TB": partial(network_of, 10**6),
    "network of 800 MB": partial(network_of, 10**4),  # a machine might well allocate it
    "input of 40 TB": input_of_terabytes,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_claims_of_more_than_the_file_has_allocate_nothing(attack, saved, tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "model"
    path.write_bytes(saved.read_bytes())
    path.write_bytes(attack(path))
    CLIDMUClassifier.load(saved)  # what loading needs by itself is there now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="model cannot be loaded"):
        CLIDMUClassifier.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000  # KiB
