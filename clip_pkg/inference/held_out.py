"""Held-out images of a config: each training image with the fold that did not train on it.

With repeats, the one fold of each.

No torch here, so that a wrong data folder is reported before a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_pkg.base.errors import DataError, RunFolderError, shown
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.inference.checkpoint_choice import choose_checkpoints
from clip_pkg.inference.images import ImageFile
from clip_pkg.results.folders import read_config
from clip_pkg.study.folds_info import read_folds_info, splits_from_json
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
    for file in (paths.folds_info, paths.config):
        if not file.exists():
            raise RunFolderError(
                f"{shown(paths.root)} is not the result folder of a config: {file.name} is "
                "missing; held-out images are only known for a whole config"
            )
    first = read_folds_info(paths.folds_info)["folds"][0]
    manifest = known_images(
        data_dir,
        [*first["train"], *first["val"]],
        group_pattern=read_config(paths.config)["group_pattern"],
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
