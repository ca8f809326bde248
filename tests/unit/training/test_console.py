"""Progress of a training for people and for the launcher."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from clip_pkg.study.progress import Progress, read_progress
from clip_pkg.training import console
from clip_pkg.training.console import Console


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "progress.json"


def opened(file: Path, stream: io.StringIO) -> Console:
    return Console(stream, file, epochs=10, labels={}, epoch=4, spent=lambda: (70.0, 60.0))


def progress_in(file: Path) -> Progress:
    found = read_progress(file)
    assert found is not None
    return found


def test_a_start_up_does_not_count_as_the_time_of_a_step(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(
        console, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    )
    stream = io.StringIO()
    on_step = opened(file, stream).phase("train", epoch=5, steps=10, batch_size=8)
    for done in range(1, 6):
        now[0] += 300 if done == 1 else 20  # the first one waits for a compiler, say
        on_step(done)
    assert "<01:40" in stream.getvalue().splitlines()[-1]
    assert progress_in(file).images_per_second == pytest.approx(8 / 20)


def test_what_was_restored_is_done_before_the_first_step(file: Path) -> None:
    one = opened(file, io.StringIO())
    one.save_progress()
    assert progress_in(file).share == pytest.approx(0.4)
    one.phase("features", steps=2, batch_size=8)(1)
    one.save_progress()
    assert progress_in(file).share == progress_in(file).kept_share == pytest.approx(0.4)
    one.phase("train", epoch=5, steps=4, batch_size=8)(2)
    one.save_progress()
    assert progress_in(file).share == pytest.approx(0.45)
    assert progress_in(file).kept_share == pytest.approx(0.4)
    one.phase("val", epoch=5, steps=1, batch_size=8)(1)
    assert progress_in(file).share == progress_in(file).kept_share == pytest.approx(0.5)
    assert (progress_in(file).seconds, progress_in(file).train_seconds) == (70.0, 60.0)


def test_a_full_disk_stops_neither_log_nor_progress(file: Path) -> None:
    file.mkdir()  # a file cannot replace a folder, as on a disk without room
    with Path("/dev/full").open("w") as stream:
        voice = Console(stream, file, epochs=10, labels={}, epoch=4, spent=lambda: (70.0, 60.0))
        voice.line("lost")
        voice.save_progress()
        with pytest.raises(OSError, match="No space"):
            stream.close()


def test_progress_in_a_deleted_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "config/fold_1/progress.json", io.StringIO()).save_progress()
