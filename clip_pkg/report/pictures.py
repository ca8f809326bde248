"""Pictures that need images and models: maps of features, and mistakes with Grad-CAM.

torch is imported when the first model is loaded, so a report without images does not need it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_pkg.base.errors import UserError
from clip_pkg.inference.held_out import HeldOutFold, held_out_images
from clip_pkg.inference.images import square_batches
from clip_pkg.inference.loading import choose_device
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.folders import FoldFiles
from clip_pkg.study.predictions import Predictions

if TYPE_CHECKING:
    from clip_pkg.inference.fold_classifier import FoldClassifier


MAX_MISTAKES = 8
MAX_MAPS = 6  # folds whose features are drawn
MAX_ON_MAP = 600  # images of a fold
MIN_FOR_TSNE = 30  # images; neighbourhoods of fewer mean little
PERPLEXITY = 30.0
SEED = 42
PICTURE_SIZE = 176  # pixels

Advance: TypeAlias = Callable[[], None]
Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Mistake:
    """A wrong out-of-fold prediction.

    fold counts from 1. label, prediction: class positions. confidence, true_probability:
    probabilities of the prediction and of the label.
    """

    fold: int
    path: str
    label: int
    prediction: int
    confidence: float
    true_probability: float


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """N images of a fold on a map.

    points: [N, 2]. targets: [N] class positions. wrong: bool [N], misclassified. method: `t-SNE` or
    `PCA`. left_out: images of the fold that are not on the map.
    """

    fold: int
    points: NDArray[np.float64]
    targets: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    method: str
    left_out: int


@dataclass(frozen=True, eq=False)
class MistakePicture:
    """A mistake as the model saw it. image, evidence: PNG; evidence None without Grad-CAM."""

    mistake: Mistake
    image: bytes
    evidence: bytes | None


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures made of a config's images. notices: what is missing and why, a sentence each."""

    maps: tuple[FeatureMap, ...]
    mistakes: tuple[MistakePicture, ...]
    notices: tuple[str, ...]


def worst_mistakes(folds: Sequence[FoldFiles], limit: int | None = None) -> list[Mistake]:
    """Wrong predictions of all finished folds, the most confident first.

    limit: the number of different images to return, each with its most confident mistake; None:
        every mistake.
    """
    found = []
    for fold in folds:
        predictions = fold.predictions
        assert predictions is not None, "the fold is finished"
        chosen = predictions.probabilities.argmax(axis=1)
        for row in (chosen != predictions.targets).nonzero()[0].tolist():
            label, prediction = int(predictions.targets[row]), int(chosen[row])
            found.append(
                Mistake(
                    fold=fold.number,
                    path=predictions.paths[row],
                    label=label,
                    prediction=prediction,
                    confidence=float(predictions.probabilities[row, prediction]),
                    true_probability=float(predictions.probabilities[row, label]),
                )
            )
    found.sort(key=lambda one: (-one.confidence, one.path))
    if limit is None:
        return found
    of_image: dict[str, Mistake] = {}
    for one in found:
        of_image.setdefault(one.path, one)
    return list(of_image.values())[:limit]


def make_pictures(outcome: ConfigOutcome, data_dir: Path | None, advance: Advance) -> Pictures:
    """Evaluate each fold's held-out images with its model, one model in memory at a time.

    Args:
        outcome: the config.
        data_dir: where its images are; None: where they were in training.
        advance: called after each fold.
    """
    recorded = outcome.preflight.get("data_dir")
    if data_dir is None and recorded is None:
        raise UserError("the run does not record where its images were; use --data-dir")
    held_out = held_out_images(outcome.paths, data_dir or Path(str(recorded)))
    device = choose_device(None)
    from clip_pkg.inference.ensemble import unseeing_folds  # noqa: PLC0415

    chosen = worst_mistakes(outcome.done, MAX_MISTAKES)
    numbers = (fold.number for fold in outcome.done)
    predictions = dict(zip(numbers, outcome.predictions, strict=True))
    maps: list[FeatureMap] = []
    pictures: dict[Mistake, MistakePicture] = {}
    notices: list[str] = []
    for fold, model in unseeing_folds(held_out, device):
        if len(maps) < MAX_MAPS:
            maps.append(_map(model, fold, predictions[fold.number]))
        mine = [mistake for mistake in chosen if mistake.fold == fold.number]
        if mine:
            pictures |= _mistakes(model, fold, mine, notices)
        advance()
    if len(held_out.folds) > len(maps):
        notices.append(f"The map shows the first {len(maps)} of {len(held_out.folds)} folds.")
    return Pictures(
        tuple(maps),
        tuple(pictures[mistake] for mistake in chosen if mistake in pictures),
        tuple(dict.fromkeys(notices)),
    )


def _map(model: FoldClassifier, fold: HeldOutFold, predictions: Predictions) -> FeatureMap:
    """Map the features of all images, or of a seeded sample, by their cosines."""
    # these take a second to import, and a report without images does not need them
    from sklearn.decomposition import PCA  # noqa: PLC0415
    from sklearn.manifold import TSNE  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    from clip_pkg.inference.embedding import embed  # noqa: PLC0415

    chosen = np.arange(len(fold.images))
    if len(chosen) > MAX_ON_MAP:
        random = np.random.default_rng(SEED)
        chosen = np.sort(random.choice(len(chosen), MAX_ON_MAP, replace=False))
    features = embed(model, [fold.images[place] for place in chosen]).features
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.asarray(features, dtype=np.float64) / np.maximum(lengths, 1e-12)
    count = len(unit)
    if count < MIN_FOR_TSNE:
        points = PCA(min(2, *unit.shape), random_state=SEED).fit_transform(unit)
        points, method = np.pad(points, ((0, 0), (0, 2 - points.shape[1]))), "PCA"
    else:
        perplexity, method = min(PERPLEXITY, (count - 1) / 3), "t-SNE"
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1)
        # maps are small: several threads would only wait for each other
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            warnings.filterwarnings("ignore", category=FutureWarning)
            points = tsne.fit_transform(unit).astype(np.float64)
    row_of = {path: row for row, path in enumerate(predictions.paths)}
    rows = [row_of[fold.images[place].name] for place in chosen]
    targets = predictions.targets[rows]
    wrong = predictions.probabilities[rows].argmax(axis=1) != targets
    return FeatureMap(fold.number, points, targets, wrong, method, len(fold.images) - count)


def _mistakes(
    model: FoldClassifier, fold: HeldOutFold, mistakes: Sequence[Mistake], notices: list[str]
) -> dict[Mistake, MistakePicture]:
    from clip_pkg.inference.explain import Explainer  # noqa: PLC0415

    by_name = {image.name: image for image in fold.images}
    images = [by_name[mistake.path] for mistake in mistakes]
    (batch,) = square_batches(images, size=model.store_size, batch_size=len(images))
    readable = {image.name for image in batch.images}
    shown = [mistake for mistake in mistakes if mistake.path in readable]
    notices += [f"{one}." for one in batch.unreadable]
    evidence: Sequence[NDArray[np.float32] | None]
    try:
        predicted = np.array([mistake.prediction for mistake in shown], dtype=np.int64)
        evidence = list(Explainer.of(model).maps(batch.pixels, predicted))
    except UserError as error:
        notices.append(f"No Grad-CAM: {error}")
        evidence = [None] * len(shown)
    return {
        mistake: MistakePicture(
            mistake, png(pixels), None if one is None else png(overlaid(pixels, one))
        )
        for mistake, pixels, one in zip(shown, batch.pixels, evidence, strict=True)
    }


def overlaid(pixels: Pixels, evidence: NDArray[np.float32]) -> Pixels:
    """Blend evidence [S, S] in 0…1 into a picture [S, S, 3]: grey for 0, yellow for 1."""
    import matplotlib as mpl  # noqa: PLC0415

    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    colours = 255 * mpl.colormaps["inferno"](0.25 + 0.75 * evidence)[..., :3]
    share = 0.7 * evidence[..., None]
    mixed: Pixels = ((1 - share) * grey + share * colours).round().astype(np.uint8)
    return mixed


def png(pixels: Pixels) -> bytes:
    """A picture [S, S, 3] as PNG of `PICTURE_SIZE`."""
    image = Image.fromarray(pixels).resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
