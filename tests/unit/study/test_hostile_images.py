"""Image files of every broken kind: decoded, or named with a reason."""

from __future__ import annotations

import io
import os
import random
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_pkg.base.errors import DataError
from clip_pkg.study.decoding import UnreadableImage, decode_image
from clip_pkg.study.scan import scan

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


def picture(seed: int, mode: str = "RGB", side: int = 24) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 × 60,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def hostile_files() -> dict[str, bytes]:
    chance, found = random.Random(3), {}
    for kind, suffix in FORMATS.items():
        whole = encoded(picture(1), kind)
        for share in (
            0,
            1,
            4,
            12,
            len(whole) // 4,
            len(whole) // 2,
            len(whole) - 9,
            len(whole) - 1,
        ):
            found[f"{kind}_cut_{share}{suffix}"] = whole[:share]
        for number in range(10):
            changed = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                changed[chance.randrange(min(64, len(changed)))] ^= 1 << chance.randrange(8)
            found[f"{kind}_flipped_{number}{suffix}"] = bytes(changed)
        found[f"{kind}_zeros{suffix}"] = bytes(len(whole))
        found[f"{kind}_text{suffix}"] = b"<html>not found</html>"
        found[f"{kind}_of_another{suffix}"] = encoded(picture(2), "GIF")
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16", "CMYK"):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        found[f"mode_{mode.replace(';', '_')}{FORMATS[kind]}"] = encoded(picture(3, mode), kind)
    frames = [picture(seed) for seed in (4, 5)]
    animated = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    return {**found, "bomb.png": bomb(), "animated.png": animated}


def test_each_file_is_decoded_or_named(tmp_path: Path) -> None:
    files = hostile_files()
    assert len(files) >= 100
    failures = []
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        started = time.monotonic()
        try:
            pixels = np.asarray(decode_image(path))
            if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
                failures.append(f"{name}: {pixels.shape} {pixels.dtype}")
        except UnreadableImage as error:
            if name not in str(error):
                failures.append(f"{name}: not named: {error}")
        except Exception as error:  # what this test is about
            failures.append(f"{name}: {error!r:.200}")
        if time.monotonic() - started > 5:
            failures.append(f"{name}: slow")
    assert failures == []


@pytest.mark.parametrize(
    "name",
    ["line\nbreak.png", "\x1b[2Jescape.png", "[red]markup.png", "= 1+1.png", "x" * 240 + ".png"],
)
def test_odd_names_are_images_or_said_on_one_line(tmp_path: Path, name: str) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            path = tmp_path / "data" / label / f"{number}.png"
            path.write_bytes(encoded(picture(number + 10 * (label == "a")), "PNG"))
    (tmp_path / "data/a" / name).write_bytes(encoded(picture(99), "PNG"))
    said = ""
    try:
        assert len(scan(tmp_path / "data").manifest) == 5
    except DataError as error:
        said = str(error)
    assert "\x1b" not in said
    assert "line\nbreak" not in said


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "1.png").write_bytes(encoded(picture(ord(label)), "PNG"))
    folder = tmp_path / "data/a"
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "fifo.png")
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        scan(tmp_path / "data")
    assert time.monotonic() - started < 10
    for name in ("loop.png", "broken.png"):
        assert name in str(caught.value)
