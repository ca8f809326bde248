"""Whatever is wrong with the input: exit code 2, a sentence with the place, nothing written."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.config.test_broken_configs import MEMBERS, MISTAKES, render
from unit.study.test_broken_folders import BROKEN

import clip_pkg.launch.training
from clip_pkg.cli import main
from support.tiny import TINY, program_environment


class NoProbe:
    """Stands in for the encoder check, which has tests of its own."""

    def problems(self) -> list[str]:
        return []

    def cancel(self) -> None:
        pass


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_pkg.launch.training, "ask", lambda *_: NoProbe())


def arguments(data: Path, output: Path, config: Path) -> list[str]:
    words = ["--data-dir", data, "--output-dir", output, "--config-file", config, "--multi-config"]
    return [str(word) for word in words]


def test_generated_broken_configs(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output = tmp_path / "configs.json", tmp_path / "out"
    broken = 0
    for mistake in MISTAKES:
        choose = random.Random(f"cli {mistake.__name__}")
        for _ in range(max(10, 200 // len(MISTAKES) + 1)):
            members = list(MEMBERS.items())
            mistake(members, choose)
            config.write_text(render(members), encoding="utf-8")
            code = main(arguments(images, output, config))
            shown = capsys.readouterr()
            assert code == 2, config.read_text(encoding="utf-8")
            assert f"{config}:" in shown.err
            assert "Traceback" not in shown.err + shown.out
            broken += 1
    assert broken >= 200
    assert not output.exists()


@pytest.mark.usefixtures("no_probe")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write_configs: Callable[..., Path],
) -> None:
    build, place = BROKEN[name]
    data = build(tmp_path / "data")
    code = main(arguments(data, tmp_path / "out", write_configs({})))
    shown = capsys.readouterr()
    assert code == 2
    assert place in shown.err
    assert "Traceback" not in shown.err + shown.out
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_probe")
@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        ({"n_splits": 7}, ["blue sky", "7 folds"]),
        ({"class_texts_file": "none.json"}, ["none.json", "class_texts"]),
        ({"group_pattern": r"^(patient\d+)_"}, ["group_pattern", "000.png"]),
    ],
    ids=["too many folds", "no class texts", "no groups"],
)
def test_configs_that_do_not_fit_the_images(
    change: dict[str, object],
    pieces: list[str],
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write_configs: Callable[..., Path],
) -> None:
    configs = write_configs({"name": "fine"}, {"name": "wrong", **change})
    assert main(arguments(images, tmp_path / "out", configs)) == 2
    shown = capsys.readouterr().err
    assert all(piece in shown for piece in [*pieces, "wrong"]), shown
    assert "fine:" not in shown
    assert not (tmp_path / "out").exists()


def test_a_class_without_text_is_named(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    (tmp_path / "texts.json").write_text('{"red": "a red thing", "grun": "a green thing"}')
    shown = train("--config-file", write_configs({"class_texts_file": "texts.json"}), check=2)
    assert "grün" in shown
    assert "blue sky" in shown
    assert "Traceback" not in shown


def test_missing_weights_and_impossible_sizes_are_told_before_training(
    train: Callable[..., str],
    tmp_path: Path,
    write_configs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    configs = write_configs(
        {"name": "a", "image_encoder_name": "resnet18"},
        {"name": "b", "image_encoder_name": "test_vit:scratch", "img_size": 8},
    )
    shown = train("--config-file", configs, "--multi-config", check=2)
    assert "resnet18" in shown
    assert "weights_dir" in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["--data-dirr", "x"], "did you mean --data-dir"),
        (["trian"], "unknown command 'trian'"),
        (["--data-dir", "{images}", "--output-dir", "o", "--multi-config"], "--config-file"),
        (
            [
                "--data-dir",
                "{images}",
                "--output-dir",
                "o",
                "--config-file",
                "{one}",
                "--epochs",
                "3",
            ],
            "--epochs",
        ),
        (
            ["--data-dir", "{images}", "--output-dir", "o", "--config-file", "{two}"],
            "--multi-config",
        ),
        (["--data-dir", "{images}", "--output-dir", "o", "--epochs", "-3"], "--epochs"),
        (["--data-dir", "{images}", "--output-dir", "o", "--gpus", "a"], "--gpus"),
        (["summarize", "{images}"], "holds no results"),
    ],
)
def test_flags(
    words: list[str],
    piece: str,
    images: Path,
    write_configs: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = write_configs({}, name="one.json")
    two = write_configs({"name": "a"}, {"name": "b"}, name="two.json")
    filled = [word.format(images=images, one=one, two=two) for word in words]
    try:
        code = main(filled)
    except SystemExit as left:  # argparse's own way out
        code = left.code
    shown = capsys.readouterr().err
    assert code == 2
    assert piece in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("words", [["--help"], ["validate", "--help"], ["validate", "bad"]])
def test_help_and_refusals_need_no_torch(words: list[str], images: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('[{"learning_rat": 1}]')
    if words[-1] == "bad":
        words = ["validate", "--config-file", str(bad), "--data-dir", str(images)]
    code = (
        "import sys; from clip_pkg.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'open_clip', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=program_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["..", ".hidden", "a\nb", "x" * 300, "../up"])
def test_names_that_leave_the_folder_are_refused(
    name: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "configs.json"
    config.write_text(json.dumps([{**TINY, "name": name}]))
    assert main(arguments(images, tmp_path / "out", config)) == 2
    assert "[0].name" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"configs.json"}


def test_a_foreign_folder_in_the_way_is_left_alone(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    (tmp_path / "out/mine").mkdir(parents=True)
    (tmp_path / "out/mine/thesis.txt").write_text("do not touch")
    shown = train("--config-file", write_configs({"name": "mine"}), check=2)
    assert "not empty" in shown
    assert (tmp_path / "out/mine/thesis.txt").read_text() == "do not touch"
