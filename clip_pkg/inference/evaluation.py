"""Scores of a trained model on labelled images from elsewhere, such as another hospital.

Legend: N images, C classes of the model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, shown, some
from clip_pkg.base.paths import FoldPaths
from clip_pkg.base.reading import read_json
from clip_pkg.inference.answer_file import Answers
from clip_pkg.inference.images import ImageFile
from clip_pkg.metrics.classification import classification_metrics, history_scores
from clip_pkg.results.bootstrap import LEVEL, image_clusters, resample
from clip_pkg.results.comparison_records import Interval
from clip_pkg.results.intervals import PER_CLASS, score_intervals
from clip_pkg.results.summary import confusion_block
from clip_pkg.study.inspection import OnProgress
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.predictions import Predictions
from clip_pkg.study.scan import scan
from clip_pkg.study.tasks import read_task

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """N images whose labels are classes of a model.

    classes: C names, in the model's order. targets: [N] positions in `classes`. clusters: paths of
    images that belong together, of one patient or copies. notices: for the user.
    """

    images: tuple[ImageFile, ...]
    classes: tuple[str, ...]
    targets: NDArray[np.int64]
    clusters: Sequence[Sequence[str]]
    notices: tuple[str, ...]


def labelled_images(
    data_dir: Path,
    classes: Sequence[str],
    *,
    seen: Collection[str] = (),
    skip_unreadable: bool = False,
    progress: OnProgress | None = None,
) -> LabelledImages:
    """Find images with labels, in a folder per class or a CSV file, for a model with `classes`.

    Names that differ in case, spaces, hyphens or underscores only are the same class. seen: digests
    of the images of the training.

    Raises DataError for a class that the model does not have, and for what `scan` refuses.
    """
    found = scan(data_dir, skip_unreadable=skip_unreadable, progress=progress)
    manifest = found.manifest
    exact = {name: index for index, name in enumerate(classes)}
    plain = list(map(_plain, classes))
    alike = {one: plain.index(one) for one in plain if plain.count(one) == 1}
    position = {name: exact.get(name, alike.get(_plain(name))) for name in manifest.classes}
    if unknown := [name for name, index in position.items() if index is None]:
        raise DataError(
            f"{shown(data_dir)}: the model has no class {some(unknown)}; its classes are "
            f"{some(classes, 30)}. Rename the folders or labels, or leave these images out"
        )
    to_model = np.array([position[name] for name in manifest.classes], dtype=np.int64)
    notices = list(found.audit.notices)
    renamed = [
        f"{one} as {classes[index]}"
        for one, index in zip(manifest.classes, to_model, strict=True)
        if one not in exact
    ]
    if renamed:
        notices.append(f"these classes are spelt differently and were matched: {some(renamed, 30)}")
    if missing := [name for n, name in enumerate(classes) if n not in to_model]:
        notices.append(f"no image has the class {some(missing, 30)}; its scores are undefined")
    if count := sum(digest in seen for digest in manifest.digests):
        notices.append(
            f"{count} of these {len(manifest)} images are images of the training as well, so these "
            "scores are too good; leave them out"
        )
    copies = [[manifest.paths[index] for index in cluster] for cluster in found.linked]
    return LabelledImages(
        images=tuple(ImageFile(path, manifest.file(n)) for n, path in enumerate(manifest.paths)),
        classes=tuple(classes),
        targets=to_model[manifest.labels],
        clusters=[*(manifest.paths_by_group or ()), *copies],
        notices=tuple(notices),
    )


def training_digests(checkpoint: Path) -> frozenset[str]:
    """Digests of the images of a training; empty if its image list is gone, as with an export."""
    task = read_task(FoldPaths(checkpoint.parent).task)
    if task is None or not task.manifest_file.exists():
        return frozenset()
    return frozenset(Manifest.from_json(read_json(task.manifest_file, dict[str, Any])).digests)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def predictions_of(labelled: LabelledImages, answers: Iterable[Answers]) -> Predictions:
    """Predictions of all images that could be read, in their order."""
    parts = list(answers)
    names = [image.name for part in parts for image in part.images]
    target = dict(zip((one.name for one in labelled.images), labelled.targets, strict=True))
    return Predictions(
        classes=labelled.classes,
        paths=tuple(names),
        targets=np.array([target[name] for name in names], dtype=np.int64),
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )


def evaluation(predictions: Predictions, clusters: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Every score with its interval, per class too, and the confusion matrix, as JSON values.

    Scores are in the units of `cv_summary.json`; None where undefined.
    """
    metrics = classification_metrics(predictions.probabilities, predictions.targets)
    units = image_clusters(predictions.paths, clusters)
    resampled = resample(predictions.probabilities, predictions.targets, units)
    found = None
    if resampled is not None:
        found = score_intervals(predictions.probabilities, predictions.targets, resampled)
    per_class: dict[str, dict[str, Any]] = {}
    for number, (name, row) in enumerate(zip(predictions.classes, metrics.per_class, strict=True)):
        of_class = {} if found is None else {s: found.by_class[s][number] for s in PER_CLASS}
        per_class[name] = {**asdict(row), "intervals": _as_lists(of_class)}
    return {
        "schema_version": SCHEMA_VERSION,
        "n": metrics.n,
        "scores": history_scores(metrics),
        "intervals": {} if found is None else _as_lists(found.scores),
        "level": LEVEL,
        "independent": "images" if units is None else "groups of images",
        "per_class": per_class,
        "confusion_matrix": confusion_block(predictions.classes, metrics),
    }


def _as_lists(intervals: Mapping[str, Interval | None]) -> dict[str, list[float] | None]:
    return {name: None if one is None else [one.low, one.high] for name, one in intervals.items()}
