"""The model of one trained fold, rebuilt from its checkpoint alone.

Neither a network, nor pretrained weights, nor a text tower is needed: the checkpoint holds the
image encoder, the features of the classes, and whatever else its objective predicts by.

Legend: B images, C classes, D embedding size, S side of the decoded square in pixels, H side of
what the encoder sees of it (H ≤ S).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError, UserError
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation
from clip_pkg.data.batches import evaluation_batch_size
from clip_pkg.data.pixel_store import store_size
from clip_pkg.inference.safetensors_file import SUFFIX, TEXT_SIDE, read_safetensors
from clip_pkg.models.checkpoint import load_checkpoint
from clip_pkg.models.classifier import Classifier, objective_for, probabilities
from clip_pkg.models.image_encoder import build_image_encoder
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.models.precision import Precision, choose_precision, flushed_denormals
from clip_pkg.models.state_dicts import load_strictly


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


Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class FoldClassifier:
    """A fold's model on a device.

    source: its checkpoint. identity: digests of what the fold's numbers follow from. name: the
    config's. fold, epoch: count from 1; fold 0 is a refit, for which no image was held out.
    store_size: S. batch_size: images that an evaluation of the fold looks at together on such a
    device.
    """

    source: Path
    identity: Mapping[str, str]
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
        """How people call it."""
        part = f"fold {self.fold}" if self.fold else "refit on all images"
        return f"{part} (epoch {self.epoch})"

    @classmethod
    def load(cls, path: Path, device: torch.device) -> FoldClassifier:
        """Rebuild the model of a checkpoint, best or latest.

        Raises CheckpointError if the file is absent, damaged, hostile or not of this program.
        """
        return cls.rebuild(read_content(path), path, device)

    @classmethod
    def rebuild(
        cls,
        content: CheckpointContent,
        source: Path,
        device: torch.device,
        precision: Precision | None = None,
    ) -> FoldClassifier:
        """Rebuild the model of what was read from `source`.

        precision: None for that of an evaluation of the fold on such a device.
        Raises CheckpointError if the content is of another model than its config says.
        """
        config = content.config
        model = _image_side(content, source)
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
                _at_rest(model.to(device).to(memory_format=precision.memory_format)),
                _at_rest(objective.to(device)),
                precision,
                None if features is None else features.to(device),
            ),
        )

    # Not in inference mode: some encoders keep what they compute on the way, and gradients, which
    # an explanation needs, cannot pass through what was computed in it.
    @torch.no_grad()
    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Squares [B, S, S, 3], RGB → probability of each class [B, C], rows sum to 1.

        On a CPU with as many threads, the fold's validation images in the batches of its evaluation
        get the very numbers of its `predictions.csv`. In batches of other sizes an image's numbers
        differ by rounding, because matrix products of another size add in another order: by about
        1e-6 in float32, by more where half precision rounds in between.
        """
        with flushed_denormals():
            logits = self.classifier.logits(self.classifier.embeddings(self.images(pixels)))
            answers: NDArray[np.float64] = probabilities(logits).cpu().numpy()
        self._check(answers)
        return answers

    @torch.no_grad()
    def embeddings(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Squares [B, S, S, 3], RGB → places in the joint space [B, D], before normalisation.

        Their directions are what class texts are compared with.
        """
        with flushed_denormals():
            features: NDArray[np.float32] = (
                self.classifier.embeddings(self.images(pixels)).cpu().numpy()
            )
        self._check(features)
        return features

    def images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Squares [B, S, S, 3], RGB → what the encoder sees, [B, 3, H, H] on the device."""
        return self.augmentation.evaluate(torch.from_numpy(pixels).to(self.device))

    def _check(self, numbers: NDArray[np.floating]) -> None:
        if not np.isfinite(numbers).all():
            raise CheckpointError(f"{self.source}: its model answers with NaN, not with numbers")


@contextmanager
def memory_of(device: torch.device) -> Iterator[None]:
    """Turn a full GPU into a sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"{device}: the models and a batch of images do not fit into its free memory; name "
            "fewer folds, or use --device cpu"
        ) from None


def _at_rest(module: Module) -> Module:
    """Nothing is trained any more."""
    return module.eval().requires_grad_(requires_grad=False)


def _image_side(content: CheckpointContent, path: Path) -> ImageTextModel:
    """Image encoder, projection and temperature; the class features stand for the text side."""
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
        name: tensor for name, tensor in content.model.items() if not name.startswith(TEXT_SIDE)
    }
    model.load_checkpoint_state(state, source=str(path))
    return model
