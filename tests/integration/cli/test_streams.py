"""Real processes whose standard streams are closed, full, without a reader, or ASCII."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from support.tiny import command, make_folder, program_environment

POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


def shell(
    line: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell; the exit code of a pipe is that of its first program."""
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        cwd=folder,
        env={**program_environment(), **(environment or {})},
        capture_output=True,
    )


@pytest.fixture
def training(tmp_path: Path, write_configs: Callable[..., Path]) -> str:
    """A training of one epoch, as a line of a shell; names are not ASCII, nor harmless."""
    data = make_folder(tmp_path / "images", {"[red]grün": 4, "中": 4})
    configs = write_configs({"name": "[/a] größer", "epochs": 1})
    where = ["--data-dir", data, "--output-dir", tmp_path / "out"]
    return shlex.join(command(*where, "--config-file", configs, "--executor", "inline"))


@pytest.mark.parametrize(
    ("streams", "environment"),
    [
        ("<&- >&- 2>&-", {}),
        ("> /dev/full 2> /dev/full", {}),
        ("2>&1 | (read line; kill -9 $BASHPID)", {}),
        ("> shown.txt", POSIX),
    ],
    ids=["closed", "full", "killed reader", "ASCII"],
)
def test_training(streams: str, environment: dict[str, str], training: str, tmp_path: Path) -> None:
    done = shell(f"{training} {streams}", tmp_path, environment)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    folder = tmp_path / "out/[_a] größer"
    assert len(list(folder.glob("fold_*/result.json"))) == 2
    assert "中" in (folder / "folds_info.json").read_text(encoding="utf-8")
    logs = list((tmp_path / "logs/clip_training").glob("*.log"))
    assert "Fold 2 done" in "".join(log.read_text(encoding="utf-8") for log in logs)
    for file in tmp_path.rglob("*"):  # nothing that was printed is in a file of the run
        assert (
            file == tmp_path / "shown.txt"
            or not file.is_file()
            or (b"validation images" not in file.read_bytes())
        )
    if environment:
        assert "[red]gr?n" in (tmp_path / "shown.txt").read_text(encoding="ascii")


def test_the_terminal_of_a_training_is_closed(training: str, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *shlex.split(training)],
        cwd=tmp_path,
        env={**program_environment(), "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    os.read(controller, 10)  # it has begun
    os.close(controller)  # SIGHUP, and EIO for whatever is printed
    assert process.wait(120) == 0
    assert len(list(tmp_path.glob("out/*/fold_*/result.json"))) == 2


def test_other_commands(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "images", {"grün": 1, "中": 1})
    texts = ["class-texts", "--data-dir", data, "--output"]
    failures, count = [], 0
    for words, code in (
        (["--help"], 0),
        (["schema"], 0),
        ([*texts, "texts.json"], 0),
        (["status", "none"], 2),
    ):
        for streams in (">&- 2>&- <&-", ">/dev/full 2>/dev/full", "2>&1 | head -c1", "2>err >out"):
            count += 1
            (tmp_path / "texts.json").unlink(missing_ok=True)
            done = shell(f"{shlex.join(command(*words))} {streams}", tmp_path, POSIX)
            if done.returncode != code or done.stderr:
                failures.append(f"{words} {streams}: {done}")
        shown = (tmp_path / "out").read_text("ascii") + (tmp_path / "err").read_text("ascii")
        if code and not shown.startswith("error: "):
            failures.append(f"{words}: {shown}")
    print(f"{count} cases, {len(failures)} failures")
    assert failures == []


def test_what_is_only_shown_ends_with_its_reader(tmp_path: Path) -> None:
    code = (
        "from clip_pkg.base.streams import ending_with_reader, secure_streams\n"
        "secure_streams()\n"
        "with ending_with_reader():\n"
        "    while True: print('still running')"
    )
    done = shell(f"{shlex.join([sys.executable, '-c', code])} | head -1", tmp_path)
    assert (done.returncode, done.stdout) == (128 + signal.SIGPIPE, b"still running\n")


def test_a_reader_that_is_slow_gets_everything(tmp_path: Path) -> None:
    code = (
        "import os; from clip_pkg.base.streams import secure_streams\n"
        "secure_streams(); os.set_blocking(1, False); print('x' * 1_000_000, flush=True)"
    )
    done = shell(f"{shlex.join([sys.executable, '-c', code])} | (sleep 1; wc -c)", tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, b"1000001")
