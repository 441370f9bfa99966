"""What is shown while a fit is under way: a bar, or a line an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skorch.callbacks import Callback

from sklearn_clidmu.training.net import ReweightedNet

FIGURES = {
    "train_loss": ("loss", "loss"),
    "meta_loss": ("meta loss", None),
    "clid": ("CLID - log n", "CLID"),
    "valid_score": ("validation", "valid"),
}
"""Entries of the net's history that are shown, with their names in the log and, where there is
room for them, beside the bar."""

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
"""What fits into 80 columns: tqdm's own format without the rate."""


@contextmanager
def progress(verbose: int, n_trainings: int) -> Iterator[list[tuple[str, Callback]]]:
    """Yield the callback that shows how a fit goes; none with ``verbose=0``.

    Parameters
    ----------
    verbose : int
        1 shows a bar on standard error; from 2 on a line an epoch is printed instead, which
        a log keeps.
    n_trainings : int
        Trainings that one fit is expected to take; the callback is to be given to all of them.
    """
    if not verbose:
        yield []
    elif verbose > 1:
        yield [("progress", Log(n_trainings))]
    else:
        bar = Bar(n_trainings)
        try:
            yield [("progress", bar)]
        finally:  # also after an error, and where fewer trainings were taken than expected
            bar.close()


class Bar(Callback):
    """One tqdm bar on standard error over all trainings of a fit, with the last epoch's figures.

    Parameters
    ----------
    n_trainings : int
    """

    def __init__(self, n_trainings: int) -> None:
        self.n_trainings = n_trainings
        self.bar: Any = None
        self.n_begun = 0

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Open the bar with the first training; say which one this is."""
        if self.bar is None:
            from tqdm.auto import tqdm  # comes with skorch; slow to import and seldom needed

            self.bar = tqdm(total=0, bar_format=BAR, dynamic_ncols=True)
        self._expect_all_left(net)
        self.n_begun += 1
        self.bar.set_description(f"CLID-MU {self.n_begun}/{self.n_trainings}", refresh=False)

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Move the bar on."""
        row = net.history[-1]
        shown = {short: row.get(key, math.nan) for key, (_, short) in FIGURES.items() if short}
        figures = (f"{name} {value:.3f}" for name, value in shown.items() if math.isfinite(value))
        self.bar.set_postfix_str(", ".join(figures), refresh=False)
        self.bar.update()

    def on_train_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Take epochs that were not needed off what is left."""
        self._expect_all_left(net)
        self.bar.refresh()

    def _expect_all_left(self, net: ReweightedNet) -> None:
        """Set the end of the bar as if trainings not yet begun were of as many epochs as this."""
        self.bar.total = self.bar.n + (self.n_trainings - self.n_begun) * net.max_epochs

    def close(self) -> None:
        """Close the bar, and leave it on the screen."""
        if self.bar is not None:
            self.bar.close()


class Log(Callback):
    """Prints a line an epoch to standard output, where ``verbose`` asks for it.

    Parameters
    ----------
    n_trainings : int
    """

    def __init__(self, n_trainings: int) -> None:
        self.n_trainings = n_trainings
        self.n_begun = 0

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Count the training."""
        self.n_begun += 1

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Print the epoch's figures, and above the first what they are; a dash for what is not."""
        row, n_epochs = net.history[-1], len(net.history)
        names = {key: name for key, (name, _) in FIGURES.items() if key in row}
        if n_epochs == self.n_begun == 1:
            print("training", "  epoch", *(f"{name:>12}" for name in names.values()), sep="  ")
        figures = (f"{row[key]:.4f}" if math.isfinite(row[key]) else "-" for key in names)
        columns = f"{self.n_begun}/{self.n_trainings}", f"{n_epochs:>3}/{net.max_epochs:<3}"
        print(f"{columns[0]:>8}", columns[1], *(f"{f:>12}" for f in figures), sep="  ", flush=True)
