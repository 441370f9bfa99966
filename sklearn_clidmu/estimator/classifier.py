"""CLIDMUClassifier: the estimator that users meet."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_clidmu.estimator.constraints import PARAMETER_CONSTRAINTS
from sklearn_clidmu.estimator.describing import describe_net, restore_net
from sklearn_clidmu.estimator.learning import Learned, learn
from sklearn_clidmu.estimator.preparation import (
    hold_out,
    local_generators,
    prepare,
    resolve_device,
    row_weights,
    share_memory,
)
from sklearn_clidmu.estimator.saving import load_model, save_model
from sklearn_clidmu.mathematics.weighting import WeightingNet

Self = TypeVar("Self", bound="CLIDMUClassifier")

CURVES = ("train_loss", "meta_loss", "clid", "dissent", "valid_loss", "valid_score")
"""Entries of the net's history that are passed on."""


class CLIDMUClassifier(ClassifierMixin, BaseEstimator):
    """Neural network classifier for data whose labels are partly wrong.

    While the network trains, a second, small network learns how much to trust each row's
    label. What it is taught by needs no clean label: after a virtual training step, the
    network's last hidden features and its predictions should tell the same story about which
    rows are alike (cross-layer information divergence, CLID).

    Features should be on comparable scales: put a ``StandardScaler`` in front.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(256, 128)
        Widths of the hidden layers. Each is followed by layer normalisation, ReLU and dropout.
        Ignored with ``module``.

    dropout : float, default=0.3
        Share of hidden units dropped in training, in [0, 1). What the network cannot memorise
        the meta step need not undo. Ignored with ``module``.

    module : callable or None, default=None
        A ``torch.nn.Module`` class, or any callable, that builds the network when called as
        ``module(n_features, n_classes)``. Its output is the logits, of shape (n_samples,
        n_classes); the features are the input of its last linear layer. It may also return the
        pair (logits, features). None builds a multi-layer perceptron.

    weighting : {"evidence", "wnet", "vri"} or None, default="evidence"
        What the second network sees of a row and how it acts.

        - "evidence": the row's loss, how its loss and its influence on CLID have ranked so far,
          and what a kernel regression on all other rows says of its label; scales the row's
          loss. On average it believes as many labels of a class as the noise estimated for it
          allows. This package's own; the most accurate.
        - "wnet": the row's loss alone; scales the row's loss. The paper's WNet.
        - "vri": features and label; scales the row's logits inside the loss. The paper's VRI.
        - None: trains the same network without weights, for comparison.

    meta_objective : {"clid", "mae", "small_loss"} or callable, default="clid"
        What the second network is trained to lower.

        - "clid": cross-layer information divergence; looks at no label.
        - "mae": mean absolute error to the given labels.
        - "small_loss": cross entropy on the rows whose losses the lower part of a two-component
          mixture explains.
        - a callable ``(features, logits, targets, sample_weight) -> scalar tensor``.

    virtual_step : {"head", "full"}, default="head"
        Parameters that the virtual step moves. "head": the last layer, whose hypergradient has
        a closed form. "full": all of them, as in the paper; about twice the time. A ``module``
        whose output is not that of a linear layer takes the full step.

    temperature : float, default=0.5
        Temperature of the feature graph. Lower looks at nearer rows only.

    max_epochs : int or "auto", default="auto"
        Number of epochs; "auto" takes 15, and up to 30 where they are fewer than 900 steps. The
        learning rate falls to zero over them along a cosine. An epoch of a small data set passes
        over it until ten steps have been taken.

    warmup_epochs : int or "auto", default="auto"
        Epochs of plain training before the first meta step. Too few, and classes are lost that
        were not learned first; too many, and wrong labels are memorised. "auto" takes as many
        epochs as give 80 steps, or 200 with "wnet", at most a third of all epochs.

    batch_size : int, default=64
        Largest batch. A training set that fits in one batch is always used whole, and there a
        row of integer sample weight s counts exactly as s identical rows.

    meta_batch_size : int or None, default=None
        Rows on which the meta objective is measured at each meta step, drawn anew from the
        training set. None takes the rows of the training batch, whose features are there
        already: as accurate, and nearly free. Of a batch of more than 256 rows, 256 are taken,
        since the cost of CLID grows with their square; batches of under 32 rows are too few for
        it, and 32 are drawn.

    meta_interval : int, default=1
        A meta step is taken on every ``meta_interval``-th batch. More is faster.

    lr : float or "auto", default="auto"
        Learning rate of the network at the start: 0.05 for "sgd", 0.002 for "adamw".

    meta_lr : float or "auto", default="auto"
        Learning rate of the second network's Adam: 0.003 for "evidence", 0.001 for "vri", 0.0003
        for "wnet"; the latter two lose classes when they learn faster. The published 1e-5 with
        plain gradient descent barely moves them.

    optimizer : {"sgd", "adamw"}, default="sgd"
        Optimizer of the network; "sgd" with Nesterov momentum 0.9.

    weight_decay : float or "auto", default="auto"
        Weight decay of the network. "auto" is 0.002 times the square root of the number of
        features: strong, since wrong labels are learned through large weights, and the stronger
        the more features there are to learn them by.

    ema_decay : float or None, default=0.99
        Decay of the moving average of the parameters that is used to predict; None for none.

    refit : bool, default=True
        Train twice, with "evidence" weighting: the first network has seen wrong labels before
        they were known to be wrong, and does not forget them all, so a fresh one starts from the
        trust that the first has learned. The first is weighted by "vri" where that sees more:
        where the wrong labels of a class mostly name one other class, and where more than two
        classes look nearly clean; of the latter pair, the one whose CLID is lower by far
        predicts, else that of "evidence". False trains once, as in the paper, in half the time.

    n_snapshots : int or None, default=None
        Predict with the mean of the networks of as many epochs, those of lowest CLID. None
        predicts with the last epoch or, with ``early_stopping``, the best.

    early_stopping : bool, default=False
        Hold out ``validation_fraction`` of the rows, with their noisy labels, and stop when
        accuracy on them has not risen for ``n_iter_no_change`` epochs. The best epoch predicts.

    validation_fraction : float, default=0.1
        Share of the rows held out with ``early_stopping``, in (0, 1).

    n_iter_no_change : int, default=5
        Patience of ``early_stopping``, in epochs.

    class_weight : "balanced", dict or None, default=None
        Weights of the classes, as in scikit-learn. They multiply ``sample_weight``.

    device : str, default="auto"
        Torch device to train and predict on. "auto" is CUDA where there is one, else the CPU.

    dtype : {"auto", "float32", "float64"}, default="auto"
        Floating-point type of the networks. "auto" is float32, and float64 for a training set
        that fits in one batch, where it costs nothing.

    random_state : int, RandomState instance or None, default=None
        Drives initialisation, shuffling, meta batches, dropout and the hold-out. The global
        generators of NumPy and torch are left as they were, whatever it is.

    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.

    n_features_in_ : int
        Number of features seen in ``fit``.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where they were all strings.

    sample_weights_ : ndarray of shape (n_samples,)
        Learned trust in the label of each row passed to ``fit``, >= 0 with mean 1, in the
        caller's order. All ones without weighting and after a collapse.

    noise_scores_ : ndarray of shape (n_samples,)
        In-sample score of each row passed to ``fit``, in [0, 1]; higher means more likely
        mislabelled. It is one minus the geometric mean, over the epochs of the training that made
        ``net_``, of the probability of the given label, so ``1 - noise_scores_`` reads as a label
        quality. Rows of zero weight and held-out rows are scored by networks that did not train
        on them.

    net_ : ReweightedNet
        The trained skorch net, ready to predict; ``net_.module_`` is the torch module.

    weight_net_ : torch.nn.Module or None
        The trained weighting net.

    device_ : str
        Device that was trained on and that predicts. A loaded model is on the device that it was
        trained on if there is one here, else on the CPU.

    n_iter_ : int
        Number of epochs of the training that made ``net_``.

    history_ : dict of ndarray of shape (n_epochs,)
        Curves over all epochs, those of the second training after those of the first:
        "train_loss", "meta_loss" (nan where no meta step was taken), "clid" (CLID - log n on up
        to 1000 fixed training rows), "dissent" (share of them whose given label is not the one
        predicted) and, with ``early_stopping``, "valid_loss" and "valid_score".

    collapse_epoch_ : int or None
        Epoch of the training that made ``net_``, counted from 1, at which the weighting
        collapsed: after it, training went on from the epoch before with equal weights. None if it
        did not.

    See Also
    --------
    sklearn.neural_network.MLPClassifier : A network that believes every label.

    References
    ----------
    Hu, Zhang, Zhang and Rundensteiner, "CLID-MU: Cross-Layer Information Divergence Based Meta
    Update Strategy for Learning with Noisy Labels", KDD 2025, arXiv 2507.11807.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn_clidmu import CLIDMUClassifier
    >>> X, y = make_blobs(300, centers=3, random_state=0, cluster_std=0.6)
    >>> flipped = np.random.default_rng(0).random(300) < 0.3
    >>> y_noisy = np.where(flipped, (y + 1) % 3, y)
    >>> clf = CLIDMUClassifier(random_state=0).fit(X, y_noisy)
    >>> bool(clf.score(X, y) > 0.95)
    True
    >>> suspects = np.argsort(clf.noise_scores_)[::-1][:50]
    >>> bool(flipped[suspects].mean() > 0.95)
    True
    """

    _parameter_constraints = PARAMETER_CONSTRAINTS

    def __init__(
        self,
        *,
        hidden_layer_sizes: Any = (256, 128),
        dropout: float = 0.3,
        module: Any = None,
        weighting: str | None = "evidence",
        meta_objective: Any = "clid",
        virtual_step: str = "head",
        temperature: float = 0.5,
        max_epochs: Any = "auto",
        warmup_epochs: Any = "auto",
        batch_size: int = 64,
        meta_batch_size: int | None = None,
        meta_interval: int = 1,
        lr: Any = "auto",
        meta_lr: Any = "auto",
        optimizer: str = "sgd",
        weight_decay: Any = "auto",
        ema_decay: float | None = 0.99,
        refit: bool = True,
        n_snapshots: int | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        class_weight: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.module = module
        self.weighting = weighting
        self.meta_objective = meta_objective
        self.virtual_step = virtual_step
        self.temperature = temperature
        self.max_epochs = max_epochs
        self.warmup_epochs = warmup_epochs
        self.batch_size = batch_size
        self.meta_batch_size = meta_batch_size
        self.meta_interval = meta_interval
        self.lr = lr
        self.meta_lr = meta_lr
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.ema_decay = ema_decay
        self.refit = refit
        self.n_snapshots = n_snapshots
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    @property
    def weight_net_(self) -> WeightingNet | None:
        """The trained weighting net; None with ``weighting=None``."""
        check_is_fitted(self, "net_")
        return getattr(self.net_, "weight_net_", None)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CLIDMUClassifier:
        """Train on rows whose labels may be wrong.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, finite numbers.
        y : array-like of shape (n_samples,)
            Given labels: numbers, strings or booleans, of at least two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative. Rows of weight zero are not trained on, but are scored.

        Returns
        -------
        self : CLIDMUClassifier

        Raises
        ------
        ValueError
            If the data or a parameter is unfit; the message names it.

        Warns
        -----
        ConvergenceWarning
            If the weighting collapsed and was switched off, or if training diverged.
        """
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        classes, encoded = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                "CLIDMUClassifier needs labels of at least two classes, got one class: "
                f"{classes[0]}."
            )
        weight = row_weights(X, y, sample_weight, self.class_weight)
        device = resolve_device(self.device)
        with local_generators(self.random_state, device) as seed:
            candidates = np.flatnonzero(weight)
            held_out = candidates[:0]
            if self.early_stopping:
                held_out = hold_out(encoded, candidates, self.validation_fraction, seed)
            data = prepare(
                X,
                encoded,
                weight,
                held_out=held_out,
                n_classes=len(classes),
                evidence=self.weighting == "evidence",
                batch_size=self.batch_size,
                dtype=self.dtype,
                device=device,
            )
            learned = learn(self, data)
        self.classes_ = classes
        self.device_ = str(device)
        self._report(learned)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, in the order of ``classes_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64

        Raises
        ------
        ValueError
            If rows are so large that the network's output overflows.
        """
        check_is_fitted(self, "net_")
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        outputs = self.net_.outputs(share_memory(X))
        parts = [logits.double().softmax(dim=1).cpu() for logits, _ in outputs]
        probabilities = torch.cat(parts).numpy()
        if not np.isfinite(probabilities).all():
            raise ValueError(
                "X has rows too large for the network, whose output overflows: scale the "
                "features, for example with sklearn.preprocessing.StandardScaler."
            )
        return probabilities

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted classifier to a file that holds numbers and text but no code.

        The file is a safetensors file: arrays, and parameters and attributes as JSON in its
        metadata. All constructor parameters and fitted attributes are kept but for ``module``,
        which is code.

        Parameters
        ----------
        path : str or path-like
            An existing file is overwritten.

        Raises
        ------
        ValueError
            If a parameter is neither a number nor text nor made of them, such as a callable
            ``meta_objective`` or a ``RandomState``; the message names it.
        ImportError
            If the package safetensors is missing.
        """
        save_model(self, path)

    @classmethod
    def load(cls: type[Self], path: str | PathLike[str], *, module: Callable | None = None) -> Self:
        """Read a classifier that :meth:`save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : str or path-like
        module : callable, optional
            The parameter ``module`` of the classifier that was saved, if it had one. It is called,
            and the result given the saved ``state_dict``.

        Returns
        -------
        CLIDMUClassifier
            Predicts what the saved one did, to the bit on the same machine and versions. On the
            device of the saved one if there is one here, else on the CPU.

        Raises
        ------
        ValueError
            If the file is damaged, was changed, or is of another kind; the message names it.
        OSError
            If there is no such file, or it cannot be read.
        ImportError
            If the package safetensors is missing.
        """
        return load_model(cls, path, module)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "net_" in state:
            state["net_"] = describe_net(state["net_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "net_" in state:
            state["net_"] = restore_net(state["net_"], state["device_"])
            state["device_"] = str(state["net_"].device)
        super().__setstate__(state)

    def _report(self, learned: Learned) -> None:
        """Set what the trainings have left behind, and warn of what went wrong."""
        net = learned.net
        self.sample_weights_ = learned.trust / learned.trust.mean()
        self.noise_scores_ = learned.suspicion
        epochs = [epoch for net in learned.nets for epoch in net.history]
        self.history_ = {
            name: np.array([epoch.get(name, np.nan) for epoch in epochs], dtype=float)
            for name in CURVES
            if name in epochs[0]
        }
        self.n_iter_ = len(net.history)
        self.collapse_epoch_ = net.collapse_epoch_
        if net.collapse_epoch_ is not None:
            warnings.warn(
                f"The weighting collapsed in epoch {net.collapse_epoch_}: training went on with "
                "equal weights. Raise warmup_epochs or lower meta_lr.",
                ConvergenceWarning,
                stacklevel=3,
            )
        if net.diverged_:
            warnings.warn(
                f"Training diverged in epoch {self.n_iter_} and was ended with the last sound "
                "network. Lower lr, or scale the features.",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.net_ = net
        self.net_.trim_for_prediction()
