"""CLIDMUClassifier: the estimator that users meet."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags, check_consistent_length
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_clidmu import label_issues
from sklearn_clidmu._persistence import describe_net, restore_net
from sklearn_clidmu._random import local_generators, resolve_device
from sklearn_clidmu._settings import PARAMETER_CONSTRAINTS, Settings, resolve
from sklearn_clidmu._torch_state import (
    check_deterministic,
    explained_memory_errors,
    fresh_torch,
)
from sklearn_clidmu._validation.arrays import check_numbers, join_row_names, plain_names, row_names
from sklearn_clidmu._validation.labels import (
    NO_LABEL,
    encode_known,
    encode_with_confirmed,
    is_null,
    known_classes,
    positions,
)
from sklearn_clidmu._validation.rows import (
    bounded,
    check_rows,
    dense_if_narrow,
    divided,
    row_weights,
    sparse_units,
)
from sklearn_clidmu.training.data import as_rows, hold_out, make_training_data, trained_rows
from sklearn_clidmu.training.doubt import UNTOLD, find_doubt
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.prior import Prior
from sklearn_clidmu.training.readings import (
    class_probabilities,
    join_curves,
    read_rows,
    training_curves,
)
from sklearn_clidmu.training.stages import Stage, run_stages, scaler_of

ROW_ATTRIBUTES = ("sample_weights_", "noise_scores_", "suggested_labels_", "_given", "_wrong")
"""Fitted attributes with one entry per row."""


class CLIDMUClassifier(ClassifierMixin, BaseEstimator):
    """Neural network classifier for data whose labels are partly wrong.

    While the network trains, a small weighting net learns how much each row's label counts. It is
    trained on an objective without labels: after a virtual training step, the network's last
    hidden features and its predictions should agree on which rows are alike (cross-layer
    information divergence, CLID).

    Features may have any scale and missing values (nan): the network scales them by median and
    quartiles, clips tails, weights each feature by its relevance to the labels, and has an
    indicator of each feature's missing values, of which those in up to 10,000 rows tell. Sparse
    tables of up to 256 columns are made dense. Wider ones may have no missing values, and their
    columns are divided by powers of two where these are too large or small, for each other or for
    a network, by more than a factor of 8. Arrays of other libraries, such as torch tensors, become
    NumPy arrays, and NumPy arrays are returned.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(256, 128)
        Widths of the hidden layers. Each is followed by layer normalization, ReLU and dropout. The
        logits also depend on the inputs and the earlier layers directly.
        Ignored with ``module``.
    dropout : float or "auto", default="auto"
        Fraction of hidden units dropped in training, in [0, 1). Dropout limits memorization of
        wrong labels. "auto" is 0.15 for up to 4,000 rows that are trained on, and 600 / n for n >
        4,000: with many rows there is less to fear from memorization, and dropout slows learning.
        In :meth:`partial_fit` it is 0.15. Ignored with ``module``.
    module : callable or None, default=None
        A ``torch.nn.Module`` class, or any callable, that builds the network when called as
        ``module(n_features, n_classes)``. Its output is the logits, of shape (n_samples,
        n_classes); the features are the input of the linear layer that returns them, or else of
        the last one called. It may also return the pair (logits, features). Rows of X may then have
        any shape; if they are not vectors, the first argument is that shape. None builds a
        multi-layer perceptron.
    weighting : {"evidence", "wnet", "vri"} or None, default="evidence"
        Input of the weighting net and effect of the weights.

        - "evidence": how probable the label is to be right, given predictions made without it; the
          row's loss, the ranks of its mean loss and of its influence on CLID, and the margin of
          other classes in a leave-one-out kernel regression. The weight scales the row's loss. The
          mean weight of each class equals its estimated label precision. This package's own; the
          most accurate on average.
        - "wnet": the row's loss; the weight scales the loss. The paper's WNet.
        - "vri": features and label; the weights scale the row's logits inside the loss. The
          paper's VRI.
        - None: trains the same network without weights, for comparison.
    meta_objective : {"clid", "mae"} or callable, default="clid"
        Objective that the weighting net minimizes.

        - "clid": cross-layer information divergence; uses no label.
        - "mae": mean absolute error to the given labels.
        - a callable ``(features, logits, targets, sample_weight) -> scalar tensor``. Features are
          constants: no gradient flows into them. The weights of a meta batch are scaled to sum to
          256, whatever its size.
    virtual_step : {"head", "full"}, default="head"
        Parameters that the virtual step moves. "head": the last layer, whose hypergradient has
        a closed form. "full": all of them, as in the paper; two to three times the time, and
        what a ``module`` gets whose output is not that of a linear layer.
    temperature : float, default=0.5
        Temperature of the feature graph, at least 1e-6. Lower values compare nearer rows only.
    max_epochs : int or "auto", default="auto"
        Number of epochs of a stage; "auto" is 24. The learning rate falls to zero along a cosine.
        An epoch of a small data set passes over it until eight steps have been taken.
    warmup_epochs : int or "auto", default="auto"
        Epochs of plain training before the first meta step. With too few, classes that were not
        learned yet are lost; with too many, wrong labels are memorized. "auto" is 0 with
        "evidence", where it is known beforehand which labels to trust; with "vri" as many epochs as
        give 80 steps, with "wnet" 200, at most a third of all epochs.
    batch_size : int or "auto", default="auto"
        Largest batch. "auto" is a sixteenth of the training set, from 64 to 256 rows. A training
        set that fits in one batch is always used whole, in float64, and there a row of integer
        sample weight s counts exactly as s identical rows, if all have a label and X is not sparse
        with more than 256 columns.
    meta_batch_size : int or None, default=None
        Rows on which the meta objective is measured at each meta step, drawn from the training
        set. None takes up to 64 rows of the training batch, whose features are already computed,
        and all of them where the training set is one batch; for batches of fewer than 32 rows,
        32 are drawn.
    lr : float or "auto", default="auto"
        Initial learning rate of SGD with Nesterov momentum 0.9; "auto" is 0.05 for batches of 64
        rows and grows with the batch, up to 0.2.
    meta_lr : float or "auto", default="auto"
        Learning rate of the weighting net's Adam. "auto" is 0.0003 for "evidence" and "wnet", and
        0.001 for "vri"; "wnet" and "vri" lose classes at higher rates. The published 1e-5 with
        plain gradient descent barely moves them. It is the rate for one batch: Adam gets it times
        the number of batches whose meta steps are joined. With "evidence" that is 512 //
        ``batch_size``, at least 1. It is 1 with the other weightings, and where a meta batch is
        drawn, with ``virtual_step="full"``, with a ``module`` and where all rows fit in one batch.
    weight_decay : float or "auto", default="auto"
        Weight decay of the network. The more labels are wrong, the higher it should be. "auto"
        chooses among 6, 30, 150, 750, 3,750 and 18,000, divided by the number of rows that are
        trained on, by the Brier score on a fifth of up to 5,000 rows, with noisy labels, after a
        third of the epochs on the others. It is at most ``1.2 / lr``, since more would make
        training unstable. In :meth:`partial_fit`, with ``early_stopping`` and where all rows fit in
        one batch, it is 0.0075.
    n_folds : int or None, default=5
        Folds in which, with "evidence" weighting, networks predict the labels of the rows they have
        not been trained on, before training. From that and the kernel regression follows how
        probable each label is to be right. None leaves the networks out, and takes about a third
        less time. Without effect where all rows fit in one batch and in :meth:`partial_fit`.
    early_stopping : bool, default=False
        Hold out ``validation_fraction`` of the rows, with their noisy labels, and stop when the
        accuracy on them has not risen for 5 epochs. The best epoch predicts.
    validation_fraction : float, default=0.1
        Fraction of the rows held out with ``early_stopping``, in (0, 1).
    class_weight : "balanced", dict or None, default=None
        Weights of the classes, as in scikit-learn. They multiply ``sample_weight``; "balanced"
        gives all classes the same sum of weights. The labels are judged with these weights, too: to
        look for wrong labels, rather leave them out.
    warm_start : bool, default=False
        Whether the first stage of ``fit`` continues with the network of the last fit instead of a
        new one. Stages on pseudo-labels start anew. Classes, features and ``hidden_layer_sizes``
        must be the same.
    missing_label : int, float, str or None, default=None
        Value in ``y`` that marks a row without a label: -1, a string, nan or pandas.NA (either
        means None and the other, too). None means that every row has a label.
    unlabeled : {"consistency", "ignore"}, default="consistency"
        Use of rows without a label.

        - "consistency": after training on the given labels, rows without one get a pseudo-label by
          label spreading from network and kernel regression. Then all rows are trained on, and the
          weighting net learns which labels to trust; this is done twice.
        - "ignore": none, as if they had not been passed.
    device : str or torch.device, default="auto"
        Torch device for training and prediction. "auto" is CUDA where available, else the CPU.
    random_state : int, RandomState instance or None, default=None
        Controls initialization, shuffling, meta batches, dropout and the hold-out. The global
        generators of NumPy and torch keep their state.
    verbose : int, default=0
        1 or more shows a progress bar on standard error for each part of the fit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where they were all strings.
    sample_weights_ : ndarray of shape (n_samples,)
        Learned confidence in the label of each row passed to ``fit``, >= 0 with mean 1, in the
        caller's order. All ones without weighting and after a collapse. Rows without a label have
        0, and the others mean 1. ``sample_weight`` and ``class_weight`` are not among them:
        multiply them by your own to fit another model. Those of rows with a confirmed label belong
        to that label: fit the other model to the corrected labels.
    noise_scores_ : ndarray of shape (n_samples,)
        Score of the label of each row passed to ``fit``, in [0, 1]; higher means more likely wrong,
        so ``1 - noise_scores_`` is a label quality. With "evidence" weighting it is one minus the
        learned confidence. Otherwise, and after a collapse, it is one minus the geometric mean,
        over the epochs, of the probability of the given label; the network was trained on these
        labels and may have memorized some. :func:`~sklearn_clidmu.cross_val_noise_scores` gives
        scores of networks that were not. The method :meth:`noise_scores` has another scale: do not
        compare both with one threshold. nan for rows without a label.
    suggested_labels_ : ndarray of shape (n_samples,)
        Most probable class of each row passed to ``fit``, of the dtype of ``classes_``.
    noise_rate_ : float
        Estimated share of wrong labels among those passed to ``fit``. A label counts as wrong if it
        is not the suggested one and, with "evidence" weighting, if it is among the highest noise
        scores of its class, at most as many as ``noise_estimate_`` gives. Without that bound the
        other weightings count more right labels as wrong where classes overlap.
    transition_matrix_ : ndarray of shape (n_classes, n_classes)
        Estimated probability of the given label (column) in a true class (row), in the order of
        ``classes_``: rows add up to one. It counts the same labels as ``noise_rate_`` as wrong, and
        the suggested ones as right. cleanlab's ``noise_matrix`` is its transpose.
    noise_estimate_ : dict or None
        Estimate of the noise before training, from predictions made without each row's label, with
        "evidence" weighting: "noise_rate" (float), "transition_matrix" (like
        ``transition_matrix_``) and "label_precision" (ndarray of shape (n_classes,), the share of
        right labels among those given to each class). None with other weightings. Where labels were
        confirmed, the matrix is that of the labels as given, and the others count confirmed labels
        as right. It is of the weighted rows: with ``class_weight``, rather read
        ``transition_matrix_``, which counts rows.
    stages_ : list of dict
        The trainings of the fit in their order: "weighting" (str or None), "n_rows" and "n_epochs"
        (int), "outcome" ("finished", "collapsed" or "diverged") and "predicts" (bool).
    net_ : ReweightedNet
        The trained skorch net, ready to predict; ``net_.module_`` is the torch module.
    weight_net_ : torch.nn.Module or None
        The trained weighting net.
    device_ : str
        Device of training and prediction. A pickled model is loaded to it if there is one, else to
        the CPU.
    n_iter_ : int
        Number of epochs of the stage that predicts; after ``partial_fit``, of all calls.
    weight_decay_ : float
        Weight decay of the stage that predicts.
    dropout_ : float
        Dropout of the stage that predicts; without effect with a ``module``.
    history_ : dict of ndarray of shape (n_epochs,)
        Curves over the epochs of all stages: "train_loss", "meta_loss" (nan where it was
        not measured), "clid" (CLID - log n on up to 500 fixed training rows), "disagreement" (share
        of these rows whose given label is not the predicted one) and, with ``early_stopping``,
        "valid_loss" and "valid_score"; "stage" (number of the stage, from 1) and "chosen" (whether
        the epoch's network predicts).
    collapse_epoch_ : int or None
        Epoch of the stage that predicts, from 1, at which the weighting collapsed: after it,
        training continued from the epoch before with equal weights. None if it did not.

    See Also
    --------
    sklearn.neural_network.MLPClassifier : A network that trusts every label.

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
        dropout: Any = "auto",
        module: Any = None,
        weighting: str | None = "evidence",
        meta_objective: Any = "clid",
        virtual_step: str = "head",
        temperature: float = 0.5,
        max_epochs: Any = "auto",
        warmup_epochs: Any = "auto",
        batch_size: Any = "auto",
        meta_batch_size: int | None = None,
        lr: Any = "auto",
        meta_lr: Any = "auto",
        weight_decay: Any = "auto",
        n_folds: int | None = 5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: Any = None,
        warm_start: bool = False,
        missing_label: Any = None,
        unlabeled: str = "consistency",
        device: Any = "auto",
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
        self.lr = lr
        self.meta_lr = meta_lr
        self.weight_decay = weight_decay
        self.n_folds = n_folds
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.missing_label = missing_label
        self.unlabeled = unlabeled
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, confirmed: Any = None
    ) -> CLIDMUClassifier:
        """Train on rows whose labels may be wrong.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Training rows: finite numbers, or nan where a value is missing. Of shape (n_samples,
            ...) and without nan with a ``module``; without nan if sparse, of over 256 columns.
        y : array-like of shape (n_samples,)
            Given labels: numbers, strings or booleans, of at least two classes, and
            ``missing_label`` where there is none.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative. Rows of weight zero are not trained on, but are scored.
        confirmed : array-like of shape (n_samples,), default=None
            Labels that are known to be right, for example since a person has looked at them, and
            None or nan elsewhere; see :func:`~sklearn_clidmu.apply_review`. Training and the fitted
            attributes take them instead of those in y, with full confidence, so that they are no
            label issues. Their classes need not occur in y. Pass y as it was given, not corrected:
            the noise is estimated from it, and would be underestimated without the labels that were
            the surest to be wrong.

        Returns
        -------
        CLIDMUClassifier
            The classifier itself, fitted.

        Raises
        ------
        TypeError
            If y mixes text and numbers, or if ``module`` builds no network. The estimator keeps
            its former state, as after the other errors.
        ValueError
            If the data or a parameter is invalid; the message names it.
        MemoryError
            If the device has too little memory.

        Warns
        -----
        ConvergenceWarning
            If the weighting collapsed and was switched off, if training diverged, or if the
            classifier knows no more than the class frequencies, with the likely cause.
        """
        with fresh_torch(), config_context(transform_output="default"), unchanged_on_error(self):
            self._validate_params()
            if y is None:
                raise ValueError(
                    "CLIDMUClassifier requires y to be passed, but the target y is None: rows "
                    "without a label are marked by missing_label."
                )
            start = getattr(self, "net_", None) if self.warm_start else None
            self._row_names, self._level_names = row_names(y, X)
            X = self._check_rows(X, reset=start is None)
            classes, codes, known = encode_with_confirmed(y, confirmed, self.missing_label)
            if start is not None and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"y has the classes {classes}, and warm_start=True continues a network for "
                    f"{self.classes_}: fit with warm_start=False."
                )
            check_consistent_length(X, codes)
            codes = np.where(codes == NO_LABEL, known, codes)
            trained = np.where(known == NO_LABEL, codes, known)
            weight = row_weights(classes, trained, sample_weight, self.class_weight, self.unlabeled)
            weighed = np.unique(trained[(trained != NO_LABEL) & (weight > 0)])
            if len(weighed) < 2:
                raise ValueError(
                    "the rows of positive weight, with their confirmed labels, must have at least "
                    f"two classes, got one class: {classes[weighed[0]]}."
                )
            self._train(X, codes, weight, classes, start, known)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> CLIDMUClassifier:
        """Train for one epoch on more rows, for data that come in parts.

        The first call starts a new network, and later calls continue it. Unlike in ``fit``, the
        learning rate is constant, there is one stage, and rows without a label are not used. The
        kernel regression compares the rows of one part, and a part of few rows is passed over until
        eight steps have been taken, so a part should have some hundreds of rows at least: join a
        short last part to the one before. A feature of a table that is dense or has at most 256
        columns is scaled as in the first part in which it varies.

        The rows of every call are appended to ``sample_weights_``, ``noise_scores_`` and
        ``suggested_labels_``, as they were scored then; ``noise_rate_``, ``transition_matrix_`` and
        the report count all of them. ``noise_estimate_`` is that of the last call. To score rows by
        the network of later calls, use :meth:`noise_scores`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows, as in ``fit``.
        y : array-like of shape (n_samples,)
            Given labels, all among the classes, and ``missing_label`` where there is none.
        classes : array-like of shape (n_classes,), default=None
            All classes that ever occur. Needed in the first call; may be left out afterwards.
        sample_weight : array-like of shape (n_samples,), default=None
            As in ``fit``; scaled to mean 1 in each call.

        Returns
        -------
        CLIDMUClassifier
            The classifier itself, fitted.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid, or with ``early_stopping`` or
            ``class_weight="balanced"``, which need all rows at once.

        Warns
        -----
        ConvergenceWarning
            If training diverged, or the weighting collapsed; the epoch is undone.
        """
        with fresh_torch(), config_context(transform_output="default"), unchanged_on_error(self):
            self._validate_params()
            for name, value in (("early_stopping", True), ("class_weight", "balanced")):
                if getattr(self, name) == value:
                    raise ValueError(
                        f"partial_fit does not support {name}={value!r}, which needs all rows at "
                        "once: use fit, or change it."
                    )
            earlier = dict(vars(self)) if hasattr(self, "net_") else {}
            known = known_classes(classes, earlier.get("classes_"), self.missing_label)
            self._row_names, self._level_names = row_names(y, X)
            X = self._check_rows(X, reset=not earlier)
            codes = encode_known(y, known, self.missing_label)
            check_consistent_length(X, codes)
            weight = row_weights(known, codes, sample_weight, self.class_weight, "ignore")
            n_epochs, start = earlier.get("n_iter_", 0), earlier.get("net_")
            self._train(X, codes, weight, known, start, n_epochs_before=n_epochs)
            if earlier:
                self._append_to(earlier)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows, in the features of ``fit``.

        Returns
        -------
        ndarray of shape (n_samples,)
            Entries of ``classes_``.
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, in the order of ``classes_``.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows, in the features of ``fit``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Rows add up to one.

        Raises
        ------
        ValueError
            If the network's output is not finite, as for very large rows.
        MemoryError
            If the device has too little memory.
        """
        check_is_fitted(self, "net_")
        X = self._check_rows(X, reset=False)
        network = self.net_.evaluated_module
        with fresh_torch(), explained_memory_errors():
            outputs = self.net_.outputs(as_rows(X))
            parts = [class_probabilities(logits, network).cpu() for logits, _ in outputs]
        return torch.cat(parts).numpy()

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows, in the features of ``fit``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            At most 0; ``-inf`` where a probability is 0.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def noise_scores(self, X: Any, y: Any) -> np.ndarray:
        """Score labels of rows that were not passed to ``fit``.

        A score is one minus the predicted probability of the given label. That is another scale
        than that of ``noise_scores_``: do not compare both with one threshold.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows, in the features of ``fit``.
        y : array-like of shape (n_samples,)
            Given labels, all of them among ``classes_``, and ``missing_label`` where there is none.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In [0, 1]; higher means more likely wrong. nan for rows without a label.

        Raises
        ------
        ValueError
            If y has a label that is not among ``classes_``.
        """
        probabilities = self.predict_proba(X)
        codes = encode_known(y, self.classes_, self.missing_label)
        check_consistent_length(probabilities, codes)
        scores = 1 - np.take_along_axis(probabilities, codes[:, None], axis=1)[:, 0]
        return np.where(codes == NO_LABEL, np.nan, scores.clip(0, 1))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on the rows that have a label.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows, in the features of ``fit``.
        y : array-like of shape (n_samples,)
            Labels in any form that ``fit`` accepts. Labels that are not among ``classes_`` count as
            predicted wrongly.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Share of rows whose label is the predicted class.
        """
        predicted = positions(self.predict(X), self.classes_)
        codes = encode_known(y, self.classes_, self.missing_label, scored=True)
        check_consistent_length(predicted, codes, sample_weight)
        labeled = codes != NO_LABEL
        if sample_weight is not None:
            sample_weight = bounded(check_numbers(sample_weight, "sample_weight")[labeled])
        return accuracy_score(codes[labeled], predicted[labeled], sample_weight=sample_weight)

    def noise_report(self) -> str:
        """Report in plain language which labels passed to ``fit`` look wrong.

        It says how many labels are estimated to be wrong, of which classes, what they should be,
        and which rows to look at first.

        Returns
        -------
        str
            Under 25 lines, to print.
        """
        check_is_fitted(self, "net_")
        [stage] = [stage for stage in self.stages_ if stage["predicts"]]
        unseen = stage["weighting"] == "evidence" and stage["outcome"] == "finished"
        return label_issues.noise_report(
            self._joint, self.classes_, self.noise_scores_, self._doubt, unseen
        )

    @property
    def weight_net_(self) -> nn.Module | None:
        """The trained weighting net; None with ``weighting=None``."""
        check_is_fitted(self, "net_")
        return getattr(self.net_, "weight_net_", None)

    def _check_rows(self, X: Any, *, reset: bool) -> Any:
        own = self.module is None
        allow_nan = own if reset else scaler_of(self.net_) is not None
        X = check_rows(self, X, reset=reset, allow_nd=not own, allow_nan=allow_nan)
        if reset:
            self._row_shape, self._units = X.shape[1:], 1.0
        elif X.shape[1:] != self._row_shape:
            raise ValueError(f"X has rows of shape {X.shape[1:]}, and in fit {self._row_shape}.")
        return divided(X, self._units)

    def _train(
        self,
        X: Any,
        codes: np.ndarray,
        weight: np.ndarray,
        classes: np.ndarray,
        start: ReweightedNet | None,
        confirmed: np.ndarray | None = None,
        n_epochs_before: int | None = None,
    ) -> None:
        """Train on checked rows and set all fitted attributes; the last is for partial_fit."""
        device = resolve_device(self.device)
        check_deterministic(device)
        X = dense_if_narrow(X)  # so that columns are scaled one by one
        if start is None:
            self._units = sparse_units(X, weight)
            X = divided(X, self._units)
        with local_generators(self.random_state, device, n_epochs_before or 0) as seed:
            held_out = np.empty(0, dtype=np.int64)
            if self.early_stopping:
                candidates = np.flatnonzero(trained_rows(codes, weight, held_out))
                held_out = hold_out(codes, candidates, self.validation_fraction, seed)
            settings = resolve(
                # Not those of get_params: a subclass may have others.
                {name: getattr(self, name) for name in PARAMETER_CONSTRAINTS},
                n_labeled=int(trained_rows(codes, weight, held_out).sum()),
                n_unlabeled=int(((weight > 0) & (codes < 0)).sum()),
                n_epochs_before=n_epochs_before,
                n_steps_before=0 if start is None else start.n_steps_,
            )
            with explained_memory_errors():
                data = make_training_data(
                    *(X, codes, weight, held_out, len(classes), settings.dtype, device, confirmed),
                    one_batch=settings.one_batch,
                )
                stages, predicting, prior = run_stages(settings, data, start)
                self._set_fitted(settings, stages, predicting, prior, codes, classes)

    def _set_fitted(
        self,
        settings: Settings,
        stages: list[Stage],
        predicting: int,
        prior: Prior | None,
        codes: np.ndarray,
        classes: np.ndarray,
    ) -> None:
        """Set all fitted attributes."""
        stage = stages[predicting]
        self.net_, self.classes_, self.device_ = stage.net, classes, str(stage.net.device)
        predicted = self._set_rows(stage, prior, codes)
        self.history_ = training_curves(stages, predicting)
        self.n_iter_ = len(stage.net.history)
        self.weight_decay_ = float(stage.net.optimizer__weight_decay)
        self.dropout_ = float(stage.net.module.keywords["dropout"])
        self.collapse_epoch_ = stage.net.collapse_epoch_
        self.stages_ = [
            {
                "weighting": settings.weighting,
                "n_rows": len(one.data.training),
                "n_epochs": len(one.net.history),
                "outcome": one.outcome,
                "predicts": one is stage,
            }
            for one in stages
        ]
        doubt = find_doubt(stage, prior, predicted)
        if doubt is UNTOLD and not settings.is_part:
            doubt = None
        self._doubt = None if doubt is None else doubt.cause
        # No warning of a part: others may teach what it has not.
        self._warn(doubt is not None and doubt.warned and not settings.is_part)
        stage.net.trim_for_prediction()

    def _set_rows(self, stage: Stage, prior: Prior | None, codes: np.ndarray) -> np.ndarray:
        """Set what is known of every row and of the noise; return the predicted classes."""
        classes, labeled, confirmed = self.classes_, codes >= 0, stage.data.confirmed.cpu().numpy()
        confidence, predicted, scores = (part.double().cpu().numpy() for part in read_rows(stage))
        predicted = predicted.astype(np.int64)
        self._given = codes.astype(np.int32)
        known = confirmed != NO_LABEL
        codes, suggested = (np.where(known, confirmed, one) for one in (codes, predicted))
        confidence, scores = np.where(known, 1, confidence), np.where(known, 0, scores)
        confidence = np.where(labeled, confidence, 0)
        self.sample_weights_ = confidence / confidence[labeled].mean()
        self.noise_scores_ = np.where(labeled, scores, np.nan)
        self.suggested_labels_ = classes[suggested]
        self.noise_estimate_, precision = None, None
        if prior is not None:
            matrix, rate, precision = (part.double().cpu().numpy() for part in prior.noise)
            self.noise_estimate_ = {
                "noise_rate": float(rate),
                "transition_matrix": matrix,
                "label_precision": precision,
            }
        self._wrong = label_issues.find_wrong(scores, codes, suggested, precision)
        self._count(label_issues.count_joint(self._wrong, codes, suggested, len(classes)))
        return predicted

    def _append_to(self, earlier: dict[str, Any]) -> None:
        """Append what is known of rows and epochs to what was known of ``earlier`` ones."""
        names = earlier["_row_names"], self._row_names
        self._row_names = join_row_names(names, (len(earlier["_given"]), len(self._given)))
        if self._level_names != earlier["_level_names"]:
            self._level_names = None
        for name in ROW_ATTRIBUTES:
            setattr(self, name, np.concatenate([earlier[name], getattr(self, name)]))
        self._count(earlier["_joint"] + self._joint)
        doubts = earlier["_doubt"], self._doubt
        told = [one for one in doubts if one != UNTOLD.cause] or [UNTOLD.cause]
        self._doubt = None if None in told else told[0]
        self.history_ = join_curves(earlier["history_"], self.history_)
        self.n_iter_ += earlier["n_iter_"]
        self.stages_ = [{**s, "predicts": False} for s in earlier["stages_"]] + self.stages_

    def _count(self, joint: np.ndarray) -> None:
        """Set rate and transition matrix from counts by true class (row) and given label."""
        self._joint = joint
        self.noise_rate_ = float(1 - joint.trace() / joint.sum())
        self.transition_matrix_ = label_issues.transition_matrix(joint)

    def _warn(self, doubtful: bool) -> None:
        """Warn of training that failed, in the line that called ``fit``."""
        messages = []
        if self.collapse_epoch_ is not None:
            messages.append(
                f"The weighting collapsed in epoch {self.collapse_epoch_}: training continued with "
                "equal weights. Lower meta_lr or lr, or raise warmup_epochs."
            )
        if self.net_.diverged_:
            messages.append(
                f"Training diverged in epoch {self.n_iter_} and ended with the last finite "
                f"network. Lower lr{'' if self.module is None else ', or scale the features'}."
            )
        if doubtful and not messages:
            messages.append(
                f"The classifier knows no more than the class frequencies: {self._doubt}."
            )
        for message in messages:
            warnings.warn(message, ConvergenceWarning, stacklevel=5)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.module is None
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "net_" in state:
            state["net_"] = describe_net(state["net_"])
        state["device"] = str(state["device"])  # without torch's own types
        if state["missing_label"] is not None and is_null(state["missing_label"]):
            state["missing_label"] = np.nan  # nor those of pandas
        if state.get("_row_names") is not None:
            state["_row_names"] = plain_names(state["_row_names"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "net_" in state:
            with fresh_torch():
                state["net_"] = restore_net(state["net_"], state["device_"])
            state["device_"] = str(state["net_"].device)
        super().__setstate__(state)


@contextmanager
def unchanged_on_error(estimator: BaseEstimator) -> Iterator[None]:
    """Restore the attributes of an estimator if the block raises, on Ctrl-C too."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
