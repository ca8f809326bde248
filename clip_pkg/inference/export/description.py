"""Description of an exported model: classes, texts, transform, origin, cross-validated scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_pkg.base.paths import ConfigPaths
from clip_pkg.config.load import dump_canonical
from clip_pkg.inference.fold_classifier import CheckpointContent
from clip_pkg.models.families import Recipe, family_of
from clip_pkg.results.summary_schema import read_summary
from clip_pkg.study.identity import identity_from_json

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Member:
    """A model of an export, from the checkpoint `source`."""

    source: Path
    content: CheckpointContent

    @property
    def label(self) -> str:
        """`fold 1`, or `refit`."""
        return f"fold {self.content.fold}" if self.content.fold else "refit"

    def file_name(self, stem: str, suffix: str, *, alone: bool) -> str:
        """`model_fold_1.safetensors`, or `model.safetensors` if it is the only model."""
        label = "" if alone else f"_{self.label.replace(' ', '_')}"
        return f"{stem}{label}{suffix}"


def describe(members: Sequence[Member]) -> dict[str, Any]:
    """Content of the export's `config.json`, as JSON values."""
    content = members[0].content
    config, encoder = content.config, encoder_recipe(content)
    return {
        "format": "clip_pkg export",
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "classes": content.classes,
        "texts": dict(zip(content.classes, content.prompts, strict=True)),
        "transform": transform(content),
        "image_encoder": {
            "library": encoder.library,
            "model": encoder.model,
            "options": encoder.options,
        },
        "text_encoder": config.text_encoder_name,
        "embed_dim": config.embed_dim,
        "loss": config.loss.type,
        "models": [
            {
                "part": member.label,
                "epoch": member.content.epoch,
                "training_images": dict(
                    zip(content.classes, member.content.class_counts, strict=True)
                ),
            }
            for member in members
        ],
        "data_fingerprint": content.identity.data,
        "config": dump_canonical(config),
    }


def transform(content: CheckpointContent) -> dict[str, Any]:
    """Preprocessing of an image, in order."""
    return {
        "color": "RGB",
        "resize": {
            "size": [content.transform.store_size] * 2,
            "keep_aspect_ratio": False,
            "interpolation": "bicubic",
            "antialias": True,
        },
        "center_crop": [content.config.img_size] * 2,
        "scale": "1/255",
        "mean": content.transform.mean,
        "std": content.transform.std,
    }


def encoder_recipe(content: CheckpointContent) -> Recipe:
    """How to build the image encoder without clip_pkg."""
    spec = content.config.image_encoder
    return family_of(spec).recipe(spec, content.config.img_size)


@dataclass(frozen=True)
class CrossValidatedScores:
    """Cross-validated scores of a config.

    folds: names. columns: score → value per fold, None where undefined or missing.
    averages: `avg_<score>`, `std_<score>` and `n`. epoch_choice: a sentence.
    """

    folds: Sequence[str]
    columns: Mapping[str, Sequence[float | None]]
    averages: Mapping[str, Any]
    epoch_choice: str


def find_scores(member: Member) -> CrossValidatedScores | None:
    """Scores in the summary beside a checkpoint; None if it was copied without the summary.

    For a refit they are those of the folds. Raises RunFolderError for a damaged summary.
    """
    file = ConfigPaths(member.source.parent.parent).summary
    if not file.exists():
        return None
    summary = read_summary(file)
    differences = identity_from_json(summary["identity"]).differences(member.content.identity)
    if member.content.fold == 0:
        differences = [name for name in differences if name in ("data", "class texts")]
    if differences:
        return None
    results = summary["fold_results"]
    return CrossValidatedScores(
        folds=[f"fold {number}" for number in results["fold"]],
        columns={
            name.removeprefix("fold_"): values
            for name, values in results.items()
            if name.startswith("fold_val_")
        },
        averages=summary["average_results"],
        epoch_choice=summary["epoch_choice"],
    )
