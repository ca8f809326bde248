from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_pkg.base.errors import UserError
from clip_pkg.study.decoding import UnreadableImage, decode, decode_image

HERE = Path("image")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    return decode(content, HERE).pixels


def tiff(levels: np.ndarray, *, order: str = "<", photometric: int = 1, bits: int = 16) -> bytes:
    """A TIFF file of one strip, written from the format's description, without Pillow."""
    height, width = levels.shape
    if bits == 12:
        pairs = levels.reshape(-1, 2)
        packed = [
            bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs.astype(int).tolist()
        ]
        data, kind = b"".join(packed), 1
    else:
        data = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
        kind = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
        bits = levels.dtype.itemsize * 8
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
        (339, 3, kind),
    ]
    directory = struct.pack(order + "H", len(tags))
    for tag, type_, value in tags:
        packed = struct.pack(order + ("H2x" if type_ == 3 else "I"), value)
        directory += struct.pack(order + "HHI", tag, type_, 1) + packed
    directory += struct.pack(order + "I", 0)
    data += b"\0" * (len(data) % 2)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8 + len(data)) + data + directory


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


RAMP = np.linspace(0, 65535, 512).astype(np.uint16)[None, :].repeat(4, axis=0)


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.fromarray(RAMP), "PNG"),
        saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        saved(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
        tiff(RAMP),
        tiff(RAMP, order=">"),
        tiff(RAMP.astype(np.int32)),
    ],
    ids=["png", "tiff int32", "tiff lzw", "tiff little", "tiff big", "tiff int32 by hand"],
)
def test_16_bit_ramp_keeps_its_levels(content: bytes) -> None:
    pixels = pixels_of(content)
    assert len(np.unique(pixels)) >= 250
    expected = np.rint(RAMP / 65535 * 255)
    assert np.array_equal(pixels, np.stack([expected] * 3, axis=2))


def test_16_bit_is_scaled_by_bit_depth_not_by_its_own_range() -> None:
    dark = np.full((4, 4), 1000, dtype=np.uint16)
    assert (pixels_of(tiff(dark)) == round(1000 / 65535 * 255)).all()
    assert decode(tiff(dark), HERE).peak == pytest.approx(1000 / 65535)


def test_12_bit_tiff_has_4095_as_white() -> None:
    levels = np.array([[0, 1000], [2048, 4095]], dtype=np.uint16)
    pixels = pixels_of(tiff(levels, bits=12))[..., 0]
    assert np.array_equal(pixels, np.rint(levels / 4095 * 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_that_counts_from_white_is_inverted(dtype: type) -> None:
    levels = np.array([[0, 1], [2, 3]]) / 3 * (1 if dtype is np.float32 else np.iinfo(dtype).max)
    plain = pixels_of(tiff(levels.astype(dtype), photometric=1))
    inverted = pixels_of(tiff(levels.astype(dtype), photometric=0))
    assert np.array_equal(inverted, 255 - plain)
    assert plain[0, 0, 0] == 0
    assert plain[1, 1, 0] == 255


def test_float_tiff_needs_levels_from_0_to_1() -> None:
    levels = np.array([[0, 0.5], [0.25, 1]], dtype=np.float32)
    assert np.array_equal(pixels_of(tiff(levels))[..., 0], np.rint(levels * 255))
    for wrong in (levels * 255, levels - 0.1, np.full((2, 2), np.nan, dtype=np.float32)):
        with pytest.raises(UnreadableImage, match="floating-point levels"):
            pixels_of(tiff(wrong))


def test_integers_of_unknown_range_are_refused() -> None:
    for wrong in (np.array([[70_000, 0]], np.int32), np.array([[-5, 5]], np.int16)):
        with pytest.raises(UnreadableImage, match="meaning is unknown"):
            pixels_of(tiff(wrong))


# Stored pixels for each EXIF orientation: where the standard says row 0 and column 0 are.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: upright[::-1, ::-1],
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize(
    ("kind", "orientation"), [*(("JPEG", o) for o in STORED), ("PNG", 6), ("WEBP", 6), ("TIFF", 6)]
)
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :16] = 250
    upright[8:, 16:] = 120
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(kind, {})
    pixels = pixels_of(saved(stored, kind, exif=exif, **options))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= (6 if kind == "JPEG" else 0)


def test_16_bit_tiff_is_rotated_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.rot90(RAMP, 1).copy())
    assert np.array_equal(pixels_of(saved(stored, "TIFF", exif=exif)), pixels_of(tiff(RAMP)))


def test_a_block_that_is_no_exif_does_not_make_an_image_unreadable(
    noise: Callable[[int], Image.Image],
) -> None:
    content = saved(noise(1), "PNG", exif=b"Exif\0\0garbage")
    assert np.array_equal(pixels_of(content), np.asarray(noise(1)))


HELD = {
    "PNG": "1 L LA P RGB RGBA",
    "TIFF": "1 L LA P PA RGB RGBA CMYK YCbCr",
    "BMP": "1 L P RGB RGBA",
    "JPEG": "1 L RGB CMYK YCbCr",
    "WEBP": "L RGB RGBA",
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in HELD.items() for mode in modes.split()]
)
def test_every_mode_becomes_rgb(kind: str, mode: str, noise: Callable[..., Image.Image]) -> None:
    image = noise(3, (24, 16)).convert(mode)
    content = saved(image, kind)
    pixels = pixels_of(content)
    assert pixels.shape == (16, 24, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    if kind in {"PNG", "TIFF", "BMP"}:
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_transparency_lies_over_black() -> None:
    colour = np.full((2, 3, 4), 200, dtype=np.uint8)
    colour[0, :, 3] = (0, 128, 255)
    pixels = pixels_of(saved(Image.fromarray(colour), "PNG"))
    assert pixels[0, :, 0].tolist() == [0, 100, 200]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 210, 220])
    palette.putdata([0, 1])
    assert pixels_of(saved(palette, "PNG", transparency=1)).tolist() == [[[10, 20, 30], [0, 0, 0]]]
    grey = Image.fromarray(np.array([[7, 9]], np.uint8))
    assert pixels_of(saved(grey, "PNG", transparency=9))[0, :, 0].tolist() == [7, 0]


def test_image_without_a_visible_pixel_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="completely transparent"):
        pixels_of(saved(Image.new("RGBA", (3, 3), (9, 9, 9, 0)), "PNG"))


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG", "MPO"])
def test_first_of_several_frames(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    decoded = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]), HERE)
    assert decoded.frames == 2
    assert decoded.pixels[8, 8, 0] > 190
    assert decoded.pixels[8, 8, 2] < 10


@pytest.mark.parametrize("size", [(9_500, 9_500), (100_000, 100_000)])
def test_decompression_bombs_are_refused(size: tuple[int, int]) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(UnreadableImage, match="decompression bomb"):
                decode(png_claiming(*size), HERE)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_bombs_are_refused_where_the_host_program_allows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadableImage, match="9500 × 9500"):
        decode(png_claiming(9_500, 9_500), HERE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"these are words", "not an image"),
        (saved(Image.new("RGB", (64, 64)), "GIF"), "not an image"),
        (saved(Image.effect_noise((64, 64), 50), "JPEG")[:-300], "damaged or truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        decode_image(file)
    assert str(file) in str(caught.value)
    assert isinstance(caught.value, UserError)


def test_what_is_no_file_is_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (
        ("pipe.png", "not a regular file"),
        ("folder.png", "not a regular file"),
        ("link.png", "broken link"),
        ("none.png", "does not exist"),
    ):
        with pytest.raises(UnreadableImage, match=reason):
            decode_image(tmp_path / name)


def test_file_beyond_the_size_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate(2 << 30)
    with pytest.raises(UnreadableImage, match="limit"):
        decode_image(tmp_path / "huge.png")


def test_unreadable_image_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png", "is bad")))
    assert (error.path, error.reason, str(error)) == (Path("a.png"), "is bad", "a.png: is bad")


def test_suffix_does_not_decide(tmp_path: Path, noise: Callable[[int], Image.Image]) -> None:
    noise(5).save(tmp_path / "png.JPG", "PNG")
    assert np.array_equal(decode_image(tmp_path / "png.JPG"), np.asarray(noise(5)))


KINDS = {"JPEG": "RGB", "PNG": "RGBA", "TIFF": "L", "WEBP": "RGB", "BMP": "P"}
VALID = [
    *(saved(Image.effect_noise((20, 20), 50).convert(mode), kind) for kind, mode in KINDS.items()),
    saved(Image.fromarray(RAMP), "PNG"),
    tiff(RAMP),
]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_pixels_or_a_reason(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = pixels_of(bytes(content))
        except UnreadableImage:
            return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.dtype == np.uint8
