"""Trained nets as plain Python and NumPy arrays, and back: what pickles and skops files hold."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_clidmu._random import forked_generators, resolve_device
from sklearn_clidmu._scaling import RobustScaler
from sklearn_clidmu.training.net import ReweightedNet
from sklearn_clidmu.training.net_factory import weight_net_builder
from sklearn_clidmu.training.networks import build_network


def describe_net(net: ReweightedNet) -> dict[str, Any]:
    """Trained net as plain Python and NumPy arrays, with no trace of torch or of a device.

    "network" are the arguments of ``build_network``, "parameters" its arrays.
    """
    arguments, build = net.module.keywords, net.weight_net
    scaler, dtype = arguments["scaler"], str(arguments["dtype"]).removeprefix("torch.")
    sizes = None if scaler is None else scaler.sizes
    return {
        "network": {**arguments, "dtype": dtype, "scaler": sizes},
        "parameters": _arrays(net.module_),
        "weighting": None if build is None else build.keywords["weighting"],
        "weight_net": {} if build is None else _arrays(net.weight_net_),
        "n_steps": net.n_steps_,
        "evidence_sample": list(net.evidence_sample_),
    }


def restore_net(description: dict[str, Any], device: str) -> ReweightedNet:
    """Net from its description, which predicts to the bit as before on the same device.

    Where there is no such device, the net is on the CPU.
    """
    arguments = {**description["network"]}
    arguments["dtype"] = {"float32": torch.float32, "float64": torch.float64}[arguments["dtype"]]
    if arguments["scaler"] is not None:
        arguments["scaler"] = RobustScaler(*arguments["scaler"])
    try:
        target = resolve_device(device)
    except ValueError:
        target = torch.device("cpu")
    build = weight_net_builder(description["weighting"], arguments)
    with forked_generators():  # new networks draw parameters
        net = ReweightedNet(
            partial(build_network, **arguments),
            weight_net=build,
            optimizer=None,
            device=target,
        ).initialize()
    net.module_.load_state_dict(_tensors(description["parameters"]))
    if build is not None:
        net.weight_net_.load_state_dict(_tensors(description["weight_net"]))
    net.trim_for_prediction()
    net.n_steps_ = description["n_steps"]
    net.evidence_sample_ = tuple(description["evidence_sample"])
    return net


def _arrays(module: nn.Module) -> dict[str, Any]:
    state = module.state_dict()
    return {k: v.cpu().numpy() if isinstance(v, Tensor) else v for k, v in state.items()}


def _tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    # Copied: the memory may be read-only, or that of another network.
    return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()}
