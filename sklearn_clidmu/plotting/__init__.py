"""Displays of a fitted classifier; matplotlib is imported when one is drawn."""

from sklearn_clidmu.plotting._noise_scores import NoiseScoreDisplay
from sklearn_clidmu.plotting._training_curves import TrainingCurveDisplay
from sklearn_clidmu.plotting._weight_function import WeightFunctionDisplay

__all__ = ["NoiseScoreDisplay", "TrainingCurveDisplay", "WeightFunctionDisplay"]
