"""Exit codes of every command, and the one place that turns errors into them."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from enum import IntEnum

from clip_pkg.base.errors import UserError

NO_SPACE_OR_NO_PERMISSION = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


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
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    except OSError as error:
        if error.errno not in NO_SPACE_OR_NO_PERMISSION:
            raise
        print(
            f"error: {error}. Free some space or choose another folder, then run the same command "
            "again to resume.",
            file=sys.stderr,
        )
        return ExitCode.BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
