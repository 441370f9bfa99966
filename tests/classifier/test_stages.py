"""The stages of a fit, the estimate of the noise before it, and what the weights say after it."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier, _settings, find_label_issues
from sklearn_clidmu.datasets import make_label_noise

from .data import make_rows, small

REGIMES = {"one batch": 256, "several batches": 32}
NAN = float("nan")


def blobs(kind="pairs", rate=0.4, n_classes=4, n_rows=240):
    """Rows far apart by class, their labels, and a mask of the wrong ones."""
    rng = np.random.RandomState(0)
    true = np.arange(n_rows) % n_classes
    X = rng.normal(size=(n_rows, 4)) + 6 * np.eye(n_classes, 4)[true]
    step = 1 if kind == "pairs" else rng.randint(1, n_classes, n_rows)
    flipped = rng.uniform(size=n_rows) < rate
    return X, np.where(flipped, (true + step) % n_classes, true), flipped


@pytest.fixture(params=REGIMES)
def batch_size(request):
    return REGIMES[request.param]


# The estimates of the noise


def cyclic_noise():
    """Wrong labels are those of the next class."""
    X, y, flipped = make_rows(300, n_classes=3, noise=0.3, distance=5)
    counts = np.zeros((3, 3))
    np.add.at(counts, (np.arange(300) % 3, y), 1)
    return X, y, flipped, counts / 100


def test_transition_matrix_has_true_classes_in_rows_and_given_labels_in_columns():
    X, y, flipped, expected = cyclic_noise()
    clf = small(batch_size=32, max_epochs=8).fit(X, y)
    np.testing.assert_allclose(clf.transition_matrix_, expected, atol=0.03)
    assert clf.noise_rate_ == pytest.approx(flipped.mean(), abs=0.02)


@pytest.mark.parametrize("n_folds", [None, 5])
def test_noise_estimate_sees_the_noise_before_training(n_folds):
    X, y, flipped, expected = cyclic_noise()
    # One epoch of no learning, or none of it in the networks of the folds: what is right is known
    # without the network that predicts.
    params = {"max_epochs": 1, "warmup_epochs": 0, "lr": 1e-12}
    if n_folds is not None:
        params = {"max_epochs": 8, "meta_lr": 1e-12}
    clf = small(batch_size=32, n_folds=n_folds, **params).fit(X, y)
    estimate = clf.noise_estimate_
    assert estimate["noise_rate"] == pytest.approx(flipped.mean(), abs=0.08)
    np.testing.assert_allclose(estimate["transition_matrix"], expected, atol=0.15)
    right = [(~flipped)[y == k].mean() for k in range(3)]
    np.testing.assert_allclose(estimate["label_precision"], right, atol=0.1)


def test_transition_matrix_is_the_count_of_suggested_and_given_labels():
    X, y, _ = make_rows(90, n_classes=3)
    clf = small(weighting="wnet", batch_size=32).fit(X, y)
    counts = np.zeros((3, 3))
    np.add.at(counts, (clf.suggested_labels_, y), 1)
    np.testing.assert_allclose(clf.transition_matrix_, counts / counts.sum(axis=1, keepdims=True))
    assert clf.noise_rate_ == pytest.approx((clf.suggested_labels_ != y).mean())


@pytest.mark.parametrize("weighting", ["wnet", "vri", None])
def test_noise_estimate_is_none_without_evidence_weighting(weighting):
    X, y, _ = make_rows()
    labels = np.where(np.arange(40) % 4 == 3, -1, y)  # which needs a kernel regression all the same
    clf = small(weighting=weighting, missing_label=-1).fit(X, labels)
    assert clf.noise_estimate_ is None


def test_noise_estimate_does_not_see_rows_of_zero_weight():
    X, y, _ = make_rows(150, n_classes=3)
    weight = (np.arange(150) % 5 > 0).astype(float)
    other = np.where(weight == 0, (y + 1) % 3, y)
    first, second = (small(batch_size=32).fit(X, labels, weight) for labels in (y, other))
    for key, expected in first.noise_estimate_.items():
        np.testing.assert_array_equal(second.noise_estimate_[key], expected)


# What the weights come to


@pytest.mark.parametrize("early_stopping", [False, True])
def test_sample_weights_have_the_label_precision_as_class_means(batch_size, early_stopping):
    X, y, _ = make_rows(150, n_classes=3)
    weight = np.random.RandomState(0).randint(0, 3, len(X)).astype(float)
    params = {"early_stopping": early_stopping, "meta_lr": 0.05, "warmup_epochs": 1}
    clf = small(batch_size=batch_size, **params).fit(X, y, weight)
    precision = clf.noise_estimate_["label_precision"]
    means = np.array(
        [np.average(clf.sample_weights_[y == k], weights=weight[y == k]) for k in range(3)]
    )
    # sample_weights_ have mean one, so that a factor is left; held-out rows have no constraint.
    ratio = means / precision
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.1 if early_stopping else 1e-4)
    assert clf.sample_weights_[y == 0].std() > 1e-3


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("seed", range(2))
def test_one_wrong_label_is_the_most_suspect_and_changes_no_prediction(batch_size, seed):
    X, y, _ = make_rows(150, n_classes=3, noise=0, seed=seed)
    X = X * 0.5 + 3 * np.eye(3, 4)[y]
    spoiled = y.copy()
    spoiled[7] = (spoiled[7] + 1) % 3
    clean, clf = (small(batch_size=batch_size, max_epochs=8).fit(X, g) for g in (y, spoiled))
    np.testing.assert_array_equal(clean.predict(X), y)
    np.testing.assert_array_equal(clf.predict(X), y)
    assert clf.noise_scores_.argmax() == 7
    assert 7 in clf.sample_weights_.argsort()[:3]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_much_noise_is_no_collapse(n_classes, batch_size):
    X, y, _ = make_rows(150, n_classes=n_classes, noise=0.3)
    clf = small(batch_size=batch_size, max_epochs=12)
    assert clf.fit(X, y).collapse_epoch_ is None  # and no ConvergenceWarning


def test_small_class_among_much_noise_is_no_collapse():
    scores = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        true = (rng.random(1100) < 0.1).astype(int)
        rows = rng.normal(size=(1100, 5)) + 2 * np.eye(2, 5)[true]
        y = np.where(rng.random(100) < 0.4, 1 - true[:100], true[:100])
        clf = CLIDMUClassifier(random_state=seed).fit(rows[:100], y)
        assert clf.collapse_epoch_ is None  # and no ConvergenceWarning
        assert clf.sample_weights_.std() > 0.01
        scores.append(balanced_accuracy_score(true[100:], clf.predict(rows[100:])))
    assert np.mean(scores) > 0.55  # 0.5 is one class for all rows


@pytest.mark.parametrize("kind", ["pairs", "symmetric"])
def test_fit_finds_wrong_labels_and_predicts_as_without_them(kind):
    X, y, flipped = blobs(kind, rate=0.3, n_rows=320)
    true = np.arange(320) % 4
    clf = small(hidden_layer_sizes=(64, 32), max_epochs=15, batch_size=32).fit(X, y)
    assert clf.score(X, true) > 0.98
    assert roc_auc_score(flipped, clf.noise_scores_) > 0.95
    assert roc_auc_score(flipped, -clf.sample_weights_) > 0.95


@pytest.mark.parametrize("kind", ["pairflip", "symmetric"])
def test_noise_scores_order_the_labels_of_noisy_digits(kind):
    X, true = load_digits(return_X_y=True)
    y, wrong = make_label_noise(true, kind=kind, rate=0.4, random_state=0)
    clf = CLIDMUClassifier(random_state=0).fit(X, y)
    assert clf.noise_scores_[wrong].mean() > clf.noise_scores_[~wrong].mean()
    assert roc_auc_score(wrong, clf.noise_scores_) >= 0.97


@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer])
def test_few_clean_labels_are_called_wrong(load):
    X, y = load(return_X_y=True)
    clf = CLIDMUClassifier(random_state=0).fit(X, y)
    assert find_label_issues(clf).mask.mean() <= 0.04
    assert (clf.noise_scores_ > 0.5).mean() <= 0.04
    assert clf.noise_rate_ <= 0.04


def test_classifier_sees_through_noisy_digits_by_default():
    X, y = load_digits(return_X_y=True)
    parts = train_test_split(X, y, train_size=1000, random_state=2, stratify=y)
    X_train, X_test, y_train, y_test = parts
    scaler = StandardScaler().fit(X_train)
    X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
    rng = np.random.default_rng(2)
    flipped = rng.random(len(y_train)) < 0.4
    noisy = np.where(flipped, (y_train + rng.integers(1, 10, len(y_train))) % 10, y_train)
    clf = CLIDMUClassifier(random_state=0).fit(X_train, noisy)
    plain = CLIDMUClassifier(random_state=0, weighting=None).fit(X_train, noisy)
    accuracy = clf.score(X_test, y_test)
    assert accuracy >= 0.92
    assert accuracy >= plain.score(X_test, y_test) + 0.02
    assert roc_auc_score(flipped, clf.noise_scores_) >= 0.97
    assert clf.sample_weights_[flipped].mean() < 0.5 * clf.sample_weights_[~flipped].mean()


# The stages


@pytest.mark.parametrize("n_folds", [None, 2, 5])
def test_stages_are_one_where_all_rows_have_a_label(n_folds):
    X, y, _ = make_rows(50)
    clf = small(n_folds=n_folds, batch_size=32, early_stopping=True).fit(X, y)
    assert clf.stages_ == [
        {
            "weighting": "evidence",
            "n_rows": 45,
            "n_epochs": 3,
            "outcome": "finished",
            "predicts": True,
        }
    ]
    types = [type(value) for value in clf.stages_[0].values()]
    assert types == [str, int, int, str, bool]


def test_folds_find_the_wrong_labels_that_training_without_them_finds():
    X, y, flipped = blobs("symmetric")
    without, clf = (
        small(n_folds=n, batch_size=32, max_epochs=6, warmup_epochs=3).fit(X, y) for n in (None, 5)
    )
    assert roc_auc_score(flipped, -without.sample_weights_) > 0.9
    correlation = np.corrcoef(without.sample_weights_, clf.sample_weights_)[0, 1]
    assert correlation > 0.8
    assert roc_auc_score(flipped, -clf.sample_weights_) > 0.9


@pytest.mark.parametrize("early_stopping", [False, True])
def test_noise_scores_are_one_minus_the_learned_confidence(batch_size, early_stopping):
    X, y, _ = make_rows(150, n_classes=3)
    weight = np.random.RandomState(0).randint(0, 3, len(X)).astype(float)
    clf = small(batch_size=batch_size, early_stopping=early_stopping).fit(X, y, weight)
    confidence = 1 - clf.noise_scores_
    np.testing.assert_allclose(clf.sample_weights_, confidence / confidence.mean())


def objective_that_fails(fails):
    """Meta objective whose gradient is nan from some call on, or up to it."""
    calls = []

    def objective(features, logits, targets, sample_weight):
        calls.append(None)
        spread = (logits.softmax(dim=1) ** 2).sum()
        return spread * (NAN if fails(len(calls)) else 1.0)

    return objective


# Without joined batches: 5 batches and 2 passes make 10 calls in an epoch, in warm-up too.
CALLS = {"batch_size": 32, "meta_batch_size": 32, "warmup_epochs": 1, "max_epochs": 3}


@pytest.mark.parametrize("n_folds", [None, 3])
def test_collapsed_later_stages_do_not_predict(n_folds, monkeypatch):
    X, y, _ = make_rows(150, n_classes=3)
    labels = np.where(np.arange(150) % 5 == 4, -1, y)  # 4 batches and 3 passes
    params = {"missing_label": -1, "n_folds": n_folds, **CALLS}
    objective = objective_that_fails(lambda n: n > 3 * 12)
    clf = small(meta_objective=objective, **params).fit(X, labels)  # and no ConvergenceWarning
    assert [s["outcome"] for s in clf.stages_] == ["finished", "collapsed", "collapsed"]
    assert [s["predicts"] for s in clf.stages_] == [True, False, False]
    assert clf.collapse_epoch_ is None
    assert clf.sample_weights_.std() > 1e-3
    np.testing.assert_array_equal(np.flatnonzero(clf.history_["chosen"]), [2])
    monkeypatch.setattr(_settings, "N_SPREADINGS", 0)
    alone = small(meta_objective=objective_that_fails(lambda n: False), **params)
    np.testing.assert_array_equal(alone.fit(X, labels).predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("n_folds", [None, 3])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_collapse_of_the_first_stage_is_the_last_and_gives_unit_weights(
    n_folds, early_stopping, missing
):
    X, y, _ = make_rows(150, n_classes=3)
    labels = np.where(missing & (np.arange(150) % 5 == 4), -1, y)
    clf = small(
        meta_objective=objective_that_fails(lambda n: True),
        missing_label=-1,
        n_folds=n_folds,
        early_stopping=early_stopping,
        **CALLS,
    )
    with pytest.warns(ConvergenceWarning, match="collapsed in epoch 2") as caught:
        clf.fit(X, labels)
    assert len(caught) == 1
    assert [s["outcome"] for s in clf.stages_] == ["collapsed"]
    assert clf.collapse_epoch_ == 2  # after a warm-up of one epoch
    np.testing.assert_array_equal(clf.sample_weights_, (labels >= 0).astype(float))
    assert np.nanstd(clf.noise_scores_) > 0.01  # which are of the losses


def test_stages_tell_of_divergence():
    X, y, _ = make_rows()
    with pytest.warns(ConvergenceWarning, match="diverged"):
        clf = small(lr=1e200, weighting=None).fit(X, y)
    [stage] = clf.stages_
    assert stage["outcome"] == "diverged"
    assert stage["predicts"]


def test_integer_sample_weights_are_repetitions_where_rows_of_a_class_are_identical():
    rng = np.random.RandomState(1)
    true = np.arange(45) % 3
    flipped = rng.uniform(size=45) < 0.3
    y = np.where(flipped, (true + rng.randint(1, 3, 45)) % 3, true)
    X = rng.normal(size=(45, 4)) + 3 * np.eye(3, 4)[true]
    X[y == 2] = X[y == 2][0]
    times = rng.randint(1, 4, 45)
    kept = np.repeat(np.arange(45), times)
    weighted = small(batch_size=len(kept)).fit(X, y, times.astype(float))
    repeated = small(batch_size=len(kept)).fit(X[kept], y[kept])
    pairs = [
        (weighted.predict_proba(X), repeated.predict_proba(X)),
        (weighted.noise_scores_[kept], repeated.noise_scores_),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
