"""Older spellings of config keys, translated to the canonical form. Only this module knows them.

`FlatKeys` holds every older key: its type, default and description, and in its annotation what it
stands for. Three things can be written in flat keys:

- the main loss: keys marked `Chooses` and `Sets`, beside each other or beside a `loss` block with
  the same meaning;
- names in `aux_losses`, with their weights in `aux_weights`;
- `loss_func`, the loss of the `pretrain` block.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, ValidationError

from clip_pkg.config.diagnostics import Draft, Findings
from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.loss_blocks import NonNegative, Positive, StrictModel, Temperature
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.nodes import sentences
from clip_pkg.config.synonyms import SYNONYMS
from clip_pkg.config.two_view_losses import TWO_VIEW_LOSSES

if TYPE_CHECKING:
    LossKind: TypeAlias = str
    PretrainKind: TypeAlias = str
else:
    LossKind = Literal[tuple(LOSSES)]
    PretrainKind = Literal[tuple(TWO_VIEW_LOSSES)]

UNSET: Any = ""  # default of a key that chooses a loss: chooses none


@dataclass(frozen=True, eq=False)
class Chooses:
    """The key chooses the main loss: its value → `loss.type`.

    A switch that is false only counts where no other key chooses a loss.
    """

    kinds: Mapping[Hashable, str]


@dataclass(frozen=True)
class Sets:
    """The key sets one parameter of the losses in `of`, which `chosen_by` usually chooses.

    For any other loss it is allowed and has no effect, so that one switch can be flipped without
    deleting the rest.
    """

    parameter: str
    of: tuple[str, ...]
    chosen_by: str


_SUPERCLIP = ("superclip", "superclip_tokens"), "use_superclip_loss"
_CE_INFONCE = ("ce_infonce",), "main_loss_type"
_PROXY = ("proxy", "combined"), "loss_type"
_PAIRS = ("infonce", "bce"), "use_infonce"
# What the guides' name of a loss stands for, where that is not our default: their models return
# logits of a classifier beside the features of images and prompts.
_GUIDE_SETTINGS: Mapping[str, Mapping[str, Any]] = {"ce_infonce": {"classifier": "linear"}}
_LOSS_TYPES = {"CE": "ce", "proxy": "proxy", "combined": "combined"}


def _ignoring_case(value: Any) -> Any:
    spellings = {kind.casefold(): kind for kind in _LOSS_TYPES}
    return spellings.get(value.casefold(), value) if isinstance(value, str) else value


class FlatKeys(StrictModel):
    """Every older key, in the order of the training guides that use them."""

    use_superclip_loss: Annotated[bool, Chooses({True: "superclip", False: "clip"})] = Field(
        False, description="true: loss `superclip`; false: loss `clip`."
    )
    class_loss_weight: Annotated[NonNegative, Sets("class_loss_weight", *_SUPERCLIP)] = Field(
        1.0, description="Weight of the classification term of `superclip` and `superclip_tokens`."
    )
    contrastive_loss_weight: Annotated[
        NonNegative, Sets("contrastive_loss_weight", *_SUPERCLIP)
    ] = Field(1.0, description="Weight of the CLIP term of `superclip` and `superclip_tokens`.")

    main_loss_type: Annotated[LossKind, Chooses({kind: kind for kind in LOSSES})] = Field(
        UNSET,
        description=(
            "`loss.type`; the other settings of the loss have their defaults, except that "
            "`ce_infonce` has `classifier` `linear`."
        ),
    )
    contrast_weight: Annotated[NonNegative, Sets("contrast_weight", *_CE_INFONCE)] = Field(
        0.5, description="Weight of the InfoNCE term of `ce_infonce`."
    )
    infonce_temp: Annotated[Temperature, Sets("infonce_temp", *_CE_INFONCE)] = Field(
        0.07, description="Temperature of the InfoNCE term of `ce_infonce`."
    )

    loss_type: Annotated[
        Literal["CE", "proxy", "combined"], BeforeValidator(_ignoring_case), Chooses(_LOSS_TYPES)
    ] = Field(UNSET, description="Loss `ce`, `proxy` or `combined`; upper or lower case.")
    proxy_type: Annotated[
        Literal["ProxyAnchorLoss", "FocalStyleProxyAnchorLoss"], Sets("proxy_type", *_PROXY)
    ] = Field("ProxyAnchorLoss", description="Form of the proxy loss.")
    proxy_alpha: Annotated[Positive, Sets("alpha", *_PROXY)] = Field(
        32.0, description="α of the proxy loss."
    )
    proxy_delta: Annotated[NonNegative, Sets("delta", *_PROXY)] = Field(
        0.1, le=2, description="δ of the proxy loss."
    )
    proxy_gamma_pos: Annotated[NonNegative, Sets("gamma_pos", *_PROXY)] = Field(
        2.0, description="γ⁺ of `FocalStyleProxyAnchorLoss`."
    )
    proxy_gamma_neg: Annotated[NonNegative, Sets("gamma_neg", *_PROXY)] = Field(
        2.0, description="γ⁻ of `FocalStyleProxyAnchorLoss`."
    )
    lambda_combined: Annotated[
        float, Field(ge=0, le=1), Sets("lambda_combined", ("combined",), "loss_type")
    ] = Field(0.5, description="λ of `combined`: share of the cross-entropy.")

    use_infonce: Annotated[bool, Chooses({True: "infonce", False: "bce"})] = Field(
        UNSET,
        description=(
            "true: loss `infonce`; false: loss `bce`, on the same pairs. Without it, neither is "
            "chosen."
        ),
    )
    infonce_temperature: Annotated[Temperature, Sets("temperature", *_PAIRS)] = Field(
        0.2, description="Temperature of `infonce` and `bce`."
    )
    num_negatives: Annotated[
        Annotated[int, Field(ge=1, le=65536)] | None, Sets("num_negatives", *_PAIRS)
    ] = Field(
        None,
        description="Sampled negatives of `infonce` and `bce`; null: the texts of the batch.",
    )

    aux_weights: list[NonNegative] = Field(
        [], description="Weights of the losses in `aux_losses`, in the same order."
    )
    loss_func: PretrainKind = Field(
        UNSET, description="`pretrain.loss.type`; creates the `pretrain` block if there is none."
    )


def _marked(mark: type[Any]) -> dict[str, Any]:
    return {
        key: found
        for key, model_field in FlatKeys.model_fields.items()
        for found in model_field.metadata
        if isinstance(found, mark)
    }


CHOICES: Mapping[str, Chooses] = _marked(Chooses)
PARAMETERS: Mapping[str, Sets] = _marked(Sets)


def to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Replace synonyms by keys, and flat keys by the blocks `loss`, `aux_losses` and `pretrain`.

    Wrong values and contradictions become problems at the flat key; the result has no flat keys in
    any case.
    """
    draft = _without_synonyms(draft, findings)
    flat = {key: value for key, value in draft.values.items() if key in FlatKeys.model_fields}
    rest = {key: value for key, value in draft.values.items() if key not in FlatKeys.model_fields}
    wrong: set[str] = set()
    try:
        checked = FlatKeys.model_validate(flat)
    except ValidationError as error:
        for path, sentence in sentences(error, FlatKeys, ()).items():
            findings.problem(draft.written(path), sentence)
            wrong.add(str(path[0]))
        flat = {key: value for key, value in flat.items() if key not in wrong}
        checked = FlatKeys.model_validate(flat)
    given = {key: getattr(checked, key) for key in flat}
    translation = _Translation(draft, findings, given, rest)
    if not wrong & {*CHOICES, *PARAMETERS}:
        translation.main_loss()
    translation.aux_losses()
    translation.pretraining()
    return replace(draft, values=rest, moved={**draft.moved, **translation.moved})


def _without_synonyms(draft: Draft, findings: Findings) -> Draft:
    values: dict[str, Any] = {}
    moved = dict(draft.moved)
    for name, value in draft.values.items():
        key, place = SYNONYMS.get(name, name), draft.written((name,))
        if key in values:
            other = findings.source.where(moved.get((key,), draft.written((key,))))
            findings.problem(place, f"sets {key}, and so does {other}; keep one of the two")
        elif key != name:
            moved[key,] = place
        values.setdefault(key, value)
    return replace(draft, values=values, moved=moved)


@dataclass
class _Translation:
    """Moves the flat keys of one config into blocks.

    given: valid flat keys, in the spelling of `FlatKeys`.
    values: the other keys; the blocks are put here.
    moved: path in `values` → JSON path where the user wrote it.
    """

    draft: Draft
    findings: Findings
    given: Mapping[str, Any]
    values: dict[str, Any]
    moved: dict[JsonPath, JsonPath] = field(default_factory=dict)

    def problem(self, path: JsonPath, message: str) -> None:
        self.findings.problem(self.draft.written(path), message)

    def where(self, path: JsonPath) -> str:
        return self.findings.source.where(self.draft.written(path))

    def main_loss(self) -> None:
        """Build the `loss` block, or compare the flat keys with the block beside them."""
        switched_off = [key for key in CHOICES if self.given.get(key) is False]
        choices = {
            key: choice.kinds[self.given[key]]
            for key, choice in CHOICES.items()
            if key in self.given and key not in switched_off
        }
        if "loss" in self.values:
            block = self.values["loss"]
            kind = block.get("type") if isinstance(block, dict) else None
            if isinstance(kind, str) and kind in LOSSES:  # else the schema reports the block
                different = {key: "type" for key, chosen in choices.items() if chosen != kind}
                block = {**LOSSES[kind]().model_dump(mode="json"), **block}
                for key, row in self.parameters_of(kind).items():
                    if block[row.parameter] != self.given[key]:
                        different[key] = row.parameter
                different |= {k: "type" for k in switched_off if CHOICES[k].kinds[True] == kind}
                for key, name in different.items():
                    self.problem(
                        (key,),
                        f"{key} contradicts {self.where(('loss',))}, where loss.{name} is "
                        f"{show(block[name])}; keep either {key} or loss",
                    )
            return
        choices = choices or {key: CHOICES[key].kinds[False] for key in switched_off}
        chooser, kind = next(iter(choices.items()), ("", ""))
        other = self.where((chooser,))
        for key, chosen in choices.items():
            if chosen != kind:
                message = f"chooses a different loss than {other}; keep one of the two"
                self.problem((key,), message)
        for key in switched_off:
            if CHOICES[key].kinds[True] == kind:
                message = f"is false, but {other} chooses that loss; keep one of the two"
                self.problem((key,), message)
        block = {"type": kind, **_GUIDE_SETTINGS.get(kind, {})}
        for key, row in self.parameters_of(kind).items():
            block[row.parameter] = self.given[key]
            self.moved["loss", row.parameter] = self.draft.written((key,))
        if choices:
            self.values["loss"] = block
            self.moved["loss",] = self.moved["loss", "type"] = self.draft.written((chooser,))

    def parameters_of(self, kind: str) -> dict[str, Sets]:
        """Given parameters that the loss `kind` has; notes those that have no effect."""
        used: dict[str, Sets] = {}
        for key, row in PARAMETERS.items():
            if key in self.given and kind in row.of:
                used[key] = row
            elif key in self.given:
                kinds = CHOICES[row.chosen_by].kinds
                values = " or ".join(show(value) for value, one in kinds.items() if one in row.of)
                self.findings.notice(
                    self.draft.written((key,)),
                    f"has no effect here; it is used when {row.chosen_by} is {values}",
                )
        return used

    def aux_losses(self) -> None:
        """Turn names in `aux_losses` into blocks, each with its weight from `aux_weights`."""
        weights = self.given.get("aux_weights")
        entries = self.values.get("aux_losses", [])
        if not isinstance(entries, list):
            return  # the schema reports it
        if weights is not None and len(weights) != len(entries):
            self.problem(
                ("aux_weights",),
                f"expected one number for each loss in aux_losses, {len(entries)} in all, "
                f"not {len(weights)}",
            )
            weights = None
        blocks: list[Any] = []
        for index, entry in enumerate(entries):
            block = {"type": entry} if isinstance(entry, str) else entry
            if isinstance(entry, str):
                self.moved["aux_losses", index, "type"] = self.draft.written(("aux_losses", index))
            if weights is not None and isinstance(block, dict):
                own = block.get("weight", weights[index])
                if own != weights[index]:
                    other = self.where(("aux_losses", index, "weight"))
                    self.problem(
                        ("aux_weights", index),
                        f"aux_weights contradicts aux_losses: {other} is {show(own)}; keep one of "
                        "the two",
                    )
                block = {**block, "weight": own}
                place = self.draft.written(("aux_weights", index))
                self.moved["aux_losses", index, "weight"] = place
            blocks.append(block)
        if "aux_losses" in self.values:
            self.values["aux_losses"] = blocks

    def pretraining(self) -> None:
        """Put `loss_func` into the `pretrain` block, or create one."""
        if "loss_func" not in self.given:
            return
        kind, place = self.given["loss_func"], self.draft.written(("loss_func",))

        def contradicts(path: JsonPath, value: str) -> None:
            self.problem(
                ("loss_func",),
                f"loss_func contradicts {self.where(path)}, where {'.'.join(map(str, path))} is "
                f"{value}; keep one of the two",
            )

        block = self.values.get("pretrain", {})
        loss = block.get("loss", {}) if isinstance(block, dict) else None
        if block is None:
            contradicts(("pretrain",), "null (no pre-training)")
        elif not isinstance(loss, dict):
            return  # the schema reports it
        elif loss.get("type", kind) != kind:
            contradicts(("pretrain", "loss", "type"), show(loss["type"]))
        else:
            self.moved["pretrain", "loss", "type"] = place
            if "pretrain" not in self.values:
                self.moved["pretrain",] = place
            elif "loss" not in block:
                self.moved["pretrain", "loss"] = place
            self.values["pretrain"] = {**block, "loss": {**loss, "type": kind}}
