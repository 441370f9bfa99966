"""
CLID-MU with the settings of the paper
======================================

:class:`~sklearn_clidmu.CLIDMUClassifier` departs from the paper by default. This example sets its
parameters to those of the paper, on scikit-learn's bundled digits with 40 % wrong labels, and
compares the weights with those of the default. :doc:`/paper` lists the parameters and what still
differs.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.datasets import make_label_noise

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, train_size=1000, stratify=y, random_state=0)
y_noisy, wrong = make_label_noise(y, rate=0.4, random_state=0)

# %%
# The paper's parameters
# ----------------------
# The virtual step moves all parameters of the network, and a meta batch has 100 rows. CLID, the
# temperature of 0.5 and one network instead of folds need no setting.

paper = {"virtual_step": "full", "batch_size": 100, "meta_batch_size": 100, "lr": 0.05}

models = {
    "weighting=None": CLIDMUClassifier(weighting=None, random_state=0),
    "paper, WNet": CLIDMUClassifier(weighting="wnet", **paper, random_state=0),
    "paper, VRI": CLIDMUClassifier(weighting="vri", **paper, random_state=0),
    "default": CLIDMUClassifier(random_state=0),
}
accuracy = {}
for name, model in models.items():
    accuracy[name] = model.fit(X, y_noisy).score(X_test, y_test)
    auroc = roc_auc_score(wrong, model.noise_scores_)
    print(f"{name:15s} test accuracy {accuracy[name]:.3f}  AUROC of the noise scores {auroc:.3f}")

# %%
# Test accuracy and weights
# -------------------------
# The weights are those of the training rows, with mean 1.

figure, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
axes[0].barh(list(accuracy)[::-1], list(accuracy.values())[::-1], color="#767676")
axes[0].set(title="test accuracy", xlim=(min(accuracy.values()) - 0.05, 1))
bins = np.linspace(0, 3, 31)
for ax, name in zip(axes[1:], list(models)[1:], strict=True):
    weights = models[name].sample_weights_.clip(0, 3)
    ax.hist(weights[~wrong], bins, color="#0072b2", alpha=0.7, label="right labels")
    ax.hist(weights[wrong], bins, color="#d55e00", alpha=0.7, label="wrong labels")
    ax.set(title=name, xlabel="weight", yticks=[])
axes[1].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)

figure.savefig("paper_settings.png", dpi=120)
print("figure: paper_settings.png")
