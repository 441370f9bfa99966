"""A fit that is killed, however often, ends as if it had not been."""

import hashlib
import multiprocessing
import os
import pickle
import resource
import time
import warnings

import numpy as np
import pytest
import torch

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator.checkpoint_file import MAGIC, dump, load
from sklearn_clidmu.estimator.checkpoints import Checkpoints

ROWS = ("sample_weights_", "noise_scores_", "suggested_labels_")


def make_rows():
    rng = np.random.RandomState(0)
    y = np.arange(150) % 3
    X = rng.normal(size=(150, 5)) + 2 * np.eye(3, 5)[y]
    y[::4] = (y[::4] + 1) % 3
    return X, y


X, Y = make_rows()


def make(directory=None, **params):
    small = {"hidden_layer_sizes": (12, 8), "max_epochs": 4, "random_state": 0}
    return CLIDMUClassifier(**{**small, "checkpoint_dir": directory, **params})


def check_equal(clf, other):
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))
    for name in ROWS:
        np.testing.assert_array_equal(getattr(clf, name), getattr(other, name))
    assert clf.history_.keys() == other.history_.keys()
    for name, curve in other.history_.items():
        np.testing.assert_array_equal(clf.history_[name], curve)


@pytest.fixture
def written(monkeypatch):
    """Epochs written; ``stop_after`` interrupts the fit after the last of as many."""

    class Written(list):
        stop_after = None

    epochs, write = Written(), Checkpoints.write

    def watched(self, training, epoch, state):
        write(self, training, epoch, state)
        epochs.append((training, epoch))
        if len(epochs) == epochs.stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "write", watched)
    return epochs


def interrupt(written, n_epochs, clf, y=Y):
    """Fit until so many epochs have been written."""
    written.clear()
    written.stop_after = n_epochs
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    written.clear()
    written.stop_after = None


def in_a_child(work):
    """Start a forked process that does something."""

    with warnings.catch_warnings():  # of threads, none of which the child needs
        warnings.simplefilter("ignore", DeprecationWarning)
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
    return child


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"weighting": "vri"},
        {"weighting": "wnet", "virtual_step": "full", "optimizer": "adamw"},
        {"weighting": None, "ema_decay": None},
        {"n_snapshots": 2, "meta_batch_size": 40},
        {"early_stopping": True, "n_iter_no_change": 1},
        {"missing_label": 2},
    ],
    ids=str,
)
def test_a_fit_cut_short_after_any_epoch_ends_like_one_that_was_not(params, written, tmp_path):
    whole = make(**params).fit(X, Y)
    check_equal(make(tmp_path, **params).fit(X, Y), whole)
    epochs = list(written)
    assert len(epochs) >= 3
    for n_epochs in range(1, len(epochs), 4):
        interrupt(written, n_epochs, make(tmp_path, **params))
        resumed = make(tmp_path, **params).fit(X, Y)
        check_equal(resumed, whole)
        assert written == epochs[n_epochs:]
        assert os.listdir(tmp_path) == []


def test_a_fit_killed_at_ten_random_moments_ends_like_one_that_was_not(tmp_path):
    whole = make(max_epochs=12).fit(X, Y)
    start = time.perf_counter()
    make(tmp_path, max_epochs=12).fit(X, Y)
    seconds = time.perf_counter() - start
    rng = np.random.RandomState(0)
    n_killed = n_begun = 0
    for _ in range(10):
        child = in_a_child(lambda: make(tmp_path, max_epochs=12).fit(X, Y))
        child.join(rng.uniform(0.1, 0.6) * seconds)
        n_killed += child.is_alive()
        child.kill()
        child.join()
        n_begun += any(tmp_path.glob("*.checkpoint"))
    assert n_killed >= 5
    assert n_begun >= 1
    check_equal(make(tmp_path, max_epochs=12).fit(X, Y), whole)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("harm", ["cut short", "changed", "emptied"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(harm, written, tmp_path):
    whole = make().fit(X, Y)
    interrupt(written, 3, make(tmp_path))
    before, last = sorted(tmp_path.glob("*.checkpoint"))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    kept = {"cut short": len(content) // 2, "changed": len(content), "emptied": 0}[harm]
    last.write_bytes(content[:kept])
    with pytest.warns(RuntimeWarning, match=f"{last.name} is skipped"):
        check_equal(make(tmp_path).fit(X, Y), whole)
    assert written[0] == (1, 3)
    assert before.name.endswith("01-000002.checkpoint")


def test_a_full_disk_stops_checkpoints_alone(tmp_path):
    whole = make().fit(X, Y)

    def fit_without_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clf = make(tmp_path).fit(X, Y)
        told = [str(w.message) for w in caught if w.category is RuntimeWarning]
        assert len(told) == 1
        assert "training goes on without checkpoints" in told[0]
        np.testing.assert_array_equal(clf.predict_proba(X), whole.predict_proba(X))

    child = in_a_child(fit_without_room)
    child.join()
    assert child.exitcode == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "other", [{"random_state": 1}, {"hidden_layer_sizes": (8,)}, {"class_weight": "balanced"}]
)
def test_fits_in_one_directory_do_not_mix(other, written, tmp_path):
    interrupt(written, 2, make(tmp_path, **other))
    interrupt(written, 3, make(tmp_path))
    interrupt(written, 3, make(tmp_path), y=np.roll(Y, 1))
    check_equal(make(tmp_path).fit(X, Y), make().fit(X, Y))
    check_equal(make(tmp_path, **other).fit(X, Y), make(**other).fit(X, Y))
    assert len(list(tmp_path.iterdir())) == 2  # those of the third fit


def test_what_does_not_change_what_is_learned_may_be_changed(written, tmp_path, capsys):
    interrupt(written, 3, make(tmp_path))
    resumed = make(tmp_path, verbose=2, on_interrupt="keep").fit(X, Y)
    assert written[0] == (1, 4)
    check_equal(resumed, make().fit(X, Y))
    assert "1/2" in capsys.readouterr().out


def test_without_a_random_state_the_one_that_was_drawn_is_kept(written, tmp_path):
    fits = []
    interrupt(written, 3, make(tmp_path, random_state=None))
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(2):
        for path, content in files.items():
            path.write_bytes(content)
        fits.append(make(tmp_path, random_state=None).fit(X, Y))
        assert written[0] == (1, 4)
        written.clear()
    check_equal(*fits)
    assert not np.array_equal(fits[0].predict_proba(X), make().fit(X, Y).predict_proba(X))


def test_a_fit_that_was_interrupted_and_kept_goes_on_where_it_was(written, tmp_path):
    clf = make(tmp_path, on_interrupt="keep")
    with pytest.warns(match="cut short"):
        interrupt(written, 3, clf)
    assert clf.n_iter_ == 3
    clf.fit(X, Y)
    assert not clf.interrupted_
    check_equal(clf, make().fit(X, Y))


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(written, tmp_path):
    made = tmp_path / "made"
    interrupt(written, 2, make(tmp_path))
    for path in tmp_path.glob("*.checkpoint"):
        path.write_bytes(pickle.dumps(Harmful(made)))
    with pytest.warns(RuntimeWarning, match="no checkpoint"):
        make(tmp_path).fit(X, Y)
    assert not made.exists()
    pickle.loads(pickle.dumps(Harmful(made))).close()
    assert made.exists()  # the file was harmful


def test_a_sound_file_that_holds_something_else_is_refused(written, tmp_path):
    interrupt(written, 2, make(tmp_path))
    for path in tmp_path.iterdir():
        path.write_bytes(dump({**load(path.read_bytes()), "callbacks": {}}))
    with pytest.raises(ValueError, match=r"not written by it.*delete those that begin"):
        make(tmp_path).fit(X, Y)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"checkpoint_dir=.*file/below"):
        make(str(tmp_path / "file" / "below")).fit(X, Y)


def test_a_checkpoint_that_is_changed_anywhere_is_refused():
    state = {"a": [1, 2.5, None, "text"], "b": {3: torch.arange(6).reshape(2, 3)}}
    content = dump(state)
    again = load(content)
    assert again["a"] == state["a"]
    assert torch.equal(again["b"][3], state["b"][3])
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        with pytest.raises(ValueError, match="has changed"):
            load(bytes(changed))
        with pytest.raises(ValueError, match="cut short"):
            load(content[:position])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"state": {"array": "a"}, "arrays": [["a", "<f8", [1000000000000]]]}',
        b'{"state": {"array": "a"}, "arrays": [["a", "<f8", [-1]]]}',
        b'{"state": {"array": "a"}, "arrays": [["a", "|O", [1]]]}',
        b'{"state": {"os.system": "a"}, "arrays": []}',
        b"[" * 100_000,
    ],
)
def test_a_made_up_checkpoint_with_a_right_digest_is_refused(text):
    body = len(text).to_bytes(8, "little") + text + bytes(16)
    with pytest.raises(ValueError, match="does not fit"):
        load(MAGIC + hashlib.sha256(body).digest() + body)
