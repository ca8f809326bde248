"""Files that are read back: whatever lies there is an answer or a sentence, at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.base.errors import DamagedFile, UserError
from clip_pkg.base.reading import open_regular, parse_json, read_bounded, read_json

DAMAGED = {
    "empty": b"",
    "cut off": b'{"a": 1',
    "a list": b"[]",
    "nested deeply": b'{"a":' + b"[" * 10**5,
    "not UTF-8": b'{"a": "\xff"}',
    "half a surrogate pair": rb'{"a": "\ud800"}',
    "not a number": b'{"a": NaN}',
    "a huge number": b'{"a": ' + b"9" * 10**5 + b"}",
    "another type": b'{"a": "text"}',
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_named_with_the_advice(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"some\.json is damaged .*; train again"):
        read_json(path, dict[str, int], "train again")


@given(st.binary(max_size=200))
def test_any_bytes_are_content_or_a_sentence(content: bytes) -> None:
    with contextlib.suppress(DamagedFile):
        assert isinstance(parse_json(content, dict[str, Any], Path("some.json")), dict)


def test_what_is_no_file_is_said_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("fifo", "zero", "loop", "."):
        with pytest.raises(DamagedFile, match="cannot be read"):
            read_json(tmp_path / name, dict[str, int])
    with pytest.raises(UserError, match="not a regular file"):
        open_regular(tmp_path / "fifo")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing", dict[str, int])


def test_a_pipe_is_read_to_its_end_or_refused_without_a_writer(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(UserError, match="no program writes"):
        read_bounded(fifo, 100, pipe=True)

    def write() -> None:
        time.sleep(0.2)
        with fifo.open("wb") as stream:
            for _ in range(3):
                stream.write(b"a" * 20)
                stream.flush()
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    assert read_bounded(fifo, 100, pipe=True) == b"a" * 60
    writer.join()
    reading, writing = os.pipe()  # as `<(command)` gives one, whose writer may be gone already
    os.write(writing, b"b" * 200)
    os.close(writing)
    with pytest.raises(UserError, match="more than"):
        read_bounded(Path(f"/dev/fd/{reading}"), 100, pipe=True)
    os.close(reading)


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(10**11)
    with pytest.raises(UserError, match="more than 1 MiB"):
        read_bounded(tmp_path / "huge", 1 << 20)
