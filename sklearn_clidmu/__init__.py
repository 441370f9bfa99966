"""CLID-MU for scikit-learn: classifiers that learn which of their labels to trust."""

from sklearn_clidmu.estimator.audit import cross_val_noise_scores
from sklearn_clidmu.estimator.classifier import CLIDMUClassifier
from sklearn_clidmu.estimator.export import export_onnx
from sklearn_clidmu.estimator.find_issues import find_label_issues
from sklearn_clidmu.estimator.noise_matrix_display import NoiseMatrixDisplay
from sklearn_clidmu.estimator.noise_score_display import NoiseScoreDisplay
from sklearn_clidmu.estimator.selection import clid_score, noisy_label_scorer
from sklearn_clidmu.estimator.training_curve_display import TrainingCurveDisplay
from sklearn_clidmu.estimator.weight_function_display import WeightFunctionDisplay
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
    "clid_score",
    "cross_val_noise_scores",
    "export_onnx",
    "find_label_issues",
    "noisy_label_scorer",
]
__version__ = "0.1.0.dev0"
