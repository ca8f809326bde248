"""What needs the images and the models: maps of features, and mistakes with their evidence.

torch is imported when the first model is loaded; a report without images never does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_pkg.errors import UserError
from clip_pkg.inference.held_out import HeldOut, HeldOutFold, held_out_images
from clip_pkg.inference.squares import square_batches
from clip_pkg.report.mistakes import MOST_SHOWN, Mistake, worst_mistakes
from clip_pkg.report.projection import FeatureMap, on_the_map, project
from clip_pkg.report.results import ConfigOutcome, FoldOutcome

if TYPE_CHECKING:
    import torch

    from clip_pkg.inference.fold_classifier import FoldClassifier

MOST_MAPS = 6  # folds whose features are drawn
SIDE = 176  # of a picture, pixels
Advance: TypeAlias = Callable[[], None]
Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class MistakePicture:
    """A mistake as the model saw it. image, evidence: PNG; evidence None without Grad-CAM."""

    mistake: Mistake
    image: bytes
    evidence: bytes | None


@dataclass(frozen=True, eq=False)
class Pictures:
    """What was made of a config's images. notices: what is missing and why, a sentence each."""

    maps: tuple[FeatureMap, ...]
    mistakes: tuple[MistakePicture, ...]
    notices: tuple[str, ...]


def find_images(outcome: ConfigOutcome, data_dir: Path | None) -> HeldOut:
    """Find the images in `data_dir`, or where they were in training; see `held_out_images`."""
    recorded = outcome.preflight.get("data_dir")
    if data_dir is None and recorded is None:
        raise UserError("the run does not say where its images were; --data-dir names them")
    return held_out_images(outcome.paths, data_dir or Path(str(recorded)))


def make_pictures(
    outcome: ConfigOutcome, held_out: HeldOut, device: torch.device, advance: Advance
) -> Pictures:
    """Look at the images with the models that did not see them; one model is in memory at a time.

    `advance` is called after each fold.
    """
    from clip_pkg.inference.out_of_fold import unseeing_folds  # noqa: PLC0415

    chosen = worst_mistakes(outcome.folds, MOST_SHOWN)
    by_number = {fold.number: fold for fold in outcome.folds}
    maps: list[FeatureMap] = []
    pictures: dict[Mistake, MistakePicture] = {}
    notices: list[str] = []
    for fold, model in unseeing_folds(held_out, device):
        if len(maps) < MOST_MAPS:
            maps.append(_map(model, fold, by_number[fold.number]))
        mine = [mistake for mistake in chosen if mistake.fold == fold.number]
        pictures |= _mistakes(model, fold, mine, notices)
        advance()
    if len(held_out.folds) > len(maps):
        notices.append(f"The map shows the first {len(maps)} of {len(held_out.folds)} folds.")
    return Pictures(
        tuple(maps),
        tuple(pictures[mistake] for mistake in chosen if mistake in pictures),
        tuple(dict.fromkeys(notices)),
    )


def _map(model: FoldClassifier, fold: HeldOutFold, outcome: FoldOutcome) -> FeatureMap:
    from clip_pkg.inference.embedding import embed  # noqa: PLC0415

    chosen = on_the_map(len(fold.images))
    features = embed(model, [fold.images[place] for place in chosen]).features
    points, method = project(features)
    row_of = {path: row for row, path in enumerate(outcome.predictions.paths)}
    rows = [row_of[fold.images[place].name] for place in chosen]
    targets = outcome.predictions.targets[rows]
    answers = outcome.predictions.probabilities[rows].argmax(axis=1)
    left_out = len(fold.images) - len(chosen)
    return FeatureMap(fold.number, points, targets, answers != targets, method, left_out)


def _mistakes(
    model: FoldClassifier, fold: HeldOutFold, mistakes: Sequence[Mistake], notices: list[str]
) -> dict[Mistake, MistakePicture]:
    if not mistakes:
        return {}
    from clip_pkg.inference.explain import Explainer  # noqa: PLC0415

    by_name = {image.name: image for image in fold.images}
    images = [by_name[mistake.path] for mistake in mistakes]
    (batch,) = square_batches(images, size=model.store_size, batch_size=len(images))
    readable = {image.name for image in batch.images}
    shown = [mistake for mistake in mistakes if mistake.path in readable]
    notices += [f"{one}." for one in batch.unreadable]
    evidence: Sequence[NDArray[np.float32] | None]
    try:
        answers = np.array([mistake.answer for mistake in shown], dtype=np.int64)
        evidence = list(Explainer.of(model).maps(batch.pixels, answers))
    except UserError as error:
        notices.append(f"No Grad-CAM: {error}")
        evidence = [None] * len(shown)
    return {
        mistake: MistakePicture(
            mistake, _png(pixels), None if one is None else _png(overlaid(pixels, one))
        )
        for mistake, pixels, one in zip(shown, batch.pixels, evidence, strict=True)
    }


def overlaid(pixels: Pixels, evidence: NDArray[np.float32]) -> Pixels:
    """Lay evidence [S, S] in 0…1 over a picture [S, S, 3]: grey without, yellow where strongest."""
    import matplotlib as mpl  # noqa: PLC0415

    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    colours = 255 * mpl.colormaps["inferno"](0.25 + 0.75 * evidence)[..., :3]
    share = 0.7 * evidence[..., None]
    mixed: Pixels = ((1 - share) * grey + share * colours).round().astype(np.uint8)
    return mixed


def _png(pixels: Pixels) -> bytes:
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
