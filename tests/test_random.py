"""Generators are seeded locally and restored; devices are resolved or refused."""

import os
import signal
import threading

import numpy as np
import pytest
import torch

from sklearn_clidmu import _random
from sklearn_clidmu._random import (
    forked_generators,
    local_generators,
    numpy_generator,
    resolve_device,
)

CPU = torch.device("cpu")


def test_numpy_generator_follows_the_random_state_and_not_the_global_generator():
    assert numpy_generator(3).randint(1000) == np.random.RandomState(3).randint(1000)
    rng = np.random.RandomState(0)
    assert numpy_generator(rng) is rng
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (numpy_generator(None).randint(2**31, size=8) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_local_generators_seed_torch_and_restore_it():
    before = torch.get_rng_state()
    draws = {}
    for seed in (0, 0, 1):
        with local_generators(seed, CPU) as drawn:
            assert torch.initial_seed() == drawn
            draws.setdefault(seed, []).append(torch.rand(3))
    torch.testing.assert_close(torch.get_rng_state(), before)
    torch.testing.assert_close(*draws[0])
    assert (draws[0][0] != draws[1][0]).any()


def test_local_generators_draw_differently_after_earlier_epochs():
    with local_generators(0, CPU) as first, local_generators(0, CPU, 2) as third:
        assert third == first + 2


def test_local_generators_restore_the_cuda_device_of_the_fit(monkeypatch):
    forked, fork_rng = [], torch.random.fork_rng

    def record(devices):
        forked.append(devices)
        return fork_rng(devices=[])  # there may be no such device

    monkeypatch.setattr(torch.random, "fork_rng", record)
    monkeypatch.setattr(_random, "seed_generators", lambda seed, device: None)  # as above
    for device in (CPU, torch.device("cuda:1")):
        with local_generators(0, device):
            pass
    assert forked == [[], [torch.device("cuda:1")]]


def test_forked_generators_restore_torch_after_an_error():
    before = torch.get_rng_state()

    def draw_and_fail():
        with forked_generators():
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        draw_and_fail()
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_forked_generators_are_entered_by_one_thread_at_a_time():
    seen, inside = [], threading.Event()

    def enter():
        inside.set()
        with forked_generators():
            seen.append("second")

    with forked_generators():
        other = threading.Thread(target=enter)
        other.start()
        inside.wait()
        other.join(timeout=0.2)
        seen.append("first")
    other.join()
    assert seen == ["first", "second"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_generators_can_be_entered_in_a_process_forked_while_they_were_held():
    release, held = threading.Event(), threading.Event()

    def hold():
        with forked_generators():
            held.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for ever
        with forked_generators():
            os._exit(0)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_resolve_device_accepts_names_and_devices():
    assert resolve_device("cpu") == resolve_device(CPU) == CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta", torch.device("cuda:99")])
def test_resolve_device_refuses_devices_that_cannot_be_used(device):
    with pytest.raises(ValueError, match=r"device=.* cannot be used here .* Use 'auto' or 'cpu'"):
        resolve_device(device)


def test_resolve_device_refuses_devices_without_double_precision(monkeypatch):
    zeros = torch.zeros

    def single(*size, dtype=torch.float32, device=None):
        if dtype == torch.float64:  # as MPS does
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return zeros(*size, dtype=dtype)

    monkeypatch.setattr(torch, "zeros", single)
    with pytest.raises(ValueError, match=r"device='cpu' cannot be used here .*float64"):
        resolve_device("cpu")
