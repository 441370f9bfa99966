"""The classifier among scikit-learn's own tools, and with frames of pandas and polars."""

import warnings

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator import classifier
from sklearn_clidmu.estimator.preparation import prepare

from .data import SMALL, make_rows

X, y, _ = make_rows(60, n_classes=3)
NAMES = np.array(["ant", "bee", "cat"])


def small(**params):
    return CLIDMUClassifier(**{**SMALL, **params})


def assert_sound(clf, rows):
    probabilities = clf.predict_proba(rows)
    assert probabilities.shape == (len(rows), len(clf.classes_))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    assert set(clf.predict(rows)) <= set(clf.classes_)


# Pipelines and searches


def test_a_pipeline_with_a_scaler_trains_on_scaled_rows():
    pipe = make_pipeline(StandardScaler(), small()).fit(1000 * X, y)
    alone = small().fit(StandardScaler().fit_transform(1000 * X), y)
    np.testing.assert_array_equal(pipe[-1].noise_scores_, alone.noise_scores_)
    np.testing.assert_array_equal(pipe[-1].sample_weights_, alone.sample_weights_)
    assert_sound(pipe, 1000 * X)


def test_every_parameter_can_be_set_through_a_pipeline():
    pipe = make_pipeline(StandardScaler(), CLIDMUClassifier())
    for name, value in CLIDMUClassifier(temperature=0.25).get_params().items():
        pipe.set_params(**{f"clidmuclassifier__{name}": value})
    assert pipe[-1].temperature == 0.25
    assert clone(pipe).get_params()["clidmuclassifier__temperature"] == 0.25


def test_a_grid_search_finds_the_same_in_one_process_and_in_two():
    def search(n_jobs):
        grid = {"clidmuclassifier__weighting": ["evidence", None], "clidmuclassifier__lr": [1e-3]}
        pipe = make_pipeline(StandardScaler(), small(batch_size=16))
        return GridSearchCV(pipe, grid, cv=2, n_jobs=n_jobs, scoring="neg_log_loss").fit(X, y)

    one, two = search(1), search(2)
    assert one.best_params_ == two.best_params_
    for key in ("split0_test_score", "split1_test_score", "mean_test_score"):
        # The workers may sum in another order, with another number of threads.
        np.testing.assert_allclose(one.cv_results_[key], two.cv_results_[key], rtol=1e-4)
    for found in (one, two):
        best = found.best_estimator_[-1]
        assert best.noise_scores_.shape == best.sample_weights_.shape == (len(X),)


def test_a_grid_search_over_the_classifier_itself():
    grid = {"weighting": ["wnet", "vri"], "hidden_layer_sizes": [(4, 4), [8, 4]]}
    found = GridSearchCV(small(), grid, cv=2, error_score="raise").fit(X, y)
    assert found.best_estimator_.noise_scores_.shape == (len(X),)


def test_cross_validation_scores_and_predicts_every_row():
    assert np.isfinite(cross_val_score(small(), X, y, cv=3)).all()
    probabilities = cross_val_predict(small(), X, NAMES[y], cv=3, method="predict_proba")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)


# Ensembles and wrappers


@pytest.mark.parametrize(
    "wrapper",
    [
        CalibratedClassifierCV(small(), cv=2),
        VotingClassifier([("a", small()), ("b", LogisticRegression())], voting="soft"),
        OneVsRestClassifier(small()),
        AdaBoostClassifier(small(), n_estimators=2),
        BaggingClassifier(small(), n_estimators=2),
    ],
    ids=lambda wrapper: type(wrapper).__name__,
)
def test_wrappers_fit_and_predict_with_string_labels(wrapper):
    assert_sound(clone(wrapper).fit(X, NAMES[y]), X)


def test_boosting_passes_its_sample_weights_on():
    boosted = AdaBoostClassifier(small(), n_estimators=2, random_state=0).fit(X, y)
    equal = np.full(len(X), 1 / len(X))
    first, second = (member.noise_scores_ for member in boosted.estimators_)
    by_equal_weights = [
        clone(member).fit(X, y, equal).noise_scores_ for member in boosted.estimators_
    ]
    np.testing.assert_array_equal(first, by_equal_weights[0])
    assert not np.array_equal(second, by_equal_weights[1])


# Metadata routing


def test_sample_weights_are_routed_through_a_pipeline():
    weight = np.linspace(0, 2, len(X))
    direct = small().fit(StandardScaler().fit_transform(X), y, weight)
    with sklearn.config_context(enable_metadata_routing=True):
        clf = small().set_fit_request(sample_weight=True)
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), clf)
        pipe.fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(pipe[-1].noise_scores_, direct.noise_scores_)


# Frames


def pandas_frame():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X, columns=list("wxyz"), index=np.arange(len(X))[::-1])


def test_a_pandas_frame_gives_its_names_and_nothing_else():
    frame = pandas_frame()
    clf, plain = small().fit(frame, y), small().fit(X, y)
    assert list(clf.feature_names_in_) == list("wxyz")
    assert not hasattr(plain, "feature_names_in_")
    for key in ("noise_scores_", "sample_weights_"):
        np.testing.assert_array_equal(getattr(clf, key), getattr(plain, key))
    np.testing.assert_array_equal(clf.predict_proba(frame), plain.predict_proba(X))
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(frame[list("zyxw")])


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_labels_may_be_a_pandas_series(dtype):
    pandas = pytest.importorskip("pandas")
    frame = pandas_frame()
    labels = pandas.Series(NAMES[y], index=frame.index, dtype=dtype)
    clf = small().fit(frame, labels, pandas.Series(np.ones(len(X)), index=frame.index))
    plain = small().fit(X, y)
    assert list(clf.classes_) == list(NAMES)
    np.testing.assert_array_equal(clf.noise_scores_, plain.noise_scores_)
    np.testing.assert_array_equal(clf.predict(frame), NAMES[plain.predict(X)])
    assert clf.score(frame, labels) == plain.score(X, y)


def test_a_polars_frame_gives_its_names_and_nothing_else():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(X, schema=list("wxyz"))
    clf = small().fit(frame, polars.Series(NAMES[y]))
    plain = small().fit(X, y)
    assert list(clf.feature_names_in_) == list("wxyz")
    np.testing.assert_array_equal(clf.noise_scores_, plain.noise_scores_)
    np.testing.assert_array_equal(clf.predict(frame), NAMES[plain.predict(X)])


def test_lists_are_rows_too():
    clf = small().fit(X.tolist(), NAMES[y].tolist(), [1.0] * len(X))
    np.testing.assert_array_equal(clf.noise_scores_, small().fit(X, y).noise_scores_)


# Tables on disk


def mapped(path, dtype):
    """A table that lies on disk, open for reading only; its labels; and its bytes."""
    rows, labels, _ = make_rows(200, n_classes=3)
    np.save(path, rows.astype(dtype))
    return np.load(path, mmap_mode="r"), labels, path.read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_table_on_disk_is_learned_as_one_in_memory_and_not_written_to(tmp_path, dtype, n_classes):
    rows, labels, before = mapped(tmp_path / "X.npy", dtype)
    labels = labels % n_classes
    clf = small(batch_size=32).fit(rows, labels)
    expected = small(batch_size=32).fit(np.array(rows), labels)
    np.testing.assert_array_equal(clf.predict_proba(rows), expected.predict_proba(np.array(rows)))
    np.testing.assert_array_equal(clf.noise_scores_, expected.noise_scores_)
    assert (tmp_path / "X.npy").read_bytes() == before


def test_a_float32_table_is_trained_on_where_it_lies(tmp_path, monkeypatch):
    rows, labels, _ = mapped(tmp_path / "X.npy", np.float32)
    tables = []

    def prepared(X, *args, **settings):
        data = prepare(X, *args, **settings)
        tables.append(data.training.X)
        return data

    monkeypatch.setattr(classifier, "prepare", prepared)
    small(batch_size=32).fit(rows, labels)
    (table,) = tables
    assert np.shares_memory(table.numpy(), rows)


# scikit-learn's view of it


def test_the_classifier_says_what_it_is():
    clf = small()
    assert sklearn.base.is_classifier(clf)
    assert "temperature=0.25" in repr(small(temperature=0.25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "CLIDMUClassifier" in clf._repr_html_()
