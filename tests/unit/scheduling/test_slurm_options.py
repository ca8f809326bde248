from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.base.errors import UserError
from clip_pkg.cli.main import main, parser_of
from clip_pkg.cli.run_arguments import execution
from clip_pkg.scheduling.slurm_options import SlurmOptions, parse_minutes, parse_option

ON_SLURM = ("--data-dir", "d", "--output-dir", "o", "--executor", "slurm")


def options(*words: str) -> SlurmOptions:
    return execution(parser_of().parse([*ON_SLURM, *words])).slurm


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("0:30", 1),
        ("01:30:00", 90),
        ("1-0", 1440),
        ("2-12:30", 3630),
        ("1-01:01:01", 1502),
    ],
)
def test_times_as_slurm_reads_them(text: str, minutes: int) -> None:
    assert parse_minutes(text) == minutes


@given(st.integers(1, 30 * 24 * 3600))
def test_every_duration_is_rounded_up(seconds: int) -> None:
    days, rest = divmod(seconds, 86400)
    text = f"{days}-{timedelta(seconds=rest)}"
    assert parse_minutes(text) == -(-seconds // 60)


@pytest.mark.parametrize("text", ["", "0:00", "-5", "1h", "1:2:3:4", "1-", "५"])
def test_no_times(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        options(f"--time={text}")


def test_options_become_a_request_of_sbatch() -> None:
    found = options(
        *("--partition", "gpu", "--time", "2:00:00", "--gres", "gpu:a100:1,lscratch:20"),
        *("--slurm-option", "mem=16G", "--slurm_option", "cpus_per_task=8"),
        *("--slurm-option", "exclusive", "--max-jobs", "4"),
    )
    assert found.max_jobs == 4
    assert found.request(1) == {
        "partition": "gpu",
        "time": 120,
        "gres": "gpu:a100:1,lscratch:20",
        "mem": "16G",
        "cpus-per-task": "8",
        "exclusive": True,
    }
    assert found.request(2)["gres"] == "gpu:a100:2,lscratch:20"


@pytest.mark.parametrize(
    ("words", "one", "four"),
    [
        ([], {}, {"gres": "gpu:4"}),
        (["--gres", "gpu"], {"gres": "gpu"}, {"gres": "gpu:4"}),
        (["--gres", "lscratch:5"], {"gres": "lscratch:5"}, {"gres": "lscratch:5,gpu:4"}),
        (["--slurm-option", "gpus=1"], {"gpus": "1"}, {"gpus": "4"}),
        (
            ["--slurm-option", "gpus-per-node=a100:1"],
            {"gpus-per-node": "a100:1"},
            {"gpus-per-node": "a100:4"},
        ),
    ],
)
def test_a_fold_on_several_gpus_asks_for_as_many(
    words: list[str], one: dict[str, str], four: dict[str, str]
) -> None:
    assert options(*words).request(1) == one
    assert options(*words).request(4) == four
    assert options(*words).asks_for_gpus == ("gpu" in " ".join(words))


def test_short_jobs_are_warned_late_enough_to_do_something() -> None:
    assert SlurmOptions().seconds_of_warning == 90
    assert SlurmOptions(minutes=600).seconds_of_warning == 90
    assert SlurmOptions(minutes=2).seconds_of_warning == 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time=5", "its own flag: --time"),
        ("array=1-9", "set by this program"),
        ("A=mylab", "KEY=VALUE"),
        ("account=", "KEY=VALUE"),
        ("comment=a\nrm -r x", "characters"),
    ],
)
def test_options_that_cannot_be_passed_on(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        options(f"--slurm-option={text}")


def test_an_option_that_is_given_twice() -> None:
    with pytest.raises(UserError, match="--slurm-option: qos was given twice"):
        options("--slurm-option", "qos=a", "--slurm-option", "qos=b")


@given(st.text(max_size=30))
def test_any_text_is_an_option_or_an_error(text: str) -> None:
    try:
        key, value = parse_option(text)
    except ValueError:
        return
    assert key.replace("-", "").isalnum()
    assert value is True or (isinstance(value, str) and value.isprintable())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gres", "gpu:1", "--time", "5"], "--time and --gres: only with --executor slurm"),
        (["--executor", "slurm", "--max-jobs", "0"], "--max-jobs"),
        (["--executor", "slurm", "--wait-for-gpu", "9"], "--wait-for-gpu cannot be used with"),
    ],
)
def test_flags_that_mean_nothing_are_a_sentence(
    words: list[str],
    message: str,
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--data-dir", str(images), "--output-dir", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_commands_it_says_so(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    where = ["--data-dir", str(images), "--output-dir", str(tmp_path / "out")]
    assert main([*where, "--executor", "slurm"]) == 2
    assert "no sbatch and no srun and no squeue and no scancel" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
