"""Which stores go when room is needed: the least recently used ones that nobody uses."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from clip_pkg.data import cache as cache_files
from clip_pkg.data import pixel_blocks
from clip_pkg.data.cache import NoRoom, builder_lock, is_there, opened_store
from clip_pkg.data.pixel_store import PixelStore, build_store
from clip_pkg.study.manifest import Manifest

MakeImages = Callable[..., Manifest]
SIZE = 128 + 4 * 8 * 8 * 3  # of the stores below, in bytes


@pytest.fixture
def stores(make_images: MakeImages, tmp_path: Path) -> list[Path]:
    """Three stores, the least recently used one first."""
    made = []
    for number in range(3):
        manifest = make_images({"a": 2, "b": 2}, name=f"images{number}", seed=number)
        path = build_store(manifest, 8, tmp_path / "cache")
        os.utime(path, (number, number))
        os.utime(path.with_suffix(".json"), (1e9 + number, 1e9 + number))
        made.append(path)
    return made


def make_room(
    folder: Path, needed: int, *, limit: int | None, kept: Collection[Path] = ()
) -> list[str]:
    told: list[str] = []
    cache_files.make_room(folder, needed, limit=limit, kept=kept, say=told.append)
    return told


def there(stores: Sequence[Path]) -> list[int]:
    return [number for number, path in enumerate(stores) if path.exists()]


@pytest.mark.parametrize(
    ("needed", "limit", "left"),
    [
        (SIZE, 4 * SIZE, [0, 1, 2]),
        (SIZE, 4 * SIZE - 1, [1, 2]),
        (2 * SIZE, 3 * SIZE, [2]),
        (3 * SIZE, 3 * SIZE, []),
        (0, 2 * SIZE, [1, 2]),
        (0, 0, []),
    ],
)
def test_the_least_recently_used_go(
    stores: list[Path], needed: int, limit: int | None, left: list[int]
) -> None:
    told = make_room(stores[0].parent, needed, limit=limit)
    assert there(stores) == left
    assert all(path.exists() or path.name in told[0] for path in stores)
    records = [path.with_suffix(".json").exists() for path in stores]
    assert records == [path.exists() for path in stores]


def test_opening_a_store_is_using_it(
    stores: list[Path], make_images: MakeImages, tmp_path: Path
) -> None:
    first = make_images({"a": 2, "b": 2}, name="again", seed=0)
    PixelStore.open(stores[0], first).close()
    make_room(stores[0].parent, SIZE, limit=3 * SIZE)
    assert there(stores) == [0, 2]


def test_what_is_kept_or_open_stays(stores: list[Path]) -> None:
    folder = stores[0].parent
    with opened_store(stores[0]) as stream:
        make_room(folder, SIZE, limit=3 * SIZE, kept=[stores[1]])
        assert there(stores) == [0, 1]
        with pytest.raises(
            NoRoom, match="1.8 kB in addition to 1.8 kB in use, but the cache limit"
        ):
            make_room(folder, 2 * SIZE, limit=3 * SIZE, kept=[stores[1]])
        assert there(stores) == [0, 1]
        assert is_there(stream, stores[0])
    make_room(folder, 2 * SIZE, limit=3 * SIZE, kept=[stores[1]])
    assert there(stores) == [1]


def test_nothing_goes_if_the_disk_is_too_small(
    stores: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_files, "MIN_FREE_BYTES", 2**60)
    with pytest.raises(NoRoom, match="are free"):
        make_room(stores[0].parent, SIZE, limit=SIZE)
    assert there(stores) == [0, 1, 2]


def test_a_store_that_another_process_uses_stays(stores: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from clip_pkg.data.cache import opened_store\n"
        "stream = opened_store(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, stores[0]]
    user = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert user.stdout is not None
    assert user.stdout.readline() == b"open\n"
    make_room(stores[0].parent, 0, limit=0)
    assert there(stores) == [0]
    user.kill()  # the system lets go of the lock
    user.communicate()
    make_room(stores[0].parent, 0, limit=0)
    assert there(stores) == []


def test_what_is_being_built_counts_and_stays(stores: list[Path]) -> None:
    folder = stores[0].parent
    unfinished = folder / ".pixels-0123-8.npy.456.tmp"
    unfinished.write_bytes(bytes(SIZE))
    os.utime(unfinished, (1, 1))
    with builder_lock(folder / "pixels-0123-8.npy"):
        make_room(folder, 0, limit=2 * SIZE)
    assert unfinished.exists()
    assert there(stores) == [2]
    make_room(folder, 0, limit=SIZE)  # its builder is gone
    assert not unfinished.exists()
    assert there(stores) == [2]


def test_building_makes_room_and_says_so(
    stores: list[Path], make_images: MakeImages, tmp_path: Path
) -> None:
    told: list[str] = []
    manifest = make_images({"a": 2, "b": 2}, seed=9)
    path = build_store(manifest, 8, tmp_path / "cache", limit=3 * SIZE, notify=told.append)
    assert there([*stores, path]) == [1, 2, 3]
    assert told == [f"removed to keep the cache within 2.7 kB: {stores[0].name} (896 bytes)"]
    told.clear()
    with opened_store(stores[1]):
        build_store(manifest, 8, tmp_path / "cache", limit=1, notify=told.append)
    assert there([*stores, path]) == [1, 3]
    assert told[1] == (
        "the cache takes 1.8 kB, more than its limit of 1 bytes, but all of it is in use"
    )
    with pytest.raises(NoRoom):
        build_store(manifest, 16, tmp_path / "cache", limit=1)


def test_a_store_in_the_making_takes_all_its_room_at_once(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_blocks, "SECONDS_ALONE", 60.0)
    manifest = make_images({"a": 40, "b": 30})
    seen = []

    def look(done: int, total: int) -> None:
        (store,) = cache_files.cached_entries(tmp_path / "cache")
        seen.append(store.size)

    build_store(manifest, 8, tmp_path / "cache", workers=2, progress=look)
    assert seen == [128 + 70 * 8 * 8 * 3] * 3
    assert multiprocessing.active_children() == []
