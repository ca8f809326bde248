"""From a data folder or table to a manifest; reads each file once, reports all problems at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, DataErrors, shown, some
from clip_pkg.study.audit import Audit, make_audit
from clip_pkg.study.decoding import UnreadableImage
from clip_pkg.study.duplicates import Clusters, find_duplicates
from clip_pkg.study.image_folder import ListedImage, Listing, list_folder, list_unlabelled
from clip_pkg.study.image_table import list_table
from clip_pkg.study.inspection import (
    Inspection,
    OnProgress,
    each_file,
    file_digest,
    inspect_file,
)
from clip_pkg.study.manifest import Manifest


@dataclass(frozen=True)
class ScanResult:
    """The images, facts about them, and the copies among them.

    linked: clusters of indices into the manifest that must share a fold. inspections: in the
    manifest's order.
    """

    manifest: Manifest
    audit: Audit
    linked: Clusters
    inspections: tuple[Inspection, ...]


def list_images(data_dir: Path) -> Listing:
    """List the images of a folder with one folder per class, or of a CSV file.

    Raises:
        DataError: There is no such folder or table.
    """
    root = data_dir.absolute()
    try:
        str(root).encode("utf-8")  # JSON files contain it
        if root.is_dir():
            return list_folder(root)
        if not root.exists():
            raise DataError(f"{shown(data_dir)}: no such data folder or CSV file")
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the name is not valid UTF-8"
        raise DataError(f"{shown(data_dir)}: cannot be read: {reason}") from None
    if root.suffix.lower() != ".csv":
        raise DataError(f"{shown(data_dir)}: is neither a folder nor a .csv file")
    return list_table(root)


def class_names(data_dir: Path) -> tuple[str, ...]:
    """Names of the classes in `data_dir`, sorted; opens no image.

    Raises:
        DataError: See `scan`.
    """
    listing = list_images(data_dir)
    if listing.problems:
        raise DataErrors(data_dir, listing.problems)
    return tuple(sorted({image.label for image in listing.images}))


def scan(
    data_dir: Path,
    *,
    group_pattern: str | None = None,
    skip_unreadable: bool = False,
    progress: OnProgress | None = None,
) -> ScanResult:
    """Open every image once and describe the image set.

    Args:
        data_dir: A folder with one folder of images per class, or a CSV file (path,label[,group]).
        group_pattern: See `Manifest.grouped`.
        skip_unreadable: Leave out files that cannot be decoded, instead of raising.
        progress: Called with (done, total) after each image.

    Raises:
        DataErrors: All problems of the set: its layout, empty classes, unreadable files, identical
            images with different labels, file names without a group.
    """
    listing = list_images(Path(data_dir))
    images, inspections, unreadable = _inspected(listing, progress)
    problems = list(listing.problems)
    if skip_unreadable:
        before = Counter(image.label for image in listing.images)
        after = {image.label for image in images}
        problems += [
            f"class '{shown(label)}': none of its {count} file(s) can be read"
            for label, count in sorted(before.items())
            if label not in after
        ]
    else:
        problems += [f"{shown(path)}: {reason}" for path, reason in unreadable]
    duplicates = find_duplicates(inspections, _classes_and_labels(images)[1])
    for cluster in duplicates.exact:
        labels = sorted({images[index].label for index in cluster})
        if len(labels) > 1:
            problems.append(
                f"the same image with different labels ({some(labels)}): "
                f"{some((images[index].path for index in cluster), 10)}; keep the correct one"
            )
    if problems:
        raise DataErrors(data_dir, problems)
    digests = [one.digest for one in inspections]
    manifest = _manifest(listing, images, digests).grouped(group_pattern)
    audit = make_audit(manifest, inspections, duplicates, listing, unreadable)
    return ScanResult(manifest, audit, duplicates.linked, tuple(inspections))


def scan_unlabelled(data_dir: Path, *, progress: OnProgress | None = None) -> Manifest:
    """Open every image of a folder and its subfolders, and describe the image set.

    All images have one label; files that cannot be decoded are an error, as in `scan`.

    Raises:
        DataErrors: Files cannot be read, or there is no image.
        DataError: There is no such folder.
    """
    root = data_dir.absolute()
    if not root.is_dir():
        raise DataError(f"{shown(data_dir)}: no such folder of images")
    listing = list_unlabelled(root)
    images, inspections, unreadable = _inspected(listing, progress)
    problems = listing.problems + [f"{shown(path)}: {reason}" for path, reason in unreadable]
    if problems:
        raise DataErrors(data_dir, problems)
    return _manifest(listing, images, [one.digest for one in inspections])


def known_images(
    data_dir: Path,
    paths: Collection[str],
    *,
    group_pattern: str | None = None,
    progress: OnProgress | None = None,
) -> Manifest:
    """Describe the images of `data_dir` that are among `paths`, which an earlier scan has checked.

    Files are read but not decoded; the fingerprint shows whether they have changed.

    Raises:
        DataErrors: Files cannot be read, or file names have no group.
        DataError: There is no such folder or table.
    """
    listing = list_images(data_dir)
    wanted = set(paths)
    images = [image for image in listing.images if image.path in wanted]
    found = each_file(file_digest, listing.root, [image.path for image in images], progress)
    digests = [one for one in found if isinstance(one, str)]
    if len(digests) < len(images):
        raise DataErrors(data_dir, [str(one) for one in found if isinstance(one, UnreadableImage)])
    return _manifest(listing, images, digests).grouped(group_pattern)


def _inspected(
    listing: Listing, progress: OnProgress | None
) -> tuple[list[ListedImage], list[Inspection], list[tuple[str, str]]]:
    """Readable images with their inspections, and (path, reason) of the others."""
    found = each_file(inspect_file, listing.root, [one.path for one in listing.images], progress)
    images, inspections, unreadable = [], [], []
    for image, one in zip(listing.images, found, strict=True):
        if isinstance(one, UnreadableImage):
            unreadable.append((image.path, one.reason))
        else:
            images.append(image)
            inspections.append(one)
    return images, inspections, unreadable


def _classes_and_labels(
    images: Sequence[ListedImage],
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    classes = tuple(sorted({image.label for image in images}))
    number = {name: index for index, name in enumerate(classes)}
    return classes, np.array([number[image.label] for image in images], dtype=np.int64)


def _manifest(listing: Listing, images: Sequence[ListedImage], digests: Sequence[str]) -> Manifest:
    classes, labels = _classes_and_labels(images)
    groups = [image.group for image in images if image.group is not None]
    return Manifest(
        data_dir=listing.root,
        classes=classes,
        paths=tuple(image.path for image in images),
        labels=labels,
        groups=tuple(groups) if groups else None,
        digests=tuple(digests),
        table=listing.table,
    )
