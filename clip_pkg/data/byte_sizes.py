"""Numbers of bytes, as people write them: 50GB, 500MiB."""

from __future__ import annotations

import re

POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
UNITS = ("kB", "MB", "GB", "TB")
WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b)?", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str) -> int:
    """Read a number of bytes, or of kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).

    Raises ValueError for anything else.
    """
    found = WRITTEN.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise ValueError(f"{text!r} is no size such as 50GB, 500MiB or 0")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** POWERS[(found[2] or "").lower()])


def shown_bytes(count: int) -> str:
    """`812 bytes`, `5.3 MB`, `1.2 TB`."""
    if count < 1000:
        return f"{count} bytes"
    power = 1
    while power < len(UNITS) and count >= 999.95 * 1000**power:
        power += 1
    return f"{count / 1000**power:.1f} {UNITS[power - 1]}"
