from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clip_pkg.base.files import remove_leftovers, replacing, write_json, write_text


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as stream:
        stream.write(b"new but unfinis")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    code = (
        "import sys, pathlib; from clip_pkg.base.files import write_json\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1; write_json(pathlib.Path(sys.argv[1]), {'n': n, 'fill': 'x' * 200_000})\n"
    )
    for delay in (0.2, 0.3, 0.4):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(json.loads(path.read_text())["fill"]) == 200_000
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["a.json"]
