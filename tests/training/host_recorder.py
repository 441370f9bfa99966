"""A stand-in for CUDA graphs on the CPU: operators are recorded, and replayed on the same memory.

What it shares with CUDA graphs: nothing is carried out while it records; a replay knows nothing of
what the host has decided or computed since; results lie where they lay; and whatever waits for the
device, or copies to it, is refused.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sklearn_clidmu.training import captured_steps
from sklearn_clidmu.training.net import ReweightedNet

REFUSED = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "lift_fresh",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
}
"""Operators that wait for the device, or that copy something of the host's to it."""

RESHAPING = {"squeeze_", "t_", "transpose_", "unsqueeze_"}
"""Operators in place that leave all entries alone."""


class HostRecorder:
    """Records the operators of some work.

    Parameters
    ----------
    generators : sequence of torch.Generator
        Those that the work draws from, beside torch's own.
    """

    def __init__(self, generators=()):
        self.generators = [torch.default_generator, *generators]
        self.n_recordings = self.n_replays = 0

    def __call__(self, work):
        self.n_recordings += 1
        states = [generator.get_state() for generator in self.generators]
        tape = Tape()
        try:
            with tape:
                result = work()
        finally:
            tape.undo()
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)
        return result, lambda: self.replay(tape)

    def replay(self, tape):
        self.n_replays += 1
        tape.play()


def record_on_the_host(monkeypatch, n_eager):
    """Have all nets record their steps from here on; return the recorders, as they are made."""
    made = []

    def make_recorder(net):
        made.append(HostRecorder(net.generators))
        return made[-1]

    monkeypatch.setattr(ReweightedNet, "make_recorder", make_recorder)
    monkeypatch.setattr(captured_steps, "N_EAGER", n_eager)
    return made


class Tape(TorchDispatchMode):
    """Keeps operators with the tensors that they read and write."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.before = {}
        self.made = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operator._schema.name.partition("::")[2]
        if name in REFUSED:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        read = {storage(t): t for t in tensors((args, kwargs))}
        for place, tensor in read.items():
            if place is not None and place not in self.before and place not in self.made:
                whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())
                self.before[place] = whole, whole.clone()
        found = operator(*args, **kwargs)
        self.made |= {storage(t) for t in tensors(found)} - read.keys()
        moves_nothing = (
            name.startswith("empty")
            or name in RESHAPING
            or (not operator._schema.is_mutable and any(storage(t) in read for t in tensors(found)))
        )
        if not moves_nothing:
            self.calls.append((operator, *map(as_now, (args, kwargs, found))))
        return found

    def undo(self):
        """Put back what was there before: work that is recorded is not carried out."""
        with torch.no_grad():
            for now, before in self.before.values():
                now.copy_(before)

    def play(self):
        """Carry out the operators, and leave their results where they lay."""
        with torch.no_grad():
            for operator, args, kwargs, found in self.calls:
                again = operator(*args, **kwargs)
                for place, value in zip(tensors(found), tensors(again), strict=True):
                    if place.data_ptr() != value.data_ptr():
                        place.copy_(value)


def as_now(tree):
    """Aliases of all tensors, whose shapes stay what they are."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(tensor):
    """Address of a tensor's memory; None for the zeros of forward mode, which have none."""
    return None if tensor._is_zerotensor() else tensor.untyped_storage().data_ptr()
