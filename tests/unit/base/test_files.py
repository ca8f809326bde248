from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.base.files import (
    check_output_folder,
    remove_leftovers,
    replacing,
    write_json,
    write_text,
)


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


def test_a_folder_of_another_user_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        check_output_folder(folder / "a/b", "file")
        os.seteuid(65534)
        try:
            with pytest.raises(UserError, match="no files can be written there"):
                check_output_folder(folder / "a/b", "file")
        finally:
            os.seteuid(0)
        assert os.listdir(folder) == []


@pytest.mark.parametrize("room", [0, -1])
def test_names_that_fit_exactly(tmp_path: Path, room: int) -> None:
    limit = os.pathconf(tmp_path, "PC_NAME_MAX") - room
    if room < 0:
        with pytest.raises(UserError, match="too long"):
            check_output_folder(tmp_path / "new", "n" * limit)
    else:
        check_output_folder(tmp_path / "new", "n" * limit)
    assert os.listdir(tmp_path) == []


def test_only_the_last_folder_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "fold_1/a", "")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "deleted/fold_1/a", "")
    assert os.listdir(tmp_path) == ["fold_1"]
