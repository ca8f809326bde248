"""What a trained model's file holds, checked: of a checkpoint, or of an export to safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from clip_pkg.checkpoint import load_checkpoint
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.pixel_store import store_size
from clip_pkg.errors import CheckpointError
from clip_pkg.inference.safetensors_file import SUFFIX, read_safetensors


class Transform(BaseModel):
    """How the fold's images were prepared; see `engine.outputs`."""

    model_config = ConfigDict(frozen=True, strict=True)

    store_size: int
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[float], Field(min_length=3, max_length=3)]


class CheckpointContent(BaseModel):
    """What is read of a checkpoint to predict and to export; it may hold more.

    fold: 0 for a refit, for which no image was held out. prompts: of each class. model, objective:
    their states. class_features: [C, D]; None for a model without texts.
    """

    model_config = ConfigDict(frozen=True, strict=True, arbitrary_types_allowed=True)

    identity: dict[str, str]
    fold: int
    epoch: int
    config: RunConfig
    classes: Annotated[list[str], Field(min_length=2)]
    prompts: list[list[str]]
    class_counts: list[int]
    vocabulary_size: int | None
    transform: Transform
    model: dict[str, Tensor]
    objective: dict[str, Tensor]
    class_features: Tensor | None


def read_content(path: Path) -> CheckpointContent:
    """Read a file. Raises CheckpointError if it is absent, damaged, hostile or not of this program.

    Nothing in it is executed.
    """
    read = read_safetensors if path.suffix == SUFFIX else load_checkpoint
    try:
        content = CheckpointContent.model_validate(read(path))
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} cannot be used to predict: {place}: {first['msg']}; it was written by another "
            "version of this program or is none of its checkpoints"
        ) from None
    if contradiction := _contradiction(content):
        raise CheckpointError(f"{path} cannot be used to predict: {contradiction}")
    return content


def _contradiction(content: CheckpointContent) -> str:
    """What does not fit together in a checkpoint, or an empty text."""
    config, features = content.config, content.class_features
    count = len(content.classes)
    expected = None if config.text_encoder.family == "none" else (count, config.embed_dim)
    if (None if features is None else tuple(features.shape)) != expected:
        return "its class features do not fit its classes"
    if len(content.class_counts) != count:
        return "its class counts do not fit its classes"
    if content.transform.store_size != store_size(config.img_size, config.augmentation):
        return "its images were prepared as this version of the program does not"
    return ""
