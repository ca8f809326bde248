"""Features of a frozen encoder, computed once: the same fold as with the encoder run every time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation
from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.training import build as build_module
from clip_pkg.training.frozen_features import sees_the_same_images
from clip_pkg.training.trainer import Interrupted, Trainer

FROZEN = {
    "freeze_image_encoder": True,
    "augmentation": "none",
    "use_cv": False,
    "epochs": 3,
    "use_amp": False,
    "use_weighted_sampling": True,
    "inner_val_fraction": 0.2,
    "loss": {"type": "superclip"},
    "name": "probe",
}
TOLD = "frozen image encoder computed the features of 30 images once"


def history(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "history.json").read_text(encoding="utf-8")))


def probabilities(folder: Path) -> list[list[float]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [[float(row[name]) for name in row if name.startswith("prob")] for row in rows]


def logs(root: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in root.rglob("*.log"))


def test_the_fold_is_the_same_and_the_encoder_looks_once(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    forward = ImageEncoder.forward

    def counting(self: ImageEncoder, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(ImageEncoder, "forward", counting)
    config = write_configs(FROZEN)
    train("--config-file", config, output="once")
    assert sum(seen) - 1 == 30  # the check of the encoder is the one image more
    assert TOLD in logs(tmp_path)
    monkeypatch.setattr(build_module, "features_fit", lambda *_: False)
    train("--config-file", config, output="always")
    once, always = (tmp_path / name / "probe" / "fold_1" for name in ("once", "always"))
    mine, theirs = history(once), history(always)
    for name in mine:
        if name not in ("epoch_seconds", "train_images_per_second"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-5), name
    first, second = probabilities(once), probabilities(always)
    torch.testing.assert_close(torch.tensor(first), torch.tensor(second), atol=1e-5, rtol=0)
    exposure = "sampler_exposure.csv"
    assert (once / exposure).read_bytes() == (always / exposure).read_bytes()


@pytest.mark.parametrize("change", [{"mixup_alpha": 0.2}, {"micro_batch_size": 4}])
def test_images_that_vary_go_through_the_encoder_every_time(
    change: dict[str, Any],
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
) -> None:
    train("--config-file", write_configs({**FROZEN, "epochs": 1, **change}))
    assert "features of" not in logs(tmp_path)


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({}, True),
        ({"augmentation": "minimal"}, False),
        ({"vertical_flip": True}, False),
        ({"horizontal_flip": True}, False),
        ({"cutmix_alpha": 0.2}, False),
        ({"freeze_image_encoder": False}, False),
    ],
)
def test_only_a_frozen_encoder_without_augmentation_sees_the_same_images(
    change: dict[str, Any], is_same: bool
) -> None:
    config = RunConfig.model_validate({**FROZEN, **change})
    augmentation = Augmentation(
        config.augmentation,
        img_size=8,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        horizontal_flip=config.flips_horizontally,
        vertical_flip=config.vertical_flip,
    )
    assert sees_the_same_images(config, augmentation) == is_same


def test_an_interrupted_fold_goes_on_to_the_same_bits(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_configs(FROZEN)
    train("--config-file", config, output="whole")

    def broken(self: Trainer, epoch: int, *rest: Any) -> None:
        if epoch == 2:
            self._save()
            raise Interrupted
        whole(self, epoch, *rest)

    whole = Trainer._epoch
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_epoch", broken)
        train("--config-file", config, output="parts", check=130)
    train("--config-file", config, output="parts")
    mine, theirs = (history(tmp_path / name / "probe" / "fold_1") for name in ("whole", "parts"))
    for name in mine:
        if name not in ("epoch_seconds", "train_images_per_second"):
            assert mine[name] == theirs[name], name
