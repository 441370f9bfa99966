"""The trainings of one fit, and what is read out of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_clidmu.estimator.building import (
    build_callbacks,
    build_net,
    count_epochs,
    warmup_epochs,
)
from sklearn_clidmu.estimator.filling import fill_in
from sklearn_clidmu.estimator.preparation import Prepared, start_over
from sklearn_clidmu.estimator.scoring import read_rows, row_suspicion
from sklearn_clidmu.mathematics.evidence import agreement, distrust
from sklearn_clidmu.training.batches import ShuffledBatches
from sklearn_clidmu.training.net import ReweightedNet

ASYMMETRIC = 0.15
"""Asymmetry of the noise from which on VRI trains first. Where the wrong labels of a class mostly
name one other class, the other rows side with them nearly as often as with the right ones;
features and label together then tell more."""

NEARLY_CLEAN = 0.1
"""Noise rate up to which VRI is asked for a second opinion. The labels are right, or wrong region
by region, as those of rules are: then all rows around side with them."""

AGREEMENT = 0.5
"""Correlation with the judgement of all other rows from which on what the first training says of
a class is passed on in full. VRI can lose a class, and then takes its right labels for wrong."""

CONTRADICTION = 0.25
"""How much lower VRI's CLID must be, in nats, for its opinion to be taken: on clean labels it is
lower by at most 0.20, on regions of wrong labels by up to 0.38."""

N_FILLINGS = 2
"""Times that rows without a label are given one, and all rows are trained on: after the first, the
network has learned from all of them, and knows better."""

CURVES = ("train_loss", "meta_loss", "clid", "dissent", "valid_loss", "valid_score")
"""Entries of a net's history that are passed on."""


class Learned(NamedTuple):
    """What the trainings leave behind."""

    net: ReweightedNet
    """The one that predicts."""
    nets: list[ReweightedNet]
    """All, in the order of training."""
    trust: np.ndarray
    """In the label of each row, in [0, 1], shape (n,), float64."""
    suspicion: np.ndarray
    """How suspect the label of each row is, in [0, 1], shape (n,), float64."""
    predicted: np.ndarray
    """Most probable class of each row, shape (n,), int64."""

    def of_first(self, n: int) -> Learned:
        """Keep what is known of the first ``n`` rows alone."""
        return self._replace(
            trust=self.trust[:n], suspicion=self.suspicion[:n], predicted=self.predicted[:n]
        )


def learn(params: BaseEstimator, data: Prepared) -> Learned:
    """Train on the rows that have a label, and then on all, where some have none.

    Parameters
    ----------
    params : CLIDMUClassifier
        Read for its constructor parameters only.
    data : Prepared
    """
    learned = learn_labeled(params, data)
    for _ in range(count_fillings(params, data)):
        filled = fill_in(data, learned.net)
        net = train(params, filled, params.weighting)
        if not _sound(net):
            return learned
        learned = _learned(net, [*learned.nets, net], filled)
    return learned


def learn_labeled(params: BaseEstimator, data: Prepared) -> Learned:
    """Train on the rows that have a label; with ``refit`` and the evidence net, train twice.

    The second training starts from the trust that the first has learned, and predicts unless it
    alone collapsed. Where the labels look clean, both start from nothing, and CLID decides.

    Parameters
    ----------
    params : CLIDMUClassifier
        Read for its constructor parameters only.
    data : Prepared
    """
    noise = data.noise
    if noise is None or not params.refit:
        net = train(params, data, params.weighting)
        return _learned(net, [net], data)
    doubtful = data.ledger.n_classes > 2 and bool(noise.rate < NEARLY_CLEAN)
    rectify = doubtful or bool(noise.asymmetry > ASYMMETRIC)
    first = train(params, data, "vri" if rectify else "evidence")
    if doubtful or not _sound(first):
        fresh = start_over(data)
        second = train(params, fresh, "evidence")
        contradiction = second.history[-1, "clid"] - first.history[-1, "clid"]
        keep = doubtful and contradiction > CONTRADICTION
    else:
        fresh = start_over(data, passed_on(read_rows(first, data).trust, data))
        second = train(params, fresh, "evidence", carry_on=True)
        keep = False
    if _sound(first) and (keep or not _sound(second)):
        return _learned(first, [first, second], data)
    return _learned(second, [first, second], fresh)


def count_fillings(params: BaseEstimator, data: Prepared) -> int:
    """Say how often rows without a label are given one."""
    return N_FILLINGS if data.unlabeled is not None and params.unlabeled == "consistency" else 0


def count_trainings(params: BaseEstimator, data: Prepared) -> int:
    """Trainings that :func:`learn` takes at most."""
    n_labeled = 2 if params.refit and data.noise is not None else 1
    return n_labeled + count_fillings(params, data)


def train(
    params: BaseEstimator, data: Prepared, weighting: str | None, carry_on: bool = False
) -> ReweightedNet:
    """Train a net on prepared data.

    Parameters
    ----------
    params : CLIDMUClassifier
    data : Prepared
    weighting : str or None
        Weighting net; None trains without one.
    carry_on : bool, default=False
        Whether an earlier training has left trust to start from: then there is no warm-up, and
        the first epochs may still predict a single class.
    """
    n_steps = len(ShuffledBatches(data.training, params.batch_size))
    n_epochs = count_epochs(params, n_steps)
    n_warmup = None
    if weighting is not None:
        n_warmup = 0 if carry_on else warmup_epochs(params, weighting, n_epochs, n_steps)
    unlabeled_too = params.unlabeled == "meta" and params.meta_objective == "clid"
    callbacks = build_callbacks(
        params,
        data.training,
        data.meta if unlabeled_too else data.training,
        data.ledger,
        data.held_out,
        n_epochs,
        n_steps,
        n_warmup,
        n_predicted=1 if carry_on else 2,
        watchers=list(data.watchers),
    )
    net = build_net(
        params,
        tuple(data.training.X.shape[1:]),
        data.ledger.n_classes,
        weighting=weighting,
        n_epochs=n_epochs,
        believed=None if data.noise is None else data.noise.believed,
        one_mask=data.fits_one_batch,
        dtype=data.training.X.dtype,
        device=data.training.X.device,
        callbacks=callbacks,
    )
    return net.fit(data.training)


def passed_on(trust: Tensor, data: Prepared) -> Tensor:
    """Distrust that a second training starts from, shape (n,).

    Class by class, it counts as far as it agrees with what all other rows say of the labels.

    Parameters
    ----------
    trust : Tensor of shape (n,)
        That the first training has learned, in [0, 1].
    data : Prepared
    """
    ledger, targets = data.ledger, data.everything.labels.targets
    agreed = agreement(-trust, ledger.rivalry, targets, ledger.n_classes, ledger.sample_weight)
    return (agreed / AGREEMENT).clamp(0, 1)[targets] * distrust(trust)


def training_curves(learned: Learned) -> dict[str, np.ndarray]:
    """Curves over the epochs of all trainings, one after the other, each of shape (n_epochs,)."""
    epochs = [epoch for net in learned.nets for epoch in net.history]
    curves = {
        name: np.array([epoch.get(name, np.nan) for epoch in epochs], dtype=float)
        for name in CURVES
        if name in epochs[0]
    }
    number = np.repeat(np.arange(1, len(learned.nets) + 1), [len(n.history) for n in learned.nets])
    chosen = np.zeros(len(epochs), dtype=bool)
    chosen[np.flatnonzero(number == learned.nets.index(learned.net) + 1)[_chosen(learned.net)]] = (
        True
    )
    return {**curves, "training": number, "chosen": chosen}


def _chosen(net: ReweightedNet) -> list[int]:
    """Positions of the epochs whose networks predict; none after a divergence."""
    if net.diverged_:
        return []
    return getattr(net, "chosen_epochs_", [len(net.history) - 1])


def _sound(net: ReweightedNet) -> bool:
    """Whether training came to its end without a collapse."""
    return net.collapse_epoch_ is None and not net.diverged_


def _learned(net: ReweightedNet, nets: list[ReweightedNet], data: Prepared) -> Learned:
    """Read what is said of the rows out of the net that predicts and what it was trained on."""
    weighted = hasattr(net, "weight_net_") and _sound(net)
    trust, predicted = read_rows(net, data, weighted)
    suspicion = row_suspicion(net, data)
    return Learned(net, nets, trust.double().cpu().numpy(), suspicion, predicted.cpu().numpy())
