"""Image files with a label each, as a folder or a table names them, before any file is opened."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clip_pkg.planning.problems import shown, some


@dataclass(frozen=True, slots=True)  # there may be a million of them
class ListedImage:
    """One image: posix path relative to the listing's root, label, group if there are groups."""

    path: str
    label: str
    group: str | None = None


@dataclass(frozen=True)
class Listing:
    """What was found and what is wrong with it.

    Args:
        root: Folder that paths are relative to.
        images: Sorted by path, paths unique.
        ignored: (path, reason) of what lies there and takes no part.
        problems: Mistakes that keep the set from being used, one sentence each.
        notices: What the user should know, one sentence each.
    """

    root: Path
    images: tuple[ListedImage, ...]
    ignored: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    notices: tuple[str, ...]


def is_file(path: Path) -> bool:
    """Tell whether there is such a file; a name that cannot be one, or be looked at, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def label_of(name: str) -> str:
    """Give the class called `name`: NFC-normalised, as it is compared with names in text files."""
    return unicodedata.normalize("NFC", name).strip()


def check_names(names: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Check class names, given as (place, name as written); returns problems and notices."""
    problems: list[str] = []
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    for place, name in names:
        label = label_of(name)
        if not label:
            problems.append(f"{place}: the label is empty")
        elif any(unicodedata.category(char) in {"Cc", "Cs"} for char in label):
            problems.append(
                f"{place}: '{shown(name)}' has control characters or is no UTF-8: rename it"
            )
        else:
            spellings[label].setdefault(name, place)
    for label, places in spellings.items():
        if len(places) > 1:
            problems.append(
                f"{some(places.values())}: {len(places)} spellings of one class '{shown(label)}', "
                "which differ in Unicode form or outer blanks only: use one"
            )
    return problems, _case_notices(spellings)


def _case_notices(labels: Iterable[str]) -> list[str]:
    by_letters: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_letters[label.casefold()].append(label)
    return [
        f"classes {some(same)} differ in upper and lower case only"
        for same in by_letters.values()
        if len(same) > 1
    ]
