"""Which images belong to one patient: a `group_pattern` that the file names suggest."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from clip_pkg.study.manifest import Manifest

SEPARATORS = "_- ."
MAX_FIELDS = 3  # of the file name that may name a group
MIN_GROUPS = 5
MAX_SHARE = 1 / 4  # of the images in the largest group
MAX_TYPICAL_SIZE = 50  # images of the median group


@dataclass(frozen=True)
class GroupSuggestion:
    """A regular expression for `group_pattern`, and the groups that it makes.

    smallest, largest: images per group.
    """

    pattern: str
    groups: int
    smallest: int
    largest: int

    def __str__(self) -> str:
        sizes = f"{self.smallest}"
        if self.largest > self.smallest:
            sizes += f" to {self.largest}"
        return (
            f'From the file names, "group_pattern": {json.dumps(self.pattern, ensure_ascii=False)} '
            f"would make {self.groups} groups of {sizes} images."
        )


def patients_notice(suggestion: str | None) -> str:
    """What it means for scores that nothing says which images show one patient."""
    notice = (
        "Nothing says which images show the same patient. Several images of one patient may have "
        "been in different folds, so scores may be too high and intervals too narrow: set "
        "group_pattern, or use a CSV table with the column `group`."
    )
    return notice if suggestion is None else f"{notice} {suggestion}"


def suggest_groups(manifest: Manifest) -> GroupSuggestion | None:
    """The first fields of the file names that make plausible groups; None if there are none.

    Plausible: at least `MIN_GROUPS`, more than there are classes, none with more than `MAX_SHARE`
    of the images, most images in groups of several, and some of these in one class (a number that
    is counted anew in every class names no patient).
    """
    names = [PurePosixPath(path).name for path in manifest.paths]
    if len(names) < 2 * MIN_GROUPS:
        return None
    for pattern in _patterns(names):
        found = [re.search(pattern, name) for name in names]
        groups = [match.group(1) for match in found if match is not None]
        counts = Counter(groups)
        sizes = list(counts.values())
        in_class = Counter(zip(groups, manifest.labels.tolist(), strict=False))
        if (
            len(groups) == len(names)
            and len(sizes) >= max(MIN_GROUPS, len(manifest.classes) + 1)
            and max(sizes) <= MAX_SHARE * len(names)
            and np.median(sizes) <= MAX_TYPICAL_SIZE
            and 2 * sum(size for size in sizes if size > 1) > len(names)
            and max(in_class.values()) > 1
        ):
            return GroupSuggestion(pattern, len(sizes), min(sizes), max(sizes))
    return None


def _patterns(names: Sequence[str]) -> Iterator[str]:
    """Patterns for the first fields of all names, the fewest fields first."""
    stems = [PurePosixPath(name).stem for name in names]
    for count in range(1, MAX_FIELDS + 1):
        for separator in SEPARATORS:
            rows = [stem.split(separator, count) for stem in stems]
            if all(len(row) > count and all(row[:count]) for row in rows):
                fields = zip(*(row[:count] for row in rows), strict=True)
                between = re.escape(separator) if separator == "." else separator
                inner = between.join(_field(values, separator) for values in fields)
                yield f"^({inner}){between}"
    # a number that letters follow: P012a
    starts = [re.match(r"([^\W\d_]*\d+)[^\W\d_]", stem) for stem in stems]
    prefixes = [match.group(1) for match in starts if match is not None]
    if len(prefixes) == len(stems):
        yield f"^({_field(prefixes, '')})[^\\W\\d_]"


def _field(values: Sequence[str], separator: str) -> str:
    """The narrowest pattern for a field: its text, a prefix and a number, or any text."""
    if len(set(values)) == 1:
        return re.escape(values[0])
    parts = [re.fullmatch(r"(\D*)(\d+)", value) for value in values]
    prefixes = {part.group(1) for part in parts if part is not None}
    if None not in parts and len(prefixes) == 1:
        return re.escape(prefixes.pop()) + r"\d+"
    if not separator:
        return r"[^\W\d_]*\d+"
    return f"[^{separator}]+"
