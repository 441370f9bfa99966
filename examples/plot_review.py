"""
Reviewing labels in rounds
==========================

Three labels in ten of scikit-learn's bundled digits are made wrong. In each of three rounds, a
reviewer looks at the 100 labels that are most suspect and corrects them, and the classifier is
trained again. The same is done with 100 labels drawn at random.

A person would decide on the page that ``to_html`` writes and download the decisions as a CSV file.
Here the reviewer is simulated, and writes this file from the true labels.

The figure shows the share of wrong labels after each round, the test accuracy of the classifier,
and that of a random forest trained on the corrected labels. ``CLIDMUClassifier`` resists the wrong
labels that are left, so it gains little; the forest gains more.
"""

from __future__ import annotations

import csv

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

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

clf = CLIDMUClassifier(random_state=0).fit(X, y_noisy)
issues = find_label_issues(clf)
issues.to_html("review.html", show=X.reshape(-1, 8, 8), X=X)
print(f"{len(issues)} label issues: review.html")

# %%
# Three rounds
# ------------
# ``apply_review`` adds the decisions to the labels confirmed so far. ``fit`` receives the given
# labels, from which it estimates the noise, and the confirmed ones, which it trusts.


def decide(rows: np.ndarray) -> None:
    """Look at some labels, make no mistake, and save the decisions as the page does."""
    with open("decisions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "given_label", "decision", "label"])
        for row in rows:
            decision = "keep" if y_noisy[row] == y[row] else "change"
            writer.writerow([row, y_noisy[row], decision, y[row]])


def review(choose: str) -> np.ndarray:
    """Noise rate and two test accuracies before the first round and after each, in percent."""
    rng = np.random.default_rng(0)
    labels, confirmed, model, results = y_noisy, np.full(len(y), None), clf, []
    for number in range(N_ROUNDS + 1):
        forest = RandomForestClassifier(random_state=0).fit(X, labels)
        scores = model.score(X_test, y_test), forest.score(X_test, y_test)
        results.append([100 * (labels != y).mean(), 100 * scores[0], 100 * scores[1]])
        wrong, accuracy, of_forest = results[-1]
        print(
            f"round {number}: {wrong:4.1f} wrong, accuracy {accuracy:.1f}, forest {of_forest:.1f}"
        )
        if number == N_ROUNDS:
            break
        suspicion = model.noise_scores_ if choose == "most suspect" else rng.random(len(y))
        unseen = np.flatnonzero(confirmed == None)  # noqa: E711, of each entry
        decide(unseen[np.argsort(-suspicion[unseen])[:N_REVIEWED]])
        labels, _, confirmed = apply_review(y_noisy, "decisions.csv", confirmed)
        model = CLIDMUClassifier(random_state=0).fit(X, y_noisy, confirmed=confirmed)
    return np.array(results)


curves = {}
for choose in ("most suspect", "drawn at random"):
    print(f"\n{N_REVIEWED} labels a round, {choose}; percent")
    curves[choose] = review(choose)

# %%
# Noise rate and accuracy
# -----------------------

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
titles = "wrong labels", "accuracy of CLIDMUClassifier", "accuracy of a random forest"
for axis, title, column in zip(axes, titles, range(3), strict=True):
    for choose, results in curves.items():
        axis.plot(results[:, column], marker="o", label=choose)
    axis.set(title=f"{title} (%)", xlabel="round", xticks=range(N_ROUNDS + 1))
axes[0].set(ylim=(0, None))
for axis in axes[1:]:
    axis.set(ylim=(80, 100))
axes[0].legend(title=f"{N_REVIEWED} labels a round")

figure.savefig("review.png", dpi=120)
print("figure: review.png")
