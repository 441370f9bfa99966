"""Fits and predictions leave alone what they are given, whatever a caller's code does in place."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from sklearn_clidmu import CLIDMUClassifier, clid_score, noisy_label_scorer

rng = np.random.RandomState(0)
y = np.arange(90) % 3
X = (rng.normal(size=(90, 4)) + 2 * np.eye(3, 4)[y]).astype(np.float32)
QUICK = {"max_epochs": 2, "warmup_epochs": 1, "n_folds": None, "random_state": 0, "batch_size": 32}


class InPlace(nn.Module):
    """Works on its input as told, in place or not."""

    def __init__(self, d, c, change):
        super().__init__()
        self.body, self.head, self.change = nn.Linear(d, 8), nn.Linear(8, c), change

    def forward(self, rows):
        return self.head(self.body(self.change(rows)).relu())


def fill_gaps(rows):
    rows[rows < 0] = 0
    return rows


def empty_half(rows):
    rows[:, :2].zero_()
    return rows


CHANGES = {
    "activation": (torch.relu_, torch.relu),
    "shift": (lambda rows: rows.add_(1), lambda rows: rows + 1),
    "assignment": (fill_gaps, lambda rows: rows.clamp_min(0)),
    "view": (empty_half, None),
}
PARAMS = [
    {},
    {"virtual_step": "full"},
    {"weighting": "vri", "virtual_step": "full"},
    {"weighting": "wnet", "meta_batch_size": 16},
    {"weighting": None, "early_stopping": True},
]


def build(change):
    return lambda d, c: InPlace(d, c, change)


@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize("change", ["activation", "assignment"])
def test_fit_with_a_module_that_works_in_place_is_that_of_its_equal(change, params):
    in_place, plain = (
        CLIDMUClassifier(module=build(kind), **QUICK, **params).fit(X, y)
        for kind in CHANGES[change]
    )
    np.testing.assert_array_equal(in_place.predict_proba(X), plain.predict_proba(X))
    np.testing.assert_array_equal(in_place.noise_scores_, plain.noise_scores_)


@pytest.mark.parametrize("change", CHANGES)
def test_predictions_leave_the_rows_alone_that_a_module_writes_to(change, tmp_path):
    clf = CLIDMUClassifier(module=build(CHANGES[change][0]), **QUICK).fit(X, y)
    np.save(tmp_path / "X.npy", X)
    read_only = X.copy()
    read_only.flags.writeable = False
    forms = [X.copy(), np.asfortranarray(X), read_only, torch.tensor(X)]
    forms.append(np.load(tmp_path / "X.npy", mmap_mode="r"))
    for rows in forms:
        clf.predict(rows)
        clf.noise_scores(rows, y)
        noisy_label_scorer(clf, rows, y)
        clid_score(clf, rows)
        np.testing.assert_array_equal(np.asarray(rows), X)
    np.testing.assert_array_equal(np.load(tmp_path / "X.npy"), X)


@pytest.mark.parametrize("form", [np.array, sparse.csr_array, torch.tensor])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_fit_leaves_rows_labels_and_weights_alone(form, method):
    rows, labels, weight = form(X), y.copy(), np.linspace(0, 2, len(y))
    before = weight.copy()
    clf = CLIDMUClassifier(module=build(CHANGES["activation"][0]), **QUICK)
    args = () if method == "fit" else (np.arange(3),)
    getattr(clf, method)(rows, labels, *args, sample_weight=weight)
    kept = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    for found, expected in ((kept, X), (labels, y), (weight, before)):
        np.testing.assert_array_equal(found, expected)


def test_fit_leaves_a_network_alone_that_module_hands_out_every_time():
    network = InPlace(4, 3, torch.relu)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    clf = CLIDMUClassifier(module=lambda d, c: network, **QUICK)
    first, second = (clf.fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert network.training
    assert not network.head._forward_hooks


def spoiling(features, logits, targets, sample_weight):
    copies = [part.clone() for part in (features, targets, sample_weight)]
    objective = plain(copies[0], logits, *copies[1:])
    for part in (features, targets, sample_weight):
        part.zero_()
    return objective


def plain(features, logits, targets, sample_weight):
    given = logits.softmax(dim=1)[torch.arange(len(targets)), targets]
    return ((1 - given) * sample_weight).sum() * features.square().mean().sqrt()


@pytest.mark.parametrize("params", PARAMS[:4], ids=str)
def test_fit_with_a_meta_objective_that_works_in_place_is_that_of_its_equal(params):
    spoiled, sound = (
        CLIDMUClassifier(meta_objective=objective, **QUICK, **params).fit(X, y)
        for objective in (spoiling, plain)
    )
    np.testing.assert_array_equal(spoiled.predict_proba(X), sound.predict_proba(X))
