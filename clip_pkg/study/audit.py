"""Facts about an image set and its folds that a user should know before training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from statistics import median
from typing import Any

import numpy as np
from rich.cells import cell_len

from clip_pkg.base.errors import shown, some
from clip_pkg.study.duplicates import Clusters, Duplicates
from clip_pkg.study.groups import suggest_groups
from clip_pkg.study.image_folder import Listing
from clip_pkg.study.inspection import Inspection
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.splits import Splits

# Unambiguous words, in the languages of common X-ray archives.
LATERALITY = frozenset(
    {"left", "links", "gauche", "izquierda", "izquierdo", "sinistra", "sinistro"}
    | {"right", "rechts", "droite", "droit", "derecha", "derecho", "destra", "destro"}
)
# Too short or too common alone; they count only if the opposite occurs as well.
PAIRS = (("l", "r"), ("lt", "rt"), ("li", "re"), ("sx", "dx"), ("izq", "der"), ("lhs", "rhs"))
CHARACTERS = ("左", "右")  # parts of many words, so both must occur
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def laterality_names(names: Iterable[str]) -> tuple[str, ...]:
    """Class and file names that mention left or right, sorted.

    Words such as `left` and `Rechts` count alone; `L`, `dx` and the Chinese characters only if
    another name has their opposite.
    """
    words = {name: {word.lower() for word in WORD.findall(name)} for name in set(names)}
    found = {name for name, own in words.items() if own & LATERALITY}
    characters = {name: set(name) for name in words}
    for left, right, parts in [*((*pair, words) for pair in PAIRS), (*CHARACTERS, characters)]:
        lefts = {name for name, own in parts.items() if left in own}
        rights = {name for name, own in parts.items() if right in own}
        if lefts and rights:
            found |= lefts | rights
    return tuple(sorted(found))


MAX_COLUMNS = 12  # folds shown in columns of their own
DARK = 1 / 8  # share of the bit depth's range below which 16-bit images are nearly black


@dataclass(frozen=True)
class Audit:
    """Facts of an image set. Paths are relative to `data_dir`.

    Args:
        data_dir: Folder of the images.
        images: Readable images.
        classes: Images per class, in class order.
        formats: Images per file format.
        modes: Images per stored pixel type.
        width: Smallest, median and largest width in pixels.
        height: Smallest, median and largest height in pixels.
        unreadable: (path, reason) of images that were left out on request.
        ignored: (path, reason) of files that are not used.
        exact_duplicates: Clusters of paths with the same bytes or pixels.
        near_duplicates: Clusters of paths of near copies; they share a fold too.
        look_alikes: Clusters too large to be copies; they do not share a fold.
        side_names: Class and file names that mention left or right.
        group_suggestion: Sentence on a `group_pattern` that the file names suggest, if there are no
            groups.
        notices: One sentence each.
    """

    data_dir: str
    images: int
    classes: dict[str, int]
    formats: dict[str, int]
    modes: dict[str, int]
    width: tuple[int, int, int]
    height: tuple[int, int, int]
    unreadable: tuple[tuple[str, str], ...]
    ignored: tuple[tuple[str, str], ...]
    exact_duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: tuple[tuple[str, ...], ...]
    look_alikes: tuple[tuple[str, ...], ...]
    side_names: tuple[str, ...]
    group_suggestion: str | None
    notices: tuple[str, ...]

    @property
    def imbalance_ratio(self) -> float:
        """Images of the largest class per image of the smallest one."""
        return max(self.classes.values()) / min(self.classes.values())

    @property
    def laterality_warnings(self) -> tuple[str, ...]:
        """Warnings if images are flipped horizontally."""
        if not self.side_names:
            return ()
        return (
            f"{len(self.side_names)} name(s) mention left or right ({some(self.side_names)}), and "
            "horizontal flips swap them: set horizontal_flip to false if laterality matters",
        )

    def lines(self) -> list[str]:
        """Summary for the terminal, without notices."""
        (narrow, width, wide), (low, height, high) = self.width, self.height
        sizes = f"{narrow}–{wide} × {low}–{high} px, median {width} × {height} px"
        if narrow == wide and low == high:
            sizes = f"all {width} × {height} px"
        formats = ", ".join(f"{name} {count}" for name, count in self.formats.items())
        modes = ", ".join(self.modes)
        lines = [
            f"{self.images} images in {len(self.classes)} classes from {shown(self.data_dir)}",
            f"  {formats} ({modes}); {sizes}",
            f"  imbalance ratio {self.imbalance_ratio:.1f} (largest class : smallest class)",
        ]
        for name, clusters in (
            ("exact copies", self.exact_duplicates),
            ("near copies", self.near_duplicates),
        ):
            if clusters:
                count = sum(len(cluster) for cluster in clusters)
                lines.append(f"  {name}: {count} images in {len(clusters)} clusters, kept together")
        if self.ignored:
            lines.append(
                f"  ignored: {len(self.ignored)} ({some(path for path, _ in self.ignored)})"
            )
        if self.unreadable:
            paths = some(path for path, _ in self.unreadable)
            lines.append(f"  unreadable, left out: {len(self.unreadable)} ({paths})")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {**asdict(self), "imbalance_ratio": self.imbalance_ratio}


def make_audit(
    manifest: Manifest,
    inspections: Sequence[Inspection],
    duplicates: Duplicates,
    listing: Listing,
    unreadable: Sequence[tuple[str, str]],
) -> Audit:
    """Summarise a scan; `inspections` are in the manifest's order."""

    def paths(clusters: Clusters) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(manifest.paths[index] for index in cluster) for cluster in clusters)

    def spread(values: list[int]) -> tuple[int, int, int]:
        return min(values), int(median(values)), max(values)

    names = [PurePosixPath(path).name for path in manifest.paths]
    suggestion = suggest_groups(manifest) if manifest.groups is None else None
    return Audit(
        data_dir=str(manifest.data_dir),
        images=len(manifest),
        classes=dict(zip(manifest.classes, manifest.class_counts.tolist(), strict=True)),
        formats=dict(Counter(one.format for one in inspections).most_common()),
        modes=dict(Counter(one.mode for one in inspections).most_common()),
        width=spread([one.width for one in inspections]),
        height=spread([one.height for one in inspections]),
        unreadable=tuple(unreadable),
        ignored=tuple(listing.ignored),
        exact_duplicates=paths(duplicates.exact),
        near_duplicates=paths(duplicates.near),
        look_alikes=paths(duplicates.look_alikes),
        side_names=laterality_names([*manifest.classes, *names]),
        group_suggestion=None if suggestion is None else str(suggestion),
        notices=(
            *listing.notices,
            *_image_notices(manifest, inspections),
            *_duplicate_notices(manifest, duplicates),
        ),
    )


def _image_notices(manifest: Manifest, inspections: Sequence[Inspection]) -> list[str]:
    pairs = list(zip(manifest.paths, inspections, strict=True))
    # Phones write JPEG files with a second picture (MPO), which is not needed.
    paged = [path for path, one in pairs if one.frames > 1 and one.format != "MPO"]
    blank = [path for path, one in pairs if one.blank]
    peaks = [one.peak for _, one in pairs if one.peak is not None]
    notices = []
    if paged:
        notices.append(
            f"{len(paged)} file(s) have several pages or frames, the first is used: {some(paged)}"
        )
    if blank:
        notices.append(f"{len(blank)} image(s) have the same level everywhere: {some(blank)}")
    if peaks and max(peaks) < DARK:
        notices.append(
            f"the {len(peaks)} images with more than 8 bits use at most {max(peaks):.1%} of their "
            "range and are nearly black after decoding: save them with levels up to 65535"
        )
    return notices


def _duplicate_notices(manifest: Manifest, duplicates: Duplicates) -> list[str]:
    notices = []
    for cluster in duplicates.near:
        labels = sorted({manifest.classes[manifest.labels[index]] for index in cluster})
        if len(labels) > 1:
            notices.append(
                f"nearly the same image with different labels ({some(labels)}): "
                f"{some(manifest.paths[index] for index in cluster)}"
            )
    groups = manifest.groups
    if groups is not None:
        crossing = [c for c in duplicates.linked if len({groups[index] for index in c}) > 1]
        if crossing:
            paths = [manifest.paths[index] for index in crossing[0]]
            notices.append(
                f"{len(crossing)} cluster(s) of copies span several groups, which share a fold: "
                f"{some(paths)}"
            )
    if duplicates.look_alikes:
        count = sum(len(cluster) for cluster in duplicates.look_alikes)
        first = some(manifest.paths[index] for index in duplicates.look_alikes[0])
        notices.append(
            f"{count} images are similar, but too many of their class to be copies ({first}); they "
            "may be in different folds: set groups if they show the same thing"
        )
    if not duplicates.searched:
        notices.append(
            "the set is too large to search for near copies; only exact copies were found"
        )
    return notices


def fold_table(manifest: Manifest, splits: Splits) -> list[str]:
    """Table of validation images, class × fold, as lines."""
    # [C + 1, K]: validation images of each class and of all
    counts = np.stack([manifest.counts_of(fold.val) for fold in splits.folds], axis=1)
    counts = np.vstack([counts, counts.sum(axis=0)])
    heads = [f"fold {fold.number}" for fold in splits.folds]
    if len(heads) > MAX_COLUMNS:
        heads = [f"min of {len(heads)} folds", "max"]
        counts = np.stack([counts.min(axis=1), counts.max(axis=1)], axis=1)
    names = [*map(shown, manifest.classes), "all classes"]
    totals = [*manifest.class_counts, len(manifest)]
    table = [["validation images", "all", *heads]]
    for name, total, row in zip(names, totals, counts, strict=True):
        table.append([name, str(total), *map(str, row)])
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        blanks = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        numbers = [blank + cell for blank, cell in zip(blanks[1:], cells[1:], strict=True)]
        lines.append("  ".join([cells[0] + blanks[0], *numbers]))
    return lines


def check_folds(manifest: Manifest, splits: Splits) -> list[str]:
    """Warnings about classes with a single validation image in a fold."""
    notices = []
    for label, name in enumerate(manifest.classes):
        single = [fold.number for fold in splits.folds if manifest.counts_of(fold.val)[label] < 2]
        if single:
            notices.append(
                f"class '{shown(name)}' has fewer than 2 validation images in fold(s) "
                f"{some(single, 5)}: its scores there are 0 or 100 %"
            )
    return notices
