"""What a plan says it can find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clip_pkg.config.schema import RunConfig
from clip_pkg.results.planning import DISAGREEMENT, detectable_differences
from clip_pkg.results.statistics import first_step, planned_difference
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.preflight import PreparedConfig
from clip_pkg.study.splits import make_splits
from support.result_folders import image_list


def prepared(images: Manifest, **settings: Any) -> PreparedConfig:
    config = RunConfig.model_validate({"name": "one", **settings})
    splits = make_splits(
        images,
        use_cv=config.use_cv,
        n_splits=config.n_splits,
        n_repeats=config.n_repeats,
        random_state=config.random_state,
        val_fraction=config.val_fraction,
    )
    return PreparedConfig(config, images, splits, ClassTexts((), (), "", ()))


def points(images: int, *, folds: int = 5, repeats: int = 1, pairs: int = 1) -> str:
    found = planned_difference(
        images,
        n_splits=folds,
        n_repeats=repeats,
        disagreement=DISAGREEMENT,
        level=first_step(0.95, pairs),
    )
    return f"{100 * found:.1f} points"


def test_accuracy_and_the_recall_of_the_smallest_class() -> None:
    images = image_list()
    labels = images.labels.copy()
    labels[:20] = 1  # 20 cats, 60 dogs, 40 owls
    found, assumed = detectable_differences([prepared(replace(images, labels=labels))])
    assert points(120) in found
    assert points(20) in found
    assert "cat (20 images)" in found
    assert "20 % of the images" in assumed
    assert "Holm" not in assumed


def test_pairs_that_will_be_compared_are_adjusted_for() -> None:
    images = image_list()
    same = [prepared(images) for _ in range(3)]
    found, assumed = detectable_differences([*same, prepared(images, random_state=1)])
    assert points(120, pairs=3) in found
    assert "0.05/3" in assumed
    five, ten, _ = detectable_differences([prepared(images), prepared(images, n_splits=10)])
    assert points(120) in five
    assert points(120, folds=10) in ten
    repeated, _ = detectable_differences([prepared(images, n_repeats=4)])
    assert points(120, repeats=4) in repeated
    assert "4 repeats" in repeated


def test_a_single_split_can_find_nothing() -> None:
    (found,) = detectable_differences([prepared(image_list(), use_cv=False)])
    assert "use_cv" in found


def test_groups_are_not_counted_on() -> None:
    *_, assumed = detectable_differences([prepared(image_list(groups_of=2))])
    assert "group" in assumed
