"""A folder's configs, read and compared: what every part of the report starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clip_pkg.errors import RunFolderError
from clip_pkg.evaluation.comparison import compare
from clip_pkg.evaluation.comparison_records import Comparison, LeaderboardRow
from clip_pkg.paths import ConfigPaths, ReportPaths, RunPaths
from clip_pkg.planning.problems import shown
from clip_pkg.report.results import ConfigOutcome, RunOutcome, read_run


@dataclass(frozen=True)
class Run:
    """A folder's configs, compared; ranked holds them in the order of the leaderboards."""

    outcome: RunOutcome
    comparison: Comparison
    by_folder: Mapping[str, ConfigOutcome]
    ranked: tuple[ConfigOutcome, ...]
    paths: ReportPaths

    def row_of(self, outcome: ConfigOutcome) -> LeaderboardRow:
        """Its row in a leaderboard."""
        rows = (row for one in self.comparison.data_sets for row in one.rows)
        return next(row for row in rows if row.folder == str(outcome.paths.root))


def read(directory: Path) -> Run:
    """Read and compare. Raises RunFolderError for folders without results or with a strange one."""
    root = directory.resolve()
    outcome = read_run(root)
    paths = RunPaths(root).report
    if ConfigPaths(paths.root).folds_info.exists():
        raise RunFolderError(
            f"{shown(paths.root)} holds the results of a config called `{paths.root.name}`, and "
            "the report would be written into it: move it to another folder"
        )
    comparison = compare([one.paths.root for one in outcome.configs])
    by_folder = {str(one.paths.root): one for one in outcome.configs}
    ranked = tuple(by_folder[row.folder] for one in comparison.data_sets for row in one.rows)
    return Run(outcome, comparison, by_folder, ranked, paths)
