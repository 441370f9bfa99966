"""Batches whose virtual steps are taken together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sklearn_clidmu.training.batches import Labels


class Block:
    """Collects batches of one size, one after the other, into stacks.

    Parameters
    ----------
    n_batches : int
        Of a full block.

    Attributes
    ----------
    n_entered : int
        Batches that are in the block.
    """

    def __init__(self, n_batches: int) -> None:
        self.n_batches = n_batches
        self._stacks: dict[int, list[Tensor]] = {}  # by the rows of a batch
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.n_entered = 0
        self._n_rows = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no place left."""
        return self.n_entered == self.n_batches

    def fits(self, n_rows: int) -> bool:
        """Whether a batch of so many rows can join."""
        return self.n_entered == 0 or self._n_rows == n_rows

    def enter(self, outputs: Sequence[Tensor], labels: Labels) -> None:
        """Copy what is known of a batch's rows: the next step may write to these tensors."""
        parts, self._n_rows = [*labels, *outputs], len(labels.rows)
        if self._n_rows not in self._stacks:
            self._stacks[self._n_rows] = [p.new_empty(self.n_batches, *p.shape) for p in parts]
        places = [stack[self.n_entered] for stack in self._stacks[self._n_rows]]
        torch._foreach_copy_(places, parts)
        self.n_entered += 1

    def stacks(self) -> tuple[list[Tensor], Labels]:
        """All outputs and labels, with one dimension more."""
        parts = [stack[: self.n_entered] for stack in self._stacks[self._n_rows]]
        n_labels = len(Labels._fields)
        return parts[n_labels:], Labels(*parts[:n_labels])
