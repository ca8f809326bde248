"""`compare`: which config is better, on the terminal and in files."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_pkg.base.errors import RunFolderError, UserError
from clip_pkg.cli.output_file import check_target
from clip_pkg.launch.terminal import Terminal
from clip_pkg.results.comparison import compare
from clip_pkg.results.comparison_files import WRITERS, all_refusals, write_comparison
from clip_pkg.results.comparison_records import Comparison, DataSetComparison
from clip_pkg.results.comparison_tables import (
    epoch_table,
    leaderboard,
    pair_table,
    pretraining_table,
    rank_table,
)
from clip_pkg.results.tables import rich_table

NAME_WIDTH = 18  # what 80 columns leave beside a leaderboard's numbers, broken at their spaces
FIGURE_ONLY = (".png",)  # what tables and ranks cannot be written as
FIGURES = (".svg", ".pdf", *FIGURE_ONLY)
MOST_PAIRS = 15  # on the terminal; of more, only those of the leading config are shown


def compare_directories(parsed: argparse.Namespace) -> int:
    """Compare what is in the directories; show it, and write the files that were asked for."""
    terminal = Terminal()
    outputs: list[Path] = parsed.output
    for path in outputs:
        check_target(path, [], (*WRITERS, *FIGURE_ONLY))
    with terminal.counting("Configs") as progress:
        found = compare(
            parsed.directories, metric=parsed.metric, epoch=parsed.epoch, progress=progress
        )
    for one in found.data_sets:
        _show_data_set(one, found, terminal)
    if found.across is not None:
        terminal.console.print(rich_table(rank_table(found.across, found.metric)))
    _refuse_nothing(found)
    terminal.line()
    for sentence in _shown_findings(found):
        terminal.line(f"- {sentence}.")
    for reason in all_refusals(found):
        terminal.line(f"NOT COMPARED: {reason}", "yellow")
    for path in outputs:
        for written in _write(path, found):
            terminal.line(f"Wrote {written}")
    _next_steps(parsed, found, terminal)
    return 0


def _write(path: Path, found: Comparison) -> list[Path]:
    """Write a file; a figure shows pre-trainings where there are any, else ranks."""
    of_one_set = [one.pretraining for one in found.data_sets if one.pretraining]
    is_figure = path.suffix.lower() in FIGURES
    if is_figure and len(of_one_set) == 1 and found.across is None:
        # matplotlib takes its time, and tables do not need it
        from clip_pkg.report.figures.convergence import write_convergence  # noqa: PLC0415

        write_convergence(path, of_one_set[0])
        return [path]
    if path.suffix.lower() in FIGURE_ONLY:
        raise UserError(
            f"{path}: the curves of pre-trainings need configs with one, of one set of images"
        )
    return write_comparison(path, found)


def _show_data_set(one: DataSetComparison, found: Comparison, terminal: Terminal) -> None:
    if one.pretraining:
        terminal.console.print(rich_table(pretraining_table(one)))
        terminal.line(
            "Gain: points of Top-1 above the row without a pre-training; "
            "docs/contrastive.md says how to read the table."
        )
    scores = leaderboard(one, found)
    names_fit = all(len(name) <= NAME_WIDTH for name, *_ in (*scores.rows, *scores.reference))
    terminal.console.print(rich_table(scores, keep_names=names_fit))
    terminal.console.print(rich_table(epoch_table(one, found)))
    drawn = "groups of images that belong together" if one.grouped else "images"
    terminal.line(
        f"Intervals out of fold: {one.resamples} resamples of {drawn}, models held fixed. Epochs: "
        f"{one.rows[0].epoch_choice}."
    )
    pairs = one.pairs
    if len(pairs) > MOST_PAIRS:
        pairs = one.leaders_pairs
        terminal.line(
            f"Shown are the {len(pairs)} pairs with {one.leader.name} of {len(one.pairs)}."
        )
    if pairs:
        terminal.console.print(rich_table(pair_table(pairs, one, found)))


def _shown_findings(found: Comparison) -> list[str]:
    """All sentences, without those of pairs that are not shown."""
    hidden = {
        pair.sentence
        for one in found.data_sets
        if len(one.pairs) > MOST_PAIRS
        for pair in one.pairs
        if pair not in one.leaders_pairs
    }
    return [sentence for sentence in found.findings if sentence not in hidden]


def _refuse_nothing(found: Comparison) -> None:
    """Raise RunFolderError where there were several configs and no two could be compared.

    Seeds divide the images differently; a table of pre-trainings is worth showing all the same.
    """
    if any(one.pretraining for one in found.data_sets):
        return
    reasons = all_refusals(found)
    if reasons and found.across is None and not any(one.pairs for one in found.data_sets):
        raise RunFolderError("\n  ".join(["nothing can be compared:", *reasons]))


def _next_steps(parsed: argparse.Namespace, found: Comparison, terminal: Terminal) -> None:
    where = " ".join(str(directory) for directory in parsed.directories)
    configs = sum(len(one.rows) for one in found.data_sets)
    if configs == 1:
        terminal.line("One config has nothing to be compared with; give another folder beside it.")
        return
    terminal.line("Next:")
    if not parsed.output:
        terminal.line(
            f"  python train_clip.py compare {where} --output comparison.json comparison.md"
        )
    if found.epoch == "best":
        terminal.line(f"  python train_clip.py compare {where} --epoch last")
    terminal.line("  docs/comparing.md says which test is which, and how to cite it")
