"""A classifier that knows no more than the class frequencies says so, and no other does."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.datasets import make_blobs, make_classification
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from sklearn_clidmu import CLIDMUClassifier, find_label_issues
from sklearn_clidmu.datasets import make_label_noise

KNOWS = "knows no more than the class frequencies"
QUICK = {"hidden_layer_sizes": (16,), "max_epochs": 6, "random_state": 0}


def module(d, c):
    return nn.Sequential(nn.Linear(d, 16), nn.ReLU(), nn.Linear(16, c))


def dead_module(d, c):
    """Linear layers between which hardly anything passes."""
    network = module(d, c)
    nn.init.constant_(network[0].bias, -1e3)
    nn.init.constant_(network[2].weight, 1e-3)
    return network


def random_rows(n, n_classes=2, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, 4)), rng.randint(0, n_classes, n)


def years():
    X, y = make_blobs(300, centers=3, random_state=0)
    return np.column_stack([X, 2000 + np.round(X[:, 0])]), y


DOUBTFUL = {
    "random labels": (random_rows(400), {}, "labels follow nothing in X"),
    "random labels, three classes": (random_rows(300, 3), {}, "labels follow nothing in X"),
    "few rows": (random_rows(160, 9), {}, "160 rows are too few for 9 classes"),
    "constant rows": ((np.ones((200, 3)), np.arange(200) % 2), {}, "labels follow nothing in X"),
    "constant rows, vri": (
        (np.ones((200, 3)), np.arange(200) % 2),
        {"weighting": "vri"},
        "labels follow nothing in X",
    ),
    "a column of years": (
        years(),
        {"module": module, "max_epochs": 12},
        "Sequential .*scale its columns",
    ),
    "one class predicted, of three": (
        make_blobs(300, centers=3, random_state=0),
        {"module": dead_module, "weighting": None},
        "or module Sequential has not learned what is in X",
    ),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_fit_warns_of_a_classifier_that_knows_nothing_and_of_the_cause(case):
    (X, y), params, cause = DOUBTFUL[case]
    with pytest.warns(ConvergenceWarning, match=f"{KNOWS}: .*{cause}") as caught:
        clf = CLIDMUClassifier(**{**QUICK, **params}).fit(X, y)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for one in (clf, clf if "module" in params else pickle.loads(pickle.dumps(clf))):
        assert "cannot be relied on" in one.noise_report()
        assert "Rows to look at first" not in one.noise_report()
        assert len(one.noise_report().splitlines()) < 25
        issues = find_label_issues(one)
        assert cause.split()[-1].split(".*")[-1] in issues.doubt
        assert repr(issues).splitlines()[-1].startswith("This cannot be relied on: ")
        assert find_label_issues(one, threshold=0.5).doubt == issues.doubt


def noisy(rows, rate):
    X, y = rows
    return X, make_label_noise(y, rate=rate, random_state=0)[0]


def xor():
    X, _ = random_rows(500)
    return X[:, :2], (X[:, 0] * X[:, 1] > 0).astype(int)


SOUND = {
    "blobs": make_blobs(200, random_state=0),
    "half of the labels wrong": noisy(make_blobs(400, random_state=0), 0.5),
    "30 % of two classes wrong": noisy(make_blobs(400, centers=2, random_state=0), 0.3),
    "2 % of a class": make_classification(
        1500, 10, weights=[0.98], flip_y=0, class_sep=0.6, random_state=1
    ),
    "classes that overlap": make_classification(
        800, 10, weights=[0.9], class_sep=0.3, random_state=3
    ),
    "one row of a class": (np.eye(100, 3), (np.arange(100) == 1).astype(int)),
    "xor": xor(),
    "20 rows": make_blobs(20, centers=2, random_state=0),
}


@pytest.mark.parametrize("params", [{}, {"weighting": "vri"}, {"weighting": None}], ids=str)
@pytest.mark.parametrize("case", SOUND)
def test_fit_does_not_doubt_a_classifier_that_knows_something(case, params):
    X, y = SOUND[case]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        clf = CLIDMUClassifier(**{**QUICK, **params, "max_epochs": 12}).fit(X, y)
    assert not [str(w.message) for w in caught if KNOWS in str(w.message)]
    assert "cannot be relied on" not in clf.noise_report()
    assert find_label_issues(clf).doubt is None


def test_partial_fit_does_not_warn_of_what_is_not_learned_yet():
    X, y = make_blobs(200, centers=2, random_state=0)
    clf = CLIDMUClassifier(**QUICK, lr=1e-9).partial_fit(X, y, classes=[0, 1])
    assert "cannot be relied on" in clf.noise_report()
    clf.set_params(lr="auto")
    for _ in range(4):
        clf.partial_fit(X, y)
    assert "cannot be relied on" not in clf.noise_report()


def test_partial_fit_is_doubted_if_every_part_has_one_class():
    X, y = make_blobs(300, centers=3, random_state=0)
    clf, order = CLIDMUClassifier(**QUICK), np.argsort(y, kind="stable")
    for rows in np.split(order, 3):
        clf.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert find_label_issues(clf).doubt == "no part has 10 rows outside its largest class"


def test_partial_fit_is_doubted_although_a_part_tells_nothing():
    X, y = make_blobs(200, centers=2, random_state=0)
    clf = CLIDMUClassifier(**QUICK, lr=1e-9).partial_fit(X[:9], y[:9], classes=[0, 1])
    clf.partial_fit(X, y)
    assert "has not learned what is in X" in find_label_issues(clf).doubt
    clf.set_params(lr="auto")
    for _ in range(4):
        clf.partial_fit(X, y)
    assert find_label_issues(clf.partial_fit(X[:9], y[:9])).doubt is None


@pytest.mark.parametrize("n_rows", [50, 100])
def test_fit_of_few_rows_says_in_its_report_that_they_tell_nothing(n_rows):
    clf = CLIDMUClassifier(**QUICK).fit(np.ones((n_rows, 3)), np.arange(n_rows) % 4)
    assert "cannot be relied on" in clf.noise_report()
    assert find_label_issues(clf).doubt == f"{n_rows} rows are too few for 4 classes"
