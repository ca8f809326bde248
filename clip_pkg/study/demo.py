"""Writes a long-tailed image folder of digits: `python -m clip_pkg.study.demo FOLDER`.

The images are the test split of the UCI set "Optical Recognition of Handwritten Digits" (E.
Alpaydin and C. Kaynak, 1998) as scikit-learn ships it, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from clip_pkg.base.errors import UserError
from clip_pkg.base.exit_codes import ExitCode, exit_code
from clip_pkg.base.files import new_folder

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MAX_IMAGES = 170  # of the first class; scikit-learn has 174 or more of each digit
MIN_IMAGES = 20  # of the last class
SIZE = 32  # pixels; the originals have 8
MAX_LEVEL = 16  # grey levels of the originals run from 0 to 16


def class_counts() -> dict[str, int]:
    """Images per class, decreasing geometrically from the first class to the last."""
    step = (MIN_IMAGES / MAX_IMAGES) ** (1 / (len(DIGIT_NAMES) - 1))
    return {name: round(MAX_IMAGES * step**digit) for digit, name in enumerate(DIGIT_NAMES)}


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
            grey = np.round(digits.images[position] * (255 / MAX_LEVEL)).astype(np.uint8)
            Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)
            written += 1
    return written


def make_demo(folder: Path) -> int:
    """Write the demo data to `folder`, completely or not at all; returns the number of images.

    Raises UserError if `folder` exists or cannot be made.
    """
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} already exists; choose a new folder for the demo data")
    with new_folder(folder) as temporary:
        return write_digits(temporary)


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
