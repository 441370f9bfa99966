"""How a typed program uses the package: checked by ``mypy --strict``, not run."""

from pathlib import Path
from typing import assert_type

import numpy as np
from torch import Tensor

from sklearn_clidmu import (
    CLIDMUClassifier,
    NoiseScoreDisplay,
    TrainingCurveDisplay,
    WeightFunctionDisplay,
    apply_review,
    clid_loss,
    clid_score,
    export_onnx,
    find_label_issues,
    noisy_label_scorer,
)
from sklearn_clidmu.datasets import make_label_noise


def use(X: np.ndarray, y: np.ndarray, logits: Tensor, features: Tensor, path: Path) -> None:
    noisy, flipped = make_label_noise(y, rate=0.4, random_state=0)
    assert_type(flipped, np.ndarray)
    clf = CLIDMUClassifier(hidden_layer_sizes=(8,), weighting="vri", random_state=0)
    assert_type(clf.fit(X, noisy, sample_weight=np.ones(len(X))), CLIDMUClassifier)
    for array in (clf.predict(X), clf.predict_proba(X), clf.predict_log_proba(X)):
        assert_type(array, np.ndarray)
    assert_type(clf.noise_scores(X, noisy), np.ndarray)
    assert_type(clf.noise_report(), str)
    assert_type(clf.partial_fit(X, noisy, classes=[0, 1]), CLIDMUClassifier)
    export_onnx(clf, path)
    issues = find_label_issues(clf)
    assert_type(issues.index, np.ndarray)
    assert_type(issues.noise_rate, float)
    issues.to_html(path, show=X, X=X)
    assert_type(apply_review(noisy, path).confirmed, np.ndarray)
    assert_type(clid_score(clf, X), float)
    assert_type(noisy_label_scorer(clf, X, noisy), float)
    assert_type(clid_loss(features, logits), Tensor)
    assert_type(NoiseScoreDisplay.from_estimator(clf), NoiseScoreDisplay)
    assert_type(TrainingCurveDisplay.from_estimator(clf), TrainingCurveDisplay)
    assert_type(WeightFunctionDisplay.from_estimator(clf), WeightFunctionDisplay)
