"""Checks of the package's own promises, in the manner of scikit-learn's estimator checks.

Every check takes a name, to be called by in messages, and an unfitted estimator, which it leaves
as it is. It raises AssertionError where a promise is broken.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning

Check = Callable[[str, BaseEstimator], None]

N_ROWS = 40
"""Rows of the checks' data; they fit in one batch of the default size."""

FULL_BATCH_TOLERANCE = 1e-6
"""What is equal up to rounding may differ by as much after training in float64."""

CURVES = {"train_loss", "clid", "disagreement", "stage", "chosen"}
META_CURVES = {"meta_loss"}
VALIDATION_CURVES = {"valid_loss", "valid_score"}


# What the checks share


def _noisy_rows(n_samples: int = N_ROWS, n_classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Blobs with every fifth label wrong, in an order that is no order."""
    rng = np.random.RandomState(0)
    y = np.arange(n_samples) % n_classes
    X = rng.normal(size=(n_samples, 4)) + 3 * np.eye(n_classes, 4)[y]
    y[::5] = (y[::5] + 1) % n_classes
    order = rng.permutation(n_samples)
    return X[order], y[order]


def _new(estimator: BaseEstimator, **params: Any) -> Any:
    """Clone with a fixed seed and other parameters."""
    return clone(estimator).set_params(**{"random_state": 0, **params})


def _full_batch(estimator: BaseEstimator, **params: Any) -> Any:
    """Clone that uses the checks' data whole, in float64."""
    return _new(estimator, batch_size=N_ROWS, **params)


def _regimes(estimator: BaseEstimator) -> Iterator[tuple[str, Any]]:
    """Yield a clone that trains on the whole data at once, and one in batches with a hold-out."""
    yield "the whole data at once", _full_batch(estimator)
    yield "batches with a hold-out", _new(estimator, batch_size=16, early_stopping=True)


def results(fitted: Any, X: np.ndarray) -> dict[str, np.ndarray]:
    """Collect what a user reads out of a fitted estimator."""
    return {
        "predict_proba": fitted.predict_proba(X),
        "sample_weights_": fitted.sample_weights_,
        "noise_scores_": fitted.noise_scores_,
        "suggested_labels_, as codes": fitted.classes_.searchsorted(fitted.suggested_labels_),
        "noise_rate_": np.array(fitted.noise_rate_),
        "transition_matrix_": fitted.transition_matrix_,
        **{f"history_[{key!r}]": values for key, values in fitted.history_.items()},
    }


def assert_same(
    actual: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    message: str = "this",
    tolerance: float = 0.0,
) -> None:
    """Compare two results, bit for bit unless a tolerance is given."""
    assert actual.keys() == expected.keys(), f"{message} changes what is there to read"
    for key, value in expected.items():
        np.testing.assert_allclose(
            actual[key], value, rtol=0, atol=tolerance, err_msg=f"{message} changes {key}"
        )


def _assert_same_fits(name: str, estimator: BaseEstimator, message: str, *inputs: Any) -> None:
    """Compare fits on these inputs with plain ones on the rows of :func:`_noisy_rows`."""
    X, y = _noisy_rows()
    for regime, clf in _regimes(estimator):
        expected = results(clf.fit(X, y), X)
        actual = results(clone(clf).fit(*inputs), X)
        assert_same(actual, expected, f"{name} ({regime}): {message}")


def assert_sound(name: str, fitted: Any, X: np.ndarray) -> None:
    """Assert what holds of every fitted estimator, however poor its data were."""
    n_samples = len(X)
    weights, scores = fitted.sample_weights_, fitted.noise_scores_
    for key, values in (("sample_weights_", weights), ("noise_scores_", scores)):
        assert isinstance(values, np.ndarray), f"{name}.{key} is a {type(values)}"
        assert values.dtype == np.float64, f"{name}.{key} is of dtype {values.dtype}"
        assert values.shape == (n_samples,), f"{name}.{key} is not one number for each row"
        assert np.isfinite(values).all(), f"{name}.{key} is not finite"
    assert weights.min() >= 0, f"{name}.sample_weights_ holds a negative weight"
    assert abs(weights.mean() - 1) < 1e-9, f"{name}.sample_weights_ has mean {weights.mean()}"
    assert scores.min() >= 0, f"{name}.noise_scores_ holds {scores.min()}"
    assert scores.max() <= 1, f"{name}.noise_scores_ holds {scores.max()}"
    _assert_sound_audit(name, fitted, X)
    probabilities = fitted.predict_proba(X)
    shape = n_samples, len(fitted.classes_)
    assert probabilities.shape == shape, f"{name}: probabilities are not of shape {shape}"
    assert np.isfinite(probabilities).all(), f"{name}: probabilities are not finite"
    np.testing.assert_allclose(
        probabilities.sum(axis=1), 1, atol=1e-9, err_msg=f"{name}: probabilities do not sum to 1"
    )


def _assert_sound_audit(name: str, fitted: Any, X: np.ndarray) -> None:
    """Assert what holds of the estimates of the noise."""
    suggested, classes, matrix = (
        fitted.suggested_labels_,
        fitted.classes_,
        fitted.transition_matrix_,
    )
    assert suggested.dtype == classes.dtype, f"{name}.suggested_labels_: dtype {suggested.dtype}"
    message = f"{name}.suggested_labels_ are not the predictions of the rows passed to fit"
    np.testing.assert_array_equal(suggested, fitted.predict(X), message)
    assert type(fitted.noise_rate_) is float, f"{name}.noise_rate_ is {fitted.noise_rate_!r}"
    assert 0 <= fitted.noise_rate_ <= 1, f"{name}.noise_rate_ is {fitted.noise_rate_}"
    shape = len(classes), len(classes)
    assert matrix.shape == shape, f"{name}.transition_matrix_ is not of shape {shape}"
    assert matrix.min() >= 0, f"{name}.transition_matrix_ holds {matrix.min()}"
    np.testing.assert_allclose(
        matrix.sum(axis=1), 1, atol=1e-12, err_msg=f"{name}: rows of transition_matrix_"
    )
    if fitted.weighting == "evidence":
        _assert_sound_estimate(name, fitted.noise_estimate_, len(classes))
    else:
        assert fitted.noise_estimate_ is None, f"{name}.noise_estimate_ without evidence"
    report = fitted.noise_report()
    assert isinstance(report, str), f"{name}.noise_report() is a {type(report)}"


def _assert_sound_estimate(name: str, estimate: dict[str, Any], n_classes: int) -> None:
    """Assert what holds of the estimate of the noise before training."""
    rate, matrix, precision = (
        estimate[key] for key in ("noise_rate", "transition_matrix", "label_precision")
    )
    assert type(rate) is float, f"{name}.noise_estimate_: the noise rate is {rate!r}"
    assert 0 <= rate <= 1, f"{name}.noise_estimate_: the noise rate is {rate}"
    assert matrix.shape == (n_classes, n_classes), f"{name}.noise_estimate_: {matrix.shape}"
    assert precision.shape == (n_classes,), f"{name}.noise_estimate_: {precision.shape}"
    for key, values in (("transition_matrix", matrix), ("label_precision", precision)):
        sound = values.dtype == np.float64 and values.min() >= 0 and values.max() <= 1 + 1e-12
        assert sound, f"{name}.noise_estimate_: {key} is {values}"
    np.testing.assert_allclose(
        matrix.sum(axis=1), 1, atol=1e-6, err_msg=f"{name}: rows of noise_estimate_"
    )


def _assert_sound_stages(name: str, fitted: Any) -> None:
    """Assert that ``stages_`` and the other attributes agree."""
    stages, history = fitted.stages_, fitted.history_
    [predicting] = [stage for stage in stages if stage["predicts"]]
    assert predicting["n_epochs"] == fitted.n_iter_, f"{name}: n_iter_ {fitted.n_iter_}"
    collapsed = predicting["outcome"] == "collapsed"
    assert collapsed == (fitted.collapse_epoch_ is not None), f"{name}: {predicting}"
    lengths = [stage["n_epochs"] for stage in stages]
    expected = np.repeat(np.arange(len(stages)) + 1, lengths)
    np.testing.assert_array_equal(history["stage"], expected, f"{name}: history_['stage']")
    for stage in stages:
        assert stage["weighting"] == fitted.weighting, f"{name}: {stage}"
        assert stage["outcome"] in ("finished", "collapsed", "diverged"), f"{name}: {stage}"


def _quiet(check: Check) -> Check:
    """Ignore ConvergenceWarning: a check's few rows and epochs are no measure of training."""

    @wraps(check)
    def quiet(name: str, estimator: BaseEstimator) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            check(name, estimator)

    return quiet


# Rows and their scores


@_quiet
def check_row_attributes_are_sound(name: str, estimator: BaseEstimator) -> None:
    """Check shape, range and mean of ``sample_weights_`` and ``noise_scores_``."""
    X, y = _noisy_rows(n_classes=3)
    for regime, clf in _regimes(estimator):
        assert_sound(f"{name} ({regime})", clf.fit(X, y), X)
        if clf.weighting is None:
            ones = np.ones(len(X))
            np.testing.assert_array_equal(clf.sample_weights_, ones, f"{name} has no weighting")


@_quiet
def check_row_attributes_follow_a_permutation(name: str, estimator: BaseEstimator) -> None:
    """Check that permuted rows have their attributes permuted, up to rounding."""
    X, y = _noisy_rows(n_classes=3)
    weight = np.random.RandomState(1).randint(0, 3, len(X)).astype(float)
    order = np.random.RandomState(2).permutation(len(X))
    for sample_weight in (np.ones(len(X)), weight):
        clf = _full_batch(estimator).fit(X, y, sample_weight)
        expected = results(clf, X)
        for key in ("sample_weights_", "noise_scores_", "suggested_labels_, as codes"):
            expected[key] = expected[key][order]
        permuted = _full_batch(estimator).fit(X[order], y[order], sample_weight[order])
        message = f"{name}: the order of the rows"
        assert_same(results(permuted, X), expected, message, FULL_BATCH_TOLERANCE)


@_quiet
def check_zero_weight_rows_are_scored(name: str, estimator: BaseEstimator) -> None:
    """Check that rows of zero weight are scored, and train nothing."""
    X, y = _noisy_rows()
    weight = np.ones(len(X))
    weight[::4] = 0
    flipped = np.where(weight == 0, 1 - y, y)
    for regime, clf in _regimes(estimator):
        assert_sound(f"{name} ({regime})", clf.fit(X, y, weight), X)
        other = clone(clf).fit(X, flipped, weight)
        np.testing.assert_array_equal(
            other.predict_proba(X),
            clf.predict_proba(X),
            f"{name} ({regime}): the labels of rows of zero weight change the predictions",
        )
        moved = other.noise_scores_[weight == 0] != clf.noise_scores_[weight == 0]
        assert moved.all(), f"{name} ({regime}): rows of zero weight are not scored by their labels"


@_quiet
def check_zero_weight_rows_far_away_are_scored(name: str, estimator: BaseEstimator) -> None:
    """Check the scores of rows of zero weight that have no neighbor of positive weight."""
    X, y = _noisy_rows(200)
    weight = np.ones(len(X))
    weight[:120] = 0
    X[:120] += 20
    for params in ({"batch_size": 32}, {"batch_size": 128}):
        clf = _new(estimator, **params).fit(X, y, weight)
        assert_sound(f"{name} ({params})", clf, X)


@_quiet
def check_a_class_with_one_row(name: str, estimator: BaseEstimator) -> None:
    """Check that a class with a single row is learned from, held out or not."""
    X, y = _noisy_rows()
    y[7] = 2
    for regime, clf in _regimes(estimator):
        clf.fit(X, y)
        assert list(clf.classes_) == [0, 1, 2], f"{name} ({regime}): classes_ {clf.classes_}"
        assert_sound(f"{name} ({regime})", clf, X)


@_quiet
def check_one_row_more_than_a_batch(name: str, estimator: BaseEstimator) -> None:
    """Check data that would leave a last batch of one row."""
    X, y = _noisy_rows()
    clf = _new(estimator, batch_size=len(X) - 1).fit(X, y)
    assert_sound(name, clf, X)


# Labels, inputs and weights


@_quiet
def check_label_names_change_nothing(name: str, estimator: BaseEstimator) -> None:
    """Check that numbers, strings and booleans as labels give the same, bit for bit."""
    X, y = _noisy_rows()
    for regime, clf in _regimes(estimator):
        expected = results(clf.fit(X, y), X)
        predicted = clf.predict(X)
        for names in (["no", "yes"], [False, True], [-1.0, 3.0]):
            labels = np.array(names)
            renamed = clone(clf).fit(X, labels[y])
            message = f"{name} ({regime}): renaming the labels to {names}"
            assert_same(results(renamed, X), expected, message)
            np.testing.assert_array_equal(renamed.predict(X), labels[predicted], message)
            assert renamed.classes_.dtype == labels.dtype, f"{message} loses their dtype"


@_quiet
def check_inputs_are_never_written_to(name: str, estimator: BaseEstimator) -> None:
    """Check that read-only and memory-mapped inputs give what arrays give, left as they were."""
    for dtype in (np.float32, np.float64):
        X, y = _noisy_rows()
        inputs = {"X": X.astype(dtype), "y": y, "sample_weight": np.linspace(0, 2, len(X))}
        kept, frozen, factors = copy.deepcopy(inputs), copy.deepcopy(inputs), {0: 1, 1: 2}
        for value in frozen.values():
            value.flags.writeable = False
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "inputs.joblib")
            joblib.dump(inputs, path)
            given = {"read-only": frozen, "memory-mapped": joblib.load(path, mmap_mode="r")}
            for regime, clf in _regimes(estimator):
                clf.set_params(class_weight=factors).fit(**inputs)
                expected = results(clf, inputs["X"])
                for way, values in given.items():
                    actual = results(clone(clf).fit(**values), values["X"])
                    assert_same(actual, expected, f"{name} ({regime}): that inputs are {way}")
            del given, values
        assert factors == {0: 1, 1: 2}, f"{name} wrote to class_weight"
        for key, value in kept.items():
            np.testing.assert_array_equal(inputs[key], value, f"{name} wrote to {key}")


@_quiet
def check_memory_layout_changes_nothing(name: str, estimator: BaseEstimator) -> None:
    """Check that rows stored column by column, as in frames, give the same, bit for bit."""
    X, y = _noisy_rows()
    _assert_same_fits(name, estimator, "the layout of X in memory", np.asfortranarray(X), y)


@_quiet
def check_unit_sample_weight_is_none(name: str, estimator: BaseEstimator) -> None:
    """Check that unit sample weights are as good as none, bit for bit."""
    X, y = _noisy_rows()
    _assert_same_fits(name, estimator, "unit sample_weight", X, y, np.ones(len(X)))


@_quiet
def check_scale_of_sample_weight_does_not_matter(name: str, estimator: BaseEstimator) -> None:
    """Check that sample weights twice as large give the same, up to rounding."""
    X, y = _noisy_rows(n_classes=3)
    weight = np.random.RandomState(1).uniform(0.1, 3, len(X))
    expected = results(_full_batch(estimator).fit(X, y, weight), X)
    actual = results(_full_batch(estimator).fit(X, y, 2 * weight), X)
    message = f"{name}: doubling all sample weights"
    assert_same(actual, expected, message, FULL_BATCH_TOLERANCE)


@_quiet
def check_integer_sample_weights_are_repetitions(name: str, estimator: BaseEstimator) -> None:
    """Check that in one batch a row of weight s counts as s identical rows, up to rounding."""
    X, y = _noisy_rows(n_classes=3)
    times = np.random.RandomState(1).randint(0, 4, len(X))
    kept = np.repeat(np.arange(len(X)), times)
    params = {"batch_size": max(len(X), len(kept))}
    weighted = _new(estimator, **params).fit(X, y, times.astype(float))
    repeated = _new(estimator, **params).fit(X[kept], y[kept])
    confidence = weighted.sample_weights_[kept]
    pairs = {
        "predict_proba": (weighted.predict_proba(X), repeated.predict_proba(X)),
        "noise_scores_": (weighted.noise_scores_[kept], repeated.noise_scores_),
        "sample_weights_": (confidence / confidence.mean(), repeated.sample_weights_),
    }
    for key, (actual, expected) in pairs.items():
        message = f"{name}: {key} of rows of integer weight are not those of repeated rows"
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6, err_msg=message)


@_quiet
def check_tiny_and_huge_sample_weights(name: str, estimator: BaseEstimator) -> None:
    """Check sample weights that float32 cannot hold."""
    X, y = _noisy_rows()
    for value in (1e-50, 1e50):
        clf = _new(estimator, batch_size=16).fit(X, y, np.full(len(X), value))
        assert_sound(f"{name} (sample weights of {value})", clf, X)


# Randomness


def _global_generators() -> list[Any]:
    """State of the global generators of NumPy and torch."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    _, keys, position, has_gauss, gauss = numpy_state
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return [keys.tolist(), position, has_gauss, gauss, *(state.tolist() for state in states)]


@_quiet
def check_global_generators_are_left_alone(name: str, estimator: BaseEstimator) -> None:
    """Check that neither fit nor predict draws from, or seeds, a global generator."""
    X, y = _noisy_rows()
    before = _global_generators()
    for seed in (None, 0, np.random.RandomState(0)):
        clf = _new(estimator, batch_size=16, early_stopping=True, random_state=seed).fit(X, y)
        message = f"{name} with random_state={seed} moves a global generator"
        assert _global_generators() == before, f"{message} in fit"
        clf.predict_proba(X)
        assert _global_generators() == before, f"{message} in predict_proba"


def _torch_settings() -> tuple[Any, ...]:
    """Settings of torch that hold for the whole process."""
    return (
        torch.get_num_threads(),
        torch.get_num_interop_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


@_quiet
def check_settings_of_torch_are_left_alone(name: str, estimator: BaseEstimator) -> None:
    """Check that fit and predict change no setting of the process, threads above all."""
    X, y = _noisy_rows()
    before = _torch_settings()
    clf = _new(estimator).fit(X, y)
    assert _torch_settings() == before, f"{name} changes a setting of torch in fit"
    clf.predict_proba(X)
    assert _torch_settings() == before, f"{name} changes a setting of torch in predict_proba"


@_quiet
def check_global_generators_do_not_matter(name: str, estimator: BaseEstimator) -> None:
    """Check that an integer ``random_state`` alone decides the result, bit for bit."""
    X, y = _noisy_rows()
    clf = _new(estimator, batch_size=16, early_stopping=True)
    expected = results(clf.fit(X, y), X)
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        np.random.random()  # noqa: NPY002
        torch.rand(1)
        actual = results(clone(clf).fit(X, y), X)
    np.random.set_state(state)  # noqa: NPY002
    assert_same(actual, expected, f"{name}: the state of the global generators")
    first, second = (
        clone(clf).set_params(random_state=np.random.RandomState(5)).fit(X, y).predict_proba(X)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second, f"{name}: equal generators give unequal results")


# Training


@_quiet
def check_history_has_every_curve(name: str, estimator: BaseEstimator) -> None:
    """Check the keys and lengths of ``history_``."""
    X, y = _noisy_rows()
    for regime, clf in _regimes(estimator):
        clf.fit(X, y)
        expected = CURVES if clf.weighting is None else CURVES | META_CURVES
        if clf.early_stopping:
            expected = expected | VALIDATION_CURVES
        found = set(clf.history_)
        assert found == expected, f"{name} ({regime}): history_ has {found}, not {expected}"
        _assert_sound_stages(f"{name} ({regime})", clf)
        assert 1 <= clf.n_iter_ <= clf.max_epochs, f"{name} ({regime}): n_iter_ {clf.n_iter_}"
        for key, curve in clf.history_.items():
            message = f"{name} ({regime}): history_[{key!r}]"
            assert isinstance(curve, np.ndarray), f"{message} is a {type(curve)}"
            n_epochs = len(clf.history_["train_loss"])
            assert n_epochs >= clf.n_iter_, f"{message} is not one number an epoch"
            assert curve.shape == (n_epochs,), f"{message} is not as long as the others"
            if key != "meta_loss":
                assert np.isfinite(curve).all(), f"{message} is not finite"
