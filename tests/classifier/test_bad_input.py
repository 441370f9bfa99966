"""What cannot be done is refused, in words that name what was wrong."""

import inspect
import re

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu._settings import PARAMETER_CONSTRAINTS

from .data import make_rows, small

pytestmark = pytest.mark.usefixtures("coarse_kernel", "few_steps")

X, y, _ = make_rows()


def with_entry(value):
    spoiled = X.copy()
    spoiled[3, 1] = value
    return spoiled


# Data


@pytest.mark.parametrize(
    ("X_bad", "y_bad", "message"),
    [
        (with_entry(np.inf), y, "contains infinity"),
        (X[:-1], y, "inconsistent numbers of samples"),
        (X, np.where(y == 1, np.nan, y), "NaN"),
        (X, np.column_stack([y, y]), "y should be a 1d array"),
        (X, np.zeros(len(y)), "one class"),
        (X, np.full(len(y), "cat"), "one class: .*cat"),
        (X, None, "requires y to be passed"),
    ],
)
def test_fit_refuses_unfit_data(X_bad, y_bad, message):
    with pytest.raises(ValueError, match=message):
        small().fit(X_bad, y_bad)


@pytest.mark.parametrize(
    ("sample_weight", "message"),
    [
        (np.zeros(len(y)), "must"),  # scikit-learn's words, from some version on
        (np.where(np.arange(len(y)) == 3, -1.0, 1.0), "Negative values"),
        (np.where(np.arange(len(y)) == 3, np.nan, 1.0), "sample_weight contains NaN"),
        (np.ones(len(y) - 1), "sample_weight.shape"),
        (np.ones((len(y), 2)), "must be 1D"),
    ],
)
def test_fit_refuses_unfit_sample_weights(sample_weight, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small().fit(X, y, sample_weight)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
def test_predict_refuses_unfit_rows(method):
    predict = getattr(small().fit(X, y), method)
    with pytest.raises(ValueError, match=r"X has 3 features.*expecting 4"):
        predict(X[:, :3])
    with pytest.raises(ValueError, match="contains infinity"):
        predict(with_entry(np.inf))


def test_fit_refuses_rows_too_large_for_single_precision():
    with pytest.raises(ValueError, match=r"too large for float32.*StandardScaler"):
        small(batch_size=16).fit(with_entry(1e300), y)


def test_early_stopping_refuses_a_hold_out_that_leaves_no_row():
    clf = small(early_stopping=True, validation_fraction=0.9)
    with pytest.raises(ValueError, match=r"validation_fraction=0.9 leaves none of the 5 rows"):
        clf.fit(X[:5], y[:5])


def test_fit_takes_more_folds_than_rows_for_one_row_a_fold():
    every, more = (small(n_folds=len(X) + n, batch_size=16).fit(X, y) for n in (0, 1))
    np.testing.assert_array_equal(every.predict_proba(X), more.predict_proba(X))


def test_predict_takes_a_value_beyond_single_precision_for_a_large_one():
    clf = small(batch_size=16).fit(X, y)
    huge, large = (clf.predict_proba(with_entry(value)) for value in (1e300, 1e30))
    np.testing.assert_array_equal(huge, large)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "score"])
def test_predict_raises_not_fitted_error_before_fit(method):
    clf = small()
    arguments = (X, y) if method == "score" else (X,)
    with pytest.raises(NotFittedError):
        getattr(clf, method)(*arguments)
    with pytest.raises(NotFittedError):
        _ = clf.weight_net_


def test_failed_fit_leaves_no_trace():
    clf = small()
    with pytest.raises(ValueError, match="one class"):
        clf.fit(X, np.zeros(len(y)))
    with pytest.raises(NotFittedError):
        clf.predict(X)
    assert vars(clf).keys() == clf.get_params().keys()
    before = dict(vars(clf.fit(X, y)))
    with pytest.raises(ValueError, match="contains infinity"):
        clf.fit(with_entry(np.inf), y)
    assert vars(clf) == before


# Parameters

UNFIT = {
    "hidden_layer_sizes": [0, -5, 2.5, None, (), (0,), (8, -1), (8.5,), ("8",)],
    "dropout": [-0.1, 1, 1.0, "0.3", None],
    "module": ["mlp", 3],
    "weighting": ["VRI", "", 1, True],
    "meta_objective": ["CLID", None, 1],
    "virtual_step": ["both", None],
    "temperature": [0, -1.0, None, "low"],
    "max_epochs": [0, -1, 2.5, None],
    "warmup_epochs": [-1, 1.5, None, "none", 3, 100],
    "batch_size": [0, -1, 64.0, None],
    "meta_batch_size": [0, 1, 64.0, "auto"],
    "lr": [0, -1.0, None, "high"],
    "meta_lr": [0, -1.0, None, "high"],
    "weight_decay": [-1e-3, None, "strong"],
    "early_stopping": ["yes", None, 2],
    "n_folds": [1, 0, -1, 2.5, "two"],
    "validation_fraction": [0, 1, 0.0, 1.0, -0.1, None],
    "class_weight": ["unbalanced", 1, [1, 2]],
    "warm_start": ["yes", None, 2],
    "missing_label": [[-1], (), {-1}, 1j, b""],
    "unlabeled": [None, "meta", True, 0],
    "device": [None, 0, "nonsense", "cuda:99"],
    "random_state": [-1, "seed", 0.5],
    "verbose": [-1, "loud", None],
}


def test_parameters_all_have_unfit_values():
    assert UNFIT.keys() == PARAMETER_CONSTRAINTS.keys()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in UNFIT.items() for value in values]
)
def test_parameter_of_unfit_value_is_named(name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        small(**{name: value}).fit(X, y)


def test_warmup_epochs_may_be_all_without_weighting():
    small(weighting=None, warmup_epochs=3).fit(X, y)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda logits: None, "None"),
        (lambda logits: 1.0, "1.0"),
        (lambda logits: logits.sum(dim=1), "tensor"),
        (lambda logits: logits.detach().sum(), "tensor"),
        (lambda logits: logits.sum() * 1j, "tensor"),
    ],
    ids=["none", "number", "vector", "constant", "complex"],
)
@pytest.mark.parametrize("batch_size", ["auto", 16])
def test_meta_objective_that_is_no_scalar_of_the_logits_is_named(value, message, batch_size):
    clf = small(meta_objective=lambda h, logits, y, s: value(logits), batch_size=batch_size)
    with pytest.raises(ValueError, match=f"scalar tensor that depends on logits, got {message}"):
        clf.fit(X, y)


# The constructor


def signature():
    return inspect.signature(CLIDMUClassifier.__init__).parameters


def test_constructor_takes_keywords_only():
    kinds = {p.kind for name, p in signature().items() if name != "self"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError):
        CLIDMUClassifier((8,))


def test_constructor_stores_parameters_untouched():
    values = {name: object() for name in PARAMETER_CONSTRAINTS}
    clf = CLIDMUClassifier(**values)
    assert vars(clf) == values
    assert all(getattr(clf, name) is value for name, value in values.items())


def test_parameter_constraints_name_exactly_the_parameters():
    assert list(PARAMETER_CONSTRAINTS) == [name for name in signature() if name != "self"]


# The class docstring


def documented(section):
    """Names and descriptions in a section of the class docstring, in order."""
    text = inspect.cleandoc(CLIDMUClassifier.__doc__)
    body = re.search(rf"^{section}\n-+\n(.*?)(?=^[^\n]+\n-+$|\Z)", text, re.S | re.M)[1]
    return dict(re.findall(r"^(\w+) : ([^\n]+)\n", body, re.M))


def test_docstring_has_every_parameter_in_order():
    assert list(documented("Parameters")) == list(PARAMETER_CONSTRAINTS)


def test_docstring_has_the_true_defaults():
    for name, description in documented("Parameters").items():
        assert description.endswith(f"default={signature()[name].default!r}".replace("'", '"'))


def test_docstring_has_every_fitted_attribute():
    pandas = pytest.importorskip("pandas")
    clf = small().fit(pandas.DataFrame(X, columns=list("abcd")), y)
    public = {n for n in [*vars(clf), "weight_net_"] if n.endswith("_") and not n.startswith("_")}
    assert set(documented("Attributes")) == public


def test_fit_counts_weights_that_underflow_as_zero():
    rng = np.random.RandomState(0)
    rows, labels = rng.normal(size=(60, 3)), np.arange(60) % 2
    weight = np.where(np.arange(60) < 20, 1.0, 1e-50)
    fitted, expected = (
        CLIDMUClassifier(max_epochs=2, weighting=None, batch_size=8, random_state=0).fit(
            rows, labels, sample_weight=w
        )
        for w in (weight, weight.round())
    )
    np.testing.assert_array_equal(fitted.predict_proba(rows), expected.predict_proba(rows))
