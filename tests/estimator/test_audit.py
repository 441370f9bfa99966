"""Which labels look wrong: estimates of a fit, out-of-fold scores, lists of issues."""

import sys
from dataclasses import FrozenInstanceError

import joblib
import numpy as np
import pytest
from cleanlab.classification import CleanLearning
from cleanlab.rank import get_label_quality_scores
from dask.distributed import Client, LocalCluster, get_worker
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import KFold, RepeatedStratifiedKFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier, cross_val_noise_scores, find_label_issues
from sklearn_clidmu.estimator.label_noise import count_joint, find_wrong, noise_matrix
from sklearn_clidmu.estimator.label_report import describe

from .data import SMALL, make_rows

X, y, flipped = make_rows(60, n_classes=3)
NAMES = np.array(["ant", "bee", "a rather long name for a cat that lives next door"])


def small(**params):
    return CLIDMUClassifier(**{**SMALL, **params})


def far_apart(noise=0.3, n_samples=240):
    """Rows of classes so far apart that every wrong label can be told, and their wrong labels."""
    rng = np.random.RandomState(0)
    true = np.arange(n_samples) % 3
    rows = rng.normal(size=(n_samples, 4)) + 12 * np.eye(3, 4)[true]
    wrong = rng.uniform(size=n_samples) < noise
    return rows, np.where(wrong, (true + 1) % 3, true), true


@pytest.fixture(scope="module")
def audited():
    """A classifier, the numbers of the labels that it was fitted on, and the true ones."""
    rows, given, true = far_apart()
    return small(max_epochs=15).fit(rows, NAMES[given]), given, true


# What a fit estimates


def assert_estimates_are_those_of_the_flips(clf, given, true):
    np.testing.assert_array_equal(clf.suggested_labels_, clf.classes_[true])
    assert clf.noise_rate_ == pytest.approx((given != true).mean(), abs=0.02)
    expected = confusion_matrix(given, true, normalize="pred")
    np.testing.assert_allclose(clf.noise_matrix_, expected, atol=0.05)


def test_rate_and_matrix_are_those_of_the_flips_where_every_wrong_label_can_be_told(audited):
    clf, given, true = audited
    order = np.argsort(np.argsort(NAMES))  # classes_ are sorted
    assert_estimates_are_those_of_the_flips(clf, order[given], order[true])


@pytest.mark.parametrize("weighting", ["wnet", "vri", None])
def test_rate_and_matrix_are_there_without_the_judgement_of_all_other_rows(weighting):
    rows, given, true = far_apart()
    clf = small(max_epochs=15, weighting=weighting).fit(rows, given)
    assert_estimates_are_those_of_the_flips(clf, given, true)


def test_no_label_counts_as_wrong_where_all_are_right():
    rows, given, _ = far_apart(noise=0)
    clf = small(max_epochs=15).fit(rows, given)
    assert clf.noise_rate_ == 0
    np.testing.assert_array_equal(clf.noise_matrix_, np.eye(3))
    assert len(find_label_issues(clf)) == 0
    assert "0 of the labels" in clf.noise_report()


def test_scores_of_new_labels_are_what_the_prediction_leaves_for_other_classes():
    clf = small().fit(X, NAMES[y])
    codes = np.argsort(np.argsort(NAMES))[y]  # classes_ are sorted
    left = 1 - clf.predict_proba(X)[np.arange(len(X)), codes]
    np.testing.assert_allclose(clf.noise_scores(X, NAMES[y]), left, atol=1e-12)
    two = small().fit(X, y == 0)
    np.testing.assert_allclose(
        two.noise_scores(X, y == 0) + two.noise_scores(X, y != 0), 1, atol=1e-9
    )


@pytest.mark.parametrize("label", [3, 0.5, "0", None, float("nan")])
def test_a_label_that_is_no_class_cannot_be_scored(label):
    clf = small().fit(X, y)
    with pytest.raises(ValueError, match=r"labels that are not among the classes, .* 0, 1, 2"):
        clf.noise_scores(X[:2], np.array([0, label], dtype=object))


def test_scores_need_as_many_labels_as_rows():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(X, y).noise_scores(X, y[:-1])


# How labels are taken to be wrong


def test_wrong_are_the_most_suspect_of_a_class_that_are_not_suggested_within_what_is_allowed():
    given = np.array([0, 0, 0, 0, 1, 1, 1, -1])
    suggested = np.array([1, 1, 1, 0, 0, 1, 0, 0])
    scores = np.array([0.5, 0.9, 0.7, 1.0, 0.2, 0.9, 0.1, np.nan])
    wrong = find_wrong(scores, given, suggested, np.array([0.6, 0.0]))
    # Of class 0, 1.25 times 1.6 are allowed; row 3 has the suggested label, row 7 has none.
    np.testing.assert_array_equal(np.flatnonzero(wrong), [1, 2, 4, 6])
    unbounded = find_wrong(scores, given, suggested, None)
    np.testing.assert_array_equal(np.flatnonzero(unbounded), [0, 1, 2, 4, 6])


def test_the_matrix_is_the_confusion_of_given_and_mended_labels():
    rng = np.random.RandomState(0)
    given, suggested = rng.randint(0, 4, (2, 200))
    wrong = (given != suggested) & (rng.uniform(size=200) < 0.5)
    given[::10], wrong[::10] = -1, False
    labelled = given >= 0
    mended = np.where(wrong, suggested, given)
    joint = count_joint(wrong, given, suggested, 4)
    np.testing.assert_array_equal(joint, confusion_matrix(given[labelled], mended[labelled]))
    expected = confusion_matrix(given[labelled], mended[labelled], normalize="pred")
    np.testing.assert_allclose(noise_matrix(joint), expected)


def test_a_class_that_no_row_is_of_keeps_its_labels_in_the_matrix():
    np.testing.assert_array_equal(noise_matrix(np.array([[3, 0], [1, 0]])), [[0.75, 0], [0.25, 1]])


# The report


def test_the_report_names_the_worst_class_what_it_should_be_and_the_first_rows(audited):
    clf, given, true = audited
    lines = clf.noise_report().splitlines()
    n_wrong = round(clf.noise_rate_ * len(given))
    assert lines[0] == "240 labels in 3 classes."
    assert lines[1].startswith(f"About {n_wrong} of the labels ({clf.noise_rate_:.0%})")
    table = {line.split()[0]: line for line in lines if line.startswith(("ant", "bee"))}
    count = np.count_nonzero(find_label_issues(clf).given_label == "bee")
    assert table["bee"].split() == ["bee", str((given == 1).sum()), str(count), "ant", f"({count})"]
    [first] = [line for line in lines if line.startswith("Rows to look at first")]
    listed = [int(row) for row in first.rstrip(".").split(":")[1].split(",")]
    assert (given != true)[listed].all()
    assert clf.noise_scores_[listed[0]] == clf.noise_scores_.max()
    assert "in-sample" in clf.noise_report()
    assert "cross_val_noise_scores" in clf.noise_report()


def test_the_report_stays_short_for_a_hundred_classes_and_leaves_out_rows_without_a_label():
    rng = np.random.RandomState(0)
    joint = 5 * np.eye(100, dtype=int) + rng.randint(0, 2, (100, 100))
    scores = np.append(rng.uniform(size=joint.sum()), [np.nan, np.nan])
    report = describe(joint, np.arange(100), scores, [])
    lines = report.splitlines()
    assert len(lines) < 20
    assert lines[0] == f"{joint.sum()} labels in 100 classes, and 2 rows without a label."
    n_wrong = joint.sum() - joint.trace()
    listed = [int(line.split()[2]) for line in lines[4:12]]
    assert f"and {n_wrong - sum(listed)} wrong labels in 92 more classes." in lines
    assert listed == sorted(joint.sum(axis=1) - joint.diagonal(), reverse=True)[:8]
    first = np.argsort(scores[:-2])[::-1][:8]
    assert lines[-1].endswith(f": {', '.join(map(str, first))}.")


# Out-of-fold scores


@pytest.mark.parametrize("cv", [3, KFold(4, shuffle=True, random_state=0)])
@pytest.mark.parametrize("model", [GaussianNB(), make_pipeline(StandardScaler(), GaussianNB())])
def test_out_of_fold_scores_are_what_cross_val_predict_leaves_for_other_classes(model, cv):
    proba = cross_val_predict(model, X, y, cv=cv, method="predict_proba")
    scores, suggested = cross_val_noise_scores(model, X, y, cv=cv, return_suggested=True)
    np.testing.assert_allclose(scores, 1 - proba[np.arange(len(y)), y], atol=1e-12)
    np.testing.assert_array_equal(suggested, proba.argmax(axis=1))


def test_out_of_fold_scores_are_one_minus_the_label_quality_of_cleanlab():
    proba = cross_val_predict(GaussianNB(), X, y, method="predict_proba")
    quality = get_label_quality_scores(y, proba, method="self_confidence")
    np.testing.assert_allclose(cross_val_noise_scores(GaussianNB(), X, y), 1 - quality, atol=1e-12)


def test_names_of_labels_do_not_change_out_of_fold_scores():
    by_number, numbers = cross_val_noise_scores(GaussianNB(), X, y, return_suggested=True)
    by_name, names = cross_val_noise_scores(GaussianNB(), X, NAMES[y], return_suggested=True)
    np.testing.assert_allclose(by_name, by_number, atol=1e-12)
    np.testing.assert_array_equal(names, NAMES[numbers])


def test_out_of_fold_scores_find_wrong_labels_with_the_classifier_itself():
    rows, given, true = far_apart()
    scores = cross_val_noise_scores(small(max_epochs=8, refit=False), rows, NAMES[given], cv=2)
    wrong = given != true
    assert scores[wrong].min() > scores[~wrong].max()


def test_frames_are_scored_in_the_order_of_their_rows():
    pandas = pytest.importorskip("pandas")
    index = np.arange(len(X))[::-1]
    frame, labels = pandas.DataFrame(X, index=index), pandas.Series(NAMES[y], index=index)
    np.testing.assert_array_equal(
        cross_val_noise_scores(GaussianNB(), frame.rename(columns=str), labels),
        cross_val_noise_scores(GaussianNB(), X, NAMES[y]),
    )


def test_folds_are_those_of_an_iterable_of_splits():
    splits = list(KFold(3).split(X))
    np.testing.assert_array_equal(
        cross_val_noise_scores(GaussianNB(), X, y, cv=iter(splits)),
        cross_val_noise_scores(GaussianNB(), X, y, cv=KFold(3)),
    )


def test_fit_parameters_are_cut_to_the_training_rows_of_each_fold():
    weight = np.linspace(0.1, 5, len(X))
    scores = cross_val_noise_scores(
        GaussianNB(), X, y, cv=KFold(2), params={"sample_weight": weight}
    )
    train, test = np.arange(30, 60), np.arange(30)
    half = GaussianNB().fit(X[train], y[train], weight[train])
    expected = 1 - half.predict_proba(X[test])[np.arange(30), y[test]]
    np.testing.assert_allclose(scores[test], expected, atol=1e-12)


def test_a_class_that_a_fold_has_not_seen_has_probability_zero_there():
    labels = np.where(np.arange(60) < 5, 7, y)  # all of them in the first of three folds
    scores, suggested = cross_val_noise_scores(
        GaussianNB(), X, labels, cv=KFold(3), return_suggested=True
    )
    np.testing.assert_array_equal(scores[:5], 1)
    assert 7 not in suggested[:20]
    assert (scores[5:] < 1).all()


@pytest.mark.parametrize(
    "cv",
    [
        RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0),
        [(np.arange(30), np.arange(30, 60))],
    ],
)
def test_every_row_must_be_tested_exactly_once(cv):
    with pytest.raises(ValueError, match=r"cv must test every row exactly once, .* row 0 [02] ti"):
        cross_val_noise_scores(GaussianNB(), X, y, cv=cv)


class Taught(ClassifierMixin, BaseEstimator):
    """Passes on labelled rows alone, told what stands for no label, and counts the others."""

    seen = ()

    def __init__(self, missing):
        self.missing = missing

    def fit(self, X, y):
        known = ~np.isin(np.array(y, dtype=str), [str(self.missing), "None"])
        Taught.seen = (*Taught.seen, np.count_nonzero(~known))
        self.model_ = GaussianNB().fit(X[known], np.array(y[known].tolist()))
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(X)


@pytest.mark.parametrize(
    ("labels", "missing"),
    [
        (y, -1),
        (NAMES[y], ""),
        (y.astype(float), np.nan),
        (NAMES[y].astype(object), np.nan),
        (y.astype(object), np.nan),
    ],
    ids=["-1", "empty", "nan", "nan or None among strings", "nan or None among numbers"],
)
def test_rows_without_a_label_are_passed_on_to_fit_and_score_nan(labels, missing, monkeypatch):
    monkeypatch.setattr(Taught, "seen", ())
    labels = labels.copy()
    without = np.arange(len(labels)) % 6 == 0
    labels[without] = missing
    if labels.dtype == object:
        labels[0] = None
    scores, suggested = cross_val_noise_scores(
        Taught(missing), X, labels, cv=2, missing_label=missing, return_suggested=True
    )
    np.testing.assert_array_equal(np.isnan(scores), without)
    assert sum(Taught.seen) == without.sum()  # each in one training part of two
    known = np.array(labels[~without].tolist())
    np.testing.assert_array_equal(np.unique(suggested), np.unique(known))
    assert len(suggested) == len(labels)
    assert (scores[~without & ~flipped] < 0.5).mean() > 0.9


def test_without_a_single_label_there_is_nothing_to_score():
    with pytest.raises(
        ValueError, match=r"y must have labels, got none, beside 60 rows .*missing_label=-1"
    ):
        cross_val_noise_scores(GaussianNB(), X, np.full(len(X), -1), missing_label=-1)


class OnWorkers(GaussianNB):
    """Fits on a Dask worker, and nowhere else."""

    def fit(self, X, y, sample_weight=None):
        get_worker()  # an error outside of a worker
        return super().fit(X, y, sample_weight)


def test_folds_are_spread_over_a_dask_cluster():
    with pytest.raises(ValueError, match="worker"):
        cross_val_noise_scores(OnWorkers(), X, y, cv=3)
    cluster = LocalCluster(  # of two slots: with a single one joblib stays where it is
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster, Client(cluster), joblib.parallel_backend("dask"):
        scores = cross_val_noise_scores(OnWorkers(), X, y, cv=3)
    np.testing.assert_array_equal(scores, cross_val_noise_scores(GaussianNB(), X, y, cv=3))


# Lists of issues


def test_issues_of_a_classifier_are_the_labels_that_its_rate_counts(audited):
    clf, given, _ = audited
    issues = find_label_issues(clf)
    assert len(issues) == round(clf.noise_rate_ * len(given)) > 0
    np.testing.assert_array_equal(issues.score, clf.noise_scores_[issues.index])
    assert (np.diff(issues.score) <= 0).all()
    np.testing.assert_array_equal(issues.given_label, NAMES[given][issues.index])
    np.testing.assert_array_equal(issues.suggested_label, clf.suggested_labels_[issues.index])
    assert (issues.given_label != issues.suggested_label).all()
    assert issues.noise_rate == clf.noise_rate_


def test_issues_of_a_pipeline_are_those_of_its_last_step():
    pipe = make_pipeline(StandardScaler(), small()).fit(X, y)
    np.testing.assert_array_equal(find_label_issues(pipe).mask, find_label_issues(pipe[-1]).mask)


def test_a_row_without_a_label_is_no_issue_of_a_classifier():
    clf = small().fit(X, NAMES[y])
    clf._given[:9], clf._wrong[:9], clf.noise_scores_[:9] = -1, False, np.nan
    issues = find_label_issues(clf, threshold=0)
    np.testing.assert_array_equal(np.sort(issues.index), np.arange(9, len(X)))
    assert issues.given_labels[:9].tolist() == [None] * 9
    np.testing.assert_array_equal(issues.given_labels[9:], NAMES[y][9:])
    assert f"among {len(X) - 9} labels" in repr(issues)


def test_issues_of_scores_with_suggestions_are_the_labels_that_are_not_suggested():
    issues = find_label_issues(
        [0.2, np.nan, 0.6, 0.9], ["a", "", "b", "b"], suggested=["b", "b", "b", "a"]
    )
    assert issues.index.tolist() == [3, 0]
    assert issues.given_label.tolist() == ["b", "a"]
    assert issues.suggested_label.tolist() == ["a", "b"]
    assert issues.noise_rate == pytest.approx(2 / 3)


def test_issues_of_scores_alone_are_more_likely_wrong_than_right():
    issues = find_label_issues([0.5, 0.51, np.nan, 0.9], [0, 1, -1, 1])
    assert issues.index.tolist() == [3, 1]
    assert issues.suggested_label.tolist() == [None, None]


@pytest.mark.parametrize(("threshold", "expected"), [(0.9, [3]), (0.2, [3, 2, 0]), (0, [3, 2, 0])])
def test_a_threshold_takes_the_scores_from_there_on(threshold, expected):
    issues = find_label_issues([0.2, np.nan, 0.6, 0.9], list("aabb"), threshold=threshold)
    assert issues.index.tolist() == expected
    assert issues.noise_rate == pytest.approx(2 / 3)  # as with "auto"
    clf = small().fit(X, y)
    mask = find_label_issues(clf, threshold=threshold).mask
    np.testing.assert_array_equal(mask, clf.noise_scores_ >= threshold)


def test_the_printed_table_is_aligned_and_ends_with_how_many_more_there_are():
    scores = np.linspace(0.6, 1, 12)
    issues = find_label_issues(scores, NAMES[np.arange(12) % 3], suggested=["ant"] * 12)
    heading, columns, *rows = repr(issues).splitlines()
    assert heading == "8 label issues among 12 labels (estimated noise rate 67%)"
    assert columns.split() == ["row", "given", "label", "suggested", "score"]
    assert {len(row) for row in rows} == {len(columns)}
    assert len(rows) == 8
    assert rows[0].split()[-2:] == ["ant", "1.000"]
    assert "…" in rows[0]  # the long name
    more = find_label_issues(scores, NAMES[np.arange(12) % 3], threshold=0)
    assert len(repr(more).splitlines()) == 13
    assert repr(more).endswith("\nand 2 more")


def test_without_an_issue_only_the_heading_is_printed():
    issues = find_label_issues([0.1], ["a"])
    assert repr(issues) == "0 label issues among 1 labels (estimated noise rate 0%)"


def test_issues_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        find_label_issues([0.1], ["a"]).scores = np.ones(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clf_or_scores": [0.1]}, "y must be given with an array of scores"),
        ({"clf_or_scores": [0.1, 1.1], "y": [0, 1]}, r"scores must be in \[0, 1\]"),
        ({"clf_or_scores": [np.nan], "y": [0]}, "not nan alone"),
        ({"clf_or_scores": [0.1, 0.2], "y": [0]}, "inconsistent numbers of samples"),
        ({"clf_or_scores": [0.1], "y": [0], "threshold": 2}, r"threshold must be 'auto' or a num"),
        ({"clf_or_scores": [0.1], "y": [0], "threshold": "otsu"}, "got 'otsu'"),
        ({"clf_or_scores": GaussianNB()}, "must be a CLIDMUClassifier, a Pipeline that ends"),
        ({"clf_or_scores": small(), "y": [0]}, "y and suggested go with an array of scores"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_label_issues(**arguments)


# With other packages


def test_the_frame_has_all_rows_in_order_under_the_names_that_cleanlab_uses():
    pytest.importorskip("pandas")
    clf = small().fit(X, NAMES[y])
    frame = find_label_issues(clf).to_frame()
    assert list(frame) == ["is_label_issue", "label_quality", "given_label", "predicted_label"]
    assert frame["is_label_issue"].dtype == bool
    np.testing.assert_array_equal(frame["label_quality"], 1 - clf.noise_scores_)
    np.testing.assert_array_equal(frame["given_label"], NAMES[y])
    np.testing.assert_array_equal(frame["predicted_label"], clf.suggested_labels_)


def test_without_pandas_the_frame_says_what_to_install(monkeypatch):
    issues = find_label_issues([0.1], ["a"])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        issues.to_frame()


def test_cleanlab_trains_without_the_issues_of_the_frame(audited):
    clf, given, true = audited
    rows, *_ = far_apart()
    issues = find_label_issues(clf.noise_scores_, given, suggested=true)
    cleaned = CleanLearning(GaussianNB()).fit(rows, given, label_issues=issues.to_frame())
    kept = ~issues.mask
    assert not kept.all()
    alone = GaussianNB().fit(rows[kept], given[kept])
    np.testing.assert_allclose(cleaned.clf.theta_, alone.theta_)
    assert cleaned.get_label_issues()["is_label_issue"].sum() == len(issues)


def test_learned_trust_is_a_sample_weight_for_any_estimator(audited):
    clf, given, true = audited
    rows, *_ = far_apart()
    plain = LogisticRegression().fit(rows, given)
    trusting = LogisticRegression().fit(rows, given, sample_weight=clf.sample_weights_)
    truth = np.arange(len(true)), true
    assert plain.predict_proba(rows)[truth].mean() < 0.75  # there it believes the wrong labels
    assert trusting.predict_proba(rows)[truth].mean() > 0.85
