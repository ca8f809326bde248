"""Checkpoints, saved atomically and loaded without running code.

`checkpoint_best.pth` contains what inference needs: weights, classes, class features, config. While
a fold trains, `checkpoint_latest.pth` also contains the optimiser and the training state. Both hold
only tensors, numbers and strings, which `torch.load(weights_only=True)` reads.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from clip_pkg.base.errors import CheckpointError
from clip_pkg.base.files import write_with
from clip_pkg.base.reading import check_archive, open_regular

FORMAT_VERSION = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically. Raises OSError, on a full disk for example."""
    try:
        write_with(
            path, lambda stream: torch.save({"format_version": FORMAT_VERSION, **content}, stream)
        )
    except RuntimeError as error:
        # torch's zip writer hides errors of the stream, such as a full disk, behind its own.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise OSError(f"{path} could not be written: {error}") from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint. Raises CheckpointError if it is missing, damaged, unsafe or foreign."""
    try:
        with warnings.catch_warnings():  # about foreign pickles, which are rejected anyway
            warnings.simplefilter("ignore")
            with open_regular(path) as stream:
                content = torch.load(stream, map_location=device, weights_only=True)
        check_archive(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} was rejected: it is not a checkpoint of this program, or it contains more "
            "than tensors and plain values and could run code when loaded"
        ) from None
    except Exception as error:  # a damaged file can raise anything inside torch's reader
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {reason}") from None
    if not isinstance(content, dict) or "format_version" not in content:
        raise CheckpointError(
            f"{path} is not a checkpoint of this program: format_version is missing"
        )
    if content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {content['format_version']}, this program reads "
            f"{FORMAT_VERSION}; load it with the version that wrote it"
        )
    return content
