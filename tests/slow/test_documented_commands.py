"""README and docs: every command runs as printed, on a small model; JSON loads."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from clip_pkg.cli import main
from clip_pkg.config.load import load_configs
from clip_pkg.study.class_texts import resolve_class_texts
from support.tiny import CHECKOUT, TINY

pytestmark = pytest.mark.slow  # all of them together

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
# A command that contains these words, and where it runs instead.
ELSEWHERE = {
    "bash run_tests.sh": "this very run",
    "bash run_train_clip.sh": "test_first_hour.py",
    "pip install": "integration/environment/test_package.py",
    "clip-pkg demo": "integration/cli/test_demo.py",
    "report clip_pkg_demo/results": "as `report checkpoints/clip_models`",
    "report results": "as `report checkpoints/clip_models`",
    "examples/contrastive/run.sh": "integration/test_contrastive_example.py",
    "nvidia-cuda-mps-control": "a program of NVIDIA's driver",
    "efficientvim_m1_clip_prompts": "integration/test_guides.py, which needs other weights",
    "--ranks 2": "slow/test_several_processes.py",
}


def blocks(language: str, pages: list[Path]) -> list[str]:
    fence = rf"(?ms)^```{language}\n(.*?)^```"
    return [one for page in pages for one in re.findall(fence, page.read_text(encoding="utf-8"))]


def commands() -> list[str]:
    text = "".join(blocks("bash", PAGES)).replace("\\\n", " ")
    lines = re.sub(r"(?m)^clip-pkg (?!demo)", "python train_clip.py ", text).splitlines()
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    lines += re.findall(r"`(python train_clip\.py [a-z-]+ [^`…]+)`", pages)
    found = dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in lines)
    return [line for line in found if line and not any(word in line for word in ELSEWHERE)]


def test_json_of_readme_and_config_page_loads(tmp_path: Path) -> None:
    configs, texts = 0, 0
    for number, text in enumerate(blocks("json", [PAGES[0], CHECKOUT / "docs/config.md"])):
        path = tmp_path / f"{number}.json"
        path.write_text(text, encoding="utf-8")
        if text.startswith("["):
            configs += len(load_configs(path).configs)
        else:
            found = resolve_class_texts(
                ("Good Place", "Wear"),
                class_texts_file=str(path),
                text_template=None,
                prompts_per_class=None,
                search_dirs=[],
            )
            texts += sum(map(len, found.prompts))
    assert (configs, texts) == (3, 3)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A folder in which the docs' file names mean something small, with two trained configs."""
    root = tmp_path_factory.mktemp("documented")
    one = {**TINY, "epochs": 1, "name": "tiny"}
    (root / "train_clip_config.json").write_text(json.dumps([one]))
    (root / "two.json").write_text(
        json.dumps([one, {**one, "name": "other", "learning_rate": 2e-3}])
    )
    (root / "class_texts").mkdir()
    for output in ("checkpoints/clip_models", "OUT"):
        where = ["--data-dir", str(images), "--output-dir", str(root / output)]
        what = ["--config-file", str(root / "two.json"), "--multi-config"]
        assert main([*where, *what, "--executor", "inline", "--log-dir", str(root / "logs")]) == 0
    return root


SMALL = [
    "--image-encoder=test_resnet:scratch",
    "--text-encoder=prompts",
    "--epochs=1",
    "--img-size=32",
    "--embed-dim=16",
    "--batch-size=8",
    "--augmentation=none",
    "--n-splits=2",
]


def small(command: str, images: Path) -> list[str]:
    """The command's words with a small model, on these images, without GPU or cluster."""
    words = shlex.split(re.sub(r"'?\[.*\]'?", "", command))
    here = "checkpoints/clip_models/"
    places = {
        **dict.fromkeys(("DIR", "DATA_DIR", "/shared/images"), str(images)),
        **dict.fromkeys(("images", "other_images"), str(images)),
        **dict.fromkeys(("F", "FILE", "configs.json"), "train_clip_config.json"),
        **dict.fromkeys(("results", "/shared/results", "clip_pkg_demo/results"), "OUT"),
        "/shared/logs": "logs",
        "resnet18:scratch": "test_resnet:scratch",
        **dict.fromkeys(("MODEL", "RUN_A", f"{here}resnet18_clip_ViT-B_32"), f"{here}tiny"),
        "results/NAME": "OUT/tiny",
        "RUN_B": f"{here}other",
        "Wear": "red",
    }
    words = [places.get(word, word).replace("/NAME", "/tiny") for word in words]
    if words[2] == "export":
        words[-1] = "exported"
    if words[2].startswith("-"):  # training
        if "--config-file" not in words:
            # argparse keeps the last value of a flag
            words += [*SMALL, f"--name=from_flags_{len(command)}"]
            words += ['--pretrain={"epochs": 1}'] if "--loss-func" in words else []
        if {"ray", "slurm"} & set(words):
            words.insert(2, "validate")  # takes the same options, and needs no cluster
        elif "--folds-at-once" not in words:
            words += ["--executor", "inline"]
    return words


@pytest.mark.parametrize("command", commands())
def test_commands_run(
    command: str, workplace: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = small(command, images)
    assert words[:2] == ["python", "train_clip.py"]
    monkeypatch.chdir(workplace)
    assert main(words[2:]) == 0
