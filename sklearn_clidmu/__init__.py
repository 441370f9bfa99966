"""CLID-MU for scikit-learn: classifiers that learn which of their labels to trust."""

from sklearn_clidmu.estimator.classifier import CLIDMUClassifier
from sklearn_clidmu.estimator.export import export_onnx
from sklearn_clidmu.mathematics.clid import clid_loss
from sklearn_clidmu.mathematics.weighting import LogitRectifier, LossWeightNet

__all__ = ["CLIDMUClassifier", "LogitRectifier", "LossWeightNet", "clid_loss", "export_onnx"]
__version__ = "0.1.0.dev0"
