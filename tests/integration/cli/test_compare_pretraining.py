"""`compare` on configs that differ in the loss of their pre-training, over several seeds."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.cli import main
from clip_pkg.study.predictions import read_predictions
from support.pretraining_folders import set_config, write_pretraining
from support.result_folders import drawn_answers, image_list, write_result

IMAGES = image_list()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two losses and the baseline, each with two seeds and so with two hold-outs."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        for loss, skill in (("dhel", 3.0), ("vicreg", 1.0), ("", 0.0)):
            name = f"{loss or 'none'}_{seed}"
            answers = drawn_answers(IMAGES, skill, seed)
            folder = write_result(root, name, IMAGES, answers, seed=seed, use_cv=False)
            write_json(folder / "fold_1" / "history.json", {"val_acc": [30.0, 40.0 + skill]})
            if loss:
                measures = {"probe_acc": 50.0 + seed, "effective_rank": 10 * skill - 9}
                runs = (f"{loss}-{seed}",)
                write_pretraining(
                    folder, "all", loss, seed=seed, runs=runs, measures=measures, seconds=60 * seed
                )
            else:
                set_config(ConfigPaths(folder), random_state=seed)
    return root


@pytest.fixture
def copied_runs(runs: Path, tmp_path: Path) -> Path:
    """The same runs, which a test may change."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: object, code: int = 0) -> str:
        assert main(["compare", *map(str, words)]) == code
        said = capsys.readouterr()
        return said.out + said.err

    return run


def test_seeds_are_one_row_and_other_folds_no_error(
    runs: Path, tmp_path: Path, compare: Callable[..., str]
) -> None:
    target = tmp_path / "c.json"
    said = compare(runs, "--output", target)
    assert said.index("pre-training losses, mean ± SD over n seeds") < said.index("at the best")
    assert "NOT COMPARED:" in said
    rows = {
        one["label"]: one for one in json.loads(target.read_text())["data_sets"][0]["pretraining"]
    }
    assert list(rows) == ["dhel", "vicreg", "no pre-training"]
    for loss, row in rows.items():
        stem = "none" if loss == "no pre-training" else loss
        assert row["configs"] == [f"{stem}_1", f"{stem}_2"]
        folds = [read_predictions(runs / f"{stem}_{n}/fold_1/predictions.csv") for n in (1, 2)]
        scores = [100 * np.mean(f.probabilities.argmax(axis=1) == f.targets) for f in folds]
        assert row["top_1"]["mean"] == pytest.approx(statistics.fmean(scores))
        assert row["top_1"]["sd"] == pytest.approx(statistics.stdev(scores))
        assert row["top_5"] == {"mean": None, "sd": None, "n": 0}  # of three classes
    assert rows["dhel"]["seconds"]["mean"] == 90
    assert rows["dhel"]["probe_gain"]["mean"] == 26.5  # 51 and 52 over the untrained 25
    assert rows["vicreg"]["notes"] == ["collapsed", "all images, without labels"]
    assert rows["no pre-training"]["seconds"]["n"] == rows["no pre-training"]["epochs"] == 0


def test_it_is_written_for_papers_and_programs(
    runs: Path, tmp_path: Path, compare: Callable[..., str]
) -> None:
    compare(runs, "--output", tmp_path / "c.md", tmp_path / "c.csv", tmp_path / "c.tex")
    (line,) = (x for x in (tmp_path / "c.md").read_text().splitlines() if x.startswith("| dhel |"))
    # Of three classes there is no top-5, and no column for it.
    assert line.endswith(
        "| +68.3 | 1.5 | 21.0 ± 0.0 | 50.00 ± 0.00 | +26.5 ± 0.7 | all images, without labels |"
    )
    with (tmp_path / "c_pretraining.csv").open(encoding="utf-8") as stream:
        dhel, vicreg, none = csv.DictReader(stream)
    assert (dhel["n_seeds"], dhel["seconds_mean"], none["seconds_mean"]) == ("2", "90.0", "")
    assert vicreg["notes"].startswith("collapsed")
    assert "dhel & 2" in (tmp_path / "c.tex").read_text()


def test_curves_of_all_losses(runs: Path, tmp_path: Path, compare: Callable[..., str]) -> None:
    begins = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}
    compare(runs, "--output", *(tmp_path / f"curves.{suffix}" for suffix in begins))
    for suffix, start in begins.items():
        assert (tmp_path / f"curves.{suffix}").read_bytes().startswith(start)
    drawn = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    for text in (">dhel<", ">no pre-training<", ">Linear probe, %<", ">Validation accuracy, %<"):
        assert text in drawn
    assert "linear probe: dhel 51.5 %" in drawn


def test_settings_beside_the_seed_are_rows_of_their_own(
    copied_runs: Path, tmp_path: Path, compare: Callable[..., str]
) -> None:
    set_config(ConfigPaths(copied_runs / "dhel_2"), epochs=77)
    compare(copied_runs, "--output", tmp_path / "c.json")
    (one,) = json.loads((tmp_path / "c.json").read_text())["data_sets"]
    labels = [row["label"] for row in one["pretraining"]]
    assert {"dhel (dhel_1)", "dhel (dhel_2)"} < set(labels)


def test_test_scores_come_first_where_all_configs_have_them(
    copied_runs: Path, tmp_path: Path, compare: Callable[..., str]
) -> None:
    for folder in copied_runs.glob("*_?"):
        path = folder / "cv_summary.json"
        test = {
            "n": 9,
            "model": "of the epoch that validation chose",
            "top_k_is": 3,
            "fold_results": {},
            "average_results": {"n": 1, "ddof": 1, "avg_test_acc": 77.0},
        }
        write_json(path, {**json.loads(path.read_text()), "test": test})
    said = compare(copied_runs, "--output", tmp_path / "c.json")
    assert "on test images" in said
    (one,) = json.loads((tmp_path / "c.json").read_text())["data_sets"]
    assert {row["top_1"]["mean"] for row in one["pretraining"]} == {77.0}


def test_curves_need_a_pretraining(tmp_path: Path, compare: Callable[..., str]) -> None:
    folder = write_result(tmp_path, "a", IMAGES, drawn_answers(IMAGES, 1.0, 0))
    said = compare(folder, "--output", tmp_path / "c.png", code=2)
    assert "the curves of pre-trainings need configs with one" in said
    assert "pre-training losses" not in said
