"""Exit codes of every command, and the one place that turns errors into them."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from enum import IntEnum

from clip_pkg.base.errors import UserError, printable

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Errors without a file name that are the machine's, not ours: disks, memory, file servers.
OF_THE_MACHINE = frozenset(
    {
        *(*NO_SPACE, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENXIO),
        *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV),
        getattr(errno, "EREMOTEIO", errno.EIO),  # Linux
    }
)


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1  # some folds failed
    BAD_INPUT = 2
    INTERRUPTED = 130


def exit_code(run: Callable[[], int]) -> int:
    """Call `run` and return its exit code; errors that a user can fix are printed as a sentence."""
    try:
        return run()
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    except OSError as error:
        # The state of a named file is the machine's as well: we check what we can before.
        if error.filename is None and error.errno not in OF_THE_MACHINE:
            raise
        what = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
        remedy = "Free some space" if error.errno in NO_SPACE else "Repair this"
        print(
            f"error: {printable(what)}. {remedy} or choose another place, then run the same "
            "command again; training resumes.",
            file=sys.stderr,
        )
        return ExitCode.BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
