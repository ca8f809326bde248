from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_pkg.study.audit import check_folds, fold_table, laterality_names
from clip_pkg.study.scan import scan
from clip_pkg.study.splits import make_splits

ImageSet = Callable[..., Path]
DEFAULTS = {"use_cv": True, "n_splits": 3, "random_state": 0, "val_fraction": 0.2}


def test_report(image_set: ImageSet, noise: Callable[..., Image.Image]) -> None:
    root = image_set({"Wear": 4, "股骨": 1})
    noise(90, (30, 20)).save(root / "Wear" / "large.jpg")
    audit = scan(root).audit
    assert audit.lines() == [
        f"6 images in 2 classes from {root}",
        "  PNG 5, JPEG 1 (RGB); 12–30 × 10–20 px, median 12 × 10 px",
        "  imbalance ratio 5.0 (largest class : smallest class)",
    ]
    value = json.loads(json.dumps(audit.to_json(), allow_nan=False))
    assert value["classes"] == {"Wear": 5, "股骨": 1}
    assert value["imbalance_ratio"] == 5
    assert value["formats"] == {"PNG": 5, "JPEG": 1}
    assert value["near_duplicates"] == []


def test_sizes_that_are_all_equal(image_set: ImageSet) -> None:
    assert "all 12 × 10 px" in scan(image_set({"a": 1, "b": 1})).audit.lines()[1]


def test_pages_are_mentioned(image_set: ImageSet, noise: Callable[..., Image.Image]) -> None:
    root = image_set({"a": 1, "b": 1})
    pages = [noise(seed, (16, 16)) for seed in (91, 92, 93, 94)]
    pages[0].save(root / "a" / "pages.tif", save_all=True, append_images=pages[1:2])
    pages[2].save(root / "b" / "phone.jpg", "MPO", save_all=True, append_images=pages[3:])
    notices = scan(root).audit.notices
    assert notices == ("1 file(s) have several pages or frames, the first is used: a/pages.tif",)


def test_12_bit_levels_in_16_bit_files_are_mentioned(tmp_path: Path) -> None:
    for label in range(2):
        (tmp_path / f"{label}").mkdir()
        levels = np.random.default_rng(label).integers(0, 4096, (40, 40)).astype(np.uint16)
        Image.fromarray(levels).save(tmp_path / f"{label}" / "x.png")
    notices = scan(tmp_path).audit.notices
    assert len(notices) == 1
    assert "the 2 images with more than 8 bits use at most 6.2% of their range" in notices[0]
    levels = np.random.default_rng(7).integers(0, 65536, (40, 40)).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "0" / "full.png")
    assert scan(tmp_path).audit.notices == ()


def test_fold_table(image_set: ImageSet) -> None:
    manifest = scan(image_set({"Wear": 9, "股骨": 4})).manifest
    splits = make_splits(manifest, **DEFAULTS)
    counts = [[str(n) for n in manifest.counts_of(fold.val)] for fold in splits.folds]
    wear, bone = zip(*counts, strict=True)
    assert fold_table(manifest, splits) == [
        "validation images  all  fold 1  fold 2  fold 3",
        f"Wear                 9       {wear[0]}       {wear[1]}       {wear[2]}",
        f"股骨                 4       {bone[0]}       {bone[1]}       {bone[2]}",
        f"all classes         13       {len(splits.folds[0].val)}       "
        f"{len(splits.folds[1].val)}       {len(splits.folds[2].val)}",
    ]
    warnings = check_folds(manifest, splits)
    assert len(warnings) == 1
    assert warnings[0].startswith("class '股骨' has fewer than 2 validation images in fold(s) ")


def test_fold_table_of_many_folds_is_summed_up(image_set: ImageSet) -> None:
    manifest = scan(image_set({"a": 20, "b": 13})).manifest
    splits = make_splits(manifest, **{**DEFAULTS, "n_splits": 13})
    assert fold_table(manifest, splits) == [
        "validation images  all  min of 13 folds  max",
        "a                   20                1    2",
        "b                   13                1    1",
        "all classes         33                2    3",
    ]


def test_copies_that_reach_over_groups_are_mentioned(image_set: ImageSet) -> None:
    root = image_set({"a": 3, "b": 2})
    (root / "a" / "p9.png").write_bytes((root / "a" / "000.png").read_bytes())
    notices = scan(root, group_pattern=r"(.*)\.png").audit.notices
    assert len(notices) == 1
    assert "span several groups" in notices[0]
    assert "a/000.png, a/p9.png" in notices[0]


def test_side_names_warn_only_of_flips(image_set: ImageSet) -> None:
    audit = scan(image_set({"left hip": 1, "right hip": 1})).audit
    assert audit.notices == ()
    assert len(audit.laterality_warnings) == 1
    assert "left hip, right hip" in audit.laterality_warnings[0]
    assert scan(image_set({"a": 1, "b": 1}, name="plain")).audit.laterality_warnings == ()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"left", "other"}, {"left"}),
        ({"HipRight.png", "bright.png", "copyright.jpg"}, {"HipRight.png"}),
        ({"p1_L_003.png", "p1_R.png", "p2.png"}, {"p1_L_003.png", "p1_R.png"}),
        ({"p1_L_003.png", "p2_L.png"}, set()),
        ({"hip-sx.png", "hip-dx.png"}, {"hip-sx.png", "hip-dx.png"}),
        ({"hip-sx.png", "hip_R.png"}, set()),
        ({"cadera izq", "cadera der"}, {"cadera izq", "cadera der"}),
        ({"Hüfte links", "der Hund"}, {"Hüfte links"}),
        ({"左侧", "右侧"}, {"左侧", "右侧"}),
        ({"左侧", "髋"}, set()),
        ({"control (1).png", "loose (2).png"}, set()),
        (set(), set()),
    ],
)
def test_laterality_names(names: set[str], found: set[str]) -> None:
    assert set(laterality_names(names)) == found
