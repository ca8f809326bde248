"""The training step as a CUDA graph, the config's key `cuda_graphs`: recorded once, then replayed.

Small models finish a step faster than the host launches its hundreds of kernels; a replay costs one
launch. A recording is used only if it gives the results of the step from the same state, with the
same batch and the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from clip_pkg.base.errors import first_line
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.batches import Batch
from clip_pkg.losses.contract import LossOutput
from clip_pkg.training.image_forward import WholeBatch
from clip_pkg.training.step import StepInputs, StepOutcome, TrainingStep

Result = TypeVar("Result")

# Estimates for "auto". Recording takes as long as a few steps, and a second set of activations;
# large batches keep a GPU busy for longer than the host needs to launch their kernels.
PAYS_FROM_STEPS = 500
PAYS_UP_TO_PIXELS = 64 * 224 * 224

REPETITIONS = 3  # of the eager step; the first also chooses kernels and allocates memory
# Allowed distance of a replayed step from the eager one: this share of what the step changes (of an
# output: of the output), and this multiple of the distance between two eager runs, because some
# kernels of a GPU add up in any order. Below is float32 rounding.
TOLERANCE = 0.01
TIMES_OWN_SPREAD = 10.0
ROUNDING = 4 * torch.finfo(torch.float32).eps


class Unrecordable(Exception):
    """The step cannot be recorded, or its recording gives other results; holds the reason."""


class Recorder(Protocol):
    """Records the device's work in a function."""

    def rehearse(self, function: Callable[[], Result], *, strictly: bool) -> Result:
        """Call `function` on the recording's stream; strictly: raise if it waits for the device."""
        ...

    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        """Return a function that repeats the work into the tensors of the recorded call."""
        ...


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """A `TrainingStep` that is replayed for batches of the recorded size.

    inputs: tensors that the recording reads. replay: each call overwrites the previous outcome.
    """

    step: TrainingStep
    inputs: StepInputs
    replay: Callable[[], StepOutcome]

    def __call__(self, batch: Batch) -> StepOutcome:
        inputs = self.step.prepare(batch)
        if inputs.images.shape != self.inputs.images.shape:
            return self.step.compute(inputs, self.step.optimisation.apply)
        return self.take(inputs)

    def take(self, inputs: StepInputs) -> StepOutcome:
        """Replay the step with these inputs."""
        for place, given in zip(self.inputs.tensors(), inputs.tensors(), strict=True):
            place.copy_(given)
        return self.step.optimisation.replay(self.replay)


def recorder_for(device: torch.device, generators: Sequence[torch.Generator]) -> Recorder | None:
    """Recorder for a device; None if it cannot record."""
    if device.type == "cuda" and torch.version.hip is None:
        return CudaRecorder(device, generators)
    return None


def pays(config: RunConfig, steps: int) -> bool:
    """Whether "auto" records; steps: of the whole training."""
    pixels = config.batch_size * config.img_size**2
    return steps >= PAYS_FROM_STEPS and pixels <= PAYS_UP_TO_PIXELS


def obstacle(
    step: TrainingStep, config: RunConfig, *, device: torch.device, n_train: int, profiles: bool
) -> str | None:
    """Why the step cannot be recorded, as far as known in advance; None if nothing prevents it.

    n_train: training images. profiles: whether --profile is on.
    """
    encoder = step.model.image_encoder
    losses = [config.loss, *config.aux_losses]
    waiting = [f'"{loss.type}"' for loss in losses if not loss.can_be_recorded]
    obstacles = {
        f"it runs on {device}, and only NVIDIA GPUs can": recorder_for(device, []) is None,
        "batches go through the image encoder in micro-batches, or over several processes": (
            not isinstance(step.embed, WholeBatch)
        ),
        "in float16 the host chooses the loss scale": step.precision.needs_scaling,
        "the image encoder is compiled": encoder.is_compiled,
        "activation_checkpointing restores random numbers": encoder.recomputes,
        f"the loss {' and '.join(waiting)} waits for the device": bool(waiting),
        "--profile measures its phases": profiles,
        f"no batch has {config.batch_size} images": n_train < config.batch_size,
    }
    return next((reason for reason, is_so in obstacles.items() if is_so), None)


def with_recording(step: TrainingStep, batch: Batch, recorder: Recorder) -> RecordedStep:
    """Record the step for batches like this one.

    Parameters, optimiser, statistics and random numbers are left unchanged.
    Raises Unrecordable with the reason.
    """
    try:
        inputs = step.prepare(batch)
        state = _State(step)
        try:
            return _recorded(step, inputs, state, recorder)
        finally:
            state.restore()
    except torch.OutOfMemoryError as error:
        raise Unrecordable("there is not enough memory for it") from error


def _recorded(
    step: TrainingStep, inputs: StepInputs, state: _State, recorder: Recorder
) -> RecordedStep:
    def eagerly() -> StepOutcome:
        return _detached(step.compute(inputs, step.optimisation.apply))

    first = state.results_of(lambda: recorder.rehearse(eagerly, strictly=False))
    first = {name: value.clone() for name, value in first.items()}
    if not bool(torch.isfinite(first["the loss"])):
        raise Unrecordable("the loss of the first step is not finite")
    changes, lengths = _distances(first, state.before), _distances(first, {})
    spread = dict.fromkeys(first, 0.0)  # of eager runs
    for _ in range(REPETITIONS - 1):
        try:
            again = state.results_of(lambda: recorder.rehearse(eagerly, strictly=True))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise Unrecordable(f"it waits for the device ({first_line(error)})") from error
        for name, distance in _distances(again, first).items():
            spread[name] = max(spread[name], distance)

    state.restore()
    # Recorded with zeros as inputs, so that nothing of this batch can be in the recording.
    place = StepInputs(
        *(None if one is None else torch.zeros_like(one) for one in vars(inputs).values())  # type: ignore[arg-type]
    )
    try:
        replay = recorder.record(
            lambda: _detached(step.compute(place, step.optimisation.apply_recordably))
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the device's library fails in many ways
        cause: BaseException = error
        while cause.__context__ is not None:  # the last error only reports that the end failed too
            cause = cause.__context__
        raise Unrecordable(first_line(cause)) from error

    recorded = RecordedStep(step, place, replay)
    replayed = state.results_of(lambda: recorded.take(inputs))
    for name, distance in _distances(replayed, first).items():
        allowed = TOLERANCE * changes[name] + ROUNDING * lengths[name]
        allowed += TIMES_OWN_SPREAD * spread[name]
        if not distance <= allowed:  # also false for NaN
            raise Unrecordable(
                f"its replay gives other results: {name} differs by {distance:.2g}, more than the "
                f"allowed {allowed:.2g}"
            )
    return recorded


def _detached(outcome: StepOutcome) -> StepOutcome:
    """Drop the autograd graph, whose nodes belong to the stream that made them."""
    output = outcome.output
    return StepOutcome(
        LossOutput(
            output.total.detach(),
            {name: part.detach() for name, part in output.terms.items()},
            output.weights,
            {name: value.detach() for name, value in output.statistics.items()},
        ),
        outcome.logits.detach(),
        outcome.targets,
    )


class _State:
    """Everything that a step changes or draws from, as it was at the construction."""

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        device = step.negatives_generator.device
        self._generators = [default_generator(device), step.negatives_generator]
        self._random = [generator.get_state() for generator in self._generators]
        self._steps_done = step.optimisation.step_count
        self.before = {name: value.clone() for name, value in self.now().items()}

    def now(self) -> dict[str, Tensor]:
        """The tensors themselves, by name."""
        modules = {"the model's": self._step.model, "the loss's": self._step.objective}
        buffers = {
            f"{whose} {name}": value
            for whose, module in modules.items()
            for name, value in module.named_buffers()
        }
        found = {**buffers, **self._step.optimisation.tensors()}
        return {name: value.detach() for name, value in found.items()}

    def results_of(self, take: Callable[[], StepOutcome]) -> dict[str, Tensor]:
        """Outcome of a step from this state, and the state after it."""
        self.restore()
        outcome = take()
        output = outcome.output
        return {
            "the loss": output.total,
            **{f"its term {name}": value for name, value in output.terms.items()},
            **{f"its statistic {name}": value for name, value in output.statistics.items()},
            "the logits": outcome.logits,
            "the targets": outcome.targets,
            **self.now(),
        }

    def restore(self) -> None:
        for name, value in self.now().items():
            if name in self.before:
                value.copy_(self.before[name])
            else:
                value.zero_()  # AdamW's state, which a first step has made
        for generator, drawn in zip(self._generators, self._random, strict=True):
            generator.set_state(drawn)
        self._step.optimisation.step_count = self._steps_done


def default_generator(device: torch.device) -> torch.Generator:
    """Generator that layers on a device draw from."""
    if device.type == "cpu":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    generator: torch.Generator = torch.cuda.default_generators[index]
    return generator


def _distances(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Euclidean distance of each tensor from its namesake, or from 0. Waits for the device."""

    def distance(name: str, value: Tensor) -> Tensor:
        mine = value.double()
        other = theirs[name].double() if name in theirs else torch.zeros_like(mine)
        # Masks hold infinities, whose difference is NaN.
        difference = torch.where(mine == other, 0.0, mine - other)
        length: Tensor = torch.linalg.vector_norm(difference)
        return length

    distances = torch.stack([distance(*item) for item in ours.items()]).tolist()
    return dict(zip(ours, distances, strict=True))


class CudaRecorder:
    """`Recorder` of one NVIDIA GPU.

    generators: all that are drawn from besides the device's default one.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self._device = device
        self._generators = generators
        # Rehearsed and recorded on one stream, because gradients are added up on the stream on
        # which their nodes were made, and libraries have a workspace per stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def rehearse(self, function: Callable[[], Result], *, strictly: bool) -> Result:
        with self._own_stream(), _no_waiting() if strictly else nullcontext():
            return function()

    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            # The stream is left even if the end of a recording fails. Other threads may do what
            # this one may not: the backward pass has its own, which allocates memory.
            with (
                self._own_stream(),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                outcome = function()
        except BaseException:
            # Generators of a broken recording wait for its end and would not draw.
            for generator in (default_generator(self._device), *self._generators):
                generator.graphsafe_set_state(torch.Generator(self._device))
            raise

        def replay() -> StepOutcome:
            graph.replay()
            return outcome

        return replay

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """On the stream of the recording, in order with the current one."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Let torch raise an error wherever the host waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
