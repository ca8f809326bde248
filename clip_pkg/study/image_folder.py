"""Lists the images of a folder with one folder per class."""

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
    """One image: posix path relative to the listing's root, label, and group, if any."""

    path: str
    label: str
    group: str | None = None


@dataclass(frozen=True)
class Listing:
    """Images of a folder or table, and problems with them.

    Args:
        root: Folder that paths are relative to.
        images: Sorted by path, paths unique.
        ignored: (path, reason) of files that are not used.
        problems: Errors that make the set unusable, one sentence each.
        notices: One sentence each.
    """

    root: Path
    images: tuple[ListedImage, ...]
    ignored: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    notices: tuple[str, ...]


def is_file(path: Path) -> bool:
    """`Path.is_file`, and false for names that the file system rejects."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def label_of(name: str) -> str:
    """Class label of a name: NFC-normalised and stripped, to compare with names in text files."""
    return unicodedata.normalize("NFC", name).strip()


def check_names(names: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Check class names, pairs of (place, name as written); returns problems and notices."""
    problems: list[str] = []
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    for place, name in names:
        label = label_of(name)
        if not label:
            problems.append(f"{place}: the label is empty")
        elif any(unicodedata.category(char) in {"Cc", "Cs"} for char in label):
            problems.append(
                f"{place}: '{shown(name)}' has control characters or is not UTF-8: rename it"
            )
        else:
            spellings[label].setdefault(name, place)
    for label, places in spellings.items():
        if len(places) > 1:
            problems.append(
                f"{some(places.values())}: {len(places)} spellings of one class '{shown(label)}', "
                "which differ only in Unicode form or outer white space: use one"
            )
    return problems, _case_notices(spellings)


def _case_notices(labels: Iterable[str]) -> list[str]:
    by_letters: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_letters[label.casefold()].append(label)
    return [
        f"classes {some(same)} differ only in upper and lower case"
        for same in by_letters.values()
        if len(same) > 1
    ]


# Folders of operating systems and archivers, in addition to names that start with a dot.
SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
)
# Image formats that are not supported; ignoring them silently would lose data.
OTHER_IMAGES = frozenset(
    {".avif", ".dcm", ".dicom", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".mha", ".nii"}
    | {".npy", ".pgm", ".ppm", ".psd", ".svg", ".tga"}
)
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
UNLABELLED = "unlabelled"
KINDS = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))


@dataclass
class _Walk:
    """Collects the results of a walk over folders."""

    images: list[ListedImage] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def entries(self, folder: Path, relative: PurePosixPath) -> list[os.DirEntry[str]]:
        """Entries of a folder, sorted; without hidden entries and names that JSON cannot hold."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(f"{shown(folder)}: cannot be read: {error.strerror}")
            return []
        kept = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                self.ignored.append((shown(relative / entry.name), "hidden, or made by the system"))
            elif not is_utf8(entry.name):
                self.problems.append(
                    f"{shown(folder / entry.name)}: the name is not valid UTF-8: rename it"
                )
            else:
                kept.append(entry)
        return kept


def list_folder(data_dir: Path) -> Listing:
    """List the images in each class folder of `data_dir` and its subfolders.

    Each real folder of a class is read once, so that cyclic links end.
    """
    walk = _Walk()
    classes: list[str] = []
    stray: list[str] = []
    for entry in walk.entries(data_dir, PurePosixPath()):
        if is_folder(entry):
            classes.append(entry.name)
        elif _suffix(entry.name) in SUFFIXES:
            stray.append(entry.name)
            walk.ignored.append((entry.name, "not in a class folder"))
        else:
            walk.ignored.append((entry.name, "not an image"))
    for name in classes:
        _list_class(walk, data_dir, name)
    if stray:
        walk.notices.append(
            f"{len(stray)} image(s) directly in {shown(data_dir)} have no class and are "
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
    """List all images in `data_dir` and its subfolders, with one label."""
    walk = _Walk()
    _list_images(walk, data_dir, PurePosixPath(), UNLABELLED)
    _note_other_images(walk)
    problems = list(walk.problems)
    if not walk.images:
        problems.append(f"no image ({KINDS}) in {shown(data_dir)} or its subfolders")
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
    """Collect the images of the folder `start` in `data_dir` and of its subfolders."""
    seen: set[tuple[int, int]] = set()
    # Real folders first, so that an image has the same path whether or not a link leads to it too.
    folders, links = deque([start]), deque[PurePosixPath]()
    while folders or links:
        relative = folders.popleft() if folders else links.popleft()
        folder = data_dir / relative
        identity = _identity(folder)
        if identity in seen:
            walk.ignored.append((shown(relative), "link to a folder that has been read"))
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
    """Describe a layout that is not one folder per class."""
    place = shown(data_dir)
    if len(classes) < 2:
        found = f"only one class folder, '{shown(classes[0])}'" if classes else "no class folder"
        hint = (
            "put the images of each class into a folder of its own; at least two classes are needed"
        )
        tables = sorted(path.name for path in data_dir.glob("*.csv"))
        if tables:
            hint += (
                f"; to read labels from a table, use {shown(data_dir / tables[0])} as --data-dir"
            )
        elif classes:
            hint += (
                f"; if the classes are inside it, use {shown(data_dir / classes[0])} as --data-dir"
            )
        elif stray:
            hint += f"; the {len(stray)} images directly in it have no label"
        return [f"{place} has {found}: {hint}"]
    if all(name.casefold() in SPLIT_NAMES for name in classes):
        return [
            f"{place} contains splits ({some(classes)}), not classes: use one of them as "
            "--data-dir, or merge them; clip_pkg makes the folds itself"
        ]
    return []


def _note_other_images(walk: _Walk) -> None:
    counts = Counter(_suffix(path) for path, _ in walk.ignored)
    for suffix, count in sorted(counts.items()):
        if suffix in OTHER_IMAGES:
            walk.notices.append(
                f"{count} {suffix} file(s) are ignored: unsupported format; convert them to {KINDS}"
            )


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_utf8(name: str) -> bool:
    """Whether a file name can be written into a CSV or JSON file."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
