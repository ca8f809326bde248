"""The main command: check everything, write the tasks, run them, sum up."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType

from clip_pkg.cli.preparation import (
    Preparation,
    PreparedConfig,
    prepare,
    report_lines,
)
from clip_pkg.cli.probe import (
    InlineProbe,
    Probe,
    WorkerProbe,
    encoder_requests,
    start_child_probe,
)
from clip_pkg.cli.run_folder import (
    folders_to_replace,
    refuse_folder_in_use,
    set_aside,
    sole_launcher,
    write_config_files,
    write_tasks,
)
from clip_pkg.cli.terminal import RunView, Terminal, results_table
from clip_pkg.config.load import LoadedConfigs
from clip_pkg.config.schema import RunConfig
from clip_pkg.evaluation.curves import write_mean_curves
from clip_pkg.evaluation.summary import summarize
from clip_pkg.paths import RunPaths
from clip_pkg.planning.tasks import FoldTask, finished
from clip_pkg.scheduling.devices import Device, find_devices, parse_ids
from clip_pkg.scheduling.inline import InlineExecutor
from clip_pkg.scheduling.job import Assignment, Executor, JobState
from clip_pkg.scheduling.ledger import Ledger
from clip_pkg.scheduling.loop import Loop, Outcome
from clip_pkg.scheduling.processes import ProcessExecutor

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def validate(parsed: argparse.Namespace, loaded: LoadedConfigs) -> int:
    """Check everything that training checks first; write nothing."""
    terminal = Terminal()
    preparation = prepare(parsed, loaded, start_child_probe(loaded.configs), terminal)
    _report(preparation, terminal)
    terminal.line(f"{len(preparation.configs)} config(s) can be trained on these images.", "green")
    return 0


def train(parsed: argparse.Namespace, loaded: LoadedConfigs) -> int:
    """Train every config and fold that is not done yet; returns the exit code."""
    terminal = Terminal()
    wanted = None if parsed.gpus is None else parse_ids(parsed.gpus)
    devices, device_notices = find_devices(wanted)
    run = RunPaths(parsed.output_dir.resolve())
    refuse_folder_in_use(run)
    stop = _StopOnSignal()
    executor = (
        InlineExecutor(partial(_inline, stop=stop))
        if parsed.executor == "inline"
        else ProcessExecutor()
    )
    try:
        probe = _ask(loaded.configs, executor, devices[0])
        preparation = prepare(parsed, loaded, probe, terminal)
        kept = folders_to_replace(run, preparation.configs, overwrite=parsed.overwrite)
        _report(preparation, terminal)
        for notice in (*device_notices, *_pin_notices(preparation.configs, devices)):
            terminal.line(f"NOTE: {notice}", "yellow")
        with sole_launcher(run):
            for old in kept:
                set_aside(run, old, terminal)
            write_config_files(run, preparation)
            tasks = write_tasks(parsed, run, preparation, terminal)
            outcome = _run(
                run,
                tasks,
                devices=devices,
                executor=executor,
                log_dir=parsed.log_dir,
                terminal=terminal,
                stop=stop,
            )
    finally:
        executor.close()
    return _finish(run, preparation, tasks, outcome, terminal)


def _ask(configs: Sequence[RunConfig], executor: Executor, device: Device) -> Probe:
    """Ask about the encoders where they will be trained."""
    if not isinstance(executor, ProcessExecutor):
        return InlineProbe(encoder_requests(configs))
    worker = executor.worker(device)
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
    return [
        f"{one.config.name}: gpu_id {one.config.gpu_id} is not among the GPUs of this run "
        f"({', '.join(sorted(listed))}); it runs on any of these"
        for one in configs
        if one.config.gpu_id is not None and str(one.config.gpu_id) not in listed
    ]


@dataclass
class _StopOnSignal:
    """Remembers that Ctrl-C or SIGTERM came; the second one ends the program at once."""

    asked: bool = False

    def __bool__(self) -> bool:
        return self.asked

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nStopping after a checkpoint; once more to stop now.", flush=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Listen while the folds run."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _run(
    run: RunPaths,
    tasks: Sequence[FoldTask],
    *,
    devices: Sequence[Device],
    executor: Executor,
    log_dir: Path,
    terminal: Terminal,
    stop: _StopOnSignal,
) -> Outcome:
    waiting = [task for task in tasks if finished(task) is None]
    if len(waiting) < len(tasks):
        terminal.line(f"{len(tasks) - len(waiting)} of {len(tasks)} folds are done already.")
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")

    def log_file(task: FoldTask, device: Device) -> Path:
        return log_dir.resolve() / f"{task.name}_{device.log_tag}_{stamp}.log"

    def sum_up(name: str) -> None:
        summarize(run.config(name))
        write_mean_curves(run.config(name))

    cores = os.cpu_count() or 1
    with stop.watching(), RunView(terminal, waiting, len(tasks) - len(waiting), sum_up) as view:
        return Loop(
            devices=devices,
            executor=executor,
            ledger=Ledger(run.ledger),
            observer=view,
            log_file=log_file,
            threads=max(1, cores // len(devices)),
            stop_requested=lambda: stop.asked,
        ).run(waiting)


def _inline(assignment: Assignment, *, stop: _StopOnSignal) -> JobState:
    from clip_pkg.worker import Place, carry_out  # noqa: PLC0415

    with assignment.log_file.open("a", encoding="utf-8", buffering=1) as stream:
        place = Place(
            assignment.device.torch_name,
            assignment.device.id,
            assignment.threads,
            str(assignment.log_file),
        )
        state = carry_out(assignment.task, place, stream, stop)
    return JobState(state)


def _finish(
    run: RunPaths,
    preparation: Preparation,
    tasks: Sequence[FoldTask],
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
    for notice in dict.fromkeys(note for summary in summaries for note in summary["notices"]):
        terminal.line(f"NOTE: {notice}", "yellow")
    failed = [task.label for task in tasks if finished(task) is None]
    interrupted = bool(outcome[JobState.INTERRUPTED]) or len(failed) > len(outcome[JobState.FAILED])
    if interrupted:
        terminal.line(f"{len(failed)} folds are not done; the same command goes on.", "yellow")
        return EXIT_INTERRUPTED
    if failed:
        terminal.line(f"FAILED: {', '.join(failed)}; their reasons are above and in", "bold red")
        terminal.line("  cv_summary.json; the same command runs them again.")
    terminal.line(f"\nResults: {run.output_dir}")
    terminal.line("  <config>/cv_summary.json, fold_<k>/predictions.csv, fold_<k>/history.json")
    terminal.line("Next:")
    terminal.line(f"  tensorboard --logdir {run.output_dir}")
    terminal.line(f"  python train_clip.py summarize {run.output_dir}")
    trained = run.config(configs[0].name).root
    terminal.line(
        f"  python train_clip.py predict {trained} --images PATH --output predictions.csv"
    )
    return EXIT_FAILED if failed else 0
