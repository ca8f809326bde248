"""Which images a path stands for, and how they come to the model."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from clip_pkg.base.errors import DataError
from clip_pkg.data.pixel_store import PixelStore, build_store
from clip_pkg.inference import images as squares
from clip_pkg.inference.images import ImageFile, find_images, square_batches
from clip_pkg.study.decoding import decode_image
from clip_pkg.study.scan import scan
from support.array_store import pixels_of
from support.tiny import make_folder, paint


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(*paths: Path) -> list[str]:
    return [image.name for image in find_images(paths).images]


def test_folders_are_searched_to_the_bottom_in_natural_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"data/{part}" for part in ("img10.png", "img2.PNG", "b/x.jpg", "b/c/y.tif")))
    touch(tmp_path, "data/notes.txt", "data/.hidden.png", "data/__MACOSX/z.png", "data/old.gif")
    touch(tmp_path, "data/b/10/1.png", "data/b/9/1.png")
    monkeypatch.chdir(tmp_path)
    found = find_images([Path("data")])
    assert [image.name for image in found.images] == [
        f"data/{part}"
        for part in ("b/9/1.png", "b/10/1.png", "b/c/y.tif", "b/x.jpg", "img2.PNG", "img10.png")
    ]
    assert all(str(image.file) == image.name for image in found.images)
    (notice,) = found.notices
    assert "1 .gif file(s)" in notice
    monkeypatch.chdir(tmp_path / "data/b")
    assert names(Path()) == ["9/1.png", "10/1.png", "c/y.tif", "x.jpg"]


def test_links_in_a_circle_end_and_every_file_has_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "data/real/a.png", "outside/b.png")
    (tmp_path / "data/real/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/also_real").symlink_to(tmp_path / "data/real")
    (tmp_path / "data/out").symlink_to(tmp_path / "outside")
    (tmp_path / "data/self").symlink_to("self")
    assert names(tmp_path / "data") == [
        str(tmp_path / "data/out/b.png"),
        str(tmp_path / "data/real/a.png"),
    ]


def test_files_are_taken_in_the_order_given_and_once(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.png", "odd.name")
    found = find_images(
        [tmp_path / "b.png", tmp_path / "odd.name", tmp_path / "a.png", tmp_path / "b.png"]
    )
    assert [Path(image.name).name for image in found.images] == ["b.png", "odd.name", "a.png"]
    assert found.notices == ("1 image(s) were listed more than once and are predicted once",)


@pytest.mark.parametrize(
    "text",
    [
        "path\nsub/a b.png\nü.png\n",
        "\ufeffid;Path;label\r\n1;sub/a b.png;x\r\n\r\n2;ü.png;y\r\n",
        'label\tpath\nx\t"sub/a b.png"\ny\t ü.png \n',
    ],
)
def test_tables(text: str, tmp_path: Path) -> None:
    table = tmp_path / "new.CSV"
    table.write_bytes(text.encode())
    found = find_images([table]).images
    assert found == (
        ImageFile("sub/a b.png", tmp_path / "sub/a b.png"),
        ImageFile("ü.png", tmp_path / "ü.png"),
    )
    absolute = tmp_path / "absolute.csv"
    absolute.write_text("path\n/elsewhere/x.png\n")
    assert find_images([absolute]).images == (
        ImageFile("/elsewhere/x.png", Path("/elsewhere/x.png")),
    )


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "empty/notes.txt")
    (tmp_path / "latin.csv").write_bytes("path\nü.png\n".encode("latin-1"))
    (tmp_path / "blank.csv").write_text("path,label\na.png,x\n,y\n")
    (tmp_path / "header.csv").write_text("path\n")
    (tmp_path / "quotes.csv").write_text('path\n"a.png\n')
    (tmp_path / "twice.csv").write_text("path,Path\na.png,b.png\n")
    paths = [tmp_path / name for name in os.listdir(tmp_path)] + [tmp_path / "gone"]
    with pytest.raises(DataError) as caught:
        find_images(paths)
    told = str(caught.value)
    for piece in (
        "empty: contains no image",
        "latin.csv: is not UTF-8",
        "blank.csv:3: the path is empty",
        "header.csv: contains no image",
        "quotes.csv:2: is not valid CSV",
        "twice.csv:1: the first line must name one column `path`",
        "gone: no such file or folder",
    ):
        assert piece in told, told
    assert told.startswith("7 problems in --images")


def test_names_that_nobody_could_find_again_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        touch(tmp_path, f"{folder}/a.png")
        (tmp_path / folder / "list.csv").write_text("path\na.png\n")
    with pytest.raises(DataError, match=r"a\.png .*one/a\.png and .*two/a\.png"):
        find_images([tmp_path / "one/list.csv", tmp_path / "two/list.csv"])
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))).touch()
    with pytest.raises(DataError, match="not valid UTF-8"):
        find_images([tmp_path])


def test_squares_are_those_of_the_pixel_store(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 4, "b": 5})
    paint(data / "b/large.png", 1, 77, side=61)
    manifest = scan(data).manifest
    store = PixelStore.open(build_store(manifest, 37, tmp_path / "cache"), manifest)
    images = [ImageFile(path, data / path) for path in manifest.paths]
    batches = list(square_batches(images, size=37, batch_size=4))
    assert [len(batch.images) for batch in batches] == [4, 4, 2]
    assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), pixels_of(store))
    assert [image for batch in batches for image in batch.images] == images


def test_batches_are_full_whatever_cannot_be_read(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 5})
    (data / "a/001.png").write_bytes(b"broken")
    (data / "a/zzz.png").touch()
    images = [*find_images([data]).images, ImageFile("gone.png", data / "gone.png")]
    batches = list(square_batches(images, size=8, batch_size=2))
    assert [len(batch.images) for batch in batches] == [2, 2, 0]
    assert [len(batch.pixels) for batch in batches] == [2, 2, 0]
    assert [[one.path.name for one in batch.unreadable] for batch in batches] == [
        ["001.png"],
        [],
        ["zzz.png", "gone.png"],
    ]


def test_decoding_runs_ahead_by_two_batches_and_stops_when_nobody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_folder(tmp_path / "data", {"a": 40})
    images = find_images([data]).images
    begun: list[Path] = []
    lock = threading.Lock()

    def counting(path: Path) -> np.ndarray:
        with lock:
            begun.append(path)
        time.sleep(0.01)
        return decode_image(path)

    monkeypatch.setattr(squares, "decode_image", counting)
    monkeypatch.setattr(squares, "MAX_THREADS", 1)
    stream = square_batches(images, size=8, batch_size=3)
    for number in (1, 2, 3):
        next(stream)
        assert 3 * number <= len(begun) <= 3 * (number + 2)
    before = len(begun)
    stream.close()
    assert len(begun) <= before + 1
