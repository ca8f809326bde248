"""`aux_losses` as the guides write it: a list of names, with `aux_weights` in a list of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clip_pkg.config.findings import Draft, Findings
from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.loss_blocks import NonNegative
from clip_pkg.config.problems import sentences


class AuxWeights(BaseModel):
    """The flat key besides `aux_losses` itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    aux_weights: list[NonNegative] = Field(
        [], description="Weights of the losses in `aux_losses`, in the same order."
    )


def aux_to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Turn names into blocks and hand each its weight; `aux_weights` is gone from the result.

    A wrong number of weights, and a weight that contradicts a block's own, become problems.
    """
    weights = draft.values.get("aux_weights")
    values = {key: value for key, value in draft.values.items() if key != "aux_weights"}
    entries = values.get("aux_losses", [])
    if not isinstance(entries, list):
        return replace(draft, values=values)  # reported by the schema
    moved: dict[JsonPath, JsonPath] = {}
    blocks: list[Any] = []
    for index, entry in enumerate(entries):
        blocks.append({"type": entry} if isinstance(entry, str) else entry)
        if isinstance(entry, str):
            moved["aux_losses", index, "type"] = draft.written(("aux_losses", index))
    if "aux_weights" in draft.values and _are_valid(weights, len(entries), draft, findings):
        for index, (block, weight) in enumerate(zip(blocks, weights or [], strict=True)):
            if isinstance(block, dict):
                blocks[index] = _weighed(block, weight, index, draft, findings)
                moved["aux_losses", index, "weight"] = draft.written(("aux_weights", index))
    if "aux_losses" in values:
        values["aux_losses"] = blocks
    return replace(draft, values=values, moved={**draft.moved, **moved})


def _are_valid(weights: object, count: int, draft: Draft, findings: Findings) -> bool:
    try:
        checked = AuxWeights.model_validate({"aux_weights": weights})
    except ValidationError as error:
        for path, sentence in sentences(error, AuxWeights, ()).items():
            findings.problem(draft.written(path), sentence)
        return False
    if len(checked.aux_weights) != count:
        findings.problem(
            draft.written(("aux_weights",)),
            f"expected one number for each loss in aux_losses, {count} in all, "
            f"not {len(checked.aux_weights)}",
        )
        return False
    return True


def _weighed(
    block: Mapping[str, Any], weight: float, index: int, draft: Draft, findings: Findings
) -> dict[str, Any]:
    own = block.get("weight", weight)
    if own != weight:
        place = findings.source.where(draft.written(("aux_losses", index, "weight")))
        findings.problem(
            draft.written(("aux_weights", index)),
            f"aux_weights contradicts aux_losses: {place} is {show(own)}; keep one of the two",
        )
    return {**block, "weight": own}
