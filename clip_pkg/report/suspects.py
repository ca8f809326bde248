"""Suspected labels with thumbnails: for the report, and as a page of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_pkg import __version__
from clip_pkg.base.errors import shown
from clip_pkg.inference.images import ImageFile, square_batches
from clip_pkg.report.page import page_html
from clip_pkg.report.pictures import PICTURE_SIZE, png
from clip_pkg.results.suspects import CAVEAT, REASONS, Suspect, Suspects

BATCH = 64
MAX_CONFUSIONS = 3  # pairs of classes in the summary


@dataclass(frozen=True, eq=False)
class Gallery:
    """The first suspects, to be shown.

    total: all suspects. thumbnails: PNG by path, of suspects and their copies. summary: sentences.
    missing: why thumbnails are left out; empty if none are.
    """

    suspects: Sequence[Suspect]
    total: int
    thumbnails: dict[str, bytes]
    summary: tuple[str, ...]
    missing: str

    def reasons(self, suspect: Suspect) -> list[str]:
        return [REASONS[reason] for reason in suspect.reasons if reason != "copy"]


def gallery(found: Suspects, limit: int, data_dir: Path | None, *, images: bool = True) -> Gallery:
    """Show the first `limit` suspects.

    Args:
        found: all suspects.
        limit: maximum number to show.
        data_dir: folder or CSV file of the images; None: where they were in training.
        images: False leaves thumbnails out.
    """
    first = found.ranked[:limit]
    thumbnails: dict[str, bytes] = {}
    missing = ""
    if first and images:
        names = dict.fromkeys(
            path for one in first for path in (one.path, one.copy_of) if path is not None
        )
        thumbnails, missing = _thumbnails(list(names), data_dir or found.data_dir)
    count = sum("confident" in one.reasons for one in found.ranked)
    averaged = f", the mean of {len(found.configs)} configs" if len(found.configs) > 1 else ""
    summary = [
        f"Confident learning (Northcutt et al. 2021) suspects {count} of {found.n_images} labels, "
        f"from the out-of-fold probabilities{averaged}."
    ]
    if found.confusions:
        pairs = [
            f"{shown(label)}, probably {shown(other)} ({number})"
            for label, other, number in found.confusions[:MAX_CONFUSIONS]
        ]
        summary.append(f"The most frequent pairs: labelled {'; '.join(pairs)}.")
    summary += [*found.notices, CAVEAT]
    return Gallery(first, len(found.ranked), thumbnails, tuple(summary), missing)


def suspects_page(found: Suspects, limit: int, data_dir: Path | None) -> tuple[str, list[str]]:
    """An HTML page that loads no other file, and sentences about what is missing in it."""
    shown_suspects = gallery(found, limit, data_dir)
    page = page_html(
        "suspects.html.j2",
        title="Suspected labels",
        subtitle=", ".join(map(shown, found.configs)),
        version=__version__,
        gallery=shown_suspects,
    )
    return page, [shown_suspects.missing] if shown_suspects.missing else []


def _thumbnails(paths: Sequence[str], data_dir: Path | None) -> tuple[dict[str, bytes], str]:
    """PNG by path, and a sentence about those that cannot be made."""
    if data_dir is None:
        return {}, "No thumbnails: the run does not record where its images were; use --data-dir."
    folder = data_dir.parent if data_dir.is_file() else data_dir
    files = [ImageFile(path, folder / path) for path in paths]
    thumbnails = {
        image.name: png(pixels)
        for batch in square_batches(files, size=PICTURE_SIZE, batch_size=BATCH)
        for image, pixels in zip(batch.images, batch.pixels, strict=True)
    }
    absent = len(paths) - len(thumbnails)
    if not absent:
        return thumbnails, ""
    return thumbnails, (
        f"{absent} of {len(paths)} thumbnails are missing: these images cannot be read in "
        f"{shown(folder)}. --data-dir names the folder where they are now."
    )
