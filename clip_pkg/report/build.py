"""From a run to its report: draws, writes texts, and puts all files in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from clip_pkg import __version__
from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.paths import ReportPaths
from clip_pkg.report.drawing import Drawing
from clip_pkg.report.figures.confusion import confusion_counts, confusion_shares
from clip_pkg.report.figures.convergence import convergence
from clip_pkg.report.figures.embedding import embedding_map
from clip_pkg.report.figures.folds import class_distribution, sampler_exposure
from clip_pkg.report.figures.learning import accuracy_curves, loss_curves
from clip_pkg.report.figures.scores import fold_scores, per_class
from clip_pkg.report.figures.thresholds import precision_recall, reliability, roc
from clip_pkg.report.files import FILES, write_files
from clip_pkg.report.findings import config_findings
from clip_pkg.report.methods import methods_paragraph, tests_sentence
from clip_pkg.report.page import ConfigSection, DataSetSection, Page, PlacedFigure, render
from clip_pkg.report.pictures import Advance, Pictures
from clip_pkg.report.results import ConfigOutcome, Run
from clip_pkg.report.tables import class_table, leaderboard, losses_table, pair_table, provenance
from clip_pkg.results.comparison_records import DataSetComparison
from clip_pkg.results.comparison_tables import shown_spread, title
from clip_pkg.results.tables import LATEX_PREAMBLE, latex_table

MAX_WITH_PICTURES = 6  # configs whose models are evaluated; of more, the best
MAX_PAIRS = 10  # in the page
TOO_MANY_CONFIGS = (
    f"Feature maps and mistakes were made for the best {MAX_WITH_PICTURES} configurations only; "
    "run `report` on this config's own folder to make them for it."
)
NO_IMAGES = "No feature map and no mistakes are shown, because of --no-images."

Progress: TypeAlias = Callable[[int, int], None]
PictureMaker: TypeAlias = Callable[[ConfigOutcome, Advance], Pictures]


@dataclass(frozen=True)
class Report:
    """What was written. missing: sentences about parts that were left out."""

    paths: ReportPaths
    n_figures: int
    missing: tuple[str, ...]


def build(run: Run, make_pictures: PictureMaker | None, progress: Progress) -> Report:
    """Draw everything, write all files. make_pictures: None leaves images out.

    `progress` is called with (done, total): a step for each config, and one for each fold whose
    model is evaluated.
    """
    with_pictures = () if make_pictures is None else run.ranked[:MAX_WITH_PICTURES]
    total = len(run.ranked) + sum(len(outcome.folds) for outcome in with_pictures)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    sections = []
    for number, outcome in enumerate(run.ranked, start=1):
        pictures, missing = None, NO_IMAGES if make_pictures is None else TOO_MANY_CONFIGS
        if make_pictures is not None and outcome in with_pictures:
            try:
                pictures, missing = make_pictures(outcome, advance), ""
            except UserError as error:
                missing = f"No feature map and no mistakes are shown: {error}"
        sections.append(_config_section(run, outcome, f"c{number}", pictures, missing))
        advance()
    sets = [
        _data_set_section(run, one, f"d{number}", sections)
        for number, one in enumerate(run.comparison.data_sets, start=1)
    ]
    findings = list(map(_sentence, run.comparison.main_findings(MAX_PAIRS)))
    page = Page(
        title="Cross-validation report",
        subtitle=shown(run.root.name),
        version=__version__,
        lede=findings[0] if findings else sections[0].findings[0],
        findings=findings,
        notices=_notices(run),
        data_sets=sets,
        configs=sections,
        files=FILES,
    )
    placed = [one for part in sets for one in part.figures]
    placed += [one for part in sections for one in part.figures]
    write_files(run, render(page), placed=placed, sets=sets)
    reasons = dict.fromkeys(one.pictures_missing for one in sections if one.pictures_missing)
    return Report(run.paths, len(placed), tuple(reasons))


def _sentence(text: str) -> str:
    """Printable, with a full stop."""
    return shown(text) if text.endswith(".") else f"{shown(text)}."


def _notices(run: Run) -> list[str]:
    notices = [note for one in run.ranked for note in one.summary["notices"]]
    refused = [f"{', '.join(one.configs)}: {one.reason}" for one in run.comparison.refusals]
    return list(dict.fromkeys(map(_sentence, [*run.notices, *refused, *notices])))


def _config_section(
    run: Run, outcome: ConfigOutcome, scope: str, pictures: Pictures | None, missing: str
) -> ConfigSection:
    def placed(drawing: Drawing) -> PlacedFigure:
        return PlacedFigure(drawing, scope, outcome.folder)

    exposure = sampler_exposure(outcome)
    alike = [one for one in run.ranked if one.has_exposure_of(outcome)]
    metric = run.comparison.metric
    heading, _, unit = title(metric).partition(" %")
    spread = getattr(run.row_of(outcome), run.comparison.epoch)[metric]
    maps = () if pictures is None else pictures.maps
    return ConfigSection(
        scope=scope,
        outcome=outcome,
        headline=f"{heading} {shown_spread(spread, metric)}{unit}",
        findings=config_findings(outcome),
        learning=[placed(loss_curves(outcome)), placed(accuracy_curves(outcome))],
        confusion=[placed(confusion_counts(outcome)), placed(confusion_shares(outcome))],
        thresholds=[
            placed(roc(outcome)),
            placed(precision_recall(outcome)),
            placed(reliability(outcome)),
        ],
        per_class=placed(per_class(outcome)),
        class_table=class_table(outcome),
        exposure=placed(exposure) if exposure is not None and alike[0] is outcome else None,
        exposure_of=", ".join(one.name for one in alike) if len(alike) < len(run.ranked) else "",
        provenance=provenance(outcome),
        config_json=json.dumps(outcome.summary["config"], ensure_ascii=False, indent=2),
        pictures=pictures,
        pictures_missing=missing,
        embedding=placed(embedding_map(outcome, maps)) if maps else None,
    )


def _data_set_section(
    run: Run, data_set: DataSetComparison, scope: str, sections: Sequence[ConfigSection]
) -> DataSetSection:
    """Compare the configs of a data set; `sections` are those of all configs."""
    outcomes = [run.outcome_of(row) for row in data_set.rows]
    scope_of = {section.outcome.files.paths.root: section.scope for section in sections}
    folder = "" if len(run.comparison.data_sets) == 1 else f"images_{scope}"
    pairs = data_set.main_pairs(MAX_PAIRS)
    table = leaderboard(run, data_set)
    label = f"tab:results-{scope}" if folder else "tab:results"
    curves = convergence(data_set.pretraining)
    return DataSetSection(
        scope=scope,
        name=shown(data_set.name),
        facts=_facts(outcomes[0]),
        leaderboard=table,
        links={
            shown(row.name): scope_of[outcome.files.paths.root]
            for row, outcome in zip(data_set.rows, outcomes, strict=True)
        },
        scores=PlacedFigure(fold_scores(run.comparison, data_set), scope, folder),
        distribution=PlacedFigure(class_distribution(outcomes[0]), scope, folder),
        pairs=pair_table(run, data_set, pairs) if pairs else None,
        pairs_note=(
            ""
            if len(pairs) == len(data_set.pairs)
            else f"Pairs with the leader; all {len(data_set.pairs)} are in pairs.csv."
        ),
        refusals=[
            _sentence(f"{', '.join(one.configs)}: {one.reason}") for one in data_set.refusals
        ],
        methods=methods_paragraph(outcomes, tests_sentence(run.comparison, data_set)),
        latex=f"{LATEX_PREAMBLE}\n{latex_table(table, label)}",
        pretraining=losses_table(data_set),
        convergence=None if curves is None else PlacedFigure(curves, scope, folder),
    )


def _facts(outcome: ConfigOutcome) -> list[tuple[str, str]]:
    """Numbers about images and folds."""
    counts, audit = outcome.class_counts, outcome.preflight
    fewest, most = min(counts.values()), max(counts.values())
    folds, method = outcome.folds_info["folds"], outcome.folds_info["method"]
    facts = [
        ("Images", f"{outcome.n_images} in {len(counts)} classes"),
        ("Images per class", f"{fewest}" if fewest == most else f"{fewest} to {most}"),
        (
            "Splits",
            f"{method}: {folds[0]['n_val']} images"
            if outcome.is_holdout
            else f"{len(folds)} folds, {method}",
        ),
    ]
    if outcome.n_groups is not None:
        facts.append(("Groups kept together", f"{outcome.n_groups}"))
    if linked := len(outcome.folds_info["linked"]):
        facts.append(("Clusters of copies kept together", f"{linked}"))
    if audit:
        (w0, w1, w2), (h0, h1, h2) = audit["width"], audit["height"]
        size = f"{w1} × {h1}" if (w0, h0) == (w2, h2) else f"{w0} × {h0} to {w2} × {h2}"
        facts.append(("Pixels", size))
        kinds = (f"{count} {name}" for name, count in audit["formats"].items())
        facts.append(("File formats", ", ".join(kinds)))
        if audit["unreadable"]:
            facts.append(("Excluded, unreadable", f"{len(audit['unreadable'])}"))
    return facts
