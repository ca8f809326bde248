"""Which folds and configs share a pre-training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from clip_pkg.base.errors import DataError
from clip_pkg.config.load import configs_from_mapping
from clip_pkg.config.schema import RunConfig
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.preflight import PreparedConfig, Pretraining, unlabelled_folder
from clip_pkg.study.scan import scan, scan_unlabelled
from clip_pkg.study.splits import Splits, make_splits, undivided
from clip_pkg.study.tasks import ALL_IMAGES
from support.tiny import make_folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return scan(make_folder(tmp_path_factory.mktemp("images"), {"a": 6, "b": 6})).manifest


def splits(manifest: Manifest, seed: int = 42) -> Splits:
    return make_splits(manifest, use_cv=True, n_splits=3, random_state=seed, val_fraction=0.2)


def config(images: str = "train_fold", **changes: Any) -> RunConfig:
    block = {"images": images, **changes.pop("pretrain", {})}
    values = {"image_encoder_name": "resnet10t:scratch", "img_size": 32, "pretrain": block}
    return configs_from_mapping([{**values, **changes}]).configs[0]


def pretraining_of(
    one: RunConfig,
    manifest: Manifest,
    division: Splits,
    fold: int,
    unlabelled: Manifest | None = None,
) -> Pretraining | None:
    texts = ClassTexts((), (), "", ())
    prepared = PreparedConfig(one, manifest, division, texts, unlabelled=unlabelled)
    return prepared.pretraining(fold)


def names(one: RunConfig, manifest: Manifest, division: Splits | None = None) -> list[str]:
    division = division or splits(manifest)
    found = [pretraining_of(one, manifest, division, fold.number) for fold in division.folds]
    return [pretraining.name for pretraining in found if pretraining is not None]


def test_each_fold_has_its_own_where_it_sees_training_images_alone(manifest: Manifest) -> None:
    assert len(set(names(config(), manifest))) == 3


def test_all_folds_share_one_that_sees_all_images(manifest: Manifest) -> None:
    assert len(set(names(config("all"), manifest))) == 1
    one = pretraining_of(config("all"), manifest, splits(manifest), 2)
    assert one is not None
    assert one.fold == ALL_IMAGES
    assert one.config.epochs == 200
    assert one.config.batch_size == 256


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.01},
        {"freeze_image_encoder": True},
        {"epochs": 7},
        {"augmentation": "minimal"},
        {"loss": {"type": "superclip"}},
        {"name": "another"},
        {"batch_size": 8},
    ],
)
def test_what_comes_after_it_changes_nothing(manifest: Manifest, change: dict[str, Any]) -> None:
    assert names(config(), manifest) == names(config(**change), manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"random_state": 1},
        {"img_size": 64},
        {"stem": "cifar"},
        {"image_encoder_name": "resnet14t:scratch"},
        {"horizontal_flip": False},
        {"pretrain": {"epochs": 3}},
        {"pretrain": {"loss": {"type": "dhel"}}},
    ],
)
def test_what_it_learns_from_makes_another(manifest: Manifest, change: dict[str, Any]) -> None:
    assert not set(names(config("all"), manifest)) & set(names(config("all", **change), manifest))


def test_other_folds_make_another_only_where_folds_matter(manifest: Manifest) -> None:
    other = splits(manifest, seed=7)
    assert not set(names(config(), manifest)) & set(names(config(), manifest, other))
    assert names(config("all"), manifest) == names(config("all"), manifest, other)


def test_a_training_on_all_images_starts_from_one_on_all_images(manifest: Manifest) -> None:
    whole = undivided(manifest)
    one = pretraining_of(config(), manifest, whole, 0)
    assert one is not None
    assert one.fold == ALL_IMAGES


def test_without_a_block_there_is_none(manifest: Manifest) -> None:
    plain = configs_from_mapping([{}]).configs[0]
    assert pretraining_of(plain, manifest, splits(manifest), 1) is None


def test_images_without_labels_come_from_any_depth(tmp_path: Path, manifest: Manifest) -> None:
    make_folder(tmp_path / "deep" / "er", {"x": 2, "y": 3})
    (tmp_path / "deep" / "notes.txt").write_text("no image")
    found = scan_unlabelled(tmp_path / "deep")
    assert len(found) == 5
    assert found.classes == ("unlabelled",)
    one = pretraining_of(config(str(tmp_path)), manifest, splits(manifest), 1, found)
    assert one is not None
    assert one.manifest is found
    assert one.identity.data == found.fingerprint


def test_a_folder_without_images_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image "):
        scan_unlabelled(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        scan_unlabelled(tmp_path / "absent")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        scan_unlabelled(tmp_path)


def test_a_relative_folder_is_looked_for_beside_the_configs_too(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    assert unlabelled_folder("more", [tmp_path]) == tmp_path / "more"
    assert unlabelled_folder("nowhere", [tmp_path]) == Path("nowhere")


def test_validation_images_in_the_folder_are_reported_and_test_images_refused(
    tmp_path: Path, manifest: Manifest
) -> None:
    def notices(images: Manifest, test: Manifest | None = None) -> list[str]:
        texts = ClassTexts((), (), "", ())
        return PreparedConfig(
            config(name="m"), manifest, splits(manifest), texts, test, images
        ).seen_before

    shutil.copytree(manifest.data_dir / "a", tmp_path / "archive" / "copies")
    archive = scan_unlabelled(tmp_path / "archive")
    assert notices(archive)[0].startswith("m: 6 of the 12 images are also in ")
    other = scan_unlabelled(make_folder(tmp_path / "other", {"x": 1, "y": 1, "z": 4}) / "z")
    assert notices(other) == []
    with pytest.raises(DataError, match=r"6 test image\(s\) are in the folder"):
        notices(archive, manifest)
