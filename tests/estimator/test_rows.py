"""Rows as people have them: sparse, in frames, in half precision, as tensors, of any shape."""

from functools import cache

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from torch import nn

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator.rows import sparse_unit, stack_rows
from sklearn_clidmu.training.batches import SparseRows

from .data import SMALL, make_rows

pytestmark = pytest.mark.usefixtures("coarse_judge")

X, y, _ = make_rows(60, n_classes=3)
X = np.where(np.abs(X) > 0.8, X, 0) / 100
UNIT = 2.0 ** round(np.log2(np.mean(X**2)) / 2)
FORMATS = [
    *(sparse.csr_array, sparse.csc_array, sparse.coo_array, sparse.lil_array),
    *(sparse.csr_matrix, sparse.coo_matrix),
]
WEIGHTINGS = ["evidence", "vri", "wnet", None]


def small(**params):
    return CLIDMUClassifier(**{**SMALL, **params})


def results(clf, rows):
    return clf.predict_proba(rows), clf.noise_scores_, clf.sample_weights_


# Sparse


@cache
def fitted_densely():
    return small(batch_size=16, dtype="float32").fit(X / UNIT, y)


@pytest.mark.parametrize("form", FORMATS)
def test_a_sparse_table_is_its_dense_self_divided_by_a_power_of_two(form):
    fitted = small(batch_size=16).fit(form(X), y)
    dense = fitted_densely()
    for ours, expected in zip(results(fitted, form(X)), results(dense, X / UNIT), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(fitted.predict_proba(X), fitted.predict_proba(form(X)))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_and_hold_out_and_whole_batch_takes_sparse_rows(weighting):
    for params in ({"early_stopping": True, "batch_size": 16}, {"batch_size": 64}):
        clf = small(weighting=weighting, **params).fit(sparse.csr_array(X), y)
        dense = small(weighting=weighting, **params).fit(X / UNIT, y)
        for ours, expected in zip(
            results(clf, sparse.csr_array(X)), results(dense, X / UNIT), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("unlabeled", ["consistency", "meta", "ignore"])
def test_sparse_rows_may_lack_labels_and_may_be_given_apart(unlabeled):
    few = np.where(np.arange(60) < 40, y, -1)
    together = small(missing_label=-1, unlabeled=unlabeled, batch_size=16)
    together.fit(sparse.csr_array(X), few)
    assert np.isnan(together.noise_scores_[40:]).all()
    apart = small(unlabeled=unlabeled, batch_size=16)
    apart.fit(sparse.csr_array(X[:40]), y[:40], X_unlabeled=sparse.csc_array(X[40:]))
    dense = small(unlabeled=unlabeled, batch_size=16)
    unit = 2.0 ** round(np.log2(np.mean(X[:40] ** 2)) / 2)
    dense.fit(X[:40] / unit, y[:40], X_unlabeled=X[40:] / unit)
    np.testing.assert_allclose(apart.predict_proba(X), dense.predict_proba(X / unit), atol=1e-3)


def test_no_more_than_a_batch_of_a_wide_table_is_ever_dense(monkeypatch):
    largest = []
    dense = SparseRows._dense

    def watched(self, matrix):
        largest.append(matrix.shape[0])
        return dense(self, matrix)

    monkeypatch.setattr(SparseRows, "_dense", watched)
    monkeypatch.setattr("sklearn_clidmu.training.batches.DENSE_ENTRIES", 10_000)
    wide = sparse.random_array((60, 2000), density=0.01, rng=np.random.default_rng(0), format="lil")
    wide[np.arange(60), y] = 1.5
    wide = wide.tocsr()
    clf = small(batch_size=32).fit(wide, y)
    assert max(largest) == 30  # the batches that are trained on
    largest.clear()
    clf.predict(wide)
    assert max(largest) == 10_000 // 2000


def test_the_unit_of_a_sparse_table_survives_the_largest_and_smallest_numbers():
    for scale in (2.0**-996, 1.0, 2.0**996):
        assert sparse_unit(sparse.csr_array(X * scale), np.ones(60)) == UNIT * scale
    assert sparse_unit(sparse.csr_array((3, 4)), np.ones(3)) == 1
    assert sparse_unit(X, np.ones(60)) == 1


@pytest.mark.parametrize(
    ("scale", "unit"), [(16, 16), (8, 1), (1, 1), (1 / 8, 1), (1 / 16, 1 / 16)]
)
def test_a_sparse_table_of_ordinary_numbers_is_left_as_it_is(scale, unit):
    signs = sparse.csr_array(scale * np.where(X > 0, 1.0, -1.0))
    assert sparse_unit(signs, np.ones(60)) == unit


def test_in_the_unit_of_a_sparse_table_a_row_counts_as_often_as_its_weight_says():
    counts = np.where(X[:, 0] > 0.02, 5, np.arange(60) % 2)
    repeated = np.repeat(X, counts, axis=0)
    unit = sparse_unit(sparse.csr_array(X), counts.astype(float))
    assert unit == 2.0 ** round(np.log2(np.mean(repeated**2)) / 2)


@pytest.mark.parametrize("forms", [(sparse.csr_array,) * 2, (sparse.csr_matrix, np.array)])
def test_stacked_sparse_rows_are_those_of_scipy(forms):
    first, second = (form(part) for form, part in zip(forms, (X[:25], X[25:]), strict=True))
    stacked = stack_rows(first, second)
    assert type(stacked) is type(first)
    np.testing.assert_array_equal(stacked.toarray(), X)
    np.testing.assert_array_equal(stack_rows(X[:25], sparse.csr_array(X[25:])), X)


# Frames, precisions, tensors


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_a_column_of_words_is_refused_with_advice(frame):
    table = frame({"size": [1.0, 2.0, 3.0, 4.0], "colour": ["red", "blue", "red", "blue"]})
    with pytest.raises(ValueError, match=r"red.*TableVectorizer.*ColumnTransformer"):
        small().fit(table, [0, 1, 0, 1])


def test_half_precision_is_trained_on_as_single_and_not_double():
    halves = X.astype(np.float16)
    clf = small(batch_size=16).fit(halves, y)
    single = small(batch_size=16).fit(halves.astype(np.float32), y)
    np.testing.assert_array_equal(clf.predict_proba(halves), single.predict_proba(halves))


def test_tensors_are_taken_as_arrays():
    clf = small(batch_size=16).fit(torch.tensor(X), torch.tensor(y))
    assert clf.classes_.dtype == np.int64
    same = small(batch_size=16).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(torch.tensor(X)), same.predict_proba(X))


# Rows that are more than a vector


class Conv(nn.Module):
    """Convolution over rows of shape (1, height, width)."""

    def __init__(self, shape, n_classes):
        super().__init__()
        assert shape == (1, 4, 4)
        self.convolution = nn.Conv2d(1, 3, 3)
        self.head = nn.Linear(12, n_classes)

    def forward(self, rows):
        return self.head(self.convolution(rows).relu().flatten(start_dim=1))


IMAGES = np.random.RandomState(0).normal(size=(60, 1, 4, 4)) + 2 * y[:, None, None, None]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_module_may_take_rows_of_any_shape(weighting):
    clf = small(module=Conv, weighting=weighting, max_epochs=15, lr=0.02).fit(IMAGES, y)
    assert clf.predict_proba(IMAGES).shape == (60, 3)
    assert clf.score(IMAGES, y) > 0.6
    with pytest.raises(ValueError, match=r"\(1, 4, 3\).*\(1, 4, 4\)"):
        clf.predict(IMAGES[..., :3])


def test_without_a_module_rows_are_vectors():
    with pytest.raises(ValueError, match="dim 4"):
        small().fit(IMAGES, y)
