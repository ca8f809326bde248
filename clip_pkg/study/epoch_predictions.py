"""`predictions_epochs.npz`: predicted probabilities of a fold's validation images after each epoch.

They allow the choice of the epoch to be repeated on other images than those that score it. Epochs
are appended to an uncompressed file during training and compressed at its end.
"""

from __future__ import annotations

import os
import zipfile

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import RunFolderError, shown
from clip_pkg.base.files import write_with
from clip_pkg.base.paths import FoldPaths

# Epochs × images × classes; more are not kept. 4 bytes each, so 200 MB before compression.
MAX_VALUES = 50_000_000


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

    Raises RunFolderError if the file is damaged.
    """
    path = paths.epoch_predictions
    try:
        with np.load(path) as content:
            table: NDArray[np.float32] = content["probabilities"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{shown(path)} is damaged: {error}; copy it again") from None
    return table
