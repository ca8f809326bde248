"""Training a study: check everything, write the tasks, run them, summarise."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.paths import RunPaths
from clip_pkg.base.program import program, tool
from clip_pkg.config.schema import RunConfig
from clip_pkg.launch.continuation import adopt_fold, check_source, report_continuation
from clip_pkg.launch.execution import execute
from clip_pkg.launch.pixels import pixel_stores
from clip_pkg.launch.preparation import check_places, prepare, show_report
from clip_pkg.launch.probe import (
    InlineProbe,
    Probe,
    WorkerProbe,
    encoder_requests,
    start_child_probe,
)
from clip_pkg.launch.request import TrainRequest
from clip_pkg.launch.summaries import Summaries
from clip_pkg.launch.tables import failures_table, profile_table, results_table
from clip_pkg.launch.tasks import fold_tasks, image_lists, write_tasks
from clip_pkg.launch.terminal import Terminal
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.executors import open_executor
from clip_pkg.scheduling.inline import InlineExecutor
from clip_pkg.scheduling.job import JobState, Slot
from clip_pkg.scheduling.loop import Outcome
from clip_pkg.scheduling.process import ProcessExecutor
from clip_pkg.scheduling.resources import Resources, check_gpus_per_task
from clip_pkg.study.preflight import Preparation, PreparedConfig
from clip_pkg.study.progress import read_profile
from clip_pkg.study.run_folder import (
    SharedFiles,
    config_files,
    folders_to_replace,
    refuse_folder_in_use,
    set_aside,
    sole_launcher,
    tidy,
)
from clip_pkg.study.tasks import PretrainTask, Task, finished, left_failure, unfinished


def train(request: TrainRequest, terminal: Terminal) -> ExitCode:
    """Train every config and fold that is not finished, then print the results."""
    folders = request.folders
    check_places(folders, [config.name for config in request.study.loaded.configs])
    run = folders.run
    resources = open_executor(request.execution, run, terminal.note)
    try:
        refuse_folder_in_use(run)
        probe = ask(request.study.loaded.configs, resources)
        preparation = prepare(request.study, probe, terminal)
        configs = preparation.configs
        if request.resume_from is not None:
            check_source(request.resume_from, configs)
        kept = folders_to_replace(run, configs, overwrite=request.overwrite)
        show_report(preparation, terminal)
        terminal.notes([*resources.notices, *_pin_notices(configs, resources.devices)])
        with sole_launcher(run):
            if kept:
                resources.cancel_leftovers()
            for old in kept:
                terminal.note(set_aside(run, old.root))
            tidy(run, configs)
            files = SharedFiles(config_files(run, preparation) | image_lists(configs, folders))
            files.restore()
            planned = fold_tasks(configs, folders, resume_from=request.resume_from)
            check_gpus_per_task(planned, resources)
            for task in planned:
                adopt_fold(task)
            unfinished = {task.name for task in planned if finished(task) is None}
            waiting = [one for one in configs if one.config.name in unfinished]
            with pixel_stores(folders, waiting, terminal) as stores:
                tasks = write_tasks(
                    configs,
                    folders,
                    stores=stores,
                    terminal=terminal,
                    resume_from=request.resume_from,
                    profile=request.profile,
                )
                report_continuation(
                    tasks,
                    terminal,
                    pretraining=request.report_pretraining,
                    training=request.report_training,
                )
                summaries = Summaries(run, files, terminal)
                outcome = execute(
                    folders,
                    request.execution,
                    tasks,
                    resources,
                    terminal,
                    files=files,
                    on_ended=summaries.update,
                )
            return _finish(run, summaries, preparation, tasks, outcome, terminal=terminal)
    finally:
        resources.executor.close()


def ask(configs: Sequence[RunConfig], resources: Resources) -> Probe:
    """Start the check of encoders: in the first worker, or here for a cluster."""
    if isinstance(resources.executor, InlineExecutor):
        return InlineProbe(encoder_requests(configs))
    if not isinstance(resources.executor, ProcessExecutor):
        return start_child_probe(configs)  # a cluster's nodes check when they start
    device = resources.devices[0]  # of the first fold
    worker = resources.executor.worker(Slot(device).name, [device])
    worker.ask(encoder_requests(configs))
    return WorkerProbe(worker)


def _pin_notices(configs: Sequence[PreparedConfig], devices: Sequence[Device]) -> list[str]:
    listed = {device.id for device in devices}
    if listed <= {"cpu", "mps"}:
        return []
    if devices[0].cluster:
        return [
            f"{one.config.name}: gpu_id {one.config.gpu_id} has no effect in a cluster; the config "
            "runs on any GPU"
            for one in configs
            if one.config.gpu_id is not None
        ]
    named = {one.config.gpu_id for one in configs}
    (first, *others) = named
    if first is not None and not others and len(listed) > 1:
        return [
            f"every config has gpu_id {first}, but this run lists the GPUs {_ids(listed)}: the "
            f"list decides. To keep to one GPU, list one: --gpus {first}"
        ]
    notices = [
        f"{one.config.name}: gpu_id {one.config.gpu_id} is not among the GPUs of this run "
        f"({_ids(listed)}); the config runs on any of these"
        for one in configs
        if one.config.gpu_id is not None and str(one.config.gpu_id) not in listed
    ]
    chosen = {str(one) for one in named}
    if chosen <= listed and (idle := listed - chosen):
        notices.append(
            f"the GPUs {_ids(idle)} stay idle: every config has a gpu_id, and none names them"
        )
    return notices


def _ids(devices: Collection[str]) -> str:
    return ", ".join(sorted(devices))


def _finish(
    run: RunPaths,
    written: Summaries,
    preparation: Preparation,
    tasks: Sequence[Task],
    outcome: Outcome,
    *,
    terminal: Terminal,
) -> ExitCode:
    configs: list[RunConfig] = [one.config for one in preparation.configs]
    summaries = [written.of(config.name) for config in configs]
    terminal.line()
    terminal.show(results_table(summaries, width=terminal.console.width))
    terminal.line(f"Epochs: {summaries[0]['epoch_choice']}.")
    _show_profiles(tasks, terminal)
    terminal.notes(dict.fromkeys(note for summary in summaries for note in summary["notices"]))
    undone = unfinished(tasks)
    failed = report_failures(undone, terminal)
    if outcome.blocked:
        terminal.line(
            f"{len(outcome.blocked)} folds did not start because their pre-training is unfinished.",
            "bold red",
        )
    if outcome.stranded:
        terminal.line(
            f"No working device is left; {len(outcome.stranded)} folds did not start. Run the same "
            "command again to resume.",
            "bold red",
        )
    elif len(undone) > failed:
        count = len(undone) - failed
        terminal.line(
            f"{count} {'fold is' if count == 1 else 'folds are'} unfinished. "
            "Run the same command again to resume."
        )
        is_interrupted = not failed or outcome[JobState.INTERRUPTED]
        return ExitCode.INTERRUPTED if is_interrupted else ExitCode.FAILED
    terminal.line(f"\nResults: {run.output_dir}")
    terminal.line("  <config>/cv_summary.json, fold_<k>/predictions.csv, fold_<k>/history.json")
    _show_next_steps(run, preparation.configs, terminal)
    return ExitCode.FAILED if undone else ExitCode.DONE


def _show_next_steps(run: RunPaths, configs: Sequence[PreparedConfig], terminal: Terminal) -> None:
    """Print commands that work when they are pasted."""
    output = shlex.quote(str(run.output_dir))
    trained = shlex.quote(str(run.config(configs[0].config.name).root))
    images = shlex.quote(str(configs[0].manifest.data_dir))
    terminal.line("Next:")
    terminal.line(f"  {program()} report {output}")
    terminal.line(f"  {tool('tensorboard')} --logdir {output}")
    terminal.line(f"  {program()} suspects {output}")
    if len(configs) > 1:
        terminal.line(f"  {program()} compare {output}")
    terminal.line(f"  {program()} predict {trained} --images {images} --output predictions.csv")


def _show_profiles(tasks: Sequence[Task], terminal: Terminal) -> None:
    """Print where the time went in the profiled folds."""
    for task in tasks:
        if not isinstance(task, PretrainTask) and task.profile and finished(task) is not None:
            paths = task.config_paths
            found = read_profile(paths.profile(task.fold))
            if found is not None:
                terminal.line(f"\n{found.title}")
                terminal.show(profile_table(found))
                terminal.line(f"  trace for ui.perfetto.dev: {paths.trace(task.fold)}")


def report_failures(undone: Sequence[Task], terminal: Terminal) -> int:
    """Show a table of the folds that failed, with reasons and logs; returns their number."""
    failures = [(task, failure) for task in undone if (failure := left_failure(task)) is not None]
    if failures:
        terminal.show(failures_table(failures))
        terminal.line("Run the same command again to retry them.")
    return len(failures)
