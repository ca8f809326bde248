"""What all blocks of `loss` and `aux_losses` share, and the settings that several of them have.

A block also says, in class variables, what its loss can be combined with: facts that a config is
checked against before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Temperature: TypeAlias = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
WeightMethod: TypeAlias = Literal["inverse_freq", "inverse_sqrt", "balanced", "effective_number"]
ClassWeighting: TypeAlias = WeightMethod | Literal["none", "auto"]
SoftTargets: TypeAlias = Literal["yes", "warn", "no"]

FOCUS = 2.0  # gamma of a focal factor where none is given (Lin et al. 2017, section 4.1)


class LossConfig(BaseModel):
    """What all loss blocks share: frozen and strict.

    smallest_batch: images per training batch below which the loss teaches nothing.
    soft_targets: what it makes of mixed or smoothed labels. `yes`: takes them; `warn`: a part of
        it looks at the largest share alone; `no`: they would mean nothing.
    hard_part: what of it looks at the largest share, where that is not everything.
    needs_tokens: reads the token ids of the class texts.
    part_weights: settings that are weights of its parts; they cannot all be 0.
    shares: settings that divide the total among its parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    smallest_batch: ClassVar[int] = 1
    soft_targets: ClassVar[SoftTargets] = "no"
    hard_part: ClassVar[str] = "it"
    needs_tokens: ClassVar[bool] = False
    part_weights: ClassVar[tuple[str, ...]] = ()
    shares: ClassVar[tuple[str, ...]] = ()

    type: str

    @property
    def needs_text(self) -> bool:
        """Whether it looks at the class texts, in training or to predict."""
        return True

    def settings(self) -> dict[str, Any]:
        """Name → value of what acts on this loss, as it acts, in the order of the class."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "type"}

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.part_weights and not any(getattr(self, name) for name in self.part_weights):
            raise PydanticCustomError(
                "nothing_counts",
                "{names} are both 0, so there is nothing to learn",
                {"key": self.part_weights[0], "names": " and ".join(self.part_weights)},
            )
        return self


class ClassifierConfig(LossConfig):
    """What losses with a cross-entropy over the classes share."""

    classifier: Literal["text", "linear"] = Field(
        "text",
        description=(
            "Class logits: `text`, scaled cosines to the class texts; `linear`, a linear layer on "
            "the image embedding."
        ),
    )
    class_weighting: ClassWeighting = Field(
        "none",
        description=(
            "Class weights of the cross-entropy, from the training fold's counts. `auto` takes "
            "the config's `weight_method`."
        ),
    )

    @property
    def needs_text(self) -> bool:
        """Not with a linear classifier."""
        return self.classifier == "text"


class FocalConfig(BaseModel):
    """Focal form of a cross-entropy: hard examples weigh more."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    gamma: NonNegative = Field(FOCUS, description="Focusing power; 0 is plain cross-entropy.")
    alpha: Positive | None = Field(None, description="Constant factor on the focal term.")


class ProxyConfig(LossConfig):
    """Settings of a Proxy-Anchor loss."""

    smallest_batch: ClassVar[int] = 2

    proxy_type: Literal["ProxyAnchorLoss", "FocalStyleProxyAnchorLoss"] = Field(
        "ProxyAnchorLoss",
        title="Proxy Type",
        description="`FocalStyleProxyAnchorLoss` weighs hard examples more.",
    )
    alpha: Positive = Field(32.0, title="Proxy α (alpha)", description="Scale of the cosines, α.")
    delta: NonNegative = Field(
        0.1, le=2, title="Proxy δ (delta)", description="Margin on the cosines, δ."
    )
    gamma_pos: NonNegative | None = Field(
        None,
        title="Proxy γ⁺ (gamma_pos)",
        description=(
            "Focusing power on an image and its own proxy, of `FocalStyleProxyAnchorLoss` alone; "
            "null: 2, and 0 is `ProxyAnchorLoss`."
        ),
    )
    gamma_neg: NonNegative | None = Field(
        None,
        title="Proxy γ⁻ (gamma_neg)",
        description="`gamma_pos` for an image and the proxies of other classes.",
    )
    proxy_lr_scale: Positive = Field(
        100.0, le=1_000_000, description="Factor on the learning rate of the proxies."
    )

    @property
    def needs_text(self) -> bool:
        """Proxies take the place of texts."""
        return False

    @property
    def focus(self) -> tuple[float, float]:
        """gamma_pos and gamma_neg as they are used; 0 is no focus."""
        if self.proxy_type == "ProxyAnchorLoss":
            return 0.0, 0.0
        given = (self.gamma_pos, self.gamma_neg)
        return given[0] if given[0] is not None else FOCUS, (
            given[1] if given[1] is not None else FOCUS
        )

    def settings(self) -> dict[str, Any]:
        """Name → value; with the focal style the focus that is used, without it none."""
        values = super().settings()
        for name, used in zip(("gamma_pos", "gamma_neg"), self.focus, strict=True):
            values[name] = used
            if self.proxy_type == "ProxyAnchorLoss":
                del values[name]
        return values

    @model_validator(mode="after")
    def _focus_belongs_to_the_focal_style(self) -> Self:
        if self.proxy_type == "ProxyAnchorLoss":
            for name in ("gamma_pos", "gamma_neg"):
                if getattr(self, name) is not None:
                    raise PydanticCustomError(
                        "unused_focus",
                        'only "FocalStyleProxyAnchorLoss" has a focus; leave {key} out or set '
                        "proxy_type to it",
                        {"key": name},
                    )
        return self


def members(union: Any) -> Mapping[str, type[Any]]:
    """Classes of a discriminated union of blocks by their `type`."""
    classes = get_args(get_args(union)[0])
    return {member.model_fields["type"].default: member for member in classes}
