"""Suspected labels of result folders whose predictions are drawn instead of learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip_pkg.base.errors import RunFolderError
from clip_pkg.results.suspects import averaged, suspects_in
from clip_pkg.study.predictions import Predictions
from support.result_folders import CLASSES, drawn_answers, image_list, write_result

IMAGES = image_list()
SURE, ALSO_SURE = (drawn_answers(IMAGES, 8.0, seed) for seed in (0, 1))


def wrong(answers: np.ndarray, *changed: int) -> np.ndarray:
    """Answers in which some images look like the next class."""
    found = answers.copy()
    found[list(changed)] = np.roll(found[list(changed)], 1, axis=1)
    return found


def link(folder: Path, *clusters: list[str]) -> None:
    file = folder / "folds_info.json"
    info = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**info, "linked": clusters}), encoding="utf-8")


def test_probabilities_of_configs_are_averaged(tmp_path: Path) -> None:
    write_result(tmp_path, "a", IMAGES, wrong(SURE, 3, 50))
    write_result(tmp_path, "b", IMAGES, wrong(ALSO_SURE, 3), seed=1)  # other folds, same images
    found = suspects_in(tmp_path)
    assert found.configs == ("a", "b")
    assert found.n_images == len(IMAGES)
    (first, *others) = found.ranked
    assert (first.path, first.label, first.suggested_label) == (IMAGES.paths[3], "cat", "dog")
    mean = (wrong(SURE, 3)[3] + wrong(ALSO_SURE, 3)[3]) / 2
    assert (first.p_label, first.p_suggested) == pytest.approx(mean[:2])
    others_mean = (SURE + ALSO_SURE)[:40, 0].sum() / 2 - SURE[3, 0] / 2 - ALSO_SURE[3, 0] / 2
    assert first.score == pytest.approx(mean[0] / ((others_mean + mean[0]) / 40))
    assert first.reasons == ("confident", "misclassified")
    assert first.configs_wrong == 2
    assert found.confusions[0][:2] == ("cat", "dog")
    assert all("misclassified" not in one.reasons for one in others)


def test_one_config_lists_its_mistakes(tmp_path: Path) -> None:
    answers = drawn_answers(IMAGES, 1.5, 3)
    found = suspects_in(write_result(tmp_path, "a", IMAGES, answers))
    mistakes = np.flatnonzero(answers.argmax(axis=1) != IMAGES.labels)
    assert {one.path for one in found.ranked} == {IMAGES.paths[index] for index in mistakes}
    assert 0 < sum("confident" in one.reasons for one in found.ranked) < len(mistakes)
    scores = [one.score for one in found.ranked]
    assert scores == sorted(scores)


def test_other_images_and_unfinished_configs_are_named(tmp_path: Path) -> None:
    write_result(tmp_path, "a", IMAGES, wrong(SURE, 3))
    write_result(tmp_path, "b", IMAGES, wrong(SURE, 3), missing=(2,))
    write_result(tmp_path, "c d", image_list(data="others"), SURE)
    write_result(tmp_path, "e", IMAGES, SURE, missing=(1, 2, 3, 4, 5))
    write_result(tmp_path, "f", IMAGES, SURE)
    (tmp_path / "f/fold_1/predictions.csv").write_text("no table")
    found = suspects_in(tmp_path)
    assert found.configs == ("a", "b")
    notices = "\n".join(found.notices)
    assert "f is not used: " in notices
    assert "e is not used: no fold is finished" in notices
    assert f"python train_clip.py suspects '{tmp_path}/c d'" in notices
    assert suspects_in(tmp_path / "c d").n_images == len(IMAGES)
    part = suspects_in(tmp_path / "b")
    assert part.n_images == 96
    assert part.notices[0].startswith("24 of 120 images have no out-of-fold prediction")
    with pytest.raises(RunFolderError, match="no fold is finished"):
        suspects_in(tmp_path / "e")


def test_near_copies_with_other_labels_stand_together(tmp_path: Path) -> None:
    folder = write_result(tmp_path, "a", IMAGES, wrong(SURE, 3, 90))
    cat, other_cat, dog, owl = (IMAGES.paths[index] for index in (5, 6, 45, 90))
    link(folder, [cat, dog], [other_cat, IMAGES.paths[7]], [owl, IMAGES.paths[46], "gone.png"])
    found = suspects_in(folder).ranked
    by_path = {one.path: one for one in found}
    assert by_path[cat].copy_of == dog
    assert (by_path[cat].suggested_label, by_path[dog].suggested_label) == ("dog", "cat")
    assert by_path[cat].reasons == ("copy",)
    assert by_path[owl].reasons == ("confident", "copy", "misclassified")
    assert other_cat not in by_path  # its copy has the same label
    order = [one.path for one in found]
    assert order[:2] == [owl, IMAGES.paths[46]]  # the model agrees with the second's label
    assert {*order[2:4]} == {cat, dog}
    assert order[4] == IMAGES.paths[3]


def test_repeated_predictions_are_averaged() -> None:
    once = Predictions(CLASSES, IMAGES.paths, IMAGES.labels, SURE)
    order = np.random.default_rng(0).permutation(2 * len(IMAGES))
    twice = Predictions(
        CLASSES,
        tuple((IMAGES.paths * 2)[index] for index in order),
        np.tile(IMAGES.labels, 2)[order],
        np.concatenate([SURE, ALSO_SURE])[order],
    )
    found = averaged(twice)
    assert found.paths == averaged(once).paths == tuple(sorted(IMAGES.paths))
    assert (found.targets == averaged(once).targets).all()
    expected = averaged(replace(once, probabilities=(SURE + ALSO_SURE) / 2)).probabilities
    assert found.probabilities == pytest.approx(expected)
