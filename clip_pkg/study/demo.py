"""A long-tailed folder of handwritten digits: `python -m clip_pkg.study.demo FOLDER`.

The images are the test part of the UCI "Optical Recognition of Handwritten Digits" set (E. Alpaydin
and C. Kaynak, 1998) as scikit-learn ships it, so nothing is downloaded.
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
MOST_IMAGES = 170  # of the first class; scikit-learn has 174 or more of each digit
FEWEST_IMAGES = 20  # of the last class
SIDE = 32  # pixels; the originals have 8
BRIGHTEST = 16  # grey levels of the originals run from 0 to 16


def class_counts() -> dict[str, int]:
    """How many images each class gets: falling geometrically from the first class to the last."""
    step = (FEWEST_IMAGES / MOST_IMAGES) ** (1 / (len(DIGIT_NAMES) - 1))
    return {name: round(MOST_IMAGES * step**digit) for digit, name in enumerate(DIGIT_NAMES)}


def digit_image(levels: NDArray[np.float64]) -> Image.Image:
    """Draw one digit, `levels` [8, 8] in 0..16, as a grey image of 32 × 32 pixels."""
    grey = np.round(levels * (255 / BRIGHTEST)).astype(np.uint8)
    return Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def write_digits(folder: Path) -> int:
    """Write the images as `folder/<class>/digit_<number>.png`; returns how many there are.

    The number is the image's position in scikit-learn's set. The same files come out every time.
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
    """Make the demo data at `folder`, whole or not at all; returns the number of images.

    Raises DataError if `folder` exists or cannot be made.
    """
    if folder.exists() or folder.is_symlink():
        raise DataError(f"{folder} exists already; the demo data goes into a new folder")
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        written = write_digits(temporary)
        temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
        temporary.rename(folder)
    except OSError as error:
        raise DataError(f"cannot make the demo data at {folder}: {error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Make the folder named on the command line; returns the exit code."""
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
