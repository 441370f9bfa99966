"""All that the rest of a training depends on."""

from __future__ import annotations

from typing import Any

import torch

from sklearn_clidmu.estimator.preparation import generators
from sklearn_clidmu.training.net import ReweightedNet

PARTS = ("module_", "averaged_module_", "weight_net_", "optimizer_", "meta_optimizer_")
"""Attributes of a net that have a ``state_dict``; callbacks may have one, too."""


def net_state(net: ReweightedNet) -> dict[str, Any]:
    """State of a net between two epochs, as dicts, lists and tuples of numbers and tensors."""
    return {
        "parts": {name: part.state_dict() for name, part in _parts(net)},
        "callbacks": {name: callback.state_dict() for name, callback in _callbacks(net)},
        "history": net.history.to_list(),
        "n_steps": net.n_steps_,
        "collapse_epoch": net.collapse_epoch_,
        "diverged": net.diverged_,
        "generators": [generator.get_state() for generator in generators(_device(net))],
    }


def restore(net: ReweightedNet, state: dict[str, Any]) -> None:
    """Put a net that is about to be trained into a state that another was in."""
    for name, part in _parts(net):
        part.load_state_dict(state["parts"][name])
    for name, callback in _callbacks(net):
        callback.load_state_dict(state["callbacks"][name], net)
    net.history.extend(state["history"])
    net.n_steps_ = state["n_steps"]
    net.collapse_epoch_, net.diverged_ = state["collapse_epoch"], state["diverged"]
    for generator, entries in zip(generators(_device(net)), state["generators"], strict=True):
        generator.set_state(entries)


def _parts(net: ReweightedNet) -> list[tuple[str, Any]]:
    return [(name, getattr(net, name)) for name in PARTS if hasattr(net, name)]


def _callbacks(net: ReweightedNet) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in net.callbacks_ if hasattr(part, "state_dict")]


def _device(net: ReweightedNet) -> torch.device:
    return torch.device(net.device)
