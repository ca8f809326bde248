"""The small commands: each one call into the room that does the work."""

from __future__ import annotations

import json
from pathlib import Path

from clip_pkg.base.errors import WeightsError
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.config.describe import config_list_schema
from clip_pkg.config.load import load_configs
from clip_pkg.launch.probe import start_child_probe
from clip_pkg.launch.terminal import Terminal, results_table
from clip_pkg.results.folders import left_out, result_folders
from clip_pkg.results.summary import summarize
from clip_pkg.study.class_texts import write_template
from clip_pkg.study.scan import class_names


def schema() -> int:
    """Print the JSON Schema of the config list."""
    print(json.dumps(config_list_schema(), ensure_ascii=False, indent=2))
    return 0


def prefetch(config_file: Path) -> int:
    """Download the pretrained weights of all configs."""
    configs = load_configs(config_file).configs
    problems = start_child_probe(configs, fetch=True).problems()
    if problems:
        raise WeightsError("\n  ".join(["not everything could be downloaded:", *problems]))
    print(f"All weights of {len(configs)} config(s) are on this machine.")
    return 0


def class_texts(data_dir: Path, output: Path, template: str) -> int:
    """Write a class-texts file for the folders in `data_dir`."""
    classes = class_names(data_dir)
    write_template(classes, output, template)
    print(f"Wrote {output} with {len(classes)} classes; edit the texts, then set class_texts_file.")
    return 0


def summarize_directory(directory: Path) -> int:
    """Rebuild the summary of one config's folder, or of every one in a folder."""
    summaries = [summarize(ConfigPaths(folder)) for folder in result_folders([directory])]
    terminal = Terminal()
    terminal.console.print(results_table(summaries))
    for summary in summaries:
        if not summary["complete"]:
            done = summary["average_results"]["n"]
            terminal.line(
                f"{summary['config']['name']} is incomplete: {', '.join(left_out(summary))}. Its "
                f"averages are over {done} of {summary['n_folds']} folds; the training command "
                "goes on where it stopped.",
                "yellow",
            )
    return 0
