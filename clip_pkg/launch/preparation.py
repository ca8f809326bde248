"""Everything that is checked before anything is written: configs, images, texts, folds, weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_pkg.base.errors import ConfigErrors, ConfigProblem, DataError, WeightsError, shown
from clip_pkg.base.files import MAX_FILE_NAME, check_output_folder
from clip_pkg.base.paths import MAX_NAME_BYTES
from clip_pkg.config.schema import RunConfig
from clip_pkg.launch.probe import Probe
from clip_pkg.launch.request import RunFolders, StudyRequest
from clip_pkg.launch.terminal import Terminal
from clip_pkg.study.audit import check_folds, fold_table
from clip_pkg.study.class_texts import resolve_class_texts
from clip_pkg.study.folds_info import splits_from_json
from clip_pkg.study.groups import patients_notice
from clip_pkg.study.image_folder import find_beside
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.preflight import Preparation, PreparedConfig, unlabelled_folder
from clip_pkg.study.scan import ScanResult, scan, scan_unlabelled
from clip_pkg.study.splits import Splits, make_splits
from clip_pkg.study.test_set import match_test_set

NAMES_IN_A_NOTICE = 3
CLASSES_SHOWN = 12
MAX_LOG_SUFFIX = 55  # bytes that follow the config in the name of a log: device, time


def check_places(folders: RunFolders, names: Sequence[str]) -> None:
    """Raise UserError unless a run of configs with these names can write all of its files."""
    any_name = "n" * MAX_FILE_NAME
    check_output_folder(folders.output_dir, f"pretraining/{'n' * MAX_NAME_BYTES}/{any_name}")
    for name in names:
        check_output_folder(folders.run.config(name).root, f"tensorboard/fold_100/{any_name}")
    longest = max(names, key=lambda name: len(os.fsencode(name)))
    check_output_folder(folders.log_dir, longest + "n" * MAX_LOG_SUFFIX)
    check_output_folder(folders.cache, any_name)


def prepare(request: StudyRequest, probe: Probe, terminal: Terminal) -> Preparation:
    """Check images, texts, folds and weights for every config; report all that is wrong at once.

    probe: a check of the encoders that was started before.
    """
    try:
        with terminal.counting("Checking images") as progress:
            scanned = scan(
                request.data_dir, skip_unreadable=request.skip_unreadable, progress=progress
            )
        unlabelled = unlabelled_images(request.loaded.configs, request.search_dirs, terminal)
        tests = ImageTestSets(scanned, request.skip_unreadable, terminal)
        configs, problems = _prepare_each(request, scanned, unlabelled, tests)
    except BaseException:
        probe.cancel()
        raise
    with terminal.waiting("Checking encoders and weights"):
        encoder_problems = probe.problems()
    if problems:
        raise ConfigErrors([*problems, *(ConfigProblem(text) for text in encoder_problems)])
    if encoder_problems:
        raise WeightsError(
            "\n  ".join(["these encoders cannot be used as configured:", *encoder_problems])
        )
    notices = [*request.loaded.notices, *scanned.audit.notices, *_all_text_notices(configs)]
    notices += tests.notices
    ungrouped = [one.config.name for one in configs if one.manifest.groups is None]
    if ungrouped:
        where = f"{_listed(ungrouped, len(configs))}: " if len(ungrouped) < len(configs) else ""
        notices.append(where + patients_notice(scanned.audit.group_suggestion))
    for prepared in configs:
        notices += check_folds(prepared.manifest, prepared.splits)
        notices += prepared.seen_before
    if any(prepared.config.flips_horizontally for prepared in configs):
        notices += scanned.audit.laterality_warnings
    return Preparation(tuple(configs), scanned.audit, tuple(dict.fromkeys(notices)))


def _all_text_notices(configs: Sequence[PreparedConfig]) -> list[str]:
    """Notices on class texts, each once, with the configs that it concerns."""
    concerned: dict[str, list[str]] = {}
    for prepared in configs:
        for text in _text_notices(prepared):
            concerned.setdefault(text, []).append(prepared.config.name)
    return [f"{_listed(names, len(configs))}: {text}" for text, names in concerned.items()]


def _listed(names: Sequence[str], total: int) -> str:
    if len(names) == total > NAMES_IN_A_NOTICE:
        return f"all {total} configs"
    if len(names) > NAMES_IN_A_NOTICE:
        return f"{names[0]} and {len(names) - 1} others"
    return ", ".join(names)


def _reads_texts(prepared: PreparedConfig) -> bool:
    encoder = prepared.config.text_encoder
    return encoder.family not in ("prompts", "none") or encoder.start is not None


def _text_notices(prepared: PreparedConfig) -> list[str]:
    """Notices on the class texts of a config, if it reads them."""
    config = prepared.config
    if not _reads_texts(prepared):
        if config.class_texts_file is None:
            return []
        return [
            "class_texts_file has no effect, because text_encoder_name "
            f'"{config.text_encoder_name}" reads no texts'
        ]
    return list(prepared.texts.notices)


def show_report(preparation: Preparation, terminal: Terminal) -> None:
    """Print the images, a fold table for each way of splitting them, and the notices."""
    for line in preparation.audit.lines():
        terminal.line(line)
    seen: set[str] = set()
    for prepared in preparation.configs:
        if prepared.splits.hash not in seen:
            seen.add(prepared.splits.hash)
            terminal.line()
            for line in fold_table(prepared.manifest, prepared.splits):
                terminal.line(line)
    terminal.notes(preparation.notices)


def show_texts_and_groups(preparation: Preparation, terminal: Terminal) -> None:
    """Print each way of writing the class texts once, and how many groups the images form."""
    for count in dict.fromkeys(
        len(set(one.manifest.groups)) for one in preparation.configs if one.manifest.groups
    ):
        terminal.line(f"Groups: {count}; the images of one stay in one fold")
    for texts in dict.fromkeys(one.texts for one in preparation.configs if _reads_texts(one)):
        terminal.line(f"Class texts from {texts.source}:")
        shown_classes = list(zip(texts.classes, texts.prompts, strict=True))[:CLASSES_SHOWN]
        for name, (first, *others) in shown_classes:
            more = f" and {len(others)} more" if others else ""
            terminal.line(f"  {shown(name)}: {shown(first)}{more}")
        if len(texts.classes) > CLASSES_SHOWN:
            terminal.line(f"  … and {len(texts.classes) - CLASSES_SHOWN} more classes")


def unlabelled_images(
    configs: Sequence[RunConfig], search_dirs: Sequence[Path], terminal: Terminal
) -> dict[str, Manifest]:
    """Check the folders that pre-trainings learn from; by their names in the configs."""
    found: dict[str, Manifest] = {}
    for name in (one.pretrain.folder for one in configs if one.pretrain is not None):
        if name is not None and name not in found:
            with terminal.counting(f"Checking images of {name}") as progress:
                folder = unlabelled_folder(name, search_dirs)
                found[name] = scan_unlabelled(folder, progress=progress)
    return found


class ImageTestSets:
    """The test images of configs, each set checked once. notices: on all of them so far."""

    def __init__(self, training: ScanResult, skip_unreadable: bool, terminal: Terminal) -> None:
        self._training = training
        self._skip_unreadable = skip_unreadable
        self._terminal = terminal
        self._found: dict[Path, tuple[Manifest, list[str]]] = {}

    @property
    def notices(self) -> list[str]:
        """One sentence each."""
        return [notice for _, notices in self._found.values() for notice in notices]

    def at(self, folder: Path) -> Manifest:
        """Describe the test images in a folder or table. Raises DataError for unfit ones."""
        if folder not in self._found:
            with self._terminal.counting("Checking test images") as progress:
                scanned = scan(folder, skip_unreadable=self._skip_unreadable, progress=progress)
            self._found[folder] = match_test_set(scanned, self._training)
        return self._found[folder][0]


def _prepare_each(
    request: StudyRequest,
    scanned: ScanResult,
    unlabelled: Mapping[str, Manifest],
    tests: ImageTestSets,
) -> tuple[list[PreparedConfig], list[ConfigProblem]]:
    prepared: list[PreparedConfig] = []
    problems: dict[str, list[str]] = {}  # → names of the configs that have it
    made: dict[tuple[object, ...], Splits] = {}
    places = [*request.search_dirs, Path.cwd()]
    for config in request.loaded.configs:
        try:
            manifest = scanned.manifest.grouped(config.group_pattern)
            texts = resolve_class_texts(
                manifest.classes,
                class_texts_file=config.class_texts_file,
                text_template=config.text_template,
                prompts_per_class=None
                if config.text_encoder.family == "prompts"
                else config.prompts_per_class,
                search_dirs=places,
            )
            key = (
                config.group_pattern,
                config.use_cv,
                config.n_splits if config.use_cv else config.val_fraction,
                config.n_repeats,
                config.random_state,
            )
            if key not in made:
                made[key] = _splits(request.splits_file, config, manifest, scanned)
            test = None
            if config.test_dir is not None:
                folder = find_beside("test_dir", config.test_dir, places)
                test = tests.at(folder)
                # Written down as it was found, so that a refit finds it from anywhere.
                config = config.model_copy(update={"test_dir": str(folder)})  # noqa: PLW2901
            learned = None if config.pretrain is None else config.pretrain.folder
            prepared.append(
                PreparedConfig(
                    config,
                    manifest,
                    made[key],
                    texts,
                    test=test,
                    unlabelled=None if learned is None else unlabelled[learned],
                )
            )
        except DataError as error:
            problems.setdefault(str(error), []).append(config.name)
    total = len(request.loaded.configs)
    return prepared, [
        ConfigProblem(text, _listed(names, total), request.config_file)
        for text, names in problems.items()
    ]


def _splits(
    splits_file: Path | None, config: RunConfig, manifest: Manifest, scanned: ScanResult
) -> Splits:
    if splits_file is not None:
        imported = splits_from_json(splits_file, manifest, scanned.linked)
        if imported.n_repeats != config.n_repeats:
            raise DataError(
                f"{shown(splits_file)} divides the images {imported.n_repeats} time(s), but "
                f"n_repeats is {config.n_repeats}: set it to {imported.n_repeats}, or use another "
                "--splits-file"
            )
        return imported
    return make_splits(
        manifest,
        use_cv=config.use_cv,
        n_splits=config.n_splits,
        n_repeats=config.n_repeats,
        random_state=config.random_state,
        val_fraction=config.val_fraction,
        linked=scanned.linked,
    )
