"""The example that compares losses of a pre-training: its configs and its launcher."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from clip_pkg.cli.main import parser_of
from clip_pkg.config.flags import config_from_flags
from clip_pkg.config.load import dump_canonical, load_configs
from clip_pkg.results.comparison_tables import PRETRAINING_COLUMNS
from support.tiny import CHECKOUT

EXAMPLE = CHECKOUT / "examples/contrastive"
LOSSES = {"info_nce", "nt_xent", "dcl", "dcl_symmetric", "dhel", "vicreg"}


@pytest.mark.parametrize("name", ["train_clip_config.json", "gpu_config.json"])
def test_losses_and_baseline_differ_in_nothing_else(name: str) -> None:
    loaded = load_configs(EXAMPLE / name)
    assert not loaded.notices
    runs = [one for one in loaded.configs if one.pretrain is not None]
    baselines = [one for one in loaded.configs if one.pretrain is None]
    assert {(one.pretrain.loss.type, one.random_state) for one in runs if one.pretrain} == {
        (loss, seed) for loss in LOSSES for seed in (1, 2)
    }
    assert [one.random_state for one in baselines] == [1, 2]
    others = [
        {
            key: value
            for key, value in dump_canonical(one).items()
            if key not in ("name", "pretrain", "random_state")
        }
        for one in loaded.configs
    ]
    assert all(other == others[0] for other in others)


def test_the_launcher_wants_both_folders(tmp_path: Path) -> None:
    for given, said in (({}, "DATA_DIR"), ({"DATA_DIR": str(tmp_path)}, "TEST_DIR")):
        names = {key: value for key, value in os.environ.items() if not key.endswith("_DIR")}
        done = subprocess.run(
            [EXAMPLE / "run.sh"], env={**names, **given}, capture_output=True, text=True
        )
        assert done.returncode != 0
        assert f"set {said} to the folder" in done.stderr
    where = {"DATA_DIR": str(tmp_path), "TEST_DIR": str(tmp_path / "none")}
    done = subprocess.run([EXAMPLE / "run.sh"], env={**names, **where}, capture_output=True)
    assert done.returncode == 2
    assert b"does not exist" in done.stderr


def test_its_page_has_configs_files_and_columns_that_exist(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs/contrastive.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"(?ms)^```json\n(.*?)^```", page)
    (tmp_path / "configs.json").write_text(text, encoding="utf-8")
    names = [one.name for one in load_configs(tmp_path / "configs.json").configs]
    assert names == ["xrays_nt_xent", "xrays_dhel", "xrays_vicreg", "xrays_alone"]
    for name in re.findall(r"\]\(([^)#:]+)", page):
        assert (CHECKOUT / "docs" / name).exists(), name
    columns = " ".join(re.findall(r"(?m)^\| ([^|]+) \|", page))
    for column in PRETRAINING_COLUMNS[1:]:
        assert column.removesuffix(" %").removesuffix(", min") in columns


def test_the_flags_of_its_page() -> None:
    block = '{"epochs": 50, "loss": {"temperature": 0.2}}'
    words = ["--loss-func", "dhel", "--pretrain", block, "--image-encoder", "resnet18:scratch"]
    (config,) = config_from_flags(parser_of().parse_args(words)).configs
    assert config.pretrain is not None
    assert config.pretrain.epochs == 50
    assert config.pretrain.loss.settings()["temperature"] == 0.2
