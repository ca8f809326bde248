"""The images of a study with their classes and patients; folds are indices into this list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, UserError, shown, some
from clip_pkg.base.patterns import first_groups

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Manifest:
    """N images sorted by path; all arrays of indices refer to this order.

    Args:
        data_dir: Folder that `paths` are relative to; not part of `fingerprint`.
        classes: C names, NFC-normalised and sorted; `labels` index them.
        paths: N posix paths relative to `data_dir`, sorted; absolute where a CSV file has such.
        labels: [N] int64 in 0..C-1, read-only.
        groups: N names, such as patients; images of one group share a fold. None without groups.
        digests: N sha256 digests (hex) of the files' bytes.
        table: Name of the CSV file in `data_dir` that the list was read from, for messages.
    """

    data_dir: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...] | None
    digests: tuple[str, ...]
    table: str | None = None

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

    @property
    def source(self) -> Path:
        """The folder, or the CSV file, that the images were given by."""
        return self.data_dir if self.table is None else self.data_dir / self.table

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of each image's path, label, digest and group; independent of `data_dir`."""
        digest = hashlib.sha256()
        for index, path in enumerate(self.paths):
            group = None if self.groups is None else self.groups[index]
            row = [path, self.classes[self.labels[index]], self.digests[index], group]
            digest.update(json.dumps(row).encode("ascii") + b"\n")
        return digest.hexdigest()

    @property
    def paths_by_group(self) -> list[list[str]] | None:
        """The paths of each group, without its name; None without groups."""
        if self.groups is None:
            return None
        found: dict[str, list[str]] = {}
        for path, group in zip(self.paths, self.groups, strict=True):
            found.setdefault(group, []).append(path)
        return list(found.values())

    @cached_property
    def class_counts(self) -> NDArray[np.int64]:
        """[C] images per class."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def counts_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """[C] images per class among `indices`."""
        return np.bincount(self.labels[indices], minlength=len(self.classes)).astype(np.int64)

    def file(self, index: int) -> Path:
        """Path of image `index`."""
        return self.data_dir / self.paths[index]

    def grouped(self, pattern: str | None) -> Manifest:
        """Assign to every image the group that `pattern` captures in its file name.

        Args:
            pattern: Regular expression, searched in the file name without its folder; the first
                parenthesis is the group. None returns the manifest as it is.

        Raises:
            DataError: Some file names do not match, the search takes too long, or the images have
                groups from a CSV file.
        """
        if pattern is None:
            return self
        if self.groups is not None:
            raise DataError(
                f"{shown(self.source)}: the CSV file has a column `group`, and group_pattern is "
                f"{pattern!r}; use one of them"
            )
        try:
            found = first_groups(pattern, tuple(PurePosixPath(path).name for path in self.paths))
        except UserError as error:
            raise DataError(f"group_pattern: {error}") from None
        groups = [group or "" for group in found]
        unmatched = [path for path, group in zip(self.paths, groups, strict=True) if not group]
        if unmatched:
            raise DataError(
                f"{shown(self.source)}: group_pattern {pattern!r} finds no group in "
                f"{len(unmatched)} of {len(self)} file names ({some(unmatched)})"
            )
        return replace(self, groups=tuple(groups))

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; `from_json` reads them."""
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
            DataError: The value has another version, is incomplete, or does not match its own
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
            raise DataError("this image list was edited or truncated: scan the images again")
        return manifest
