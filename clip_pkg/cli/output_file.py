"""Files that commands are asked to write."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.paths import ConfigPaths, FoldPaths


def check_target(path: Path, sources: Sequence[Path], suffixes: Sequence[str]) -> None:
    """Refuse a file that cannot be meant: one of the `sources`, a training run's, or no file.

    Any other file that is there will be replaced. suffixes: what its name may end in. Raises
    UserError.
    """
    place = shown(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise UserError(f"{place}: cannot be written: {error.strerror}") from None
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise UserError(
            f"{place} is a folder; name a file in it, such as {path / 'results'}{suffixes[0]}"
        )
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{place}: its name must end in {' or '.join(suffixes)}")
    if status is None:
        return
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{place} is no regular file; choose another name")
    if any(source.is_file() and path.samefile(source) for source in sources):
        raise UserError(f"{place} would overwrite what it is made from; choose another name")
    if FoldPaths(path.parent).task.exists() or ConfigPaths(path.parent).identity.exists():
        raise UserError(f"{place} is a file of a training run; choose another place")
