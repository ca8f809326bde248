"""Creating and repairing `.venv`."""

from __future__ import annotations

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


def assert_complete(checkout: Checkout, *packages: str) -> None:
    for name in packages or ("alpha", "beta"):
        assert (checkout.site_packages / name / "__init__.py").exists()
    assert not (checkout.venv / ".installing").exists()
    before = checkout.calls()
    again = checkout.prepare()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert checkout.calls() == before, "a ready environment was installed into again"


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_fresh_checkout_is_set_up_once(checkout: Checkout) -> None:
    done = checkout.prepare()
    assert done.returncode == 0, done.stderr
    assert "ready after" in done.stdout
    pinned, package = [call["arguments"] for call in checkout.calls()]
    assert isinstance(pinned, list)
    assert isinstance(package, list)
    assert "--require-hashes" in pinned
    assert {"--editable", "--no-deps"} <= set(package)
    assert_complete(checkout)


def remove_python(checkout: Checkout) -> None:
    for path in (checkout.venv / "bin").glob("python*"):
        path.unlink()


def break_python(checkout: Checkout) -> None:
    remove_python(checkout)
    (checkout.venv / "bin" / "python").symlink_to("/nowhere/python3")


def age_python(checkout: Checkout) -> None:
    remove_python(checkout)
    old = checkout.venv / "bin" / "python"
    old.write_text('#!/bin/sh\n[ "$2" = "" ]\n', encoding="utf-8")
    old.chmod(0o755)


def leave_unfinished(checkout: Checkout) -> None:
    (checkout.venv / ".installing").touch()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove_python, "its Python does not start"),
        (break_python, "its Python does not start"),
        (age_python, "its Python is older than 3.11"),
        (leave_unfinished, "an earlier set-up was interrupted"),
    ],
    ids=lambda value: getattr(value, "__name__", "says"),
)
def test_a_damaged_environment_is_created_again(
    prepared: Checkout, damage: Callable[[Checkout], None], reason: str
) -> None:
    damage(prepared)
    done = prepared.prepare()
    assert done.returncode == 0, done.stderr
    assert f"creating .venv ({reason})" in done.stdout
    assert_complete(prepared)


def test_a_moved_checkout_gets_an_environment_of_its_own(
    prepared: Checkout, tmp_path: Path
) -> None:
    copy = Checkout(tmp_path / "copy", prepared.calls_file, prepared.path)
    shutil.copytree(prepared.root, copy.root, symlinks=True)
    done = copy.prepare()
    assert done.returncode == 0, done.stderr
    assert "it was made for another folder" in done.stdout
    assert_complete(copy)


def test_an_environment_that_is_linked_from_elsewhere_is_never_emptied(
    prepared: Checkout, tmp_path: Path
) -> None:
    copy = Checkout(tmp_path / "copy", prepared.calls_file, prepared.path)
    shutil.copytree(prepared.root, copy.root, ignore=shutil.ignore_patterns(".venv"))
    copy.venv.symlink_to(prepared.venv)
    before = sorted(prepared.venv.rglob("*"))
    done = copy.prepare()
    assert done.returncode == 0, done.stderr
    assert "which is left unchanged" in done.stdout
    assert_complete(copy)
    assert not copy.venv.is_symlink()
    assert sorted(prepared.venv.rglob("*")) == before


def test_an_environment_without_a_record_is_completed(checkout: Checkout) -> None:
    own = [sys.executable, "-m", "venv", "--without-pip", str(checkout.venv)]
    subprocess.run(own, check=True)
    (checkout.site_packages / "mine.py").touch()
    done = checkout.prepare()
    assert done.returncode == 0, done.stderr
    assert (checkout.site_packages / "mine.py").exists()
    assert_complete(checkout)


def test_a_changed_lock_is_installed_over_the_old_one(prepared: Checkout) -> None:
    lock = prepared.root / "environment" / "runtime.lock"
    lock.write_text(lock.read_text(encoding="utf-8") + "gamma==3.0\n", encoding="utf-8")
    done = prepared.prepare()
    assert done.returncode == 0, done.stderr
    assert "creating" not in done.stdout
    assert_complete(prepared, "alpha", "beta", "gamma")


def test_bench_includes_dev_which_includes_runtime(prepared: Checkout) -> None:
    lock = prepared.root / "environment" / "bench.lock"
    lock.write_text("peer==1.0\nbeta==2.0\n", encoding="utf-8")
    done = prepared.prepare("bench")
    assert done.returncode == 0, done.stderr
    assert "creating" not in done.stdout
    assert all("--no-deps" in call["arguments"] for call in prepared.calls())
    calls = len(prepared.calls())
    for kind in ("bench", "dev", "runtime"):
        assert prepared.prepare(kind).stdout == ""
    assert len(prepared.calls()) == calls
    assert_complete(prepared, "alpha", "beta", "pytest", "peer")


def test_a_killed_setup_is_repaired(checkout: Checkout) -> None:
    with subprocess.Popen(
        checkout.command(),
        cwd=checkout.root,
        env=checkout.environment(UV_SECONDS="20"),
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as running:
        wait_until(lambda: [*checkout.venv.glob("lib/python*/site-packages/alpha/__main__.py")])
        os.killpg(running.pid, signal.SIGKILL)
    assert not (checkout.site_packages / "alpha" / "__init__.py").exists()
    done = checkout.prepare()
    assert done.returncode == 0, done.stderr
    assert "an earlier set-up was interrupted" in done.stdout
    assert_complete(checkout)


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
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum("creating .venv" in text for text in printed) == 1
    assert sum("waiting for another" in text for text in printed) == 2
    assert len(checkout.calls()) == 2  # the pinned packages, then the checkout itself
    assert_complete(checkout)


def test_without_any_installer_it_ends_with_a_sentence(checkout: Checkout) -> None:
    done = checkout.prepare(UV_FAILS="1", PIP_NO_INDEX="1")
    assert done.returncode == 1
    assert "the packages could not be installed" in done.stderr
    assert not (checkout.venv / ".installed").exists()


def test_a_mirror_set_for_pip_is_used_by_uv(checkout: Checkout) -> None:
    has_pip = [sys.executable, "-m", "pip", "--version"]
    if subprocess.run(has_pip, capture_output=True, check=False).returncode:
        pytest.skip("this Python has no pip whose settings could be read")
    mirror = "https://mirror.invalid/simple"
    assert checkout.prepare(PIP_INDEX_URL=mirror, UV_DEFAULT_INDEX="").returncode == 0
    assert checkout.calls()[0]["index"] == mirror


@pytest.mark.parametrize("python", ["/nowhere/python3", "false"])
def test_a_machine_without_python_gets_instructions(checkout: Checkout, python: str) -> None:
    done = checkout.prepare(PYTHON=python)
    assert done.returncode == 2
    assert (
        f"no Python 3.11 or newer with its venv module was found (PYTHON={python})" in done.stderr
    )
    assert not checkout.venv.exists()
