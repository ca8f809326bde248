"""Recording on NVIDIA GPUs: the one place that knows `torch.cuda.CUDAGraph`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch

from clip_pkg.training.recording import default_generator
from clip_pkg.training.step import StepOutcome

Result = TypeVar("Result")


class CudaRecorder:
    """A `Recorder` for one device.

    generators: whatever is drawn from besides the device's default one.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self._device = device
        self._generators = generators
        # Rehearsed and recorded on one stream, because gradients are added up on the stream on
        # which their nodes were made, and libraries have their workspace by stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def rehearse(self, function: Callable[[], Result], *, strictly: bool) -> Result:
        """See `Recorder`."""
        with self._aside(), _no_waiting() if strictly else nullcontext():
            return function()

    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            # The stream is left even where the end of a recording fails. Other threads may do what
            # this one may not: the backward pass has one of its own, which gets memory.
            with (
                self._aside(),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                outcome = function()
        except BaseException:
            self._renew_generators()
            raise

        def replay() -> StepOutcome:
            graph.replay()
            return outcome

        return replay

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the stream of the recording, in order with the current one."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _renew_generators(self) -> None:
        """Free them of a recording that broke off: waiting for its end, they would not draw."""
        for generator in (default_generator(self._device), *self._generators):
            generator.graphsafe_set_state(torch.Generator(self._device))


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Let torch raise an error wherever the host waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
