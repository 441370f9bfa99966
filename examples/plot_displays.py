"""
Displays
========

Two labels in five of scikit-learn's bundled digits are made wrong. Four displays show what
``CLIDMUClassifier`` learned:

- ``NoiseScoreDisplay``: the noise scores of right and wrong labels, with ROC and precision-recall
  curves;
- scikit-learn's ``ConfusionMatrixDisplay``: the transition matrix;
- ``TrainingCurveDisplay``: losses and other curves over the epochs;
- ``WeightFunctionDisplay``: the weight as a function of the inputs of the weighting net.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay

from sklearn_clidmu import (
    CLIDMUClassifier,
    NoiseScoreDisplay,
    TrainingCurveDisplay,
    WeightFunctionDisplay,
)
from sklearn_clidmu.datasets import make_label_noise

# %%
# Fit
# ---
# The displays accept a classifier or a pipeline that ends in one.

X, y = load_digits(return_X_y=True)
y_noisy, wrong = make_label_noise(y, rate=0.4, random_state=0)
clf = CLIDMUClassifier(max_epochs=15, random_state=0).fit(X, y_noisy)

# %%
# Noise scores
# ------------
# If it is known which labels are wrong, pass ``wrong`` to see how well the scores find them.

scores = NoiseScoreDisplay.from_estimator(clf, wrong=wrong)
scores.figure_.savefig("noise_scores.png", dpi=120)
print("figure: noise_scores.png")

# %%
# Transition matrix
# -----------------
# Estimated from the noisy labels alone, and counted with the true ones.

figure, (estimated, known) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
style = {"cmap": "Blues", "values_format": ".2f"}
ConfusionMatrixDisplay(clf.transition_matrix_).plot(ax=estimated, **style)
ConfusionMatrixDisplay.from_predictions(y, y_noisy, normalize="true", ax=known, **style)
estimated.set(title=f"estimated, noise rate {clf.noise_rate_:.1%}")
known.set(title=f"true, noise rate {(y != y_noisy).mean():.1%}")
for axes in (estimated, known):
    axes.set(xlabel="given label", ylabel="true class")
figure.savefig("transition_matrix.png", dpi=120)
print("figure: transition_matrix.png")

# %%
# Training curves
# ---------------
# The disagreement rate is the share of rows whose given label is not the predicted class. It
# settles near the noise rate.

curves = TrainingCurveDisplay.from_estimator(clf)
curves.figure_.savefig("training_curves.png", dpi=120)
print("figure: training_curves.png")

# %%
# Weight function
# ---------------
# The mean weight of the rows against each input of the weighting net. It depends mostly on the
# probability of a wrong label that is known before training.

weights = WeightFunctionDisplay.from_estimator(clf)
weights.figure_.savefig("weight_function.png", dpi=120)
print("figure: weight_function.png")
