"""Decodes image files to upright 8-bit RGB, or explains why a file cannot be decoded."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from clip_pkg.base.errors import DataError, shown

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
# Otherwise, Pillow tries every format that it knows, including some that start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
# Pillow's limit for a warning, here an error whatever the host program has set in Pillow.
MAX_PIXELS = 89_478_485
MAX_FILE_BYTES = 1 << 30
INTEGER_GREY = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
WHITE_IS_ZERO = 0
MAX_LEVEL_16_BIT = 65535


class UnreadableImage(DataError):
    """A file that should be an image cannot be decoded."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path, self.reason = Path(path), reason
        super().__init__(f"{shown(path)}: {reason}")

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[Path, str]]:
        return (type(self), (self.path, self.reason))


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Pixels and metadata of an image file.

    Args:
        pixels: uint8 [H, W, 3], RGB, upright.
        format: Pillow's name of the file format, such as `PNG`.
        mode: Pillow's name of the stored pixel type, such as `L` or `I;16`.
        frames: Pages or frames in the file; `pixels` holds the first one.
        peak: Largest stored level as a share of the bit depth's maximum; None for 8-bit images.
    """

    pixels: NDArray[np.uint8]
    format: str
    mode: str
    frames: int = 1
    peak: float | None = None


def decode_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 RGB [H, W, 3], levels 0..255, EXIF orientation applied.

    Grey becomes three equal channels. 16-bit grey is scaled by its bit depth (65535 → 255, 12-bit
    TIFF 4095 → 255), not stretched to its own minimum and maximum, so that images stay
    comparable. Transparent pixels become black, the background of an X-ray; white would be the
    brightest level where nothing was measured. Of several pages or frames, the first is used.

    Raises:
        UnreadableImage: The file is missing, empty, truncated, of another format, larger than
            `MAX_PIXELS`, or its levels have no known range (float outside 0..1, wide integers).
    """
    return decode(read_file(path), path).pixels


def read_file(path: Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        UnreadableImage: It is missing, empty, not a regular file, or larger than `MAX_FILE_BYTES`.
    """
    try:
        if not path.is_file():  # a named pipe would block forever
            reason = "is not a regular file" if path.exists() else "does not exist"
            raise UnreadableImage(path, "is a broken link" if path.is_symlink() else reason)
        size = path.stat().st_size
        if size == 0:
            raise UnreadableImage(path, "the file is empty")
        if size > MAX_FILE_BYTES:
            raise UnreadableImage(path, f"the file has {size} bytes; the limit is {MAX_FILE_BYTES}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableImage(path, f"cannot be read: {reason}") from None


def decode(content: bytes, path: Path) -> DecodedImage:
    """Decode the bytes of an image file like `decode_image`; `path` is for messages.

    Raises:
        UnreadableImage: See `decode_image`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _decoded(image, path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(path, _bomb()) from None
    except UnidentifiedImageError:
        reason = f"the content is not an image of a known kind ({', '.join(FORMATS)})"
        raise UnreadableImage(path, reason) from None
    except UnreadableImage:
        raise
    except Exception as error:
        # Damaged bytes make decoders raise OSError, SyntaxError, struct.error, IndexError …, which
        # must not stop the check of other files.
        reason = f"damaged or truncated ({shown(error) or type(error).__name__})"
        raise UnreadableImage(path, reason) from None


def _bomb(size: tuple[int, int] | None = None) -> str:
    dimensions = f" ({size[0]} × {size[1]})" if size else ""
    return (
        f"has more than {MAX_PIXELS} pixels{dimensions}: refused as a decompression bomb; resize it"
    )


def _decoded(image: Image.Image, path: Path) -> DecodedImage:
    if math.prod(image.size) > MAX_PIXELS:
        raise UnreadableImage(path, _bomb(image.size))
    kind, mode, frames = image.format or "", image.mode, getattr(image, "n_frames", 1)
    if frames > 1:
        image.seek(0)
    # TIFF may declare 12 bits, all others have 16; and it may count from white, which Pillow takes
    # into account for 8-bit images only.
    white, inverted = MAX_LEVEL_16_BIT, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        if 8 < bits < 16:
            white = int(2**bits - 1)
        inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO
    image.load()
    upright = image
    with contextlib.suppress(SyntaxError):  # invalid EXIF data
        upright = ImageOps.exif_transpose(image)
    if mode not in INTEGER_GREY | {"F"}:
        return DecodedImage(_rgb(upright, path), kind, mode, frames)
    levels = np.asarray(upright)
    low, high = levels.min(), levels.max()
    peak = None
    if mode == "F":
        if not (low >= 0 and high <= 1):  # written so that NaN fails
            raise UnreadableImage(
                path,
                f"has floating-point levels from {low:g} to {high:g}; only 0 to 1 has a known "
                "meaning; save it as 8-bit or 16-bit grey",
            )
        grey = np.rint(levels * 255).astype(np.uint8)
    else:
        if low < 0 or high > white:
            raise UnreadableImage(
                path,
                f"has levels from {low} to {high}, whose meaning is unknown; save it as 8-bit or "
                "unsigned 16-bit grey",
            )
        grey = ((levels.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
        peak = int(high) / white
    if inverted:
        grey = 255 - grey
    return DecodedImage(np.repeat(grey[:, :, None], 3, axis=2), kind, mode, frames, peak)


def _rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Convert 8-bit modes to RGB, transparency over black."""
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    whole = image.convert("RGBA") if image.mode != "La" else image.convert("LA").convert("RGBA")
    if whole.getchannel("A").getextrema() == (0, 0):
        raise UnreadableImage(path, "is completely transparent")
    black = Image.new("RGBA", whole.size, "black")
    return np.array(Image.alpha_composite(black, whole).convert("RGB"))
