"""Trained nets as plain Python and NumPy arrays, and back: what every kind of saved model holds."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_clidmu.estimator.building import build_network, build_weight_net
from sklearn_clidmu.estimator.preparation import forked_generators, resolve_device
from sklearn_clidmu.mathematics.backbone import Ensemble, members
from sklearn_clidmu.training.net import ReweightedNet


def describe_net(net: ReweightedNet) -> dict[str, Any]:
    """Trained net as plain Python and NumPy arrays, with no trace of torch or of a device.

    Parameters
    ----------
    net : ReweightedNet
        Trained; made by :func:`~sklearn_clidmu.estimator.building.build_net` or
        :func:`restore_net`.

    Returns
    -------
    dict
        "network": arguments of ``build_network``; "members": the arrays of one network, or of
        those that predict by their mean; "weighting" and "weight_net": kind and arrays of the
        weighting net, or None and no arrays; "n_steps", "diverged" and "evidence_sample": what
        training has left beside them.
    """
    build: Any = net.weight_net
    arguments = net.module.keywords
    return {
        "network": {**arguments, "dtype": str(arguments["dtype"]).removeprefix("torch.")},
        "members": [_arrays(member) for member in members(net.module_)],
        "weighting": None if build is None else build.keywords["weighting"],
        "weight_net": {} if build is None else _arrays(net.weight_net_),
        "n_steps": net.n_steps_,
        "diverged": net.diverged_,
        "evidence_sample": list(net.evidence_sample_),
    }


def restore_net(description: dict[str, Any], device: str) -> ReweightedNet:
    """Net from its description: predicts to the bit as the described one did on this device.

    Parameters
    ----------
    description : dict
        Made by :func:`describe_net`.
    device : str
        Where it was; without such a device here, it is on the CPU.
    """
    arguments = {**description["network"], "dtype": _dtype(description)}
    build = None
    if description["weighting"] is not None:
        common = {name: arguments[name] for name in ("row_shape", "n_classes", "dtype")}
        believed = torch.full((arguments["n_classes"],), 0.5)  # its place is taken
        build = partial(
            build_weight_net, weighting=description["weighting"], believed=believed, **common
        )
    with forked_generators():  # new networks draw parameters
        net = ReweightedNet(
            partial(build_network, **arguments),
            weight_net=build,
            optimizer=None,
            train_split=None,
            predict_nonlinearity=partial(torch.softmax, dim=-1),
            device=_device(device),
            verbose=0,
        ).initialize()
    first, *others = description["members"]
    networks = [net.module_, *(deepcopy(net.module_) for _ in others)]
    for network, arrays in zip(networks, [first, *others], strict=True):
        network.load_state_dict(_tensors(arrays))
    if others:
        net.module_ = Ensemble(networks)
    if build is not None:
        net.weight_net_.load_state_dict(_tensors(description["weight_net"]))
    net.trim_for_prediction()
    net.n_steps_ = description["n_steps"]
    net.diverged_ = description["diverged"]
    net.evidence_sample_ = tuple(description["evidence_sample"])
    return net


def _arrays(module: nn.Module) -> dict[str, Any]:
    state = module.state_dict()
    return {k: v.cpu().numpy() if isinstance(v, Tensor) else v for k, v in state.items()}


def _tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    # Copied: the memory may be read-only, or that of another network.
    return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()}


def _dtype(description: dict[str, Any]) -> torch.dtype:
    return {"float32": torch.float32, "float64": torch.float64}[description["network"]["dtype"]]


def _device(name: str) -> torch.device:
    try:
        return resolve_device(name)
    except ValueError:
        return torch.device("cpu")
