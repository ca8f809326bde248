"""`n_repeats`: trained, interrupted and resumed, and what every command makes of it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clip_pkg import load_run
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.cli import main
from clip_pkg.report.pictures import worst_mistakes
from clip_pkg.results.folders import ConfigFiles
from clip_pkg.results.summary_schema import read_summary
from clip_pkg.training.trainer import Interrupted, Trainer
from support.tiny import TINY

TWICE = {"n_repeats": 2, "n_splits": 2, "epochs": 1}
CONFIGS = ({**TWICE, "name": "a"}, {**TWICE, "name": "b", "learning_rate": 3e-3})


@dataclass(frozen=True)
class Repeated:
    """A run that was interrupted in its second repeat and resumed; what was printed each time."""

    root: Path
    interrupted: str
    resumed: str

    @property
    def output(self) -> Path:
        return self.root / "out"

    @property
    def words(self) -> list[str]:
        """Flags of the run and of its plan."""
        flags = ["--data-dir", self.root / "images", "--output-dir", self.output]
        flags += ["--config-file", self.root / "configs.json", "--multi-config"]
        return [str(flag) for flag in flags]


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Repeated:
    root = tmp_path_factory.mktemp("repeats")
    shutil.copytree(images, root / "images")
    (root / "configs.json").write_text(json.dumps([{**TINY, **one} for one in CONFIGS]))
    run, train_epoch = Repeated(root, "", ""), Trainer._train_epoch

    def until_the_second_repeat(self: Trainer, *rest: Any) -> Any:
        if self.task.display_name == "a fold 3":
            raise Interrupted
        return train_epoch(self, *rest)

    def printed(code: int) -> str:
        words = ["--executor", "inline", "--log-dir", str(root / "logs")]
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            assert main([*run.words, *words]) == code
        return stream.getvalue()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_train_epoch", until_the_second_repeat)
        interrupted = printed(130)
    return replace(run, interrupted=interrupted, resumed=printed(0))


def test_every_fold_of_every_repeat_is_trained(
    repeated: Repeated, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "a: fold 3 of 4 (repeat 2, fold 1 of 2) stopped" in repeated.interrupted
    assert "4/4 (2 × 2)" in repeated.resumed
    logs = "".join(path.read_text() for path in (repeated.root / "logs").glob("a_*.log"))
    assert "Fold: 4 of 4 (repeat 2, fold 2 of 2)" in logs
    assert main(["plan", *repeated.words]) == 0
    shown = capsys.readouterr().out
    assert "4 (2 × 2)" in shown
    assert "8 of 8 folds are finished" in shown
    assert main(["status", str(repeated.output)]) == 0
    shown = capsys.readouterr().out
    assert "8 of 8 folds done" in shown
    assert "every 2 folds are a repeat" in shown


def test_the_first_repeat_is_the_only_one_of_a_run_without_repeats(
    repeated: Repeated, train: Callable[..., str], write_configs: Callable[..., Path]
) -> None:
    once = write_configs({**CONFIGS[0], "n_repeats": 1})
    train("--config-file", once)
    for fold in (1, 2):
        mine, theirs = (
            folder / f"a/fold_{fold}" for folder in (repeated.output, once.parent / "out")
        )
        assert (mine / "predictions.csv").read_bytes() == (theirs / "predictions.csv").read_bytes()
    shutil.copytree(repeated.output, once.parent / "twice")
    assert "n_repeats: 2 → 1\n" in train("--config-file", once, output="twice", check=2)


def test_its_splits_can_be_imported(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    repeated: Repeated,
    images: Path,
    tmp_path: Path,
) -> None:
    file = repeated.output / "a/folds_info.json"
    once = write_configs({**CONFIGS[0], "n_repeats": 1})
    shown = train("--config-file", once, "--splits-file", file, check=2)
    assert "divides the images 2 time(s), but n_repeats is 1: set it to 2" in shown
    seeded = write_configs({**CONFIGS[0], "random_state": 7})
    words = [
        "plan",
        "--output-dir",
        tmp_path / "other",
        "--data-dir",
        images,
        "--splits-file",
        file,
    ]
    assert main([str(word) for word in (*words, "--config-file", seeded)]) == 0


def test_summary_tables_and_curves(repeated: Repeated) -> None:
    for name in ("a", "b"):
        summary = read_summary(repeated.output / f"{name}/cv_summary.json")
        assert summary["n_folds"] == len(summary["fold_results"]["fold_val_acc"]) == 4
        assert len(summary["repeats"]["best_epoch"]["repeat_results"]["repeat_val_acc"]) == 2
        assert summary["out_of_fold"]["n"] == 60
    run = load_run(repeated.output)
    assert run.folds.repeat.tolist() == 2 * [1, 1, 2, 2]
    assert run.predictions.groupby(["config", "path"]).size().eq(2).all()
    events = EventAccumulator(str(repeated.output / "a/tensorboard/mean"))
    events.Reload()
    assert [event.value for event in events.Scalars("Folds/count")] == [4.0]


def test_prediction_averages_all_folds_and_lists_each_image_once_per_repeat(
    repeated: Repeated, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = str(repeated.output / "a"), tmp_path / "answers.csv"
    words = ["predict", model, "--images", str(images), "--output", str(output)]
    assert main(words) == 0
    assert "the mean of fold 1 (epoch 1), fold 2" in capsys.readouterr().out
    assert len(output.read_text(encoding="utf-8").splitlines()) == 31
    assert main([*words, "--out-of-fold", "--calibrate"]) == 0
    assert "every image is listed 2 times" in capsys.readouterr().out
    with output.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 60
    for repeat in ("12", "34"):
        paths = [row["path"] for row in rows if row["fold"] in repeat]
        assert len(paths) == len(set(paths)) == 30


def test_a_mistake_is_shown_once_and_listed_for_every_repeat(repeated: Repeated) -> None:
    folds = ConfigFiles.read(ConfigPaths(repeated.output / "a")).folds
    every, shown = worst_mistakes(folds), worst_mistakes(folds, 8)
    assert len({one.path for one in shown}) == len(shown) == min(8, len({o.path for o in every}))
    assert len({(one.path, one.fold) for one in every}) == len(every)
    assert max(Counter(one.path for one in every).values()) == 2
    assert shown[0] == every[0]


def test_comparison_and_report(
    repeated: Repeated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "comparison.json"
    assert main(["compare", str(repeated.output), "--output", str(found)]) == 0
    (pair,) = json.loads(found.read_text(encoding="utf-8"))["data_sets"][0]["pairs"]
    assert pair["test"]["n_folds"] == 4
    assert pair["test"]["test_to_train"] == pytest.approx(1)
    mcnemar = pair["mcnemar"]
    assert mcnemar["only_first_correct"] + mcnemar["only_second_correct"] <= 30
    shutil.copytree(repeated.output, tmp_path / "out")
    assert main(["report", str(tmp_path / "out"), "--no-images"]) == 0
    capsys.readouterr()
    report = tmp_path / "out/report"
    methods = " ".join((report / "methods.txt").read_text(encoding="utf-8").split())
    assert "2 repeats of stratified 2-fold cross-validation" in methods
    assert "validated exactly once per repeat" in methods
    assert "Bouckaert and Frank 2004" in methods
    assert "2 repeats of 2 folds" in (report / "index.html").read_text(encoding="utf-8")
    assert np.loadtxt(report / "folds.csv", delimiter=",", skiprows=1, usecols=1).size == 8
