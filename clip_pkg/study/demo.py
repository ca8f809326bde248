"""Writes a long-tailed image folder of digits: `python -m clip_pkg.study.demo FOLDER`.

The images are the test split of the UCI set "Optical Recognition of Handwritten Digits" (E.
Alpaydin and C. Kaynak, 1998) as scikit-learn ships it, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from clip_pkg.base.errors import DataError
from clip_pkg.base.exit_codes import ExitCode, exit_code

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MAX_IMAGES = 170  # of the first class; scikit-learn has 174 or more of each digit
MIN_IMAGES = 20  # of the last class
SIZE = 32  # pixels; the originals have 8
MAX_LEVEL = 16  # grey levels of the originals run from 0 to 16


def class_counts() -> dict[str, int]:
    """Images per class, decreasing geometrically from the first class to the last."""
    step = (MIN_IMAGES / MAX_IMAGES) ** (1 / (len(DIGIT_NAMES) - 1))
    return {name: round(MAX_IMAGES * step**digit) for digit, name in enumerate(DIGIT_NAMES)}


def digit_image(levels: NDArray[np.float64]) -> Image.Image:
    """One digit, `levels` [8, 8] in 0..16, as a grey image of 32 × 32 pixels."""
    grey = np.round(levels * (255 / MAX_LEVEL)).astype(np.uint8)
    return Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def write_digits(folder: Path) -> int:
    """Write `folder/<class>/digit_<number>.png`; returns the number of images.

    The number in the name is the position in scikit-learn's set. The files are the same every time.
    """
    digits = load_digits()
    written = 0
    for digit, (name, count) in enumerate(class_counts().items()):
        class_folder = folder / name
        class_folder.mkdir()
        for position in np.flatnonzero(digits.target == digit)[:count]:
            path = class_folder / f"digit_{position:04d}.png"
            digit_image(digits.images[position]).save(path)
            written += 1
    return written


def make_demo(folder: Path) -> int:
    """Write the demo data to `folder`, completely or not at all; returns the number of images.

    Raises DataError if `folder` exists or cannot be made.
    """
    if folder.exists() or folder.is_symlink():
        raise DataError(f"{folder} already exists; choose a new folder for the demo data")
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        written = write_digits(temporary)
        temporary.chmod(0o755)  # mkdtemp's folders are private
        temporary.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write the demo data to {folder}: {error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Write the folder given on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m clip_pkg.study.demo",
        description="Make a long-tailed image folder of scikit-learn's handwritten digits.",
    )
    parser.add_argument("folder", type=Path, help="where to make it; must not exist yet")
    folder: Path = parser.parse_args(arguments).folder

    def run() -> int:
        written = make_demo(folder)
        counts = class_counts()
        print(
            f"Made {folder}: {written} images of {len(counts)} digits, "
            f"from {max(counts.values())} of '{DIGIT_NAMES[0]}' to {min(counts.values())} of "
            f"'{DIGIT_NAMES[-1]}'.",
            flush=True,
        )
        return ExitCode.DONE

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
