"""What several test files share: tables, nets, and callbacks that watch."""

from copy import deepcopy
from functools import partial

import numpy as np
import torch
from clid.helpers import N_CLASSES, N_FEATURES, WIDTH, mlp
from skorch.callbacks import Callback
from torch import nn

from sklearn_clidmu._settings import resolve
from sklearn_clidmu.clid.objective import make_objective
from sklearn_clidmu.clid.weight_nets import VRI, EvidenceNet, WNet
from sklearn_clidmu.training.data import (
    Labels,
    SampleHistory,
    ShuffledBatches,
    Table,
    make_training_data,
    trained_rows,
)
from sklearn_clidmu.training.meta_step import BatchMetaStep, BlockMetaStep
from sklearn_clidmu.training.net import ReweightedNet

DTYPE = torch.float64
PRECISION = torch.tensor([0.9, 0.6, 0.75], dtype=DTYPE)


PARAMS = {
    "hidden_layer_sizes": (8,),
    "dropout": 0.3,
    "module": None,
    "weighting": "evidence",
    "meta_objective": "clid",
    "virtual_step": "head",
    "temperature": 0.5,
    "max_epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 32,
    "meta_batch_size": None,
    "lr": "auto",
    "meta_lr": "auto",
    "weight_decay": 0.01,
    "n_folds": 3,
    "verbose": 0,
    "early_stopping": False,
}


def blobs(n=90, n_wrong=9, n_unlabeled=0):
    """Rows far apart by class, their codes of which the first are wrong and the last missing."""
    rng = np.random.RandomState(0)
    codes = np.arange(n) % N_CLASSES
    X = rng.normal(size=(n, 4)) + 5 * np.eye(N_CLASSES, 4)[codes]
    codes[:n_wrong] = (codes[:n_wrong] + 1) % N_CLASSES
    codes[n - n_unlabeled :] = -1
    return X.astype(np.float32), codes


def prepare(n_unlabeled=0, weight=None, held_out=(), rows=None, **params):
    """Settings and data of a fit of the blobs, or of other rows and codes."""
    X, codes = blobs(n_unlabeled=n_unlabeled) if rows is None else rows
    weight = np.ones(len(codes)) if weight is None else weight
    held_out = np.array(held_out, dtype=int)
    settings = resolve(
        {**PARAMS, **params},
        n_labeled=int(trained_rows(codes, weight, held_out).sum()),
        n_unlabeled=int(((codes < 0) & (weight > 0)).sum()),
    )
    cpu = torch.device("cpu")
    return settings, make_training_data(X, codes, weight, held_out, N_CLASSES, settings.dtype, cpu)


def make_table(n, sample_weight=None, rows=None):
    """Random rows whose sample weights all differ, unless others are given."""
    n_all = n if rows is None else int(rows.max()) + 1
    return Table(
        torch.randn(n_all, N_FEATURES, dtype=DTYPE),
        torch.arange(n) % N_CLASSES,
        0.5 + torch.rand(n, dtype=DTYPE) if sample_weight is None else sample_weight,
        rows,
    )


def make_history(n, sample_weight=None):
    """History of a stage with prior log odds, in which every row has been visited twice."""
    weight = 0.5 + torch.rand(n, dtype=DTYPE) if sample_weight is None else sample_weight
    margin, log_odds = torch.randn(2, n, dtype=DTYPE)
    history = SampleHistory(weight, N_CLASSES, margin, log_odds)
    labels = Labels(torch.arange(n), torch.zeros(n, dtype=torch.int64), weight)
    for _ in range(2):
        history.record_losses(labels, 3 * torch.rand(n, dtype=DTYPE))
        history.record_influence(labels, torch.randn(n, dtype=DTYPE))
    return history


WEIGHT_NETS = {
    "wnet": lambda network: WNet(n_hidden=8).to(DTYPE),
    "vri": lambda network: VRI(WIDTH, N_CLASSES).to(DTYPE),
    "evidence": lambda network: EvidenceNet(PRECISION).to(DTYPE),
}


def make_net(*callbacks, network=mlp, weighting=None, **settings):
    """Initialized net on the CPU, trained by plain SGD unless told otherwise."""
    defaults = {"optimizer": torch.optim.SGD, "lr": 0.3, "max_epochs": 1, "batch_size": 8}
    return ReweightedNet(
        lambda: network().to(DTYPE),
        weight_net=WEIGHT_NETS.get(weighting),
        callbacks=[(f"callback_{i}", callback) for i, callback in enumerate(callbacks)],
        iterator_train=ShuffledBatches,
        **{**defaults, **settings},
    ).initialize()


def add_meta_step(net, table, history=None, objective="clid", **settings):
    """Give a net its meta step, which comes before its other callbacks."""
    kind = BatchMetaStep
    if isinstance(net.weight_net_, EvidenceNet):
        kind = partial(BlockMetaStep, n_batches=settings.pop("n_batches", 1))
    defaults = {"virtual_step": "head", "n_warmup": 0, "meta_batch_size": None, "lr": 0.01}
    net.meta_step = kind(
        net.weight_net_,
        table,
        make_history(len(table)) if history is None else history,
        make_objective(objective, 0.5),
        **{**defaults, **settings},
    )
    net.callbacks = [("meta_step", net.meta_step), *net.callbacks]
    net.initialize_callbacks()
    return net.meta_step


class Script(Callback):
    """Writes given figures into the history, one epoch after the other."""

    def __init__(self, **curves):
        self.curves = curves

    def on_epoch_end(self, net, **kwargs):
        for name, values in self.curves.items():
            net.history.record(name, values[len(net.history) - 1])


class Diary(Callback):
    """Keeps batches and networks as they were after every batch and every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.n_ends = 0
        self.initial = deepcopy(net.module_)
        self.batches, self.losses, self.states = [], [], []
        self.averages, self.weight_nets, self.epochs, self.evaluated = [], [], [], []

    def on_batch_end(self, net, batch, y_pred, loss, **kwargs):
        self.batches.append((*batch, y_pred))
        self.losses.append(loss.item())
        self.states.append({k: v.clone() for k, v in net.module_.state_dict().items()})
        self.averages.append(vector(net.evaluated_module))
        if hasattr(net, "weight_net_"):
            self.weight_nets.append(vector(net.weight_net_))

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(deepcopy(net.module_))
        self.evaluated.append(vector(net.evaluated_module))

    def on_train_end(self, net, **kwargs):
        self.n_ends += 1

    @property
    def modules(self):
        """The network after every batch."""
        networks = [deepcopy(self.initial) for _ in self.states]
        for network, state in zip(networks, self.states, strict=True):
            network.load_state_dict(state)
        return networks

    def before(self):
        """The network before every batch."""
        return [self.initial, *self.modules[:-1]]


class Raise(Callback):
    """Raises an exception from one hook."""

    def __init__(self, hook, exception):
        self.exception = exception
        setattr(self, hook, self.strike)

    def strike(self, net, **kwargs):
        raise self.exception


def vector(module):
    """All parameters of a module in one vector."""
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def plain_loss(logits, labels):
    """Cross entropy under the caller's sample weights, by its definition."""
    given = logits.log_softmax(dim=1)[torch.arange(len(logits)), labels.targets]
    return -(labels.sample_weight * given).sum() / labels.sample_weight.sum()


def flat_gradient(value, parameters):
    gradients = torch.autograd.grad(
        value, list(parameters), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)
