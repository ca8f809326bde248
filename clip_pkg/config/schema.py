"""`RunConfig`: one training configuration, frozen and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from clip_pkg.config.encoders import EncoderSpec, parse_image_encoder, parse_text_encoder
from clip_pkg.config.keys import ConfigKeys
from clip_pkg.config.rules import contradictions
from clip_pkg.metrics.table import lower_is_better


class RunConfig(ConfigKeys):
    """One model to cross-validate: the keys, the rules over several keys, and derived values."""

    @model_validator(mode="before")
    @classmethod
    def _name_from_encoders(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("name", "") == "":
            return {**data, "name": default_name(data)}
        return data

    @model_validator(mode="after")
    def _keys_fit_together(self, info: ValidationInfo) -> RunConfig:
        found = contradictions(self, (info.context or {}).get("wrong_keys", ()))
        if found:
            raise PydanticCustomError(
                "contradictions", "{text}", {"found": found, "text": "; ".join(found.values())}
            )
        return self

    @property
    def image_encoder(self) -> EncoderSpec:
        """`image_encoder_name`, parsed."""
        return parse_image_encoder(self.image_encoder_name)

    @property
    def text_encoder(self) -> EncoderSpec:
        """`text_encoder_name`, parsed."""
        return parse_text_encoder(self.text_encoder_name)

    @property
    def flips_horizontally(self) -> bool:
        """Whether training images are mirrored: `horizontal_flip`, or what null stands for."""
        if self.horizontal_flip is None:
            return self.augmentation != "none"
        return self.horizontal_flip

    @property
    def needs_text(self) -> bool:
        """Whether any loss uses the class texts."""
        return any(loss.needs_text for loss in (self.loss, *self.aux_losses))

    @property
    def needs_tokens(self) -> bool:
        """Whether any loss uses the token ids of the class texts."""
        return any(loss.needs_tokens for loss in (self.loss, *self.aux_losses))

    @property
    def smallest_batch(self) -> int:
        """Minimum number of images per batch that every loss can learn from."""
        return max(loss.smallest_batch for loss in (self.loss, *self.aux_losses))

    @property
    def monitor_sign(self) -> int:
        """+1 if a larger value of the monitored metric is better, else -1."""
        return -1 if lower_is_better(self.early_stopping_monitor) else 1


def default_name(values: Mapping[str, Any]) -> str:
    """Name of a config that sets none: its two encoders."""
    fields = ConfigKeys.model_fields
    names = (
        values.get(key, fields[key].default) for key in ("image_encoder_name", "text_encoder_name")
    )
    return "_".join(map(str, names))
