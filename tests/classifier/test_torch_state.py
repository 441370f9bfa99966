"""The same results whatever is set in torch for the whole program."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_clidmu import CLIDMUClassifier, clid_score, noisy_label_scorer
from sklearn_clidmu._torch_state import check_deterministic, fresh_torch

pytestmark = pytest.mark.usefixtures("few_steps", "coarse_kernel")

rng = np.random.RandomState(0)
y = np.arange(160) % 4
X = rng.normal(size=(160, 4)) + 3 * np.eye(4)[y]
noisy = np.where(rng.uniform(size=160) < 0.3, (y + 1) % 4, y)  # pair flips: the powers are fitted
few = np.where(np.arange(160) < 30, -1, noisy)


class Network(nn.Module):
    """Makes tensors of its own, of the default type and on the default device."""

    def __init__(self, d, c):
        super().__init__()
        self.body, self.head = nn.Linear(d, 8), nn.Linear(8, c)

    def forward(self, rows):
        shift = torch.tensor([0.1]) + torch.zeros(rows.shape[1])
        return self.head((self.body(rows + shift)).relu())


FITS = {
    "evidence": {"hidden_layer_sizes": (8,)},
    "vri": {"weighting": "vri", "hidden_layer_sizes": (8,)},
    "wnet": {"weighting": "wnet", "hidden_layer_sizes": (8,)},
    "full": {"virtual_step": "full", "hidden_layer_sizes": (8,), "meta_objective": "mae"},
    "one batch": {"batch_size": 200, "hidden_layer_sizes": (8,)},
    "unlabeled": {"missing_label": -1, "hidden_layer_sizes": (8,)},
    "module": {"module": Network},
}


@contextmanager
def setting(change, value, back):
    change(value)
    try:
        yield
    finally:
        change(back)


@contextmanager
def strict_warnings():
    with setting(torch.set_warn_always, True, False), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


STATES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "half": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": lambda: setting(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu"),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "warnings": strict_warnings,
}


def fit(case):
    labels = few if case == "unlabeled" else noisy
    params = {"max_epochs": 2, "warmup_epochs": 1, "random_state": 0, **FITS[case]}
    return CLIDMUClassifier(**params).fit(X, labels)


def results(clf):
    return [clf.predict_proba(X), clf.noise_scores(X, y), clid_score(clf, X)]


@pytest.fixture
def fitted(few_steps, coarse_kernel):
    return fit("evidence")


def check_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", FITS)
def test_fit_gives_the_same_result_under_any_state(case):
    expected = fit(case)
    for state in STATES.values():
        with state():
            found = fit(case)
        check_same(results(found), results(expected))
        np.testing.assert_array_equal(found.noise_scores_, expected.noise_scores_)
        assert all(
            p.requires_grad and not p.is_inference() for p in found.net_.module_.parameters()
        )


@pytest.mark.parametrize("case", ["evidence", "one batch"])
def test_predictions_scores_and_loading_give_the_same_under_any_state(case):
    clf = fit(case)
    stored = pickle.dumps(clf)
    expected = [*results(clf), noisy_label_scorer(clf, X, noisy)]
    for state in STATES.values():
        with state():
            loaded = pickle.loads(stored)
            found = [[*results(one), noisy_label_scorer(one, X, noisy)] for one in (clf, loaded)]
        for one in found:
            check_same(one, expected)


@pytest.mark.parametrize("state", ["no_grad", "float64", "device context"])
def test_partial_fit_continues_the_same_under(state):
    def train(context):
        clf = CLIDMUClassifier(hidden_layer_sizes=(8,), random_state=0)
        for _ in range(2):
            with context():
                clf.partial_fit(X, noisy, classes=np.arange(4))
        return results(clf)

    check_same(train(STATES[state]), train(fresh_torch))


def test_fit_and_predict_leave_the_state_as_it_was(fitted):
    def state():
        made = torch.ones(1) @ torch.ones(1)
        return made.dtype, made.device, torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    for name in STATES:
        with STATES[name]():
            before = state()
            fitted.predict(X)
            with pytest.raises(ValueError, match="one class"):
                fitted.fit(X, np.zeros(160))
            assert state() == before


def test_number_of_threads_changes_results_by_rounding_alone(fitted):
    with setting(torch.set_num_threads, 2, 1):
        found = results(fit("evidence"))
    for one, other in zip(found, results(fitted), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_threads_that_predict_at_a_time_leave_the_default_dtype_alone(fitted):
    clf = fitted
    expected = clf.predict_proba(X)
    with setting(torch.set_default_dtype, torch.float64, torch.float32):
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(clf.predict_proba, [X] * 40))
        assert torch.get_default_dtype() == torch.float64
    for one in found:
        np.testing.assert_array_equal(one, expected)


def test_fit_that_cannot_be_deterministic_is_refused():
    cuda = torch.device("cuda:0")
    check_deterministic(cuda)
    with setting(torch.use_deterministic_algorithms, True, False):
        check_deterministic(torch.device("cpu"))
        with pytest.raises(ValueError, match=r"device='cuda:0' .*warn_only=True"):
            check_deterministic(cuda)
        torch.use_deterministic_algorithms(True, warn_only=True)
        check_deterministic(cuda)
