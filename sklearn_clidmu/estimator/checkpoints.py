"""Files from which a fit that was killed goes on, to the same end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback

from sklearn_clidmu.estimator.checkpoint_file import dump, load
from sklearn_clidmu.estimator.constraints import PARAMETER_CONSTRAINTS
from sklearn_clidmu.estimator.preparation import numpy_generator
from sklearn_clidmu.estimator.training_state import net_state, restore
from sklearn_clidmu.estimator.warning import warn
from sklearn_clidmu.training.net import ReweightedNet

N_KEPT = 2
"""Files that are kept of each training: the last, and one in case that it is cut short."""

UNRELATED = {"verbose", "checkpoint_dir", "on_interrupt"}
"""Parameters that do not change what is learned."""


class Checkpoints:
    """The files of one fit in a directory, which other fits may use, too.

    Parameters
    ----------
    directory : str or path-like
        Made if it is missing.
    fit : object
        All that decides what is learned: a fit with the same goes on from these files.

    Raises
    ------
    ValueError
        If there can be no such directory.
    """

    def __init__(self, directory: str | os.PathLike[str], fit: Any) -> None:
        self.directory = Path(directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"checkpoint_dir={str(directory)!r} is no directory and cannot be made one "
                f"({error}): choose another, or None."
            ) from error
        self.fingerprint = joblib.hash(fit, hash_name="sha1")
        self.n_trainings = 0
        self.seed: int | None = None
        self.enabled = True
        # What was being written when the fit was killed.
        delete(self.directory.glob(f".{self.fingerprint}-*"))

    def fix_seed(self, random_state: Any) -> Any:
        """Random state of the fit: of a fresh one that of the fit that left its files behind."""
        if random_state is not None:
            return random_state
        state = self._last("*")
        fresh = int(numpy_generator(None).randint(np.iinfo(np.int32).max))
        self.seed = fresh if state is None else state["seed"]
        return self.seed

    def next_training(self) -> Checkpoint:
        """Make the callback for the next training of the fit."""
        self.n_trainings += 1
        return Checkpoint(self, self.n_trainings)

    def last(self, training: int) -> dict[str, Any] | None:
        """Read the last sound state of a training; None if there is none."""
        return self._last(f"{training:02d}")

    def write(self, training: int, epoch: int, state: dict[str, Any]) -> None:
        """Write a state, and delete those that it makes superfluous; warn if that fails."""
        if not self.enabled:
            return
        path = self.directory / f"{self.fingerprint}-{training:02d}-{epoch:06d}.checkpoint"
        try:
            self._replace(path, dump({"seed": self.seed, **state}))
        except OSError as error:
            self.enabled = False
            warn(
                f"checkpoint_dir={str(self.directory)!r} cannot be written to ({error}): training "
                "goes on without checkpoints.",
                RuntimeWarning,
            )
        delete(self._files(f"{training:02d}")[N_KEPT:])

    def delete(self) -> None:
        """Delete all files of the fit, which has come to its end."""
        delete(self._files("*"))

    def _files(self, training: str) -> list[Path]:
        """Paths of the files of a training, the last epoch first."""
        pattern = f"{self.fingerprint}-{training}-*.checkpoint"
        return sorted(self.directory.glob(pattern), reverse=True)

    def _last(self, training: str) -> dict[str, Any] | None:
        states = (self._read(path) for path in self._files(training))
        return next((state for state in states if state is not None), None)

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            return load(path.read_bytes())
        except (OSError, ValueError) as error:
            warn(f"{path} is skipped: {error}", RuntimeWarning)
            return None

    def _replace(self, path: Path, content: bytes) -> None:
        """Write a file that is there as a whole or not at all, whenever the process is killed."""
        prefix = f".{self.fingerprint}-"
        handle, unfinished = tempfile.mkstemp(dir=self.directory, prefix=prefix)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            delete([Path(unfinished)])


def delete(paths: Iterable[Path]) -> None:
    """Delete files; those that are not there, or cannot be deleted, are left."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


class Checkpoint(Callback):
    """Begins with the last state of a training, and writes its state after every epoch.

    To be the last callback: what it writes is an epoch that all others have seen the end of.

    Parameters
    ----------
    checkpoints : Checkpoints
    training : int
        Number of the training in its fit.
    """

    def __init__(self, checkpoints: Checkpoints, training: int) -> None:
        self.checkpoints = checkpoints
        self.training = training

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Go on from the last state, if there is one."""
        state = self.checkpoints.last(self.training)
        if state is None:
            return
        try:
            restore(net, state)
        except Exception as error:  # whatever a file made to do harm brings about
            raise ValueError(
                f"checkpoint_dir={str(self.checkpoints.directory)!r} has a file of this fit that "
                f"was not written by it ({type(error).__name__}: {error}): delete those that "
                f"begin with {self.checkpoints.fingerprint}."
            ) from error

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Write the state."""
        self.checkpoints.write(self.training, len(net.history), net_state(net))


def open_checkpoints(
    params: BaseEstimator, *data: Any, start: ReweightedNet | None
) -> Checkpoints | None:
    """Open the files of a fit with these parameters and data; None where none are asked for."""
    if params.checkpoint_dir is None:
        return None
    values = {name: getattr(params, name) for name in PARAMETER_CONSTRAINTS.keys() - UNRELATED}
    chosen = {name: getattr(value, "__qualname__", value) for name, value in values.items()}
    begun = None if start is None else start.n_steps_
    return Checkpoints(params.checkpoint_dir, (chosen, data, begun, torch.__version__))
