"""The training step recorded once and replayed as one command to the device (a CUDA graph).

A step of a small model is over before the host has started its hundreds of kernels. Replayed, it
costs one start. Nothing is taken on trust: a recording has to do what the step does, from the same
state, with the same batch and the same random numbers, before it takes the step's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from clip_pkg.base.errors import first_line
from clip_pkg.data.batches import Batch
from clip_pkg.losses.contract import LossOutput
from clip_pkg.training.step import RecordedStep, StepInputs, StepOutcome, TrainingStep

Result = TypeVar("Result")

REPETITIONS = 3  # of the step itself; the first also finds kernels and memory
# How far a replayed step may be from the step itself: this share of what the step changes (of an
# output: of the output), and so many times as far as two runs of the step itself are from each
# other, because some kernels of a GPU add up in any order. Below is what float32 can tell apart.
TOLERANCE = 0.01
TIMES_OWN_SPREAD = 10.0
ROUNDING = 4 * torch.finfo(torch.float32).eps


class Unrecordable(Exception):
    """The step cannot be recorded, or its recording does something else; says why."""


class Recorder(Protocol):
    """Records what a function makes the device do."""

    def rehearse(self, function: Callable[[], Result], *, strictly: bool) -> Result:
        """Call it where it is to be recorded; strictly: raise if it waits for the device."""
        ...

    def record(self, function: Callable[[], StepOutcome]) -> Callable[[], StepOutcome]:
        """Return what does the same again, with the tensors of the one time it was recorded."""
        ...


def with_recording(step: TrainingStep, batch: Batch, recorder: Recorder) -> TrainingStep:
    """Return the same step, recorded for batches like this one.

    Parameters, optimiser, statistics and random numbers are left as they were found.
    Raises Unrecordable with the reason.
    """
    try:
        inputs = step.prepare(batch)
        state = _State(step)
        try:
            return replace(step, recorded=_checked(step, inputs, state, recorder))
        finally:
            state.restore()
    except torch.OutOfMemoryError as error:
        raise Unrecordable("memory is too short for it") from error


def _checked(
    step: TrainingStep, inputs: StepInputs, state: _State, recorder: Recorder
) -> RecordedStep:
    def eagerly() -> StepOutcome:
        return _detached(step.compute(inputs, step.optimisation.apply))

    expected = _Expectation(state, lambda: recorder.rehearse(eagerly, strictly=False))
    for _ in range(REPETITIONS - 1):
        try:
            expected.see_again(lambda: recorder.rehearse(eagerly, strictly=True))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise Unrecordable(f"it waits for the device ({first_line(error)})") from error
    state.restore()
    # Recorded with zeros as its inputs, so that nothing of this batch can be part of the recording.
    place = StepInputs(
        *(None if one is None else torch.zeros_like(one) for one in vars(inputs).values())  # type: ignore[arg-type]
    )
    try:
        replay = recorder.record(
            lambda: _detached(step.compute(place, step.optimisation.apply_recordably))
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the device's library fails in all kinds of ways
        raise Unrecordable(first_line(_origin(error))) from error
    recorded = RecordedStep(place, step.optimisation, replay)
    expected.compare(lambda: recorded(inputs))
    return recorded


def _origin(error: BaseException) -> BaseException:
    """What broke a recording off; that its end failed as well is all that the last error says."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _detached(outcome: StepOutcome) -> StepOutcome:
    """Let go of the graph of gradients, whose nodes belong to the stream that made them."""
    output = outcome.output
    return StepOutcome(
        LossOutput(
            output.total.detach(),
            {name: part.detach() for name, part in output.parts.items()},
            output.weights,
            {name: value.detach() for name, value in output.statistics.items()},
        ),
        outcome.logits.detach(),
        outcome.targets,
    )


class _State:
    """Everything that a step changes or draws from, as it was when this was made."""

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

    def restore(self) -> None:
        """Put everything back."""
        for name, value in self.now().items():
            if name in self.before:
                value.copy_(self.before[name])
            else:
                value.zero_()  # AdamW's memory, which a first step has made
        for generator, drawn in zip(self._generators, self._random, strict=True):
            generator.set_state(drawn)
        self._step.optimisation.step_count = self._steps_done


def default_generator(device: torch.device) -> torch.Generator:
    """Where layers of a device draw from."""
    if device.type == "cpu":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    generator: torch.Generator = torch.cuda.default_generators[index]
    return generator


class _Expectation:
    """What a step leaves behind when it is taken from a state."""

    def __init__(self, state: _State, take: Callable[[], StepOutcome]) -> None:
        self._state = state
        self._after = {name: value.clone() for name, value in self._from_state(take).items()}
        if not bool(torch.isfinite(self._after["the loss"])):
            raise Unrecordable("the loss of the first step is not finite")
        changes = _distances(self._after, state.before)
        lengths = _distances(self._after, {})
        self._allowed = {
            name: TOLERANCE * changes[name] + ROUNDING * lengths[name] for name in self._after
        }
        self._spread = dict.fromkeys(self._after, 0.0)

    def see_again(self, take: Callable[[], StepOutcome]) -> None:
        """Learn from one more run of the step how far two of them are from each other."""
        for name, distance in _distances(self._from_state(take), self._after).items():
            self._spread[name] = max(self._spread[name], distance)

    def compare(self, take: Callable[[], StepOutcome]) -> None:
        """Raise Unrecordable if a step leaves something else behind."""
        for name, distance in _distances(self._from_state(take), self._after).items():
            allowed = self._allowed[name] + TIMES_OWN_SPREAD * self._spread[name]
            if not distance <= allowed:  # NaN is not
                raise Unrecordable(
                    f"replayed, it does something else: {name} is off by {distance:.2g}, where "
                    f"{allowed:.2g} are allowed"
                )

    def _from_state(self, take: Callable[[], StepOutcome]) -> dict[str, Tensor]:
        self._state.restore()
        outcome = take()
        output = outcome.output
        return {
            "the loss": output.total,
            **{f"its part {name}": value for name, value in output.parts.items()},
            **{f"its statistic {name}": value for name, value in output.statistics.items()},
            "the logits": outcome.logits,
            "the targets": outcome.targets,
            **self._state.now(),
        }


def _distances(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Euclidean distance of each tensor from its namesake, or from 0. Waits for the device."""

    def distance(name: str, value: Tensor) -> Tensor:
        mine = value.double()
        other = theirs[name].double() if name in theirs else torch.zeros_like(mine)
        # Masks hold infinities, whose difference is no number.
        difference = torch.where(mine == other, 0.0, mine - other)
        length: Tensor = torch.linalg.vector_norm(difference)
        return length

    distances = torch.stack([distance(*item) for item in ours.items()]).tolist()
    return dict(zip(ours, distances, strict=True))
