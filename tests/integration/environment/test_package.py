"""The wheel, in an environment of its own: complete, and started as `clip-pkg`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

from support.tiny_checkout import CHECKOUT

BUILD = "from setuptools import build_meta; print(build_meta.build_{kind}({folder!r}))"


def tracked() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "clip_pkg"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def built(kind: str, folder: Path) -> Path:
    """Build without a network, from a copy, because a build leaves files beside the sources."""
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", CHECKOUT, source], check=True)
    for name in ["pyproject.toml", *tracked()]:
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    code = BUILD.format(kind=kind, folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.splitlines()[-1]


def test_the_wheel_starts_elsewhere(tmp_path: Path) -> None:
    wheel = built("wheel", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("clip_pkg/")} == {*tracked()}
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # What it depends on is that of this environment; its own files come first.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = [environment / "bin/python", "-m", "pip", "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*pip, "--force-reinstall", wheel], check=True)

    def run(*words: str | Path, path: Path | None = None) -> str:
        found = os.pathsep.join([*([str(path)] if path else []), os.environ["PATH"]])
        variables = {**os.environ, "PATH": found, "COLUMNS": "500"}
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    program = environment / "bin/clip-pkg"
    shown = run(program, "--help", path=environment / "bin")
    assert shown.startswith("usage: clip-pkg ")
    # Where a shell would not find it, what is printed to be pasted names it in full.
    assert run(program, "--help", path=tmp_path).startswith(f"usage: {program} ")
    assert "train_clip.py" not in shown
    assert "usage: " in run(environment / "bin/python", "-m", "clip_pkg", "predict", "--help")
    files = {"train_clip_config.json": ".", "class_texts_digits.json": "class_texts"}
    for name, folder in files.items():
        of_the_launcher = (CHECKOUT / folder / name).read_bytes()
        assert (site / "clip_pkg/study/demo_files" / name).read_bytes() == of_the_launcher
    where = run(environment / "bin/python", "-c", "import clip_pkg; print(clip_pkg.__file__)")
    assert Path(where.strip()).is_relative_to(site)


def test_the_source_distribution_has_what_a_build_needs(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path)) as archive:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", *tracked()} <= names


def test_the_container_is_well_made_and_copies_what_exists() -> None:
    """Built where a Docker daemon and its registry can be had, which is not in these tests."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    lines = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    sources = [one for line in lines if line.startswith("COPY ") for one in line.split()[1:-1]]
    kept = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert len(sources) == 5
    for source in sources:
        assert (CHECKOUT / source).exists()
        assert f"!{source}" in kept
