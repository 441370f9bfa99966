"""One training of a fit: how long it is, and what it starts from."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator

from sklearn_clidmu.estimator.building import (
    Course,
    build_callbacks,
    build_net,
    count_epochs,
    count_joined,
    is_warm,
    warmup_epochs,
)
from sklearn_clidmu.estimator.memory import with_less_memory
from sklearn_clidmu.estimator.preparation import Prepared
from sklearn_clidmu.estimator.warning import warn
from sklearn_clidmu.mathematics.backbone import members
from sklearn_clidmu.training.batches import ShuffledBatches
from sklearn_clidmu.training.net import ReweightedNet


def train(
    params: BaseEstimator,
    data: Prepared,
    weighting: str | None,
    carry_on: bool = False,
    start: ReweightedNet | None = None,
) -> ReweightedNet:
    """Train a net on prepared data.

    Parameters
    ----------
    params : CLIDMUClassifier
        Read for its constructor parameters only, here and below.
    data : Prepared
    weighting : str or None
        Weighting net; None trains without one.
    carry_on : bool, default=False
        Whether an earlier training has left trust to start from: then there is no warm-up, and
        the first epochs may still predict a single class.
    start : ReweightedNet, optional
        Net of an earlier fit, whose parameters are the first; by default they are drawn.
    """

    def work(settings: Any) -> ReweightedNet:
        n_steps = len(ShuffledBatches(data.training, settings.batch_size))
        n_epochs = count_epochs(settings, n_steps)
        n_warmup = None
        if weighting is not None:
            n_warmup = 0 if carry_on else warmup_epochs(settings, weighting, n_epochs, n_steps)
        n_predicted, n_rows = 1 if carry_on else 2, count_rows(params, data)
        course = Course(n_epochs, n_warmup, n_predicted, n_epochs * n_steps, n_rows)
        return run(settings, data, weighting, course, start)

    return with_less_memory(params, data, work)


def count_rows(params: BaseEstimator, data: Prepared) -> int | None:
    """Rows to learn from, those that will be given a label among them; None in one batch.

    There a row of weight s counts as s rows, so that their number must not matter.
    """
    if data.fits_one_batch:
        return None
    filled_in = data.unlabeled is not None and params.unlabeled == "consistency"
    return len(data.everything if filled_in else data.training)


def train_one_epoch(
    params: BaseEstimator, data: Prepared, start: ReweightedNet | None, n_earlier: int
) -> ReweightedNet:
    """Train for an epoch at a learning rate that stays; of warm-up, while that is not over.

    Parameters
    ----------
    params : CLIDMUClassifier
    data : Prepared
    start : ReweightedNet or None
        Net to go on from; None begins.
    n_earlier : int
        Epochs behind it.
    """
    n_steps = 0 if start is None else start.n_steps_
    n_warmup = None
    if params.weighting is not None:
        n_warmup = 0 if is_warm(params, params.weighting, n_earlier, n_steps) else 1
    course = Course(1, n_warmup, n_predicted=1, n_decay_steps=None, n_rows=None)

    def work(settings: Any) -> ReweightedNet:
        return run(settings, data, settings.weighting, course, start)

    return with_less_memory(params, data, work)


def run(
    params: Any,
    data: Prepared,
    weighting: str | None,
    course: Course,
    start: ReweightedNet | None,
) -> ReweightedNet:
    """Build a net with its callbacks, and carry out a training."""
    unlabeled_too = params.unlabeled == "meta" and params.meta_objective == "clid"
    meta_table = data.meta if unlabeled_too else data.training
    n_joined = 1  # in one batch a row of weight s counts as s rows, and a second is no other
    if not data.fits_one_batch:
        n_joined = count_joined(params, weighting, drawn=meta_table is not data.training)
    callbacks = build_callbacks(
        params,
        data.training,
        meta_table,
        data.ledger,
        data.held_out,
        course,
        n_joined,
        watchers=list(data.watchers),
    )
    if data.checkpoints is not None:
        callbacks.append(("checkpoint", data.checkpoints.next_training()))
    net = build_net(
        params,
        tuple(data.training.X.shape[1:]),
        data.ledger.n_classes,
        weighting=weighting,
        course=course,
        n_joined=n_joined,
        believed=None if data.noise is None else data.noise.believed,
        one_mask=data.fits_one_batch,
        dtype=data.training.X.dtype,
        device=data.training.X.device,
        callbacks=callbacks,
    ).initialize()
    if start is not None:
        go_on_from(start, net)
    net.partial_fit(data.training)
    if net.capture_error_ is not None:
        warn(
            f"Training steps could not be recorded on {net.device} ({net.capture_error_}): they "
            "were taken one by one, to the same end, but more slowly.",
            RuntimeWarning,
        )
    net.callbacks = net.callbacks_ = []  # with what they keep of every row
    return net


def go_on_from(start: ReweightedNet, net: ReweightedNet) -> None:
    """Give a net that is about to be trained the parameters of a trained one.

    Of an ensemble, those of its best member. The weighting net's, too, if it is of the same kind,
    but for what it is told of the labels.

    Raises
    ------
    ValueError
        If the networks differ.
    """
    trained = members(start.module_)[0]
    try:
        for module in (net.module_, net.evaluated_module):
            module.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise ValueError(
            "hidden_layer_sizes or module has been changed since the last fit, whose network "
            "warm_start=True and partial_fit go on with: put it back, or fit with "
            "warm_start=False."
        ) from error
    net.n_steps_ = start.n_steps_
    old, new = getattr(start, "weight_net_", None), getattr(net, "weight_net_", None)
    if old is not None and new is not None and type(old) is type(new):
        new.load_state_dict({**old.state_dict(), **dict(new.named_buffers())})
