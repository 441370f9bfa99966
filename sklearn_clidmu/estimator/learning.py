"""The trainings of one fit, and what is read out of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_clidmu.estimator.filling import fill_in
from sklearn_clidmu.estimator.preparation import Prepared, start_over
from sklearn_clidmu.estimator.scoring import read_rows, row_suspicion
from sklearn_clidmu.estimator.single_training import train, train_one_epoch
from sklearn_clidmu.mathematics.evidence import agreement, distrust
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


class Trained(NamedTuple):
    """The trainings so far."""

    net: ReweightedNet
    """The one that would predict if no other followed."""
    nets: list[ReweightedNet]
    """All, in the order of training."""
    data: Prepared
    """What ``net`` was trained on."""


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
    interrupted: bool
    """Whether Ctrl-C ended the trainings, or made the final pass begin anew."""

    def of_first(self, n: int) -> Learned:
        """Keep what is known of the first ``n`` rows alone."""
        return self._replace(
            trust=self.trust[:n], suspicion=self.suspicion[:n], predicted=self.predicted[:n]
        )


def learn(params: BaseEstimator, data: Prepared, start: ReweightedNet | None = None) -> Learned:
    """Train on the rows that have a label, and then on all, where some have none.

    Parameters
    ----------
    params : CLIDMUClassifier
        Read for its constructor parameters only.
    data : Prepared
    start : ReweightedNet, optional
        Net of an earlier fit to go on from; then there is one training on the labels.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, unless ``on_interrupt="keep"`` and there is something to keep.
    """
    trained: Trained | None = None
    interrupted = False
    try:
        for trained in trainings(params, data, start):
            interrupted = any(net.interrupted_ for net in trained.nets)
    except KeyboardInterrupt:
        if trained is None or params.on_interrupt == "raise":
            raise
        interrupted = True
    assert trained is not None
    return read_out(trained, params.on_interrupt == "keep" and not interrupted, interrupted)


def learn_more(
    params: BaseEstimator, data: Prepared, start: ReweightedNet | None, n_earlier: int
) -> Learned:
    """Take one epoch on rows that come in parts, and read out what is said of these.

    Parameters
    ----------
    params : CLIDMUClassifier
    data : Prepared
    start : ReweightedNet or None
        Net to go on from; None begins.
    n_earlier : int
        Epochs behind it.
    """
    net = train_one_epoch(params, data, start, n_earlier)
    return read_out(Trained(net, [net], data), insist=False, interrupted=False)


def trainings(
    params: BaseEstimator, data: Prepared, start: ReweightedNet | None = None
) -> Iterator[Trained]:
    """Carry out the trainings of one fit, and yield after each what is to be kept so far."""
    for trained in label_trainings(params, data, start):
        yield trained
    for _ in range(count_fillings(params, data)):
        if trained.net.interrupted_:
            return
        filled = fill_in(data, trained.net)
        net = train(params, filled, params.weighting)
        nets = [*trained.nets, net]
        if not _sound(net):
            yield trained._replace(nets=nets)
            return
        trained = Trained(net, nets, filled)
        yield trained


def label_trainings(
    params: BaseEstimator, data: Prepared, start: ReweightedNet | None = None
) -> Iterator[Trained]:
    """Train on the rows that have a label; with ``refit`` and the evidence net, train twice.

    The second training starts from the trust that the first has learned, and predicts unless it
    alone collapsed. Where the labels look clean, both start from nothing, and CLID decides.
    """
    noise = data.noise
    if noise is None or not params.refit or start is not None:
        net = train(params, data, params.weighting, start=start)
        yield Trained(net, [net], data)
        return
    doubtful = data.ledger.n_classes > 2 and bool(noise.rate < NEARLY_CLEAN)
    rectify = doubtful or bool(noise.asymmetry > ASYMMETRIC)
    first = train(params, data, "vri" if rectify else "evidence")
    yield Trained(first, [first], data)
    if first.interrupted_:
        return
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
        yield Trained(first, [first, second], data)
    else:
        yield Trained(second, [first, second], fresh)


def count_fillings(params: BaseEstimator, data: Prepared) -> int:
    """Say how often rows without a label are given one."""
    return N_FILLINGS if data.unlabeled is not None and params.unlabeled == "consistency" else 0


def count_trainings(params: BaseEstimator, data: Prepared, start: ReweightedNet | None) -> int:
    """Trainings that :func:`learn` takes at most."""
    n_labeled = 2 if params.refit and data.noise is not None and start is None else 1
    return n_labeled + count_fillings(params, data)


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


def join_curves(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Curves of one fit after those of another, of which the second predicts."""
    n_first, n_second = len(first["training"]), len(second["training"])
    unknown = np.full(n_first, np.nan), np.full(n_second, np.nan)
    joined = {
        name: np.concatenate([first.get(name, unknown[0]), second.get(name, unknown[1])])
        for name in {**first, **second}
    }
    joined["training"][n_first:] += first["training"].max()
    joined["chosen"][:n_first] = False
    return joined


def _chosen(net: ReweightedNet) -> list[int]:
    """Positions of the epochs whose networks predict; none after a divergence."""
    if net.diverged_:
        return []
    return getattr(net, "chosen_epochs_", [len(net.history) - 1])


def _sound(net: ReweightedNet) -> bool:
    """Whether training came to its end without a collapse."""
    return net.collapse_epoch_ is None and not (net.diverged_ or net.interrupted_)


def read_out(trained: Trained, insist: bool, interrupted: bool) -> Learned:
    """Read what is said of the rows out of the net that predicts and what it was trained on.

    Parameters
    ----------
    trained : Trained
    insist : bool
        Whether to begin anew, once, after Ctrl-C.
    interrupted : bool
        Whether there was one before.
    """
    net, nets, data = trained
    entries = data.ledger.copy_entries()
    weighted = hasattr(net, "weight_net_") and net.collapse_epoch_ is None and not net.diverged_
    try:
        trust, predicted = read_rows(net, data, weighted)
        suspicion = row_suspicion(net, data)
    except KeyboardInterrupt:
        if not insist:
            raise
        data.ledger.put_back(entries)
        return read_out(trained, insist=False, interrupted=True)
    known = trust.double().cpu().numpy(), suspicion, predicted.cpu().numpy()
    return Learned(net, nets, *known, interrupted)
