"""What the defaults promise."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier


def make_noisy_digits():
    X_all, y_all = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X_all, y_all, test_size=0.3, random_state=2, stratify=y_all
    )
    scaler = StandardScaler().fit(X_train)
    X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
    rng = np.random.default_rng(2)
    flipped = rng.random(len(y_train)) < 0.4
    noisy = np.where(flipped, (y_train + rng.integers(1, 10, len(y_train))) % 10, y_train)
    return X_train, noisy, flipped, X_test, y_test


def test_the_defaults_see_through_noisy_digits():
    X_train, noisy, flipped, X_test, y_test = make_noisy_digits()
    clf = CLIDMUClassifier(random_state=0).fit(X_train, noisy)
    plain = CLIDMUClassifier(random_state=0, weighting=None).fit(X_train, noisy)
    accuracy = clf.score(X_test, y_test)
    auroc = roc_auc_score(flipped, clf.noise_scores_)
    assert accuracy >= 0.93
    assert auroc >= 0.98
    assert accuracy >= plain.score(X_test, y_test) + 0.03
    assert clf.sample_weights_[flipped].mean() < 0.5 * clf.sample_weights_[~flipped].mean()
