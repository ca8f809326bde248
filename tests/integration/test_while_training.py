"""Every command at every moment of a training: it answers from what is complete, or says why not.

A run is trained once; after each file that it replaces or removes, the output folder is kept as it
was then. Commands then work on these states.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_pkg.api.run import load_run
from clip_pkg.base.errors import UserError
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.cli import main
from clip_pkg.results.folders import ConfigFiles
from support.outcomes import EVERYTHING
from support.tiny import TINY

NAMES, FOLDS = ("a", "b"), (1, 2)
# Files that are written in place; a hard link to them would change with them.
IN_PLACE = ("ledger.jsonl", "events.", ".launcher", "predictions_epochs.part")


@dataclass(frozen=True)
class State:
    """The output folder right after `event`, such as `a/fold_1/result.json`."""

    event: str
    folder: Path

    @property
    def done(self) -> dict[str, list[int]]:
        """Config → its finished folds."""
        return {
            name: [n for n in FOLDS if ConfigPaths(self.folder / name).fold(n).result.exists()]
            for name in NAMES
        }


@dataclass(frozen=True)
class Replay:
    """All states of a run, in their order; the last one is that of the finished run."""

    images: Path
    configs: Path
    states: Sequence[State]

    @property
    def final(self) -> Mapping[str, Mapping[str, Any]]:
        """Summaries of the finished run."""
        paths = (ConfigPaths(self.states[-1].folder / name).summary for name in NAMES)
        return {path.parent.name: json.loads(path.read_bytes()) for path in paths}

    def accuracies(self, state: State) -> dict[str, list[float | None]]:
        """Accuracy of each fold that is finished in a state."""
        scores = {name: one["fold_results"]["fold_val_acc"] for name, one in self.final.items()}
        return {
            name: [scores[name][n - 1] if n in done else None for n in FOLDS]
            for name, done in state.done.items()
        }

    def after(self, *events: str) -> list[State]:
        """The states after these events."""
        found = [one for one in self.states if one.event in events]
        assert {one.event for one in found} == set(events)
        return found


@pytest.fixture(scope="module")
def replay(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    root = tmp_path_factory.mktemp("replay")
    out, configs = root / "out", root / "configs.json"
    losses = [{"type": "superclip"}, {"type": "siglip"}]
    listed = [{**TINY, "name": n, "loss": loss} for n, loss in zip(NAMES, losses, strict=True)]
    configs.write_text(json.dumps(listed), encoding="utf-8")
    states: list[State] = []

    def keep(path: Path) -> None:
        if path.is_relative_to(out):
            folder = root / "states" / f"{len(states):03d}"
            shutil.copytree(out, folder, copy_function=link)
            states.append(State(path.relative_to(out).as_posix(), folder))

    def link(source: str, target: str) -> None:
        in_place = Path(source).name.startswith(IN_PLACE)
        (shutil.copy if in_place else os.link)(source, target)

    replace, unlink = Path.replace, Path.unlink

    def replace_and_keep(path: Path, target: Path) -> Path:
        replaced = replace(path, target)
        keep(target)
        return replaced

    def unlink_and_keep(path: Path, missing_ok: bool = False) -> None:
        existed = path.exists()
        unlink(path, missing_ok)
        if existed:
            keep(path)

    where = ["--data-dir", images, "--output-dir", out, "--log-dir", root / "logs"]
    how = ["--config-file", configs, "--multi-config", "--executor", "inline"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace_and_keep)
        patch.setattr(Path, "unlink", unlink_and_keep)
        assert main([str(word) for word in (*where, *how)]) == 0
    return Replay(images, configs, states)


def copy(state: State, folder: Path) -> Path:
    """A copy of a state that a command may write into."""
    target = folder / "out"
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(state.folder, target, copy_function=os.link))


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def loaded_accuracies(out: Path) -> dict[str, list[float | None]]:
    """What `load_run` says of each fold; empty where there is no config yet."""
    try:
        with warnings.catch_warnings(action="ignore"):
            folds = load_run(out).folds
    except UserError:
        return {}
    scores = folds["val_acc"] if "val_acc" in folds else [None] * len(folds)
    found: dict[str, list[float | None]] = {}
    for name, score in zip(folds["config"], scores, strict=True):
        found.setdefault(name, []).append(None if score is None or math.isnan(score) else score)
    return found


def test_status_load_run_and_summarize_at_every_moment(
    replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for state in replay.states:
        out, done = copy(state, tmp_path), state.done
        configs = [ConfigPaths(out / n) for n in NAMES if (out / n / "folds_info.json").exists()]
        accuracies = replay.accuracies(state)
        wanted = {paths.root.name: accuracies[paths.root.name] for paths in configs}

        code, shown = run("status", out), capsys.readouterr().out
        planned, count = len(list(out.glob("*/fold_*/task.json"))), sum(map(len, done.values()))
        said = f"{count} of {planned} folds done" if planned else "no fold is planned yet"
        if code != 0 or said not in shown:
            wrong.append((state.event, "status", code, shown))
        if (found := loaded_accuracies(out)) != wanted:
            wrong.append((state.event, "load_run", found, wanted))
        code, shown = run("summarize", out), capsys.readouterr().err
        if code != (0 if configs else 2):
            wrong.append((state.event, "summarize", code, shown))
        for paths in configs if code == 0 else ():
            summary = json.loads(paths.summary.read_bytes())
            shown = summary["fold_results"].get("fold_val_acc", [None] * len(FOLDS))
            if shown != wanted[paths.root.name]:
                wrong.append((state.event, "summarize", shown, wanted))
    assert wrong == []
    assert len(replay.states) > 90


MOMENTS = (
    "a/identity.json",
    "a/folds_info.json",
    "a/fold_1/task.json",
    "a/fold_1/checkpoint_best.pth",
    "a/fold_1/predictions_epochs.npz",
    "a/fold_1/result.json",
    "a/cv_summary.json",
    "a/fold_2/predictions.csv",
    "a/fold_2/result.json",
    "b/fold_1/result.json",
    "b/fold_2/checkpoint_latest.pth",
    "b/fold_2/result.json",
    "b/cv_summary.json",
)


def test_results_are_compared_judged_and_planned_with(
    replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong: list[Any] = []
    listed = tmp_path / "suspects.csv"
    for state in replay.after(*MOMENTS):
        out, done = copy(state, tmp_path), state.done
        written = tmp_path / "compared.json"
        written.unlink(missing_ok=True)
        code = run("compare", out, "--output", written)
        if code != (0 if all(len(folds) == len(FOLDS) for folds in done.values()) else 2):
            wrong.append((state.event, "compare", code, capsys.readouterr().err))
        if code == 0:
            (one,) = json.loads(written.read_bytes())["data_sets"]
            means = {row["name"]: row["best"]["acc"]["mean"] for row in one["rows"]}
            if means != {
                n: one["average_results"]["avg_val_acc"] for n, one in replay.final.items()
            }:
                wrong.append((state.event, "compare", means))

        code = run("suspects", out, "--output", listed)
        if code != (0 if any(done.values()) else 2):
            wrong.append((state.event, "suspects", code, capsys.readouterr().err))
        if code == 0:
            with listed.open(encoding="utf-8", newline="") as stream:
                judged = {row["path"] for row in csv.DictReader(stream)}
            folds = json.loads((out / "a/folds_info.json").read_bytes())["folds"]
            if not judged <= {p for n in {*done["a"], *done["b"]} for p in folds[n - 1]["val"]}:
                wrong.append((state.event, "suspects", judged))

        data = ["--data-dir", replay.images, "--output-dir", out]
        capsys.readouterr()
        code = run("plan", *data, "--config-file", replay.configs, "--multi-config")
        shown = capsys.readouterr().out
        if code != 0 or f"{sum(map(len, done.values()))} of 4 folds are finished" not in shown:
            wrong.append((state.event, "plan", code, shown))
    assert wrong == []


def test_models_of_finished_folds_are_used(
    replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted, wrong = tmp_path / "predicted.csv", []

    def predict(model: Path) -> tuple[int, bytes]:
        predicted.unlink(missing_ok=True)
        code = run("predict", model, "--images", replay.images, "--output", predicted)
        return code, predicted.read_bytes() if code == 0 else b""

    final = copy(replay.states[-1], tmp_path / "final")
    wanted = {n: predict(final / "a" / name) for n, name in enumerate(("nothing", "fold_1", ""))}
    assert [code for code, _ in wanted.values()] == [2, 0, 0]
    moments = ("checkpoint_best.pth", "predictions_epochs.npz", "result.json")
    events = [f"a/fold_{number}/{name}" for number in FOLDS for name in moments]
    for number, state in enumerate(replay.after(*events)):
        out, done = copy(state, tmp_path), state.done["a"]
        code, exported = (0 if done else 2), tmp_path / f"exported {number}"
        if predict(out / "a") != wanted[len(done)]:
            wrong.append((state.event, "predict", capsys.readouterr()))
        if run("export", out / "a", "--output", exported, "--format", "safetensors") != code:
            wrong.append((state.event, "export", capsys.readouterr()))
        if len(list(exported.glob("*.safetensors"))) != len(done):
            wrong.append((state.event, "export", list(exported.glob("*"))))
        embedded = tmp_path / f"{number}.npz"
        words = ("--images", replay.images, "--output", embedded, "--out-of-fold")
        if run("embed", out / "a", *words) != code:
            wrong.append((state.event, "embed", capsys.readouterr()))
        if len(done) and len(np.load(embedded)["path"]) != 15 * len(done):
            wrong.append((state.event, "embed", np.load(embedded)["path"]))
    assert wrong == []


def test_a_report_has_what_is_complete(replay: Replay, tmp_path: Path) -> None:
    assert run("report", copy(replay.after("a/fold_1/history.json")[0], tmp_path)) == 2
    (state,) = replay.after("b/fold_1/result.json")
    out = copy(state, tmp_path)
    assert run("report", out, "--no-images") == 0
    with (out / "report/folds.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for name, values in replay.accuracies(state).items():
        shown = [row["val_acc"] for row in rows if row["config"] == name]
        assert shown == ["" if value is None else str(value) for value in values]


@pytest.mark.parametrize("words", ["status", "summarize", "compare", "suspects"])
@pytest.mark.parametrize("anew", [False, True], ids=["moved away", "replaced"])
def test_a_folder_that_another_launcher_overwrites_meanwhile(
    replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, anew: bool
) -> None:
    (fresh,) = replay.after("b/fold_2/task.json")[:1]
    out, opened, moment = tmp_path / "out", 0, 0

    def overwrite() -> None:
        (out / "replaced").mkdir()
        (out / "a").rename(out / "replaced/a")
        if anew:
            shutil.copytree(fresh.folder / "a", out / "a", copy_function=os.link)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def count(path: Any, *rest: Any, **options: Any) -> Any:
            nonlocal opened
            opened += str(path).startswith(str(out))
            if opened == moment and not (out / "replaced").exists():
                overwrite()
            return function(path, *rest, **options)

        return count

    wrong = []
    while opened >= moment:
        copy(replay.states[-1], tmp_path)
        opened, moment = 0, moment + (1 if EVERYTHING else 3)
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((io, "open"), (os, "open"), (os, "scandir")):
                patch.setattr(module, name, counted(getattr(module, name)))
            code = run(words, out)
        if code not in (0, 1, 2):  # 1: of status, where files of a fold are missing
            wrong.append((moment, code, capsys.readouterr()))
        summary = ConfigPaths(out / "a").summary
        if words == "summarize" and code == 0 and summary.exists():
            assert ConfigFiles.read(ConfigPaths(out / "a")).stored_summary  # it fits the folds
    assert wrong == []
    assert moment > 10
