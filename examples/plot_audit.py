"""
Audit: which labels are wrong, and what to do about it
======================================================

Three labels in ten of a table are made wrong: scikit-learn's bundled digits, with words for
labels. One fit of ``CLIDMUClassifier`` estimates how many are wrong, which, and what they should
be. Then its trust in each row is the sample weight of another classifier, scikit-learn's
histogram gradient boosting, which by itself believes every label.

The figure shows the estimated noise matrix beside the true one.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier, find_label_issues
from sklearn_clidmu.datasets import make_label_noise

# %%
# A table with words for labels, three in ten of them wrong
# ---------------------------------------------------------
# Pair-flip noise: a wrong label is the next one in alphabetical order.

words = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, words[y], test_size=0.3, stratify=y, random_state=0)
y_noisy, flipped = make_label_noise(y, kind="pairflip", rate=0.3, random_state=0)

# %%
# How many, which, and what they should be
# ----------------------------------------
# The report says it in words, and ``find_label_issues`` lists the labels, most suspect first.

pipe = make_pipeline(StandardScaler(), CLIDMUClassifier(random_state=0)).fit(X, y_noisy)
clf = pipe[-1]
print(clf.noise_report(), end="\n\n")

issues = find_label_issues(pipe)
print(issues, end="\n\n")

# %%
# Held against the truth:

print(f"{flipped.mean():.1%} of the labels are wrong, {clf.noise_rate_:.1%} by the estimate")
print(f"{flipped[issues.index].mean():.1%} of the issues are wrong labels")
mended = clf.suggested_labels_[issues.index] == y[issues.index]
print(f"{mended.mean():.1%} of their suggested labels are the true ones")

# %%
# What to do about it
# -------------------
# Another classifier can weight each row by the trust that was learned, or leave the issues out.


def boosting() -> HistGradientBoostingClassifier:
    """Few iterations: more learn the wrong labels the better."""
    return HistGradientBoostingClassifier(max_iter=30, random_state=0)


kept = ~issues.mask
models = {
    "all labels believed": boosting().fit(X, y_noisy),
    "learned trust as sample weight": boosting().fit(X, y_noisy, clf.sample_weights_),
    "issues dropped": boosting().fit(X[kept], y_noisy[kept]),
}
for name, model in models.items():
    print(f"gradient boosting, {name:30s} test accuracy {model.score(X_test, y_test):.3f}")
print(f"{'CLIDMUClassifier itself':50s}test accuracy {pipe.score(X_test, y_test):.3f}")

# %%
# Which label is taken for which
# ------------------------------

figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
truth = confusion_matrix(y_noisy, y, labels=clf.classes_, normalize="pred")
for ax, matrix, title in zip(axes, (clf.noise_matrix_, truth), ("estimated", "true"), strict=True):
    display = ConfusionMatrixDisplay(matrix, display_labels=clf.classes_)
    display.plot(ax=ax, cmap="Blues", values_format=".1f", colorbar=False, xticks_rotation=45)
    ax.set(title=f"noise matrix, {title}", xlabel="true label", ylabel="given label")

figure.savefig("audit.png", dpi=120)
print("figure: audit.png")
