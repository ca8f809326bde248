"""The pre-trainings of a run, and which folds of which configs start from each.

A pre-training depends on some keys of the config, on its images and the seed. Configs that differ
only in other keys share it, and so do folds if its images do not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_pkg.base.errors import DataError, shown, some
from clip_pkg.base.paths import folder_name
from clip_pkg.config.keys import keys_of_pretraining
from clip_pkg.config.load import dump_canonical
from clip_pkg.config.schema import RunConfig
from clip_pkg.study.identity import Identity, code_digest, config_digest, digest, version_mark
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.splits import Splits
from clip_pkg.study.tasks import ALL_IMAGES

DIGITS_OF_A_NAME = 8


@dataclass(frozen=True, eq=False)
class Pretraining:
    """One pre-training.

    config: as in its task; `name`, `epochs`, `batch_size` and `augmentation` are those of the
    pre-training. fold: the fold whose training images it uses, or `ALL_IMAGES` of `manifest`.
    """

    config: RunConfig
    identity: Identity
    fold: int
    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.config.name


def pretraining_of(
    config: RunConfig, manifest: Manifest, splits: Splits, fold: int, unlabelled: Manifest | None
) -> Pretraining | None:
    """The pre-training that a fold of a config starts from; None without `pretrain`.

    unlabelled: the images of `pretrain.images` if that is a folder. Without held-out images, the
    pre-training uses all images.
    """
    block = config.pretrain
    if block is None:
        return None
    own = next(one for one in splits.folds if one.number == fold)
    is_divided = block.is_per_fold and len(own.val) > 0
    images = manifest if unlabelled is None else unlabelled
    whole = dump_canonical(config)
    reduced = RunConfig.model_validate(
        {
            **{key: whole[key] for key in keys_of_pretraining()},
            "text_encoder_name": "none",
            "loss": {"type": "ce", "classifier": "linear"},
            "epochs": block.epochs,
            "batch_size": block.batch_size,
            "micro_batch_size": block.micro_batch_size,
            "augmentation": block.stored_as(config.img_size),
        }
    )
    identity = Identity(
        config=config_digest(reduced),
        data=images.fingerprint,
        splits=digest([splits.hash, fold]) if is_divided else "",
        class_texts="",
        code=code_digest(),
    )
    readable = f"{config.image_encoder_name}_{block.loss.type}_seed{config.random_state}"
    readable += f"_fold{fold}" if is_divided else ""
    mark = digest([identity.config, identity.data, identity.splits, version_mark()])
    name = folder_name(f"{readable}_{mark[:DIGITS_OF_A_NAME]}")
    return Pretraining(
        reduced.model_copy(update={"name": name}),
        identity,
        fold if is_divided else ALL_IMAGES,
        images,
    )


def seen_before(unlabelled: Manifest, manifest: Manifest, test: Manifest | None) -> str:
    """Notice about images of the folds in the folder of a pre-training; empty if there are none.

    Raises DataError if the folder contains test images, which no training may see.
    """
    known = set(unlabelled.digests)
    where = shown(unlabelled.data_dir)
    if test is not None:
        pairs = zip(test.paths, test.digests, strict=True)
        if tested := [path for path, checksum in pairs if checksum in known]:
            raise DataError(
                f"{len(tested)} test image(s) are in the folder of the pre-training, {where}: "
                f"{some(tested)}; remove them from it"
            )
    count = sum(checksum in known for checksum in manifest.digests)
    if not count:
        return ""
    return (
        f"{count} of the {len(manifest)} images are also in {where}: the pre-training sees the "
        "pixels of validation images, but never their labels"
    )


def unlabelled_folder(name: str, beside: Sequence[Path]) -> Path:
    """Find the folder of `pretrain.images`: as written, or relative to one of `beside`."""
    written = Path(name).expanduser()
    places = [written, *(folder / written for folder in beside)]
    return next((place for place in places if place.exists()), written)
