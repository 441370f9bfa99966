"""What a meta step costs: fitting times side by side, against plain training of the same network.

    python benchmarks/speed.py [--shapes "small;medium"] [--methods "default;wnet"]
        [--repeats 7] [--epochs 4] [--device cpu] [--threads 1]

All methods train the same multi-layer perceptron, with the same batches, optimizer and number of
epochs, on the same random table, in turns. The table has the median seconds of a fit and the
median, least and most of its ratios to the plain loop in the same turn: CPU time on the CPU, time
by device events on a GPU, and wall time on both; then the steps of the network a second, and on a
GPU the peak of its memory. The default judges the labels beforehand, by five networks that train
for a third of the epochs and by a kernel regression; "no folds" by the kernel regression alone,
whose time does not grow with the epochs. That is in their seconds and not in their steps. On a GPU
there is one method more, the plain loop with its step captured in a CUDA graph. Needs
``pip install cleanlab pandas`` for cleanlab.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import make_classification
from skorch import NeuralNetClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_clidmu import CLIDMUClassifier, WNet
from sklearn_clidmu._settings import META_BATCH_ROWS
from sklearn_clidmu.clid.algorithm import clid_mu_step
from sklearn_clidmu.datasets import make_label_noise
from sklearn_clidmu.noise.loo_kernel_ridge import loo_proba

DROPOUT, LR, WEIGHT_DECAY = 0.3, 0.05, 0.02
META_LR, TEMPERATURE = 3e-3, 0.5


class Shape(NamedTuple):
    """Size of a table and of the network trained on it."""

    n: int
    d: int
    n_classes: int
    hidden: tuple[int, ...]
    batch_size: int


SHAPES = {
    "small": Shape(20_000, 64, 10, (256, 128), 128),
    "small, large batch": Shape(20_000, 64, 10, (256, 128), 512),
    "medium": Shape(20_000, 384, 20, (512, 256), 256),
    "large": Shape(50_000, 768, 100, (1024, 512), 512),
}


class Job(NamedTuple):
    """One fit: what every method is given."""

    X: np.ndarray
    y: np.ndarray
    shape: Shape
    epochs: int
    device: torch.device


def make_job(shape: Shape, epochs: int, device: str) -> Job:
    """Draw a table of overlapping classes, of which 30 % of the labels are made wrong."""
    X, y = make_classification(
        shape.n, shape.d, n_informative=20, n_classes=shape.n_classes, random_state=0
    )
    y, _ = make_label_noise(y, 0.3, random_state=0)
    return Job(X.astype(np.float32), y, shape, epochs, torch.device(device))


class PlainMLP(nn.Module):
    """The network as one would write it with the layers of torch: (logits, features)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((shape.d, *shape.hidden)):
            norm = nn.LayerNorm(n_out, elementwise_affine=False)
            layers += [nn.Linear(n_in, n_out), norm, nn.ReLU(), nn.Dropout(DROPOUT)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(shape.hidden[-1], shape.n_classes)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(X)
        return self.head(features), features


class Logits(PlainMLP):
    """That network without its features, as a plain training loop wants it."""

    def forward(self, X: Tensor) -> Tensor:
        return super().forward(X)[0]


def batches(job: Job) -> Callable:
    """Slices of a shuffled table that lies on the device; the loops below share it."""
    X = torch.tensor(job.X, device=job.device)
    y = torch.tensor(job.y, device=job.device)

    def epoch():
        for index in torch.randperm(len(X), device=job.device).split(job.shape.batch_size):
            yield X[index], y[index]

    return epoch


def make_sgd(module: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        module.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )


def plain_loop(job: Job) -> None:
    """Train with a loop written by hand."""
    epoch, module = batches(job), Logits(job.shape).to(job.device)
    optimizer = make_sgd(module)
    for _ in range(job.epochs):
        for X, y in epoch():
            optimizer.zero_grad()
            F.cross_entropy(module(X), y).backward()
            optimizer.step()


def textbook(job: Job) -> None:
    """Train by Algorithm 1 as printed: second-order graph, forward pass repeated."""
    epoch = batches(job)
    module = PlainMLP(job.shape).to(job.device)
    weight_net = WNet().to(job.device)
    optimizer = make_sgd(module)
    meta_optimizer = torch.optim.Adam(weight_net.parameters(), lr=META_LR)
    for _ in range(job.epochs):
        for X, y in epoch():
            X_meta = X[: META_BATCH_ROWS[1]]
            clid_mu_step(module, weight_net, optimizer, meta_optimizer, X, y, X_meta, TEMPERATURE)


def make_skorch(job: Job) -> NeuralNetClassifier:
    return NeuralNetClassifier(
        Logits,
        module__shape=job.shape,
        criterion=nn.CrossEntropyLoss,
        optimizer__momentum=0.9,
        max_epochs=job.epochs,
        batch_size=job.shape.batch_size,
        device=job.device,
        verbose=0,
    )


def plain_skorch(job: Job) -> None:
    """Train with skorch as it comes: its loader, its hold-out, its callbacks."""
    make_skorch(job).fit(job.X, job.y.astype(np.int64))


def cleanlab(job: Job) -> None:
    """Train with cleanlab around that skorch net."""
    from cleanlab.classification import CleanLearning

    CleanLearning(make_skorch(job), find_label_issues_kwargs={"n_jobs": 1}).fit(job.X, job.y)


def ours(**parameters) -> Callable[[Job], None]:
    """Train with this package."""

    def run(job: Job) -> None:
        settings = {"warmup_epochs": 0, **parameters}
        if settings["weighting"] is None:
            del settings["warmup_epochs"]
        CLIDMUClassifier(
            hidden_layer_sizes=job.shape.hidden,
            dropout=DROPOUT,
            weight_decay=WEIGHT_DECAY,
            lr=LR,
            max_epochs=job.epochs,
            batch_size=job.shape.batch_size,
            device=str(job.device),
            random_state=0,
            **settings,
        ).fit(job.X, job.y)

    return run


def kernel_regression(job: Job) -> None:
    """Estimate the label noise by leave-one-out kernel regression, as the default does first."""
    X, y = (torch.tensor(part, device=job.device) for part in (job.X, job.y))
    weight, generator = torch.ones_like(X[:, 0]), torch.Generator().manual_seed(0)
    loo_proba(X, y, job.shape.n_classes, weight, generator)


METHODS: dict[str, Callable[[Job], None]] = {
    "plain loop": plain_loop,
    "plain skorch": plain_skorch,
    "textbook": textbook,
    "weighting none": ours(weighting=None),
    "kernel regression alone": kernel_regression,
    "default": ours(weighting="evidence"),
    "no folds": ours(weighting="evidence", n_folds=None),
    "wnet": ours(weighting="wnet"),
    "vri": ours(weighting="vri"),
    "full step, wnet": ours(weighting="wnet", virtual_step="full"),
    "full step, vri": ours(weighting="vri", virtual_step="full"),
    "cleanlab": cleanlab,
}


class Cost(NamedTuple):
    """What one fit takes."""

    seconds: float
    """Of the CPU or, on a GPU, between two of its events."""
    wall: float
    """Seconds by the wall."""
    peak: float
    """MiB of the GPU's memory; 0 on the CPU."""


def clock(method: Callable[[Job], None], job: Job) -> Cost:
    """Measure one fit."""
    torch.manual_seed(0)
    start, wall = time.process_time(), time.perf_counter()
    if job.device.type == "cpu":
        method(job)
        return Cost(time.process_time() - start, time.perf_counter() - wall, 0)
    torch.cuda.reset_peak_memory_stats()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    method(job)
    end.record()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**20
    return Cost(begin.elapsed_time(end) / 1000, time.perf_counter() - wall, peak)


def measure(job: Job, names: list[str], repeats: int) -> dict[str, list[Cost]]:
    """Time the methods in turns, after one turn that does not count."""
    seconds: dict[str, list[Cost]] = {name: [] for name in names}
    warm = job._replace(X=job.X[:2000], y=job.y[:2000])
    for name in names:
        METHODS[name](warm)
    for _ in range(repeats):
        for name in names:
            seconds[name].append(clock(METHODS[name], job))
    return seconds


def print_table(name: str, job: Job, costs: dict[str, list[Cost]]) -> None:
    plain = np.array(costs["plain loop"])[:, :2]
    kind = "CPU" if job.device.type == "cpu" else "device"
    n_steps = job.epochs * math.ceil(job.shape.n / job.shape.batch_size)
    print(f"\n{name}: {job.shape}, {job.epochs} epochs, {len(plain)} repeats\n")
    print(f"| method | {kind}, s | ratio | least | most | wall, s | ratio | steps/s | peak, MiB |")
    print(f"|---|{8 * '---:|'}")
    for method, rows in costs.items():
        middle, ratios = Cost(*np.median(rows, axis=0)), np.array(rows)[:, :2] / plain
        figures = [middle.seconds, median(ratios[:, 0]), ratios[:, 0].min(), ratios[:, 0].max()]
        figures += [middle.wall, median(ratios[:, 1])]
        cells = [f"{figure:.2f}" for figure in figures]
        cells += [f"{n_steps / middle.wall:.0f}", f"{middle.peak:.0f}"]
        print(f"| {method} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(";")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=names, default=list(SHAPES), help="separated by ;")
    parser.add_argument("--methods", type=names, default=list(METHODS), help="separated by ;")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=4, help="of every method")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    methods = ["plain loop", *(name for name in args.methods if name != "plain loop")]
    with threadpool_limits(args.threads):
        for name in args.shapes:
            job = make_job(SHAPES[name], args.epochs, args.device)
            print_table(name, job, measure(job, methods, args.repeats))


if __name__ == "__main__":
    main()
