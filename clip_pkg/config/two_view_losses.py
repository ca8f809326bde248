"""The `pretrain.loss` block: one class per loss between two views, see `loss_blocks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from clip_pkg.config.loss_blocks import (
    LossBlock,
    NonNegative,
    Positive,
    Temperature,
    TermLabel,
    members,
)


class PretrainLossConfig(LossBlock):
    """Base of all losses between two views.

    uses_labels: whether it needs the classes of the images.
    """

    smallest_batch = 2
    uses_labels: ClassVar[bool] = False

    def term_weights(self) -> Mapping[str, float]:
        """Weight of each term in the total."""
        return {term.name: 1.0 for term in self.terms}


class InfoNceViewsConfig(PretrainLossConfig):
    """Each first view picks its second view among those of the batch."""

    builder = "two_views:InfoNceViews"
    terms = (TermLabel("info_nce", "InfoNCE", "nce"),)
    source = (
        "van den Oord et al. 2018, arXiv:1807.03748, equation 4; "
        "queue: He et al. 2020, arXiv:1911.05722"
    )
    wording = (
        "InfoNCE between two views (van den Oord et al. 2018; temperature {self.temperature:g})"
    )

    type: Literal["info_nce"] = "info_nce"
    temperature: Temperature = Field(0.1, description="Temperature of the cosines.")


class NtXentConfig(PretrainLossConfig):
    """SimCLR: each view picks its partner among all other views of the batch."""

    builder = "two_views:NtXent"
    terms = (TermLabel("nt_xent", "NT-Xent", "ntx"),)
    source = "Chen et al. 2020, arXiv:2002.05709, equation 1"
    wording = "the NT-Xent loss of SimCLR (Chen et al. 2020; temperature {self.temperature:g})"

    type: Literal["nt_xent"] = "nt_xent"
    temperature: Temperature = Field(0.5, description="Temperature of the cosines.")


class DclConfig(PretrainLossConfig):
    """Decoupled: the denominator leaves out the positive; only from the first view."""

    builder = "two_views:Dcl"
    terms = (TermLabel("dcl", "DCL", "dcl"),)
    source = "Yeh et al. 2022, arXiv:2110.06848, section 3"
    wording = "the decoupled contrastive loss (Yeh et al. 2022; temperature {self.temperature:g})"

    type: Literal["dcl"] = "dcl"
    temperature: Temperature = Field(0.1, description="Temperature of the cosines.")


class DclSymmetricConfig(PretrainLossConfig):
    """`dcl`, mean over both directions."""

    builder = "two_views:DclSymmetric"
    terms = (TermLabel("dcl_symmetric", "DCL", "dcl"),)
    source = "Yeh et al. 2022, arXiv:2110.06848, section 3"
    wording = (
        "the decoupled contrastive loss (Yeh et al. 2022; both directions, temperature "
        "{self.temperature:g})"
    )

    type: Literal["dcl_symmetric"] = "dcl_symmetric"
    temperature: Temperature = Field(0.1, description="Temperature of the cosines.")


class DclwConfig(PretrainLossConfig):
    """`dcl_symmetric` in which pairs that are far apart weigh more."""

    builder = "two_views:Dclw"
    terms = (TermLabel("dclw", "DCLW", "dclw"),)
    source = "Yeh et al. 2022, arXiv:2110.06848, section 3"
    wording = (
        "the weighted decoupled contrastive loss (Yeh et al. 2022; temperature "
        "{self.temperature:g}, σ = {self.sigma:g})"
    )

    type: Literal["dclw"] = "dclw"
    temperature: Temperature = Field(0.1, description="Temperature of the cosines.")
    sigma: Positive = Field(0.5, le=100, description="σ of the von Mises–Fisher weights.")


class DhelConfig(PretrainLossConfig):
    """Decoupled hyperspherical energy: alignment across views, uniformity within each."""

    builder = "two_views:Dhel"
    terms = (TermLabel("dhel", "DHEL", "dhel"),)
    source = "Koromilas et al. 2024, arXiv:2405.18045"
    wording = (
        "the decoupled hyperspherical energy loss (Koromilas et al. 2024; τ = "
        "{self.temperature:g}, uniformity of {self.uniform_views})"
    )

    type: Literal["dhel"] = "dhel"
    temperature: Temperature = Field(0.3, description="Temperature τ of the cosines.")
    include_augs: bool = Field(
        False, description="Count the uniformity of the second views as well."
    )

    @property
    def uniform_views(self) -> str:
        return "both views" if self.include_augs else "the first views"


class KclConfig(PretrainLossConfig):
    """Kernel contrastive loss with a Gaussian kernel."""

    builder = "two_views:Kcl"
    terms = (TermLabel("kcl", "KCL", "kcl"),)
    source = "Koromilas et al. 2024, arXiv:2405.18045"
    wording = (
        "the kernel contrastive loss (Koromilas et al. 2024; Gaussian kernel, t = "
        "{self.t:g}, γ = {self.gamma:g})"
    )

    type: Literal["kcl"] = "kcl"
    t: Positive = Field(2.0, le=1000, description="t of the kernel e^(−t·‖x − y‖²).")
    gamma: NonNegative = Field(16.0, le=1_000_000, description="Weight of the uniformity.")


class VicregConfig(PretrainLossConfig):
    """Equal views, dimensions with variance and without correlation; no negatives."""

    builder = "two_views:Vicreg"
    terms = (
        TermLabel("invariance", "Invariance", "inv"),
        TermLabel("variance", "Variance", "var"),
        TermLabel("covariance", "Covariance", "cov"),
    )
    source = "Bardes et al. 2022, arXiv:2105.04906, equations 1–6"
    wording = (
        "VICReg (Bardes et al. 2022; λ = {self.invariance_weight:g}, "
        "μ = {self.variance_weight:g}, ν = {self.covariance_weight:g})"
    )
    weight_settings = ("invariance_weight", "variance_weight", "covariance_weight")

    type: Literal["vicreg"] = "vicreg"
    invariance_weight: NonNegative = Field(25.0, description="λ, weight of the invariance.")
    variance_weight: NonNegative = Field(25.0, description="μ, weight of the variance.")
    covariance_weight: NonNegative = Field(1.0, description="ν, weight of the covariance.")

    def term_weights(self) -> Mapping[str, float]:
        return {term.name: getattr(self, f"{term.name}_weight") for term in self.terms}


class SupConViewsConfig(PretrainLossConfig):
    """Supervised contrastive: all views of one class are positives. The only loss with labels."""

    builder = "two_views:SupConViews"
    terms = (TermLabel("supcon", "SupCon", "supcon"),)
    source = "Khosla et al. 2020, arXiv:2004.11362, equation 2"
    wording = (
        "the supervised contrastive loss between views (Khosla et al. 2020; temperature "
        "{self.temperature:g})"
    )
    uses_labels = True

    type: Literal["supcon"] = "supcon"
    temperature: Temperature = Field(0.1, description="Temperature of the cosines.")


AnyPretrainLoss: TypeAlias = Annotated[
    InfoNceViewsConfig
    | NtXentConfig
    | DclConfig
    | DclSymmetricConfig
    | DclwConfig
    | DhelConfig
    | KclConfig
    | VicregConfig
    | SupConViewsConfig,
    Field(discriminator="type"),
]

TWO_VIEW_LOSSES = members(AnyPretrainLoss)
