"""
Sample weights for other models
===============================

The ``sample_weights_`` of ``CLIDMUClassifier`` can be passed to the ``fit`` of any scikit-learn
estimator that accepts ``sample_weight``. An alternative is one minus the score of
:func:`~sklearn_clidmu.cross_val_noise_scores`, which scores each label by a model that was not
trained on it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import SplineTransformer

from sklearn_clidmu import CLIDMUClassifier, cross_val_noise_scores
from sklearn_clidmu.datasets import make_label_noise

# %%
# Data
# ----
# Three arms of a spiral; two labels in five of the 900 training rows are wrong.


def spirals(n_per_arm: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return points on three arms, and the number of the arm."""
    arm = np.repeat([0, 1, 2], n_per_arm)
    radius = rng.uniform(0.3, 3, len(arm))
    angle = 1.1 * radius + arm * 2 * np.pi / 3
    X = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return X + 0.15 * rng.normal(size=X.shape), arm


rng = np.random.default_rng(0)
X, y = spirals(300, rng)
X_test, y_test = spirals(1000, rng)
y_noisy, wrong = make_label_noise(y, rate=0.4, random_state=0)

# %%
# Weights and models
# ------------------
# Gradient boosting can memorize wrong labels. A logistic regression on splines has few parameters
# and memorizes little.

clf = CLIDMUClassifier(random_state=0).fit(X, y_noisy)
boosting = HistGradientBoostingClassifier(max_iter=50, random_state=0)
splines = SplineTransformer(8).fit(X)
logistic = LogisticRegression(max_iter=2000)

weights = {
    "all weights equal": np.ones(len(X)),
    "sample_weights_": clf.sample_weights_,
    "1 - out-of-fold score": 1 - cross_val_noise_scores(boosting, X, y_noisy, cv=3),
}
regions = {}
print("                        mean weight of labels    test accuracy")
print("                          right    wrong       boosting  logistic")
for name, weight in weights.items():
    logistic.fit(splines.transform(X), y_noisy, sample_weight=weight)
    regions[name] = clone(boosting).fit(X, y_noisy, sample_weight=weight)
    print(
        f"{name:24s}  {weight[~wrong].mean():.2f}     {weight[wrong].mean():.2f}"
        f"         {regions[name].score(X_test, y_test):.3f}"
        f"     {logistic.score(splines.transform(X_test), y_test):.3f}"
    )
print(f"{'CLIDMUClassifier':24s}{'':23s}{clf.score(X_test, y_test):.3f}")

# %%
# Both kinds of weights improve gradient boosting. The logistic regression does not need weights.
#
# Decision regions of gradient boosting
# -------------------------------------
# Shades are the predicted arms; the size of a marker is the weight of the row. Wrong labels with a
# large weight are mostly in the middle, where the arms meet.

SHADES = ListedColormap(["#ffffff", "#bdd7e7", "#8c8c8c"])  # light to dark in grayscale, too

ticks = np.linspace(-3.6, 3.6, 160)
grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
figure, axes = plt.subplots(1, 3, figsize=(11, 4.3), layout="constrained")
for ax, (name, model) in zip(axes, regions.items(), strict=True):
    ax.pcolormesh(ticks, ticks, model.predict(grid).reshape(160, 160), cmap=SHADES)
    size = 9 * weights[name] / weights[name].mean()
    ax.scatter(*X[~wrong].T, s=size[~wrong], color="#0072b2", label="label right")
    ax.scatter(*X[wrong].T, s=size[wrong], color="#d55e00", marker="x", label="label wrong")
    ax.set(title=f"{name}: {model.score(X_test, y_test):.3f}", xticks=[], yticks=[])
handles, labels = axes[0].get_legend_handles_labels()
figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)

figure.savefig("sample_weights.png", dpi=120)
print("figure: sample_weights.png")
