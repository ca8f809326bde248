"""Which images there are, of which class and patient: the one description all folds stand on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, DataErrors, shown

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Manifest:
    """N images in the order of their paths; every array of indices elsewhere counts in this order.

    Args:
        data_dir: Folder that `paths` are relative to. Where it lies has no part in `fingerprint`.
        classes: C names, NFC-normalised and sorted; `labels` index them.
        paths: N posix paths relative to `data_dir`, sorted; absolute only where a CSV file says so.
        labels: [N] int64 in 0..C-1, read-only.
        groups: N names such as patients, whose images must share a fold; None without groups.
        digests: N sha256 digests (hex) of the files' bytes.
    """

    data_dir: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...] | None
    digests: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.paths)
        assert self.labels.shape == (count,), "one label per path"
        assert len(self.digests) == count, "one digest per path"
        assert self.groups is None or len(self.groups) == count, "one group per path"
        assert list(self.paths) == sorted(set(self.paths)), "paths are sorted and unique"
        assert count == 0 or 0 <= self.labels.min() <= self.labels.max() < len(self.classes)
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over path, label, digest and group of every image; moves with the folder."""
        digest = hashlib.sha256()
        for index, path in enumerate(self.paths):
            group = None if self.groups is None else self.groups[index]
            row = [path, self.classes[self.labels[index]], self.digests[index], group]
            digest.update(json.dumps(row).encode("ascii") + b"\n")
        return digest.hexdigest()

    @cached_property
    def class_counts(self) -> NDArray[np.int64]:
        """[C] images per class."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def counts_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """[C] images per class among `indices`."""
        return np.bincount(self.labels[indices], minlength=len(self.classes)).astype(np.int64)

    def file(self, index: int) -> Path:
        """Where image `index` lies."""
        return self.data_dir / self.paths[index]

    def grouped(self, pattern: str | None) -> Manifest:
        """Give every image the group that `pattern` captures in its file name.

        Args:
            pattern: Regular expression, searched in the file name without its folder; the first
                parenthesis is the group. None returns the manifest as it is.

        Raises:
            DataError: Some file names do not match, or the images have groups from a CSV file.
        """
        if pattern is None:
            return self
        if self.groups is not None:
            raise DataError(
                f"{shown(self.data_dir)}: groups come from the CSV file's column `group` and from "
                f"group_pattern {pattern!r}; use one of them"
            )
        found = [re.search(pattern, PurePosixPath(path).name) for path in self.paths]
        groups = ["" if match is None else match.group(1) or "" for match in found]
        unmatched = [path for path, group in zip(self.paths, groups, strict=True) if not group]
        if unmatched:
            raise DataErrors(
                self.data_dir,
                [f"{shown(path)}: group_pattern {pattern!r} finds no group" for path in unmatched],
            )
        return replace(self, groups=tuple(groups))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; `from_json` reads it back."""
        groups = self.groups or (None,) * len(self)
        return {
            "schema_version": SCHEMA_VERSION,
            "data_dir": str(self.data_dir),
            "classes": list(self.classes),
            "fingerprint": self.fingerprint,
            "images": [
                {"path": path, "label": int(label), "group": group, "digest": digest}
                for path, label, group, digest in zip(
                    self.paths, self.labels, groups, self.digests, strict=True
                )
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            DataError: The value has another version, lacks something or does not fit its own
                fingerprint.
        """
        if value.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"this image list has schema_version {value.get('schema_version')!r}; "
                f"this program reads {SCHEMA_VERSION}: scan the images again"
            )
        try:
            images: Sequence[Mapping[str, Any]] = value["images"]
            groups = [image["group"] for image in images]
            manifest = cls(
                data_dir=Path(value["data_dir"]),
                classes=tuple(value["classes"]),
                paths=tuple(image["path"] for image in images),
                labels=np.array([image["label"] for image in images], dtype=np.int64),
                groups=None if None in groups else tuple(groups),
                digests=tuple(image["digest"] for image in images),
            )
            written = value["fingerprint"]
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise DataError(
                f"this image list is damaged ({error}): scan the images again"
            ) from None
        if manifest.fingerprint != written:
            raise DataError("this image list was edited or cut: scan the images again")
        return manifest
