"""What a run rests on once it is checked: each config with its images, folds and class texts."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from clip_pkg.config.schema import RunConfig
from clip_pkg.study.audit import Audit
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.identity import Identity, code_digest, config_digest, digest
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.pretraining import (
    Pretraining,
    pretraining_of,
    seen_before,
)
from clip_pkg.study.splits import Splits


@dataclass(frozen=True)
class PreparedConfig:
    """A config with all that its folds share.

    test: images that each fold is tested on, if the config names any. unlabelled: images that its
    pre-training learns from, where they are a folder of their own.
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
        """What a fold starts from, if the config asks for a pre-training."""
        return pretraining_of(self.config, self.manifest, self.splits, fold, self.unlabelled)

    @property
    def pretrainings(self) -> dict[str, Pretraining]:
        """All that its folds start from, by name."""
        found = [self.pretraining(fold.number) for fold in self.splits.folds]
        return {one.name: one for one in found if one is not None}

    @property
    def seen_before(self) -> list[str]:
        """What the folder of its pre-training shares with its folds. Raises DataError for tests."""
        if self.unlabelled is None:
            return []
        said = seen_before(self.unlabelled, self.manifest, self.test)
        return [f"{self.config.name}: {said}"] if said else []

    @property
    def identity(self) -> Identity:
        """What its numbers follow from."""
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
    """What a run stands on, checked."""

    configs: tuple[PreparedConfig, ...]
    audit: Audit
    notices: tuple[str, ...]


def audit_json(preparation: Preparation) -> dict[str, object]:
    """The preflight report for `preflight.json`."""
    return {"notices": list(preparation.notices), **preparation.audit.to_json()}


def identity_json(prepared: PreparedConfig) -> dict[str, str]:
    """Plain form of the identity for `identity.json`."""
    return asdict(prepared.identity)
