"""What puts packages into an environment: uv, or pip where uv cannot be had."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def say(line: str) -> None:
    """Tell the user, at once and in order with what the installers print."""
    print(f"Environment: {line}", flush=True)


def succeeds(command: Sequence[str], extra: Mapping[str, str] | None = None) -> bool:
    """Run `command` with its output shown; whether it could be run and exited 0."""
    try:
        done = subprocess.run(command, env={**os.environ, **(extra or {})}, check=False)
    except OSError as error:
        print(f"{command[0]}: {error}", file=sys.stderr, flush=True)
        return False
    return done.returncode == 0


def output_of(command: Sequence[str]) -> str:
    """What `command` prints, or an empty text if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def quietly() -> list[str]:
    """Progress bars are for terminals; a log needs only the errors."""
    return [] if sys.stderr.isatty() else ["--quiet"]


def has_uv(program: str = "uv") -> bool:
    """Whether uv starts. To be on PATH is not enough: version managers put placeholders there."""
    return bool(output_of([program, "--version"]))


def index_of_pip() -> str:
    """Whoever told pip to use a mirror means uv as well, which does not read pip's settings."""
    if any(os.environ.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        return ""
    settings = output_of([sys.executable, "-m", "pip", "config", "list"])
    urls = dict(re.findall(r"^(\S+)\.index-url='(.+)'$", settings, re.MULTILINE))
    return next((urls[place] for place in (":env:", "install", "global") if place in urls), "")


@dataclass(frozen=True)
class Uv:
    """Installs with uv: fast, and keeps one copy of a package for many environments."""

    checkout: Path
    python: Path
    program: str
    index: str  # of packages; empty for uv's own choice

    def _install(self, *arguments: str) -> bool:
        target = ["--python", str(self.python)]
        command = [self.program, "pip", "install", *quietly(), *target, *arguments]
        return succeeds(command, {"UV_DEFAULT_INDEX": self.index} if self.index else None)

    def install_lock(self, lock_file: Path) -> bool:
        """Install what `lock_file` pins and nothing else; whether that went well."""
        exactly = ["--no-build", "--no-deps", "--require-hashes"]
        return self._install(*exactly, "--requirement", str(lock_file))

    def install_package(self) -> bool:
        """Install this package so that the checkout's own files are used."""
        source = ["--no-deps", "--no-build-isolation", "--offline", "--editable"]
        return self._install(*source, str(self.checkout))


@dataclass(frozen=True)
class Pip:
    """Installs with the pip of the environment."""

    checkout: Path
    python: Path

    def _install(self, *arguments: str) -> bool:
        python = str(self.python)
        if not output_of([python, "-m", "pip", "--version"]) and not succeeds(
            [python, "-m", "ensurepip", "--default-pip"]
        ):
            return False
        options = ["--disable-pip-version-check", "--no-input", *quietly()]
        return succeeds([python, "-m", "pip", "install", *options, *arguments])

    def install_lock(self, lock_file: Path) -> bool:
        """Install what `lock_file` pins and nothing else; whether that went well."""
        exactly = ["--only-binary", ":all:", "--no-deps", "--require-hashes"]
        return self._install(*exactly, "--requirement", str(lock_file))

    def install_package(self) -> bool:
        """Install this package so that the checkout's own files are used."""
        source = ["--no-deps", "--no-build-isolation", "--no-index", "--editable"]
        return self._install(*source, str(self.checkout))


def installers(checkout: Path, python: Path, uv_lock: Path) -> Iterator[Uv | Pip]:
    """What to install with, best first: uv, fetched with pip where it is not there, then pip."""
    pip = Pip(checkout, python)
    own = str(python.with_name("uv"))
    program = next(filter(has_uv, ("uv", own)), None)
    if program is None:
        say("uv is not here; fetching it with pip.")
        if pip.install_lock(uv_lock) and has_uv(own):
            program = own
    if program is not None:
        yield Uv(checkout, python, program, index_of_pip())
    say("going on with pip, which takes longer.")
    yield pip
