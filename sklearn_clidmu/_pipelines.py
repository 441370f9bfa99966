"""The classifier inside fitted pipelines and searches, and the rows that reach it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline


def unwrapped(estimator: Any) -> Any:
    """Fitted estimator inside those that hand rows and labels on to one estimator as they are."""
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif _has_threshold(estimator):
            estimator = estimator.estimator_
        else:
            return estimator


def _has_threshold(estimator: Any) -> bool:
    """Whether it moves the threshold of an estimator that was fitted on all rows."""
    kinds = FixedThresholdClassifier, TunedThresholdClassifierCV
    all_rows = getattr(estimator, "refit", True)
    return isinstance(estimator, kinds) and hasattr(estimator, "estimator_") and all_rows


def missing_label_of(estimator: Any) -> Any:
    """``missing_label`` of the classifier inside pipelines and searches, fitted or not, or None."""
    while estimator is not None and not hasattr(estimator, "missing_label"):
        is_pipeline = isinstance(estimator, Pipeline)
        estimator = estimator.steps[-1][1] if is_pipeline else getattr(estimator, "estimator", None)
    return getattr(estimator, "missing_label", None)


def nested_estimators(estimator: Any) -> Iterator[Any]:
    """Yield the pipelines around a fitted classifier, from the outermost, and the classifier."""
    estimator = unwrapped(estimator)
    while isinstance(estimator, Pipeline):
        yield estimator
        estimator = unwrapped(estimator.steps[-1][1])
    yield estimator


def last_step(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Last step of a pipeline and the rows that it predicts; other estimators are unwrapped."""
    *pipelines, classifier = nested_estimators(estimator)
    for pipeline in pipelines:
        for _, step in pipeline.steps[:-1]:
            if step not in (None, "passthrough") and not hasattr(step, "fit_resample"):
                X = step.transform(X)
    return classifier, X


def trained_classifier(estimator: Any) -> Any:
    """Last step of a pipeline; ValueError if it has been trained on other rows than those passed.

    Resamplers, as those of imbalanced-learn, take rows out of the training set or add some.
    """
    *pipelines, classifier = nested_estimators(estimator)
    for pipeline in pipelines:
        for name, step in pipeline.steps:
            if hasattr(step, "fit_resample"):
                raise ValueError(
                    f"The step {name!r} of the pipeline, {type(step).__name__}, resamples the rows "
                    "in fit, so that what the classifier knows of its rows is not of those passed "
                    "to fit: use the scores of cross_val_noise_scores(pipeline, X, y)."
                )
    return classifier
