"""A checked run: each config with its images, folds, class texts and pre-trainings.

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
from clip_pkg.study.audit import Audit
from clip_pkg.study.class_texts import ClassTexts
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


@dataclass(frozen=True)
class PreparedConfig:
    """A config with what all its folds share.

    test: test images, if the config names any. unlabelled: images of the pre-training, if they are
    a separate folder.
    """

    config: RunConfig
    manifest: Manifest
    splits: Splits
    texts: ClassTexts
    test: Manifest | None = None
    unlabelled: Manifest | None = None

    @property
    def image_sets(self) -> tuple[Manifest, ...]:
        """All images of its folds."""
        return (self.manifest,) if self.test is None else (self.manifest, self.test)

    @property
    def identity(self) -> Identity:
        """Everything that determines its numbers."""
        return Identity(
            config=config_digest(self.config),
            data=(
                self.manifest.fingerprint
                if self.test is None
                else digest([images.fingerprint for images in self.image_sets])
            ),
            splits=self.splits.hash,
            class_texts=self.texts.digest,
            code=code_digest(),
        )

    def pretraining(self, fold: int) -> Pretraining | None:
        """The pre-training that a fold starts from; None without `pretrain`.

        Without held-out images, the pre-training uses all images.
        """
        config, block = self.config, self.config.pretrain
        if block is None:
            return None
        own = next(one for one in self.splits.folds if one.number == fold)
        is_divided = block.is_per_fold and len(own.val) > 0
        images = self.manifest if self.unlabelled is None else self.unlabelled
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
            splits=digest([self.splits.hash, fold]) if is_divided else "",
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

    @property
    def pretrainings(self) -> dict[str, Pretraining]:
        """All pre-trainings that its folds start from, by name."""
        found = [self.pretraining(fold.number) for fold in self.splits.folds]
        return {one.name: one for one in found if one is not None}

    @property
    def seen_before(self) -> list[str]:
        """Notice about images of the folds in the folder of the pre-training; empty without any.

        Raises DataError if the folder contains test images, which no training may see.
        """
        if self.unlabelled is None:
            return []
        known = set(self.unlabelled.digests)
        where = shown(self.unlabelled.data_dir)
        if self.test is not None:
            pairs = zip(self.test.paths, self.test.digests, strict=True)
            if tested := [path for path, checksum in pairs if checksum in known]:
                raise DataError(
                    f"{len(tested)} test image(s) are in the folder of the pre-training, {where}: "
                    f"{some(tested)}; remove them from it"
                )
        count = sum(checksum in known for checksum in self.manifest.digests)
        if not count:
            return []
        return [
            f"{self.config.name}: {count} of the {len(self.manifest)} images are also in {where}: "
            "the pre-training sees the pixels of validation images, but never their labels"
        ]


def unlabelled_folder(name: str, beside: Sequence[Path]) -> Path:
    """Find the folder of `pretrain.images`: as written, or relative to one of `beside`."""
    written = Path(name).expanduser()
    places = [written, *(folder / written for folder in beside)]
    return next((place for place in places if place.exists()), written)


@dataclass(frozen=True)
class Preparation:
    """All checked configs of a run, and what was noticed about them."""

    configs: tuple[PreparedConfig, ...]
    audit: Audit
    notices: tuple[str, ...]
