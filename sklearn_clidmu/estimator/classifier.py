"""CLIDMUClassifier: the estimator that users meet."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from sklearn_clidmu.estimator.checkpoints import open_checkpoints
from sklearn_clidmu.estimator.constraints import PARAMETER_CONSTRAINTS
from sklearn_clidmu.estimator.describing import describe_net, restore_net
from sklearn_clidmu.estimator.fit_tasks import CallbackSupportMixin, following, with_callbacks
from sklearn_clidmu.estimator.interrupts import FitInterrupted, all_or_nothing
from sklearn_clidmu.estimator.label_report import LabelReportMixin
from sklearn_clidmu.estimator.labels import encode_labels, encode_more, known_classes
from sklearn_clidmu.estimator.learning import (
    Learned,
    count_trainings,
    learn,
    learn_more,
    training_curves,
)
from sklearn_clidmu.estimator.memory import explained
from sklearn_clidmu.estimator.preparation import (
    Prepared,
    hold_out,
    local_generators,
    prepare,
    resolve_device,
    row_weights,
)
from sklearn_clidmu.estimator.rows import as_rows, check_rows, divided, sparse_unit, stack_rows
from sklearn_clidmu.estimator.saving import load_model, save_model
from sklearn_clidmu.estimator.scoring import class_probabilities
from sklearn_clidmu.estimator.warning import warn
from sklearn_clidmu.mathematics.weighting import WeightingNet
from sklearn_clidmu.training.progress import progress

Self = TypeVar("Self", bound="CLIDMUClassifier")


class CLIDMUClassifier(LabelReportMixin, CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Neural network classifier for data whose labels are partly wrong.

    While the network trains, a second, small network learns how much to trust each row's
    label. What it is taught by needs no clean label: after a virtual training step, the
    network's last hidden features and its predictions should tell the same story about which
    rows are alike (cross-layer information divergence, CLID).

    Features should be on comparable scales: put a ``StandardScaler`` in front. Sparse tables, which
    that would make dense, are divided by a power of two that brings their root mean square near 1,
    if it is off by more than a factor of 8. Arrays of other libraries, such as torch tensors on any
    device, are read into NumPy's memory and NumPy arrays come back, whatever scikit-learn's
    ``array_api_dispatch`` says; where is trained is for ``device`` alone to say.

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
        pair (logits, features). Rows of X may then be of any shape; where they are more than
        vectors, the first argument is that shape. None builds a multi-layer perceptron.

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
        Temperature of the feature graph, at least 1e-6. Lower looks at nearer rows only.

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
        already: as accurate, and nearly free. Of a batch of more than 64 rows, 64 are taken,
        since the cost of CLID grows with their square, and more find nothing more; batches of
        under 32 rows are too few for it, and 32 are drawn.

    meta_interval : int, default=1
        A meta step is taken on every ``meta_interval``-th batch. More is faster, and less
        accurate.

    lr : float or "auto", default="auto"
        Learning rate of the network at the start: 0.05 for "sgd", 0.002 for "adamw".

    meta_lr : float or "auto", default="auto"
        Learning rate of the second network's Adam: 0.003 for "evidence", 0.001 for "vri", 0.0003
        for "wnet"; the latter two lose classes when they learn faster. The published 1e-5 with
        plain gradient descent barely moves them. Where the second network learns from several
        batches in one step, the step is as many times as long.

    optimizer : {"sgd", "adamw"}, default="sgd"
        Optimizer of the network; "sgd" with Nesterov momentum 0.9.

    weight_decay : float or "auto", default="auto"
        Weight decay of the network. "auto" is 0.002 times the square root of the number of
        features: strong, since wrong labels are learned through large weights, and the stronger
        the more features there are to learn them by. On fewer than 4,000 rows it is multiplied by
        4,000 / n_rows, by 20 at most, since fewer rows speak against a wrong label; but not for a
        ``module``, in :meth:`partial_fit`, or where all rows fit in one batch.

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

    warm_start : bool, default=False
        Whether ``fit`` goes on with the networks of the last one, in one training, instead of
        beginning with new ones. Classes, features and ``hidden_layer_sizes`` must be the same.

    missing_label : int, float, str or None, default=None
        What stands in ``y`` in the place of a label that is not known: -1, a string, nan or
        pandas.NA (either means None and the other, too). None says that every row has a label.

    unlabeled : {"consistency", "meta", "ignore"}, default="consistency"
        What rows without a label are used for.

        - "consistency": after a training on the labels that there are, rows without one get the
          class that network, kernel regression and neighbouring rows agree on. Then all rows are
          trained on, and the second network learns which labels to trust, those that were
          given and those that were filled in; all this twice. The most accurate, unless a class
          has hardly more than a few labels and many of those are wrong.
        - "meta": they are among the rows that CLID is measured on, and nothing else.
        - "ignore": nothing, as if they had not been passed.

    device : str, default="auto"
        Torch device to train and predict on. "auto" is CUDA where there is one, else the CPU.

    dtype : {"auto", "float32", "float64"}, default="auto"
        Floating-point type of the networks. "auto" is float32, and float64 for a training set
        that fits in one batch, where it costs nothing.

    random_state : int, RandomState instance or None, default=None
        Drives initialisation, shuffling, meta batches, dropout and the hold-out. The global
        generators of NumPy and torch are left as they were, whatever it is.

    checkpoint_dir : str, path-like or None, default=None
        Directory that ``fit`` writes its state to after every epoch. A fit that was killed or
        interrupted goes on from there when it is started again with the same parameters and data,
        and ends as if nothing had happened: on the CPU in one thread with the same
        predictions to the bit. At its end the files are deleted. Other fits may use the same
        directory. The files hold numbers and text but no code. Not used by ``partial_fit``.

    on_interrupt : {"raise", "keep"}, default="raise"
        What Ctrl-C in the midst of ``fit`` leaves behind; KeyboardInterrupt reaches the caller in
        either case.

        - "raise": the estimator as it was before, and at once.
        - "keep": the estimator fitted with the last training that came to its end or, in the
          first, with its last whole epoch; a ConvergenceWarning and ``interrupted_`` say so. It
          takes the time of a final pass over the rows. In the first epoch there is nothing to keep.

    verbose : int, default=0
        1 shows a progress bar on standard error; from 2 on a line an epoch is printed instead,
        to standard output. With scikit-learn 1.9 or later its own callbacks can be set as well
        (``set_callbacks``): a fit is made of trainings, and those of epochs.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.

    n_features_in_ : int
        Number of features seen in ``fit``.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where they were all strings.

    sample_weights_ : ndarray of shape (n_samples,)
        Learned trust in the label of each row passed to ``fit``, >= 0 with mean 1, in the
        caller's order. All ones without weighting and after a collapse. Rows without a label have
        0, and the others mean 1.

    noise_scores_ : ndarray of shape (n_samples,)
        In-sample score of the label of each row passed to ``fit``, in [0, 1]; higher means more
        likely wrong. In-sample: by networks that trained on these labels, and may have memorised
        some; :func:`~sklearn_clidmu.cross_val_noise_scores` gives out-of-fold scores. It is one
        minus the geometric mean, over the epochs of the training that made ``net_``, of the
        probability of the given label, so ``1 - noise_scores_`` reads as a label quality. Rows
        of zero weight and held-out rows are scored by networks that did not train on them. nan
        for rows without a label.

    suggested_labels_ : ndarray of shape (n_samples,)
        Most probable class of each row passed to ``fit``, of the dtype of ``classes_``.

    noise_rate_ : float
        Estimated share of wrong labels among those passed to ``fit``. A label counts as wrong
        if it is not the suggested one and, with "evidence" weighting, if it is among the most
        suspect of its class, about as many as are wrong by what all other rows say. The other
        weightings have no such bound, and count more right labels as wrong where classes overlap.

    noise_matrix_ : ndarray of shape (n_classes, n_classes)
        Estimated probability of the given label (row) in a true class (column), in the order of
        ``classes_``: columns add up to one. The same labels as for ``noise_rate_`` are taken to be
        wrong, and the suggested ones to be right.

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
        to 500 fixed training rows), "dissent" (share of them whose given label is not the one
        predicted) and, with ``early_stopping``, "valid_loss" and "valid_score"; "training" (number
        of the training, counted from 1) and "chosen" (whether the epoch's network is one of
        those that predict; none is after a divergence).

    interrupted_ : bool
        Whether Ctrl-C cut the fit short, with ``on_interrupt="keep"``.

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

    # Many parameters, but flat, as searches want them; hardly any needs to be set.
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
        warm_start: bool = False,
        missing_label: Any = None,
        unlabeled: str = "consistency",
        device: str = "auto",
        dtype: str = "auto",
        random_state: Any = None,
        checkpoint_dir: str | PathLike[str] | None = None,
        on_interrupt: str = "raise",
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
        self.warm_start = warm_start
        self.missing_label = missing_label
        self.unlabeled = unlabeled
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.checkpoint_dir = checkpoint_dir
        self.on_interrupt = on_interrupt
        self.verbose = verbose

    @property
    def weight_net_(self) -> WeightingNet | None:
        """The trained weighting net; None with ``weighting=None``."""
        check_is_fitted(self, "net_")
        return getattr(self.net_, "weight_net_", None)

    @all_or_nothing
    @with_callbacks
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, X_unlabeled: Any = None
    ) -> CLIDMUClassifier:
        """Train on rows whose labels may be wrong.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Training rows, finite numbers. Of shape (n_samples, ...) with a ``module``.
        y : array-like of shape (n_samples,)
            Given labels: numbers, strings or booleans, of at least two classes, and
            ``missing_label`` where there is none.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative. Rows of weight zero are not trained on, but are scored.
        X_unlabeled : array-like of shape (n_unlabeled, n_features), default=None
            More rows without a label, each of the mean weight of X's rows. Unlike those in X they
            have no place in the attributes. To pass it through a meta-estimator, ask for it with
            ``set_fit_request(X_unlabeled=True)``; a pipeline does not transform it by itself, and
            cross-validation cuts it to the fold if it has exactly as many rows as X.

        Returns
        -------
        CLIDMUClassifier
            The classifier itself, fitted.

        Raises
        ------
        ValueError
            If the data or a parameter is unfit; the message names it. The estimator is left as it
            was before.
        MemoryError
            If the device has too little memory even with halved batches.
        KeyboardInterrupt
            On Ctrl-C; what is left behind says ``on_interrupt``.

        Warns
        -----
        ConvergenceWarning
            If the weighting collapsed and was switched off, if training diverged, or if it was cut
            short by Ctrl-C.
        RuntimeWarning
            If the device ran out of memory and batches were halved.
        """
        self._validate_params()
        given = X, y, sample_weight
        if y is None:
            raise ValueError(
                "CLIDMUClassifier requires y to be passed, but the target y is None: rows without "
                "a label are marked by missing_label."
            )
        start = getattr(self, "net_", None) if self.warm_start else None
        X = self._check_rows(X, reset=start is None)
        classes, codes = encode_labels(y, self.missing_label)
        if start is not None and not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"y has the classes {classes}, and warm_start=True goes on with a network for "
                f"{self.classes_}: fit with warm_start=False."
            )
        check_consistent_length(X, codes)
        weight = row_weights(classes, codes, sample_weight, self.class_weight, self.unlabeled)
        if start is None:
            X = self._choose_unit(X, weight)
        n_samples = len(codes)
        if X_unlabeled is not None:
            try:
                X_unlabeled = self._check_rows(X_unlabeled, reset=False)
            except (ValueError, TypeError) as error:  # in words that speak of X
                raise type(error)(f"X_unlabeled is unfit: {error}") from error
            X = stack_rows(X, X_unlabeled)
            codes = np.pad(codes, (0, X_unlabeled.shape[0]), constant_values=-1)
            mean = float(self.unlabeled != "ignore")
            weight = np.pad(weight, (0, X_unlabeled.shape[0]), constant_values=mean)
        device = resolve_device(self.device)
        checkpoints = open_checkpoints(self, X, codes, weight, classes, start=start)
        random_state = self.random_state
        if checkpoints is not None:
            random_state = checkpoints.fix_seed(random_state)
        with local_generators(random_state, device) as seed:
            held_out = np.empty(0, dtype=np.int64)
            if self.early_stopping:
                candidates = np.flatnonzero((codes >= 0) & (weight > 0))
                held_out = hold_out(codes, candidates, self.validation_fraction, seed)
            data = self._prepare(X, codes, weight, held_out, classes, device)
            n_trainings = count_trainings(self, data, start)
            with following(self, n_trainings, classes, *given) as watchers:
                data = data._replace(watchers=watchers, checkpoints=checkpoints)
                learned = learn(self, data, start)
                self._take(learned.of_first(n_samples), codes[:n_samples], classes, data)
        if self.interrupted_:
            raise FitInterrupted
        if checkpoints is not None:
            checkpoints.delete()
        return self

    @all_or_nothing
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> CLIDMUClassifier:
        """Train for one epoch on more rows, for data that come in parts.

        Begins where no fit came before, and else goes on with its networks. Unlike in ``fit``, the
        learning rate does not fall, nothing is trained twice, and rows without a label are not
        used. The labels of each part are judged by its other rows, so a part should have
        some hundreds of rows at least.

        The rows of every call are added at the end of ``sample_weights_``, ``noise_scores_`` and
        ``suggested_labels_``, where they keep their place as they were judged then;
        ``noise_rate_``, ``noise_matrix_`` and the report count all of them. To judge rows by the
        network of later calls, use :meth:`noise_scores`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows, as in ``fit``.
        y : array-like of shape (n_samples,)
            Given labels, all among the classes, and ``missing_label`` where there is none.
        classes : array-like of shape (n_classes,), default=None
            All classes that ever come. Needed in the first call; may be left out afterwards.
        sample_weight : array-like of shape (n_samples,), default=None
            As in ``fit``; of mean 1 in each call.

        Returns
        -------
        CLIDMUClassifier
            The classifier itself, fitted.

        Raises
        ------
        ValueError
            If the data or a parameter is unfit, or with ``early_stopping`` or
            ``class_weight="balanced"``, which need all rows at once.

        Warns
        -----
        ConvergenceWarning
            If training diverged; the epoch is forgotten.
        """
        self._validate_params()
        for name, unfit in (("early_stopping", True), ("class_weight", "balanced")):
            if getattr(self, name) == unfit:
                raise ValueError(
                    f"partial_fit has not all rows at once: {name}={unfit!r} is unfit."
                )
        earlier = dict(vars(self)) if hasattr(self, "net_") else {}
        known = known_classes(classes, earlier.get("classes_"))
        X = self._check_rows(X, reset=not earlier)
        codes = encode_more(y, known, self.missing_label)
        check_consistent_length(X, codes)
        weight = row_weights(known, codes, sample_weight, self.class_weight, "ignore")
        if not earlier:
            X = self._choose_unit(X, weight)
        device = resolve_device(self.device)
        n_earlier = earlier.get("n_iter_", 0)
        with local_generators(self.random_state, device, n_earlier):
            data = self._prepare(X, codes, weight, np.zeros(0, dtype=int), known, device)
            with progress(self.verbose, 1) as watchers:
                data = data._replace(watchers=watchers)
                learned = learn_more(self, data, earlier.get("net_"), n_earlier)
        self._take(learned, codes, known, data)
        if earlier:
            self._put_behind(earlier)
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
            If the network's output is not finite, as that for very large rows.
        MemoryError
            If the device has too little memory for a single row; batches are halved before.
        """
        check_is_fitted(self, "net_")
        X = self._check_rows(X, reset=False)
        network = self.net_.evaluated_module
        with explained():
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

    def _prepare(
        self,
        X: Any,
        codes: np.ndarray,
        weight: np.ndarray,
        held_out: np.ndarray,
        classes: np.ndarray,
        device: torch.device,
    ) -> Prepared:
        with explained():
            return prepare(
                X,
                codes,
                weight,
                held_out=held_out,
                n_classes=len(classes),
                evidence=self.weighting == "evidence",
                batch_size=self.batch_size,
                dtype=self.dtype,
                device=device,
            )

    def _choose_unit(self, X: Any, weight: np.ndarray) -> Any:
        """Choose the unit of sparse rows; return the rows in it."""
        self._unit = sparse_unit(X, weight)
        return divided(X, self._unit)

    def _check_rows(self, X: Any, *, reset: bool) -> Any:
        X = check_rows(self, X, reset=reset, allow_nd=self.module is not None)
        if reset:
            self._row_shape, self._unit = X.shape[1:], 1.0
        elif X.shape[1:] != self._row_shape:
            raise ValueError(f"X has rows of shape {X.shape[1:]}, and in fit {self._row_shape}.")
        return divided(X, self._unit)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

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
            A file that :meth:`save` wrote.
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

    def _take(
        self, learned: Learned, codes: np.ndarray, classes: np.ndarray, data: Prepared
    ) -> None:
        """Set all attributes that are left of the trainings; once more after Ctrl-C if asked to."""
        try:
            self.classes_ = classes
            self.device_ = str(data.training.X.device)
            self._report(learned, codes)
            self._audit(learned, codes, data.noise)
        except KeyboardInterrupt:
            if learned.interrupted or self.on_interrupt == "raise":
                raise
            self._take(learned._replace(interrupted=True), codes, classes, data)
        learned.net.trim_for_prediction()

    def _report(self, learned: Learned, codes: np.ndarray) -> None:
        """Set what is known of the rows and the trainings, and warn of what went wrong."""
        net, labeled = learned.net, codes >= 0
        trust = np.where(labeled, learned.trust, 0)
        self.sample_weights_ = trust / trust[labeled].mean()
        self.noise_scores_ = np.where(labeled, learned.suspicion, np.nan)
        self.history_ = training_curves(learned)
        self.n_iter_ = len(net.history)
        self.collapse_epoch_ = net.collapse_epoch_
        self.interrupted_ = learned.interrupted
        if net.collapse_epoch_ is not None:
            warn(
                f"The weighting collapsed in epoch {net.collapse_epoch_}: training went on with "
                "equal weights. Raise warmup_epochs or lower meta_lr.",
                ConvergenceWarning,
            )
        if net.diverged_:
            warn(
                f"Training diverged in epoch {self.n_iter_} and was ended with the last sound "
                "network. Lower lr, or scale the features.",
                ConvergenceWarning,
            )
        if learned.interrupted:
            warn(
                f"Training was cut short by Ctrl-C: what predicts has learned for {self.n_iter_} "
                f"epochs in training {learned.nets.index(net) + 1}. Fit again for all of it.",
                ConvergenceWarning,
            )
        self.net_ = net
