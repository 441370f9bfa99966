"""CLID-MU for scikit-learn: a classifier that learns which of its labels to trust."""

from sklearn_clidmu._classifier import CLIDMUClassifier
from sklearn_clidmu._cross_val_scores import cross_val_noise_scores
from sklearn_clidmu._onnx import export_onnx
from sklearn_clidmu._review import apply_review
from sklearn_clidmu.clid.objective import clid_loss
from sklearn_clidmu.clid.weight_nets import VRI, WNet
from sklearn_clidmu.label_issues import find_label_issues
from sklearn_clidmu.metrics import clid_score, noisy_label_scorer
from sklearn_clidmu.plotting import NoiseScoreDisplay, TrainingCurveDisplay, WeightFunctionDisplay

__all__ = [
    "VRI",
    "CLIDMUClassifier",
    "NoiseScoreDisplay",
    "TrainingCurveDisplay",
    "WNet",
    "WeightFunctionDisplay",
    "apply_review",
    "clid_loss",
    "clid_score",
    "cross_val_noise_scores",
    "export_onnx",
    "find_label_issues",
    "noisy_label_scorer",
]
__version__ = "0.1.0"
