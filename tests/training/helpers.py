"""What several test files share: small tables, nets, and callbacks that watch or write."""

from copy import deepcopy
from functools import partial

import torch
from skorch.callbacks import Callback, PassthroughScoring
from torch import nn

from sklearn_clidmu.estimator.building import build_network, build_weight_net
from sklearn_clidmu.mathematics.backbone import MLP
from sklearn_clidmu.mathematics.objectives import CLID
from sklearn_clidmu.training.batches import Labels, ShuffledBatches, Table
from sklearn_clidmu.training.ledger import Ledger
from sklearn_clidmu.training.meta_step import MetaStep
from sklearn_clidmu.training.net import ReweightedNet

N_FEATURES, N_CLASSES, WIDTH = 4, 3, 6
DTYPE = torch.float64
BELIEVED = torch.tensor([0.9, 0.6, 0.75], dtype=DTYPE)


class CountingMLP(nn.Module):
    """Not the package's MLP. Returns (logits, features), and counts its forward passes by mode."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(N_FEATURES, WIDTH), activation())
        self.head = nn.Linear(WIDTH, N_CLASSES)
        self.to(DTYPE)
        self.n_forwards = {True: 0, False: 0}

    def forward(self, X):
        self.n_forwards[self.training] += 1
        features = self.body(X)
        return self.head(features), features


class CountingTracedMLP(MLP):
    """The package's own MLP, traced in training; counts passes by mode, keeps untraced inputs."""

    def __init__(self, dropout=0.5):
        super().__init__(N_FEATURES, N_CLASSES, (5, WIDTH), dropout)
        self.to(DTYPE)
        self.n_forwards = {True: 0, False: 0}
        self.seen = []

    def forward(self, X):
        self.n_forwards[self.training] += 1
        self.seen.append(X)
        return super().forward(X)

    def blocks(self):  # of a traced pass
        self.n_forwards[self.training] += 1
        return super().blocks()


def batch_norm(n_features, n_classes):
    return nn.Sequential(
        nn.Linear(n_features, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, n_classes)
    )


def dropping(n_features, n_classes):
    return nn.Sequential(
        nn.Linear(n_features, WIDTH), nn.Tanh(), nn.Dropout(), nn.Linear(WIDTH, n_classes)
    )


def make_network(module=None, dropout=0.0, one_mask=False):
    """Builder of the package's own MLP, or of a tapped module."""
    return partial(
        build_network, module, (5, WIDTH), dropout, one_mask, (N_FEATURES,), N_CLASSES, dtype=DTYPE
    )


def make_table(n, rows=None, sample_weight=None):
    """Random rows whose sample weights all differ, unless others are given."""
    return Table(
        torch.randn(n, N_FEATURES, dtype=DTYPE),
        torch.randint(N_CLASSES, (n,)),
        0.5 + torch.rand(n, dtype=DTYPE) if sample_weight is None else sample_weight,
        rows,
    )


def make_ledger(n, sample_weight=None):
    """Ledger of a second training, in which every row has been visited twice."""
    weight = 0.5 + torch.rand(n, dtype=DTYPE) if sample_weight is None else sample_weight
    rivalry, distrust = torch.randn(2, n, dtype=DTYPE)
    ledger = Ledger(weight, N_CLASSES, rivalry, distrust)
    everyone = Labels(torch.arange(n), torch.zeros(n, dtype=torch.int64), weight)
    for _ in range(2):
        ledger.record_losses(everyone, 3 * torch.rand(n, dtype=DTYPE))
        ledger.record_influence(everyone, torch.randn(n, dtype=DTYPE))
    return ledger


def make_meta_step(table, ledger=None, objective=None, meta_table=None, **settings):
    """Meta step on every batch from the first on, which is its own meta batch."""
    defaults = {
        "virtual_step": "head",
        "warmup_epochs": 0,
        "interval": 1,
        "batch_size": None,
    }
    return MetaStep(
        table,
        table if meta_table is None else meta_table,
        make_ledger(len(table)) if ledger is None else ledger,
        CLID(0.5) if objective is None else objective,
        **{**defaults, **settings},
    )


def make_net(*callbacks, weighting=None, network=None, **settings):
    """Untrained net on the CPU, trained by plain SGD unless told otherwise."""
    if weighting is not None:
        believed = BELIEVED.clone() if weighting == "evidence" else None
        build = partial(
            build_weight_net,
            weighting=weighting,
            row_shape=(N_FEATURES,),
            n_classes=N_CLASSES,
            believed=believed,
            dtype=DTYPE,
        )
        settings = {"weight_net": build, **settings}
    defaults = {
        "optimizer": torch.optim.SGD,
        "lr": 0.3,
        "max_epochs": 1,
        "batch_size": 8,
        "device": "cpu",
    }
    return ReweightedNet(
        make_network() if network is None else network,
        callbacks=[(f"callback_{i}", callback) for i, callback in enumerate(callbacks)],
        iterator_train=ShuffledBatches,
        train_split=None,
        predict_nonlinearity=partial(torch.softmax, dim=-1),
        verbose=0,
        **{**defaults, **settings},
    )


def train_loss():
    return PassthroughScoring("train_loss", on_train=True)


class Seed(Callback):
    """Starts training from the same random numbers, whatever was built before."""

    def on_train_begin(self, net, **kwargs):
        torch.manual_seed(1)


class Script(Callback):
    """Writes given figures into the history, one epoch after the other."""

    def __init__(self, **curves):
        self.curves = curves

    def on_epoch_end(self, net, **kwargs):
        for name, values in self.curves.items():
            net.history.record(name, values[len(net.history) - 1])


class Diary(Callback):
    """Keeps the network and the weighting net after every batch and every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.n_ends = 0
        self.initial = deepcopy(net.module_)
        self.batches, self.epochs, self.losses = [], [], []
        self.modules, self.weight_vectors = [], [weight_vector(net)]

    def on_batch_end(self, net, batch, y_pred, loss, **kwargs):
        self.batches.append((*batch, y_pred.detach()))
        self.losses.append(loss.item())
        self.modules.append(deepcopy(net.module_))
        self.weight_vectors.append(weight_vector(net))

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(deepcopy(net.module_))

    def on_train_end(self, net, **kwargs):
        self.n_ends += 1

    def weight_net_moved(self):
        """Whether each batch has moved the weighting net."""
        pairs = zip(self.weight_vectors[:-1], self.weight_vectors[1:], strict=True)
        return [not torch.equal(before, after) for before, after in pairs]


def weight_vector(net):
    """All parameters of the weighting net in one vector; empty where there is none."""
    weight_net = getattr(net, "weight_net_", None)
    return torch.zeros(0) if weight_net is None else vector(weight_net)


def vector(module):
    """All parameters of a module in one vector."""
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def probabilities(module, X):
    """Softmax of a module's logits in evaluation mode."""
    with torch.no_grad():
        return module.eval()(X)[0].softmax(dim=1)
