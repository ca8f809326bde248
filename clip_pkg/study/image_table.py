"""Lists the images of a CSV file with the columns path, label and, optionally, group."""

from __future__ import annotations

import csv
import difflib
import io
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from clip_pkg.base.errors import DataError, UserError, shown, some
from clip_pkg.base.reading import read_bounded
from clip_pkg.study.decoding import SUFFIXES
from clip_pkg.study.image_folder import ListedImage, Listing, is_file, label_of

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

COLUMNS = ("path", "label", "group")
DELIMITERS = (",", ";", "\t")
MAX_BYTES = 1 << 30  # of a file; millions of images


def list_table(table_file: Path) -> Listing:
    """List the images that a CSV file names.

    Paths are absolute, or relative to the file's folder and inside it. The file is
    UTF-8, with or without byte order mark; columns are separated by commas, semicolons or tabs.

    Raises:
        DataError: The file cannot be read as a table. Errors on single lines are in the listing's
            `problems`, with their line numbers.
    """
    listing = Listing(table_file.parent, table_file.name)
    records = _records(table_file, listing)
    header_line, header = next(records, (1, []))
    place = f"{shown(table_file.name)}:{header_line}"
    columns = _columns(place, header, listing)
    lines: dict[str, int] = {}  # by path
    names: list[tuple[str, str]] = []  # (place, label as written)
    for line, record in records if columns else ():
        row = f"{shown(table_file.name)}:{line}"
        if len(record) != len(header):
            listing.problems.append(
                f"{row}: has {len(record)} values, the header has {len(header)}"
            )
            continue
        written = record[columns["path"]].strip()
        label = record[columns["label"]].strip()
        group = label_of(record[columns["group"]]) if "group" in columns else None
        names.append((row, label))
        if group == "":
            listing.problems.append(
                f"{row}: the group is empty; either all images have one, or none"
            )
        path, reason = _path(table_file.parent, written)
        if reason:
            listing.problems.append(f"{row}: {reason}")
        elif path in lines:
            listing.problems.append(
                f"{row}: {shown(written)} is already on line {lines[path]}; keep one of them"
            )
        else:
            lines[path] = line
            listing.images.append(ListedImage(path, label_of(label), group))
    classes = {image.label for image in listing.images}
    if columns and not listing.images and not listing.problems:
        listing.problems.append(f"{place}: no images below the header")
    elif len(classes) == 1 and not listing.problems:
        listing.problems.append(
            f"{shown(table_file.name)}: only one class, '{shown(min(classes))}'; two are needed"
        )
    listing.check_class_names(names)
    return listing.sort()


def open_table(file: Path) -> CsvReader:
    """Read a CSV file, UTF-8 with or without byte order mark; the first line tells the separator.

    Iterating raises csv.Error for what is not CSV. Raises DataError.
    """
    try:
        text = read_bounded(file, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{shown(file)}: is not UTF-8: save it as `CSV UTF-8`") from None
    except OSError as error:
        raise DataError(f"{shown(file)}: cannot be read: {error.strerror}") from None
    except UserError as error:
        raise DataError(str(error)) from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _records(file: Path, listing: Listing) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of each line that is not blank."""
    reader = open_table(file)
    try:
        for record in reader:
            if any(value.strip() for value in record):
                yield reader.line_num, record
    except csv.Error as error:
        listing.problems.append(f"{shown(file.name)}:{reader.line_num}: is not valid CSV: {error}")


def _columns(place: str, header: list[str], listing: Listing) -> dict[str, int]:
    """Positions of the known columns; empty if a required one is missing."""
    names = [name.strip().casefold() for name in header]
    columns = {name: names.index(name) for name in COLUMNS if name in names}
    problems = [
        f"{place}: column `{name}` occurs {names.count(name)} times"
        for name in columns
        if names.count(name) > 1
    ]
    unknown = [name for name in names if name not in COLUMNS]
    for missing in (name for name in COLUMNS if name not in columns):
        near = difflib.get_close_matches(missing, unknown, n=1, cutoff=0.75)
        if near:
            problems.append(
                f"{place}: column `{shown(near[0])}` is unknown; did you mean `{missing}`?"
            )
        elif missing != "group":
            problems.append(
                f"{place}: column `{missing}` is missing; the first line names the columns "
                "path,label or path,label,group"
            )
    if problems:
        listing.problems += problems
        return {}
    if unknown:
        file = place.rpartition(":")[0]
        listing.notices.append(f"{file}: columns {some(unknown, 5)} are ignored")
    return columns


def _path(root: Path, written: str) -> tuple[str, str]:
    """Convert a path as written to (path relative to `root`, reason why it is invalid)."""
    if not written:
        return "", "the path is empty"
    if any(unicodedata.category(char) == "Cc" for char in written):
        return "", f"the path '{shown(written)}' has control characters"
    path = os.path.normpath(written)
    if Path(path).is_absolute():
        home = os.path.normpath(root.absolute())
        path = os.path.relpath(path, home) if Path(path).is_relative_to(home) else path
    elif PurePosixPath(path).parts[:1] == ("..",):
        return (
            "",
            f"{shown(written)} is outside {shown(root)}; write an absolute path if intended",
        )
    if PurePosixPath(path).suffix.lower() not in SUFFIXES:
        return "", f"{shown(written)} is not one of {', '.join(sorted(SUFFIXES))}"
    if not is_file(root / path):
        hint = "; write / between folders" if "\\" in written else ""
        return "", f"no file {shown(root / path)}{hint}"
    return PurePosixPath(path).as_posix(), ""
