"""Noise estimates of a fit, lists of issues and the noise report."""

import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from classifier.data import make_rows, small
from cleanlab.classification import CleanLearning
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import (
    GridSearchCV,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier, find_label_issues
from sklearn_clidmu.label_issues import count_joint, find_wrong, noise_report, transition_matrix

NAMES = np.array(["ant", "bee", "a rather long name for a cat that lives next door"])
ORDER = np.argsort(np.argsort(NAMES))  # position of each name among the sorted classes
NAN = float("nan")


X, y, _ = make_rows(60, n_classes=3)
# Classes so far apart that every wrong label is found.
FAR, GIVEN, _ = make_rows(240, n_classes=3, noise=0.3, distance=12)
TRUE = np.arange(240) % 3


@pytest.fixture(scope="module")
def clf():
    return small().fit(X, NAMES[y])


@pytest.fixture(scope="module")
def separated():
    return small(max_epochs=15, random_state=2).fit(FAR, NAMES[GIVEN])


# Estimates of a fit


def assert_estimates_match(clf, given, true):
    np.testing.assert_array_equal(clf.suggested_labels_, clf.classes_[true])
    assert clf.noise_rate_ == pytest.approx((given != true).mean(), abs=0.02)
    expected = confusion_matrix(true, given, normalize="true")
    np.testing.assert_allclose(clf.transition_matrix_, expected, atol=0.05)


def test_fit_estimates_rate_and_matrix_of_the_flips(separated):
    assert_estimates_match(separated, ORDER[GIVEN], ORDER[TRUE])


@pytest.mark.parametrize("weighting", ["wnet", "vri", None])
def test_fit_estimates_rate_and_matrix_with_any_weighting(weighting):
    clf = small(max_epochs=8, weighting=weighting, random_state=2).fit(FAR, GIVEN)
    assert_estimates_match(clf, GIVEN, TRUE)


def test_fit_counts_no_label_as_wrong_if_all_are_right():
    clf = small(max_epochs=15).fit(FAR, TRUE)
    assert clf.noise_rate_ == 0
    np.testing.assert_array_equal(clf.transition_matrix_, np.eye(3))
    assert len(find_label_issues(clf)) == 0
    assert "About 0 of the labels" in clf.noise_report()
    assert "No class has labels that are estimated to be wrong." in clf.noise_report()


def test_noise_scores_are_one_minus_the_probability_of_the_label(clf):
    expected = 1 - clf.predict_proba(X)[np.arange(len(X)), ORDER[y]]
    np.testing.assert_allclose(clf.noise_scores(X, NAMES[y]), expected, atol=1e-12)


@pytest.mark.parametrize("label", [3, 0.5, "ants", None, NAN])
def test_noise_scores_refuses_a_label_that_is_not_a_class(clf, label):
    with pytest.raises(ValueError, match=r"labels that are not among the classes, .* 'ant', 'bee'"):
        clf.noise_scores(X[:2], np.array(["ant", label], dtype=object))


def test_noise_scores_refuses_another_number_of_labels(clf):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clf.noise_scores(X, NAMES[y[:-1]])


def test_find_wrong_takes_the_highest_scores_of_each_class_up_to_the_bound():
    given = np.array([0, 0, 0, 0, 1, 1, 1, -1])
    suggested = np.array([1, 1, 1, 0, 0, 1, 0, 0])
    scores = np.array([0.5, 0.9, 0.7, 1.0, 0.2, 0.9, 0.1, np.nan])
    wrong = find_wrong(scores, given, suggested, np.array([0.6, 0.0]))
    # Of class 0, 1.25 times 1.6 are allowed; row 3 has the suggested label, row 7 has none.
    np.testing.assert_array_equal(np.flatnonzero(wrong), [1, 2, 4, 6])
    unbounded = find_wrong(scores, given, suggested, None)
    np.testing.assert_array_equal(np.flatnonzero(unbounded), [0, 1, 2, 4, 6])


def test_count_joint_and_transition_matrix_are_those_of_a_confusion_matrix():
    rng = np.random.RandomState(0)
    given, suggested = rng.randint(0, 4, (2, 200))
    wrong = (given != suggested) & (rng.uniform(size=200) < 0.5)
    given[::10], wrong[::10] = -1, False
    labels = given[given >= 0]
    corrected = np.where(wrong, suggested, given)[given >= 0]
    joint = count_joint(wrong, given, suggested, 4)
    np.testing.assert_array_equal(joint, confusion_matrix(corrected, labels))
    expected = confusion_matrix(corrected, labels, normalize="true")
    np.testing.assert_allclose(transition_matrix(joint), expected)


def test_transition_matrix_of_a_class_without_rows_is_the_identity():
    found = transition_matrix(np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(found, [[0.75, 0.25], [0, 1]])


# Noise report


def test_noise_report_gives_counts_the_worst_class_and_the_first_rows(separated):
    lines = separated.noise_report().splitlines()
    issues = find_label_issues(separated)
    assert lines[0] == "240 labels in 3 classes."
    assert lines[1].startswith(f"About {len(issues)} of the labels ({separated.noise_rate_:.0%})")
    [bees] = [line.split() for line in lines if line.startswith("bee")]
    count = np.count_nonzero(issues.given_label == "bee")
    assert bees == ["bee", str((GIVEN == 1).sum()), str(count), "ant", f"({count})"]
    [first] = [line for line in lines if line.startswith("Rows to look at first")]
    listed = [int(row) for row in first.rstrip(".").split(":")[1].split(",")]
    assert (GIVEN != TRUE)[listed].all()
    assert separated.noise_scores_[listed[0]] == separated.noise_scores_.max()
    assert lines[-1] == "Check them on a page: find_label_issues(clf).to_html('review.html')."


def not_a_number(_features, logits, _targets, _sample_weight):
    return NAN * logits.sum()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "params",
    [{"weighting": "wnet"}, {"weighting": None}, {"meta_objective": not_a_number}],
    ids=["wnet", "none", "collapse"],
)
def test_noise_report_advises_other_scores_where_the_network_has_seen_the_labels(params):
    rows, given, _ = make_rows(150, n_classes=3)
    report = small(**params).fit(rows, given).noise_report()
    assert "may have memorized" in report
    assert "cross_val_noise_scores" in report
    assert "to_html" not in report


def test_noise_report_is_short_for_many_classes_and_counts_unlabeled_rows():
    rng = np.random.RandomState(0)
    joint = 5 * np.eye(100, dtype=int) + rng.randint(0, 2, (100, 100))
    scores = np.append(rng.uniform(size=joint.sum()), [np.nan, np.nan])
    lines = noise_report(joint, np.arange(100), scores).splitlines()
    assert len(lines) < 25
    assert lines[0] == f"{joint.sum()} labels in 100 classes, and 2 rows without a label."
    listed = [int(line.split()[2]) for line in lines[4:12]]
    assert listed == sorted(joint.sum(axis=0) - joint.diagonal(), reverse=True)[:8]
    n_left = joint.sum() - joint.trace() - sum(listed)
    assert f"and {n_left} wrong labels in 92 more classes." in lines
    top = ", ".join(map(str, np.argsort(scores[:-2])[::-1][:8]))
    assert any(line.endswith(f": {top}.") for line in lines)


# Lists of issues


def test_find_label_issues_of_a_classifier_are_the_labels_that_its_rate_counts(separated):
    issues = find_label_issues(separated)
    assert len(issues) == round(separated.noise_rate_ * len(GIVEN)) > 0
    np.testing.assert_array_equal(issues.score, separated.noise_scores_[issues.index])
    assert (np.diff(issues.score) <= 0).all()
    np.testing.assert_array_equal(issues.given_label, NAMES[GIVEN][issues.index])
    np.testing.assert_array_equal(issues.suggested_label, separated.suggested_labels_[issues.index])
    assert (issues.given_label != issues.suggested_label).all()
    assert issues.noise_rate == separated.noise_rate_


def test_find_label_issues_of_a_pipeline_are_those_of_its_last_step(clf):
    for pipe in (make_pipeline(clf), make_pipeline(StandardScaler(), make_pipeline(clf))):
        np.testing.assert_array_equal(find_label_issues(pipe).mask, find_label_issues(clf).mask)


def test_find_label_issues_leave_out_unlabeled_rows():
    labels = NAMES[y].astype(object)
    labels[:9] = None
    clf = small(missing_label=NAN, unlabeled="ignore").fit(X, labels)
    issues = find_label_issues(clf, threshold=0)
    np.testing.assert_array_equal(np.sort(issues.index), np.arange(9, len(X)))
    np.testing.assert_array_equal(issues.given_labels, labels)
    assert f"among {len(X) - 9} labels" in repr(issues)


def test_find_label_issues_of_scores_compare_suggestions_or_a_half():
    issues = find_label_issues(
        [0.2, np.nan, 0.6, 0.9], ["a", "", "b", "b"], suggested=["b", "b", "b", "a"]
    )
    assert issues.index.tolist() == [3, 0]
    assert issues.given_label.tolist() == ["b", "a"]
    assert issues.suggested_label.tolist() == ["a", "b"]
    assert issues.noise_rate == pytest.approx(2 / 3)
    alone = find_label_issues([0.5, 0.51, np.nan, 0.9], [0, 1, -1, 1])
    assert alone.index.tolist() == [3, 1]
    assert alone.suggested_label.tolist() == [None, None]


@pytest.mark.parametrize(("threshold", "expected"), [(0.9, [3]), (0.2, [3, 2, 0]), (0, [3, 2, 0])])
def test_find_label_issues_have_at_least_the_threshold(clf, threshold, expected):
    issues = find_label_issues([0.2, np.nan, 0.6, 0.9], list("aabb"), threshold=threshold)
    assert issues.index.tolist() == expected
    assert issues.noise_rate == pytest.approx(2 / 3)  # as with "auto"
    mask = find_label_issues(clf, threshold=threshold).mask
    np.testing.assert_array_equal(mask, clf.noise_scores_ >= threshold)


def test_label_issues_print_an_aligned_table():
    scores = np.linspace(0.6, 1, 12)
    issues = find_label_issues(scores, NAMES[np.arange(12) % 3], suggested=["ant"] * 12)
    heading, columns, *rows = repr(issues).splitlines()
    assert heading == "8 label issues among 12 labels (estimated noise rate 67%)"
    assert columns.split() == ["row", "given", "label", "suggested", "score"]
    assert {len(row) for row in rows} == {len(columns)}
    assert len(rows) == 8
    assert rows[0].split()[-2:] == ["ant", "1.000"]
    assert "..." in rows[0]  # the long name
    assert repr(issues).isascii()  # as terminals may demand
    more = find_label_issues(scores, NAMES[np.arange(12) % 3], threshold=0)
    assert len(repr(more).splitlines()) == 13
    assert repr(more).endswith("\nand 2 more")
    none = find_label_issues([0.1], ["a"])
    assert repr(none) == "0 label issues among 1 labels (estimated noise rate 0%)"
    with pytest.raises(FrozenInstanceError):
        none.scores = np.ones(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clf_or_scores": [0.1]}, "y must be passed with an array of scores"),
        ({"clf_or_scores": [0.1, 1.1], "y": [0, 1]}, r"scores must be in \[0, 1\].*pass 1 - p"),
        ({"clf_or_scores": [np.nan], "y": [0]}, "at least one entry that is not nan"),
        ({"clf_or_scores": [0.1, 0.2], "y": [0]}, "scores has 2, y has 1"),
        ({"clf_or_scores": [0.1], "y": [0], "suggested": [0, 1]}, "y has 1, suggested has 2"),
        ({"clf_or_scores": [0.1], "y": [0], "suggested": np.eye(2)}, "suggested must have one en"),
        ({"clf_or_scores": np.eye(2), "y": [0, 1]}, "scores must have one entry per row"),
        ({"clf_or_scores": [0.1], "y": 3}, r"y must have one entry per row.*got 3"),
        ({"clf_or_scores": ["a"], "y": [0]}, "scores must be numbers"),
        ({"clf_or_scores": [0.1], "y": [0], "threshold": 2}, r"threshold must be 'auto' or a num"),
        ({"clf_or_scores": [0.1], "y": [0], "threshold": "otsu"}, "got 'otsu'"),
        ({"clf_or_scores": [0.1], "y": [0], "threshold": X}, "threshold must be 'auto' or a num"),
        ({"clf_or_scores": GaussianNB()}, "must be a CLIDMUClassifier, a Pipeline that ends"),
        ({"clf_or_scores": GridSearchCV(small(), {})}, r"got GridSearchCV\..*best_estimator_"),
        ({"clf_or_scores": small(), "y": [0]}, "y and suggested must be passed with an array"),
        ({"clf_or_scores": CLIDMUClassifier}, "got the class CLIDMUClassifier: pass an instance"),
    ],
)
def test_find_label_issues_name_the_invalid_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_label_issues(**arguments)


def test_label_issues_do_not_change_with_the_callers_arrays():
    clf = small().fit(X, y)
    given, suggested = y.copy(), clf.suggested_labels_.copy()
    of_scores = find_label_issues(clf.noise_scores_, given, suggested=suggested, threshold=0)
    of_fit = find_label_issues(clf)
    given[:], suggested[:] = 7, 8
    np.testing.assert_array_equal(of_scores.given_labels, y)
    np.testing.assert_array_equal(of_scores.suggested_labels, clf.suggested_labels_)
    for issues in (of_scores, of_fit):
        kept = clf.noise_scores_.copy(), clf.suggested_labels_.copy(), len(find_label_issues(clf))
        issues.scores[:], issues.suggested_labels[:], issues.mask[:] = 0, 9, True
        np.testing.assert_array_equal(clf.noise_scores_, kept[0])
        np.testing.assert_array_equal(clf.suggested_labels_, kept[1])
        assert len(find_label_issues(clf)) == kept[2]


def test_find_label_issues_refuse_an_unfitted_classifier():
    for unfitted in (small(), make_pipeline(StandardScaler(), small())):
        with pytest.raises(NotFittedError):
            find_label_issues(unfitted)


# Other packages


def test_label_issues_make_a_frame_with_cleanlabs_columns(clf, monkeypatch):
    issues = find_label_issues(clf)
    frame = issues.to_frame()
    assert list(frame) == ["is_label_issue", "label_quality", "given_label", "predicted_label"]
    assert frame["is_label_issue"].dtype == bool
    np.testing.assert_array_equal(frame["label_quality"], 1 - clf.noise_scores_)
    np.testing.assert_array_equal(frame["given_label"], NAMES[y])
    np.testing.assert_array_equal(frame["predicted_label"], clf.suggested_labels_)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        issues.to_frame()


def test_label_issues_are_left_out_by_cleanlab(separated):
    issues = find_label_issues(separated.noise_scores_, GIVEN, suggested=TRUE)
    cleaned = CleanLearning(GaussianNB()).fit(FAR, GIVEN, label_issues=issues.to_frame())
    kept = ~issues.mask
    assert not kept.all()
    np.testing.assert_allclose(cleaned.clf.theta_, GaussianNB().fit(FAR[kept], GIVEN[kept]).theta_)
    assert cleaned.get_label_issues()["is_label_issue"].sum() == len(issues)


def test_sample_weights_help_any_estimator(separated):
    plain = LogisticRegression().fit(FAR, GIVEN)
    weighted = LogisticRegression().fit(FAR, GIVEN, sample_weight=separated.sample_weights_)
    truth = np.arange(len(TRUE)), TRUE
    assert plain.predict_proba(FAR)[truth].mean() < 0.75  # it follows the wrong labels
    assert weighted.predict_proba(FAR)[truth].mean() > 0.85
