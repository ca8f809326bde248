"""Test images beside the training images: the same classes, and none of the images themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clip_pkg.base.errors import DataError, DataErrors, shown, some
from clip_pkg.study.duplicates import find_duplicates
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.scan import ScanResult


@dataclass(frozen=True)
class ImageTestSet:
    """manifest: the test images, whose labels index the training classes. notices: on them."""

    manifest: Manifest
    notices: tuple[str, ...]


def find_test_dir(written: str, search_dirs: list[Path]) -> Path:
    """Where `test_dir` is: as it is written, or in the first of `search_dirs` that has it.

    Raises DataError where it is in none of them.
    """
    given = Path(written).expanduser()
    places = [given] if given.is_absolute() else [folder / given for folder in search_dirs]
    for place in places:
        if place.exists():
            return place.absolute()
    tried = dict.fromkeys(shown(place.absolute()) for place in places)
    raise DataError(f"test_dir {written!r} was not found; looked for {', '.join(tried)}")


def match_test_set(found: ScanResult, training: ScanResult) -> ImageTestSet:
    """Bring scanned test images to the classes of the training images.

    Raises:
        DataErrors: Classes that are not trained, files that are training images too.
    """
    test, trained = found.manifest, training.manifest
    unknown = [name for name in test.classes if name not in trained.classes]
    problems = []
    if unknown:
        problems.append(
            f"class(es) {some(unknown)} have no training images; the training images in "
            f"{shown(trained.data_dir)} are of {some(trained.classes)}"
        )
    problems += _leaks(test, trained)
    if problems:
        raise DataErrors(test.data_dir, problems)
    number = {name: index for index, name in enumerate(trained.classes)}
    to_trained = np.array([number[name] for name in test.classes], dtype=np.int64)
    manifest = replace(test, classes=trained.classes, labels=to_trained[test.labels], groups=None)
    notices = list(found.audit.notices)
    if missing := [name for name in trained.classes if name not in test.classes]:
        notices.append(f"no test images of {some(missing)}; their scores are undefined")
    notices += _near_copies(found, training, manifest)
    where = shown(test.data_dir)
    return ImageTestSet(manifest, tuple(f"test images in {where}: {text}" for text in notices))


def _leaks(test: Manifest, trained: Manifest) -> list[str]:
    """Files that are among the training images, byte for byte."""
    by_digest = dict(zip(trained.digests, trained.paths, strict=True))
    return [
        f"{shown(path)}: is the training image {shown(by_digest[digest])}, so that its score would "
        "tell nothing; take it out of one of the two"
        for path, digest in zip(test.paths, test.digests, strict=True)
        if digest in by_digest
    ]


def _near_copies(found: ScanResult, training: ScanResult, test: Manifest) -> list[str]:
    """Tell of test images that are alike to training images: re-encoded, resized, cropped."""
    first = len(training.inspections)
    duplicates = find_duplicates(
        [*training.inspections, *found.inspections],
        np.concatenate([training.manifest.labels, test.labels]),
    )
    copies = [
        index - first
        for cluster in duplicates.linked
        if min(cluster) < first
        for index in cluster
        if index >= first
    ]
    if not duplicates.searched:
        return ["too many to look for near copies of training images among them"]
    if not copies:
        return []
    names = some(test.paths[index] for index in sorted(copies))
    return [
        f"{len(copies)} are near copies of training images ({names}), which makes scores on them "
        "optimistic"
    ]
