"""What the classifier promises where some rows have no label."""

import pickle
import re

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.estimator import learning
from sklearn_clidmu.estimator.learning import N_FILLINGS, train
from sklearn_clidmu.training.meta_step import MetaStep

from .data import SMALL, make_rows

pytestmark = pytest.mark.usefixtures("coarse_judge")

X, y_full, _ = make_rows(60, n_classes=3)
LABELED = np.random.RandomState(0).uniform(size=60) < 0.6
y = np.where(LABELED, y_full, -1)
USES = ["consistency", "meta", "ignore"]
NAMES = np.array(["ant", "bee", "cat"])


def small(**params):
    return CLIDMUClassifier(**{**SMALL, "missing_label": -1, **params})


def assert_equal_fits(first, second, rows=X, atol=0):
    np.testing.assert_allclose(
        first.predict_proba(rows), second.predict_proba(rows), rtol=0, atol=atol
    )
    for key in ("noise_scores_", "sample_weights_"):
        np.testing.assert_allclose(getattr(first, key), getattr(second, key), rtol=0, atol=atol)
    np.testing.assert_array_equal(first.classes_, second.classes_)


@pytest.fixture
def trainings(monkeypatch):
    """Data and weighting of every training."""
    recorded = []

    def watched(params, data, weighting, **kwargs):
        recorded.append((data, weighting))
        return train(params, data, weighting, **kwargs)

    monkeypatch.setattr(learning, "train", watched)
    return recorded


@pytest.fixture
def meta_batches(monkeypatch):
    """Positions of the rows of every meta batch, those of warm-up too."""
    recorded = []
    plain = MetaStep._slope

    def watched(self, meta_labels):
        recorded.append(meta_labels.rows.numpy())
        return plain(self, meta_labels)

    monkeypatch.setattr(MetaStep, "_slope", watched)
    return recorded


# What is found out about the rows


@pytest.mark.parametrize("unlabeled", USES)
@pytest.mark.parametrize(
    ("weighting", "refit", "batch_size"),
    [
        ("evidence", True, 16),
        ("evidence", False, 64),
        ("wnet", True, 64),
        ("vri", True, 16),
        (None, True, 64),
    ],
)
def test_rows_without_a_label_have_no_noise_score_and_no_weight(
    weighting, refit, unlabeled, batch_size
):
    clf = small(weighting=weighting, refit=refit, unlabeled=unlabeled, batch_size=batch_size)
    clf.fit(X, y)
    assert clf.noise_scores_.shape == clf.sample_weights_.shape == (60,)
    np.testing.assert_array_equal(np.isnan(clf.noise_scores_), ~LABELED)
    np.testing.assert_array_equal(clf.sample_weights_ == 0, ~LABELED)
    assert clf.sample_weights_[LABELED].mean() == pytest.approx(1)
    if weighting is None:
        assert (clf.sample_weights_[LABELED] == 1).all()
    else:
        assert clf.sample_weights_[LABELED].std() > 0
    assert ((clf.noise_scores_[LABELED] >= 0) & (clf.noise_scores_[LABELED] <= 1)).all()
    assert np.isfinite(clf.history_["train_loss"]).all()
    assert clf.history_["clid"].shape == clf.history_["train_loss"].shape
    assert clf.n_iter_ == 3
    assert clf.collapse_epoch_ is None
    assert (clf.weight_net_ is None) == (weighting is None)


@pytest.mark.parametrize("unlabeled", USES)
def test_wrong_labels_are_found_in_the_callers_order_among_rows_without_one(unlabeled):
    rows, labels, _ = make_rows(120, n_classes=3, noise=0)
    rows = rows + 3 * np.eye(3, 4)[labels]
    given = np.where(np.arange(120) % 4 == 3, -1, labels)
    wrong = np.array([5, 50, 100])
    given[wrong] = (given[wrong] + 1) % 3
    clf = small(unlabeled=unlabeled, max_epochs=20, batch_size=32).fit(rows, given)
    order = np.argsort(-np.nan_to_num(clf.noise_scores_))
    assert set(order[:3]) == set(wrong)
    trusted = np.where(given < 0, np.inf, clf.sample_weights_)
    assert set(wrong) <= set(np.argsort(trusted)[:6])


@pytest.mark.parametrize("unlabeled", USES)
def test_the_missing_label_is_no_class_and_never_predicted(unlabeled):
    clf = small(unlabeled=unlabeled).fit(X, y)
    np.testing.assert_array_equal(clf.classes_, [0, 1, 2])
    assert clf.predict_proba(X).shape == (60, 3)
    assert set(clf.predict(np.r_[X, 100 * X, 0 * X])) <= {0, 1, 2}


# What rows without a label are used for


@pytest.mark.parametrize(
    ("weighting", "batch_size", "weighted"),
    [
        ("evidence", 16, False),
        ("evidence", 16, True),
        ("evidence", 64, True),
        ("vri", 64, False),
        (None, 16, True),
    ],
)
def test_ignored_rows_are_as_good_as_not_passed(weighting, batch_size, weighted):
    params = {"weighting": weighting, "batch_size": batch_size, "dtype": "float64"}
    weight = np.random.RandomState(1).uniform(0.5, 2, 60) if weighted else np.ones(60)
    weight[~LABELED] *= 5 if weighted else 1  # nor does what they weigh matter
    clf = small(unlabeled="ignore", **params).fit(X, y, weight)
    without = small(**params).fit(X[LABELED], y[LABELED], weight[LABELED])
    pairs = [
        (clf.predict_proba(X), without.predict_proba(X)),
        (clf.noise_scores_[LABELED], without.noise_scores_),
        (clf.sample_weights_[LABELED], without.sample_weights_),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("weighting", "batch_size"), [("evidence", 16), ("evidence", 64), ("vri", 16), (None, 64)]
)
def test_where_all_rows_have_a_label_nothing_changes(weighting, batch_size):
    params = {"weighting": weighting, "batch_size": batch_size}
    expected = small(missing_label=None, **params).fit(X, y_full)
    for unlabeled in USES:
        clf = small(unlabeled=unlabeled, **params).fit(X, y_full)
        assert_equal_fits(clf, expected)
        for name, curve in expected.history_.items():
            np.testing.assert_array_equal(clf.history_[name], curve)


@pytest.mark.parametrize("weighting", ["evidence", "vri"])
def test_rows_without_a_label_are_in_meta_batches_from_the_first_on(weighting, meta_batches):
    settings = {"weighting": weighting, "batch_size": 16, "refit": False}
    clf = small(unlabeled="meta", **settings).fit(X, y)
    drawn = list(meta_batches)
    assert {len(rows) for rows in drawn} == {32}
    assert all((~LABELED[rows]).any() and LABELED[rows].any() for rows in drawn)
    assert set(np.concatenate(drawn)) == set(range(60))
    meta_batches.clear()
    ignoring = small(unlabeled="ignore", **settings).fit(X, y)
    assert len(meta_batches) == len(drawn)
    assert all(LABELED[rows].all() for rows in meta_batches)
    assert not np.array_equal(clf.predict_proba(X), ignoring.predict_proba(X))


def test_a_meta_batch_that_could_hold_all_rows_holds_all_of_any_label(meta_batches):
    small(unlabeled="meta", meta_batch_size=99, batch_size=16).fit(X, y)
    assert meta_batches
    for rows in meta_batches:
        np.testing.assert_array_equal(rows, np.arange(60))


def test_rows_of_the_first_training_are_those_with_a_label(trainings):
    for unlabeled in USES:
        trainings.clear()
        small(unlabeled=unlabeled).fit(X, y)
        assert len(trainings) == 2 + N_FILLINGS * (unlabeled == "consistency")
        for data, _ in trainings[:2]:
            np.testing.assert_array_equal(data.training.labels.rows, np.flatnonzero(LABELED))
            np.testing.assert_array_equal(data.training.labels.targets, y[LABELED])
        for data, _ in trainings[2:]:
            np.testing.assert_array_equal(data.training.labels.rows, np.arange(60))
            np.testing.assert_array_equal(data.training.labels.targets[LABELED], y[LABELED])


@pytest.mark.parametrize(
    "meta_objective",
    ["mae", "small_loss", lambda features, logits, *_: (logits.softmax(dim=1) ** 2).sum()],
    ids=["mae", "small_loss", "callable"],
)
def test_an_objective_that_may_look_at_labels_sees_rows_with_one_alone(
    meta_objective, meta_batches
):
    settings = {"meta_objective": meta_objective, "batch_size": 16, "weighting": "wnet"}
    clf = small(unlabeled="meta", **settings).fit(X, y)
    assert meta_batches
    assert all(LABELED[rows].all() for rows in meta_batches)
    assert_equal_fits(clf, small(unlabeled="ignore", **settings).fit(X, y), atol=1e-5)


def test_without_weighting_there_is_nothing_to_measure_on_rows_without_a_label():
    fits = [
        small(weighting=None, unlabeled=unlabeled, dtype="float64").fit(X, y)
        for unlabeled in ("meta", "ignore")
    ]
    assert_equal_fits(*fits, atol=1e-9)


@pytest.mark.parametrize("weighting", ["evidence", "wnet", "vri", None])
def test_filled_labels_are_trained_on_with_the_weighting_asked_for(weighting, trainings):
    clf = small(weighting=weighting, batch_size=16).fit(X, y)
    assert [used for _, used in trainings[-N_FILLINGS:]] == [weighting] * N_FILLINGS
    assert len(clf.history_["clid"]) == 3 * len(trainings)
    first, last = (data.everything.labels.targets for data, _ in (trainings[0], trainings[-1]))
    assert torch.equal(first[LABELED], last[LABELED])
    ignoring = small(weighting=weighting, batch_size=16, unlabeled="ignore").fit(X, y)
    assert np.abs(clf.predict_proba(X) - ignoring.predict_proba(X)).max() > 1e-3


def clusters(seed):
    """Rows far apart by class, and four labels of each, of which one is wrong."""
    rng = np.random.RandomState(seed)
    truth = np.arange(180) % 3
    rows = rng.normal(size=(180, 30)) + 5 * np.eye(3, 30)[truth]
    given = np.where(np.arange(180) < 12, truth, -1)
    given[:3] = [1, 2, 0]
    return rows, given, truth


@pytest.mark.parametrize("seed", range(2))
def test_where_few_rows_have_a_label_the_others_help_to_predict(seed):
    rows, given, truth = clusters(seed)
    consistent, ignoring = (
        small(max_epochs=8, unlabeled=unlabeled).fit(rows, given).score(rows, truth)
        for unlabeled in ("consistency", "ignore")
    )
    assert consistent > 0.97
    assert consistent > ignoring + 0.1


def test_labels_may_fit_one_batch_where_filled_ones_do_not(trainings):
    few = np.where(np.arange(60) < 12, y_full, -1)
    clf = small(batch_size=16).fit(X, few)
    assert [data.fits_one_batch for data, _ in trainings] == [True, True, False, False]
    assert [len(data.training) for data, _ in trainings] == [12, 12, 60, 60]
    assert {p.dtype for p in clf.net_.module_.parameters()} == {torch.float64}
    assert np.isfinite(clf.predict_proba(X)).all()
    assert np.isfinite(clf.noise_scores_[:12]).all()


def test_a_filled_training_that_collapses_is_not_the_one_that_predicts():
    calls = []

    def objective(features, logits, targets, sample_weight):
        calls.append(len(logits))
        sick = len(targets) == 60  # rows with a label are fewer
        return (logits.softmax(dim=1) ** 2).sum() * (float("nan") if sick else 1.0)

    params = {"meta_objective": objective, "batch_size": 64, "warmup_epochs": 1}
    clf = small(**params).fit(X, y)  # and no ConvergenceWarning
    assert 60 in calls
    assert_equal_fits(clf, small(unlabeled="ignore", **params).fit(X, y), atol=1e-6)


# Rows passed beside the table


@pytest.mark.parametrize("unlabeled", USES)
@pytest.mark.parametrize(("missing_label", "batch_size"), [(None, 16), (-1, 64)])
def test_rows_beside_the_table_are_rows_of_it_without_a_label(unlabeled, missing_label, batch_size):
    params = {"unlabeled": unlabeled, "batch_size": batch_size}
    labels = y_full[:40] if missing_label is None else y[:40]
    beside = small(missing_label=missing_label, **params).fit(X[:40], labels, X_unlabeled=X[40:])
    appended = small(**params).fit(X, np.r_[labels, np.full(20, -1)])
    np.testing.assert_array_equal(beside.predict_proba(X), appended.predict_proba(X))
    for key in ("noise_scores_", "sample_weights_"):
        assert getattr(beside, key).shape == (40,)
        np.testing.assert_array_equal(getattr(beside, key), getattr(appended, key)[:40])
    for name, curve in appended.history_.items():
        np.testing.assert_array_equal(beside.history_[name], curve)
    assert beside.n_features_in_ == 4
    if unlabeled != "ignore":
        without = small(**params).fit(X[:40], labels)
        assert not np.array_equal(beside.predict_proba(X), without.predict_proba(X))


@pytest.mark.parametrize("unlabeled", USES)
def test_rows_beside_the_table_are_of_its_mean_weight(unlabeled):
    weight = np.random.RandomState(1).uniform(0.5, 2, 40)
    params = {"unlabeled": unlabeled, "dtype": "float64", "class_weight": "balanced"}
    counts = np.bincount(y_full[:40])
    effective = weight * (40 / 3 / counts)[y_full[:40]]
    beside = small(**params).fit(X[:40], y_full[:40], weight.copy(), X_unlabeled=X[40:])
    appended = small(**params).fit(
        X, np.r_[y_full[:40], np.full(20, -1)], np.r_[weight, np.full(20, effective.mean())]
    )
    np.testing.assert_allclose(
        beside.predict_proba(X), appended.predict_proba(X), rtol=0, atol=1e-9
    )


def test_rows_beside_the_table_may_be_a_frame_of_the_same_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    clf = small().fit(frame[:40], y[:40], X_unlabeled=frame[40:])
    plain = small().fit(X[:40], y[:40], X_unlabeled=X[40:])
    np.testing.assert_array_equal(clf.predict_proba(frame), plain.predict_proba(X))
    with pytest.raises(ValueError, match="feature names"):
        small().fit(frame[:40], y[:40], X_unlabeled=frame[40:][list("dcba")])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X[:, :3], r"has 3 features.*expecting 4"),
        (np.full((5, 4), np.nan), "contains NaN"),
        (X[:0], "0 sample"),
        (X[0], "Expected 2D array"),
    ],
)
def test_unfit_rows_beside_the_table_are_refused(rows, message):
    clf = small()
    with pytest.raises(ValueError, match=message):
        clf.fit(X, y, X_unlabeled=rows)
    assert not hasattr(clf, "net_")


def test_rows_beside_the_table_are_routed_through_searches_and_cross_validation():
    more = np.random.RandomState(2).normal(size=(25, 4))
    with sklearn.config_context(enable_metadata_routing=True):
        clf = small().set_fit_request(X_unlabeled=True)
        grid = {"unlabeled": ["meta", "ignore"]}
        search = GridSearchCV(clf, grid, cv=2, error_score="raise")
        search.fit(X, y_full, X_unlabeled=more)
        scores = cross_validate(
            clf, X, y_full, cv=2, params={"X_unlabeled": more}, return_estimator=True
        )
        pipe = make_pipeline(StandardScaler(), clf).fit(X, y_full, X_unlabeled=more)
    best = search.best_estimator_
    direct = clone(best).fit(X, y_full, X_unlabeled=more)
    assert_equal_fits(best, direct)
    assert np.isfinite(scores["test_score"]).all()
    for part in scores["estimator"]:
        assert len(part.noise_scores_) == 30
        assert len(part.history_["clid"]) == 3 * (2 + N_FILLINGS)
    scaled = StandardScaler().fit_transform(X)
    assert_equal_fits(pipe[-1], clone(clf).fit(scaled, y_full, X_unlabeled=more))


# Weights


@pytest.mark.parametrize("unlabeled", ["consistency", "meta"])
def test_a_row_without_a_label_and_without_weight_takes_no_part(unlabeled, trainings):
    weight = np.ones(60)
    out = np.flatnonzero(~LABELED)[::2]
    weight[out] = 0
    clf = small(unlabeled=unlabeled).fit(X, y, weight)
    for data, _ in trainings:
        assert not np.isin(out, data.training.labels.rows).any()
        assert not np.isin(out, data.meta.labels.rows).any()
    assert np.isin(np.flatnonzero(weight), trainings[0][0].meta.labels.rows).all()
    assert np.isnan(clf.noise_scores_[out]).all()
    assert (clf.sample_weights_[out] == 0).all()


def test_if_no_row_without_a_label_weighs_there_is_none():
    clf = small(dtype="float64").fit(X, y, LABELED.astype(float))
    ignoring = small(dtype="float64", unlabeled="ignore").fit(X, y)
    assert_equal_fits(clf, ignoring, atol=1e-9)


def test_labels_without_weight_are_scored_but_not_trained_on(trainings):
    weight = np.ones(60)
    out = np.flatnonzero(LABELED)[::3]
    weight[out] = 0
    clf = small().fit(X, y, weight)
    for data, _ in trainings:
        assert not np.isin(out, data.training.labels.rows).any()
    assert np.isfinite(clf.noise_scores_[out]).all()
    assert (clf.sample_weights_[out] > 0).all()


@pytest.mark.parametrize("kind", ["int", "object"])
@pytest.mark.parametrize("unlabeled", USES)
def test_balanced_class_weights_count_rows_with_a_label_alone(unlabeled, kind):
    rare = np.where((y == 0) & (np.arange(60) % 2 == 0), -1, y)
    counts = np.bincount(rare[rare >= 0])
    assert len(set(counts)) > 1
    weight = np.ones(60)
    weight[rare >= 0] = (counts.sum() / 3 / counts)[rare[rare >= 0]]
    params = {"unlabeled": unlabeled, "dtype": "float64"}
    by_hand = small(**params).fit(X, rare, weight)
    labels, missing = rare, -1
    if kind == "object":
        labels, missing = np.where(rare < 0, None, rare.astype(object)), np.nan
    balanced = small(class_weight="balanced", missing_label=missing, **params).fit(X, labels)
    assert_equal_fits(balanced, by_hand, atol=1e-9)


def test_a_class_weight_of_rows_without_a_label_changes_nothing_of_theirs():
    params = {"unlabeled": "meta", "dtype": "float64"}
    weight = np.where(y == 1, 3.0, 1.0)
    by_class = small(class_weight={0: 1, 1: 3, 2: 1}, **params).fit(X, y)
    assert_equal_fits(by_class, small(**params).fit(X, y, weight), atol=1e-9)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("unlabeled", USES)
def test_the_callers_weights_and_labels_are_left_as_they_were(class_weight, unlabeled):
    weight = np.linspace(0.5, 2, 60)
    given = weight.copy(), y.copy(), X.copy()
    small(class_weight=class_weight, unlabeled=unlabeled).fit(X, y, weight, X_unlabeled=X[:9])
    for before, after in zip(given, (weight, y, X), strict=True):
        np.testing.assert_array_equal(after, before)


def test_weights_of_rows_with_a_label_must_not_all_be_zero():
    with pytest.raises(ValueError, match="sample_weight must have a positive entry"):
        small().fit(X, y, (~LABELED).astype(float))


# Early stopping


def test_rows_with_a_label_alone_are_held_out(trainings):
    params = {"early_stopping": True, "validation_fraction": 0.25, "batch_size": 16}
    clf = small(**params).fit(X, y)
    n_held_out = int(np.ceil(0.25 * LABELED.sum()))
    for data, _ in trainings:
        held_out = data.held_out.labels.rows.numpy()
        assert len(held_out) == n_held_out
        assert LABELED[held_out].all()
        np.testing.assert_array_equal(data.held_out.labels.targets, y[held_out])
        assert not np.isin(held_out, data.training.labels.rows).any()
        assert not np.isin(held_out, data.meta.labels.rows).any()
    assert len(trainings[-1][0].training) == 60 - n_held_out
    assert np.isfinite(clf.noise_scores_[held_out]).all()
    assert (clf.sample_weights_[held_out] > 0).all()
    assert "valid_score" in clf.history_


# Labels as people have them


@pytest.mark.parametrize("unlabeled", USES)
def test_names_with_an_empty_string_where_there_is_none(unlabeled):
    clf = small(missing_label="", unlabeled=unlabeled).fit(X, np.where(LABELED, NAMES[y], ""))
    plain = small(unlabeled=unlabeled).fit(X, y)
    assert list(clf.classes_) == list(NAMES)
    np.testing.assert_array_equal(clf.noise_scores_, plain.noise_scores_)
    np.testing.assert_array_equal(clf.predict(X), NAMES[plain.predict(X)])


@pytest.mark.parametrize(
    ("dtype", "nothing"), [(object, "None"), ("string", "NA"), ("category", "nan")]
)
def test_a_pandas_series_with_gaps(dtype, nothing):
    pandas = pytest.importorskip("pandas")
    gap = {"None": None, "nan": np.nan, "NA": pandas.NA}[nothing]
    names = [NAMES[k] if k >= 0 else gap for k in y]
    index = np.arange(60)[::-1]
    labels = pandas.Series(names, dtype=dtype, index=index)
    clf = small(missing_label=np.nan).fit(pandas.DataFrame(X, index=index), labels)
    plain = small().fit(X, y)
    assert list(clf.classes_) == list(NAMES)
    np.testing.assert_array_equal(clf.noise_scores_, plain.noise_scores_)
    np.testing.assert_array_equal(clf.predict(X), NAMES[plain.predict(X)])


def test_numbers_of_pandas_with_gaps():
    pandas = pytest.importorskip("pandas")
    labels = pandas.Series(np.where(LABELED, y.astype(object), None), dtype="Int64")
    clf = small(missing_label=np.nan).fit(X, labels)
    assert_equal_fits(clf, small().fit(X, y))


# Among scikit-learn's tools


@pytest.mark.parametrize(
    ("unlabeled", "weighting"),
    [("consistency", "evidence"), ("meta", "evidence"), ("ignore", "evidence"), ("meta", None)],
)
def test_pickles_and_clones_are_as_good_as_the_original(unlabeled, weighting):
    clf = small(unlabeled=unlabeled, weighting=weighting).fit(X, y, X_unlabeled=X[:5])
    copied = pickle.loads(pickle.dumps(clf))
    assert_equal_fits(copied, clf)
    fresh = clone(clf)
    assert fresh.get_params() == clf.get_params()
    assert_equal_fits(fresh.fit(X, y, X_unlabeled=X[:5]), clf)


def test_a_clone_keeps_nan_as_the_missing_label():
    clf = clone(small(missing_label=np.nan))
    assert np.isnan(clf.missing_label)
    assert_equal_fits(clf.fit(X, np.where(y < 0, np.nan, y)), small().fit(X, y))


def test_the_use_of_rows_without_a_label_can_be_searched_for():
    pipe = make_pipeline(StandardScaler(), small())
    search = GridSearchCV(
        pipe, {"clidmuclassifier__unlabeled": USES}, cv=[(np.arange(60), np.flatnonzero(LABELED))]
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_[-1]
    np.testing.assert_array_equal(np.isnan(best.noise_scores_), ~LABELED)


@pytest.mark.parametrize("unlabeled", USES)
def test_the_global_generators_are_left_as_they_were(unlabeled):
    state = torch.get_rng_state()
    of_numpy = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (small(unlabeled=unlabeled).fit(X, y) for _ in range(2))
    assert_equal_fits(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], of_numpy)  # noqa: NPY002


# What cannot be done


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(60, -1), "got none, beside 60 rows without a label (missing_label=-1)"),
        (np.where(y == 1, 1, -1), f"got one class: 1, beside {(y != 1).sum()} rows"),
        (y[:-1], "inconsistent numbers of samples"),
        (np.column_stack([y, y]), "y should be a 1d array"),
    ],
)
def test_unfit_labels_are_refused(labels, message):
    clf = small()
    with pytest.raises(ValueError, match=re.escape(message)):
        clf.fit(X, labels)
    assert not hasattr(clf, "net_")


def test_one_class_beside_rows_without_a_label_of_their_own_table_is_refused():
    with pytest.raises(ValueError, match="one class: 2"):
        small().fit(X, np.full(60, 2), X_unlabeled=X)
