"""The trainer against a slow loop that leaves out nothing and shares nothing, as people write it.

Every image is read, resized and transformed by itself, every image of a batch has its text of full
length encoded, the B×B logits are computed, and the optimiser is the plain one. Only the random
numbers (splits, orders, crops, prompts, first weights) are the trainer's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as transforms
from PIL import Image
from torch import Tensor, nn

from clip_pkg.config.encoders import parse_text_encoder
from clip_pkg.data.augmentation import (
    BRIGHTNESS,
    CONTRAST,
    CROP_LEFT,
    CROP_TOP,
    DRAWS,
    FLIP_HORIZONTAL,
)
from clip_pkg.data.sampling import StreamKey, derive_seed, epoch_order, occurrences, uniforms
from clip_pkg.models.clip_towers import text_tower
from support.tiny import TINY

TEXTS = {
    "blue sky": ["a blue sky", "the sky", "blue"],
    "grün": ["a green thing"],
    "red": ["a red picture", "stripes of red, and little else"],
}
TOLERANCE = 1e-4  # float32 sums in another order, carried through some twenty updates
TEXT_MODEL = "ViT-S-32-alt"
EPOCHS, BATCH, SIZE, STORED, SEED = 3, 8, 32, 37, 42
CONFIG: dict[str, Any] = {
    **TINY,
    "name": "fast",
    "text_encoder_name": f"clip:{TEXT_MODEL}:scratch",
    "class_texts_file": "texts.json",
    "augmentation": "standard",
    "use_weighted_sampling": True,
    "use_amp": False,
    "epochs": EPOCHS,
    "learning_rate": 3e-4,
    "loss": {"type": "clip"},
}


@dataclass
class Reference:
    """Two towers and two projections, drawn as the trainer draws them."""

    image: nn.Module
    text: nn.Module
    image_projection: nn.Linear
    text_projection: nn.Linear
    log_scale: nn.Parameter

    @classmethod
    def drawn(cls, fold: int) -> Reference:
        torch.manual_seed(derive_seed(SEED, fold, "initial weights"))
        image = timm.create_model("test_resnet", num_classes=0)
        text = text_tower(parse_text_encoder(CONFIG["text_encoder_name"]), None, None)
        projections = []
        for width in (image.num_features, 256):
            projection = nn.Linear(width, CONFIG["embed_dim"], bias=False)
            nn.init.normal_(projection.weight, std=width**-0.5)
            projections.append(projection)
        scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        return cls(image, text, *projections, scale)

    def parameters(self, *, decayed: bool) -> Iterator[nn.Parameter]:
        for module in (self.image, self.text, self.image_projection, self.text_projection):
            for name, parameter in module.named_parameters():
                matrix = parameter.ndim > 1 and name != "positional_embedding"
                if matrix == decayed:
                    yield parameter
        if not decayed:
            yield self.log_scale

    def images(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.image_projection(self.image(pixels)), dim=-1)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        tokens = open_clip.get_tokenizer(TEXT_MODEL)(list(prompts))
        assert tokens.shape[1] == 77
        return F.normalize(self.text_projection(self.text(tokens)), dim=-1)

    def loss(self, images: Tensor, texts: Tensor) -> Tensor:
        logits = self.log_scale.exp() * images @ texts.T
        own = torch.arange(len(images))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def picture(path: Path) -> Image.Image:
    squashed = Image.open(path).convert("RGB")
    return squashed.resize((STORED, STORED), Image.Resampling.BICUBIC)


def normalised(image: Tensor) -> Tensor:
    return transforms.normalize(image, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])  # test_resnet's own


def augmented(path: Path, u: np.ndarray) -> Tensor:
    places = STORED - SIZE + 1
    top, left = int(u[CROP_TOP] * places), int(u[CROP_LEFT] * places)
    image = transforms.crop(picture(path), top, left, SIZE, SIZE)
    if u[FLIP_HORIZONTAL] < 0.5:
        image = transforms.hflip(image)
    pixels = transforms.to_tensor(image)
    pixels = transforms.adjust_brightness(pixels, 0.8 + 0.4 * u[BRIGHTNESS])
    return normalised(transforms.adjust_contrast(pixels, 0.8 + 0.4 * u[CONTRAST]))


def rate(step: int, total: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def slow_curves(
    folder: Path, names: Sequence[str], train: Sequence[int], val: Sequence[int], fold: int
) -> dict[str, list[float]]:
    """Train on `train` as people do; positions count the images `names`, CLASS/FILE each."""
    classes = list(TEXTS)
    labels = np.array([classes.index(name.split("/")[0]) for name in names])
    model = Reference.drawn(fold)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.parameters(decayed=True)), "weight_decay": 0.01},
            {"params": list(model.parameters(decayed=False)), "weight_decay": 0.0},
        ],
        lr=CONFIG["learning_rate"],
        foreach=False,
    )
    steps = len(train) // BATCH + (len(train) % BATCH > 1)
    warmup = max(1, round(min(steps, 0.1 * steps * EPOCHS)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(step, steps * EPOCHS, warmup)
    )
    frequency = np.bincount(labels[train], minlength=len(classes))
    weights = len(train) / (len(classes) * (frequency + 1.0))
    curves: dict[str, list[float]] = {"train_loss": [], "val_loss": [], "val_acc": []}
    for epoch in range(1, EPOCHS + 1):
        order = epoch_order(
            labels[train], weights, seed=SEED, fold=fold, epoch=epoch, batch_size=BATCH
        )
        index = np.asarray(train)[order]
        views = index + len(names) * occurrences(order)
        numbers = uniforms(StreamKey(SEED, fold, epoch, "augmentation"), views, DRAWS)
        prompts = torch.Generator().manual_seed(derive_seed(SEED, fold, epoch, "prompts"))
        model.image.train()
        total = 0.0
        for first in range(0, len(index), BATCH):
            batch = index[first : first + BATCH]
            chosen = torch.rand(len(classes), generator=prompts, dtype=torch.float64)
            drawn = [
                texts[int(u * len(texts))] for texts, u in zip(TEXTS.values(), chosen, strict=True)
            ]
            pixels = [augmented(folder / names[i], numbers[first + n]) for n, i in enumerate(batch)]
            images = model.images(torch.stack(pixels))
            loss = model.loss(images, model.texts([drawn[labels[i]] for i in batch]))
            optimizer.zero_grad()
            loss.backward()
            every = [*model.parameters(decayed=True), *model.parameters(decayed=False)]
            torch.nn.utils.clip_grad_norm_(every, 1.0)
            optimizer.step()
            schedule.step()
            model.log_scale.data.clamp_(-math.log(100), math.log(100))
            total += loss.item() * len(batch)
        curves["train_loss"].append(total / len(index))
        val_loss, val_acc = slow_validation(model, folder, names, labels, val, fold)
        curves["val_loss"].append(val_loss)
        curves["val_acc"].append(val_acc)
    return curves


@torch.no_grad()
def slow_validation(
    model: Reference,
    folder: Path,
    names: Sequence[str],
    labels: np.ndarray,
    val: Sequence[int],
    fold: int,
) -> tuple[float, float]:
    model.image.eval()
    means = [F.normalize(model.texts(texts).mean(dim=0), dim=-1) for texts in TEXTS.values()]
    texts = torch.stack(means)
    features = []
    for position in val:
        square = transforms.center_crop(picture(folder / names[position]), [SIZE, SIZE])
        features.append(model.images(normalised(transforms.to_tensor(square))[None])[0])
    right = [int((f @ texts.T).argmax()) == labels[i] for f, i in zip(features, val, strict=True)]
    generator = torch.Generator().manual_seed(derive_seed(SEED, fold, "loss order val"))
    total = 0.0
    for chunk in torch.randperm(len(val), generator=generator).split(BATCH):
        own = texts[torch.tensor([labels[val[i]] for i in chunk])]
        total += float(model.loss(torch.stack([features[i] for i in chunk]), own)) * len(chunk)
    return total / len(val), 100 * float(np.mean(right))


def test_the_loss_curve_is_that_of_a_slow_plain_loop(
    images: Path, tmp_path: Path, train: Callable[..., str], write_configs: Callable[..., Path]
) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    train("--config-file", write_configs(CONFIG), output="out")
    run = next((tmp_path / "out").rglob("folds_info.json")).parent
    info = json.loads((run / "folds_info.json").read_text(encoding="utf-8"))
    assert info["classes"] == list(TEXTS)
    names = sorted(str(path.relative_to(images)) for path in images.glob("*/*.png"))
    fold = 2  # what is right for the second one is no accident of counting from 0 or 1
    sides = info["folds"][fold - 1]
    train_side, val_side = ([names.index(name) for name in sides[s]] for s in ("train", "val"))
    slow = slow_curves(images, names, train_side, val_side, fold)
    history = json.loads((run / f"fold_{fold}/history.json").read_text(encoding="utf-8"))
    for column, values in slow.items():
        assert history[column] == pytest.approx(values, rel=TOLERANCE), column
