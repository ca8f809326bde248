"""A folder with one folder of images per class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from clip_pkg.base.errors import shown, some
from clip_pkg.study.decoding import SUFFIXES


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


# What systems and archivers leave behind, beside everything that starts with a dot.
LEFT_BY_SYSTEMS = frozenset(
    {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
)
# Images that people have and that are not read here; passing over them silently would lose data.
OTHER_IMAGES = frozenset(
    {".avif", ".dcm", ".dicom", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".mha", ".nii"}
    | {".npy", ".pgm", ".ppm", ".psd", ".svg", ".tga"}
)
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
UNLABELLED = "unlabelled"
KINDS = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))


@dataclass
class _Walk:
    """What a walk over the folders gathers."""

    images: list[ListedImage] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def entries(self, folder: Path, relative: PurePosixPath) -> list[os.DirEntry[str]]:
        """List a folder by name; hidden entries and names that no JSON can hold are set aside."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(f"{shown(folder)}: cannot be read: {error.strerror}")
            return []
        kept = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name in LEFT_BY_SYSTEMS:
                self.ignored.append((shown(relative / entry.name), "hidden or left by the system"))
            elif not is_utf8(entry.name):
                self.problems.append(
                    f"{shown(folder / entry.name)}: the name is not valid UTF-8: rename it"
                )
            else:
                kept.append(entry)
        return kept


def list_folder(data_dir: Path) -> Listing:
    """List the images below each class folder of `data_dir`, nested folders included.

    Each real folder of a class is read once, so that links that lead back up end.
    """
    walk = _Walk()
    classes: list[str] = []
    stray: list[str] = []
    for entry in walk.entries(data_dir, PurePosixPath()):
        if is_folder(entry):
            classes.append(entry.name)
        elif _suffix(entry.name) in SUFFIXES:
            stray.append(entry.name)
            walk.ignored.append((entry.name, "lies beside the class folders"))
        else:
            walk.ignored.append((entry.name, "not an image"))
    for name in classes:
        _list_class(walk, data_dir, name)
    if stray:
        walk.notices.append(
            f"{len(stray)} image(s) directly in {shown(data_dir)} belong to no class and are "
            f"ignored: {some(stray)}"
        )
    _note_other_images(walk)
    problems, notices = check_names((f"folder '{shown(name)}'", name) for name in classes)
    problems = walk.problems + problems + _layout_problems(data_dir, classes, stray)
    images = tuple(sorted(walk.images, key=lambda image: image.path))
    return Listing(
        data_dir, images, tuple(walk.ignored), tuple(problems), tuple(walk.notices + notices)
    )


def list_unlabelled(data_dir: Path) -> Listing:
    """List all images below `data_dir`, nested folders included, under one label."""
    walk = _Walk()
    _list_images(walk, data_dir, PurePosixPath(), UNLABELLED)
    _note_other_images(walk)
    problems = list(walk.problems)
    if not walk.images:
        problems.append(f"there is no image ({KINDS}) in {shown(data_dir)} or below it")
    images = tuple(sorted(walk.images, key=lambda image: image.path))
    return Listing(data_dir, images, tuple(walk.ignored), tuple(problems), tuple(walk.notices))


def _list_class(walk: _Walk, data_dir: Path, name: str) -> None:
    before = len(walk.images)
    _list_images(walk, data_dir, PurePosixPath(name), label_of(name))
    if len(walk.images) == before:
        walk.problems.append(
            f"class '{shown(name)}' is empty: no image ({KINDS}) in {shown(data_dir / name)}; "
            "fill or remove the folder"
        )


def _list_images(walk: _Walk, data_dir: Path, start: PurePosixPath, label: str) -> None:
    """Gather the images of the folder `start` in `data_dir` and of those below it."""
    seen: set[tuple[int, int]] = set()
    # Real folders first: an image then has the same path whether or not a link leads to it as well.
    folders, links = deque([start]), deque[PurePosixPath]()
    while folders or links:
        relative = folders.popleft() if folders else links.popleft()
        folder = data_dir / relative
        identity = _identity(folder)
        if identity in seen:
            walk.ignored.append((shown(relative), "link to a folder that was read already"))
            continue
        seen.add(identity)
        for entry in walk.entries(folder, relative):
            path = relative / entry.name
            if is_folder(entry):
                (links if entry.is_symlink() else folders).append(path)
            elif _suffix(entry.name) in SUFFIXES:
                walk.images.append(ListedImage(str(path), label))
            else:
                walk.ignored.append((shown(path), "not an image"))


def _layout_problems(data_dir: Path, classes: list[str], stray: list[str]) -> list[str]:
    """Say what the layout looks like when it is not one folder per class."""
    place = shown(data_dir)
    if len(classes) < 2:
        found = f"only one class folder, '{shown(classes[0])}'" if classes else "no class folder"
        hint = "each class's images go into a folder of their own, and there are at least two"
        tables = sorted(path.name for path in data_dir.glob("*.csv"))
        if tables:
            hint += f"; to take labels from a table, give {shown(data_dir / tables[0])} as data"
        elif classes:
            hint += f"; if the classes are inside it, give {shown(data_dir / classes[0])} as data"
        elif stray:
            hint += f"; the {len(stray)} images lying in it directly have no label"
        return [f"{place} has {found}: {hint}"]
    if all(name.casefold() in SPLIT_NAMES for name in classes):
        return [
            f"{place} holds parts of a split ({some(classes)}), not classes: give one of them as "
            "data, or put them together; the folds are made here"
        ]
    return []


def _note_other_images(walk: _Walk) -> None:
    counts = Counter(_suffix(path) for path, _ in walk.ignored)
    for suffix, count in sorted(counts.items()):
        if suffix in OTHER_IMAGES:
            walk.notices.append(
                f"{count} {suffix} file(s) are ignored: that kind is not read; convert to {KINDS}"
            )


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_utf8(name: str) -> bool:
    """Tell whether a file's name is text that a CSV or JSON file can hold."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
