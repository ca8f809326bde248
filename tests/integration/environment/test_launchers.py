"""`run_train_clip.sh` and `run_tests.sh`: the set-up, the commands and their arguments."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.tiny_checkout import CHECKOUT, Checkout, make_checkout


@pytest.fixture(scope="module")
def launchable(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose environment is ready; it is only launched, never damaged."""
    checkout = make_checkout(tmp_path_factory.mktemp("launch"))
    done = checkout.prepare("dev")
    assert done.returncode == 0, done.stderr
    (checkout.root / "images").mkdir()
    return checkout


def launch(checkout: Checkout, *arguments: str, **settings: str) -> list[str]:
    done = checkout.run(["bash", "run_train_clip.sh", *arguments], **settings)
    assert done.returncode == 0, done.stderr
    received = json.loads(done.stdout.splitlines()[-1])
    assert received["cwd"] == str(checkout.root)
    passed: list[str] = received["arguments"]
    return passed


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_the_settings_make_one_call(launchable: Checkout) -> None:
    assert launch(launchable, DATA_DIR="images") == [
        *("--data-dir", "images", "--output-dir", "checkpoints/clip_models"),
        *("--config-file", "train_clip_config.json", "--multi-config"),
        *("--gpus", "0", "--log-dir", "logs/clip_training"),
    ]


def test_each_setting_is_overridable(launchable: Checkout) -> None:
    passed = launch(
        launchable,
        "--overwrite",
        "two words",
        DATA_DIR=str(launchable.root / "images"),
        OUTPUT_BASE_DIR="out put",
        CONFIG_FILE="my.json",
        USE_MULTI_CONFIG="false",
        LOG_DIR="my logs",
        GPUS="1,2",
    )
    assert passed == [
        *("--data-dir", str(launchable.root / "images"), "--output-dir", "out put"),
        *("--config-file", "my.json", "--gpus", "1,2", "--log-dir", "my logs"),
        *("--overwrite", "two words"),
    ]


@pytest.mark.parametrize(
    ("given", "passed"),
    [("0 1", "0,1"), ("0,1", "0,1"), ("0, 1", "0,1"), ("3", "3"), ("GPU-8a MIG-1", "GPU-8a,MIG-1")],
)
def test_gpus_are_written_either_way(launchable: Checkout, given: str, passed: str) -> None:
    assert value(launch(launchable, DATA_DIR="images", GPUS=given), "--gpus") == passed


def test_settings_are_edited_as_the_guide_says(checkout: Checkout) -> None:
    script = checkout.root / "run_train_clip.sh"
    text = script.read_text(encoding="utf-8")
    for line, edited in {
        "GPUS=(0)": "GPUS=(6 7)",
        'DATA_DIR="single_label_data"': 'DATA_DIR="."',
        "USE_MULTI_CONFIG=true": "USE_MULTI_CONFIG=false",
    }.items():
        assert f"\n{line}\n" in text
        text = text.replace(f"\n{line}\n", f"\n{edited}\n")
    script.write_text(text, encoding="utf-8")
    passed = launch(checkout)
    assert value(passed, "--gpus") == "6,7"
    assert value(passed, "--data-dir") == "."
    assert "--multi-config" not in passed
    assert value(launch(checkout, GPUS="1"), "--gpus") == "1"


def test_it_starts_from_any_folder(launchable: Checkout, tmp_path: Path) -> None:
    script = str(launchable.root / "run_train_clip.sh")
    done = launchable.run(["bash", script], cwd=tmp_path, DATA_DIR="images")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cwd"] == str(launchable.root)


def test_its_exit_code_and_process_are_those_of_the_trainer(launchable: Checkout) -> None:
    with subprocess.Popen(
        ["bash", "run_train_clip.sh"],
        cwd=launchable.root,
        env=launchable.environment(DATA_DIR="images", EXIT_train="3"),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        printed, _ = running.communicate(timeout=60)
    assert running.returncode == 3
    assert json.loads(printed)["pid"] == running.pid  # so that signals reach it directly


def test_missing_default_images_are_made_once(checkout: Checkout) -> None:
    done = checkout.run(["bash", "run_train_clip.sh"])
    assert done.returncode == 0, done.stderr
    assert "handwritten digits in demo_data" in done.stdout
    assert (checkout.root / "demo_data").is_dir()
    # Nothing is made where a user's images belong.
    assert not (checkout.root / "single_label_data").exists()
    *_, received = done.stdout.splitlines()
    assert value(json.loads(received)["arguments"], "--data-dir") == "demo_data"
    assert "made the demo" not in checkout.run(["bash", "run_train_clip.sh"]).stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DATA_DIR": "no such"}, "DATA_DIR 'no such' does not exist"),
        ({"DATA_DIR": ".", "USE_MULTI_CONFIG": "maybe"}, "USE_MULTI_CONFIG is 'maybe'"),
    ],
)
def test_a_wrong_setting_ends_before_anything_is_made(
    checkout: Checkout, settings: dict[str, str], message: str
) -> None:
    done = checkout.run(["bash", "run_train_clip.sh"], **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert not checkout.venv.exists()
    assert not (checkout.root / "no such").exists()


def test_help_makes_nothing(checkout: Checkout) -> None:
    before = sorted(checkout.root.rglob("*"))
    for flag in ("--help", "-h"):
        done = checkout.run(["bash", "run_train_clip.sh", flag], DATA_DIR="no such")
        assert done.returncode == 0, done.stderr
        assert 'OUTPUT_BASE_DIR="checkpoints/clip_models"' in done.stdout
    assert sorted(checkout.root.rglob("*")) == before


CORES = len(os.sched_getaffinity(0))
PARALLEL = f"--numprocesses {min(CORES + 1, 4)} --dist loadfile --no-loadscope-reorder"


def test_the_test_launcher_ends_with_the_tests(launchable: Checkout) -> None:
    done = launchable.run(["bash", "run_tests.sh"])
    assert done.returncode == 0, done.stderr
    ran = [
        line for line in done.stdout.splitlines() if line.split()[0] in {"ruff", "mypy", "pytest"}
    ]
    assert ran[-1] == f"pytest {PARALLEL} --cov --cov-report=term --cov-fail-under=90"
    assert done.stdout.splitlines()[-1] == ran[-1]
    assert {"ruff check .", "ruff format --check ."} <= set(ran)
    fast = launchable.run(["bash", "run_tests.sh", "--fast", "-x"]).stdout.splitlines()
    assert fast[-1] == f"pytest {PARALLEL} tests/unit -x"
    assert "mypy" not in fast
    chosen = launchable.run(["bash", "run_tests.sh", "tests/unit/config", "-x"])
    assert (
        chosen.stdout.splitlines()[-1]
        == f"pytest {PARALLEL} --cov --cov-report=term tests/unit/config -x"
    )


@pytest.mark.parametrize("failing", ["ruff", "mypy", "pytest"])
def test_the_test_launcher_fails_with_any_check(launchable: Checkout, failing: str) -> None:
    done = launchable.run(["bash", "run_tests.sh"], **{f"EXIT_{failing}": "4"})
    assert done.returncode == 4


def test_continuous_integration_runs_the_test_launcher() -> None:
    assert os.access(CHECKOUT / ".ci" / "run", os.X_OK)
    assert "run_tests.sh" in (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8")
