"""What the text encoder reads for each class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassTexts:
    """Prompts of C classes.

    Args:
        classes: C names in the manifest's order.
        prompts: C tuples of at least one prompt each, aligned with `classes`.
        source: The file, or how the texts were made.
        notices: What the user should know, one sentence each.
    """

    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    source: str
    notices: tuple[str, ...]
