"""A run whose decoded images find no room gives the numbers of one with a pixel store."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clip_pkg.data import cache as cache_files
from clip_pkg.training.worker import main as worker

TIMES = {"epoch_seconds", "train_images_per_second"}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def numbers(folder: Path) -> list[Any]:
    """Everything of a config's folds that does not depend on the clock."""
    found = []
    for fold in (1, 2):
        history = read(folder / f"fold_{fold}/history.json")
        found.append({name: values for name, values in history.items() if name not in TIMES})
        with (folder / f"fold_{fold}/predictions.csv").open(encoding="utf-8") as stream:
            found.append(list(csv.reader(stream)))
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_folds_have_the_numbers_of_stored_ones(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path, workers: int
) -> None:
    path = write_configs({"name": "a", "num_workers": workers, "augmentation": "standard"})
    stored = train("--config-file", path, output="stored")
    assert "NOTE: the images are not decoded" not in stored
    shown = train("--config-file", path, "--cache_limit", "1 kB", output="streamed")
    assert (
        "not decoded in advance to 37 px: they need 123.3 kB, but the cache limit is 1.0 kB"
        in shown
    )
    assert "The results are the same" in shown
    assert not list((tmp_path / "streamed/.cache").glob("*.npy"))
    assert read(tmp_path / "streamed/a/fold_1/task.json")["pixel_store"] is None
    assert numbers(tmp_path / "streamed/a") == numbers(tmp_path / "stored/a")
    # Both are of one identity: what one began, the other goes on with.
    (tmp_path / "streamed/a/fold_2/result.json").unlink()
    assert "1 of 2 folds are already finished" in train("--config-file", path, output="streamed")
    assert list((tmp_path / "streamed/.cache").glob("*.npy"))


def test_a_full_disk_streams(
    train: Callable[..., str], write_configs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    shown = train("--config-file", write_configs({"name": "a"}))
    assert "bytes for them, but only 1,000 are free" in shown
    assert "Results:" in shown


def test_stores_of_other_runs_make_room(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    cache, epoch = tmp_path / "cache", {"epochs": 1}
    first = write_configs({"name": "a", **epoch}, name="first.json")
    train("--config-file", first, "--cache-dir", cache, output="one")
    (store,) = cache.glob("*.npy")
    both = [{"name": "b", "img_size": 24, **epoch}, {"name": "c", "img_size": 40, **epoch}]
    second = write_configs(*both, name="second.json")
    where = ["--multi-config", "--cache-dir", cache, "--cache-limit", "250kB"]
    shown = train("--config-file", second, *where, output="two")
    assert f"removed to keep the cache within 250.0 kB: {store.name} (92.3 kB)" in shown
    assert sorted(path.stem.rpartition("-")[2] for path in cache.glob("*.npy")) == ["24", "40"]
    # A finished run needs nothing and removes nothing.
    again = train("--config-file", first, "--cache-dir", cache, "--cache-limit", "0", output="one")
    assert "removed" not in again
    assert len(list(cache.glob("*.npy"))) == 2


def test_a_limit_is_a_size(train: Callable[..., str]) -> None:
    shown = train("--cache-limit", "much", check=2)
    assert "'much' is not a size such as 50GB, 500MiB or 0" in shown


def test_a_vanished_image_is_a_sentence(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_configs({"name": "a", "epochs": 1})
    train("--config-file", path, "--cache-limit", "0")
    task = tmp_path / "out/a/fold_1/task.json"
    (tmp_path / "out/a/fold_1/result.json").unlink()
    (tmp_path / "out/a/fold_1/checkpoint_latest.pth").unlink()
    manifest = Path(read(task)["manifest_file"])
    content = read(manifest)
    assert Path(content["data_dir"]) == images
    moved = tmp_path / "elsewhere"
    content["data_dir"] = str(moved)
    manifest.write_text(json.dumps(content), encoding="utf-8")
    assert worker([str(task)]) == 1
    failure = read(tmp_path / "out/a/fold_1/failure.json")
    assert failure["kind"] == "user error"
    assert failure["reason"].startswith(str(moved))
    assert "does not exist" in failure["reason"]


def test_two_ways_of_grouping_share_a_store(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    plain = {"name": "a", "epochs": 1}
    path = write_configs(plain, {**plain, "name": "b", "group_pattern": r"^(\d+)"})
    train("--config-file", path, "--multi-config")
    cache = tmp_path / "out/.cache"
    assert len(list(cache.glob("*.npy"))) == 1
    assert len(list(cache.glob("manifest-*.json"))) == 2
