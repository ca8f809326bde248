"""ImageTextClassifier keeps scikit-learn's conventions and gives the command line's numbers."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.validation import check_is_fitted

from clip_pkg import ImageTextClassifier, load_run
from clip_pkg.base.errors import ConfigErrors, DataError, RunFolderError, TrainingError, UserError
from clip_pkg.results.summary import without_times
from support.tiny import TINY, make_folder

SMALL = {**TINY, "epochs": 1, "executor": "inline", "device": "cpu"}
HELD_OUT = {**SMALL, "use_cv": False, "val_fraction": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes whose names sort otherwise as numbers."""
    return make_folder(tmp_path_factory.mktemp("data"), {"1": 8, "10": 8, "2": 6})


@pytest.fixture(scope="module")
def lists(data: Path) -> tuple[list[str], np.ndarray]:
    paths = sorted(data.rglob("*.png"))
    return [str(path) for path in paths], np.array([int(path.parent.name) for path in paths])


@pytest.fixture(scope="module")
def fitted(lists: tuple[list[str], np.ndarray]) -> ImageTextClassifier:
    paths, labels = lists
    return ImageTextClassifier(**SMALL).fit(paths, labels)


def test_a_folder_gives_the_numbers_of_the_command_line(output: Path, images: Path) -> None:
    model = ImageTextClassifier(**{**SMALL, "loss": {"type": "superclip"}, "name": "super"})
    model.fit(images)
    stored = json.loads((output / "super/cv_summary.json").read_text(encoding="utf-8"))
    assert without_times(model.cv_summary_) == without_times(stored)
    assert model.classes_.tolist() == ["blue sky", "grün", "red"]
    assert 0 <= model.score(images) <= 1


def test_labels_of_a_list_come_back_as_they_were(
    fitted: ImageTextClassifier, lists: tuple[list[str], np.ndarray]
) -> None:
    paths, labels = lists
    assert fitted.classes_.tolist() == [1, 2, 10]
    assert fitted.classes_.dtype == labels.dtype
    probabilities = fitted.predict_proba(paths)
    assert probabilities.shape == (22, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    answers = fitted.predict(paths)
    np.testing.assert_array_equal(answers, fitted.classes_[probabilities.argmax(axis=1)])
    assert fitted.score(paths, labels) == np.mean(answers == labels)
    assert load_run(fitted.result_dir_).predictions.path.nunique() == 22


def test_columns_are_those_of_the_labels(
    fitted: ImageTextClassifier, lists: tuple[list[str], np.ndarray]
) -> None:
    paths, _ = lists
    mean = np.mean([fold_probabilities(fitted, fold, paths[:4]) for fold in (1, 2)], axis=0)
    np.testing.assert_allclose(fitted.predict_proba(paths[:4]), mean, atol=1e-6)


def fold_probabilities(
    fitted: ImageTextClassifier, fold: int, paths: Sequence[str]
) -> list[list[float]]:
    """What one fold says of images, in the order 1, 2, 10."""
    from clip_pkg.inference.images import ImageFile
    from clip_pkg.inference.loading import load_ensemble

    checkpoint = fitted.result_dir_ / f"fold_{fold}/checkpoint_best.pth"
    ensemble = load_ensemble([checkpoint], "cpu")
    assert ensemble.classes == ("1", "10", "2")
    (answers,) = ensemble.answers([ImageFile(path, Path(path)) for path in paths])
    return answers.probabilities[:, [0, 2, 1]].tolist()


def test_answers_follow_the_list_with_repetitions(
    fitted: ImageTextClassifier, lists: tuple[list[str], np.ndarray]
) -> None:
    paths, _ = lists
    once = fitted.predict_proba(paths[:3])
    again = fitted.predict_proba(np.array([paths[2], paths[0], paths[2]]))
    np.testing.assert_allclose(again, once[[2, 0, 2]], atol=1e-6)
    assert fitted.predict_proba([]).shape == (0, 3)


def test_unreadable_images_are_named(
    fitted: ImageTextClassifier, lists: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(DataError, match=r"2 of 3 .*\n.*no\.png.*\n.*gone\.png"):
        fitted.predict([lists[0][0], tmp_path / "no.png", tmp_path / "gone.png"])


def test_parameters_are_the_keys_of_a_config() -> None:
    model = ImageTextClassifier(epochs=3, use_superclip_loss=True)
    params = model.get_params()
    assert params["epochs"] == model.epochs == 3
    assert params["batch_size"] == 32
    assert params["use_superclip_loss"] is True
    assert "epochs=3" in repr(model)
    assert "batch_size" not in repr(model)
    copied = clone(model).set_params(epochs=5)
    assert (copied.epochs, model.epochs) == (5, 3)
    assert copied.get_params()["use_superclip_loss"] is True
    assert is_classifier(model)


@pytest.mark.parametrize("change", ["init", "set_params"])
def test_unknown_keys_are_refused_with_the_nearest(change: str) -> None:
    with pytest.raises(ConfigErrors, match='epoch: unknown key; did you mean "epochs"'):
        if change == "init":
            ImageTextClassifier(epoch=3)
        else:
            ImageTextClassifier().set_params(epoch=3)
    with pytest.raises(ConfigErrors, match="sweep: .*GridSearchCV"):
        ImageTextClassifier(sweep={"epochs": [1, 2]})


def test_wrong_values_are_told_by_fit_all_at_once(lists: tuple[list[str], np.ndarray]) -> None:
    model = ImageTextClassifier(epochs=0.5, n_splits=np.int64(1))
    with pytest.raises(ConfigErrors, match=r"2 problems(.|\n)*epochs: (.|\n)*n_splits: "):
        model.fit(*lists)
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    with pytest.raises(NotFittedError):
        model.predict(lists[0])


def test_wrong_images_are_told(lists: tuple[list[str], np.ndarray], data: Path) -> None:
    paths, labels = lists
    model = ImageTextClassifier(**HELD_OUT)
    with pytest.raises(DataError, match="y is missing"):
        model.fit(paths)
    with pytest.raises(DataError, match="leave out y"):
        model.fit(data, labels)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(paths, labels[1:])
    with pytest.raises(DataError, match="same as text"):
        model.fit(paths[:2], [1, "1"])
    with pytest.raises(DataError, match="no such data folder"):
        model.fit(data / "absent")
    with pytest.raises(UserError, match="executor"):
        ImageTextClassifier(executor="threads").fit(data)


def test_results_stay_in_the_output_folder_and_are_used_again(
    lists: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    paths, labels = lists
    first = ImageTextClassifier(**HELD_OUT, output_dir=tmp_path / "out").fit(paths, labels)
    assert first.result_dir_ == tmp_path / "out/test_resnet_scratch_prompts"
    written = (first.result_dir_ / "fold_1/result.json").stat().st_mtime_ns
    second = clone(first).fit(paths, labels)
    assert (second.result_dir_ / "fold_1/result.json").stat().st_mtime_ns == written
    other = clone(first).set_params(learning_rate=0.01)
    with pytest.raises(RunFolderError, match="learning_rate: "):
        other.fit(paths, labels)
    for copied in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        np.testing.assert_array_equal(copied.predict(paths), first.predict(paths))
    assert other.set_params(overwrite=True).fit(paths, labels).learning_rate == 0.01


def test_a_temporary_folder_lives_as_long_as_the_estimator(
    lists: tuple[list[str], np.ndarray],
) -> None:
    model = ImageTextClassifier(**HELD_OUT).fit(*lists)
    folder = model.result_dir_
    assert folder.exists()
    with pytest.raises(UserError, match="fit it with output_dir"):
        pickle.dumps(model)
    del model
    assert not folder.exists()


def test_groups_stay_together(lists: tuple[list[str], np.ndarray]) -> None:
    paths, labels = lists
    groups = [f"{label}-{number // 2}" for number, label in enumerate(labels)]
    model = ImageTextClassifier(**HELD_OUT).fit(paths, labels, groups=groups)
    folds = json.loads((model.result_dir_ / "folds_info.json").read_text(encoding="utf-8"))
    assert len(folds["groups"]) == len(set(groups))
    group_of = dict(zip(paths, groups, strict=True))
    (fold,) = folds["folds"]
    assert not {group_of[p] for p in fold["train"]} & {group_of[p] for p in fold["val"]}


def test_a_fold_that_fails_is_an_error_and_names_the_logs(
    lists: tuple[list[str], np.ndarray],
) -> None:
    wild: dict[str, Any] = {"learning_rate": 10.0, "image_lr_scale": 100.0, "epochs": 40}
    model = ImageTextClassifier(**{**HELD_OUT, **wild, "grad_clip_norm": None})
    with pytest.raises(TrainingError, match=r"fold_1 \(diverged: .*logs"):
        model.fit(*lists)


def test_threads_can_train(lists: tuple[list[str], np.ndarray]) -> None:
    fitted: list[ImageTextClassifier] = []
    model = ImageTextClassifier(**HELD_OUT)
    thread = threading.Thread(target=lambda: fitted.append(model.fit(*lists)))
    thread.start()
    thread.join()
    assert fitted == [model]


def test_scikit_learn_searches_over_lists_of_paths(lists: tuple[list[str], np.ndarray]) -> None:
    paths, labels = lists
    model = ImageTextClassifier(**HELD_OUT)
    grid = {"learning_rate": np.array([1e-3, 1e-2])}
    search = GridSearchCV(model, grid, cv=2, scoring=["accuracy", "neg_log_loss"], refit="accuracy")
    search.fit(paths, labels)
    assert np.isfinite(search.cv_results_["mean_test_accuracy"]).all()
    assert (search.cv_results_["mean_test_neg_log_loss"] < 0).all()
    assert search.best_estimator_.learning_rate == search.best_params_["learning_rate"]
    assert search.predict(paths[:2]).shape == (2,)
