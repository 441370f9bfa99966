"""
Reviewing labels in rounds
==========================

Three labels in ten of scikit-learn's bundled digits are made wrong. In each of three rounds, a
reviewer looks at the 100 labels that are most suspect and mends them, and the classifier is trained
again. The same is done with 100 labels drawn at random.

A person would decide on the page that ``to_html`` writes and download the decisions as a CSV file.
Here the reviewer is simulated: the decisions are a data frame, made from the true labels.

The figure shows test accuracy and the share of wrong labels after each round.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import CLIDMUClassifier, apply_review, find_label_issues
from sklearn_clidmu.datasets import make_label_noise

N_ROUNDS, N_REVIEWED = 3, 100

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
y_noisy, _ = make_label_noise(y, kind="pairflip", rate=0.3, random_state=0)

# %%
# The page
# --------
# Open ``review.html`` in a browser to try it. Each issue is shown with its image and those of the
# nearest rows.

pipe = make_pipeline(StandardScaler(), CLIDMUClassifier(random_state=0)).fit(X, y_noisy)
issues = find_label_issues(pipe)
issues.to_html("review.html", show=X.reshape(-1, 8, 8), X=X)
print(f"{len(issues)} label issues: review.html")

# %%
# Three rounds
# ------------
# ``apply_review`` gives the mended labels and the mask of the labels that were looked at. ``fit``
# trusts these, and they are not listed again.


def decide(labels: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    """Look at some labels: what the CSV file of a person who makes no mistake would have."""
    right = labels[rows] == y[rows]
    return pd.DataFrame(
        {
            "row": rows,
            "given_label": labels[rows],
            "decision": np.where(right, "keep", "change"),
            "label": y[rows],
        }
    )


def review(choose: str) -> pd.DataFrame:
    """Accuracy and noise rate before the first and after each round."""
    rng = np.random.default_rng(0)
    labels, confirmed, model, results = y_noisy, np.zeros(len(y), dtype=bool), pipe, []
    for number in range(N_ROUNDS + 1):
        results.append([number, model.score(X_test, y_test), (labels != y).mean()])
        scores = model[-1].noise_scores_ if choose == "suspect" else rng.random(len(y))
        rows = np.argsort(np.where(confirmed, -1, scores))[::-1][:N_REVIEWED]
        labels, _, looked_at = apply_review(labels, decide(labels, rows))
        confirmed = confirmed | looked_at
        if number < N_ROUNDS:
            model = make_pipeline(StandardScaler(), CLIDMUClassifier(random_state=0))
            model.fit(X, labels, clidmuclassifier__confirmed=confirmed)
    return pd.DataFrame(results, columns=["round", "accuracy", "noise rate"]).set_index("round")


results = {"most suspect labels": review("suspect"), "labels drawn at random": review("random")}
for name, result in results.items():
    print(f"\n{N_REVIEWED} {name} in each round")
    print(result.to_string(float_format="{:.3f}".format))

# %%
# Accuracy and noise rate
# -----------------------

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name, result in results.items():
    for axis, column in zip(axes, result, strict=True):
        axis.plot(100 * result[column], marker="o", label=name)
axes[0].set(title="test accuracy (%)", xlabel="round", xticks=range(N_ROUNDS + 1))
axes[1].set(title="wrong labels (%)", xlabel="round", xticks=range(N_ROUNDS + 1), ylim=(0, None))
axes[1].legend()

figure.savefig("review.png", dpi=120)
print("figure: review.png")
