"""Wide sparse tables are made dense a chunk at a time."""

import weakref

import numpy as np
import torch
from scipy import sparse

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.noise.loo_kernel_ridge import dense_rows


class Chunks:
    """Rows in chunks, each of which must be gone before the next is made."""

    def split(self, n_rows):
        previous = None
        for _ in range(3):
            assert previous is None or previous() is None
            made = [torch.ones(2, 4, dtype=torch.float64)]
            previous = weakref.ref(made[0])
            yield made.pop()


def test_outputs_hold_one_chunk_at_a_time():
    X = np.random.RandomState(0).normal(size=(20, 4))
    clf = CLIDMUClassifier(hidden_layer_sizes=4, max_epochs=1).fit(X, np.arange(20) % 2)
    assert len(list(clf.net_.outputs(Chunks()))) == 3


def test_singular_vectors_are_those_of_the_rows_in_use():
    rng = np.random.RandomState(0)
    table = sparse.csr_array(rng.normal(size=(300, 20)) @ rng.normal(size=(20, 400)))
    used = np.arange(300)[:200]
    alone = dense_rows(table[used], 0)
    spoiled = sparse.vstack([table[used], 1e6 * abs(table[200:])]).tocsr()
    np.testing.assert_allclose(dense_rows(spoiled, 0, used)[:200], alone, atol=1e-6)


def test_rows_of_weight_zero_have_no_effect_in_a_wide_sparse_table():
    rng = np.random.RandomState(0)
    y = np.arange(120) % 2
    rows = (rng.uniform(size=(120, 300)) < 0.05) + 2.0 * (np.arange(300) % 2 == y[:, None])
    weight = (np.arange(120) < 100).astype(float)
    far = np.where(weight[:, None] > 0, rows, 9 * rng.normal(size=rows.shape) ** 2)
    found = [
        CLIDMUClassifier(hidden_layer_sizes=8, max_epochs=2, random_state=0)
        .fit(sparse.csr_array(one), y, sample_weight=weight)
        .predict_proba(sparse.csr_array(rows))
        for one in (rows, far)
    ]
    np.testing.assert_allclose(*found, atol=1e-4)
