"""
Several annotators
==================

Several people label each row, some of them carelessly, and the majority vote becomes the label.
This example shows how ``CLIDMUClassifier`` improves on the majority vote, and how to pass the
agreement of the annotators to it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu.datasets import make_label_noise

# %%
# Annotators
# ----------
# Ten annotators with different error rates label scikit-learn's bundled digits. Each image is
# labeled by three of the ten. Their errors do not depend on the image or on each other; in real
# data annotators make the same errors on difficult images, and wrong labels are harder to find.

ERROR_RATES = [0.05, 0.1, 0.4, 0.4, 0.4, 0.5, 0.5, 0.8, 0.8, 0.8]
PER_ROW = 3

X, y = load_digits(return_X_y=True)
X /= 16  # pixels from 0 to 1, for the logistic regression
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
rng = np.random.default_rng(0)
answers = np.column_stack(
    [make_label_noise(y, rate=rate, random_state=i)[0] for i, rate in enumerate(ERROR_RATES)]
)
asked = rng.permuted(np.tile(np.arange(len(ERROR_RATES)), (len(y), 1)), axis=1)[:, :PER_ROW]
votes = np.apply_along_axis(np.bincount, 1, np.take_along_axis(answers, asked, 1), minlength=10)

# %%
# The label is the majority vote; ties are broken at random.

y_vote = (votes + 0.5 * rng.random(votes.shape)).argmax(axis=1)
agreement = votes.max(axis=1) / PER_ROW
wrong = y_vote != y
print(f"{wrong.mean():.0%} of the {len(y)} labels are wrong after the vote")
for share in np.unique(agreement):
    rows = agreement == share
    print(f"  {share:.0%} agreed on {rows.sum():4d} rows: {wrong[rows].mean():.0%} wrong")

# %%
# Agreement as sample weight
# --------------------------
# Passed as ``sample_weight``, the agreement of the annotators gives more weight to the rows on
# which they agree. It helps all three models.

models = {
    "logistic regression": LogisticRegression(max_iter=1000),
    "same network, weighting=None": CLIDMUClassifier(weighting=None, random_state=0),
    "CLIDMUClassifier": CLIDMUClassifier(random_state=0),
}
accuracy = {}
print("test accuracy                   vote alone  agreement as weight")
for name, model in models.items():
    alone = model.fit(X, y_vote).score(X_test, y_test)
    model.fit(X, y_vote, sample_weight=agreement)
    accuracy[name] = alone, model.score(X_test, y_test)
    print(f"{name:30s}  {alone:10.3f}  {accuracy[name][1]:19.3f}")

# %%
# Which labels to check
# ---------------------
# Labels can be checked in the order of the annotators' disagreement or of the noise scores. Noise
# scores find wrong labels earlier because they also use the image. The left panel shows the wrong
# labels found, the right panel the accuracies from above.

order_by = {
    "noise score": models["CLIDMUClassifier"].noise_scores_,
    "disagreement": 1 - agreement + 1e-6 * rng.random(len(y)),  # ties in any order
}
COLORS, MARKERS = ("#0072b2", "#d55e00"), ("o", "s")
checked = np.arange(1, len(y) + 1)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for (name, values), color, line in zip(order_by.items(), COLORS, ("-", "--"), strict=True):
    found = wrong[np.argsort(values)[::-1]].cumsum()
    print(f"{name:12s}  {found[299] / 300:.0%} of the 300 labels checked first are wrong")
    left.plot(checked, found / wrong.sum(), line, color=color, label=name)
left.plot(checked, np.minimum(checked / wrong.sum(), 1), ":", color="k", label="best possible")
left.set(xlabel="labels checked", ylabel="share of the wrong labels found", ylim=(0, 1.05))
left.legend(loc="lower right", frameon=False)

places = np.arange(len(models))
for side, name in enumerate(("vote alone", "agreement as weight")):
    heights = [pair[side] for pair in accuracy.values()]
    right.plot(places, heights, MARKERS[side], color=COLORS[side], ms=9, label=name)
    for place, height in zip(places, heights, strict=True):
        place += (-0.1, 0.1)[side]
        right.text(place, height, f"{height:.3f}", va="center", ha=("right", "left")[side])
right.set_xticks(places, labels=[name.replace(", ", ",\n") for name in models])
right.set(ylabel="test accuracy", xlim=(-0.5, 2.5), ylim=(0.8, 1))
right.legend(loc="upper left", frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)

figure.savefig("crowd.png", dpi=120)
print("figure: crowd.png")
