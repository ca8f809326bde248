"""`compare` as a user types it, on folders that training and this test wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_pkg.cli import main
from support.result_folders import drawn_answers, image_list, write_result

IMAGES = image_list()


def shown(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main([str(word) for word in words]) == code
    said = capsys.readouterr()
    return said.out + said.err


def test_two_trained_configs(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_configs(
        {"name": "one", "epochs": 1}, {"name": "same", "epochs": 1}, {"name": "longer"}
    )
    said = train("--config-file", file, "--multi-config")
    assert f"python train_clip.py compare {tmp_path / 'out'}" in said
    output = tmp_path / "c.json"
    said = shown(capsys, "compare", tmp_path / "out", "--epoch", "last", "--output", output)
    assert "one and same give identical predictions: a tie" in said
    assert "docs/comparing.md" in said
    (one,) = json.loads(output.read_text())["data_sets"]
    assert one["n_images"] == 30
    assert len(one["pairs"]) == 3
    summary = json.loads((tmp_path / "out" / "longer" / "cv_summary.json").read_text())
    (row,) = (row for row in one["rows"] if row["name"] == "longer")
    assert row["pooled"]["acc"]["value"] is not None
    assert row["fold_scores"] == summary["last_epoch"]["fold_results"]["fold_val_balanced_acc"]


def test_nothing_comparable_is_an_error_with_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate("ab"):
        write_result(tmp_path, name, IMAGES, drawn_answers(IMAGES, 1.0, seed), seed=seed)
    said = shown(capsys, "compare", tmp_path, code=2)
    assert "error: nothing can be compared:" in said
    assert "different folds" in said


def test_one_config_is_shown_alone_even_on_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = write_result(tmp_path, "alone", IMAGES, drawn_answers(IMAGES, 1.0, 0))
    said = shown(capsys, "compare", folder)
    assert "│ majority class " in said
    assert "│ untrained alone " in said
    assert "There is only one config" in said


def test_of_many_pairs_those_of_the_best_compared_config_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        answers = drawn_answers(IMAGES, number / 2, number)
        write_result(tmp_path, f"config {number}", IMAGES, answers)
    write_result(tmp_path, "best", IMAGES, drawn_answers(IMAGES, 9.0, 0), seed=1)  # other folds
    said = shown(capsys, "compare", tmp_path, "--output", tmp_path / "c.md")
    assert "Shown are the 6 pairs with config 6 of 21" in said
    assert "config 6 is significantly better than config 0" in said
    assert "config 1 is not" not in said
    assert "config 1 is significantly" not in said
    assert (tmp_path / "c.md").read_text().count(" − config ") == 21


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare"], "DIR"),
        (
            ["compare", "{folder}", "--metric", "accuracy"],
            "unknown score 'accuracy'; use one of acc",
        ),
        (["compare", "{folder}", "--epoch", "first"], "invalid choice"),
        (["compare", "{folder}", "--output", "x.xlsx"], "must end in .json or .csv"),
        (["compare", "{folder}", "--output", "{folder}/config.json"], "training run"),
        (["compare", "{folder}/nowhere"], "holds no results"),
        (["compare", "{folder}", "--outptu", "x.md"], "--output"),
    ],
)
def test_bad_input_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    folder = write_result(tmp_path, "a", IMAGES, drawn_answers(IMAGES, 1.0, 0))
    told = shown(capsys, *(word.format(folder=folder) for word in words), code=2)
    assert said in told
    assert "Traceback" not in told
