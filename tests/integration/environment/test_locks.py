"""The lock files: pins with hashes that fit the project's ranges and name no host."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[3]
LOCK_NAMES = ("runtime", "dev", "bench", "installer")
HASH_LINE = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def pins(name: str) -> dict[str, Requirement]:
    """The requirements of a lock file by package."""
    text = (CHECKOUT / "environment" / f"{name}.lock").read_text(encoding="utf-8")
    found = [
        Requirement(line.removesuffix(" \\")) for line in text.splitlines() if not line[0].isspace()
    ]
    assert len({canonicalize_name(pin.name) for pin in found}) == len(found)
    return {canonicalize_name(pin.name): pin for pin in found}


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("name", LOCK_NAMES)
def test_lock_pins_and_hashes_and_names_no_host(name: str) -> None:
    text = (CHECKOUT / "environment" / f"{name}.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert text.endswith("\n")
    hashes = 0
    for line in text.splitlines():
        if HASH_LINE.fullmatch(line):
            hashes += 1
            continue
        assert re.fullmatch(r"[a-z0-9-]+==[\w.+!]+( ; [^\\]+)? \\", line), line
        assert hashes != 0 or line == text.splitlines()[0], f"the pin before {line} has no hash"
        hashes = 0
    assert hashes > 0


@pytest.mark.parametrize(
    ("name", "extras"), [("runtime", ()), ("dev", ("dev", "hf")), ("bench", ("bench",))]
)
def test_lock_fits_the_ranges_of_the_project(name: str, extras: Sequence[str]) -> None:
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        pyproject = tomllib.load(file)
    wanted = [*pyproject["project"]["dependencies"]]
    if name != "bench":  # installed beside `dev`, which has it
        wanted += pyproject["build-system"]["requires"]
    for extra in extras:
        wanted += pyproject["project"]["optional-dependencies"][extra]
    locked = pins(name)
    for requirement in map(Requirement, wanted):
        pin = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pin)), f"{pin} is not {requirement}"


def test_dev_lock_includes_the_runtime_lock() -> None:
    dev = pins("dev")
    for name, pin in pins("runtime").items():
        assert version(dev[name]) == version(pin)
        # What training needs on one system, a tool of the tests may need on all.
        assert dev[name].marker in (pin.marker, None)


def test_bench_lock_agrees_with_the_dev_lock_that_it_is_installed_beside() -> None:
    bench, dev = pins("bench"), pins("dev")
    shared = bench.keys() & dev.keys()
    assert {"torch", "open-clip-torch"} <= shared
    for name in shared:
        assert str(bench[name]) == str(dev[name])


def test_torchvision_is_the_one_made_for_torch() -> None:
    requirements = map(Requirement, metadata.requires("torchvision") or ())
    (torch,) = [requirement for requirement in requirements if requirement.name == "torch"]
    assert torch.specifier.contains(version(pins("runtime")["torch"]))
    assert metadata.version("torchvision") == version(pins("runtime")["torchvision"])


def test_torch_is_the_cuda_build_of_the_package_index() -> None:
    on_linux = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11"}
    needed = [
        name
        for name, pin in pins("runtime").items()
        if name.startswith("nvidia-c") and pin.marker and pin.marker.evaluate(on_linux)
    ]
    assert len(needed) >= 5
    assert "+cpu" not in str(pins("runtime")["torch"])
