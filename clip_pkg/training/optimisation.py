"""An optimiser, its schedule, clipping and the guard against non-finite steps.

With AdamW nothing here waits for the device, which skips non-finite updates without the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from clip_pkg.models.precision import Precision
from clip_pkg.training.profiling import Phases, unmeasured

MAX_NON_FINITE_STEPS = 10  # in a row, before a training counts as diverged
NORM_EPSILON = 1e-6  # as in torch's clip_grad_norm_
WARMUP_SHARE = 0.1  # of all steps, at most

Result = TypeVar("Result")
Groups: TypeAlias = Sequence[dict[str, Any]]


class Diverged(Exception):
    """Loss or gradients were NaN or infinite for `MAX_NON_FINITE_STEPS` steps in a row."""


def cosine_with_warmup(step: int, total_steps: int, warmup_steps: int) -> float:
    """Factor on the peak learning rate for `step` (from 0): linear rise, then half a cosine."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def fused_adamw(groups: Groups) -> torch.optim.Optimizer:
    """AdamW whose kernel skips non-finite updates."""
    return torch.optim.AdamW(groups, fused=True)


class Optimisation:
    """Optimiser, schedule and loss scaling of one training.

    `groups` are the parameter groups of `optimizer` with their peak `lr`. `step_count` counts the
    steps of the whole training, so that the schedule resumes where an interrupted run stopped. An
    optimiser without a fused kernel waits for the device in each step; only AdamW's steps can be
    recorded.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        precision: Precision,
        total_steps: int,
        warmup_steps: float,
        grad_clip_norm: float | None,
        optimizer: Callable[[Groups], torch.optim.Optimizer] = fused_adamw,
    ) -> None:
        self._optimizer = optimizer(groups)
        self._is_fused = bool(self._optimizer.defaults.get("fused"))
        self._peaks = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(precision.device_type, enabled=precision.needs_scaling)
        self._total_steps = total_steps
        self._warmup_steps = max(1, round(min(warmup_steps, WARMUP_SHARE * total_steps)))
        self._grad_clip_norm = math.inf if grad_clip_norm is None else grad_clip_norm
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        device = self._parameters[0].device
        self._streak = torch.zeros((), device=device)
        self._longest = torch.zeros((), device=device)
        # A recorded update reads its rates here. A GPU's fused kernel needs them in float32; a CPU
        # computes with Python numbers, which are float64.
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self._peaks_there = torch.tensor(self._peaks, dtype=kind, device=device)
        self._rates_there = torch.zeros_like(self._peaks_there)
        self.step_count = 0

    @property
    def factor(self) -> float:
        """The schedule's factor on every group's peak rate in the next step."""
        return cosine_with_warmup(self.step_count, self._total_steps, self._warmup_steps)

    def apply(
        self,
        loss: Tensor,
        backward: Callable[[Tensor], None] = Tensor.backward,
        phases: Phases = unmeasured,
    ) -> None:
        """Backward pass and one update; a non-finite loss or gradient changes nothing.

        `backward` adds the gradients of the scaled loss to `.grad` of the parameters.
        """
        self._set_rates()
        self._step(loss, backward, phases)
        self.step_count += 1

    def apply_recordably(
        self,
        loss: Tensor,
        backward: Callable[[Tensor], None] = Tensor.backward,
        phases: Phases = unmeasured,
    ) -> None:
        """Device operations of `apply`, with the rates that `replay` has written."""
        with self._rates_on_device():
            self._step(loss, backward, phases)

    def replay(self, recorded: Callable[[], Result]) -> Result:
        """Take a step by calling `recorded`, the recording of `apply_recordably`."""
        self._set_rates()
        torch.mul(self._peaks_there, self.factor, out=self._rates_there)
        result = recorded()
        self.step_count += 1
        return result

    def tensors(self) -> Mapping[str, Tensor]:
        """Everything that a step changes, parameters included; the same tensors after each step.

        AdamW's state of a parameter exists from its first step on, and is 0 before it.
        """
        state = {
            f"{name} of parameter {number}": value
            for number, parameter in enumerate(self._parameters)
            for name, value in self._optimizer.state.get(parameter, {}).items()
        }
        parameters = {f"parameter {n}": value for n, value in enumerate(self._parameters)}
        streaks = {"the streak": self._streak, "the longest streak": self._longest}
        return {**parameters, **state, **streaks}

    def _set_rates(self) -> None:
        factor = self.factor
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        groups = self._optimizer.param_groups
        kept = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, self._rates_there, strict=True):
                # Outside of a recording torch warns about capturable optimisers.
                group["lr"], group["capturable"] = rate, True
            yield
        finally:
            for group, rate in zip(groups, kept, strict=True):
                group["lr"], group["capturable"] = rate, False

    def _step(self, loss: Tensor, backward: Callable[[Tensor], None], phases: Phases) -> None:
        with phases("backward"):
            self._optimizer.zero_grad(set_to_none=True)
            backward(self._scaler.scale(loss))
        with phases("optimiser"):
            self._scaler.unscale_(self._optimizer)
            gradients = [one.grad for one in self._parameters if one.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            bad = (~torch.isfinite(norm + loss.detach())).float()
            if self._scaler.is_enabled():
                nn.utils.clip_grads_with_norm_(self._parameters, self._grad_clip_norm, norm)
                self._scaler.step(self._optimizer)
                self._scaler.update()
            elif not self._is_fused:
                nn.utils.clip_grads_with_norm_(self._parameters, self._grad_clip_norm, norm)
                if not bool(bad):
                    self._optimizer.step()
            else:
                # The fused kernel skips the update where `found_inf` is 1, without the host, and
                # divides gradients by `grad_scale` as it reads them: clipping takes no extra pass.
                optimizer: Any = self._optimizer
                optimizer.found_inf = bad
                excess = (norm + NORM_EPSILON) / self._grad_clip_norm
                optimizer.grad_scale = excess.clamp(min=1.0).float()  # the kernel needs float32
                optimizer.step()
            self._streak.add_(1).mul_(bad)
            torch.maximum(self._longest, self._streak, out=self._longest)

    def check(self) -> None:
        """Raise Diverged when too many steps in a row were not finite. Waits for the device."""
        if float(self._longest) >= MAX_NON_FINITE_STEPS:
            raise Diverged(
                f"loss or gradients were not finite for {MAX_NON_FINITE_STEPS} steps in a row "
                f"(by step {self.step_count} of {self._total_steps}); a smaller learning_rate, a "
                "larger temperature or use_amp: false usually helps"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step_count": self.step_count,
            "streak": self._streak.to("cpu", copy=True),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.step_count = int(state["step_count"])
        self._streak.copy_(state["streak"])
