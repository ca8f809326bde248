"""`loss_func`, as the guide of the contrastive losses writes it: the loss of the pre-training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clip_pkg.config.findings import Draft, Findings
from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.pretraining import pretrain_loss_classes
from clip_pkg.config.problems import sentences

if TYPE_CHECKING:
    Kind: TypeAlias = str
else:
    Kind = Literal[tuple(pretrain_loss_classes())]

UNSET: Any = ""  # left out, it asks for no pre-training


class PretrainLoss(BaseModel):
    """The one flat key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    loss_func: Kind = Field(
        UNSET, description="`pretrain.loss.type`; without a `pretrain` block it makes one."
    )


def pretrain_to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Put `loss_func` into the `pretrain` block, or make one; it is gone from the result.

    A wrong value, and one that contradicts the block, become problems at `loss_func`.
    """
    if "loss_func" not in draft.values:
        return draft
    values = {key: value for key, value in draft.values.items() if key != "loss_func"}
    rest = replace(draft, values=values)
    try:
        wanted = PretrainLoss.model_validate({"loss_func": draft.values["loss_func"]}).loss_func
    except ValidationError as error:
        for path, sentence in sentences(error, PretrainLoss, ()).items():
            findings.problem(draft.written(path), sentence)
        return rest
    block = values.get("pretrain", {})
    if block is None:
        _contradicts(draft, findings, "pretrain", "null, which asks for no pre-training")
        return rest
    loss = block.get("loss", {}) if isinstance(block, dict) else None
    if not isinstance(loss, dict):
        return rest  # reported by the schema
    kind = loss.get("type", wanted)
    if kind != wanted:
        _contradicts(draft, findings, "pretrain.loss.type", show(kind))
        return rest
    values["pretrain"] = {**block, "loss": {**loss, "type": wanted}}
    place = draft.written(("loss_func",))
    moved: dict[JsonPath, JsonPath] = {("pretrain", "loss", "type"): place}
    if "pretrain" not in draft.values:
        moved["pretrain",] = place
    elif "loss" not in block:
        moved["pretrain", "loss"] = place
    return replace(draft, values=values, moved={**draft.moved, **moved})


def _contradicts(draft: Draft, findings: Findings, there: str, value: str) -> None:
    place = findings.source.where(draft.written(tuple(there.split("."))))
    findings.problem(
        draft.written(("loss_func",)),
        f"loss_func contradicts {place}, where {there} is {value}; keep one of the two",
    )
