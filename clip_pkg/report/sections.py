"""Parts of the page: drawings, tables and words of a config, and of an image set."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from clip_pkg.base.errors import UserError, shown
from clip_pkg.metrics.table import METRICS
from clip_pkg.report.drawing import Drawing
from clip_pkg.report.figures.confusion import confusion_counts, confusion_shares
from clip_pkg.report.figures.convergence import convergence
from clip_pkg.report.figures.embedding import embedding_map
from clip_pkg.report.figures.folds import class_distribution, sampler_exposure
from clip_pkg.report.figures.learning import accuracy_curves, loss_curves
from clip_pkg.report.figures.scores import fold_scores, per_class
from clip_pkg.report.figures.thresholds import precision_recall, reliability, roc
from clip_pkg.report.findings import config_findings
from clip_pkg.report.latex import booktabs
from clip_pkg.report.methods import methods_paragraph, tests_sentence
from clip_pkg.report.page import ConfigSection, DataSetSection, PlacedFigure
from clip_pkg.report.pictures import Advance, Pictures
from clip_pkg.report.results import ConfigOutcome, Run
from clip_pkg.report.tables import (
    class_table,
    leaderboard,
    losses_table,
    pair_table,
    provenance,
    spread_text,
)
from clip_pkg.results.comparison_records import DataSetComparison, PairResult

MOST_PAIRS = 10  # in the page

PictureMaker: TypeAlias = Callable[[ConfigOutcome, Advance], Pictures]


def sentence(text: str) -> str:
    """With a full stop, fit for a line."""
    return shown(text) if text.endswith(".") else f"{shown(text)}."


def shown_pairs(data_set: DataSetComparison) -> Sequence[PairResult]:
    """All pairs, or those with the leader where there are many."""
    if len(data_set.pairs) <= MOST_PAIRS:
        return data_set.pairs
    return data_set.leaders_pairs


def config_section(run: Run, outcome: ConfigOutcome, scope: str) -> ConfigSection:
    """Draw and describe a config, all but what needs its images; `scope` names it in the page."""

    def placed(drawing: Drawing) -> PlacedFigure:
        return PlacedFigure(drawing, scope, outcome.paths.root.name)

    exposure = sampler_exposure(outcome)
    alike = [one for one in run.ranked if one.shown_alike(outcome)]
    return ConfigSection(
        scope=scope,
        name=outcome.name,
        headline=_headline(run, outcome),
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
        classes=outcome.classes,
        exposure=placed(exposure) if exposure is not None and alike[0] is outcome else None,
        exposure_of=", ".join(one.name for one in alike) if len(alike) < len(run.ranked) else "",
        provenance=provenance(outcome),
        config_json=json.dumps(outcome.summary["config"], ensure_ascii=False, indent=2),
        no_mistakes=outcome.commonest_mistake is None,
    )


def _headline(run: Run, outcome: ConfigOutcome) -> str:
    metric = run.comparison.metric
    row = run.row_of(outcome)
    spread = getattr(row, run.comparison.epoch).get(metric)
    about = METRICS[metric]
    return f"{about.heading} {spread_text(spread, metric)} {about.unit_sign}".rstrip()


def with_pictures(
    section: ConfigSection, outcome: ConfigOutcome, make_pictures: PictureMaker, advance: Advance
) -> ConfigSection:
    """Add what needs images and models, or why it is not there."""
    try:
        pictures = make_pictures(outcome, advance)
    except UserError as error:
        return replace(
            section,
            pictures_missing=f"Left out are the map of features and the worst mistakes: {error}",
        )
    embedding = None
    if pictures.maps:
        drawing = embedding_map(outcome, pictures.maps)
        embedding = PlacedFigure(drawing, section.scope, outcome.paths.root.name)
    return replace(
        section,
        embedding=embedding,
        mistakes=pictures.mistakes,
        picture_notices=pictures.notices,
    )


def data_set_section(
    run: Run, data_set: DataSetComparison, scope: str, sections: Sequence[ConfigSection]
) -> DataSetSection:
    """Compare the configs of an image set; `sections` are those of all configs."""
    outcomes = [run.by_folder[row.folder] for row in data_set.rows]
    scope_of = {id(one): section.scope for one, section in zip(run.ranked, sections, strict=True)}
    folder = "" if len(run.comparison.data_sets) == 1 else f"images_{scope}"
    pairs = shown_pairs(data_set)
    table = leaderboard(run.comparison, data_set, run.by_folder)
    curves = convergence(data_set.pretraining)
    return DataSetSection(
        scope=scope,
        name=shown(data_set.name),
        facts=_facts(outcomes[0]),
        leaderboard=table,
        links={
            shown(row.name): scope_of[id(one)]
            for row, one in zip(data_set.rows, outcomes, strict=True)
        },
        scores=PlacedFigure(fold_scores(run.comparison, data_set), scope, folder),
        distribution=PlacedFigure(class_distribution(outcomes[0]), scope, folder),
        pairs=pair_table(run.comparison, pairs) if pairs else None,
        pairs_note=(
            ""
            if len(pairs) == len(data_set.pairs)
            else f"Pairs with the leader; all {len(data_set.pairs)} are in pairs.csv."
        ),
        refusals=[sentence(f"{', '.join(one.configs)}: {one.reason}") for one in data_set.refusals],
        methods=methods_paragraph(outcomes, tests_sentence(run.comparison, data_set)),
        latex=booktabs(table, "tab:results" if not folder else f"tab:results-{scope}"),
        pretraining=losses_table(data_set),
        convergence=None if curves is None else PlacedFigure(curves, scope, folder),
    )


def _facts(outcome: ConfigOutcome) -> list[tuple[str, str]]:
    """What there is to say of the images and folds in numbers."""
    counts, audit = outcome.class_counts, outcome.preflight
    fewest, most = min(counts.values()), max(counts.values())
    folds = outcome.folds_info["folds"]
    facts = [
        ("Images", f"{outcome.n_images} in {len(counts)} classes"),
        ("Images per class", f"{fewest}" if fewest == most else f"{fewest} to {most}"),
        ("Division", f"{len(folds)} folds, {outcome.folds_info['method']}"),
    ]
    if outcome.is_holdout:
        facts[-1] = ("Division", f"{outcome.folds_info['method']}: {folds[0]['n_val']} images")
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
            facts.append(("Left out, unreadable", f"{len(audit['unreadable'])}"))
    return facts
