"""What a command's mistakes and interruptions become: a sentence and an exit code.

0 all done, 1 some folds failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from clip_pkg.base.errors import UserError

EXIT_INTERRUPTED = 130


def exit_code(run: Callable[[], int]) -> int:
    """Run a command that returns its exit code; what a user can mend is told in a sentence."""
    try:
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(
            f"error: {error}; make room or choose another folder, then run the same command "
            "again: it goes on",
            file=sys.stderr,
        )
        return UserError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
