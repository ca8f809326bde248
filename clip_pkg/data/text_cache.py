"""Cached features of class texts: computed once for all folds, configs and runs.

`texts-<digest>.safetensors` in the cache folder holds `features` [M, F], float32, with their
CRC-32. The digest covers everything that determines the features. If the folder cannot be used,
each fold computes them; the result is the same.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from filelock import Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clip_pkg.base.errors import DataError, UserError
from clip_pkg.base.files import write_bytes
from clip_pkg.base.reading import open_regular
from clip_pkg.data.cache import (
    NoRoom,
    Notify,
    builder_lock,
    make_room,
    remove_unfinished,
    sole_changer,
)
from clip_pkg.models.text_encoder import FrozenText
from clip_pkg.study.identity import NUMERICS_VERSION, digest

# Longer than a file server keeps the locks of a lost machine; then the fold computes them itself.
MAX_SECONDS_TO_WAIT = 300.0


class DamagedFeatures(DataError):
    """A file of text features is damaged."""


@dataclass(frozen=True)
class TextCache:
    """Text features in a folder.

    limit: maximum bytes of all files of the folder. say: receives messages about the origin of
    features and about features that were not saved.
    """

    folder: Path
    limit: int | None
    say: Notify

    def features(self, text: FrozenText) -> Tensor:
        """Load the features [M, F] of a text encoder, or compute and save them.

        One process computes, others that need the same features wait for it.
        Raises WeightsError, CheckpointError and UserError as `FrozenText.features` does.
        """
        key = digest({**text.made_from(), "numerics": NUMERICS_VERSION})
        path = self.folder / f"texts-{key[:24]}.safetensors"
        what = f"the features of {len(text.prompts)} texts by {text.spec.written}"
        # Most folds find the file, and need no lock.
        with suppress(OSError, DamagedFeatures):
            return self._found(path, text, what)
        with self._locked(path) as unlocked:
            try:
                return self._found(path, text, what)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except (OSError, DamagedFeatures) as problem:
                self.say(f"NOTE: {problem}; the texts are encoded again")
            features = text.features()
            unkept = unlocked or self._kept(path, features)
        if unkept:
            self.say(f"NOTE: {what} were computed for this fold only: {unkept}")
        else:
            self.say(f"Computed {what}, kept as {path.name}")
        return features

    def _found(self, path: Path, text: FrozenText, what: str) -> Tensor:
        features = read_features(path, rows=len(text.prompts))
        with suppress(OSError):  # read-only folders keep their times
            os.utime(path)
        self.say(f"Found {what} in {path.name}")
        return features

    @contextmanager
    def _locked(self, path: Path) -> Iterator[str]:
        """Lock the file for writing; yields the reason if that fails, else an empty string."""
        lock = builder_lock(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=MAX_SECONDS_TO_WAIT)
            reason = ""
        except Timeout:
            reason = (
                f"another process has been computing {path.name} for {MAX_SECONDS_TO_WAIT:.0f} s"
            )
        except (
            OSError,
            NotImplementedError,
        ) as error:  # no such folder, or a file system without locks
            reason = str(error)
        try:
            yield reason
        finally:
            lock.release()

    def _kept(self, path: Path, features: Tensor) -> str:
        """Write the file; returns the reason if that is impossible, else an empty string."""
        content = safetensors.torch.save(
            {"features": features}, metadata={"crc32": str(_checksum(features))}
        )
        try:
            with sole_changer(self.folder):
                remove_unfinished(path)
                path.unlink(missing_ok=True)  # a damaged file must not count
                make_room(self.folder, len(content), limit=self.limit, kept=(path,), say=self.say)
                write_bytes(path, content)
        except (OSError, NotImplementedError, NoRoom) as error:
            return str(error)
        return ""


def read_features(path: Path, *, rows: int) -> Tensor:
    """Read the features [M = rows, F] of a file and check them to the last byte.

    Raises OSError and DamagedFeatures.
    """
    try:
        # safetensors would wait at a FIFO.
        with open_regular(path), safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get("crc32")
            features: Tensor = file.get_tensor("features")
    except (SafetensorError, UserError) as error:
        raise DamagedFeatures(f"{path} is damaged: {error}") from None
    whole = features.dtype == torch.float32 and features.ndim == 2 and len(features) == rows
    if not whole or str(_checksum(features)) != checksum:
        raise DamagedFeatures(f"{path} is damaged: its checksum or shape is wrong")
    return features


def _checksum(features: Tensor) -> int:
    return zlib.crc32(features.contiguous().numpy().tobytes())
