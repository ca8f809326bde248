"""Images as Python programs name them: a folder, a CSV file, or paths with labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sklearn.utils import check_consistent_length

from clip_pkg.base.errors import DataError, some
from clip_pkg.base.files import write_text
from clip_pkg.base.paths import RunPaths
from clip_pkg.inference.images import ImageFile, find_images
from clip_pkg.study.identity import digest
from clip_pkg.study.image_folder import label_of
from clip_pkg.study.scan import list_images

Name: TypeAlias = str | os.PathLike[str]
Images: TypeAlias = Name | Sequence[Name]


def files_of(images: Images) -> tuple[ImageFile, ...]:
    """Files to look at: of a list in its order, with repetitions; else see `find_images`."""
    if isinstance(images, str | os.PathLike):
        return find_images([Path(images)]).images
    return tuple(ImageFile(os.fspath(path), Path(path)) for path in images)


def labelled_files(images: Images) -> tuple[list[Path], list[str]]:
    """Paths and labels of a folder of class folders, or of a CSV file. Raises DataError."""
    if not isinstance(images, str | os.PathLike):
        raise DataError("y is missing: a list of paths needs as many labels")
    listing = list_images(Path(images))
    return [listing.root / one.path for one in listing.images], [
        one.label for one in listing.images
    ]


def table_of(
    images: Images, labels: Sequence[Any] | None, groups: Sequence[Any] | None, run: RunPaths
) -> tuple[Path, dict[str, Any] | None]:
    """What `--data-dir` is to be: the place as it is, or a CSV file written for a list.

    Returns it, and for a list class name → label as the program gave it.

    Raises DataError for labels that are missing, needless, or alike as text; ValueError for lists
    of different lengths.
    """
    if isinstance(images, str | os.PathLike):
        if labels is not None or groups is not None:
            raise DataError(
                f"{os.fspath(images)}: labels and groups are those of the folder or CSV file; "
                "leave out y and groups, or give a list of paths"
            )
        return Path(images), None
    if labels is None:
        raise DataError("y is missing: a list of paths needs as many labels")
    check_consistent_length(images, labels, groups)
    names = _names(labels)
    columns: list[list[str]] = [
        [os.path.abspath(path) for path in images],  # noqa: PTH100  resolve() asks the disk
        [str(label) for label in labels],
    ]
    columns += [] if groups is None else [[str(group) for group in groups]]
    table = run.image_table(digest(columns))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "label", "group")[: len(columns)])
    writer.writerows(zip(*columns, strict=True))
    table.parent.mkdir(parents=True, exist_ok=True)
    write_text(table, stream.getvalue())
    return table, names


def _names(labels: Sequence[Any]) -> dict[str, Any]:
    """Class name → label; names are labels as text, as files and folders write them."""
    names: dict[str, Any] = {}
    for label in labels:
        if names.setdefault(label_of(str(label)), label) != label:
            both = [repr(names[label_of(str(label))]), repr(label)]
            raise DataError(f"labels {some(both)} are the same as text; give them different names")
    return names
