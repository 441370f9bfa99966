"""From checked arrays to what training needs: weights, a hold-out, tensors, a ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import _check_sample_weight
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_clidmu.estimator.arguments import check_numbers
from sklearn_clidmu.estimator.rows import principal_part, share_memory
from sklearn_clidmu.mathematics.evidence import rival_margin
from sklearn_clidmu.mathematics.leave_one_out import Kernel, leave_one_out_shares
from sklearn_clidmu.mathematics.noise_matrix import NoiseEstimate, estimate_noise
from sklearn_clidmu.training.batches import SparseRows, Table
from sklearn_clidmu.training.ledger import Ledger

if TYPE_CHECKING:
    from sklearn_clidmu.estimator.checkpoints import Checkpoints

SMALL_KERNEL = Kernel(inverse_width=0.3, penalty=3.0)
"""Kernel for a training set that fits one batch, where choosing would depend on how often a row
is repeated; the penalty is in rows of a table of :data:`SMALL_ROWS`."""

SMALL_ROWS = 64
"""A training set that fits one batch counts as so many rows, however often they are repeated."""


class Unlabeled(NamedTuple):
    """Rows without a label, and what the labelled ones say of all rows."""

    rows: Tensor
    """Their positions among all rows, int64."""
    shares: Tensor
    """Share of each class around every row, shape (n, n_classes)."""
    places: Tensor
    """Every row as the judge sees it, shape (n, ...)."""


class Prepared(NamedTuple):
    """Everything that training reads, on the training device."""

    everything: Table
    """All rows passed to fit, in the caller's order. Rows without a label are of class 0."""
    training: Table
    """The rows trained on."""
    held_out: Table | None
    """The rows kept for early stopping."""
    unlabeled: Unlabeled | None
    """The rows without a label; None where all have one."""
    ledger: Ledger
    noise: NoiseEstimate | None
    """What is known of the noise before any training, where it was asked for."""
    fits_one_batch: bool
    watchers: Sequence[tuple[str, Callback]] = ()
    """Callbacks that follow all trainings of the fit."""
    checkpoints: Checkpoints | None = None
    """Where the trainings are written to, and go on from."""

    @property
    def meta(self) -> Table:
        """The rows trained on, and those without a label; made anew at every call."""
        if self.unlabeled is None:
            return self.training
        rows = torch.cat([self.training.labels.rows, self.unlabeled.rows])
        return self.everything.take(rows.unique())  # sorted


def resolve_device(device: str) -> torch.device:
    """Torch device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError
        If torch knows no such device, or has none at hand.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here ({error}). Use 'auto' or 'cpu'."
        ) from error
    return resolved


def numpy_generator(random_state: Any) -> np.random.RandomState:
    """Make a generator; None means fresh entropy, and never NumPy's global generator."""
    return check_random_state(np.random.RandomState() if random_state is None else random_state)


_generators = RLock()
"""Held by the one thread that draws from torch's global generators."""


def _renew_lock() -> None:
    """Forget who held the lock: in a forked process no other thread is left to give it back."""
    global _generators
    _generators = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing is forked
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def forked_generators(devices: Sequence[int] = ()) -> Iterator[None]:
    """Put torch's generators back as they were in the end, those of CUDA ``devices`` included.

    One thread at a time, others wait: initialisation and dropout, above all in modules of the
    caller's own, draw from generators that all threads share.
    """
    with _generators, torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def local_generators(
    random_state: object, device: torch.device, n_earlier: int = 0
) -> Iterator[int]:
    """Seed torch's generators for the time of a fit, and put them back as they were.

    Yields the seed, drawn from ``random_state``; another one after ``n_earlier`` epochs.
    """
    seed = int(numpy_generator(random_state).randint(np.iinfo(np.int32).max)) + n_earlier
    devices = cuda_devices(device)
    with forked_generators(devices):
        torch.manual_seed(seed)
        yield seed


def generators(device: torch.device) -> list[torch.Generator]:
    """List the generators of torch that a training on this device draws from."""
    return [
        torch.default_generator,
        *(torch.cuda.default_generators[index] for index in cuda_devices(device)),
    ]


def cuda_devices(device: torch.device) -> list[int]:
    """Index of a CUDA device, for want of one that of the current; none of another device."""
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]


def row_weights(
    classes: np.ndarray,
    codes: np.ndarray,
    sample_weight: Any,
    class_weight: Any,
    unlabeled: str,
) -> np.ndarray:
    """Sample weights times class weights, with mean 1 where they are not zero, shape (n,).

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    codes : ndarray of shape (n,), int
        Encoded labels, -1 for none; then there is no class weight.
    sample_weight : array-like of shape (n,) or None
    class_weight : dict, "balanced" or None
    unlabeled : {"consistency", "meta", "ignore"}
        With "ignore" rows without a label get weight zero.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or if all sample weights are zero.
    """
    labeled = codes >= 0
    if not isinstance(sample_weight, (Real, type(None))):
        sample_weight = check_numbers(sample_weight, "sample_weight")
    weight = _check_sample_weight(
        sample_weight, codes, dtype=np.float64, ensure_non_negative=True, copy=True
    )
    if class_weight is not None:
        factors = compute_sample_weight(class_weight, classes[codes[labeled]])
        if not (np.isfinite(factors).all() and (factors >= 0).all()):
            raise ValueError(f"class_weight must be finite and not negative, got {class_weight!r}.")
        weight[labeled] *= factors
    if not weight[labeled].any():
        raise ValueError("sample_weight must have a positive entry, got zeros alone.")
    if unlabeled == "ignore":
        weight[~labeled] = 0
    return weight / weight[weight > 0].mean()


def hold_out(y: np.ndarray, candidates: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows to keep from training: stratified where every class has two rows to split.

    Parameters
    ----------
    y : ndarray of shape (n,), int
        Encoded labels.
    candidates : ndarray of int
        Rows that may be held out.
    fraction : float
        Share of the candidates.
    seed : int

    Returns
    -------
    ndarray of int
        Sorted positions among all rows.
    """
    counts = np.bincount(y[candidates])
    n_held_out = int(np.ceil(fraction * len(candidates)))
    if n_held_out >= len(candidates):
        raise ValueError(
            f"validation_fraction={fraction} leaves none of the {len(candidates)} rows to train "
            "on: lower it, or set early_stopping=False."
        )
    n_classes = np.count_nonzero(counts)
    roomy = min(n_held_out, len(candidates) - n_held_out) >= n_classes
    stratify = roomy and counts[counts > 0].min() >= 2
    splitter = StratifiedShuffleSplit if stratify else ShuffleSplit
    split = splitter(n_splits=1, test_size=n_held_out, random_state=seed)
    _, held_out = next(split.split(candidates, y[candidates]))
    return np.sort(candidates[held_out])


def prepare(
    X: Any,
    y: np.ndarray,
    sample_weight: np.ndarray,
    *,
    held_out: np.ndarray,
    n_classes: int,
    evidence: bool,
    batch_size: int,
    dtype: str,
    device: torch.device,
) -> Prepared:
    """Put the rows on the device and open a ledger for them.

    A training set that fits in one batch is handled so that a row of weight s counts exactly
    as s identical rows: in float64 unless another ``dtype`` is asked for.

    Parameters
    ----------
    X : ndarray of shape (n, ...), or csr_array or csr_matrix of shape (n, d)
    y : ndarray of shape (n,), int
        Encoded labels, -1 for none.
    sample_weight : ndarray of shape (n,)
        Rows of weight zero take no part.
    held_out : ndarray of int
        Rows kept from training.
    n_classes : int
    evidence : bool
        Whether the labels are judged by all other rows.
    batch_size : int
    dtype : {"auto", "float32", "float64"}
    device : torch.device
    """
    unlabeled = (sample_weight > 0) & (y < 0)
    trained = (sample_weight > 0) & (y >= 0)
    trained[held_out] = False
    n_trained = int(trained.sum())
    fits_one_batch = n_trained <= batch_size
    if dtype == "auto":
        dtype = "float64" if fits_one_batch else "float32"
    kind = getattr(torch, dtype)

    def tensor(values: np.ndarray, kind: torch.dtype) -> Tensor:
        return share_memory(values).to(device, kind)

    weight = tensor(sample_weight, kind)
    targets = tensor(y, torch.int64).clamp_min(0)
    sparse = not isinstance(X, np.ndarray)
    values = tensor(X.data if sparse else X, kind)
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
        raise ValueError(
            f"X has values too large for {dtype}: scale the features, for example with "
            "sklearn.preprocessing.StandardScaler, or set dtype='float64'."
        )
    trained_weight = weight if trained.all() else weight * tensor(trained, kind)
    everything = Table(SparseRows(X, kind, device) if sparse else values, targets, weight)
    rivalry = noise = without_label = None
    if evidence or unlabeled.any():
        places = tensor(principal_part(X, torch.initial_seed() % 2**32), kind) if sparse else values
        shares, noise = judge_labels(places, targets, n_classes, trained_weight, fits_one_batch)
        rivalry = rival_margin(shares, targets).to(weight)
        if unlabeled.any():
            rows = tensor(np.flatnonzero(unlabeled), torch.int64)
            without_label = Unlabeled(rows, shares, places)
    training = everything
    if n_trained < len(y):
        training = everything.take(tensor(np.flatnonzero(trained), torch.int64))
    return Prepared(
        everything=everything,
        training=training,
        held_out=everything.take(tensor(held_out, torch.int64)) if len(held_out) else None,
        unlabeled=without_label,
        ledger=Ledger(trained_weight, n_classes, rivalry),
        noise=noise if evidence else None,
        fits_one_batch=fits_one_batch,
    )


def start_over(data: Prepared, distrust: Tensor | None = None) -> Prepared:
    """Open a new ledger, in which nothing stands but the distrust that a training has left.

    Parameters
    ----------
    data : Prepared
    distrust : Tensor of shape (n,), optional
        By default no training has left any.
    """
    old = data.ledger
    ledger = Ledger(old.sample_weight, old.n_classes, old.rivalry, distrust)
    return data._replace(ledger=ledger)


def relabel(data: Prepared, targets: Tensor, noise: NoiseEstimate | None) -> Prepared:
    """Open a new ledger for a training on all rows, now that all have a label.

    Parameters
    ----------
    data : Prepared
        With rows without a label.
    targets : Tensor of shape (n,), int64
    noise : NoiseEstimate or None
        Of the new labels.
    """
    assert data.unlabeled is not None
    rows, shares, _ = data.unlabeled
    table, old = data.everything, data.ledger
    everything = Table(table.X, targets, table.sample_weight)
    weight = old.sample_weight.index_copy(0, rows, table.sample_weight[rows])
    training = everything.take(weight.nonzero().squeeze(1))
    rivalry = rival_margin(shares, targets).to(weight)
    return data._replace(
        everything=everything,
        training=training,
        ledger=Ledger(weight, old.n_classes, rivalry),
        noise=noise,
        fits_one_batch=False,  # however few they are, neighbours depend on repeated rows
    )


def judge_labels(
    places: Tensor, targets: Tensor, n_classes: int, sample_weight: Tensor, fits_one_batch: bool
) -> tuple[Tensor, NoiseEstimate]:
    """Hold each row's label against all other rows, before any training.

    Parameters
    ----------
    places : Tensor of shape (n, ...)
        Rows, as the judge sees them.
    targets : Tensor of shape (n,), int64
        Given labels.
    n_classes : int
    sample_weight : Tensor of shape (n,)
        0 for rows that are not trained on: they are judged, but judge nobody.
    fits_one_batch : bool

    Returns
    -------
    shares : Tensor of shape (n, n_classes)
        Share of each class around each row.
    noise : NoiseEstimate
    """
    # Its own generator: with and without reweighting, training draws the same.
    generator = torch.Generator().manual_seed(torch.initial_seed())
    row, kernel = 1.0, None
    if fits_one_batch:
        row = float(sample_weight.sum()) / SMALL_ROWS
        kernel = SMALL_KERNEL._replace(penalty=SMALL_KERNEL.penalty * row)
    shares = leave_one_out_shares(places, targets, n_classes, sample_weight, generator, kernel)
    noise = estimate_noise(shares, targets, sample_weight, row)
    noise = NoiseEstimate(*(figures.to(places) for figures in noise))
    return shares, noise
