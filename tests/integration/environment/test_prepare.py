"""The making and mending of `.venv`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.tiny_checkout import Checkout


def assert_whole(checkout: Checkout, *packages: str) -> None:
    for name in packages or ("alpha", "beta"):
        assert (checkout.site_packages / name / "__init__.py").exists()
    assert not (checkout.venv / ".installing").exists()
    before = checkout.calls()
    again = checkout.prepare()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert checkout.calls() == before, "a ready environment was installed into again"


def test_a_fresh_checkout_is_set_up_once(checkout: Checkout) -> None:
    done = checkout.prepare()
    assert done.returncode == 0, done.stderr
    assert "making .venv with Python" in done.stdout
    assert "ready after" in done.stdout
    pinned, package = [call["arguments"] for call in checkout.calls()]
    assert isinstance(pinned, list)
    assert isinstance(package, list)
    assert "--require-hashes" in pinned
    assert {"--editable", "--no-deps"} <= set(package)
    assert_whole(checkout)


def remove_package(checkout: Checkout) -> None:
    shutil.rmtree(checkout.site_packages / "alpha")


def remove_metadata(checkout: Checkout) -> None:
    shutil.rmtree(checkout.site_packages / "beta-2.0.dist-info")


def remove_all_but_the_stamp(checkout: Checkout) -> None:
    for name in ("bin", "lib"):
        shutil.rmtree(checkout.venv / name)


def remove_python(checkout: Checkout) -> None:
    for path in (checkout.venv / "bin").glob("python*"):
        path.unlink()


def break_python(checkout: Checkout) -> None:
    remove_python(checkout)
    (checkout.venv / "bin" / "python").symlink_to("/nowhere/python3")


def age_python(checkout: Checkout) -> None:
    remove_python(checkout)
    old = checkout.venv / "bin" / "python"
    old.write_text(
        "#!/bin/sh\n"
        'case "$*" in *prepare.py*) exit 1 ;; esac\n'
        'echo \'{"version": [3, 9, 1], "site": "/nowhere"}\'\n'
    )
    old.chmod(0o755)


def leave_unfinished(checkout: Checkout) -> None:
    (checkout.venv / ".installing").touch()


def half_copy_without_stamp(checkout: Checkout) -> None:
    (checkout.venv / ".installed.json").unlink()
    (checkout.site_packages / "alpha" / "__init__.py").unlink()


def change_release(checkout: Checkout) -> None:
    stamp = checkout.venv / ".installed.json"
    content = json.loads(stamp.read_text(encoding="utf-8"))
    stamp.write_text(json.dumps({**content, "python": "3.10"}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove_package, "alpha is missing"),
        (remove_metadata, "beta-2.0.dist-info is missing"),
        (remove_all_but_the_stamp, "its Python does not start"),
        (remove_python, "its Python does not start"),
        (break_python, "its Python does not start"),
        (age_python, "its Python 3.9 is too old"),
        (leave_unfinished, "an earlier set-up was interrupted"),
        (half_copy_without_stamp, "files of installed packages are missing"),
        (change_release, "it was made for Python 3.10"),
    ],
    ids=lambda value: getattr(value, "__name__", "says"),
)
def test_a_damaged_environment_is_made_anew(
    prepared: Checkout, damage: Callable[[Checkout], None], reason: str
) -> None:
    damage(prepared)
    done = prepared.prepare()
    assert done.returncode == 0, done.stderr
    assert f"making .venv anew: {reason}" in done.stdout
    assert_whole(prepared)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"locks": 1, "entries": 2}'])
def test_an_unreadable_stamp_counts_as_none(prepared: Checkout, content: str) -> None:
    (prepared.venv / ".installed.json").write_text(content, encoding="utf-8")
    done = prepared.prepare()
    assert done.returncode == 0, done.stderr
    assert_whole(prepared)


def test_a_moved_checkout_gets_an_environment_of_its_own(
    prepared: Checkout, tmp_path: Path
) -> None:
    copy = Checkout(tmp_path / "copy", prepared.calls_file, prepared.path)
    shutil.copytree(prepared.root, copy.root, symlinks=True)
    done = copy.prepare()
    assert done.returncode == 0, done.stderr
    assert "it was made for another folder" in done.stdout
    assert_whole(copy)


def test_an_environment_that_is_linked_from_elsewhere_is_never_emptied(
    prepared: Checkout, tmp_path: Path
) -> None:
    copy = Checkout(tmp_path / "copy", prepared.calls_file, prepared.path)
    shutil.copytree(prepared.root, copy.root, ignore=shutil.ignore_patterns(".venv"))
    copy.venv.symlink_to(prepared.venv)
    before = sorted(prepared.venv.rglob("*"))
    done = copy.prepare()
    assert done.returncode == 0, done.stderr
    assert "which stays as it is" in done.stdout
    assert_whole(copy)
    assert not copy.venv.is_symlink()
    assert sorted(prepared.venv.rglob("*")) == before


def test_somebodys_own_environment_is_completed(checkout: Checkout) -> None:
    own = [sys.executable, "-m", "venv", "--without-pip", str(checkout.venv)]
    subprocess.run(own, check=True)
    (checkout.site_packages / "mine.py").touch()
    done = checkout.prepare()
    assert done.returncode == 0, done.stderr
    assert (checkout.site_packages / "mine.py").exists()
    assert_whole(checkout)


def test_a_changed_lock_is_installed_over_the_old_one(prepared: Checkout) -> None:
    lock = prepared.root / "environment" / "runtime.lock"
    lock.write_text(lock.read_text(encoding="utf-8") + "gamma==3.0\n", encoding="utf-8")
    done = prepared.prepare()
    assert done.returncode == 0, done.stderr
    assert "anew" not in done.stdout
    assert_whole(prepared, "alpha", "beta", "gamma")


def test_dev_adds_to_runtime_and_includes_it(prepared: Checkout) -> None:
    done = prepared.prepare("dev")
    assert done.returncode == 0, done.stderr
    assert "anew" not in done.stdout
    assert_whole(prepared, "alpha", "beta", "pytest")  # asks for runtime: nothing to do


def test_bench_adds_to_dev_and_includes_it(prepared: Checkout) -> None:
    lock = prepared.root / "environment" / "bench.lock"
    lock.write_text("peer==1.0\nbeta==2.0\n", encoding="utf-8")
    done = prepared.prepare("bench")
    assert done.returncode == 0, done.stderr
    assert "anew" not in done.stdout
    assert all("--no-deps" in call["arguments"] for call in prepared.calls())
    calls = len(prepared.calls())
    for kind in ("bench", "dev"):
        assert prepared.prepare(kind).stdout == ""
    assert len(prepared.calls()) == calls
    assert_whole(prepared, "alpha", "beta", "pytest", "peer")


def test_a_killed_setup_is_made_anew(checkout: Checkout) -> None:
    with subprocess.Popen(
        checkout.command(),
        cwd=checkout.root,
        env=checkout.environment(UV_SECONDS="20"),
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as running:
        deadline = time.monotonic() + 60
        while not list(checkout.venv.glob("lib/python*/site-packages/alpha/__main__.py")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    assert not (checkout.site_packages / "alpha" / "__init__.py").exists()
    done = checkout.prepare()
    assert done.returncode == 0, done.stderr
    assert "an earlier set-up was interrupted" in done.stdout
    assert_whole(checkout)


def test_ctrl_c_ends_with_a_sentence(checkout: Checkout) -> None:
    with subprocess.Popen(
        checkout.command(),
        cwd=checkout.root,
        env=checkout.environment(UV_SECONDS="20"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as running:
        deadline = time.monotonic() + 60
        while not checkout.calls():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert "interrupted; start again to go on" in said
    assert running.returncode in {130, -signal.SIGINT}


def test_two_launches_at_once_install_once(checkout: Checkout) -> None:
    running = [
        subprocess.Popen(
            checkout.command(),
            cwd=checkout.root,
            env=checkout.environment(UV_SECONDS="0.5"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum("making .venv with" in text for text in said) == 1
    assert sum("waiting for that one" in text for text in said) == 2
    assert len(checkout.calls()) == 2  # the pinned packages, then the checkout itself
    assert_whole(checkout)


def test_without_any_installer_it_ends_with_a_sentence(checkout: Checkout) -> None:
    done = checkout.prepare(UV_FAILS="1", PIP_NO_INDEX="1")
    assert done.returncode == 1
    assert "going on with pip" in done.stdout
    assert "the packages could not be installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkout.venv / ".installed.json").exists()


def test_a_mirror_set_for_pip_is_used_by_uv(checkout: Checkout) -> None:
    has_pip = [sys.executable, "-m", "pip", "--version"]
    if subprocess.run(has_pip, capture_output=True, check=False).returncode:
        pytest.skip("this Python has no pip whose settings could be read")
    mirror = "https://mirror.invalid/simple"
    assert checkout.prepare(PIP_INDEX_URL=mirror, UV_DEFAULT_INDEX="").returncode == 0
    assert checkout.calls()[0]["index"] == mirror


@pytest.mark.parametrize("python", ["/nowhere/python3", "false"])
def test_a_machine_without_python_is_told_what_to_do(checkout: Checkout, python: str) -> None:
    done = checkout.prepare(PYTHON=python)
    assert done.returncode == 2
    assert (
        f"no Python 3.11 or newer with its venv module was found (tried: {python})" in done.stderr
    )
    assert not checkout.venv.exists()
