"""Many mistakes in the data, told at once."""

from __future__ import annotations

from collections.abc import Iterable

from clip_pkg.errors import DataError

SHOWN = 20


class DataErrors(DataError):
    """Everything that is wrong with a set of images; the message shows the first 20.

    `problems` holds all of them, one sentence each, for a report.
    """

    def __init__(self, where: object, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        assert self.problems, "DataErrors needs at least one problem"
        count = len(self.problems)
        lines = [f"{count} problem{'s' if count > 1 else ''} in {shown(where)}:"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  … and {count - SHOWN} more")
        super().__init__("\n".join(lines))


def shown(name: object) -> str:
    """Make a file or class name fit for one line of a terminal, whatever bytes are in it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in str(name)
    )


def some(names: Iterable[object], limit: int = 3) -> str:
    """List the first few names: `a, b, c and 5 more`."""
    listed = [shown(name) for name in names]
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")
