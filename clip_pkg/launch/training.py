"""The main command: check everything, write the tasks, run them, sum up."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from clip_pkg.base.paths import RunPaths
from clip_pkg.cli.exit_codes import EXIT_INTERRUPTED
from clip_pkg.config.load import LoadedConfigs
from clip_pkg.config.schema import RunConfig
from clip_pkg.launch.continuation import report_continuation
from clip_pkg.launch.execution import execute
from clip_pkg.launch.pixels import pixel_stores
from clip_pkg.launch.preparation import (
    Preparation,
    PreparedConfig,
    prepare,
    report_lines,
)
from clip_pkg.launch.probe import (
    InlineProbe,
    Probe,
    WorkerProbe,
    encoder_requests,
    start_child_probe,
)
from clip_pkg.launch.resources import Resources, check_gpus_per_task, find_resources
from clip_pkg.launch.run_folder import (
    fold_tasks,
    folders_to_replace,
    refuse_folder_in_use,
    set_aside,
    sole_launcher,
    write_config_files,
    write_tasks,
)
from clip_pkg.launch.terminal import Terminal, failures_table, profile_table, results_table
from clip_pkg.results.curves import write_mean_curves
from clip_pkg.results.summary import summarize
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.inline import InlineExecutor
from clip_pkg.scheduling.job import JobState
from clip_pkg.scheduling.loop import Outcome
from clip_pkg.scheduling.process import ProcessExecutor
from clip_pkg.study.progress import read_profile
from clip_pkg.study.tasks import FoldFailure, PretrainTask, Task, finished, read_record

EXIT_FAILED = 1


def validate(parsed: argparse.Namespace, loaded: LoadedConfigs) -> int:
    """Check everything that training checks first; write nothing."""
    terminal = Terminal()
    preparation = prepare(parsed, loaded, start_child_probe(loaded.configs), terminal)
    _report(preparation, terminal)
    terminal.line(f"{len(preparation.configs)} config(s) can be trained on these images.", "green")
    return 0


def train(
    parsed: argparse.Namespace, loaded: LoadedConfigs, terminal: Terminal | None = None
) -> int:
    """Train every config and fold that is not done yet; returns the exit code."""
    terminal = terminal or Terminal()
    run = RunPaths(parsed.output_dir.resolve())
    resources = find_resources(parsed, terminal)
    try:
        refuse_folder_in_use(run)
        preparation = prepare(parsed, loaded, ask(loaded.configs, resources), terminal)
        kept = folders_to_replace(run, preparation.configs, overwrite=parsed.overwrite)
        _report(preparation, terminal)
        pin_notices = _pin_notices(preparation.configs, resources.devices)
        for notice in (*resources.notices, *pin_notices):
            terminal.line(f"NOTE: {notice}", "yellow")
        with sole_launcher(run):
            if kept and resources.slurm is not None:
                resources.slurm.end_leftovers()
            for old in kept:
                set_aside(run, old.root, terminal)
            write_config_files(run, preparation)
            planned = fold_tasks(parsed, run, preparation)
            check_gpus_per_task(planned, resources)
            unfinished = {task.name for task in planned if finished(task) is None}
            waiting = [one for one in preparation.configs if one.config.name in unfinished]
            with pixel_stores(parsed, run, waiting, terminal) as stores:
                tasks = write_tasks(parsed, run, preparation, stores, terminal)
                report_continuation(tasks, parsed, terminal)
                outcome = execute(parsed, run, tasks, resources, terminal)
            return _finish(run, preparation, tasks, outcome, terminal)
    finally:
        resources.executor.close()


def ask(configs: Sequence[RunConfig], resources: Resources) -> Probe:
    """Ask about the encoders where they will be trained, or here for a cluster."""
    if isinstance(resources.executor, InlineExecutor):
        return InlineProbe(encoder_requests(configs))
    if not isinstance(resources.executor, ProcessExecutor):
        return start_child_probe(configs)  # the nodes of a cluster look when their turn has come
    slot = resources.first_slot
    worker = resources.executor.worker(slot.name, [slot.device])
    worker.ask(encoder_requests(configs))
    return WorkerProbe(worker)


def _report(preparation: Preparation, terminal: Terminal) -> None:
    for line in report_lines(preparation):
        terminal.line(line)
    for notice in preparation.notices:
        terminal.line(f"NOTE: {notice}", "yellow")


def _pin_notices(configs: Sequence[PreparedConfig], devices: Sequence[Device]) -> list[str]:
    listed = {device.id for device in devices}
    if listed == {"cpu"}:
        return []
    if devices[0].cluster:
        return [
            f"{one.config.name}: gpu_id {one.config.gpu_id} says nothing in a cluster; it runs on "
            "any GPU"
            for one in configs
            if one.config.gpu_id is not None
        ]
    return [
        f"{one.config.name}: gpu_id {one.config.gpu_id} is not among the GPUs of this run "
        f"({', '.join(sorted(listed))}); it runs on any of these"
        for one in configs
        if one.config.gpu_id is not None and str(one.config.gpu_id) not in listed
    ]


def _finish(
    run: RunPaths,
    preparation: Preparation,
    tasks: Sequence[Task],
    outcome: Outcome,
    terminal: Terminal,
) -> int:
    configs: list[RunConfig] = [one.config for one in preparation.configs]
    summaries = []
    for config in configs:
        summaries.append(summarize(run.config(config.name)))
        write_mean_curves(run.config(config.name))
    terminal.line()
    terminal.console.print(results_table(summaries))
    terminal.line(f"Epochs: {summaries[0]['epoch_choice']}.")
    _show_profiles(tasks, terminal)
    for notice in dict.fromkeys(note for summary in summaries for note in summary["notices"]):
        terminal.line(f"NOTE: {notice}", "yellow")
    undone = [task for task in tasks if finished(task) is None]
    failed = report_failures(undone, terminal)
    if outcome.blocked:
        terminal.line(
            f"{len(outcome.blocked)} folds were not begun, because the pre-training that they "
            "start from is not done.",
            "bold red",
        )
    if outcome.stranded:
        terminal.line(
            f"No device is left that works; {len(outcome.stranded)} folds were not begun. The same "
            "command goes on.",
            "bold red",
        )
    elif len(undone) > failed:
        terminal.line(f"{len(undone) - failed} folds are not done; the same command goes on.")
        return EXIT_INTERRUPTED if not failed or outcome[JobState.INTERRUPTED] else EXIT_FAILED
    terminal.line(f"\nResults: {run.output_dir}")
    terminal.line("  <config>/cv_summary.json, fold_<k>/predictions.csv, fold_<k>/history.json")
    terminal.line("Next:")
    terminal.line(f"  python train_clip.py report {run.output_dir}")
    terminal.line(f"  tensorboard --logdir {run.output_dir}")
    terminal.line(f"  python train_clip.py summarize {run.output_dir}")
    if len(configs) > 1:
        terminal.line(f"  python train_clip.py compare {run.output_dir}")
    trained = run.config(configs[0].name).root
    terminal.line(
        f"  python train_clip.py predict {trained} --images PATH --output predictions.csv"
    )
    return EXIT_FAILED if undone else 0


def _show_profiles(tasks: Sequence[Task], terminal: Terminal) -> None:
    """Show where the time of the folds went that were to be profiled."""
    for task in tasks:
        if not isinstance(task, PretrainTask) and task.profile and finished(task) is not None:
            paths = task.config_paths
            found = read_profile(paths.profile(task.fold))
            if found is not None:
                terminal.line(f"\n{found.title}")
                terminal.console.print(profile_table(found))
                terminal.line(f"  trace for ui.perfetto.dev: {paths.trace(task.fold)}")


def report_failures(undone: Sequence[Task], terminal: Terminal) -> int:
    """Show a table of the folds that failed, with reasons and logs; returns their number."""
    failures = [
        (task, failure)
        for task in undone
        if (failure := read_record(FoldFailure, task.paths.failure)) is not None
    ]
    if failures:
        terminal.console.print(failures_table(failures))
        terminal.line("The same command runs them again.")
    return len(failures)
