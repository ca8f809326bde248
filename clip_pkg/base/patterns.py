"""Regular expressions of users: some take longer than the universe is old, so they have a limit.

Python's `re` can be stopped from outside only: while it matches, no thread of its process runs. The
package `regex` has a time limit, but none for compiling, where `((a{1000}){1000}){1000}` fills the
memory, and it reads some expressions differently. So `re` matches in a process that the operating
system ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache

from clip_pkg.base.errors import UserError

SECONDS = 2  # of one core, for the start and for few texts
TEXTS_PER_SECOND = 20_000  # a tenth of what usual expressions reach on a slow core

_PROGRAM = """\
import json, re, resource, sys
pattern, texts, seconds = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
found = [re.search(pattern, text) for text in texts]
json.dump([match and match.group(1) for match in found], sys.stdout)
"""


@lru_cache(maxsize=4)  # configs of one study have the same expression and images
def first_groups(pattern: str, texts: Sequence[str]) -> tuple[str | None, ...]:
    """What the first parenthesis of a valid `pattern` captures in each text; None: no match.

    Raises UserError if that takes too long.
    """
    seconds = SECONDS + len(texts) // TEXTS_PER_SECOND
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PROGRAM],
        input=json.dumps([pattern, texts, seconds]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        raise UserError(
            f"the regular expression {pattern!r} takes too long; write it without a repetition "
            "inside a repetition, such as (a+)+"
        )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))
