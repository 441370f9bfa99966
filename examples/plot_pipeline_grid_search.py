"""
Pipeline and grid search
========================

``CLIDMUClassifier`` can be a step of a ``Pipeline``, and ``GridSearchCV`` can tune its parameters.
Held-out labels are noisy as well; :func:`~sklearn_clidmu.noisy_label_scorer` is a score for noisy
labels.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline

from sklearn_clidmu import CLIDMUClassifier, NoiseScoreDisplay, noisy_label_scorer
from sklearn_clidmu.datasets import make_label_noise

# %%
# Data
# ----
# Scikit-learn's bundled digits; two labels in five of the training rows are wrong.

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
y_noisy, wrong = make_label_noise(y, rate=0.4, random_state=0)

# %%
# Search
# ------
# The first step keeps the principal components with 95 % of the variance of the pixels. A scaler is
# not needed, because the classifier scales its features itself.
#
# A parameter of a step is named by the step, two underscores and the parameter. ``n_folds=None``,
# which trains no networks to judge the labels beforehand, and few epochs keep the search short. The
# default ``n_folds=5`` and more folds of the search separate similar candidates better.

pipe = Pipeline(
    [
        ("reduce", PCA(n_components=0.95)),
        ("classify", CLIDMUClassifier(n_folds=None, max_epochs=10, random_state=0)),
    ]
)
grid = {
    "classify__dropout": ["auto", 0.3, 0.6],
    "classify__weighting": [None, "wnet", "evidence"],
}
search = GridSearchCV(pipe, grid, cv=2, scoring=noisy_label_scorer).fit(X, y_noisy)

best = search.best_estimator_
candidates = {"chosen": best, "untuned": clone(pipe), "worst score": clone(pipe)}
candidates["untuned"].fit(X, y_noisy)
worst = search.cv_results_["params"][search.cv_results_["mean_test_score"].argmin()]
candidates["worst score"].set_params(**worst).fit(X, y_noisy)
for name, candidate in candidates.items():
    step = candidate["classify"]
    print(
        f"{name:11s}  dropout {step.dropout}, weighting {step.weighting!s:8s}  "
        f"test accuracy {candidate.score(X_test, y_test):.3f}"
    )

# %%
# By noisy labels alone, the candidate with the lowest score is the least accurate of the three. The
# scorer does not separate good candidates from the best one: the untuned pipeline is as accurate as
# the chosen one.
#
# Noise scores of the best pipeline
# ---------------------------------
# ``best_estimator_`` is fitted on all training rows. Its last step has a noise score for each of
# them, in the order of the rows.

scores = best["classify"].noise_scores_
print(f"AUROC of the noise scores against the wrong labels {roc_auc_score(wrong, scores):.3f}")
print("rows to check first:", np.argsort(scores)[::-1][:8])

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
values = search.cv_results_["mean_test_score"].reshape(3, 3)  # the last parameter varies fastest
left.imshow(values, cmap="Blues")
for row, column in np.ndindex(values.shape):
    text = left.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center")
    text.set_color("white" if values[row, column] > values.mean() else "black")
left.set(title="noisy_label_scorer, higher is better", xlabel="weighting", ylabel="dropout")
left.set_xticks(range(3), labels=map(str, grid["classify__weighting"]))
left.set_yticks(range(3), labels=map(str, grid["classify__dropout"]))
NoiseScoreDisplay.from_estimator(best, wrong=wrong, ax=right)
right.set_title("noise scores of the best pipeline")

figure.savefig("pipeline_grid_search.png", dpi=120)
print("figure: pipeline_grid_search.png")
