"""A progress bar over epochs."""

from __future__ import annotations

import math
from typing import Any

from skorch.callbacks import Callback

from sklearn_clidmu.training.net import ReweightedNet


class Progress(Callback):
    """One tqdm bar on standard error: loss, meta loss and CLID - log n of the last epoch."""

    def on_train_begin(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Open the bar."""
        from tqdm.auto import tqdm  # comes with skorch; slow to import and seldom needed

        self.bar = tqdm(total=net.max_epochs, desc="CLID-MU", unit="epoch")

    def on_epoch_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Move the bar on."""
        names = {
            "train_loss": "loss",
            "meta_loss": "meta loss",
            "clid": "CLID - log n",
            "valid_score": "validation",
        }
        row = net.history[-1]
        shown = {name: row[key] for key, name in names.items() if key in row}
        finite = {k: f"{v:.3f}" for k, v in shown.items() if math.isfinite(v)}
        self.bar.set_postfix(finite, refresh=False)
        self.bar.update()

    def on_train_end(self, net: ReweightedNet, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()
