"""From a run to its report: draws, writes texts, and puts all files in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from clip_pkg import __version__
from clip_pkg.base.errors import UserError, shown
from clip_pkg.report.drawing import Drawing
from clip_pkg.report.figures.confusion import confusion_matrices
from clip_pkg.report.figures.convergence import convergence
from clip_pkg.report.figures.embedding import embedding_map
from clip_pkg.report.figures.folds import class_distribution, sampler_exposure
from clip_pkg.report.figures.learning import learning_curves
from clip_pkg.report.figures.scores import fold_scores, per_class
from clip_pkg.report.figures.thresholds import precision_recall, reliability, roc
from clip_pkg.report.files import FILES, write_files
from clip_pkg.report.findings import config_findings
from clip_pkg.report.methods import methods_paragraph, tests_sentence
from clip_pkg.report.page import PlacedFigure, page_html
from clip_pkg.report.pictures import Advance, Pictures
from clip_pkg.report.results import ConfigOutcome, ReportedRun
from clip_pkg.report.suspects import gallery
from clip_pkg.report.tables import (
    class_table,
    full_leaderboard,
    judged_pairs,
    losses_table,
    provenance,
)
from clip_pkg.results.comparison_records import DataSetComparison
from clip_pkg.results.comparison_tables import shown_estimate, title
from clip_pkg.results.suspects import find_suspects
from clip_pkg.results.tables import LATEX_PREAMBLE, latex_table

MAX_WITH_PICTURES = 6  # configs whose models are evaluated; of more, the best
MAX_PAIRS = 10  # in the page
MAX_SUSPECTS = 12  # with thumbnails
TOO_MANY_CONFIGS = (
    f"Feature maps and mistakes were made for the best {MAX_WITH_PICTURES} configurations only; "
    "run `report` on this config's own folder to make them for it."
)
SCOPE = (
    "Intervals cover other images like these. They do not say how much scores vary between "
    "training runs, or how well the models do on images from elsewhere."
)
NO_IMAGES = "No feature map and no mistakes are shown, because of --no-images."

Progress: TypeAlias = Callable[[int, int], None]
PictureMaker: TypeAlias = Callable[[ConfigOutcome, Advance], Pictures]


def write_report(
    run: ReportedRun,
    make_pictures: PictureMaker | None,
    progress: Progress,
    data_dir: Path | None = None,
) -> tuple[int, list[str]]:
    """Draw everything, write all files.

    Args:
        run: the results.
        make_pictures: evaluates the models of a config; None leaves images out.
        progress: called with (done, total): a step for each config, and one for each fold whose
            model is evaluated.
        data_dir: where the images of thumbnails are; None: where they were in training.

    Returns:
        The number of figures, and sentences about parts that were left out.
    """
    with_pictures = () if make_pictures is None else run.ranked[:MAX_WITH_PICTURES]
    total = len(run.ranked) + sum(len(outcome.done) for outcome in with_pictures)
    steps = count(1)

    def advance() -> None:
        progress(next(steps), total)

    figures: list[PlacedFigure] = []
    configs = []
    for number, outcome in enumerate(run.ranked, start=1):
        pictures, missing = None, NO_IMAGES if make_pictures is None else TOO_MANY_CONFIGS
        if make_pictures is not None and outcome in with_pictures:
            try:
                pictures, missing = make_pictures(outcome, advance), ""
            except UserError as error:
                missing = f"No feature map and no mistakes are shown: {error}"
        section = _config_section(run, outcome, f"c{number}", pictures, figures)
        configs.append({**section, "pictures_missing": missing})
        advance()
    scopes = {one["outcome"].paths.root: one["scope"] for one in configs}
    sets = [
        _data_set_section(run, one, f"d{number}", scopes, figures)
        for number, one in enumerate(run.comparison.data_sets, start=1)
    ]
    for one in sets:
        one["gallery"] = gallery(
            one["suspects"], MAX_SUSPECTS, data_dir, images=make_pictures is not None
        )
    findings = list(map(_sentence, run.comparison.main_findings(MAX_PAIRS)))
    page = page_html(
        "page.html.j2",
        title="Cross-validation report",
        subtitle=shown(run.root.name),
        version=__version__,
        lede=_lede(run, findings or configs[0]["findings"]),
        scope=SCOPE,
        findings=findings,
        notices=_notices(run),
        data_sets=sets,
        configs=configs,
        files=FILES,
    )
    methods, latex, suspects = (
        [one[key] for one in sets] for key in ("methods", "latex", "suspects")
    )
    write_files(run, page, figures=figures, methods=methods, latex=latex, suspects=suspects)
    reasons = [one["pictures_missing"] for one in configs]
    reasons += [one["gallery"].missing for one in sets]
    return len(figures), list(dict.fromkeys(filter(None, reasons)))


def _lede(run: ReportedRun, findings: list[str]) -> str:
    """The first finding, after the warning of unequal budgets where there is one."""
    budgets = {row.budget for row in run.comparison.data_sets[0].rows}
    return " ".join(findings[: 1 if len(budgets) == 1 else 2])


def _sentence(text: str) -> str:
    """Printable, with a full stop."""
    return shown(text) if text.endswith(".") else f"{shown(text)}."


def _notices(run: ReportedRun) -> list[str]:
    notices = [note for one in run.ranked for note in one.summary["notices"]]
    refused = [f"{', '.join(one.configs)}: {one.reason}" for one in run.comparison.refusals]
    return list(dict.fromkeys(map(_sentence, [*run.notices, *refused, *notices])))


def _config_section(
    run: ReportedRun,
    outcome: ConfigOutcome,
    scope: str,
    pictures: Pictures | None,
    figures: list[PlacedFigure],
) -> dict[str, Any]:
    """What the template shows of a config; adds to `figures`. pictures: None if not made."""

    def place(drawing: Drawing) -> PlacedFigure:
        figures.append(PlacedFigure(drawing, scope, outcome.paths.root.name))
        return figures[-1]

    metric = run.comparison.metric
    found = None if outcome.headline is None else outcome.headline.scores.get(metric)
    # The sampler showed the same images in all of these: one figure, in the first, shows them.
    alike = [one for one in run.ranked if one.has_exposure_of(outcome)]
    exposure = sampler_exposure(outcome) if alike[0] is outcome else None
    maps = () if pictures is None else pictures.maps
    return {
        "scope": scope,
        "outcome": outcome,
        "headline": ""
        if found is None
        else f"{title(metric).removesuffix(' %')} "
        f"{shown_estimate(found.value, found.interval, metric)}",
        "findings": config_findings(outcome),
        "learning": list(map(place, learning_curves(outcome))),
        "confusion": list(map(place, confusion_matrices(outcome))),
        "thresholds": [place(draw(outcome)) for draw in (roc, precision_recall, reliability)],
        "per_class": place(per_class(outcome)),
        "class_table": class_table(outcome),
        "exposure": None if exposure is None else place(exposure),
        "exposure_of": (
            ", ".join(one.label for one in alike) if len(alike) < len(run.ranked) else ""
        ),
        "provenance": provenance(outcome),
        "config_json": json.dumps(outcome.summary["config"], ensure_ascii=False, indent=2),
        "pictures": pictures,
        "embedding": place(embedding_map(outcome, maps)) if maps else None,
    }


def _data_set_section(
    run: ReportedRun,
    data_set: DataSetComparison,
    scope: str,
    scopes: Mapping[Path, str],
    figures: list[PlacedFigure],
) -> dict[str, Any]:
    """What the template shows of a data set; adds to `figures`. scopes: of configs, by folder."""
    folder = "" if len(run.comparison.data_sets) == 1 else f"images_{scope}"

    def place(drawing: Drawing) -> PlacedFigure:
        figures.append(PlacedFigure(drawing, scope, folder))
        return figures[-1]

    outcomes = [run.outcome_of(row) for row in data_set.rows]
    pairs = data_set.main_pairs(MAX_PAIRS)
    note = f"Pairs with the leader; all {len(data_set.pairs)} are in pairs.csv."
    table = full_leaderboard(run, data_set)
    label = f"tab:results-{scope}" if folder else "tab:results"
    curves = convergence(data_set.pretraining)
    return {
        "scope": scope,
        "name": shown(data_set.name),
        "facts": _facts(outcomes[0]),
        "leaderboard": table,
        "links": {
            shown(row.name): scopes[outcome.paths.root]
            for row, outcome in zip(data_set.rows, outcomes, strict=True)
        },
        "scores": place(fold_scores(run.comparison, data_set)),
        "distribution": place(class_distribution(outcomes[0])),
        "pairs": judged_pairs(run, data_set, pairs) if pairs else None,
        "pairs_note": note if len(pairs) < len(data_set.pairs) else "",
        "refusals": [
            _sentence(f"{', '.join(one.configs)}: {one.reason}") for one in data_set.refusals
        ],
        "methods": methods_paragraph(outcomes, tests_sentence(run.comparison, data_set)),
        "latex": f"{LATEX_PREAMBLE}\n{latex_table(table, label)}",
        "suspects": find_suspects(outcomes),
        "pretraining": losses_table(data_set),
        "convergence": None if curves is None else place(curves),
    }


def _facts(outcome: ConfigOutcome) -> list[tuple[str, str]]:
    """Numbers about images and folds."""
    counts, audit = outcome.class_counts, outcome.preflight
    fewest, most = min(counts.values()), max(counts.values())
    folds, method = outcome.folds_info["folds"], outcome.folds_info["method"]
    repeats = f"{outcome.n_repeats} repeats of " if outcome.n_repeats > 1 else ""
    facts = [
        ("Images", f"{outcome.n_images} in {len(counts)} classes"),
        ("Images per class", f"{fewest}" if fewest == most else f"{fewest} to {most}"),
        (
            "Splits",
            f"{method}: {folds[0]['n_val']} images"
            if outcome.is_holdout
            else f"{repeats}{len(folds) // outcome.n_repeats} folds, {method}",
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
