"""
Pictures of a fit
=================

Two labels in five of scikit-learn's bundled digits are made wrong, and the four displays of this
package show what ``CLIDMUClassifier`` found of it:

- the noise scores, wrong labels apart from right ones, and how well they find them;
- the noise matrix and the noise rate that it has estimated, beside the true ones;
- the curves of its trainings;
- what its weighting net has learned.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_clidmu import (
    CLIDMUClassifier,
    NoiseMatrixDisplay,
    NoiseScoreDisplay,
    TrainingCurveDisplay,
    WeightFunctionDisplay,
)
from sklearn_clidmu.datasets import make_label_noise

# %%
# A fit to look at
# ----------------

X, y = load_digits(return_X_y=True)
y_noisy, wrong = make_label_noise(y, rate=0.4, random_state=0)
pipe = make_pipeline(StandardScaler(), CLIDMUClassifier(max_epochs=15, random_state=0))
clf = pipe.fit(X, y_noisy)

# %%
# Noise scores
# ------------
# Where it is known which labels are wrong, they stand apart, and two curves say how well they are
# found.

scores = NoiseScoreDisplay.from_estimator(clf, wrong=wrong)
scores.figure_.savefig("noise_scores.png", dpi=120)
print("figure: noise_scores.png")

# %%
# Noise matrix
# ------------
# Estimated from the wrong labels alone, and counted with the true ones.

figure, (estimated, known) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
NoiseMatrixDisplay.from_estimator(clf, ax=estimated)
NoiseMatrixDisplay.from_predictions(y, y_noisy, ax=known)
estimated.set_title(f"estimated: {estimated.get_title()}")
known.set_title(f"true: {known.get_title()}")
figure.savefig("noise_matrix.png", dpi=120)
print("figure: noise_matrix.png")

# %%
# Training curves
# ---------------
# The share of rows whose given label is not the one predicted settles near the noise rate, in the
# second training somewhat below.

curves = TrainingCurveDisplay.from_estimator(clf)
curves.figure_.savefig("training_curves.png", dpi=120)
print("figure: training_curves.png")

# %%
# Weight function
# ---------------
# The mean weight of the rows against each thing that the weighting net looks at. In a second
# training it is nearly all doubt that the first has left.

weights = WeightFunctionDisplay.from_estimator(clf)
weights.figure_.savefig("weight_function.png", dpi=120)
print("figure: weight_function.png")
