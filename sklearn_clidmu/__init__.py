"""CLID-MU for scikit-learn: classifiers that learn which of their labels to trust."""

from sklearn_clidmu.estimator.classifier import CLIDMUClassifier
from sklearn_clidmu.estimator.label_displays import NoiseMatrixDisplay, NoiseScoreDisplay
from sklearn_clidmu.estimator.training_displays import TrainingCurveDisplay, WeightFunctionDisplay
from sklearn_clidmu.mathematics.clid import clid_loss
from sklearn_clidmu.mathematics.weighting import LogitRectifier, LossWeightNet

__all__ = [
    "CLIDMUClassifier",
    "LogitRectifier",
    "LossWeightNet",
    "NoiseMatrixDisplay",
    "NoiseScoreDisplay",
    "TrainingCurveDisplay",
    "WeightFunctionDisplay",
    "clid_loss",
]
__version__ = "0.1.0.dev0"
