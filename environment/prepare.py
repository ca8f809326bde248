"""Make `.venv` hold what a lock file pins, plus this package; do nothing when it already does.

    python environment/prepare.py check runtime     # exit 0 if ready, 1 if not; changes nothing
    python environment/prepare.py build dev         # makes, completes or repairs `.venv`

Only the standard library is used: this runs before anything is installed. The kinds of environment
share one `.venv`: `runtime` (training), `dev` (tests; a superset with the same pins) and `bench`
(`dev` and what the benchmarks compare with). A stamp, written last, says what is installed; a mark
says that an installation has begun. So a set-up that was interrupted anywhere is recognised, and
made anew.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from installers import has_uv, installers, output_of, say, succeeds

OLDEST_PYTHON = (3, 11)
INSTALLED = {"runtime": ("runtime",), "dev": ("dev",), "bench": ("dev", "bench")}  # lock files
LOCKS = {  # what each kind then includes
    "runtime": ("runtime",),
    "dev": ("dev", "runtime"),
    "bench": ("bench", "dev", "runtime"),
}
INTERRUPTED = 130  # what shells report after Ctrl-C

DESCRIBE_INTERPRETER = """
import json, sys, sysconfig
print(json.dumps({"version": list(sys.version_info[:3]), "site": sysconfig.get_path("purelib")}))
"""

# Every file that an installed package lists must be there: half-copied packages look installed.
# The list is read as it was written, since `distribution.files` leaves out what is missing.
LIST_MISSING_FILES = """
import csv
from importlib.metadata import distributions
for package in distributions():
    for name, *_ in csv.reader((package.read_text("RECORD") or "").splitlines()):
        if not name.endswith(".pyc") and not package.locate_file(name).exists():
            print(package.metadata["Name"])
            break
"""


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that starts: its version and the folder its packages are in."""

    version: tuple[int, ...]
    site_packages: Path

    @property
    def release(self) -> str:
        """Such as `3.13`; packages belong to one release."""
        return ".".join(map(str, self.version[:2]))


@dataclass(frozen=True)
class Environment:
    """The `.venv` of one checkout."""

    checkout: Path

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.checkout / ".venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Written last: what is installed."""
        return self.folder / ".installed.json"

    @property
    def begun(self) -> Path:
        """There while an installation is under way, and after one that was interrupted."""
        return self.folder / ".installing"

    @property
    def guard(self) -> Path:
        """Locked while one launcher changes the environment."""
        return self.checkout / ".venv.lock"

    def lock_file(self, name: str) -> Path:
        """The pinned requirements called `name`."""
        return self.checkout / "environment" / f"{name}.lock"

    def digests(self, kind: str) -> dict[str, str]:
        """What the stamp says of the lock files that `kind` includes."""
        return {
            name: hashlib.sha256(self.lock_file(name).read_bytes()).hexdigest()
            for name in LOCKS[kind]
        }

    def interpreter(self) -> Interpreter | None:
        """What `.venv/bin/python` is, or None if it does not start."""
        command = [str(self.python), "-I", "-c", DESCRIBE_INTERPRETER]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return None
        described = json.loads(answer)
        return Interpreter(tuple(described["version"]), Path(described["site"]))


def read_stamp(environment: Environment) -> dict[str, object]:
    """The stamp's content; empty if there is none, or none that can be read."""
    try:
        content = json.loads(environment.stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def why_broken(environment: Environment, interpreter: Interpreter | None) -> str | None:
    """Why `.venv` cannot be built upon, as half a sentence; None if it can."""
    if interpreter is None:
        return "its Python does not start"
    if interpreter.version < OLDEST_PYTHON:
        return f"its Python {interpreter.release} is too old"
    if environment.begun.exists():
        return "an earlier set-up was interrupted"
    return why_stale(environment, read_stamp(environment), interpreter)


def why_stale(
    environment: Environment, stamp: dict[str, object], interpreter: Interpreter
) -> str | None:
    """How `.venv` differs from what its stamp says; None if it agrees, or if there is no stamp."""
    if not stamp:
        return None  # somebody's own: completed in place
    if stamp.get("python") != interpreter.release:
        return f"it was made for Python {stamp.get('python')} and now has {interpreter.release}"
    if stamp.get("checkout") != str(environment.checkout):
        return "it was made for another folder"
    entries = stamp.get("entries")
    names = map(str, entries if isinstance(entries, list) else ())
    missing = [name for name in names if not (interpreter.site_packages / name).exists()]
    return f"{missing[0]} is missing from it" if missing else None


def is_ready(environment: Environment, kind: str) -> bool:
    """Whether `.venv` is whole and holds what `kind` needs."""
    installed = read_stamp(environment).get("locks")
    if not isinstance(installed, dict):
        return False
    current = environment.digests(kind)
    if any(installed.get(name) != digest for name, digest in current.items()):
        return False
    return why_broken(environment, environment.interpreter()) is None


@contextmanager
def one_at_a_time(environment: Environment) -> Iterator[None]:
    """Wait until no other launcher changes this environment, and keep others out meanwhile."""
    with environment.guard.open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another launch is setting it up; waiting for that one.")
            fcntl.flock(guard, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            say(f"this file system cannot lock ({error}); do not start two set-ups at once.")
        yield


def install(environment: Environment, kind: str) -> None:
    """Put the pinned packages and this package into `.venv`, or raise SetupError."""
    lock_files = [environment.lock_file(name) for name in INSTALLED[kind]]
    lines = [line for lock in lock_files for line in lock.read_text(encoding="utf-8").splitlines()]
    count = sum("==" in line for line in lines)
    say(f"installing up to {count} pinned packages; PyTorch with its CUDA libraries is several GB.")
    uv_lock = environment.lock_file("installer")
    for installer in installers(environment.checkout, environment.python, uv_lock):
        if all(map(installer.install_lock, lock_files)) and installer.install_package():
            return
    raise SetupError(
        "the packages could not be installed; the reason is above. It needs a connection to a "
        "package index and about 8 GB of free disk space. Start again to go on."
    )


def build(environment: Environment, kind: str) -> None:
    """Make, complete or repair `.venv`; the caller has it for itself."""
    exists = environment.folder.is_symlink() or environment.folder.exists()
    interpreter = environment.interpreter() if exists else None
    reason = why_broken(environment, interpreter) if exists else None
    if exists and reason is None and complete_in_place(environment, kind):
        return
    if exists:
        say(f"making .venv anew: {reason or 'files of installed packages are missing'}.")
    else:
        say(f"making .venv with Python {'.'.join(map(str, sys.version_info[:3]))}.")
    make_venv(environment)
    if not complete_in_place(environment, kind):
        raise SetupError("installed packages lack files. Remove the folder .venv and start again.")


def make_venv(environment: Environment) -> None:
    """Make an empty `.venv`, in place of what is there."""
    if environment.folder.is_symlink():
        # It may serve other checkouts: only the link goes, never what it leads to.
        say(f".venv was a link to {environment.folder.readlink()}, which stays as it is.")
        environment.folder.unlink()
    pip = ["--without-pip"] if has_uv() else []  # uv needs none, and some systems' Python has none
    if not succeeds([sys.executable, "-m", "venv", "--clear", *pip, str(environment.folder)]):
        raise SetupError(
            f"{sys.executable} could not make .venv; the reason is above. "
            "On Debian and Ubuntu, the package python3-venv is needed."
        )


def complete_in_place(environment: Environment, kind: str) -> bool:
    """Install into the `.venv` that is there; False if packages lack files afterwards."""
    environment.stamp.unlink(missing_ok=True)
    environment.begun.touch()
    install(environment, kind)
    if output_of([str(environment.python), "-I", "-c", LIST_MISSING_FILES]):
        return False
    interpreter = environment.interpreter()
    if interpreter is None:
        return False
    entries = sorted(entry.name for entry in interpreter.site_packages.iterdir())
    content = {
        "locks": environment.digests(kind),
        "python": interpreter.release,
        "checkout": str(environment.checkout),
        "entries": [entry for entry in entries if entry != "__pycache__"],
    }
    temporary = environment.stamp.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    environment.begun.unlink()
    temporary.replace(environment.stamp)
    return True


def main() -> int:
    """Read the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=("check", "build"))
    parser.add_argument("kind", choices=tuple(LOCKS))
    chosen = parser.parse_args()
    environment = Environment(Path(__file__).resolve().parent.parent)
    if chosen.action == "check":
        return 0 if is_ready(environment, chosen.kind) else 1
    started = time.monotonic()
    try:
        with one_at_a_time(environment):
            if not is_ready(environment, chosen.kind):
                build(environment, chosen.kind)
    except SetupError as error:
        print(f"Environment: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Environment: interrupted; start again to go on.", file=sys.stderr)
        return INTERRUPTED
    say(f"ready after {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
