"""The headline of trained configs: its rule, its files, and the same digits everywhere."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_pkg.api.run import load_run
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.cli import main
from clip_pkg.study.epoch_predictions import read_epoch_predictions
from clip_pkg.study.predictions import read_predictions
from clip_pkg.training.optimisation import Optimisation

Train = Callable[..., str]
CONFIGS: list[dict[str, Any]] = [
    {"name": "chosen", "epochs": 5, "early_stopping_monitor": "val_acc"},
    {"name": "inner", "epochs": 2, "inner_val_fraction": 0.3},
    {"name": "not kept", "epochs": 2, "keep_epoch_predictions": False},
    {"name": "one epoch", "epochs": 1},
]


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "cv_summary.json").read_text("utf-8"))
    return content


@pytest.fixture
def output(train: Train, write_configs: Callable[..., Path], tmp_path: Path) -> Path:
    train("--config-file", write_configs(*CONFIGS), "--multi-config")
    return tmp_path / "out"


def test_each_config_has_its_rule_and_one_number_everywhere(output: Path) -> None:
    rules = {config["name"]: summary(output / config["name"])["headline"] for config in CONFIGS}
    assert {name: block["rule"] for name, block in rules.items()} == {
        "chosen": "bias corrected",
        "inner": "inner split",
        "not kept": "last epoch",
        "one epoch": "last epoch",
    }
    for config in CONFIGS[1:]:
        found = summary(output / config["name"])
        block = found["headline"]
        assert not (output / config["name"] / "fold_1/predictions_epochs.npz").exists()
        assert block["optimism_removed"] is None
        pooled = found[f"{block['epoch']}_epoch"]["out_of_fold"]
        for score, value in block["scores"].items():
            assert value == pooled[score]

    found = summary(output / "chosen")
    block = found["headline"]
    pooled = found["out_of_fold"]
    assert block["scores"]["acc"] == pytest.approx(pooled["acc"] - block["optimism_removed"]["acc"])

    written = output / "comparison.json"
    assert main(["compare", str(output), "--metric", "acc", "--output", str(written)]) == 0
    compared = json.loads(written.read_text("utf-8"))["data_sets"][0]
    for row in compared["rows"]:
        block = summary(output / row["name"])["headline"]
        shown = row["headline"]["scores"]["acc"]
        assert shown["value"] == block["scores"]["acc"]
        assert list(shown["interval"].values()) == block["intervals"]["acc"]
        pooled = summary(output / row["name"])["confidence_intervals"]["out_of_fold"]["acc"]
        assert list(row["pooled"]["acc"]["interval"].values()) == pooled
    ranked = [row["headline"]["scores"]["acc"]["value"] for row in compared["rows"]]
    assert ranked == sorted(ranked, reverse=True)
    assert compared["winner"]["name"] == compared["rows"][0]["name"]
    assert compared["winner"]["n_configs"] == len(CONFIGS)

    table = load_run(output).summaries
    rows = table[(table.config == "chosen") & (table.epoch == "headline") & (table.score == "acc")]
    block = summary(output / "chosen")["headline"]
    assert rows[["out_of_fold", "low", "high"]].to_numpy().tolist() == [
        [block["scores"]["acc"], *block["intervals"]["acc"]]
    ]

    assert main(["report", str(output), "--no-images"]) == 0
    with (output / "report/leaderboard.csv").open(encoding="utf-8", newline="") as stream:
        lines = [
            row
            for row in csv.DictReader(stream)
            if (row["config"], row["epoch"], row["score"]) == ("chosen", "headline", "acc")
        ]
    assert [[float(row[name]) for name in ("pooled", "ci_low", "ci_high")] for row in lines] == [
        [block["scores"]["acc"], *block["intervals"]["acc"]]
    ]
    low, high = summary(output / "chosen")["headline"]["intervals"]["balanced_acc"]
    latex = (output / "report/results.tex").read_text("utf-8")
    assert f"({low:.2f} to {high:.2f})" in latex


def test_epochs_survive_an_interruption_and_belong_to_the_fold(
    train: Train,
    write_configs: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_configs({"name": "a", "epochs": 4, "use_cv": False})
    train("--config-file", path, output="whole")
    apply, steps = Optimisation.apply, 0

    def interrupted(self: Optimisation, *arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 8:
            signal.raise_signal(signal.SIGINT)
        apply(self, *arguments)

    monkeypatch.setattr(Optimisation, "apply", interrupted)
    train("--config-file", path, check=130)
    fold = ConfigPaths(tmp_path / "out/a").fold(1)
    assert fold.unfinished_epoch_predictions.exists()
    train("--config-file", path)
    assert not fold.unfinished_epoch_predictions.exists()
    resumed = read_epoch_predictions(fold)
    whole = read_epoch_predictions(ConfigPaths(tmp_path / "whole/a").fold(1))
    assert resumed is not None
    assert whole is not None
    np.testing.assert_array_equal(resumed, whole)
    last = read_predictions(fold.predictions_last).probabilities
    np.testing.assert_allclose(resumed[-1], last, rtol=1e-6)
    first, second = (summary(tmp_path / run / "a")["headline"] for run in ("whole", "out"))
    assert first == second

    fold.epoch_predictions.write_bytes(b"damaged")
    (tmp_path / "out/a/cv_summary.json").unlink()
    assert main(["summarize", str(tmp_path / "out/a")]) == 1
