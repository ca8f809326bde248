"""From a run to its report: draws, writes words, and puts all files in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from clip_pkg import __version__
from clip_pkg.base.errors import shown
from clip_pkg.base.paths import ReportPaths
from clip_pkg.report.files import number_files, write_files
from clip_pkg.report.page import ConfigSection, Page, render
from clip_pkg.report.results import Run
from clip_pkg.report.sections import (
    PictureMaker,
    config_section,
    data_set_section,
    sentence,
    shown_pairs,
    with_pictures,
)
from clip_pkg.results.comparison_records import Comparison

MOST_WITH_PICTURES = 6  # configs whose models are looked at; of more, the best ones
NOT_AMONG_THE_BEST = (
    f"Only the models of the best {MOST_WITH_PICTURES} configurations were looked at; `report` "
    "with this one's own folder makes the map of features and the worst mistakes."
)
NO_IMAGES = "Left out, as --no-images asks for: the map of features and the worst mistakes."

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What was written. missing: sentences about parts that were left out."""

    paths: ReportPaths
    n_figures: int
    missing: tuple[str, ...]


def build(run: Run, make_pictures: PictureMaker | None, progress: Progress) -> Report:
    """Draw everything, write all files. make_pictures: None leaves images out.

    `progress` is called with (done, total): a step for each config, and for each of its folds that
    is looked at.
    """
    looked_at = () if make_pictures is None else run.ranked[:MOST_WITH_PICTURES]
    total = len(run.ranked) + sum(len(outcome.folds) for outcome in looked_at)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    sections: list[ConfigSection] = []
    for number, outcome in enumerate(run.ranked, start=1):
        section = config_section(run, outcome, f"c{number}")
        advance()
        if make_pictures is None:
            section = replace(section, pictures_missing=NO_IMAGES)
        elif outcome in looked_at:
            section = with_pictures(section, outcome, make_pictures, advance)
        else:
            section = replace(section, pictures_missing=NOT_AMONG_THE_BEST)
        sections.append(section)
    sets = [
        data_set_section(run, one, f"d{number}", sections)
        for number, one in enumerate(run.comparison.data_sets, start=1)
    ]
    page = Page(
        title="Cross-validation report",
        subtitle=shown(run.outcome.root.name),
        version=__version__,
        lede=_lede(run, sections),
        findings=_findings(run.comparison),
        notices=_notices(run),
        data_sets=sets,
        configs=sections,
        files=number_files(),
    )
    placed = [one for part in sets for one in part.figures]
    placed += [one for part in sections for one in part.figures]
    write_files(
        run.paths,
        render(page),
        placed=placed,
        sets=sets,
        comparison=run.comparison,
        outcomes=run.ranked,
    )
    missing = dict.fromkeys(
        section.pictures_missing for section in sections if section.pictures_missing
    )
    return Report(run.paths, len(placed), tuple(missing))


def _lede(run: Run, sections: Sequence[ConfigSection]) -> str:
    """The most important sentence."""
    return next((sentence(one) for one in run.comparison.findings), sections[0].findings[0])


def _findings(comparison: Comparison) -> list[str]:
    """Sentences of the comparison, without those on pairs that the page leaves to the CSV file."""
    hidden = {
        pair.sentence
        for one in comparison.data_sets
        for pair in one.pairs
        if pair not in shown_pairs(one)
    }
    return [sentence(one) for one in comparison.findings if one not in hidden]


def _notices(run: Run) -> list[str]:
    notices = [note for one in run.ranked for note in one.summary["notices"]]
    refused = [f"{', '.join(one.configs)}: {one.reason}" for one in run.comparison.refusals]
    return list(dict.fromkeys(map(sentence, [*run.outcome.notices, *refused, *notices])))
