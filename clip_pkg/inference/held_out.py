"""Held-out images of a config: each training image with the fold that did not train on it.

With repeats, the one fold of each.

No torch here, so that a wrong data folder is reported before a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_pkg.base.errors import DataError, RunFolderError, shown
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.inference.checkpoint_choice import choose_checkpoints
from clip_pkg.inference.images import ImageFile
from clip_pkg.study.folds_info import splits_from_json
from clip_pkg.study.inspection import OnProgress
from clip_pkg.study.scan import known_images


@dataclass(frozen=True)
class HeldOutFold:
    """Held-out images of one fold.

    number: from 1. checkpoint: its best model. images: n, named and ordered as in its
    `predictions.csv`. labels: n class names.
    """

    number: int
    checkpoint: Path
    images: tuple[ImageFile, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class HeldOut:
    """Held-out images of all finished folds of a config; an image is in one fold of each repeat.

    classes: C names, in the models' order. splits: digest of the splits. notices: for the user.
    """

    folds: tuple[HeldOutFold, ...]
    classes: tuple[str, ...]
    splits: str
    notices: tuple[str, ...]

    def __len__(self) -> int:
        """Predictions to make: one per image and repeat."""
        return sum(len(fold.images) for fold in self.folds)


def held_out_images(
    paths: ConfigPaths, data_dir: Path, *, progress: OnProgress | None = None
) -> HeldOut:
    """Find the training images of a config in its data folder or CSV file.

    The folder may have moved and may hold further images, but the training images must have the
    same contents and labels. `progress` is called with (done, total).

    Raises:
        RunFolderError: `paths` is not a config's result folder, or no fold is finished.
        DataError: The images differ from those of the folds.
    """
    choice = choose_checkpoints(paths.root)
    folds_info, config = _read(paths, paths.folds_info), _read(paths, paths.config)
    manifest = known_images(
        data_dir,
        _listed(paths, folds_info),
        group_pattern=config.get("group_pattern"),
        progress=progress,
    )
    if not len(manifest):
        raise DataError(
            f"{shown(data_dir)} contains none of the images that {shown(paths.root)} was trained "
            "on; pass the folder or CSV file that was its --data-dir"
        )
    splits = splits_from_json(paths.folds_info, manifest)
    by_folder = {paths.fold(fold.number).root: fold for fold in splits.folds}
    folds = []
    for checkpoint in choice.checkpoints:
        fold = by_folder.get(checkpoint.parent)
        if fold is None:
            raise RunFolderError(
                f"{shown(checkpoint)} belongs to no fold of {paths.folds_info.name}"
            )
        folds.append(
            HeldOutFold(
                number=fold.number,
                checkpoint=checkpoint,
                images=tuple(ImageFile(manifest.paths[n], manifest.file(n)) for n in fold.val),
                labels=tuple(manifest.classes[label] for label in manifest.labels[fold.val]),
            )
        )
    never_held_out = len(manifest) - len(np.unique(np.concatenate([f.val for f in splits.folds])))
    notices = list(choice.notices)
    if splits.n_repeats > 1:
        notices.append(
            f"every image is listed {splits.n_repeats} times, by the fold of each repeat that held "
            "it out"
        )
    if never_held_out:
        notices.append(
            f"{never_held_out} image(s) were only trained on, because a hold-out has one fold; it "
            f"held out the other {len(manifest) - never_held_out}"
        )
    return HeldOut(tuple(folds), manifest.classes, splits.hash, tuple(notices))


def _read(paths: ConfigPaths, file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(
            f"{shown(paths.root)} is not the result folder of a config: {file.name} is missing; "
            "held-out images are only known for a whole config"
        ) from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{shown(file)} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{shown(file)} is damaged; copy it again")
    return value


def _listed(paths: ConfigPaths, folds_info: Mapping[str, Any]) -> list[str]:
    """Paths of all images, which every fold lists."""
    try:
        first = folds_info["folds"][0]
        return [*first["train"], *first["val"]]
    except (KeyError, IndexError, TypeError):
        raise RunFolderError(f"{shown(paths.folds_info)} is damaged; copy it again") from None
