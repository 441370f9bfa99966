"""
Quickstart: digits with wrong labels
====================================

Two labels in five of scikit-learn's bundled digits are made wrong. With *symmetric* noise a wrong
label is any other digit, with *pair-flip* noise it is the next digit. Three classifiers are trained
on these labels and tested on clean labels: scikit-learn's ``MLPClassifier``, the network of this
package without weights, and ``CLIDMUClassifier`` with its defaults.

The figure shows the noise scores of the training rows and the rows to check first.
"""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.datasets import make_label_noise

CLEAN, WRONG = "#0072b2", "#d55e00"  # apart for the color-blind and in grayscale


def draw_scores(ax: plt.Axes, scores: np.ndarray, flipped: np.ndarray, title: str) -> None:
    """Draw histograms of the noise scores of right and wrong labels."""
    bins = np.linspace(0, 1, 31)
    ax.hist(scores[~flipped], bins, color=CLEAN, label="label right")
    ax.hist(scores[flipped], bins, histtype="step", color=WRONG, lw=2.5, label="label wrong")
    ax.set(title=title, xlabel="noise score", ylabel="training rows", xlim=(0, 1))
    ax.legend(loc="upper center", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def draw_digits(axes: np.ndarray, X: np.ndarray, y_noisy: np.ndarray, y: np.ndarray) -> None:
    """Draw digits below their given labels; labels that are right are in brackets."""
    for ax, pixels, given, true in zip(axes.flat, X, y_noisy, y, strict=True):
        ax.imshow(pixels.reshape(8, 8), cmap="gray_r")
        text = f"“{given}”" if given != true else f"({given})"
        ax.set_title(text, fontsize=10, color=WRONG if given != true else CLEAN, pad=3)
        ax.axis("off")


# %%
# Comparison
# ----------

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)

models = {
    "MLPClassifier": make_pipeline(StandardScaler(), MLPClassifier(random_state=0)),
    "same network, weighting=None": CLIDMUClassifier(weighting=None, random_state=0),
    "CLIDMUClassifier": CLIDMUClassifier(random_state=0),
}

figure = plt.figure(figsize=(10, 5.6), layout="constrained")
panels = figure.subfigures(2, 2, width_ratios=(1, 1.45))

for panel, kind in zip(panels, ("symmetric", "pairflip"), strict=True):
    y_noisy, flipped = make_label_noise(y, kind=kind, rate=0.4, random_state=0)
    print(f"{kind} noise: {flipped.mean():.0%} of {len(y)} training labels are wrong")
    for name, model in models.items():
        with warnings.catch_warnings():  # MLPClassifier does not converge on wrong labels
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y_noisy)
        print(f"  {name:30s} test accuracy {model.score(X_test, y_test):.3f}")

    scores = models["CLIDMUClassifier"].noise_scores_
    auroc = roc_auc_score(flipped, scores)
    top = np.argsort(scores)[::-1][:20]
    print(f"  noise_scores_ against the wrong labels: AUROC {auroc:.3f}")
    print(f"  of the 20 labels with the highest scores, {flipped[top].sum()} are wrong\n")

    draw_scores(panel[0].subplots(), scores, flipped, f"{kind}, AUROC {auroc:.3f}")
    panel[1].suptitle("training rows with the highest scores, given labels", fontsize=10)
    draw_digits(panel[1].subplots(2, 10), X[top], y_noisy[top], y[top])

figure.savefig("quickstart.png", dpi=120)
print("figure: quickstart.png")
