"""`predictions_epochs.npz`: predicted probabilities of a fold's validation images after each epoch.

They allow the choice of the epoch to be repeated on other images than those that score it. Epochs
are appended to an uncompressed file during training and compressed at its end.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DamagedFile, first_line
from clip_pkg.base.files import write_with
from clip_pkg.base.paths import FoldPaths
from clip_pkg.base.reading import open_regular
from clip_pkg.study.fold_files import AGAIN

# Epochs × images × classes; more are not kept. 4 bytes each, so 200 MB before compression.
MAX_VALUES = 50_000_000
MAX_HEADER = 1024  # bytes before them


def append_epoch(paths: FoldPaths, epoch: int, probabilities: NDArray[np.float64]) -> None:
    """Write the probabilities [N, C] of an epoch, from 1, after those of the epochs before it.

    Later epochs, which a killed attempt may have left, are dropped.
    """
    content = probabilities.astype(np.float32).tobytes()
    path = paths.unfinished_epoch_predictions
    with path.open("r+b" if path.exists() else "w+b") as stream:
        start = (epoch - 1) * len(content)
        if stream.seek(0, os.SEEK_END) < start:
            return  # an earlier epoch is missing; `compress_epochs` notices
        stream.seek(start)
        stream.write(content)
        stream.truncate()
        stream.flush()
        os.fsync(stream.fileno())  # before a checkpoint after which they are not made again


def mark_of_epochs(paths: FoldPaths) -> list[int]:
    """[bytes, CRC-32] of the epochs that were written so far."""
    path = paths.unfinished_epoch_predictions
    content = path.read_bytes() if path.exists() else b""
    return [len(content), zlib.crc32(content)]


def check_epochs(paths: FoldPaths, mark: Sequence[int]) -> None:
    """Raise DamagedFile unless the first epochs, compressed or not, are those that were marked."""
    size, checksum = mark
    path = paths.unfinished_epoch_predictions
    if path.exists():
        content = path.read_bytes()[:size]
    else:
        path = paths.epoch_predictions
        table = read_epoch_predictions(paths)
        content = b"" if table is None else table.tobytes()[:size]
    if [len(content), zlib.crc32(content)] != [size, checksum]:
        raise DamagedFile(path, "is damaged (its content has changed)", AGAIN)


def compress_epochs(paths: FoldPaths, epochs: int, images: int, classes: int) -> bool:
    """Compress what `append_epoch` wrote; false if epochs are missing from it."""
    path = paths.unfinished_epoch_predictions
    if not path.exists():
        return paths.epoch_predictions.exists()
    values = np.fromfile(path, dtype=np.float32)
    complete = values.size == epochs * images * classes
    if complete:
        table = values.reshape(epochs, images, classes)
        write_with(
            paths.epoch_predictions,
            lambda stream: np.savez_compressed(stream, probabilities=table),
        )
    path.unlink()
    return complete


def read_epoch_predictions(paths: FoldPaths) -> NDArray[np.float32] | None:
    """Probabilities [E, N, C], images in the order of `predictions.csv`; None if not kept.

    Raises DamagedFile if the file is damaged.
    """
    path = paths.epoch_predictions
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            info = archive.getinfo("probabilities.npy")
            # Read here because numpy allocates whatever the header claims.
            content = io.BytesIO(archive.open(info).read(4 * MAX_VALUES + MAX_HEADER))
        version = np.lib.format.read_magic(content)
        if version != (1, 0):
            raise ValueError(f"format {version}")
        shape, is_transposed, kind = np.lib.format.read_array_header_1_0(content)
        if is_transposed or kind != np.float32 or len(shape) != 3:
            raise ValueError("it is not a table of epochs, images and classes")
        return np.frombuffer(content.read(), dtype=np.float32).reshape(shape)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive can raise anything inside its readers
        raise DamagedFile(path, f"is damaged ({first_line(error)})", AGAIN) from None
