"""Lists the images of a folder with one folder per class."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from clip_pkg.base.errors import DataError, shown, some
from clip_pkg.study.decoding import SUFFIXES


@dataclass(frozen=True, slots=True)  # there may be a million of them
class ListedImage:
    """One image: posix path relative to the listing's root, label, and group, if any."""

    path: str
    label: str
    group: str | None = None


@dataclass
class Listing:
    """Images of a folder or table, and problems with them; collected while it is read.

    Args:
        root: Folder that paths are relative to.
        table: Name of the CSV file in `root` that lists the images, if one does.
        images: Sorted by path, paths unique.
        ignored: (path, reason) of files that are not used.
        problems: Errors that make the set unusable, one sentence each.
        notices: One sentence each.
    """

    root: Path
    table: str | None = None
    images: list[ListedImage] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def sort(self) -> Listing:
        """Sort the images by path; returns itself."""
        self.images.sort(key=lambda image: image.path)
        return self

    def check_class_names(self, names: Iterable[tuple[str, str]]) -> None:
        """Note problems of class names, which are pairs of (place, name as written)."""
        spellings: dict[str, dict[str, str]] = defaultdict(dict)
        for place, name in names:
            label = label_of(name)
            if not label:
                self.problems.append(f"{place}: the label is empty")
            elif any(unicodedata.category(char) in {"Cc", "Cs"} for char in label):
                self.problems.append(
                    f"{place}: '{shown(name)}' has control characters or is not UTF-8: rename it"
                )
            else:
                spellings[label].setdefault(name, place)
        by_letters: dict[str, list[str]] = defaultdict(list)
        for label, places in spellings.items():
            by_letters[label.casefold()].append(label)
            if len(places) > 1:
                self.problems.append(
                    f"{some(places.values())}: {len(places)} spellings of one class "
                    f"'{shown(label)}', which differ only in Unicode form or outer white space: "
                    "use one"
                )
        self.notices += [
            f"classes {some(same)} differ only in upper and lower case"
            for same in by_letters.values()
            if len(same) > 1
        ]


def is_file(path: Path) -> bool:
    """`Path.is_file`, and false for names that the file system rejects."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find_beside(key: str, written: str, folders: Sequence[Path], *, file: bool = False) -> Path:
    """Find the file or folder that a config key names: absolute, or the first one in `folders`.

    file: whether it must be a file. Raises DataError if there is none.
    """
    given = Path(written).expanduser()
    places = [given] if given.is_absolute() else [folder / given for folder in folders]
    for place in places:
        with contextlib.suppress(OSError, ValueError):  # names that the file system rejects
            if place.is_file() or (not file and place.exists()):
                return place.absolute()
    tried = ", ".join(dict.fromkeys(shown(place.absolute()) for place in places))
    raise DataError(f"{key} {written!r} was not found; searched {tried}")


def label_of(name: str) -> str:
    """Class label of a name: NFC-normalised and stripped, to compare with names in text files."""
    return unicodedata.normalize("NFC", name).strip()


# Files and folders of operating systems and archivers, in addition to names that start with a dot.
SYSTEM_FOLDERS = frozenset(
    {
        "__MACOSX",
        "Icon\r",
        "@eaDir",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "__pycache__",
    }
)
# Image formats that are not supported; ignoring them silently would lose data.
OTHER_IMAGES = frozenset(
    {".avif", ".dcm", ".dicom", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".mha", ".nii"}
    | {".npy", ".pgm", ".ppm", ".psd", ".svg", ".tga"}
)
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
UNLABELLED = "unlabelled"
KINDS = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))


def list_folder(data_dir: Path) -> Listing:
    """List the images in each class folder of `data_dir` and its subfolders.

    Each real folder of a class is read once, so that cyclic links end.
    """
    listing = Listing(data_dir)
    place = shown(data_dir)
    classes: list[str] = []
    stray: list[str] = []
    for entry in _entries(listing, PurePosixPath()):
        if is_folder(entry):
            classes.append(entry.name)
        elif _suffix(entry.name) in SUFFIXES:
            stray.append(entry.name)
            listing.ignored.append((entry.name, "not in a class folder"))
        else:
            listing.ignored.append((entry.name, "not an image"))
    for name in classes:
        before = len(listing.images)
        _list_images(listing, PurePosixPath(name), label_of(name))
        if len(listing.images) == before:
            listing.problems.append(
                f"class '{shown(name)}' is empty: no image ({KINDS}) in {shown(data_dir / name)}; "
                "fill or remove the folder"
            )
    if stray:
        listing.notices.append(
            f"{len(stray)} image(s) directly in {place} have no class and are ignored: "
            f"{some(stray)}"
        )
    _note_other_images(listing)
    listing.check_class_names((f"folder '{shown(name)}'", name) for name in classes)
    if len(classes) < 2:
        found = f"only one class folder, '{shown(classes[0])}'" if classes else "no class folder"
        hint = ""
        if tables := sorted(path.name for path in data_dir.glob("*.csv")):
            hint = f"; to read labels from a table, use {shown(data_dir / tables[0])} as --data-dir"
        elif classes:
            hint = (
                f"; if the classes are inside it, use {shown(data_dir / classes[0])} as --data-dir"
            )
        elif stray:
            hint = f"; the {len(stray)} images directly in it have no label"
        listing.problems.append(
            f"{place} has {found}: put the images of each class into a folder of its own; at least "
            f"two classes are needed{hint}"
        )
    elif all(name.casefold() in SPLIT_NAMES for name in classes):
        listing.problems.append(
            f"{place} contains splits ({some(classes)}), not classes: use one of them as "
            "--data-dir, or merge them; clip_pkg makes the folds itself"
        )
    return listing.sort()


def list_unlabelled(data_dir: Path) -> Listing:
    """List all images in `data_dir` and its subfolders, with one label."""
    listing = Listing(data_dir)
    _list_images(listing, PurePosixPath(), UNLABELLED)
    _note_other_images(listing)
    if not listing.images:
        listing.problems.append(f"no image ({KINDS}) in {shown(data_dir)} or its subfolders")
    return listing.sort()


def _list_images(listing: Listing, start: PurePosixPath, label: str) -> None:
    """Collect the images of the folder `start` in the root and of its subfolders."""
    seen: set[tuple[int, int]] = set()
    # Real folders first, so that an image has the same path whether or not a link leads to it too.
    folders, links = deque([start]), deque[PurePosixPath]()
    while folders or links:
        relative = folders.popleft() if folders else links.popleft()
        status = (listing.root / relative).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            listing.ignored.append((shown(relative), "link to a folder that has been read"))
            continue
        seen.add(identity)
        for entry in _entries(listing, relative):
            path = relative / entry.name
            if is_folder(entry):
                (links if entry.is_symlink() else folders).append(path)
            elif _suffix(entry.name) in SUFFIXES:
                listing.images.append(ListedImage(str(path), label))
            else:
                listing.ignored.append((shown(path), "not an image"))


def _entries(listing: Listing, relative: PurePosixPath) -> list[os.DirEntry[str]]:
    """Entries of a folder, sorted; without hidden entries and names that JSON cannot hold."""
    folder = listing.root / relative
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        listing.problems.append(f"{shown(folder)}: cannot be read: {error.strerror}")
        return []
    kept = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
            listing.ignored.append((shown(relative / entry.name), "hidden, or made by the system"))
        elif not can_be_written(entry.name):
            listing.problems.append(f"{shown(folder / entry.name)}: {UNFIT_NAME}")
        else:
            kept.append(entry)
    return kept


def _note_other_images(listing: Listing) -> None:
    counts = Counter(_suffix(path) for path, _ in listing.ignored)
    for suffix, count in sorted(counts.items()):
        if suffix in OTHER_IMAGES:
            listing.notices.append(
                f"{count} {suffix} file(s) are ignored: unsupported format; convert them to {KINDS}"
            )


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


UNFIT_NAME = "the name is not valid UTF-8 or has a carriage return: rename it"


def can_be_written(name: str) -> bool:
    """Whether a file name can be written into a CSV or JSON file."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\r" not in name  # Python's csv writes it without quotes and reads it as a new line
