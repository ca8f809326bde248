"""Every functional loss against published implementations: value and gradients in float64."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clip_pkg.losses import functional

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "loss_vectors" / "loss_vectors.json"
RECORDS: list[dict[str, Any]] = (
    json.loads(REFERENCE.read_text(encoding="utf-8")) if REFERENCE.exists() else []
)
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason=f"no reference values at {REFERENCE}"))

# Artefacts of the reference implementations themselves, as their records state: one clamps masked
# entries to 1e-12 and adds them up; one masks by adding log(1e-45), which T = 0.01 lets through.
VALUE_TOLERANCE = {"center_mean": 1e-11}
GRADIENT_TOLERANCE = {"dclw_oneway_undetached": 1e-9}


def superclip_terms(
    logits: Tensor, labels: Tensor, image: Tensor, text: Tensor, logit_scale: Tensor, **state: Any
) -> dict[str, Tensor]:
    terms = functional.token_classification(logits, labels, **state)._asdict()
    return {**terms, "contrastive_loss": functional.clip(image, text, logit_scale)}


def vicreg_terms(z_a: Tensor, z_b: Tensor, eps: float) -> dict[str, Tensor]:
    return functional.vicreg_terms(z_a, z_b, eps=eps)._asdict()


TERMS = {"superclip": superclip_terms, "vicreg": vicreg_terms}


def tensor(entry: dict[str, Any]) -> Tensor:
    dtype = getattr(torch, entry["dtype"])
    return torch.tensor(entry["data"], dtype=dtype).reshape(entry["shape"])


def settings(loss: Any, params: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(loss).parameters
    takes_symbols = "by_symbol" in known  # a Greek letter that is a word of Python
    return {
        name: value
        for name, value in params.items()
        if name in known or (takes_symbols and name == "lambda")
    }


def relative_error(ours: Tensor, reference: Tensor) -> float:
    scale = reference.abs().clamp(min=1.0)
    return float(((ours - reference).abs() / scale).max())


@pytest.mark.parametrize("record", RECORDS or [ABSENT], ids=lambda r: r["id"] if r else "absent")
def test_value_and_gradient(record: dict[str, Any]) -> None:
    loss = getattr(functional, record["loss"])
    inputs = {name: tensor(entry) for name, entry in record["inputs"].items()}
    for name in record["grads"]:
        inputs[name].requires_grad_()
    value = loss(**inputs, **settings(loss, record["params"]))
    assert value.dtype == torch.float64
    assert value.shape == ()
    bound = VALUE_TOLERANCE.get(record["loss"], 1e-12)
    assert abs(value.item() - record["value"]) <= bound * max(1.0, abs(record["value"]))
    value.backward()
    for name, entry in record["grads"].items():
        gradient = inputs[name].grad
        assert gradient is not None, name
        bound = GRADIENT_TOLERANCE.get(record["loss"], 1e-10)
        assert relative_error(gradient, tensor(entry)) <= bound, name


@pytest.mark.parametrize(
    "record", [r for r in RECORDS if r["loss"] in TERMS] or [ABSENT], ids=lambda r: r and r["id"]
)
def test_terms_and_state(record: dict[str, Any]) -> None:
    terms = TERMS[record["loss"]]
    inputs = {name: tensor(entry) for name, entry in record["inputs"].items()}
    result = terms(**inputs, **settings(terms, record["params"]))
    for name, entry in record["outputs"].items():
        assert result[name].shape == tuple(entry["shape"])
        assert relative_error(result[name], tensor(entry)) <= 1e-12, name


@pytest.mark.skipif(not RECORDS, reason=f"no reference values at {REFERENCE}")
def test_every_key_has_its_function() -> None:
    keys = {record["loss"] for record in RECORDS}
    assert keys <= set(functional.__all__)
