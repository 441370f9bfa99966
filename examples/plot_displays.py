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

from pathlib import Path

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

X, y = load_digits(return_X_y=True)
y_noisy, wrong = make_label_noise(y, rate=0.4, random_state=0)
clf = make_pipeline(StandardScaler(), CLIDMUClassifier(max_epochs=15, random_state=0))
clf.fit(X, y_noisy)

scores = NoiseScoreDisplay.from_estimator(clf, wrong=wrong)
curves = TrainingCurveDisplay.from_estimator(clf)
weights = WeightFunctionDisplay.from_estimator(clf)

matrices, (estimated, known) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
NoiseMatrixDisplay.from_estimator(clf, ax=estimated)
NoiseMatrixDisplay.from_predictions(y, y_noisy, ax=known)
estimated.set_title(f"estimated: {estimated.get_title()}")
known.set_title(f"true: {known.get_title()}")

figures = {
    "noise_scores": scores.figure_,
    "noise_matrix": matrices,
    "training_curves": curves.figure_,
    "weight_function": weights.figure_,
}
for name, figure in figures.items():
    target = Path(f"{name}.png")
    figure.savefig(target, dpi=120)
    print(f"figure: {target.resolve()}")
