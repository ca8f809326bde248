"""Every functional loss against published implementations: value and gradients in float64."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from torch import Tensor

from clip_pkg.losses import functional
from support.loss_vectors import ABSENT, RECORDS, check, inputs_of, relative_error, tensor


def superclip_terms(
    logits: Tensor, labels: Tensor, image: Tensor, text: Tensor, logit_scale: Tensor, **state: Any
) -> dict[str, Tensor]:
    terms = functional.token_classification(logits, labels, **state)._asdict()
    return {**terms, "contrastive_loss": functional.clip(image, text, logit_scale)}


def vicreg_terms(z_a: Tensor, z_b: Tensor, eps: float) -> dict[str, Tensor]:
    return functional.vicreg_terms(z_a, z_b, eps=eps)._asdict()


TERMS = {"superclip": superclip_terms, "vicreg": vicreg_terms}


def settings(loss: Any, params: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(loss).parameters
    takes_symbols = "by_symbol" in known  # a Greek letter that is a word of Python
    return {
        name: value
        for name, value in params.items()
        if name in known or (takes_symbols and name == "lambda")
    }


@pytest.mark.parametrize("record", RECORDS or [ABSENT], ids=lambda r: r["id"] if r else "absent")
def test_value_and_gradient(record: dict[str, Any]) -> None:
    loss = getattr(functional, record["loss"])
    inputs = inputs_of(record)
    check(record, loss(**inputs, **settings(loss, record["params"])), inputs)


@pytest.mark.parametrize(
    "record", [r for r in RECORDS if r["loss"] in TERMS] or [ABSENT], ids=lambda r: r and r["id"]
)
def test_terms_and_state(record: dict[str, Any]) -> None:
    terms = TERMS[record["loss"]]
    inputs = inputs_of(record)
    result = terms(**inputs, **settings(terms, record["params"]))
    for name, entry in record["outputs"].items():
        assert result[name].shape == tuple(entry["shape"])
        assert relative_error(result[name], tensor(entry)) <= 1e-12, name


def test_every_key_has_its_function() -> None:
    keys = {record["loss"] for record in RECORDS}
    assert keys <= set(functional.__all__)
