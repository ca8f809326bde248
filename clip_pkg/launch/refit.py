"""`refit`: one model of a cross-validated config, trained on all of its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import DamagedFile, DataError, RunFolderError, WeightsError, shown
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.base.program import program
from clip_pkg.base.reading import read_json
from clip_pkg.config.schema import RunConfig
from clip_pkg.launch.execution import execute
from clip_pkg.launch.pixels import pixel_stores
from clip_pkg.launch.preparation import ImageTestSets, check_places, unlabelled_images
from clip_pkg.launch.request import RefitRequest
from clip_pkg.launch.tasks import fold_tasks, image_lists, write_tasks
from clip_pkg.launch.terminal import Terminal
from clip_pkg.launch.training import ask, report_failures
from clip_pkg.results.comparison_records import spread_of
from clip_pkg.results.comparison_tables import shown_spread
from clip_pkg.results.folders import ConfigFiles, Findings
from clip_pkg.results.refit import RefitLength, refit_length, refit_summary
from clip_pkg.results.summary import summarize
from clip_pkg.scheduling.executors import open_executor
from clip_pkg.scheduling.resources import Resources, check_gpus_per_task
from clip_pkg.study.class_texts import ClassTexts, StoredTexts
from clip_pkg.study.folds_info import REWRITTEN
from clip_pkg.study.identity import identity_from_json
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.preflight import Preparation, PreparedConfig
from clip_pkg.study.run_folder import (
    SharedFiles,
    refuse_folder_in_use,
    set_aside,
    sole_launcher,
)
from clip_pkg.study.scan import ScanResult, scan
from clip_pkg.study.splits import undivided
from clip_pkg.study.tasks import Task, finished, read_task


@dataclass(frozen=True)
class _Source:
    """A cross-validated config, its summary, and how long to train it on all images."""

    paths: ConfigPaths
    summary: Mapping[str, Any]
    length: RefitLength

    @property
    def findings(self) -> Findings:
        """What the check of the images found. Raises DamagedFile."""
        return ConfigFiles.read(self.paths).preflight

    @property
    def config(self) -> RunConfig:
        """The config without what only held-out images can decide."""
        changes = {
            "name": self.paths.root.name,  # the folder may have been renamed
            "epochs": self.length.epochs,
            "inner_val_fraction": 0.0,
            "early_stopping_patience": None,
        }
        return RunConfig.model_validate({**self.summary["config"], **changes})


def refit(request: RefitRequest, terminal: Terminal) -> ExitCode:
    """Train a config on all of its images, or resume such a training."""
    paths, folders = ConfigPaths(request.config_dir), request.folders
    check_places(folders, [paths.root.name])
    run = folders.run
    resources = open_executor(request.execution, run, terminal.note)
    try:
        refuse_folder_in_use(run)
        summary = summarize(paths)
        source = _Source(paths, summary, refit_length(summary, request.epochs))
        preparation = _prepare(request, source, resources, terminal)
        is_replaced = _is_replaced(paths, preparation, overwrite=request.overwrite)
        terminal.line(f"{source.length.epochs} epochs, {source.length.reason}.")
        terminal.notes([*resources.notices, *preparation.notices])
        with sole_launcher(run):
            if is_replaced:
                terminal.note(set_aside(run, paths.refit.root))
            return _train(request, source, preparation, resources, terminal)
    finally:
        resources.executor.close()


def _train(
    request: RefitRequest,
    source: _Source,
    preparation: Preparation,
    resources: Resources,
    terminal: Terminal,
) -> ExitCode:
    configs, folders = preparation.configs, request.folders
    planned = fold_tasks(configs, folders)
    check_gpus_per_task(planned, resources)
    waiting = [] if finished(planned[0]) else configs
    with pixel_stores(folders, waiting, terminal) as stores:
        # Neither identity nor config: those in the folder are of the cross-validation.
        texts = {source.paths.class_texts: configs[0].texts.to_json}
        files = SharedFiles(image_lists(configs, folders) | texts)
        files.restore()
        tasks = write_tasks(configs, folders, stores=stores, terminal=terminal)
        manifest = configs[0].manifest
        counts = dict(zip(manifest.classes, manifest.class_counts.tolist(), strict=True))
        write_json(source.paths.refit_summary, refit_summary(source.summary, source.length, counts))
        execute(
            folders,
            request.execution,
            tasks,
            resources,
            terminal,
            files=files,
            on_ended=lambda name: None,
        )
    if finished(tasks[-1]) is None:
        if report_failures(tasks, terminal):
            return ExitCode.FAILED
        terminal.line("The refit is unfinished. Run the same command again to resume.")
        return ExitCode.INTERRUPTED
    _show_result(source, tasks[-1], terminal)
    return ExitCode.DONE


def _show_result(source: _Source, task: Task, terminal: Terminal) -> None:
    averages, folder = source.summary["average_results"], source.paths.refit.root
    terminal.line(f"\nThe model: {source.paths.refit.checkpoint_latest}")
    result = finished(task)
    repeats = source.config.n_repeats
    repeated = f" of {repeats} repeats" if repeats > 1 else ""
    unscored = "it has no score of its own"
    if result is not None and result.n_test:
        terminal.line(
            f"On {result.n_test} test images: accuracy {_percent(result.test.get('test_acc'))}, "
            f"mAP {_percent(result.test.get('test_mAP'))}."
        )
        unscored = "none of them can score it"
    terminal.line(
        f"It was trained on all images, so {unscored}. The estimate comes from the "
        f"cross-validation ({averages['n']} folds{repeated}, mean ± SD): accuracy "
        f"{shown_spread(spread_of(averages, 'acc'), 'acc')} %, mAP "
        f"{shown_spread(spread_of(averages, 'mAP'), 'mAP')} %."
    )
    terminal.line("Next:")
    terminal.line(f"  {program()} predict {folder} --images PATH --output predictions.csv")
    terminal.line(f"  {program()} export {folder} --output DIR --format onnx")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f} %"


def _prepare(
    request: RefitRequest, source: _Source, resources: Resources, terminal: Terminal
) -> Preparation:
    """Check images, texts and encoders. Raises DataError if the images have changed."""
    probe = ask([source.config], resources)
    try:
        scanned = _scan(request.data_dir, source, terminal)
        manifest = scanned.manifest.grouped(source.config.group_pattern)
        if manifest.fingerprint != source.summary["data_fingerprint"]:
            raise DataError(
                f"{shown(manifest.source)} holds other images, labels or groups than the folds "
                f"of {source.paths.root.name}; a refit needs the same images. Use --data-dir "
                "DIR if they have moved, or train again on the new ones"
            )
        unlabelled = unlabelled_images([source.config], [], terminal)
        texts = _texts(source)
        notices: list[str] = []
        test = _test_images(source.config, scanned, notices, terminal)
    except BaseException:
        probe.cancel()
        raise
    with terminal.waiting("Checking encoders and weights"):
        problems = probe.problems()
    if problems:
        raise WeightsError("\n  ".join(["this config cannot be trained here:", *problems]))
    pretrain = source.config.pretrain
    folder = None if pretrain is None else pretrain.folder
    prepared = PreparedConfig(
        source.config,
        manifest,
        undivided(manifest),
        texts,
        test=test,
        unlabelled=None if folder is None else unlabelled[folder],
    )
    if prepared.identity.numerics != identity_from_json(source.summary["identity"]).numerics:
        notices.append(
            "the program has changed since the folds were trained; their scores estimate a model "
            "trained by the earlier version"
        )
    return Preparation((prepared,), scanned.audit, tuple(notices))


def _texts(source: _Source) -> ClassTexts:
    """The class texts of the folds. Raises DamagedFile."""
    path = source.paths.class_texts
    try:
        texts = ClassTexts.from_json(read_json(path, StoredTexts, REWRITTEN))
    except FileNotFoundError:
        raise DamagedFile(path, "is missing", REWRITTEN) from None
    if texts.digest != source.summary["identity"]["class_texts"]:
        raise DamagedFile(path, "is damaged (these are not the texts of the folds)", REWRITTEN)
    return texts


def _test_images(
    config: RunConfig, training: ScanResult, notices: list[str], terminal: Terminal
) -> Manifest | None:
    """Find the test images again; without them the refit is not tested, and a notice is added."""
    if config.test_dir is None:
        return None
    if not Path(config.test_dir).exists():
        notices.append(
            f"the test images are no longer in {shown(Path(config.test_dir))}, so this model is "
            "not tested"
        )
        return None
    tests = ImageTestSets(training, skip_unreadable=True, terminal=terminal)
    manifest = tests.at(Path(config.test_dir))
    notices += tests.notices
    return manifest


def _scan(data_dir: Path | None, source: _Source, terminal: Terminal) -> ScanResult:
    """Check the images as the cross-validation did."""
    if data_dir is None:
        found = source.findings.get("data_dir")
        if found is None:
            raise RunFolderError(
                f"{shown(source.paths.preflight)} does not say where the images are; use "
                "--data-dir DIR"
            )
        data_dir = Path(found)
        if not data_dir.exists():
            raise RunFolderError(
                f"the images are no longer in {shown(data_dir)}; use --data-dir DIR"
            )
    with terminal.counting("Checking images") as progress:
        # If unreadable images were not skipped then, the fingerprints differ.
        return scan(data_dir, skip_unreadable=True, progress=progress)


def _is_replaced(paths: ConfigPaths, preparation: Preparation, *, overwrite: bool) -> bool:
    """Whether to move an existing refit aside; raises RunFolderError if it may not be resumed."""
    folder = paths.refit.root
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if overwrite:
        return True
    try:
        task = read_task(paths.refit.task)
    except DamagedFile:  # written anew; the result and the checkpoint have an identity too
        return False
    if task is None:
        raise RunFolderError(f"{shown(folder)} is not empty and holds no refit; move it away")
    differences = preparation.configs[0].identity.differences(task.identity)
    if differences:
        raise RunFolderError(
            f"{shown(folder)} holds a refit with different {', '.join(differences)} (the number of "
            "epochs is part of the config); --overwrite moves it aside and starts anew"
        )
    return False
