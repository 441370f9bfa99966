"""Means over seeds: accuracy, detection of wrong labels, and row weights."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_moons
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.datasets import make_label_noise

N_SEEDS = 5

# Mean and standard deviation over 20 seeds of the test accuracy and of the AUROC of noise_scores_.
MEASURED = {
    "symmetric": ((0.923, 0.008), (0.990, 0.003)),
    "pairflip": ((0.903, 0.027), (0.967, 0.018)),
    "instance": ((0.911, 0.015), (0.974, 0.016)),
}


@pytest.mark.parametrize("kind", MEASURED)
def test_classifier_reaches_the_measured_accuracy_and_auroc(kind):
    X_all, y_all = load_digits(return_X_y=True)
    results = []
    for seed in range(N_SEEDS):
        X, X_test, true, y_test = train_test_split(
            X_all / 16, y_all, train_size=700, random_state=seed, stratify=y_all
        )
        y, wrong = make_label_noise(true, X, kind=kind, rate=0.3, random_state=seed)
        clf = CLIDMUClassifier(hidden_layer_sizes=(64, 32), max_epochs=8, random_state=seed)
        clf.fit(X, y)
        results.append((clf.score(X_test, y_test), roc_auc_score(wrong, clf.noise_scores_)))
    means, deviations = np.transpose(MEASURED[kind])
    # Rounding on another machine acts like another seed: allow three standard errors.
    assert (np.mean(results, axis=0) >= means - 3 * deviations / N_SEEDS**0.5).all()


@pytest.mark.parametrize("weighting", ["evidence", None])
def test_classifier_is_more_accurate_than_a_forest_among_columns_of_noise(weighting):
    leads = []
    for seed in range(3):
        X, y = make_moons(1500, noise=0.2, random_state=seed)
        X = np.hstack([X, np.random.RandomState(seed).normal(size=(1500, 30))])
        y_noisy, _ = make_label_noise(y[:500], kind="symmetric", rate=0.1, random_state=seed)
        clf = CLIDMUClassifier(weighting=weighting, random_state=seed).fit(X[:500], y_noisy)
        forest = RandomForestClassifier(random_state=seed).fit(X[:500], y_noisy)
        leads.append(clf.score(X[500:], y[500:]) - forest.score(X[500:], y[500:]))
    assert np.mean(leads) > 0


# "evidence" is left out: the kernel regression leaves out a row of weight 3 as a whole, but only
# one of three equal rows at a time.
@pytest.mark.parametrize("weighting", [None, "wnet"])
def test_row_of_weight_three_counts_as_three_rows_on_average_in_batches(weighting):
    rng = np.random.RandomState(0)
    true = np.arange(160) % 2
    X = rng.normal(size=(160, 3)) + 1.2 * np.eye(2, 3)[true]
    y = np.where(rng.random_sample(160) < 0.2, 1 - true, true)
    X_test = rng.normal(size=(400, 3)) + 0.6
    weight = np.where(y == 0, 3, 1)
    repeated_rows = np.repeat(np.arange(160), weight)

    def mean_probabilities(batch_size, *data):
        """Mean probability of class 0, for each of 24 seeds."""
        clf = CLIDMUClassifier(
            hidden_layer_sizes=(12, 8),
            weighting=weighting,
            max_epochs=4,
            warmup_epochs=1,
            batch_size=batch_size,
            weight_decay=0.0035,  # "auto" depends on the number of rows
        )
        fits = (clf.set_params(random_state=seed).fit(*data) for seed in range(24))
        return np.array([fit.predict_proba(X_test)[:, 0].mean() for fit in fits])

    weighted = mean_probabilities(40, X, y, weight.astype(float))
    batch_size = round(40 * len(repeated_rows) / 160)  # as many batches
    repeated = mean_probabilities(batch_size, X[repeated_rows], y[repeated_rows])
    error = np.sqrt((weighted.var(ddof=1) + repeated.var(ddof=1)) / 24)
    assert abs(weighted.mean() - repeated.mean()) < 2 * error
    if weighting is None:  # without weights the difference is large
        assert weighted.mean() - mean_probabilities(40, X, y).mean() > 10 * error
