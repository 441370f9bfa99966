"""The methods of accuracy.py: CLIDMUClassifier, its variants, and peers, with their defaults.

Features come as they are. The methods that need features of one scale (SVC, logistic regression,
LDA and scikit-learn's MLP) are pipelines that standardize them; the others do so themselves or do
not need it. All use one thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from typing import NamedTuple

from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_clidmu import CLIDMUClassifier

OURS = "clidmu"
CONTROL = "weighting-none"
ORACLE = "oracle"
"""The control, fitted on the rows with a right label only."""

Factory = Callable[[int], ClassifierMixin]


class Method(NamedTuple):
    """A function from the seed to a classifier, and the package that this needs."""

    build: Factory
    package: str = "sklearn"


def ours(**parameters: str | None) -> Method:
    """Vary our classifier."""
    return Method(lambda seed: CLIDMUClassifier(random_state=seed, **parameters))


def scaled(model: ClassifierMixin) -> ClassifierMixin:
    """Standardize the features of a classifier."""
    return make_pipeline(StandardScaler(), model)


def svc(seed: int, **parameters: str) -> ClassifierMixin:
    return scaled(SVC(random_state=seed, **parameters))


def forest(seed: int, **parameters: str) -> ClassifierMixin:
    return RandomForestClassifier(random_state=seed, **parameters)


def hgb(seed: int, **parameters: float) -> ClassifierMixin:
    return HistGradientBoostingClassifier(random_state=seed, **parameters)


def stopped_mlp(seed: int) -> ClassifierMixin:
    return scaled(MLPClassifier(early_stopping=True, random_state=seed))


def foreign(package: str, name: str, **parameters: object) -> Method:
    """Use a classifier of another package, imported with the first fit: some take seconds."""

    def build(seed: int) -> ClassifierMixin:
        model = getattr(importlib.import_module(package), name)
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        return model(random_state=seed, **parameters)

    return Method(build, package)


def cleanlab(model: Factory) -> Method:
    """Wrap a classifier in cleanlab's CleanLearning."""

    def build(seed: int) -> ClassifierMixin:
        from cleanlab.classification import CleanLearning

        return CleanLearning(model(seed), seed=seed, find_label_issues_kwargs={"n_jobs": 1})

    return Method(build, "cleanlab")


# Few small trees cannot learn many wrong labels.
SHORT = {
    "learning_rate": 0.05,
    "max_iter": 60,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 40,
    "early_stopping": False,
}
BALANCED = {"class_weight": "balanced"}
LDA = {"solver": "lsqr", "shrinkage": "auto"}
CATBOOST = {"verbose": 0, "thread_count": 1, "allow_writing_files": False}
PYTABKIT = {"n_threads": 1, "device": "cpu"}

METHODS: dict[str, Method] = {
    OURS: ours(),
    CONTROL: ours(weighting=None),
    ORACLE: ours(weighting=None),
    "no-meta-step": ours(meta_lr=1e-12),
    "no-folds": ours(n_folds=None),
    "objective-mae": ours(meta_objective="mae"),
    "balanced": ours(**BALANCED),
    "weighting-none-balanced": ours(weighting=None, **BALANCED),
    "svc-balanced": Method(lambda seed: svc(seed, **BALANCED)),
    "random-forest-balanced": Method(lambda seed: forest(seed, **BALANCED)),
    "hgb-short-balanced": Method(lambda seed: hgb(seed, **SHORT, **BALANCED)),
    "wnet": ours(weighting="wnet"),
    "vri": ours(weighting="vri"),
    "svc": Method(svc),
    "random-forest": Method(forest),
    "hgb": Method(hgb),
    "hgb-short": Method(lambda seed: hgb(seed, **SHORT)),
    "lightgbm": foreign("lightgbm", "LGBMClassifier", verbose=-1, n_jobs=1),
    "catboost": foreign("catboost", "CatBoostClassifier", **CATBOOST),
    "mlp": Method(lambda seed: scaled(MLPClassifier(random_state=seed))),
    "mlp-stopped": Method(stopped_mlp),
    "lda": Method(lambda _: scaled(LinearDiscriminantAnalysis(**LDA))),
    "logistic": Method(lambda seed: scaled(LogisticRegression(max_iter=1000, random_state=seed))),
    "realmlp": foreign("pytabkit", "RealMLP_TD_S_Classifier", **PYTABKIT),
    "tabm": foreign("pytabkit", "TabM_D_Classifier", **PYTABKIT),
    "cleanlab-svc": cleanlab(lambda seed: CalibratedClassifierCV(svc(seed))),
    "cleanlab-random-forest": cleanlab(forest),
    "cleanlab-hgb": cleanlab(hgb),
    "cleanlab-mlp-stopped": cleanlab(stopped_mlp),
}
VARIANTS = (
    *(CONTROL, "no-meta-step", "no-folds", "objective-mae", "wnet", "vri"),
    *("balanced", "weighting-none-balanced"),
)


def absent() -> dict[str, str]:
    """Return the methods that cannot run, with the package that each lacks."""
    packages = {name: method.package for name, method in METHODS.items()}
    return {name: p for name, p in packages.items() if importlib.util.find_spec(p) is None}
