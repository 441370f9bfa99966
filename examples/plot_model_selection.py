"""
Model selection with noisy labels
=================================

Two labels in five of scikit-learn's bundled digits are wrong. ``GridSearchCV`` selects one of five
classifiers, once by accuracy on noisy held-out labels and once by ``noisy_label_scorer``. The true
accuracy of each choice is measured on clean test labels.

The figure shows both criteria against the test accuracy of every candidate.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split

from sklearn_clidmu import CLIDMUClassifier, noisy_label_scorer
from sklearn_clidmu.datasets import make_label_noise

CHOSEN, OTHER = "#d55e00", "#0072b2"  # apart for the color-blind and in grayscale
CRITERIA = {"noisy accuracy": "accuracy", "noisy_label_scorer": noisy_label_scorer}

# %%
# Data
# ----
# Pair-flip noise: a wrong label is the next digit.

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
y_noisy, wrong = make_label_noise(y, kind="pairflip", rate=0.4, random_state=0)
print(f"pairflip noise: {wrong.mean():.0%} of {len(y)} training labels are wrong")

# %%
# Candidates
# ----------
# One search computes both criteria on the same folds. For the test accuracy each candidate is
# fitted on all training rows.

grid = [
    {"weighting": [None], "dropout": [0.0, 0.3]},
    {"weighting": ["wnet"]},
    {"weighting": ["evidence"], "dropout": [0.3, 0.6]},
]
clf = CLIDMUClassifier(max_epochs=20, n_folds=None, random_state=0)
search = GridSearchCV(clf, grid, cv=2, scoring=CRITERIA, refit=False).fit(X, y_noisy)

found = search.cv_results_
true = [clone(clf).set_params(**p).fit(X, y_noisy).score(X_test, y_test) for p in found["params"]]
for parameters, accuracy in zip(found["params"], true, strict=True):
    words = ", ".join(f"{key}={value}" for key, value in parameters.items())
    print(f"  {words:34s} test accuracy {accuracy:.3f}")

# %%
# Criteria against test accuracy
# ------------------------------
# Both criteria select a candidate with evidence weighting. :doc:`/model_selection` compares them on
# real data sets.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
for ax, criterion in zip(axes, CRITERIA, strict=True):
    scores = found[f"mean_test_{criterion}"]
    best = scores.argmax()
    print(f"chosen by {criterion}: test accuracy {true[best]:.3f}")
    ax.scatter(scores, true, color=OTHER, label="candidate")
    ax.scatter(scores[best], true[best], color=CHOSEN, marker="D", s=80, label="chosen")
    ax.set(title=criterion, xlabel="mean over held-out folds, noisy labels")
    ax.locator_params(axis="x", nbins=5)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("test accuracy, clean labels")
axes[0].legend(loc="lower right", frameon=False)

figure.savefig("model_selection.png", dpi=120)
print("figure: model_selection.png")
