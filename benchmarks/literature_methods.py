"""The methods of literature.py: published ones from their formulas, on this package's network.

All train the package's multi-layer perceptron with its scaling, embeddings, batches, number of
steps, optimizer, learning rates and moving average, and with one weight decay: the one that
``weighting=None`` chooses in the same cell by held-out noisy labels. Constants of a method are
those of its paper unless a comment says otherwise. Methods that need a warm-up, in which all labels
count alike, have the one of the package's WNet.

A method takes a :class:`Problem` and returns what predicts the class codes of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_clidmu import CLIDMUClassifier
from sklearn_clidmu._settings import MAX_GRADIENT_NORM, META_LR, Settings, resolve, steps_per_epoch
from sklearn_clidmu.clid.objective import make_objective
from sklearn_clidmu.clid.weight_nets import VRI, WNet
from sklearn_clidmu.training.callbacks import ParameterAverage
from sklearn_clidmu.training.cross_fitting import choose_l2_penalty
from sklearn_clidmu.training.data import (
    Labels,
    SampleHistory,
    ShuffledBatches,
    Table,
    TrainingData,
    make_training_data,
)
from sklearn_clidmu.training.meta_step import BatchMetaStep, make_rows
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.net_factory import build_net
from sklearn_clidmu.training.prior import weigh_features

CPU = torch.device("cpu")
PAPER = {"virtual_step": "full", "temperature": 0.5, "meta_batch_size": 100}
"""The constructor's parameters for the meta step of the paper; see docs/paper.md."""

META_ROWS = 1000
"""Rows of the meta set of CLID-MU, drawn once."""

BatchLoss = Callable[[ReweightedNet, Tensor, Labels], Tensor]


class Problem(NamedTuple):
    """A cell as the methods get it."""

    X: np.ndarray
    codes: np.ndarray
    """Given labels, -1 for none."""
    true: np.ndarray
    """Right labels, of which only the methods with a clean meta set see some."""
    seed: int
    settings: Settings
    data: TrainingData

    @property
    def schedule(self) -> tuple[int, int]:
        """Epochs, and those of them that are the warm-up."""
        return self.settings.labeled.n_epochs, self.settings.labeled.n_warmup


def make_problem(X: np.ndarray, codes: np.ndarray, true: np.ndarray, seed: int) -> Problem:
    """Put the rows into the package's own containers, and choose the weight decay.

    To be called with torch's generator seeded; it is seeded as before at the end.
    """
    params = CLIDMUClassifier(weighting="wnet").get_params()  # for its warm-up
    n_classes = int(true.max()) + 1
    none, weight = np.empty(0, dtype=np.int64), np.ones(len(codes))
    settings = resolve(params, n_labeled=int((codes >= 0).sum()), n_unlabeled=0)
    data = make_training_data(X, codes, weight, none, n_classes, settings.dtype, CPU)
    data = weigh_features(settings, data)
    if settings.weight_decay is None:
        settings = replace(settings, l2_penalty=choose_l2_penalty(settings, data))
        decay = settings.decay_of(len(data.training))
        settings = replace(settings, weighting=None, weight_decay=decay, l2_penalty=None)
    return Problem(X, codes, true, seed, settings, data)


# Losses of the rows of a batch, shape (n,), from logits and given labels.


def generalized_cross_entropy(logits: Tensor, targets: Tensor, q: float = 0.7) -> Tensor:
    """(1 - p_y^q) / q (Zhang & Sabuncu, NeurIPS 2018)."""
    return (1 - given(logits, targets) ** q) / q


def symmetric_cross_entropy(
    logits: Tensor, targets: Tensor, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0
) -> Tensor:
    """Cross entropy and its reverse, in which log 0 is -4 (Wang et al., ICCV 2019)."""
    reverse = -log_zero * (1 - given(logits, targets))
    return alpha * cross_entropy(logits, targets) + beta * reverse


def forward_cross_entropy(logits: Tensor, targets: Tensor, matrix: Tensor) -> Tensor:
    """Cross entropy behind T[true, given]: -log (p T)_y (Patrini et al., CVPR 2017)."""
    proba = logits.softmax(dim=1) @ matrix
    return -proba.gather(1, targets[:, None])[:, 0].clamp_min(1e-7).log()


def early_learning_loss(
    logits: Tensor, targets: Tensor, memory: Tensor, strength: float = 3.0, momentum: float = 0.7
) -> Tensor:
    """Cross entropy + 3 log(1 - <p, t>) (ELR, Liu et al., NeurIPS 2020).

    t, the ``memory`` of the rows of shape (n, n_classes), is the moving average of earlier p; it is
    moved in place.
    """
    proba = logits.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
    memory.mul_(momentum).add_((1 - momentum) * F.normalize(proba.detach(), p=1, dim=1))
    agreement = (proba * memory).sum(dim=1)
    return cross_entropy(logits, targets) + strength * (1 - agreement).clamp_min(1e-4).log()


cross_entropy = partial(F.cross_entropy, reduction="none")
"""Of each row; the targets are classes, or probabilities of classes."""


def given(logits: Tensor, targets: Tensor) -> Tensor:
    """Probability of each given label."""
    return logits.softmax(dim=1).gather(1, targets[:, None])[:, 0]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "control": cross_entropy,
    "label-smoothing": partial(cross_entropy, label_smoothing=0.1),
    "gce": generalized_cross_entropy,
    "sce": symmetric_cross_entropy,
}


def mixup_loss(net: ReweightedNet, X: Tensor, targets: Tensor, alpha: float = 8.0) -> Tensor:
    """Mean loss of mixed rows (Zhang et al., ICLR 2018); alpha is that of their 20 % noise."""
    share = torch.distributions.Beta(alpha, alpha).sample()
    other = torch.randperm(len(X))
    logits, _ = net.module_(share * X + (1 - share) * X[other])
    return (
        share * cross_entropy(logits, targets) + (1 - share) * cross_entropy(logits, targets[other])
    ).mean()


class Networks(NamedTuple):
    """Networks whose mean probability predicts."""

    learners: Sequence[Learner]

    def proba(self, X: Tensor) -> Tensor:
        """Mean probabilities, shape (n, n_classes)."""
        return torch.stack([learner.proba(X) for learner in self.learners]).mean(dim=0)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes."""
        return self.proba(torch.from_numpy(X)).argmax(dim=1).numpy()


class Learner:
    """A network with the package's optimizer, learning rates, clipping and moving average."""

    def __init__(self, problem: Problem) -> None:
        settings, (n_epochs, _) = problem.settings, problem.schedule
        n_labeled = len(problem.data.training)
        self.net = build_net(settings, n_epochs, problem.data, None)
        n_steps = n_epochs * math.prod(steps_per_epoch(n_labeled, settings.batch_size))
        self.schedule = CosineAnnealingLR(self.net.optimizer_, n_steps)
        self.average = ParameterAverage()
        self.average.on_train_begin(self.net)
        self.net.module_.train()

    def step(self, loss: Tensor) -> None:
        """Take a step of the optimizer."""
        self.net.optimizer_.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.module_.parameters(), MAX_GRADIENT_NORM)
        self.net.optimizer_.step()
        self.schedule.step()
        self.average.on_batch_end(self.net)

    def proba(self, X: Tensor) -> Tensor:
        """Probabilities by the moving average; the network is put back into training mode."""
        logits, _ = self.net.evaluate(X)
        self.net.module_.train()
        return logits.softmax(dim=1)


def batches(problem: Problem, table: Table | None = None) -> Iterator[tuple[Tensor, Labels]]:
    """One epoch of the labeled rows."""
    return iter(ShuffledBatches(table or problem.data.training, problem.settings.batch_size))


def train(problem: Problem, batch_loss: BatchLoss, table: Table | None = None) -> Networks:
    """Train one network on the loss of a batch."""
    learner = Learner(problem)
    for _ in range(problem.schedule[0]):
        for X, labels in batches(problem, table):
            learner.step(batch_loss(learner.net, X, labels))
    return Networks([learner])


def fit_loss(problem: Problem, loss: Callable[[Tensor, Tensor], Tensor]) -> Networks:
    """Train on a loss of LOSSES."""
    return train(problem, lambda net, X, labels: loss(net.module_(X)[0], labels.targets).mean())


def fit_mixup(problem: Problem) -> Networks:
    """Train on mixed rows."""
    return train(problem, lambda net, X, labels: mixup_loss(net, X, labels.targets))


def fit_elr(problem: Problem) -> Networks:
    """Train with early-learning regularization."""
    memory = torch.zeros(len(problem.codes), problem.data.n_classes)

    def batch_loss(net: ReweightedNet, X: Tensor, labels: Labels) -> Tensor:
        own = memory[labels.rows]
        losses = early_learning_loss(net.module_(X)[0], labels.targets, own)
        memory[labels.rows] = own
        return losses.mean()

    return train(problem, batch_loss)


def estimate_noise(problem: Problem) -> tuple[Tensor, float]:
    """Estimate T[true, given] at anchor points, and the noise rate that follows (Patrini et al.).

    The anchor of a class is the row at the 97th percentile of its probability, by the control.
    """
    control = fit_loss(problem, cross_entropy)
    proba = control.proba(problem.data.training.inputs)
    place = min(int(0.97 * len(proba)), len(proba) - 1)
    matrix = proba[proba.argsort(dim=0)[place]]
    share = proba.argmax(dim=1).bincount(minlength=len(matrix)) / len(proba)
    return matrix, float(1 - share @ matrix.diagonal())


def fit_forward(problem: Problem) -> Networks:
    """Train with forward correction by the estimated T."""
    matrix, _ = estimate_noise(problem)
    return fit_loss(problem, partial(forward_cross_entropy, matrix=matrix))


def fit_co_teaching(problem: Problem, n_ramp: int = 10) -> Networks:
    """Two networks, each trained on what the other has a small loss on (Han et al., NeurIPS 2018).

    The share that is left out rises to the estimated noise rate within ten epochs.
    """
    _, rate = estimate_noise(problem)
    one, two = Learner(problem), Learner(problem)
    for epoch in range(problem.schedule[0]):
        kept = 1 - rate * min(epoch / n_ramp, 1)
        for X, labels in batches(problem):
            losses = [cross_entropy(each.net.module_(X)[0], labels.targets) for each in (one, two)]
            small = [part.argsort()[: max(round(kept * len(X)), 1)] for part in losses]
            one.step(losses[0][small[1]].mean())
            two.step(losses[1][small[0]].mean())
    return Networks([one, two])


# Meta-learned weights: WNet and VRI with the package's meta step, from a meta set.


class MetaSetStep(BatchMetaStep):
    """The package's meta step with the paper's virtual step and batches of 100 from a meta set."""

    def __init__(self, problem: Problem, weighting: str, objective: Any, meta_set: Table) -> None:
        n_classes, table = problem.data.n_classes, problem.data.training
        with torch.random.fork_rng(devices=[]):  # training draws the same without it
            width = problem.settings.hidden_layer_sizes[-1]
            weight_net = WNet() if weighting == "wnet" else VRI(width, n_classes)
        zeros = torch.zeros(len(table))
        super().__init__(
            weight_net,
            table,
            SampleHistory(zeros, n_classes, zeros),
            make_objective(objective, PAPER["temperature"]),
            virtual_step=PAPER["virtual_step"],
            n_warmup=0,
            meta_batch_size=PAPER["meta_batch_size"],
            lr=META_LR[weighting],
        )
        self.meta_set = meta_set
        self.meta_losses, self.reweighting = [], True

    def _draw_meta_batch(self, size: int) -> tuple[Tensor, Labels]:
        index = torch.randint(len(self.meta_set), (size,), generator=self.generator)
        return self.meta_set[index]


def clean_cross_entropy(
    features: Tensor, logits: Tensor, targets: Tensor, sample_weight: Tensor
) -> Tensor:
    """Meta objective of Meta-Weight-Net."""
    return F.cross_entropy(logits, targets)


def draw_rows(candidates: np.ndarray, size: int, seed: int) -> Tensor:
    """Draw rows without replacement; all of them where there are no more."""
    return torch.from_numpy(np.random.RandomState(seed).permutation(candidates)[:size])


def clean_rows(problem: Problem, size: int) -> Table:
    """Rows with a label, now with the right one."""
    rows = draw_rows(np.flatnonzero(problem.codes >= 0), size, problem.seed)
    table = problem.data.table.take(rows)
    return Table(table.X, torch.from_numpy(problem.true)[rows], table.sample_weight, rows)


def unlabeled_meta_set(problem: Problem) -> Table:
    """Meta set of CLID-MU: of all rows, whose labels are not read."""
    rows = draw_rows(np.arange(len(problem.codes)), META_ROWS, problem.seed)
    return problem.data.table.take(rows)


def fit_meta(problem: Problem, weighting: str, objective: Any, meta_set: Table) -> Networks:
    """Train with weights that WNet or VRI learns on a meta set, after a warm-up."""
    meta_step = MetaSetStep(problem, weighting, objective, meta_set)
    learner = Learner(problem)
    meta_step.on_train_begin(learner.net)
    n_epochs, n_warmup = problem.schedule
    for epoch in range(n_epochs):
        for X, labels in batches(problem):
            logits, features = learner.net.module_(X)
            losses = cross_entropy(logits, labels.targets)
            loss = losses.mean()
            if epoch >= n_warmup:
                loss = meta_step.training_loss(learner.net, X, labels, logits, features, losses)
            learner.step(loss)
    return Networks([learner])


def fit_mw_net(problem: Problem, size: int) -> Networks:
    """Meta-Weight-Net with a clean meta set (Shu et al., NeurIPS 2019)."""
    return fit_meta(problem, "wnet", clean_cross_entropy, clean_rows(problem, size))


def fit_clid(problem: Problem, weighting: str) -> Networks:
    """CLID-MU as published, but for Adam on the weighting net (Hu et al., KDD 2025)."""
    return fit_meta(problem, weighting, "clid", unlabeled_meta_set(problem))


def fit_corrected(problem: Problem, size: int) -> Networks:
    """The control, to which the right labels of a clean meta set are simply given as labels."""
    training, meta_set = problem.data.training, clean_rows(problem, size)
    targets = problem.data.table.targets.clone()
    targets[meta_set.labels.rows] = meta_set.targets
    rows = training.labels.rows
    table = Table(training.X, targets[rows], training.sample_weight, rows)
    return train(
        problem,
        lambda net, X, labels: cross_entropy(net.module_(X)[0], labels.targets).mean(),
        table,
    )


# DivideMix (Li et al., ICLR 2020). Its augmentation of images is the networks' dropout here.

SHARPENING, MIX_ALPHA, CLEAN_THRESHOLD = 0.5, 4.0, 0.5
UNLABELED_WEIGHT, N_UNLABELED_RAMP = 25.0, 16
N_GUESSES = 2
"""Passes with dropout whose mean is a guess."""


def clean_probability(losses: Tensor) -> Tensor:
    """Probability to be of the component of the lower mean, of a mixture of two Gaussians."""
    values = ((losses - losses.min()) / (losses.max() - losses.min()).clamp_min(1e-12)).numpy()
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    proba = mixture.fit(values[:, None]).predict_proba(values[:, None])
    return torch.from_numpy(proba[:, mixture.means_[:, 0].argmin()]).float()


def sharpen(proba: Tensor) -> Tensor:
    """Raise probabilities to the power of 1 / 0.5, and normalize."""
    return F.normalize(proba ** (1 / SHARPENING), p=1, dim=1)


@torch.no_grad()
def guess(X: Tensor, *learners: Learner) -> Tensor:
    """Mean probabilities over passes with dropout of one or both networks."""
    passes = [one.net.module_(X)[0].softmax(dim=1) for one in learners for _ in range(N_GUESSES)]
    return torch.stack(passes).mean(dim=0)


def mixmatch_loss(
    learner: Learner, X: Tensor, targets: Tensor, n_labeled: int, ramp: float, weight: Tensor
) -> Tensor:
    """Loss of mixed rows, of which the first have a label of weight ``weight``.

    Cross entropy of these, squared error of the others, and the divergence of the mean prediction
    from equal classes.
    """
    share = torch.distributions.Beta(MIX_ALPHA, MIX_ALPHA).sample()
    share, other = torch.maximum(share, 1 - share), torch.randperm(len(X))
    logits, _ = learner.net.module_(share * X + (1 - share) * X[other])
    mixed, proba = share * targets + (1 - share) * targets[other], logits.softmax(dim=1)
    labeled = weight @ cross_entropy(logits[:n_labeled], mixed[:n_labeled]) / weight.sum()
    mean = proba.mean(dim=0).clamp_min(1e-7)
    penalty = -(mean * len(mean)).log().mean()
    loss = labeled + penalty
    if n_labeled < len(X):
        error = (proba[n_labeled:] - mixed[n_labeled:]).square().mean()
        loss = loss + UNLABELED_WEIGHT * ramp * error
    return loss


def endless(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Batches of rows in random order, again and again."""
    while True:
        yield from rows[torch.randperm(len(rows))].split(size)


def divide_epoch(
    problem: Problem,
    learner: Learner,
    other: Learner,
    clean: Tensor,
    ramp: float,
    meta_step: MetaSetStep | None,
) -> None:
    """Train one network on the rows that the other holds to be clean; the rest has no label."""
    table, n_classes = problem.data.table, problem.data.n_classes
    labeled = (clean > CLEAN_THRESHOLD).nonzero()[:, 0]
    labeled = labeled if len(labeled) else (clean == clean.max()).nonzero()[:, 0]
    unlabeled = (clean <= CLEAN_THRESHOLD).nonzero()[:, 0]
    half = problem.settings.batch_size // 2
    n_steps = math.prod(steps_per_epoch(len(problem.data.training), problem.settings.batch_size))
    drawn = endless(labeled, half), endless(unlabeled, half) if len(unlabeled) else cycle([None])
    for _, rows, without in zip(range(n_steps), *drawn, strict=False):
        X, labels = table[rows]
        weight = torch.ones(len(rows))
        if meta_step is not None:
            weight = clid_weights(learner, meta_step, X, labels)
        right, one_hot = clean[rows][:, None], F.one_hot(labels.targets, n_classes)
        targets = sharpen(right * one_hot + (1 - right) * guess(X, learner))
        if without is not None:
            X_without, _ = table[without]
            targets = torch.cat([targets, sharpen(guess(X_without, learner, other))])
            X = torch.cat([X, X_without])
        learner.step(mixmatch_loss(learner, X, targets, len(rows), ramp, weight))


def clid_weights(learner: Learner, meta_step: MetaSetStep, X: Tensor, labels: Labels) -> Tensor:
    """Take a meta step of WNet by CLID; return the weights of a batch."""
    logits, features = learner.net.module_(X)
    losses = cross_entropy(logits, labels.targets)
    meta_step.training_loss(learner.net, X, labels, logits, features, losses)
    return meta_step.weight_net.weights(make_rows(logits, features, labels)).detach()


def fit_dividemix(problem: Problem, clid: bool = False) -> Networks:
    """DivideMix; rows without a label are never among the clean ones.

    With ``clid`` a WNet for each network, trained by CLID as in :func:`fit_clid`, weighs the
    labeled rows of a batch.
    """
    learners = Learner(problem), Learner(problem)
    labels = problem.data.training.labels
    meta_steps: list[MetaSetStep | None] = [None, None]
    if clid:
        meta_set = unlabeled_meta_set(problem)
        meta_steps = [MetaSetStep(problem, "wnet", "clid", meta_set) for _ in learners]
        for learner, meta_step in zip(learners, meta_steps, strict=True):
            meta_step.on_train_begin(learner.net)
    n_epochs, n_warmup = problem.schedule
    for epoch in range(n_epochs):
        if epoch < n_warmup:
            for learner in learners:
                for X, batch in batches(problem):
                    learner.step(cross_entropy(learner.net.module_(X)[0], batch.targets).mean())
            continue
        clean = [torch.zeros(len(problem.codes)) for _ in learners]
        for learner, part in zip(learners, clean, strict=True):
            proba = learner.proba(problem.data.training.inputs).clamp_min(1e-12)
            losses = -proba.gather(1, labels.targets[:, None])[:, 0].log()
            part[labels.rows] = clean_probability(losses)
        ramp = min((epoch - n_warmup) / N_UNLABELED_RAMP, 1)
        one, two = learners
        divide_epoch(problem, one, two, clean[1], ramp, meta_steps[0])
        divide_epoch(problem, two, one, clean[0], ramp, meta_steps[1])
    return Networks(learners)


def fit_classifier(problem: Problem, chosen: bool = True, **parameters: Any) -> CLIDMUClassifier:
    """Fit CLIDMUClassifier; ``chosen`` hands it the weight decay of the control."""
    if chosen:
        parameters["weight_decay"] = problem.settings.weight_decay
    model = CLIDMUClassifier(random_state=problem.seed, missing_label=-1, **parameters)
    return model.fit(problem.X, problem.codes)


CONTROL, DEFAULT = "control", "clidmu"
OWN_CHOICE = ("clidmu", "control, pseudo-labels")
"""Methods that choose the weight decay themselves."""

METHODS: dict[str, Callable[[Problem], Networks | CLIDMUClassifier]] = {
    **{name: partial(fit_loss, loss=loss) for name, loss in LOSSES.items()},
    "mixup": fit_mixup,
    "elr": fit_elr,
    "forward": fit_forward,
    "co-teaching": fit_co_teaching,
    "mw-net-100": partial(fit_mw_net, size=100),
    "mw-net-1000": partial(fit_mw_net, size=1000),
    "corrected-1000": partial(fit_corrected, size=1000),
    "dividemix": fit_dividemix,
    "clid-wnet": partial(fit_clid, weighting="wnet"),
    "clid-vri": partial(fit_clid, weighting="vri"),
    "clid-dividemix": partial(fit_dividemix, clid=True),
    "paper-call": partial(fit_classifier, weighting="wnet", unlabeled="ignore", **PAPER),
    "control, pseudo-labels": partial(fit_classifier, chosen=False, weighting=None),
    "clidmu": partial(fit_classifier, chosen=False),
}
