"""
Few and noisy labels
====================

Most of scikit-learn's bundled digits lose their label, and two in five of the other labels are
wrong. ``CLIDMUClassifier(missing_label=-1)`` gives pseudo-labels to the rows without a label (-1),
and then learns weights for given labels and pseudo-labels alike.

The figure shows the test accuracy against the number of labels.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.datasets import make_label_noise

# %%
# Methods
# -------
# *consistency*, the default, uses pseudo-labels; *ignore* trains on the labeled rows alone;
# ``LabelSpreading`` is scikit-learn's method for such data.

COLORS = {"consistency": "#0072b2", "ignore": "#d55e00", "LabelSpreading": "#767676"}
MARKERS = {"consistency": "o", "ignore": "s", "LabelSpreading": "^"}

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
y_noisy, _ = make_label_noise(y, rate=0.4, random_state=0)
order = np.random.default_rng(0).permutation(len(y))

models = {
    "consistency": CLIDMUClassifier(missing_label=-1, random_state=0),
    "ignore": CLIDMUClassifier(missing_label=-1, unlabeled="ignore", random_state=0),
    "LabelSpreading": make_pipeline(StandardScaler(), LabelSpreading(kernel="knn")),
}
n_labels = [100, 200, 400]
accuracy: dict[str, list[float]] = {name: [] for name in models}
for n in n_labels:
    y_few = y_noisy.copy()
    y_few[order[n:]] = -1
    print(f"{n} of {len(y)} rows have a label, 40 % of them wrong")
    for name, model in models.items():
        accuracy[name].append(model.fit(X, y_few).score(X_test, y_test))
        print(f"  {name:15s} test accuracy {accuracy[name][-1]:.3f}")

# %%
# Accuracy against the number of labels
# -------------------------------------

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, values in accuracy.items():
    ax.plot(n_labels, values, color=COLORS[name], marker=MARKERS[name], label=name)
ax.set(
    xscale="log", xlabel="number of labels, 40 % of them wrong", ylabel="test accuracy", ylim=(0, 1)
)
ax.set_xticks(n_labels, labels=map(str, n_labels), minor=False)
ax.minorticks_off()
ax.legend(frameon=False, loc="lower right")
ax.spines[["top", "right"]].set_visible(False)

figure.savefig("unlabeled.png", dpi=120)
print("figure: unlabeled.png")
