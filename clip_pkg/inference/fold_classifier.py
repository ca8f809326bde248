"""The model of one trained fold, rebuilt from its checkpoint alone.

It needs no network, pretrained weights or text tower: the checkpoint contains the image encoder,
the class features, and the parameters of the objective.

Legend: B images, C classes, D embedding size, S width of the decoded square in pixels, H width of
the encoder's input (H ≤ S).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError, UserError
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation
from clip_pkg.data.batches import evaluation_batch_size
from clip_pkg.data.pixel_store import store_size
from clip_pkg.inference.safetensors_file import SUFFIX, TEXT_PREFIXES, read_safetensors
from clip_pkg.models.checkpoint import load_checkpoint
from clip_pkg.models.classifier import Classifier, objective_for, probabilities
from clip_pkg.models.image_encoder import build_image_encoder
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.models.precision import Precision, choose_precision, flushed_denormals
from clip_pkg.models.state_dicts import load_strictly
from clip_pkg.study.identity import Identity, identity_from_json


class Transform(BaseModel):
    """How the fold's images were prepared."""

    model_config = ConfigDict(frozen=True, strict=True)

    store_size: int
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[float], Field(min_length=3, max_length=3)]


class CheckpointContent(BaseModel):
    """Fields of a checkpoint that prediction and export need; it may contain more.

    fold: 0 for a refit. prompts: per class. model, objective: state dicts. class_features: [C, D],
    None for a model without texts.
    """

    model_config = ConfigDict(frozen=True, strict=True, arbitrary_types_allowed=True)

    identity: Annotated[Identity, BeforeValidator(identity_from_json)]
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
    """Read a checkpoint or export without executing anything in it.

    Raises CheckpointError if it is missing, damaged, unsafe or not a checkpoint of this program.
    """
    read = read_safetensors if path.suffix == SUFFIX else load_checkpoint
    try:
        content = CheckpointContent.model_validate(read(path))
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} cannot be used to predict: {place}: {first['msg']}; it was written by another "
            "version of this program or is not one of its checkpoints"
        ) from None
    if contradiction := _contradiction(content):
        raise CheckpointError(f"{path} cannot be used to predict: {contradiction}")
    return content


def _contradiction(content: CheckpointContent) -> str:
    """A contradiction within a checkpoint, or an empty string."""
    config, features = content.config, content.class_features
    count = len(content.classes)
    expected = None if config.text_encoder.family == "none" else (count, config.embed_dim)
    if (None if features is None else tuple(features.shape)) != expected:
        return "its class features do not match its classes"
    if len(content.class_counts) != count:
        return "its class counts do not match its classes"
    if content.transform.store_size != store_size(config.img_size, config.augmentation):
        return "its images were prepared in a way that this version does not support"
    return ""


Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class FoldClassifier:
    """A fold's model on a device.

    source: its checkpoint. identity: see `study.tasks`. name: of the config. fold, epoch: from 1;
    fold 0 is a refit. store_size: S. batch_size: of an evaluation on such a device.
    """

    source: Path
    identity: Identity
    name: str
    fold: int
    epoch: int
    classes: tuple[str, ...]
    store_size: int
    batch_size: int
    device: torch.device
    augmentation: Augmentation
    classifier: Classifier

    @property
    def label(self) -> str:
        """Display name."""
        name = f"fold {self.fold}" if self.fold else "refit on all images"
        return f"{name} (epoch {self.epoch})"

    @classmethod
    def load(cls, path: Path, device: torch.device) -> FoldClassifier:
        """Rebuild the model of a checkpoint; errors as for `read_content`."""
        return cls.rebuild(read_content(path), path, device)

    @classmethod
    def rebuild(
        cls,
        content: CheckpointContent,
        source: Path,
        device: torch.device,
        precision: Precision | None = None,
    ) -> FoldClassifier:
        """Rebuild the model from the content of `source`.

        precision: None for that of an evaluation on this device.
        Raises CheckpointError if the weights do not fit the model of the config.
        """
        config = content.config
        model = _image_tower(content, source)
        objective = objective_for(config, content.class_counts, content.vocabulary_size)
        load_strictly(objective, content.objective, source=str(source))
        features = content.class_features
        precision = precision or choose_precision(
            device,
            model.image_encoder,
            img_size=config.img_size,
            use_amp=config.use_amp,
            amp_dtype=config.amp_dtype,
        )
        return cls(
            source=source,
            identity=content.identity,
            name=config.name,
            fold=content.fold,
            epoch=content.epoch,
            classes=tuple(content.classes),
            store_size=content.transform.store_size,
            batch_size=evaluation_batch_size(config.batch_size, config.img_size, device.type),
            device=device,
            augmentation=Augmentation(
                config.augmentation,
                img_size=config.img_size,
                mean=content.transform.mean,
                std=content.transform.std,
                device=device,
                memory_format=precision.memory_format,
            ),
            classifier=Classifier(
                _frozen(model.to(device).to(memory_format=precision.memory_format)),
                _frozen(objective.to(device)),
                precision,
                None if features is None else features.to(device),
            ),
        )

    # no_grad and not inference_mode: some encoders cache tensors, and explanations need gradients
    # through them later.
    @torch.no_grad()
    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Class probabilities [B, C] of squares [B, S, S, 3] uint8 RGB; rows sum to 1.

        With the same number of CPU threads and the same batches, validation images get exactly the
        numbers of `predictions.csv`. Other batch sizes change the order of summation in matrix
        products: differences of about 1e-6 in float32, more in half precision.
        """
        with flushed_denormals():
            logits = self.classifier.logits(self.classifier.embeddings(self.images(pixels)))
            predicted: NDArray[np.float64] = probabilities(logits).cpu().numpy()
        self._check(predicted)
        return predicted

    @torch.no_grad()
    def embeddings(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings [B, D] of squares [B, S, S, 3] uint8 RGB, before normalisation."""
        with flushed_denormals():
            features: NDArray[np.float32] = (
                self.classifier.embeddings(self.images(pixels)).cpu().numpy()
            )
        self._check(features)
        return features

    def images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Encoder input [B, 3, H, H] on the device, from squares [B, S, S, 3] uint8 RGB."""
        return self.augmentation.evaluate(torch.from_numpy(pixels).to(self.device))

    def _check(self, numbers: NDArray[np.floating]) -> None:
        if not np.isfinite(numbers).all():
            raise CheckpointError(f"{self.source}: its model predicts NaN")


@contextmanager
def memory_of(device: torch.device) -> Iterator[None]:
    """Report running out of GPU memory as a UserError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"{device}: the models and a batch of images do not fit into its free memory; use "
            "fewer folds, or --device cpu"
        ) from None


def _frozen(module: Module) -> Module:
    return module.eval().requires_grad_(requires_grad=False)


def _image_tower(content: CheckpointContent, path: Path) -> ImageTextModel:
    """Image encoder, projection and temperature; class features replace the text tower."""
    config = content.config
    encoder = build_image_encoder(
        config.image_encoder.untrained, img_size=config.img_size, stem=config.stem
    )
    model = ImageTextModel(
        encoder,
        None,
        [1] * len(content.classes),
        embed_dim=config.embed_dim,
        temperature=config.temperature,
    )
    state = {
        name: tensor for name, tensor in content.model.items() if not name.startswith(TEXT_PREFIXES)
    }
    model.load_checkpoint_state(state, source=str(path))
    return model
