"""Features of images, and of a config's own images by the folds that did not see them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from integration.inference.conftest import read_table

from clip_pkg.base.errors import CheckpointError, DataError, RunFolderError
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.inference.embedding import embed, embed_out_of_fold
from clip_pkg.inference.fold_classifier import FoldClassifier
from clip_pkg.inference.held_out import held_out_images
from clip_pkg.inference.images import find_images

CPU = torch.device("cpu")


@pytest.fixture
def folds(run: Path, tmp_path: Path) -> Path:
    """A copy of a config's result folder with three folds."""
    return Path(shutil.copytree(run / "folds", tmp_path / "folds"))


def test_features_are_what_the_classifier_compares_with_its_texts(run: Path, images: Path) -> None:
    fold = FoldClassifier.load(run / "folds/fold_1/checkpoint_best.pth", CPU)
    calls: list[tuple[int, int]] = []
    found = embed(fold, find_images([images]).images, progress=lambda *done: calls.append(done))
    assert found.features.shape == (30, 16)
    assert found.features.dtype == np.float32
    assert found.labels is None
    assert set(found.folds) == {1}
    assert calls[-1] == (30, 30)
    features = F.normalize(torch.from_numpy(found.features), dim=1)
    texts = fold.classifier.class_features
    logits = features @ texts.T * fold.classifier.model.logit_scale()
    (answers,) = (np.concatenate([fold.probabilities(batch) for batch in _pixels(fold, images)]),)
    np.testing.assert_allclose(logits.double().softmax(1).numpy(), answers, atol=1e-5)


def _pixels(fold: FoldClassifier, images: Path) -> list[np.ndarray]:
    from clip_pkg.inference.images import square_batches

    batches = square_batches(
        find_images([images]).images, size=fold.store_size, batch_size=fold.batch_size
    )
    return [batch.pixels for batch in batches]


def test_out_of_fold_each_image_is_embedded_by_the_fold_that_did_not_see_it(
    run: Path, images: Path
) -> None:
    paths = ConfigPaths(run / "folds")
    calls: list[tuple[int, int]] = []
    found = embed_out_of_fold(paths, images, CPU, progress=lambda *done: calls.append(done))
    assert calls[-1] == (30, 30)
    assert sorted(found.paths) == sorted(image.name for image in _named(images))
    assert found.labels == tuple(Path(path).parent.name for path in found.paths)
    for number in (1, 2, 3):
        mine = found.folds == number
        wanted = read_table(paths.fold(number).predictions).paths
        assert [path for path, own in zip(found.paths, mine, strict=True) if own] == wanted
        fold = FoldClassifier.load(paths.fold(number).checkpoint_best, CPU)
        again = embed(fold, [image for image in _named(images) if image.name in wanted])
        assert again.paths == tuple(wanted)
        assert np.array_equal(again.features, found.features[mine])


def _named(images: Path) -> list:
    from clip_pkg.inference.images import ImageFile

    files = sorted(path for path in images.glob("*/*.png"))
    return [ImageFile(str(path.relative_to(images)), path) for path in files]


def test_the_images_may_have_moved_and_others_may_have_come(
    run: Path, images: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(images, tmp_path / "moved"))
    shutil.copy(data / "red/000.png", data / "red/new.png")
    (data / "other").mkdir()
    shutil.copy(data / "red/001.png", data / "other/new.png")
    held_out = held_out_images(ConfigPaths(run / "folds"), data)
    assert len(held_out) == 30
    assert held_out.notices == ()


def test_other_images_are_refused(folds: Path, images: Path, tmp_path: Path) -> None:
    paths = ConfigPaths(folds)
    data = Path(shutil.copytree(images, tmp_path / "changed"))
    shutil.copy(data / "red/000.png", data / "red/001.png")
    with pytest.raises(DataError, match="contents, labels or groups differ"):
        held_out_images(paths, data)
    (data / "red/001.png").unlink()
    with pytest.raises(DataError, match=r"1 image\(s\) are gone"):
        held_out_images(paths, data)
    (data / "red/002.png").write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        held_out_images(paths, data)
    (tmp_path / "none/red").mkdir(parents=True)
    with pytest.raises(DataError, match="none of the images"):
        held_out_images(paths, tmp_path / "none")


def test_folds_that_are_not_finished_are_left_out(folds: Path, images: Path) -> None:
    (folds / "fold_2/result.json").unlink()
    held_out = held_out_images(ConfigPaths(folds), images)
    assert [fold.number for fold in held_out.folds] == [1, 3]
    assert held_out.notices == ("without fold_2 (unfinished)",)


def test_of_a_hold_out_only_its_validation_images_are_known(run: Path, images: Path) -> None:
    held_out = held_out_images(ConfigPaths(run / "clip"), images)
    assert len(held_out) == len(read_table(run / "clip/fold_1/predictions.csv").paths)
    assert "were only trained on" in held_out.notices[0]


@pytest.mark.parametrize("name", ["folds_info.json", "config.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_damaged_result_folders_are_told(
    name: str, content: str | None, folds: Path, images: Path
) -> None:
    (folds / name).unlink()
    if content is not None:
        (folds / name).write_text(content)
    with pytest.raises(RunFolderError, match=name):
        held_out_images(ConfigPaths(folds), images)


def test_a_model_of_other_folds_may_have_seen_the_images(folds: Path, images: Path) -> None:
    path = folds / "fold_2/checkpoint_best.pth"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "identity": {**state["identity"], "splits": "other"}}, path)
    with pytest.raises(CheckpointError, match="may have seen"):
        embed_out_of_fold(ConfigPaths(folds), images, CPU)
    assert json.loads((folds / "identity.json").read_text())["splits"] != "other"


def test_a_file_of_one_folds_features(
    run: Path, images: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "features.npz"
    shown = use("embed", run / "folds/fold_2", "--images", images, "--output", output)
    assert "30 row(s) of 16 features" in shown
    fold = FoldClassifier.load(run / "folds/fold_2/checkpoint_best.pth", CPU)
    wanted = embed(fold, find_images([images]).images)
    with np.load(output) as found:
        assert set(found) == {"path", "features", "fold"}
        assert tuple(found["path"]) == wanted.paths
        assert np.array_equal(found["features"], wanted.features)
        assert set(found["fold"]) == {2}


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_of_out_of_fold_features(
    suffix: str, run: Path, images: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / f"features{suffix}"
    use("embed", run / "folds", "--images", images, "--output", output, "--out-of-fold")
    wanted = embed_out_of_fold(ConfigPaths(run / "folds"), images, CPU)
    if suffix == ".npz":
        with np.load(output) as arrays:
            paths, labels, folds, features = (
                arrays[name] for name in ("path", "label", "fold", "features")
            )
    else:
        table = pd.read_parquet(output)
        assert list(table.columns) == [
            "path",
            "label",
            "fold",
            *(f"feature_{n}" for n in range(16)),
        ]
        paths, labels, folds = table["path"], table["label"], table["fold"]
        features = table.filter(like="feature_").to_numpy()
    assert tuple(paths) == wanted.paths
    assert tuple(labels) == wanted.labels
    assert np.array_equal(folds, wanted.folds)
    assert np.array_equal(features, wanted.features)
    assert features.dtype == np.float32


def test_what_cannot_be_embedded(
    run: Path,
    images: Path,
    use: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(model: Path, name: str, *words: str) -> str:
        output = tmp_path / name
        shown = use("embed", model, "--images", images, "--output", output, *words, check=2)
        assert not output.exists()
        return shown

    assert "each with a feature space of its own" in refused(run / "folds", "a.npz")
    assert "must end in .npz or .parquet" in refused(run / "clip", "a.csv")
    assert "only known for a whole config" in refused(run / "clip/fold_1", "a.npz", "--out-of-fold")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "clip_pkg[parquet]" in refused(run / "clip", "a.parquet")
    use("embed", run / "clip", "--images", images, "--output", tmp_path / "a.npz")


def test_unreadable_images_are_left_out_on_request(
    run: Path, images: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    data = Path(shutil.copytree(images / "red", tmp_path / "data"))
    (data / "003.png").write_bytes(b"")
    words = ["--images", data, "--output", tmp_path / "a.npz"]
    assert "1 of 14 image(s) cannot be read" in use("embed", run / "clip", *words, check=2)
    assert "003.png" in use("embed", run / "clip", *words, "--skip-unreadable")
    with np.load(tmp_path / "a.npz") as found:
        assert found["features"].shape == (13, 16)
