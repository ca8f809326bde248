from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from filelock import FileLock
from PIL import Image

from clip_pkg.base.errors import DataError, UserError
from clip_pkg.data import cache as cache_files
from clip_pkg.data import pixel_blocks, pixel_store
from clip_pkg.data.cache import NoRoom
from clip_pkg.data.pixel_blocks import square, squash
from clip_pkg.data.pixel_store import (
    EARLIER_RECIPE,
    PIXELS_VERSION,
    PixelStore,
    StoreError,
    build_store,
)
from clip_pkg.study.manifest import Manifest
from support.array_store import pixels_of
from support.outcomes import alive

MakeImages = Callable[..., Manifest]


@pytest.fixture
def manifest(make_images: MakeImages) -> Manifest:
    return make_images({"good place": 40, "松动": 30})  # three blocks


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start decoding processes at once."""
    monkeypatch.setattr(pixel_blocks, "SECONDS_ALONE", 0.0)


def slow_to_decode(tmp_path: Path, count: int) -> Manifest:
    """Some ten milliseconds per image, but one image on the disk."""
    folder = tmp_path / "slow" / "a"
    folder.mkdir(parents=True)
    names = [f"{number:04d}.png" for number in range(count)]
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / names[0])
    for name in names[1:]:
        (folder / name).hardlink_to(folder / names[0])
    return Manifest(
        data_dir=tmp_path / "slow",
        classes=("a",),
        paths=tuple(f"a/{name}" for name in names),
        labels=np.zeros(count, dtype=np.int64),
        groups=None,
        digests=(hashlib.sha256((folder / names[0]).read_bytes()).hexdigest(),) * count,
    )


def leftovers(cache: Path) -> list[str]:
    return sorted(file.name for file in cache.iterdir() if file.suffix != ".lock")


def overwrite(path: Path, offset: int, *, keep_time: bool) -> None:
    """Change one byte."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 255]))
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_pixels_are_the_resized_images(manifest: Manifest, cache: Path) -> None:
    store = PixelStore.open(build_store(manifest, 16, cache), manifest)
    images = pixels_of(store)
    assert images.shape == (70, 16, 16, 3)
    assert images.dtype == np.uint8
    assert store.size == 16
    for row in range(70):
        with Image.open(manifest.file(row)) as image:
            expected = image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(images[row], np.asarray(expected))
    index = np.array([69, 3, 3, 0])
    (gathered,) = store.batches([index])
    np.testing.assert_array_equal(gathered, images[index])
    assert gathered.flags.writeable


def test_processes_make_the_same_store(manifest: Manifest, cache: Path, in_processes: None) -> None:
    steps: list[tuple[int, int]] = []
    path = build_store(manifest, 16, cache, workers=2, progress=lambda *step: steps.append(step))
    alone = build_store(manifest, 16, cache.with_name("alone"), workers=0)
    assert path.read_bytes() == alone.read_bytes()
    assert sorted(steps) == steps
    assert steps[-1] == (70, 70)
    assert len(steps) == 3


def test_built_once(manifest: Manifest, cache: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    path = build_store(manifest, 16, cache)
    modified = path.stat().st_mtime_ns
    assert build_store(manifest, 16, cache, progress=never, notify=never) == path
    assert path.stat().st_mtime_ns == modified
    other_labels = replace(manifest, labels=1 - manifest.labels, groups=("p",) * 70)
    assert build_store(other_labels, 16, cache, progress=never, notify=never) == path
    assert leftovers(cache) == sorted([path.name, path.with_suffix(".json").name])


def test_other_images_and_sizes_have_stores_of_their_own(
    make_images: MakeImages, manifest: Manifest, cache: Path
) -> None:
    path = build_store(manifest, 16, cache)
    assert build_store(manifest, 8, cache) != path
    changed = make_images({"good place": 40, "松动": 30}, name="others", seed=1)
    assert build_store(changed, 16, cache) != path
    with pytest.raises(StoreError, match="other images"):
        PixelStore.open(path, changed)


@pytest.mark.parametrize("keep_time", [True, False])
def test_a_damaged_store_is_noticed_and_built_again(
    manifest: Manifest, cache: Path, keep_time: bool
) -> None:
    path = build_store(manifest, 16, cache)
    whole = path.read_bytes()
    overwrite(path, len(whole) - 5, keep_time=keep_time)
    with pytest.raises(StoreError, match=r"damaged from image 69 on"):
        PixelStore.open(path, manifest, verify=keep_time)
    told: list[str] = []
    assert build_store(manifest, 16, cache, notify=told.append) == path
    assert path.read_bytes() == whole
    (sentence,) = told
    assert "damaged" in sentence
    assert "decoding the images again" in sentence


def change_recipe(path: Path) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    record["recipe"]["pillow"] = "1.0"
    path.with_suffix(".json").write_text(json.dumps(record))


def test_stores_of_the_version_before_recipes_were_declared_are_used(
    manifest: Manifest, cache: Path
) -> None:
    path = build_store(manifest, 16, cache)
    record = json.loads(path.with_suffix(".json").read_text())
    record["recipe"] = EARLIER_RECIPE
    path.with_suffix(".json").write_text(json.dumps(record))
    notices: list[str] = []
    assert build_store(manifest, 16, cache, notify=notices.append) == path
    assert not notices


def test_pixels_are_those_of_their_declared_version(tmp_path: Path) -> None:
    """If this fails on purpose, raise PIXELS_VERSION: existing stores hold other pixels."""
    rows, columns = np.mgrid[:48, :64]
    colours = np.stack([4 * columns, 5 * rows, (rows * columns) % 256], axis=2).astype(np.uint8)
    grey = (rows * 1300 + columns).astype(np.uint16)
    sums = []
    for name, array in (("colour.png", colours), ("grey.png", grey)):
        file = tmp_path / name
        Image.fromarray(array).save(file)
        for size in (24, 80):
            pixels = square(file, hashlib.sha256(file.read_bytes()).hexdigest(), size)
            sums.append([int(pixels.astype(np.int64).sum()), int(pixels[::5, ::7].sum())])
    assert PIXELS_VERSION == 1
    assert sums == [[207043, 6109], [2297173, 67049], [205995, 6246], [2284698, 65082]]


HARMS: dict[str, Callable[[Path], object]] = {
    "shortened": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "other header": lambda path: overwrite(path, 1, keep_time=True),
    "no pixels": lambda path: path.unlink(),
    "no record": lambda path: path.with_suffix(".json").unlink(),
    "half a record": lambda path: path.with_suffix(".json").write_text('{"images": '),
    "other recipe": change_recipe,
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_does_not_fit_is_refused_without_reading_it_all(
    manifest: Manifest, cache: Path, harm: str
) -> None:
    path = build_store(manifest, 16, cache)
    whole = path.read_bytes()
    HARMS[harm](path)
    with pytest.raises(StoreError):
        PixelStore.open(path, manifest)
    told: list[str] = []
    build_store(manifest, 16, cache, notify=told.append)
    assert len(told) == (harm != "no pixels")
    assert path.read_bytes() == whole
    PixelStore.open(path, manifest, verify=True)


def test_a_copied_store_is_accepted_after_a_full_check(manifest: Manifest, cache: Path) -> None:
    path = build_store(manifest, 16, cache)
    os.utime(path, ns=(1, 1))
    PixelStore.open(path, manifest)


MEANWHILE: dict[str, Callable[[Path], object]] = {
    "zeros": lambda path: path.open("r+b").write(bytes(path.stat().st_size)),
    "a byte": lambda path: overwrite(path, 5000, keep_time=True),
    "cut": lambda path: os.truncate(path, 5000),
    "empty": lambda path: os.truncate(path, 0),
    "deleted": Path.unlink,
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"something else")),
}


@pytest.mark.parametrize("harm", MEANWHILE)
def test_no_wrong_pixel_leaves_an_open_store(manifest: Manifest, cache: Path, harm: str) -> None:
    path = build_store(manifest, 16, cache)
    told: list[str] = []
    store = PixelStore.open(path, manifest, notify=told.append)
    wanted, elsewhere = pixels_of(store), harm in ("deleted", "replaced")
    MEANWHILE[harm](path)
    for _ in range(2):
        np.testing.assert_array_equal(pixels_of(store), wanted)
    assert len(told) == (not elsewhere)
    store.close()
    if harm == "a byte":  # it was written again
        PixelStore.open(path, manifest, verify=True).close()
    build_store(manifest, 16, cache)
    np.testing.assert_array_equal(pixels_of(PixelStore.open(path, manifest)), wanted)


def test_a_damaged_store_needs_its_images(manifest: Manifest, cache: Path) -> None:
    path = build_store(manifest, 16, cache)
    store = PixelStore.open(path, manifest)
    overwrite(path, 70 * 16 * 16 * 3, keep_time=True)
    manifest.file(69).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"松动/029.bmp: changed since"):
        pixels_of(store)


def test_stores_with_a_checksum_per_block_are_used(manifest: Manifest, cache: Path) -> None:
    path = build_store(manifest, 16, cache)
    wanted, file = pixels_of(PixelStore.open(path, manifest)), path.with_suffix(".json")
    record = json.loads(file.read_text())
    whole = [zlib.crc32(wanted[first : first + 32].tobytes()) for first in range(0, 70, 32)]
    old = {**record, "images_per_block": 32, "checksums": whole}
    file.write_text(json.dumps(old))
    np.testing.assert_array_equal(pixels_of(PixelStore.open(path, manifest)), wanted)
    build_store(manifest, 16, cache, notify=pytest.fail)
    assert json.loads(file.read_text()) == record
    file.write_text(json.dumps({**old, "checksums": whole[:2]}))
    with pytest.raises(StoreError, match="checksums"):
        PixelStore.open(path, manifest)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(
    manifest: Manifest, cache: Path, workers: int, in_processes: None
) -> None:
    manifest.file(50).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"松动/010.jpg: changed since"):
        build_store(manifest, 16, cache, workers=workers)
    digests = list(manifest.digests)
    digests[50] = hashlib.sha256(b"no image").hexdigest()
    with pytest.raises(DataError, match=r"松动/010.jpg: .*not an image"):
        build_store(replace(manifest, digests=tuple(digests)), 16, cache, workers=workers)
    manifest.file(50).unlink()
    with pytest.raises(DataError, match=r"松动/010.jpg: does not exist"):
        build_store(manifest, 16, cache, workers=workers)
    assert leftovers(cache) == []


def test_a_full_disk_is_noticed_before_decoding(
    manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    needed = 128 + 70 * 16 * 16 * 3 + cache_files.MIN_FREE_BYTES
    with pytest.raises(
        NoRoom, match=f"{needed:,} bytes for them, but only 1,000,000 are free"
    ) as caught:
        build_store(manifest, 16, cache)
    assert str(cache) in str(caught.value)
    assert leftovers(cache) == []


def test_a_disk_that_fills_up_is_a_sentence(
    manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pixel_store, "fill_blocks", full)
    with pytest.raises(NoRoom, match="disk of .* is full .No space left on device"):
        build_store(manifest, 16, cache)
    assert leftovers(cache) == []


def test_a_place_that_is_no_folder_is_a_sentence(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        build_store(manifest, 16, tmp_path / "file" / "cache")


def test_a_killed_decoder_is_a_sentence(tmp_path: Path, cache: Path, in_processes: None) -> None:
    def kill(*_: object) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(DataError, match="lower `num_workers`"):
        build_store(slow_to_decode(tmp_path, 1000), 16, cache, workers=2, progress=kill)
    assert leftovers(cache) == []


def test_temporary_files_of_killed_builders_go(manifest: Manifest, cache: Path) -> None:
    path = build_store(manifest, 16, cache)
    path.unlink()
    abandoned = cache / f".{path.name}.0123.tmp"
    abandoned.write_bytes(b"half")
    other = cache / ".cv_summary.json.0123.tmp"
    other.write_bytes(b"not ours")
    build_store(manifest, 16, cache)
    assert not abandoned.exists()
    assert other.exists()


def test_two_launchers_build_once(manifest: Manifest, cache: Path) -> None:
    path = build_store(manifest, 16, cache)
    path.unlink()
    told: list[str] = []
    lock = FileLock(path.with_suffix(".lock"))
    lock.acquire()
    second = threading.Thread(
        target=build_store, args=(manifest, 16, cache), kwargs={"notify": told.append}
    )
    second.start()
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told == [f"waiting for another process that builds {path.name}"]
    assert not path.exists()
    lock.release()
    second.join()
    PixelStore.open(path, manifest)


def test_a_square_of_the_right_size_is_left_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(squash(image, 16), image)


@pytest.mark.parametrize("shape", [(7, 31), (64, 64)])
def test_flat_images_stay_flat(shape: tuple[int, int]) -> None:
    # weights that do not sum to one, or a border, would show here
    assert (squash(np.full((*shape, 3), 77, dtype=np.uint8), 16) == 77).all()


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(squash(stripes, 32).astype(int) - 127.5).max() < 4  # borders see half a filter


SLOW_BUILD = """
import json
import sys
from pathlib import Path
from clip_pkg.data import pixel_blocks
from clip_pkg.data.pixel_store import build_store
from clip_pkg.study.manifest import Manifest
pixel_blocks.SECONDS_ALONE = 0.0
manifest = Manifest.from_json(json.loads(Path(sys.argv[1]).read_text()))
build_store(
    manifest, 224, Path(sys.argv[2]), workers=2, progress=lambda *_: print("on", flush=True)
)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_launcher(tmp_path: Path, cache: Path, how: signal.Signals) -> None:
    manifest = slow_to_decode(tmp_path, 3000)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_json()))
    launcher = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, tmp_path / "manifest.json", cache],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "on\n"
    children = psutil.Process(launcher.pid).children()
    assert len(children) >= 2
    launcher.send_signal(how)
    launcher.wait(timeout=30)
    launcher.stdout.close()
    assert not alive(children, 20)
    assert not list(cache.glob("*.npy"))  # and nothing that looks finished
