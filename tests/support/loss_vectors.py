"""Reference values and gradients of losses, from published implementations in float64."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from support.tiny import SHARED

REFERENCE = SHARED / "loss_vectors" / "loss_vectors.json"
RECORDS: list[dict[str, Any]] = (
    json.loads(REFERENCE.read_text(encoding="utf-8")) if REFERENCE.exists() else []
)
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason=f"no reference values at {REFERENCE}"))
# Artefacts of the reference implementations themselves, as their records state: one clamps masked
# entries to 1e-12 and adds them up; one masks by adding log(1e-45), which T = 0.01 lets through.
VALUE_TOLERANCE = {"center_mean": 1e-11}
GRADIENT_TOLERANCE = {"dclw_oneway_undetached": 1e-9}


def tensor(entry: dict[str, Any]) -> Tensor:
    dtype = getattr(torch, entry["dtype"])
    return torch.tensor(entry["data"], dtype=dtype).reshape(entry["shape"])


def inputs_of(record: dict[str, Any]) -> dict[str, Tensor]:
    """Arguments of a loss; the differentiated ones are leaves with gradient."""
    inputs = {name: tensor(entry) for name, entry in record["inputs"].items()}
    for name in record["grads"]:
        inputs[name].requires_grad_()
    return inputs


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float(((ours.detach() - reference).abs() / reference.abs().clamp(min=1.0)).max())


def check(record: dict[str, Any], value: Tensor, inputs: dict[str, Tensor]) -> None:
    """Compare a loss of `inputs` and its gradients with the record."""
    assert value.dtype == torch.float64
    assert value.shape == ()
    bound = VALUE_TOLERANCE.get(record["loss"], 1e-12)
    assert abs(value.item() - record["value"]) <= bound * max(1.0, abs(record["value"]))
    value.backward()  # type: ignore[no-untyped-call]
    for name, entry in record["grads"].items():
        gradient = inputs[name].grad
        assert gradient is not None, name
        bound = GRADIENT_TOLERANCE.get(record["loss"], 1e-10)
        assert relative_error(gradient, tensor(entry)) <= bound, name
