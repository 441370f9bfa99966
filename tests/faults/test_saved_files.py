"""Some hundreds of changed files; tests/faults/mutations.py says how to load thousands."""

import numpy as np
import pytest
from estimator.data import SMALL, make_rows

from sklearn_clidmu import CLIDMUClassifier

from .mutations import BY_ACCIDENT, WAYS, mutated, outcome, parts, with_right_digest

pytest.importorskip("safetensors")

X, y, _ = make_rows()
N_FILES = 60
"""Of each way to change one."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    labels = np.array(["no", "yes"])[y]
    clf = CLIDMUClassifier(**{**SMALL, "hidden_layer_sizes": (4, 3), "n_snapshots": 2})
    clf.set_params(batch_size=16, dtype="float32", refit=False).fit(X, labels).save(path)
    return path.read_bytes(), clf.predict_proba(X)


def outcomes(content, way, path):
    seeds = range(WAYS.index(way), N_FILES * len(WAYS), len(WAYS))
    for seed in seeds:
        path.write_bytes(mutated(content, seed))
        yield outcome(CLIDMUClassifier, path, X)


@pytest.mark.parametrize("way", BY_ACCIDENT, ids=lambda way: way.__name__)
def test_a_file_that_is_damaged_is_refused_or_the_same_model(way, saved, tmp_path):
    content, expected = saved
    for found in outcomes(content, way, tmp_path / "model"):
        assert found == "refused" or np.array_equal(found, expected)


@pytest.mark.parametrize("way", dict.fromkeys(WAYS[4:]), ids=lambda way: way.__name__)
def test_a_file_that_is_forged_is_refused_or_a_sound_model(way, saved, tmp_path):
    content, _ = saved
    found = list(outcomes(content, way, tmp_path / "model"))
    refused = [isinstance(each, str) for each in found]
    assert any(refused)
    assert not all(refused), "what is changed is never read as far as the model"


def test_a_forged_file_with_the_right_digest_is_read(saved, tmp_path):
    content, expected = saved
    path = tmp_path / "model"
    path.write_bytes(with_right_digest(*parts(content)))
    np.testing.assert_array_equal(outcome(CLIDMUClassifier, path, X), expected)
