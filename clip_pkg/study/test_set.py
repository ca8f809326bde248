"""Test images (`test_dir`): checks that classes match and that no training image is among them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clip_pkg.base.errors import DataErrors, shown, some
from clip_pkg.study.duplicates import find_duplicates
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.scan import ScanResult


def match_test_set(found: ScanResult, training: ScanResult) -> tuple[Manifest, list[str]]:
    """Map scanned test images to the classes of the training images; also returns notices.

    Raises:
        DataErrors: Classes without training images, files that are also training images.
    """
    test, trained = found.manifest, training.manifest
    unknown = [name for name in test.classes if name not in trained.classes]
    problems = []
    if unknown:
        problems.append(
            f"class(es) {some(unknown)} have no training images; the classes in "
            f"{shown(trained.data_dir)} are {some(trained.classes)}"
        )
    by_digest = dict(zip(trained.digests, trained.paths, strict=True))
    problems += [
        f"{shown(path)}: is also the training image {shown(by_digest[digest])}, so its score would "
        "be meaningless; remove one of the two"
        for path, digest in zip(test.paths, test.digests, strict=True)
        if digest in by_digest
    ]
    if problems:
        raise DataErrors(test.data_dir, problems)
    number = {name: index for index, name in enumerate(trained.classes)}
    to_trained = np.array([number[name] for name in test.classes], dtype=np.int64)
    manifest = replace(test, classes=trained.classes, labels=to_trained[test.labels], groups=None)
    notices = list(found.audit.notices)
    if missing := [name for name in trained.classes if name not in test.classes]:
        notices.append(f"no test images of {some(missing)}; their scores are undefined")
    first = len(training.inspections)
    duplicates = find_duplicates(
        [*training.inspections, *found.inspections],
        np.concatenate([trained.labels, manifest.labels]),
    )
    copies = sorted(
        index - first
        for cluster in duplicates.linked
        if min(cluster) < first
        for index in cluster
        if index >= first
    )
    if not duplicates.searched:
        notices.append("too many images to search for near copies of training images")
    elif copies:
        names = some(test.paths[index] for index in copies)
        notices.append(
            f"{len(copies)} are near copies of training images ({names}), which makes scores on "
            "them optimistic"
        )
    where = shown(test.data_dir)
    return manifest, [f"test images in {where}: {text}" for text in notices]
