"""The classifier among scikit-learn's own tools, and with frames of pandas and polars."""

import tracemalloc

import numpy as np
import pytest
import sklearn
import torch
from packaging.version import Version
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import estimator_html_repr

from sklearn_clidmu import CLIDMUClassifier, noisy_label_scorer

from .data import make_rows, small

pytestmark = pytest.mark.usefixtures("coarse_kernel", "few_steps")

X, y, _ = make_rows(60, n_classes=3)
WEIGHT = np.linspace(0, 2, len(X))
NAMES = np.array(["ant", "bee", "cat"])


def assert_sound(clf, rows):
    probabilities = clf.predict_proba(rows)
    assert probabilities.shape == (len(rows), len(clf.classes_))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    assert set(clf.predict(rows)) <= set(clf.classes_)


# Pipelines and searches


def test_pipeline_with_a_scaler_trains_on_scaled_rows():
    pipe = make_pipeline(StandardScaler(), small()).fit(1000 * X, y)
    alone = small().fit(StandardScaler().fit_transform(1000 * X), y)
    np.testing.assert_array_equal(pipe[-1].noise_scores_, alone.noise_scores_)
    np.testing.assert_array_equal(pipe[-1].sample_weights_, alone.sample_weights_)
    assert_sound(pipe, 1000 * X)


def test_pipeline_sets_every_parameter():
    pipe = make_pipeline(StandardScaler(), CLIDMUClassifier())
    for name, value in CLIDMUClassifier(temperature=0.25).get_params().items():
        pipe.set_params(**{f"clidmuclassifier__{name}": value})
    assert pipe[-1].temperature == 0.25
    assert clone(pipe).get_params()["clidmuclassifier__temperature"] == 0.25


def test_grid_search_finds_the_best_parameters_and_refits_them():
    # Processes and threads: tests/faults/test_concurrency.py and tests/test_determinism.py.
    grid = {"clidmuclassifier__weighting": ["evidence", None], "clidmuclassifier__lr": [1e-9, 0.1]}
    pipe = make_pipeline(StandardScaler(), small(batch_size=16))
    search = GridSearchCV(pipe, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert search.best_params_["clidmuclassifier__lr"] == 0.1
    best = search.best_estimator_[-1]
    assert best.noise_scores_.shape == best.sample_weights_.shape == (len(X),)


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
        StackingClassifier([("a", small())], LogisticRegression(), cv=2),
    ],
    ids=lambda wrapper: type(wrapper).__name__,
)
def test_meta_estimator_fits_and_predicts_with_string_labels(wrapper):
    assert_sound(clone(wrapper).fit(X, NAMES[y]), X)


def test_self_training_labels_rows_by_the_classifiers_probabilities():
    given = np.where(np.arange(len(X)) % 3 == 2, -1, y)
    wrapper = SelfTrainingClassifier(small(), threshold=0.5, max_iter=2).fit(X, given)
    assert_sound(wrapper, X)
    first = small().fit(X[given >= 0], y[given >= 0])
    sure = (given < 0) & (first.predict_proba(X).max(axis=1) > 0.5)
    assert sure.any()
    np.testing.assert_array_equal(wrapper.labeled_iter_ == 1, sure)
    np.testing.assert_array_equal(wrapper.transduction_[sure], first.predict(X)[sure])


# Metadata routing


def test_pipeline_routes_sample_weights():
    direct = small().fit(StandardScaler().fit_transform(X), y, WEIGHT)
    with sklearn.config_context(enable_metadata_routing=True):
        clf = small().set_fit_request(sample_weight=True)
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), clf)
        pipe.fit(X, y, sample_weight=WEIGHT)
    np.testing.assert_array_equal(pipe[-1].noise_scores_, direct.noise_scores_)


# Arrays of other libraries

IN_TIME = Version(sklearn.__version__) >= Version("1.8")


@pytest.fixture(params=[False, True], ids=["as arrays", "dispatched"])
def dispatch(request):
    if request.param and not IN_TIME:
        pytest.skip("scikit-learn's own scaler and metrics take dispatched tensors from 1.8 on")
    with sklearn.config_context(array_api_dispatch=request.param):
        yield


def test_tensors_give_what_arrays_give_as_numpy(dispatch):
    rows, labels, weight = map(torch.tensor, (X, y, WEIGHT))
    clf = small().fit(rows, labels, weight)
    plain = small().fit(X, y, WEIGHT)
    for name in ("classes_", "noise_scores_", "sample_weights_", "suggested_labels_"):
        assert type(getattr(clf, name)) is np.ndarray
        np.testing.assert_array_equal(getattr(clf, name), getattr(plain, name))
    for method in ("predict", "predict_proba", "predict_log_proba"):
        predicted = getattr(clf, method)(rows)
        assert type(predicted) is np.ndarray
        np.testing.assert_array_equal(predicted, getattr(plain, method)(X))
    np.testing.assert_array_equal(clf.noise_scores(rows, labels), plain.noise_scores(X, y))
    if IN_TIME:  # before, its metrics may fail on tensors beside arrays
        assert clf.score(rows, labels) == plain.score(X, y)


# Frames


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frame_gives_its_names_and_nothing_else(library):
    frames = pytest.importorskip(library)
    frame = frames.DataFrame(dict(zip("wxyz", X.T, strict=True)))
    clf, plain = small().fit(frame, frames.Series(NAMES[y])), small().fit(X, y)
    assert list(clf.feature_names_in_) == list("wxyz")
    assert not hasattr(plain, "feature_names_in_")
    for key in ("noise_scores_", "sample_weights_"):
        np.testing.assert_array_equal(getattr(clf, key), getattr(plain, key))
    np.testing.assert_array_equal(clf.predict_proba(frame), plain.predict_proba(X))
    np.testing.assert_array_equal(clf.predict(frame), NAMES[plain.predict(X)])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_pipeline_of_transformers_that_return_frames_gives_what_arrays_give(library):
    pytest.importorskip(library)
    names = [f"x{i}" for i in range(4)]
    plain = make_pipeline(StandardScaler(), small()).fit(X, y)
    pipe = make_pipeline(StandardScaler(), small()).set_output(transform=library).fit(X, y)
    assert list(pipe[-1].feature_names_in_) == names
    np.testing.assert_array_equal(pipe.predict_proba(X), plain.predict_proba(X))
    np.testing.assert_array_equal(pipe[-1].noise_scores_, plain[-1].noise_scores_)


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("zyxw", "must be in the same order as they were in fit"),
        ("wxy", "yet now missing:\n- z"),
        ("wxyv", "unseen at fit time:\n- v"),
    ],
)
def test_predict_refuses_other_columns_than_in_fit(library, columns, message):
    frames = pytest.importorskip(library)
    table = dict(zip("wxyz", X.T, strict=True))
    clf = small(max_epochs=1, n_folds=None).fit(frames.DataFrame(table), y)
    other = frames.DataFrame({name: table.get(name, X[:, 0]) for name in columns})
    for method in (clf.predict, clf.predict_proba, lambda rows: clf.noise_scores(rows, y)):
        with pytest.raises(ValueError, match=message):
            method(other)


@pytest.mark.parametrize("dtype", ["Float64", "Int64", "boolean", "double[pyarrow]"])
def test_nullable_numbers_are_numbers(dtype):
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    rows = {"Int64": X.round().astype(int), "boolean": X > 1}.get(dtype, X)
    clf = small().fit(pandas.DataFrame(rows).astype(dtype), y)
    np.testing.assert_array_equal(
        clf.noise_scores_, small().fit(rows.astype(float), y).noise_scores_
    )
    gap = pandas.DataFrame(rows).astype(dtype)
    gap.iloc[3, 1] = pandas.NA
    missing = rows.astype(float)
    missing[3, 1] = np.nan
    np.testing.assert_array_equal(clf.predict_proba(gap), clf.predict_proba(missing))


@pytest.mark.parametrize("kind", ["category", "date", "Categorical", "Enum"])
def test_column_that_is_no_number_is_refused_with_advice(kind):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    column = {
        "category": lambda: pandas.Series(NAMES[y], dtype="category"),
        "date": lambda: pandas.Series([pandas.Timestamp("2020-01-01")] * len(X)),
        "Categorical": lambda: polars.Series(NAMES[y]).cast(polars.Categorical),
        "Enum": lambda: polars.Series(NAMES[y]).cast(polars.Enum(list(NAMES))),
    }[kind]()
    frame = (pandas if kind in {"category", "date"} else polars).DataFrame(
        {"a": X[:, 0], "b": column}
    )
    with pytest.raises(ValueError, match=r"X has (strings|dates).*TableVectorizer.*ColumnTransf"):
        small().fit(frame, y)


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize(
    ("dtype", "kind"), [("Int64", "i"), ("boolean", "b"), ("int64[pyarrow]", "i"), ("polars", "i")]
)
def test_nullable_labels_keep_their_kind(dtype, kind, gap):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    codes = (y > 0 if dtype == "boolean" else y).tolist()
    labels = [None if gap and row < 6 else code for row, code in enumerate(codes)]
    series = polars.Series(labels) if dtype == "polars" else pandas.Series(labels, dtype=dtype)
    clf = small(missing_label=pandas.NA, unlabeled="ignore").fit(X, series)
    assert clf.classes_.dtype.kind == clf.predict(X).dtype.kind == kind
    assert np.isnan(clf.noise_scores_).tolist() == [gap] * 6 + [False] * 54


@pytest.mark.parametrize("kind", ["narwhals", "pyarrow", "pyarrow of narwhals"])
def test_tables_with_times_are_refused_in_any_library(kind):
    polars, narwhals = pytest.importorskip("polars"), pytest.importorskip("narwhals")
    times = polars.Series(range(60)).cast(polars.Duration)
    table = polars.DataFrame({"a": X[:, 0], "b": times})
    if "pyarrow" in kind:
        pytest.importorskip("pyarrow")
        table = table.to_arrow()
    if "narwhals" in kind:
        table = narwhals.from_native(table)
    with pytest.raises(ValueError, match=r"X has dates or times.*TableVectorizer"):
        small().fit(table, y)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_results_do_not_depend_on_the_output_of_transformers(library):
    pytest.importorskip(library)
    labels = np.where(np.arange(60) < 10, -1, y)
    wide = csr_array(np.tile(X > 2, 30).astype(float))
    before = []
    for output in ("default", library):
        with sklearn.config_context(transform_output=output):
            pipe = make_pipeline(StandardScaler(), small(missing_label=-1)).fit(X, labels)
            sparse = small(missing_label=-1, batch_size=16).fit(wide, labels)
            scores = noisy_label_scorer(pipe, X, y), noisy_label_scorer(sparse, wide, y)
            sparse.partial_fit(wide, labels)
        before.append((*scores, pipe[-1].noise_scores_, sparse.noise_scores_))
    for expected, actual in zip(*before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_predict_takes_a_single_row_of_a_reversed_table():
    clf = small().fit(X, y)
    for rows in (X[:1][::-1], X[:1, :][::-1].astype(np.float32)):
        np.testing.assert_allclose(clf.predict_proba(rows), clf.predict_proba(X[:1]), atol=1e-6)
    with_module = small(module=torch.nn.Linear).fit(X, y)
    assert with_module.predict(X[:1][::-1]) == with_module.predict(X[:1])


class Narrow(CLIDMUClassifier):
    """A subclass with parameters of its own."""

    def __init__(self, *, size=8, random_state=None):
        super().__init__(max_epochs=1, hidden_layer_sizes=size, random_state=random_state)
        self.size = size


def test_subclass_may_have_other_parameters():
    clf = clone(Narrow(size=6, random_state=0)).fit(X, y)
    assert clf.get_params() == {"size": 6, "random_state": 0}
    assert_sound(clf, X)
    other = small(max_epochs=1, hidden_layer_sizes=6).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))


def test_lists_give_what_arrays_give():
    clf = small().fit(X.tolist(), NAMES[y].tolist(), [1.0] * len(X))
    np.testing.assert_array_equal(clf.noise_scores_, small().fit(X, y).noise_scores_)


# Large tables


def test_wide_sparse_table_is_never_dense_as_a_whole():
    n_rows, n_columns, n_words = 1000, 100_000, 20  # 800 MB, were it dense
    rng = np.random.RandomState(0)
    words = rng.randint(n_columns, size=(n_rows, n_words))
    rows = np.repeat(np.arange(n_rows), n_words)
    table = csr_array((np.ones(rows.size), (rows, words.ravel())), shape=(n_rows, n_columns))
    clf = small(weighting=None, hidden_layer_sizes=4, max_epochs=1)
    clf.fit(table[:40, :10], y[np.arange(40)])  # what is imported at first takes memory, too
    tracemalloc.start()
    try:
        clf.fit(table, np.arange(n_rows) % 2)
        assert clf.predict(table).shape == clf.noise_scores_.shape == (n_rows,)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 400e6


# scikit-learn's view of it


@pytest.mark.parametrize("fitted", [False, True])
def test_repr_shows_changed_parameters(fitted):
    clf = CLIDMUClassifier(temperature=0.25, max_epochs=1, missing_label=float("nan"))
    if fitted:
        clf.fit(X, y)
    text = "CLIDMUClassifier(max_epochs=1, missing_label=nan, temperature=0.25)"
    assert repr(clf) == text
    pipe = make_pipeline(StandardScaler(), clf)
    for shown in (clf._repr_html_(), estimator_html_repr(pipe)):
        assert "CLIDMUClassifier" in shown
        assert "temperature=0.25" in shown


def test_classifier_fits_a_mixed_frame_behind_skrub_tabular_pipeline():
    skrub, pandas = pytest.importorskip("skrub"), pytest.importorskip("pandas")
    rng = np.random.RandomState(0)
    labels = rng.randint(2, size=200)
    numbers = np.where(rng.rand(200) < 0.2, np.nan, labels + 0.3 * rng.randn(200))
    words = np.where(rng.rand(200) < 0.9, np.where(labels, "left", "right"), "unknown")
    days = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(rng.randint(99, size=200), "D")
    frame = pandas.DataFrame({"number": numbers, "word": words, "day": days})
    model = skrub.tabular_pipeline(small(max_epochs=10)).fit(frame, labels)
    assert model.score(frame, labels) > 0.9
