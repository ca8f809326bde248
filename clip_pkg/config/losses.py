"""The `loss` block of a config: one class per main loss, joined in a discriminated union.

A class is the loss's row in the registry, see `loss_blocks`. A parameter that the chosen loss does
not have is an error, because every class forbids extras.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from clip_pkg.config.loss_blocks import (
    DEFAULT_FOCUS,
    ClassifierConfig,
    ClassWeighting,
    FocalConfig,
    HasClassifierConfig,
    LossConfig,
    NonNegative,
    Positive,
    ProxyConfig,
    Temperature,
    TermLabel,
    members,
)

CONTRASTIVE = TermLabel("contrastive", "Contrastive", "clip")
CLASS = TermLabel("class", "Class", "cls")
CE = TermLabel("ce", "CE", "ce")
INFONCE = TermLabel("infonce", "InfoNCE", "nce")
PROXY = TermLabel("proxy", "Proxy", "proxy")


class ClipLossConfig(LossConfig):
    """Symmetric image–text contrastive loss over the batch."""

    builder = "image_text:ClipObjective"
    terms = (CONTRASTIVE,)
    source = "Radford et al. 2021, arXiv:2103.00020, figure 3"
    wording = "the symmetric image–text contrastive loss of CLIP (Radford et al. 2021)"
    smallest_batch = 2

    type: Literal["clip"] = "clip"
    positives: Literal["same_class", "diagonal"] = Field(
        "same_class",
        description=(
            "Which pairs of a batch match: an image and the texts of all images of its class, or "
            "only its own. Every image of a class has the same text in a step, and then both give "
            "the same value and gradient."
        ),
    )

    def phrase(self) -> str:
        return self.wording + (
            ", in which all pairs of one class match" if self.positives == "same_class" else ""
        )


class SuperClipLossConfig(LossConfig):
    """Classification over image–class-text logits plus the CLIP loss, each with a weight."""

    builder = "superclip:SuperClipObjective"
    terms = (CLASS, CONTRASTIVE)
    source = "Zhao et al. 2025, arXiv:2512.14480; focal form: Lin et al. 2017, equation 5"
    wording = (
        "the class-text form of SuperCLIP, in which class texts replace the token vocabulary of "
        "the published form (Zhao et al. 2025): the weighted sum of {self.class_words} over "
        "image–class-text logits (weight {self.class_loss_weight:g}) and a CLIP loss (weight "
        "{self.contrastive_loss_weight:g})"
    )
    variant = "class texts"
    smallest_batch = 2
    soft_targets = "warn"
    hard_term = "its contrastive term"
    weight_settings = ("class_loss_weight", "contrastive_loss_weight")

    type: Literal["superclip"] = "superclip"
    class_loss_weight: NonNegative = Field(1.0, description="Weight of the classification term.")
    contrastive_loss_weight: NonNegative = Field(1.0, description="Weight of the CLIP term.")
    positives: Literal["same_class", "diagonal"] = Field("same_class", description="As for `clip`.")
    class_weighting: ClassWeighting = Field(
        "auto",
        description=(
            "Class weights of the classification term, from the training fold's counts. `auto` "
            "takes the config's `weight_method`."
        ),
    )
    focal: FocalConfig | None = Field(None, description="Use the focal form of the class loss.")

    @property
    def class_words(self) -> str:
        """Form of the classification term, for `wording`."""
        gamma = None if self.focal is None else self.focal.gamma
        return "a cross-entropy" if gamma is None else f"a focal loss (γ = {gamma:g})"


class SuperClipTokensLossConfig(LossConfig):
    """SuperCLIP as published: each image also predicts the tokens of its text."""

    builder = "superclip:SuperClipTokensObjective"
    terms = (CLASS, CONTRASTIVE)
    source = "Zhao et al. 2025, arXiv:2512.14480, section 3"
    wording = (
        "SuperCLIP (Zhao et al. 2025), the weighted sum of a classification of the text tokens by "
        "the image (weight {self.class_loss_weight:g}) and a CLIP loss (weight "
        "{self.contrastive_loss_weight:g})"
    )
    smallest_batch = 2
    needs_tokens = True

    type: Literal["superclip_tokens"] = "superclip_tokens"
    class_loss_weight: NonNegative = Field(
        1.0, description="Weight of the classification over tokens."
    )
    contrastive_loss_weight: Positive = Field(
        1.0, description="Weight of the CLIP term, which learns to predict the class."
    )


class SigLipLossConfig(LossConfig):
    """Sigmoid loss: a binary decision for every pair of image and text of a batch."""

    builder = "image_text:SigLipObjective"
    terms = (TermLabel("siglip", "SigLIP", "siglip"),)
    source = "Zhai et al. 2023, arXiv:2303.15343, algorithm 1"
    wording = "the pairwise sigmoid loss of SigLIP (Zhai et al. 2023)"
    smallest_batch = 2

    type: Literal["siglip"] = "siglip"
    initial_bias: Annotated[float, Field(ge=-1000, le=1000)] = Field(
        -10.0, description="Start of the learned bias on the scaled cosines."
    )


class SupConLossConfig(LossConfig):
    """Supervised contrastive loss over the images of a batch and the class texts."""

    builder = "image_text:SupConObjective"
    terms = (TermLabel("supcon", "SupCon", "supcon"),)
    source = "Khosla et al. 2020, arXiv:2004.11362, equation 2"
    wording = (
        "the supervised contrastive loss (Khosla et al. 2020) over images and class texts "
        "(temperature {self.temperature:g})"
    )
    smallest_batch = 2

    type: Literal["supcon"] = "supcon"
    temperature: Temperature = Field(
        0.1,
        title="Loss Temperature",
        description="Temperature of the cosines, in training and prediction.",
    )


class CeLossConfig(ClassifierConfig):
    """Cross-entropy over the classes."""

    builder = "classification:ClassificationObjective"
    terms = (CE,)
    source = "label smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7"
    wording = "cross-entropy on {self.classifier_words}"
    soft_targets = "yes"

    type: Literal["ce"] = "ce"


class FocalLossConfig(ClassifierConfig):
    """Cross-entropy over the classes in which hard examples weigh more."""

    builder = "classification:FocalObjective"
    terms = (TermLabel("focal", "Focal", "focal"),)
    source = "Lin et al. 2017, arXiv:1708.02002, equation 5"
    wording = "focal loss (Lin et al. 2017; γ = {self.gamma:g}) on {self.classifier_words}"
    soft_targets = "yes"

    type: Literal["focal"] = "focal"
    gamma: NonNegative = Field(
        DEFAULT_FOCUS, description="Focusing power; 0 is plain cross-entropy."
    )
    alpha: Positive | None = Field(None, description="Constant factor on the loss.")


class CeInfoNceLossConfig(ClassifierConfig):
    """Cross-entropy plus an InfoNCE loss of image features against class texts."""

    builder = "classification:CeInfoNceObjective"
    terms = (CE, INFONCE)
    source = "InfoNCE: van den Oord et al. 2018, arXiv:1807.03748, equation 4"
    wording = (
        "cross-entropy on {self.classifier_words} plus {self.contrast_weight:g} times an InfoNCE "
        "loss of image against class-text features (temperature {self.infonce_temp:g})"
    )
    uses_texts = "always"  # the InfoNCE term does
    soft_targets = "warn"
    hard_term = "its InfoNCE term"

    type: Literal["ce_infonce"] = "ce_infonce"
    contrast_weight: NonNegative = Field(
        0.5, description="Weight of the InfoNCE term; the cross-entropy has 1."
    )
    infonce_temp: Temperature = Field(0.07, description="Temperature of the InfoNCE term.")


class ProxyLossConfig(ProxyConfig):
    """Proxy-Anchor loss: one learned point per class; the nearest one is the prediction."""

    builder = "proxies:ProxyObjective"
    terms = (PROXY,)
    source = "Kim et al. 2020, arXiv:2003.13911, equation 4"
    wording = "the {self.proxy_words}"

    type: Literal["proxy"] = "proxy"


class CombinedLossConfig(ClassifierConfig, ProxyConfig):
    """λ · cross-entropy + (1 − λ) · Proxy-Anchor loss."""

    builder = "proxies:CombinedObjective"
    terms = (CE, PROXY)
    source = "Proxy-Anchor: Kim et al. 2020, arXiv:2003.13911, equation 4"
    wording = (
        "{self.lambda_combined:g} times cross-entropy on {self.classifier_words} plus "
        "{self.proxy_share:g} times the {self.proxy_words}"
    )
    soft_targets = "warn"
    hard_term = "its proxy term"
    share_settings = ("lambda_combined",)

    type: Literal["combined"] = "combined"
    lambda_combined: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        title="λ (lambda)",
        description="λ: share of the cross-entropy. At 0 the nearest proxy is the prediction.",
    )

    @property
    def proxy_share(self) -> float:
        """1 − λ."""
        return 1.0 - self.lambda_combined


class PairLossConfig(LossConfig):
    """Settings of the losses that compare each image's own text with negative texts."""

    smallest_batch = 2

    temperature: Temperature = Field(
        0.2,
        title="Loss Temperature",
        description="Temperature of the cosines, in training and prediction.",
    )
    num_negatives: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        None,
        description=(
            "Texts drawn from all classes in each step, as negatives of the images of other "
            "classes. null: the texts of the batch's other classes."
        ),
    )

    @property
    def negatives_words(self) -> str:
        """Which negatives there are, for `wording`."""
        if self.num_negatives is None:
            return "the texts of the batch's other classes as negatives"
        return f"{self.num_negatives} sampled class texts as negatives"


class InfoNceLossConfig(PairLossConfig):
    """Each image picks its class's text among negatives."""

    builder = "image_text:InfoNceObjective"
    terms = (INFONCE,)
    source = "van den Oord et al. 2018, arXiv:1807.03748, equation 4"
    wording = (
        "InfoNCE (van den Oord et al. 2018) with {self.negatives_words} (temperature "
        "{self.temperature:g})"
    )

    type: Literal["infonce"] = "infonce"


class BceLossConfig(PairLossConfig):
    """Binary cross-entropy on the pairs of `infonce`, as its baseline."""

    builder = "image_text:BceObjective"
    terms = (TermLabel("bce", "BCE", "bce"),)
    source = "Kang and McAuley 2018, arXiv:1808.09781, section III-E"
    wording = (
        "binary cross-entropy on image–text pairs with {self.negatives_words} (temperature "
        "{self.temperature:g})"
    )

    type: Literal["bce"] = "bce"


class LogitAdjustLossConfig(HasClassifierConfig):
    """Cross-entropy of logits that are shifted by the log frequencies of the classes."""

    builder = "long_tail:AdjustedSoftmaxObjective"
    terms = (TermLabel("logit_adjust", "LogitAdjust", "adj"),)
    source = "Menon et al. 2021, arXiv:2007.07314, equation 10"
    wording = (
        "logit-adjusted cross-entropy (Menon et al. 2021; τ = {self.tau:g}) on "
        "{self.classifier_words}"
    )
    soft_targets = "yes"
    adjusts_for_counts = True

    type: Literal["logit_adjust"] = "logit_adjust"
    tau: NonNegative = Field(1.0, description="τ: strength of the shift; 0 is plain cross-entropy.")


class BalancedSoftmaxLossConfig(HasClassifierConfig):
    """Cross-entropy of a softmax in which each class weighs its number of images."""

    builder = "long_tail:AdjustedSoftmaxObjective"
    terms = (TermLabel("balanced_softmax", "BalancedSoftmax", "bal"),)
    source = "Ren et al. 2020, arXiv:2007.10740, equation 4"
    wording = "balanced softmax (Ren et al. 2020) on {self.classifier_words}"
    soft_targets = "yes"
    adjusts_for_counts = True
    tau: ClassVar[float] = 1.0

    type: Literal["balanced_softmax"] = "balanced_softmax"


class LdamLossConfig(HasClassifierConfig):
    """Margins that are larger for rarer classes, and class weights in the last epochs."""

    builder = "long_tail:LdamObjective"
    terms = (TermLabel("ldam", "LDAM", "ldam"),)
    source = "Cao et al. 2019, arXiv:1906.07413, equations 12 and 13, section 3.3"
    wording = (
        "the label-distribution-aware margin loss (Cao et al. 2019; largest margin "
        "{self.max_margin:g}, scale {self.scale:g}, class weights from {self.reweight_from:g} of "
        "the epochs on)"
    )
    adjusts_for_counts = True

    type: Literal["ldam"] = "ldam"
    max_margin: Annotated[float, Field(ge=0, le=2)] = Field(
        0.5, description="Margin of the rarest class, on the cosine."
    )
    scale: Positive = Field(30.0, description="Factor on the cosines.")
    reweight_from: Annotated[float, Field(ge=0, le=1)] = Field(
        0.8,
        description=(
            "Share of the epochs after which classes are weighted by their effective numbers; 1: "
            "never."
        ),
    )


MainLossConfig: TypeAlias = Annotated[
    ClipLossConfig
    | SuperClipLossConfig
    | SuperClipTokensLossConfig
    | SigLipLossConfig
    | SupConLossConfig
    | CeLossConfig
    | FocalLossConfig
    | CeInfoNceLossConfig
    | ProxyLossConfig
    | CombinedLossConfig
    | InfoNceLossConfig
    | BceLossConfig
    | LogitAdjustLossConfig
    | BalancedSoftmaxLossConfig
    | LdamLossConfig,
    Field(discriminator="type"),
]

LOSSES = members(MainLossConfig)
