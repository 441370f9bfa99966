"""
Auditing labels
===============

Three labels in ten of scikit-learn's bundled digits are made wrong. One fit of
``CLIDMUClassifier`` estimates how many labels are wrong, which ones, and what they should be. Its
sample weights are then passed to another classifier, scikit-learn's histogram gradient boosting.

The figure shows the estimated transition matrix and the true one.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split

from sklearn_clidmu import CLIDMUClassifier, find_label_issues
from sklearn_clidmu.datasets import make_label_noise

# %%
# Data
# ----
# The labels are strings. Pair-flip noise: a wrong label is the next one in alphabetical order.

words = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, words[y], test_size=0.3, stratify=y, random_state=0)
y_noisy, wrong = make_label_noise(y, kind="pairflip", rate=0.3, random_state=0)

# %%
# Report and label issues
# -----------------------
# ``noise_report`` is a summary in words. ``find_label_issues`` lists the labels that are probably
# wrong, highest noise score first.

clf = CLIDMUClassifier(random_state=0).fit(X, y_noisy)
print(clf.noise_report(), end="\n\n")

issues = find_label_issues(clf)
print(issues, end="\n\n")

# %%
# Comparison with the true labels:

print(f"noise rate {wrong.mean():.1%}, estimate {clf.noise_rate_:.1%}")
print(f"{wrong[issues.index].mean():.1%} of the issues are wrong labels")
corrected = clf.suggested_labels_[issues.index] == y[issues.index]
print(f"{corrected.mean():.1%} of their suggested labels are right")

# %%
# Training another classifier
# ---------------------------
# Another classifier can use the sample weights, or leave out the issues.


def boosting() -> HistGradientBoostingClassifier:
    """Few iterations, because more of them fit more of the wrong labels."""
    return HistGradientBoostingClassifier(max_iter=30, random_state=0)


kept = ~issues.mask
models = {
    "all labels": boosting().fit(X, y_noisy),
    "sample_weights_": boosting().fit(X, y_noisy, clf.sample_weights_),
    "without the issues": boosting().fit(X[kept], y_noisy[kept]),
}
for name, model in models.items():
    print(f"gradient boosting, {name:20s} test accuracy {model.score(X_test, y_test):.3f}")
print(f"{'CLIDMUClassifier':40s}test accuracy {clf.score(X_test, y_test):.3f}")

# %%
# Transition matrix
# -----------------
# Row: true class; column: given label. Rows add up to one.

figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
style = {"cmap": "Blues", "values_format": ".2f", "xticks_rotation": 45}
estimated = ConfusionMatrixDisplay(clf.transition_matrix_, display_labels=clf.classes_)
estimated.plot(ax=left, **style)
ConfusionMatrixDisplay.from_predictions(y, y_noisy, normalize="true", ax=right, **style)
left.set(title=f"estimated, noise rate {clf.noise_rate_:.1%}")
right.set(title=f"true, noise rate {(y != y_noisy).mean():.1%}")
for axes in (left, right):
    axes.set(xlabel="given label", ylabel="true class")

figure.savefig("audit.png", dpi=120)
print("figure: audit.png")
