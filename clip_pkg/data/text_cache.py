"""Features of class texts that no fold computes again: one small file of the cache folder each.

`texts-<digest>.safetensors` holds `features` [M, F], float32, with a CRC-32 of them. The digest is
of everything that the features follow from, so that whoever asks for the same finds them: all folds
of a run, its configs with the same text encoder and texts, and later runs.

The folder is a convenience. Where it cannot be used, features are computed, and they are the same.
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

from clip_pkg.base.errors import DataError
from clip_pkg.base.files import write_bytes
from clip_pkg.data.cache import (
    NoRoom,
    Notify,
    builder_lock,
    remove_unfinished,
    room_for,
    sole_changer,
)
from clip_pkg.models.text_encoder import FrozenText
from clip_pkg.study.identity import NUMERICS_VERSION, digest

# Longer than a file server keeps the locks of a machine that is gone. Whoever has waited so long
# computes for itself.
SECONDS_TO_WAIT = 300.0


class DamagedFeatures(DataError):
    """A file of text features does not hold what was written."""


@dataclass(frozen=True)
class TextCache:
    """Text features in a folder.

    limit: bytes that all files of the folder may take. say: told where features came from, and why
    some are not kept.
    """

    folder: Path
    limit: int | None
    say: Notify

    def features(self, text: FrozenText) -> Tensor:
        """Look the features [M, F] of a text encoder up, or compute and keep them.

        Of several processes that ask at the same time one computes, the others wait for it.
        Raises WeightsError, CheckpointError and UserError as `FrozenText.features` does.
        """
        path = self.folder / f"texts-{_digest(text)[:24]}.safetensors"
        what = f"the features of {len(text.prompts)} texts by {text.spec.written}"
        # Most folds find them, and need no lock that another one may hold.
        with suppress(OSError, DamagedFeatures):
            return self._found(path, text, what)
        with self._locked(path) as unlocked:
            try:
                return self._found(path, text, what)
            except FileNotFoundError:
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
        with suppress(OSError):  # a folder that may only be read keeps its times
            os.utime(path)
        self.say(f"Found {what} in {path.name}")
        return features

    @contextmanager
    def _locked(self, path: Path) -> Iterator[str]:
        """Hold the lock of whoever makes the file; gives the reason where that is not to be had."""
        lock = builder_lock(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=SECONDS_TO_WAIT)
            reason = ""
        except Timeout:
            reason = f"another process has been making {path.name} for {SECONDS_TO_WAIT:.0f} s"
        except (OSError, NotImplementedError) as error:  # a folder or a file system without locks
            reason = str(error)
        try:
            yield reason
        finally:
            lock.release()

    def _kept(self, path: Path, features: Tensor) -> str:
        """Write the file; gives the reason where that is not possible."""
        content = safetensors.torch.save(
            {"features": features}, metadata={"crc32": str(_checksum(features))}
        )
        try:
            with sole_changer(self.folder):
                remove_unfinished(path)
                path.unlink(missing_ok=True)  # a damaged one takes no room
                room_for(path, len(content), limit=self.limit, kept=(), say=self.say)
                write_bytes(path, content)
        except (OSError, NotImplementedError, NoRoom) as error:
            return str(error)
        return ""


def read_features(path: Path, *, rows: int) -> Tensor:
    """Read the features [M = rows, F] of a file, checked to the last byte.

    Raises FileNotFoundError, other OSErrors, and DamagedFeatures.
    """
    try:
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get("crc32")
            features: Tensor = file.get_tensor("features")
    except SafetensorError as error:
        raise DamagedFeatures(f"{path} is damaged: {error}") from None
    whole = features.dtype == torch.float32 and features.ndim == 2 and len(features) == rows
    if not whole or str(_checksum(features)) != checksum:
        raise DamagedFeatures(f"{path} is damaged: it does not hold what was written")
    return features


def _checksum(features: Tensor) -> int:
    return zlib.crc32(features.contiguous().numpy().tobytes())


def _digest(text: FrozenText) -> str:
    return digest({**text.made_from(), "numerics": NUMERICS_VERSION})
