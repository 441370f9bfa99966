"""Training steps on a GPU, recorded once and replayed: one launch in the place of two hundred."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sklearn_clidmu.training.batches import Labels

N_EAGER = 10
"""Steps of a kind that are taken as they come. In the first, optimizers and libraries set
themselves up, which cannot be recorded; and what comes seldom is not worth a recording."""

Batch = tuple[Tensor, Labels]
Step = dict[str, Tensor]
Recorder = Callable[[Callable[[], Step]], tuple[Step, Callable[[], None]]]
"""Records work that is launched on a device, without carrying it out. Returns the tensors that the
work returns, and what carries it out, as often as asked, on the same memory."""


class Recording(NamedTuple):
    """A step that can be replayed."""

    inputs: list[Tensor]
    """Where its batch is looked for."""
    result: Step
    """Where its result is left."""
    replay: Callable[[], None]


class CapturedSteps:
    """Takes training steps, and replays those of a kind that has been recorded.

    A recording is a list of kernels with the addresses that they read and write. What the host
    has decided in a step is frozen in it, so it has to be part of the step's kind; and what changes
    from step to step must lie in tensors that stay where they are.

    Parameters
    ----------
    step : callable
        Maps a batch to its result, without waiting for the device.
    recorder : callable
        Records work, such as a :class:`CudaRecorder`.

    Attributes
    ----------
    error : str or None
        What torch said when a step could not be recorded; since then, none is.
    """

    def __init__(self, step: Callable[[Batch], Step], recorder: Recorder) -> None:
        self.step = step
        self.recorder = recorder
        self.error: str | None = None
        self.forget()

    def forget(self) -> None:
        """Forget all recordings: tensors that they read or write have been replaced."""
        self.n_taken: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, Recording] = {}

    def __call__(self, batch: Batch, kind: Hashable) -> Step:
        """Take one step.

        Parameters
        ----------
        batch : tuple of Tensor and Labels
        kind : hashable
            What the host decides in this step, but for the size of the batch.
        """
        kind = (len(batch[0]), kind)
        if kind not in self.recordings:
            self.n_taken[kind] += 1
            eager = self.error is not None or self.n_taken[kind] <= N_EAGER
            if eager or not self._record(batch, kind):
                return self.step(batch)
        recording = self.recordings[kind]
        for place, values in zip(recording.inputs, (batch[0], *batch[1]), strict=True):
            place.copy_(values)
        recording.replay()
        return recording.result

    def _record(self, batch: Batch, kind: Hashable) -> bool:
        """Record a step; say whether that went well."""
        X, *labels = (values.clone() for values in (batch[0], *batch[1]))
        try:
            result, replay = self.recorder(lambda: self.step((X, Labels(*labels))))
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.error = str(error)
            return False
        self.recordings[kind] = Recording([X, *labels], result, replay)
        return True


class CudaRecorder:
    """Records work in CUDA graphs, which share their memory.

    Parameters
    ----------
    device : torch.device
    optimizers : sequence of torch.optim.Optimizer
        Those that take a step in the work; fused ones.
    generators : sequence of torch.Generator
        Those that the work draws from, beside the device's own.
    """

    def __init__(
        self,
        device: torch.device,
        optimizers: Sequence[torch.optim.Optimizer],
        generators: Sequence[torch.Generator],
    ) -> None:
        self.generators = generators
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.stream: Any = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        """Record work that is launched by this thread."""
        graph = torch.cuda.CUDAGraph()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's later versions, which do without
            for generator in self.generators:
                graph.register_generator_state(generator)
        with (
            torch.cuda.device(self.stream.device),
            self._capturable(),
            # Other threads may go on using the device.
            torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"),
        ):
            result = work()
        return result, graph.replay

    @contextmanager
    def _capturable(self) -> Iterator[None]:
        """Have the optimizers say that they can be recorded, but warn of no step that is not."""
        groups = [group for group in self.groups if "capturable" in group]
        for group in groups:
            group["capturable"] = True
        try:
            yield
        finally:
            for group in groups:
                group["capturable"] = False
