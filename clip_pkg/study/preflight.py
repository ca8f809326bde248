"""A checked run: each config with its images, folds and class texts."""

from __future__ import annotations

from dataclasses import dataclass

from clip_pkg.config.schema import RunConfig
from clip_pkg.study.audit import Audit
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.identity import Identity, code_digest, config_digest, digest
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.pretraining import Pretraining, pretraining_of, seen_before
from clip_pkg.study.splits import Splits


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

    def pretraining(self, fold: int) -> Pretraining | None:
        """The pre-training that a fold starts from, if the config asks for one."""
        return pretraining_of(self.config, self.manifest, self.splits, fold, self.unlabelled)

    @property
    def pretrainings(self) -> dict[str, Pretraining]:
        """All pre-trainings that its folds start from, by name."""
        found = [self.pretraining(fold.number) for fold in self.splits.folds]
        return {one.name: one for one in found if one is not None}

    @property
    def seen_before(self) -> list[str]:
        """Notices about images of its folds in the folder of its pre-training.

        Raises DataError if that contains test images.
        """
        if self.unlabelled is None:
            return []
        notice = seen_before(self.unlabelled, self.manifest, self.test)
        return [f"{self.config.name}: {notice}"] if notice else []

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
            class_texts=digest([list(prompts) for prompts in self.texts.prompts]),
            code=code_digest(),
        )


@dataclass(frozen=True)
class Preparation:
    """All checked configs of a run, and what was noticed about them."""

    configs: tuple[PreparedConfig, ...]
    audit: Audit
    notices: tuple[str, ...]
