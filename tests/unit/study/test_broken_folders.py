"""Image sets as people really hand them over: each ends in sentences that name the place."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_pkg.base.errors import DataError
from clip_pkg.study.scan import scan


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8))


def good(root: Path) -> Path:
    """Two classes of three images."""
    for label in range(2):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(3):
            picture(10 * label + number).save(root / f"class{label}" / f"{number}.png")
    return root


def broken_file(content: bytes, name: str = "bad.jpg") -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        (good(root) / "class1" / name).write_bytes(content)
        return root

    return build


def cut(kind: str, keep: float) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((80, 80), 60).save(stream, kind)
    return stream.getvalue()[: int(len(stream.getvalue()) * keep)]


def bomb() -> bytes:
    def part(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", b"") + part(b"IEND", b"")


def missing_folder(root: Path) -> Path:
    return root


def text_file(root: Path) -> Path:
    root.parent.mkdir(exist_ok=True)
    root.write_text("not a folder")
    return root


def empty_folder(root: Path) -> Path:
    root.mkdir()
    return root


def only_loose_images(root: Path) -> Path:
    root.mkdir()
    picture(0).save(root / "a.png")
    return root


def single_class(root: Path) -> Path:
    shutil.rmtree(good(root) / "class1")
    return root


def wrapped(root: Path) -> Path:
    good(root / "single_label_data")
    return root


def split_folders(root: Path) -> Path:
    good(root / "train")
    good(root / "test")
    return root


def empty_class(root: Path) -> Path:
    (good(root) / "nothing here").mkdir()
    return root


def class_of_hidden_files(root: Path) -> Path:
    (good(root) / "hidden").mkdir()
    picture(99).save(root / "hidden" / ".a.png")
    return root


def class_that_links_to_itself(root: Path) -> Path:
    (good(root) / "loop").mkdir()
    (root / "loop" / "again").symlink_to(root / "loop")
    return root


def two_spellings(root: Path) -> Path:
    good(root)
    for number, name in enumerate(("caf\u00e9", "cafe\u0301")):
        (root / name).mkdir()
        picture(50 + number).save(root / name / "a.png")
    return root


def outer_blank(root: Path) -> Path:
    (good(root) / "class1 ").mkdir()
    picture(60).save(root / "class1 " / "a.png")
    return root


def control_characters(root: Path) -> Path:
    (good(root) / "two\nlines").mkdir()
    picture(61).save(root / "two\nlines" / "a.png")
    return root


def blank_name(root: Path) -> Path:
    (good(root) / " ").mkdir()
    picture(62).save(root / " " / "a.png")
    return root


def name_in_latin1(root: Path) -> Path:
    folder = os.fsencode(good(root) / "class0")
    shutil.copy(root / "class0" / "0.png", folder + b"/caf\xe9.png")
    return root


def carriage_return(root: Path) -> Path:
    picture(63).save(good(root) / "class0" / "a\rb.png")
    return root


def contradiction(root: Path) -> Path:
    shutil.copy(good(root) / "class0" / "1.png", root / "class1" / "copy.png")
    return root


def contradiction_saved_again(root: Path) -> Path:
    Image.open(good(root) / "class0" / "1.png").save(root / "class1" / "copy.bmp")
    return root


def broken_link(root: Path) -> Path:
    (good(root) / "class0" / "gone.png").symlink_to(root / "elsewhere.png")
    return root


def pipe(root: Path) -> Path:
    os.mkfifo(good(root) / "class0" / "pipe.png")
    return root


def all_unreadable(root: Path) -> Path:
    good(root)
    for file in (root / "class1").iterdir():
        file.write_bytes(b"")
    return root


def table(text: str, encoding: str = "utf-8") -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        (good(root) / "labels.csv").write_bytes(text.encode(encoding))
        return root / "labels.csv"

    return build


def table_of_nothing(root: Path) -> Path:
    return root / "labels.csv"


ROWS = "class0/0.png,a\nclass0/1.png,a\nclass1/0.png,b\n"

BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing folder": (missing_folder, "data: no such data folder"),
    "a text file": (text_file, "neither a folder nor a .csv file"),
    "empty folder": (empty_folder, "no class folder"),
    "loose images only": (only_loose_images, "the 1 images directly in it have no label"),
    "one class": (single_class, "only one class folder, 'class0'"),
    "one folder too high": (wrapped, "data/single_label_data as --data-dir"),
    "train and test": (split_folders, "contains splits (test, train)"),
    "empty class": (empty_class, "class 'nothing here' is empty"),
    "class of hidden files": (class_of_hidden_files, "class 'hidden' is empty"),
    "class that links to itself": (class_that_links_to_itself, "class 'loop' is empty"),
    "two Unicode spellings": (two_spellings, "2 spellings of one class 'café'"),
    "outer blank": (outer_blank, "2 spellings of one class 'class1'"),
    "control characters": (control_characters, "two\\nlines"),
    "blank name": (blank_name, "the label is empty"),
    "name in Latin-1": (name_in_latin1, "caf\\udce9.png: the name is not valid UTF-8"),
    "carriage return": (carriage_return, "a\\rb.png: the name"),
    "contradiction": (contradiction, "class0/1.png, class1/copy.png"),
    "contradiction, saved again": (contradiction_saved_again, "class0/1.png, class1/copy.bmp"),
    "broken link": (broken_link, "class0/gone.png: is a broken link"),
    "named pipe": (pipe, "class0/pipe.png: is not a regular file"),
    "all of a class unreadable": (all_unreadable, "class1/2.png: the file is empty"),
    "empty file": (broken_file(b""), "class1/bad.jpg: the file is empty"),
    "cut JPEG": (broken_file(cut("JPEG", 0.5)), "class1/bad.jpg: damaged or truncated"),
    "bomb": (broken_file(bomb(), "bad.png"), "class1/bad.png: has more than"),
    "CSV missing": (table_of_nothing, "labels.csv: no such"),
    "CSV empty": (table(""), "labels.csv:1: column `path` is missing"),
    "CSV without header": (table(ROWS), "labels.csv:1: column `path` is missing"),
    "CSV without label": (table("path\nclass0/0.png\n"), "column `label` is missing"),
    "CSV header misspelt": (table("path,lable\n" + ROWS), "did you mean `label`?"),
    "CSV group misspelt": (table("path,label,groups\nclass0/0.png,a,1\n"), "mean `group`?"),
    "CSV column twice": (table("path,label,label\n"), "column `label` occurs 2 times"),
    "CSV one class": (table("path,label\nclass0/0.png,a\n"), "only one class, 'a'"),
    "CSV missing file": (table(f"path,label\n{ROWS}class0/9.png,a\n"), "labels.csv:5: no file"),
    "CSV climbs out": (table(f"path,label\n{ROWS}../x.png,a\n"), "../x.png is outside"),
    "CSV row twice": (
        table(f"path,label\n{ROWS}./class0/0.png,b\n"),
        "labels.csv:5: ./class0/0.png",
    ),
    "CSV empty label": (table(f"path,label\n{ROWS}class1/1.png,\n"), "labels.csv:5: the label is"),
    "CSV empty path": (table(f"path,label\n{ROWS},a\n"), "labels.csv:5: the path is empty"),
    "CSV empty group": (table("path,label,group\nclass0/0.png,a,\n"), "labels.csv:2: the group is"),
    "CSV short row": (table(f"path,label\n{ROWS}class1/1.png\n"), "labels.csv:5: has 1 values"),
    "CSV open quote": (
        table(f'path,label\n{ROWS}"class1/1.png,b\n'),
        "labels.csv:5: is not valid CSV",
    ),
    "CSV in UTF-16": (table(f"path,label\n{ROWS}", "utf-16"), "labels.csv: is not UTF-8"),
    "CSV backslashes": (table("path,label\nclass0\\0.png,a\n"), "write / between folders"),
    "CSV text file": (table(f"path,label\n{ROWS}labels.csv,a\n"), "labels.csv is not one of"),
    "CSV control": (table(f"path,label\n{ROWS}a\x07.png,a\n"), "labels.csv:5: the path"),
}


def tree(root: Path) -> set[Path]:
    return set(root.rglob("*"))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_set_ends_in_a_sentence_that_names_the_place(name: str, tmp_path: Path) -> None:
    build, place = BROKEN[name]
    data_dir = build(tmp_path / "data")
    before = tree(tmp_path)
    with pytest.raises(DataError) as caught:
        scan(data_dir)
    message = str(caught.value)
    assert place in message
    assert "Traceback" not in message
    assert "Errno" not in message
    assert all(len(line) < 400 for line in message.splitlines())
    message.encode("utf-8")
    assert tree(tmp_path) == before


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    root = good(tmp_path / "data")
    (root / "empty").mkdir()
    (root / "class0" / "bad.png").write_bytes(b"x")
    shutil.copy(root / "class0" / "1.png", root / "class1" / "copy.png")
    for number in range(30):
        (root / "class1" / f"zero{number:02}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        scan(root)
    message = str(caught.value)
    assert message.startswith("33 problems in ")
    assert "class 'empty' is empty" in message
    assert message.endswith("  … and 13 more")
    assert len(caught.value.problems) == 33
    assert any("copy.png" in problem for problem in caught.value.problems)
