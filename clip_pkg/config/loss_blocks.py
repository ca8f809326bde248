"""What the config classes of all losses share: the facts that each declares, and common settings.

The config class of a loss is also its row in the registry of losses. Its class variables name
what builds it, its terms, its source, what it can be combined with and its wording in a methods
paragraph. A config is checked against these facts before torch is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Temperature: TypeAlias = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
WeightMethod: TypeAlias = Literal["inverse_freq", "inverse_sqrt", "balanced", "effective_number"]
ClassWeighting: TypeAlias = WeightMethod | Literal["none", "auto"]
SoftTargets: TypeAlias = Literal["yes", "warn", "no"]
TextUse: TypeAlias = Literal["always", "classifier", "never"]

DEFAULT_FOCUS = 2.0  # gamma of a focal factor (Lin et al. 2017, section 4.1)


@dataclass(frozen=True)
class TermLabel:
    """One term of a loss.

    name: lower case; histories have `train_<name>_loss`. label: in log lines and TensorBoard tags.
    short: in progress bars.
    """

    name: str
    label: str
    short: str

    @property
    def tag(self) -> str:
        """TensorBoard tag of the unweighted term."""
        return f"Loss/{self.label}"

    @property
    def weighted_tag(self) -> str:
        """TensorBoard tag of weight · term."""
        return f"Weighted/{self.label}"

    @property
    def share_tag(self) -> str:
        """TensorBoard tag of weight · term / total."""
        return f"Share/{self.label}"


class StrictModel(BaseModel):
    """Base of configs and summaries: frozen, strict types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LossBlock(StrictModel):
    """Config class of any loss.

    Class variables:
        builder: `module:name` in `clip_pkg.losses` of what builds it, see `losses.registry`.
        terms: its unweighted terms, in the order of `LossOutput.terms`.
        source: paper and equation.
        wording: its name in a methods paragraph, with the settings that matter; see `phrase`.
        variant: what tells it from the published loss that its `type` names, for tables of results.
        smallest_batch: images per training batch below which the loss teaches nothing.
        weight_settings: settings that are weights of its terms; they cannot all be 0.
    """

    builder: ClassVar[str]
    terms: ClassVar[tuple[TermLabel, ...]]
    source: ClassVar[str]
    wording: ClassVar[str]
    variant: ClassVar[str] = ""
    smallest_batch: ClassVar[int] = 1
    weight_settings: ClassVar[tuple[str, ...]] = ()

    type: str

    def phrase(self) -> str:
        """`wording`, in which `{self}` is this block: `temperature {self.temperature:g}`."""
        return self.wording.format(self=self)

    @property
    def label(self) -> str:
        """`type`, with its variant: `superclip (class texts)`."""
        return f"{self.type} ({self.variant})" if self.variant else self.type

    def settings(self) -> dict[str, Any]:
        """Name → value of the settings that have an effect, in the order of the class."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "type"}

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        names = self.weight_settings
        if names and not any(getattr(self, name) for name in names):
            both = len(names) == 2
            raise PydanticCustomError(
                "nothing_counts",
                "{names} are {quantity} 0, so there is nothing to learn",
                {
                    "key": names[0],
                    "names": (" and " if both else ", ").join(names),
                    "quantity": "both" if both else "all",
                },
            )
        return self


class LossConfig(LossBlock):
    """What the blocks of `loss` and `aux_losses` share.

    Class variables:
        uses_texts: whether it uses the class texts, in training or to predict; `classifier`: only
            if its setting `classifier` is `text`.
        soft_targets: how it takes mixed or smoothed labels. `yes`: as shares of the classes;
            `warn`: one of its terms takes the class with the largest share; `no`: it is undefined.
        hard_term: which of its terms takes the largest share, as in "its proxy term".
        needs_tokens: whether it reads the token ids of the class texts.
        share_settings: settings that divide the total among its terms.
        adjusts_for_counts: whether it corrects class imbalance by itself.
        can_be_recorded: false if it waits for the device, or if shapes depend on values; its steps
            are then not recorded as a CUDA graph.
    """

    uses_texts: ClassVar[TextUse] = "always"
    soft_targets: ClassVar[SoftTargets] = "no"
    hard_term: ClassVar[str] = "it"
    needs_tokens: ClassVar[bool] = False
    share_settings: ClassVar[tuple[str, ...]] = ()
    adjusts_for_counts: ClassVar[bool] = False
    can_be_recorded: ClassVar[bool] = True

    @property
    def needs_text(self) -> bool:
        """Whether it uses the class texts with these settings."""
        if self.uses_texts == "classifier":
            return getattr(self, "classifier", None) == "text"
        return self.uses_texts == "always"

    def class_weight_method(self, weight_method: WeightMethod) -> WeightMethod | None:
        """How its class weights are computed; None if it takes none.

        Args:
            weight_method: the config's own, which `class_weighting: auto` refers to.
        """
        chosen: ClassWeighting = getattr(self, "class_weighting", "none")
        if chosen == "none":
            return None
        return weight_method if chosen == "auto" else chosen


class HasClassifierConfig(LossConfig):
    """What losses with logits of the classes share."""

    uses_texts: ClassVar[TextUse] = "classifier"

    classifier: Literal["text", "linear"] = Field(
        "text",
        description=(
            "Class logits: `text`, scaled cosines to the class texts; `linear`, a linear layer on "
            "the image embedding."
        ),
    )

    @property
    def classifier_words(self) -> str:
        """What computes the class logits, for `wording`."""
        if self.classifier == "linear":
            return "a linear layer on the image embedding"
        return "scaled cosines of image and class-text features"


class ClassifierConfig(HasClassifierConfig):
    """What losses with a cross-entropy over the classes share."""

    class_weighting: ClassWeighting = Field(
        "none",
        description=(
            "Class weights of the cross-entropy, from the training fold's counts. `auto` takes "
            "the config's `weight_method`."
        ),
    )


class FocalConfig(StrictModel):
    """Focal form of a cross-entropy: hard examples weigh more."""

    gamma: NonNegative = Field(
        DEFAULT_FOCUS, description="Focusing power; 0 is plain cross-entropy."
    )
    alpha: Positive | None = Field(None, description="Constant factor on the focal term.")


class ProxyConfig(LossConfig):
    """Settings of a Proxy-Anchor loss."""

    uses_texts: ClassVar[TextUse] = "never"
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
    def focus(self) -> tuple[float, float]:
        """gamma_pos and gamma_neg as used; 0 is no focus."""
        if self.proxy_type == "ProxyAnchorLoss":
            return 0.0, 0.0
        return (
            DEFAULT_FOCUS if self.gamma_pos is None else self.gamma_pos,
            DEFAULT_FOCUS if self.gamma_neg is None else self.gamma_neg,
        )

    @property
    def proxy_words(self) -> str:
        """Name and settings of the Proxy-Anchor loss, for `wording`."""
        focal = "focal-style " if self.proxy_type == "FocalStyleProxyAnchorLoss" else ""
        settings = f"α = {self.alpha:g}, δ = {self.delta:g}"
        return f"{focal}Proxy-Anchor loss (Kim et al. 2020; {settings})"

    def settings(self) -> dict[str, Any]:
        """As `LossBlock.settings`, with the focus as used; without focal style there is none."""
        values = super().settings()
        values["gamma_pos"], values["gamma_neg"] = self.focus
        if self.proxy_type == "ProxyAnchorLoss":
            del values["gamma_pos"], values["gamma_neg"]
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


def term_labels(blocks: Iterable[LossBlock]) -> dict[str, TermLabel]:
    """Terms of a total by name, in the order of `LossOutput.terms`."""
    return {term.name: term for block in blocks for term in block.terms}


def members(union: Any) -> Mapping[str, type[Any]]:
    """Classes of a discriminated union of blocks by their `type`."""
    classes = get_args(get_args(union)[0])
    return {member.model_fields["type"].default: member for member in classes}
