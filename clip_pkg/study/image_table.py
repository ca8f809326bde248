"""Lists the images of a CSV file with the columns path, label and, optionally, group."""

from __future__ import annotations

import csv
import difflib
import io
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from clip_pkg.base.errors import DataError, shown, some
from clip_pkg.study.decoding import SUFFIXES
from clip_pkg.study.image_folder import ListedImage, Listing, check_names, is_file, label_of

COLUMNS = ("path", "label", "group")
DELIMITERS = (",", ";", "\t")


@dataclass
class _Table:
    """Collects the results of reading the lines."""

    file: Path
    rows: dict[str, ListedImage] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)  # path → its line
    names: list[tuple[str, str]] = field(default_factory=list)  # (place, label as written)
    problems: list[str] = field(default_factory=list)

    def place(self, line: int) -> str:
        """`file:line`."""
        return f"{shown(self.file.name)}:{line}"


def list_table(table_file: Path) -> Listing:
    """List the images that a CSV file names.

    Paths are absolute, or relative to the file's folder and inside it. The file is
    UTF-8, with or without byte order mark; columns are separated by commas, semicolons or tabs.

    Raises:
        DataError: The file cannot be read as a table. Errors on single lines are in the listing's
            `problems`, with their line numbers.
    """
    table = _Table(table_file)
    records = _records(table)
    header_line, header = next(records, (1, []))
    columns, notices = _columns(table, header_line, header)
    if columns:
        for line, record in records:
            _read_row(table, line, record, len(header), columns)
        if not table.rows and not table.problems:
            table.problems.append(f"{table.place(header_line)}: no images below the header")
    problems, case_notices = check_names(table.names)
    classes = {image.label for image in table.rows.values()}
    if len(classes) == 1 and not table.problems:
        problems.append(
            f"{shown(table_file.name)}: only one class, '{shown(min(classes))}'; two are needed"
        )
    images = tuple(sorted(table.rows.values(), key=lambda image: image.path))
    return Listing(
        table_file.parent, images, (), (*table.problems, *problems), (*notices, *case_notices)
    )


def _records(table: _Table) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of each line that is not blank."""
    try:
        text = table.file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{shown(table.file)}: is not UTF-8: save it as `CSV UTF-8`") from None
    except OSError as error:
        raise DataError(f"{shown(table.file)}: cannot be read: {error.strerror}") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for record in reader:
            if any(value.strip() for value in record):
                yield reader.line_num, record
    except csv.Error as error:
        table.problems.append(f"{table.place(reader.line_num)}: is not valid CSV: {error}")


def _columns(table: _Table, line: int, header: list[str]) -> tuple[dict[str, int], list[str]]:
    """Positions of the known columns; empty if a required one is missing."""
    names = [name.strip().casefold() for name in header]
    place = table.place(line)
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
    table.problems += problems
    notices = []
    if unknown and not problems:
        notices.append(f"{shown(table.file.name)}: columns {some(unknown, 5)} are ignored")
    return ({} if problems else columns), notices


def _read_row(
    table: _Table, line: int, record: list[str], width: int, columns: dict[str, int]
) -> None:
    place = table.place(line)
    if len(record) != width:
        table.problems.append(f"{place}: has {len(record)} values, the header has {width}")
        return
    written = record[columns["path"]].strip()
    label = record[columns["label"]].strip()
    group = label_of(record[columns["group"]]) if "group" in columns else None
    table.names.append((place, label))
    if group == "":
        table.problems.append(f"{place}: the group is empty; either all images have one, or none")
    path, reason = _path(table.file.parent, written)
    if reason:
        table.problems.append(f"{place}: {reason}")
    elif path in table.lines:
        table.problems.append(
            f"{place}: {shown(written)} is already on line {table.lines[path]}; keep one of them"
        )
    else:
        table.lines[path] = line
        table.rows[path] = ListedImage(path, label_of(label), group)


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
