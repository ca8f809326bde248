"""The summary of each config, made again when one of its folds ends, and only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.paths import RunPaths
from clip_pkg.launch.terminal import Terminal
from clip_pkg.results.curves import write_mean_curves
from clip_pkg.results.folders import ConfigFiles
from clip_pkg.results.summary import summarize
from clip_pkg.study.run_folder import SharedFiles


class Summaries:
    """`cv_summary.json` and the mean curves of a run's configs."""

    def __init__(self, run: RunPaths, files: SharedFiles, terminal: Terminal) -> None:
        self._run = run
        self._files = files
        self._terminal = terminal
        # Names only: the summaries of thousands of configs would fill the launcher's memory.
        self._written: set[str] = set()

    def update(self, name: str) -> None:
        """Write the summary of a config while others train; an error here does not end the run.

        name: of a task; pre-trainings have no summary.
        """
        self._written.discard(name)
        try:
            self._files.restore(self._run.config(name).root)
            if self._run.config(name).config.exists():
                self._write(name)
        except (OSError, RunFolderError) as error:
            self._terminal.line(
                f"The summary of {name} could not be written yet: {error}", "yellow"
            )

    def of(self, name: str) -> Mapping[str, Any]:
        """Summary of a config, written now unless it was since the config's last fold ended."""
        if name not in self._written:
            return self._write(name)
        return ConfigFiles.read(self._run.config(name)).summary

    def _write(self, name: str) -> Mapping[str, Any]:
        summary = summarize(self._run.config(name))
        write_mean_curves(self._run.config(name))
        self._written.add(name)
        return summary
