"""A Dask cluster predicts, scores and trains by blocks what one machine does by the whole table."""

import dask
import dask.array as da
import joblib
import numpy as np
import pandas as pd
import pytest
from classifier.data import make_rows, small
from dask.distributed import Client, LocalCluster
from sklearn.model_selection import GridSearchCV

from sklearn_clidmu import find_label_issues, noisy_label_scorer

NAMES = np.array(["ant", "bee", "cat"])
BLOCKS = ((100, 7, 1, 92), (4,))  # rows and features of the blocks


X, codes, _ = make_rows(200, n_classes=3)
y = NAMES[codes]


@pytest.fixture(scope="module")
def fitted():
    return small().fit(X[:120], y[:120])


@pytest.fixture(scope="module")
def client():
    """Workers in processes of their own, to which everything must be pickled."""
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def table():
    return da.from_array(X, chunks=BLOCKS)


@pytest.fixture
def labels():
    return da.from_array(y, chunks=BLOCKS[:1])


def predict_proba(block, clf):
    return clf.predict_proba(block)


def noise_scores(block, given, clf):
    return clf.noise_scores(block, given)


def test_blocks_of_an_array_get_the_probabilities_scores_and_issues_of_the_whole(
    fitted, client, table, labels
):
    shared = {"clf": dask.delayed(fitted), "meta": np.empty(0)}
    proba = table.map_blocks(predict_proba, chunks=(BLOCKS[0], 3), **shared)
    scores = da.blockwise(noise_scores, "i", table, "ij", labels, "i", concatenate=True, **shared)
    assert (proba.shape, scores.shape) == ((200, 3), (200,))
    proba, scores = dask.compute(proba, scores)
    np.testing.assert_allclose(proba, fitted.predict_proba(X), rtol=1e-6)
    np.testing.assert_allclose(scores, fitted.noise_scores(X, y), atol=1e-6)
    issues = find_label_issues(scores, y, suggested=fitted.classes_[proba.argmax(axis=1)])
    np.testing.assert_array_equal(np.sort(issues.index), np.flatnonzero(fitted.predict(X) != y))


def audit(part, clf):
    found = part[["label"]].assign(score=np.nan, suggested=part["label"])
    if len(part):
        features = part[list(clf.feature_names_in_)]
        found["score"] = clf.noise_scores(features, part["label"])
        found["suggested"] = clf.predict(features)
    return found


def test_partitions_of_a_frame_some_of_them_empty_get_the_scores_of_the_whole(client):
    pytest.importorskip("pyarrow", reason="dask.dataframe needs pyarrow: tox -e pyarrow")
    import dask.dataframe as dd

    frame = pd.DataFrame(X, columns=list("abcd")).assign(label=y, row=np.arange(200))
    clf = small().fit(frame[list("abcd")][:120], y[:120])
    parts = dd.from_pandas(frame, npartitions=4)
    parts = parts[parts["row"] < 60]  # none of the last partitions
    assert parts.map_partitions(len).compute().tolist()[-1] == 0
    found = parts.map_partitions(audit, clf=dask.delayed(clf), meta=audit(frame.head(0), clf))
    computed = found.compute()
    assert computed.index.tolist() == list(range(60))
    rows = frame[list("abcd")][:60]
    np.testing.assert_allclose(computed["score"], clf.noise_scores(rows, y[:60]), atol=1e-6)
    np.testing.assert_array_equal(computed["suggested"], clf.predict(rows))
    worst = found[found["label"] != found["suggested"]].nlargest(3, "score").compute()
    issues = find_label_issues(computed["score"], y[:60], suggested=computed["suggested"])
    assert worst.index.tolist() == issues.index[:3].tolist()


def test_partial_fit_of_blocks_is_that_of_their_rows(table, labels):
    blocks, parts = small(), small()
    for i, rows in enumerate(np.split(np.arange(200), np.cumsum(BLOCKS[0])[:-1])):
        blocks.partial_fit(table.blocks[i].compute(), labels.blocks[i].compute(), classes=NAMES)
        parts.partial_fit(X[rows], y[rows], classes=NAMES)
    np.testing.assert_array_equal(blocks.noise_scores_, parts.noise_scores_)
    np.testing.assert_array_equal(blocks.predict_proba(X), parts.predict_proba(X))


def test_fit_takes_an_array_as_a_whole(table, labels):
    clf = small().fit(table, labels)
    np.testing.assert_array_equal(clf.noise_scores_, small().fit(X, y).noise_scores_)
    np.testing.assert_array_equal(clf.predict(table), clf.predict(X))


def test_search_on_a_cluster_finds_what_one_process_finds(client):
    grid = {"weighting": ["evidence", None], "lr": [1e-9, 0.1]}
    search = GridSearchCV(small(), grid, cv=2, scoring=noisy_label_scorer)
    with joblib.parallel_backend("dask"):
        found = search.fit(X, y).cv_results_["mean_test_score"]
    alone = search.fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, alone, rtol=1e-6)
