"""A study in which the n-th change to a file fails, is the last, or is lost with the power."""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from support.outcomes import check_readable, outcome
from support.tiny import CHECKOUT, TINY, program_environment

SOURCE = Path(__file__).with_name("faults.c")
SMALL = {**TINY, "img_size": 16, "batch_size": 6, "use_amp": False, "augmentation": "none"}
KILL, KILL_HALFWAY = -1, -2
ACTIONS: Mapping[str, int] = {
    "killed": KILL,
    "killed halfway": KILL_HALFWAY,
    "ENOSPC": errno.ENOSPC,
    "EIO": errno.EIO,
    "EACCES": errno.EACCES,
}
_STATE = struct.Struct("=4q4112s4096s4096s")  # `struct state` of faults.c


def shim(folder: Path) -> Path:
    """Compile faults.c; skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    library = folder / "faults.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class State:
    """What the preloaded library is told, and what it has seen; shared with all processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(_STATE.size))
        with path.open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), _STATE.size)

    def arm(self, root: Path, target: int = 0, action: int = 0, log: Path | None = None) -> None:
        """Count the changes below `root`, and let number `target` fail by `action`."""
        name = b"" if log is None else os.fsencode(log)
        self._memory[:] = _STATE.pack(target, 0, action, 0, b"", os.fsencode(root), name)

    def disarm(self) -> None:
        """Let everything happen, unseen."""
        self._memory[:] = bytes(_STATE.size)

    @property
    def count(self) -> int:
        return int(_STATE.unpack(self._memory[:])[1])

    @property
    def fired(self) -> str:
        """The change that failed, such as `rename /…/config.json`; empty if none did."""
        _, _, _, fired, where, _, _ = _STATE.unpack(self._memory[:])
        return os.fsdecode(where.split(b"\0")[0]) if fired else ""


@dataclass
class Study:
    """Two configs of two folds each, in `root`, which can be run again and again.

    folder: for everything else. executor: `inline` runs in forks of one process.
    """

    folder: Path
    images: Path
    executor: str = "inline"
    state: State = field(init=False)
    root: Path = field(init=False)
    expected: dict[str, Any] = field(init=False, default_factory=dict)
    _server: subprocess.Popen[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.root = self.folder / "study"
        self.state = State(self.folder / "state")
        configs = [
            {**SMALL, "name": "a", "use_superclip_loss": True},
            {**SMALL, "name": "b", "use_weighted_sampling": True},
        ]
        (self.folder / "configs.json").write_text(json.dumps(configs), encoding="utf-8")

    @property
    def output(self) -> Path:
        return self.root / "out"

    @property
    def said(self) -> str:
        """What the latest run printed."""
        return (self.folder / "said.txt").read_text(encoding="utf-8", errors="replace")

    def words(self) -> list[str]:
        where = ["--data-dir", self.images, "--output-dir", self.output]
        where += ["--log-dir", self.root / "logs", "--config-file", self.folder / "configs.json"]
        return [*map(str, where), "--multi-config", "--executor", self.executor]

    def run(self, *more: str) -> int:
        """Run the study; returns the exit code."""
        said = self.folder / "said.txt"
        said.unlink(missing_ok=True)
        if self._server is not None:
            return self._ask({"words": [*self.words(), *more], "output": str(said)})
        with said.open("wb") as stream:
            command = [sys.executable, str(CHECKOUT / "train_clip.py"), *self.words(), *more]
            return subprocess.run(
                command, env=self.environment(), stdout=stream, stderr=stream, timeout=180
            ).returncode

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(CHECKOUT / "tests"), str(CHECKOUT)])
        return {
            **program_environment(),
            "PYTHONPATH": path,
            "LD_PRELOAD": str(self.folder / "faults.so"),
            "FAULTS_STATE": str(self.state.path),
            "OMP_NUM_THREADS": "1",
        }

    def reset(self) -> None:
        """Begin with nothing."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()

    @contextmanager
    def open(self) -> Iterator[Study]:
        """Compile, start the server of an inline study, and learn what comes out undisturbed."""
        shim(self.folder)
        if self.executor == "inline":
            self._server = subprocess.Popen(
                [sys.executable, "-m", "support.fault_server"],
                env=self.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.reset()
            names, said = self.folder / "modules.txt", self.folder / "said.txt"
            order = {"words": self.words(), "output": str(said), "modules": str(names)}
            assert self._ask(order) == 0, self.said
            assert self._ask({"preload": str(names)}) == 0
        try:
            self.reset()
            assert self.run() == 0, self.said
            self.expected = outcome(self.output)
            yield self
        finally:
            if self._server is not None:
                self._server.kill()
                self._server.wait()

    def _ask(self, order: Mapping[str, Any]) -> int:
        assert self._server is not None
        to, answers = self._server.stdin, self._server.stdout
        assert to is not None
        assert answers is not None
        to.write(json.dumps(order) + "\n")
        to.flush()
        return int(json.loads(answers.readline()))

    def changes(self) -> list[Change]:
        """Run undisturbed, and return every change to a file, in order."""
        self.reset()
        log = self.folder / "changes.log"
        log.unlink(missing_ok=True)
        self.state.arm(self.root, log=log)
        assert self.run() == 0, self.said
        self.state.disarm()
        with log.open("rb") as stream:
            return list(read_changes(stream))

    def problem_after(self, target: int, action: int) -> tuple[str, str]:
        """Let change number `target` fail, then run again; returns the change and what is wrong."""
        self.reset()
        self.state.arm(self.root, target, action)
        code = self.run()
        fired, said = self.state.fired, self.said
        self.state.disarm()
        if not fired:
            return "", ""
        if action > 0 and (code not in (0, 1, 2) or "Traceback" in said):
            return fired, f"exit code {code}, and it said:\n{said}"
        return fired, self.problem_with_restart()

    def problem_after_power_loss(self, disk: Disk, *, names_are_kept: bool) -> str:
        """Run on what a disk holds after a power failure; returns what is wrong."""
        finished = disk.write_to(self.root, names_are_kept=names_are_kept)
        code = self.run()
        if finished and f"{finished} of 4 folds are already finished" not in self.said:
            return f"not all of {finished} finished folds were kept; it said:\n{self.said}"
        return self._problem(code)

    def problem_with_restart(self) -> str:
        """What is wrong after the same command is run again, or an empty text."""
        try:
            check_readable(self.output)
        except Exception as error:  # the test shows it, beside the fault that led to it
            return f"a file is not readable: {error!r}"
        return self._problem(self.run())

    def _problem(self, code: int) -> str:
        if code != 0 or "Traceback" in self.said:
            return f"the restart ended with exit code {code}, and said:\n{self.said}"
        found = outcome(self.output)
        different = [
            name
            for name in {**found, **self.expected}
            if found.get(name) != self.expected.get(name)
        ]
        if different:
            return f"other results after the restart: {different}"
        # What a cache has is the business of every run that shares it.
        left = [str(path) for path in self.root.rglob(".*.tmp") if ".cache" not in path.parts]
        return f"left behind: {left}" if left else ""


@dataclass(frozen=True)
class Change:
    """A change to a file: `open` (created or truncated), `write`, `truncate`, `fsync`, `rename`,
    `mkdir` or `unlink`. number: offset of a write, new length, or whether `open` truncates.
    """

    call: str
    path: str
    other: str
    number: int
    data: bytes

    @property
    def kind(self) -> tuple[str, str]:
        """Call and file, without what differs between folds and runs."""
        name = re.sub(r"[0-9a-f]{32}|\d+", "#", Path(self.other or self.path).name)
        return self.call, name


def read_changes(stream: IO[bytes]) -> Iterator[Change]:
    """Read the log of faults.c."""
    while line := stream.readline():
        call, number, size, length, other_length = line.split()
        path = os.fsdecode(stream.read(int(length)))
        other = os.fsdecode(stream.read(int(other_length)))
        yield Change(call.decode(), path, other, int(number), stream.read(int(size)))


class Disk:
    """What a file system shows, and what surely is on the disk: only what was flushed.

    The contents of a file are on the disk after an fsync of the file, its name after one of its
    folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.names: dict[str, int] = {}
        self.folders = {self.root}
        self.contents: dict[int, bytearray] = {}
        self._kept_names: dict[str, int] = {}
        self._kept_folders = {self.root}
        self._kept_contents: dict[int, bytes] = {}

    def apply(self, change: Change) -> None:
        """Follow one change."""
        path = change.path
        match change.call:
            case "open":
                if path not in self.names:
                    self.names[path] = len(self.contents)
                    self.contents[self.names[path]] = bytearray()
                elif change.number:
                    self.contents[self.names[path]].clear()
            case "write" if path in self.names:
                content, end = self.contents[self.names[path]], change.number + len(change.data)
                content.extend(bytes(max(0, end - len(content))))
                content[change.number : end] = change.data
            case "truncate" if path in self.names:
                content = self.contents[self.names[path]]
                content.extend(bytes(max(0, change.number - len(content))))
                del content[change.number :]
            case "fsync" if path in self.folders:
                self._flush(path)
            case "fsync" if path in self.names:
                number = self.names[path]
                self._kept_contents[number] = bytes(self.contents[number])
            case "rename":
                self.names[change.other] = self.names.pop(path)
            case "mkdir":
                self.folders.add(path)
            case "unlink":
                self.names.pop(path, None)
                self.folders.discard(path)

    def _flush(self, folder: str) -> None:
        def inside(path: str) -> bool:
            return str(Path(path).parent) == folder

        kept = {path: n for path, n in self._kept_names.items() if not inside(path)}
        self._kept_names = kept | {path: n for path, n in self.names.items() if inside(path)}
        self._kept_folders |= {path for path in self.folders if inside(path)}

    def write_to(self, root: Path, *, names_are_kept: bool) -> int:
        """Make `root` what the disk holds; returns the number of folds that surely are finished.

        names_are_kept: whether names that were not flushed are there as well, without contents.
        """
        shutil.rmtree(root, ignore_errors=True)
        names = self.names if names_are_kept else self._kept_names
        folders = self.folders if names_are_kept else self._kept_folders
        for folder in sorted(folders):
            if all(str(parent) in folders for parent in self._above(folder)):
                Path(folder).mkdir()
        for path, number in names.items():
            if Path(path).parent.is_dir():
                Path(path).write_bytes(self._kept_contents.get(number, b""))
        return sum(
            path.endswith("/result.json") and number in self._kept_contents
            for path, number in self._kept_names.items()
        )

    def _above(self, folder: str) -> list[Path]:
        parents = Path(folder).parents
        return [one for one in parents if one.is_relative_to(self.root)]
