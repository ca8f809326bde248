"""Lock files, the making and mending of `.venv`, and the launchers on top of it.

A stand-in for uv "installs" tiny packages, so that nothing is downloaded and every way in which an
installation can go wrong is quick to try. The real installation is what brought us here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[1]
LOCK_NAMES = ("runtime", "dev", "installer")
HASH_LINE = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")

FAKE_UV = """#!/bin/sh
[ "$1" = --version ] && echo "uv 0.0.0 (a stand-in)" && exit
exec '{python}' -I '{program}' "$@"
"""
FAKE_INSTALL = """
import json, os, sys, time
from pathlib import Path

arguments = sys.argv[1:]
after = dict(zip(arguments, arguments[1:]))
with open(os.environ["UV_CALLS"], "a") as calls:
    index = os.environ.get("UV_DEFAULT_INDEX", "")
    calls.write(json.dumps({"arguments": arguments, "index": index}) + "\\n")
if os.environ.get("UV_FAILS"):
    sys.exit("no such package")
venv = Path(after["--python"]).parent.parent
(site,) = venv.glob("lib/python*/site-packages")

def put(name, version):
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Name: {name}\\nVersion: {version}\\n")
    (info / "RECORD").write_text(f"{name}/__main__.py,,\\n{name}/__init__.py,,\\n")
    if (site / name).exists():
        return  # like the real one, which trusts what says it is installed
    (site / name).mkdir()
    (site / name / "__main__.py").write_text(
        "import os, sys\\n"
        f"print({name!r}, *sys.argv[1:])\\n"
        f"sys.exit(int(os.environ.get('EXIT_{name}', '0')))\\n"
    )
    time.sleep(float(os.environ.get("UV_SECONDS", "0")))
    (site / name / "__init__.py").touch()

if "--requirement" in after:
    for line in Path(after["--requirement"]).read_text().splitlines():
        if "==" in line:
            put(*line.split("=="))
"""


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


# --- lock files


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


@pytest.mark.parametrize(("name", "extras"), [("runtime", ()), ("dev", ("dev", "hf"))])
def test_lock_fits_the_ranges_of_the_project(name: str, extras: Sequence[str]) -> None:
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        pyproject = tomllib.load(file)
    wanted = [*pyproject["project"]["dependencies"], *pyproject["build-system"]["requires"]]
    for extra in extras:
        wanted += pyproject["project"]["optional-dependencies"][extra]
    locked = pins(name)
    for requirement in map(Requirement, wanted):
        pin = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pin)), f"{pin} is not {requirement}"


def test_dev_lock_includes_the_runtime_lock() -> None:
    dev = pins("dev")
    for name, pin in pins("runtime").items():
        assert str(dev[name]) == str(pin)


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


# --- making and mending .venv


@dataclass(frozen=True)
class Checkout:
    """A checkout with tiny lock files, a stand-in for uv on PATH, and stubs to launch."""

    root: Path
    calls_file: Path
    path: str

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def site_packages(self) -> Path:
        (found,) = self.venv.glob("lib/python*/site-packages")
        return found

    def calls(self) -> list[dict[str, object]]:
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def environment(self, **extra: str) -> dict[str, str]:
        settings = ("DATA_DIR", "CONFIG_FILE", "USE_MULTI_CONFIG", "OUTPUT_BASE_DIR", "GPUS")
        unset = (*settings, "LOG_DIR", "PYTHONPATH", "UV_INDEX_URL")
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        here = {
            "PATH": self.path,
            "PYTHON": sys.executable,
            "UV_CALLS": str(self.calls_file),
            "UV_DEFAULT_INDEX": "given",  # pip, which starts slowly, is not asked for a mirror
        }
        return {**kept, **here, **extra}

    def command(self, kind: str = "runtime") -> list[str]:
        return ["bash", "-c", f". environment/prepare.sh; prepare_environment {kind}"]

    def prepare(self, kind: str = "runtime", **extra: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.command(kind), **extra)

    def run(
        self, command: Sequence[str], cwd: Path | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def make_checkout(folder: Path) -> Checkout:
    root = folder / "check out"  # people's folders have blanks
    (root / "environment").mkdir(parents=True)
    for path in (CHECKOUT / "environment").glob("*.*"):
        if path.suffix in {".py", ".sh"}:
            shutil.copy(path, root / "environment")
    for name, content in {
        "runtime": "alpha==1.0\nbeta==2.0\n",
        "dev": "alpha==1.0\nbeta==2.0\nruff==3.0\nmypy==3.0\npytest==4.0\n",
        "installer": "uv==0.0\n",
    }.items():
        (root / "environment" / f"{name}.lock").write_text(content, encoding="utf-8")
    for script in ("run_train_clip.sh", "run_tests.sh"):
        shutil.copy(CHECKOUT / script, root)
    (root / "train_clip.py").write_text(
        "import json, os, sys\n"
        "print(json.dumps({'arguments': sys.argv[1:], 'cwd': os.getcwd(), 'pid': os.getpid()}))\n"
        "sys.exit(int(os.environ.get('EXIT_train', '0')))\n",
        encoding="utf-8",
    )
    (root / "clip_pkg").mkdir()
    (root / "clip_pkg" / "demo.py").write_text(
        "import os, sys\nos.mkdir(sys.argv[1])\nprint('made the demo')\n", encoding="utf-8"
    )
    programs = folder / "programs"
    programs.mkdir()
    (programs / "install.py").write_text(FAKE_INSTALL, encoding="utf-8")
    uv = FAKE_UV.format(python=sys.executable, program=programs / "install.py")
    (programs / "uv").write_text(uv, encoding="utf-8")
    (programs / "uv").chmod(0o755)
    return Checkout(root, folder / "calls", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return make_checkout(tmp_path)


@pytest.fixture
def prepared(checkout: Checkout) -> Checkout:
    done = checkout.prepare()
    assert done.returncode == 0, done.stderr
    checkout.calls_file.unlink()
    return checkout


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


# --- the launchers


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
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["cwd"] == str(checkout.root)
    passed: list[str] = told["arguments"]
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
        said, _ = running.communicate(timeout=60)
    assert running.returncode == 3
    assert json.loads(said)["pid"] == running.pid  # so that signals reach it directly


def test_missing_default_images_are_made_once(checkout: Checkout) -> None:
    done = checkout.run(["bash", "run_train_clip.sh"])
    assert done.returncode == 0, done.stderr
    assert "'single_label_data' does not exist: making a small example" in done.stdout
    assert (checkout.root / "single_label_data").is_dir()
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


def test_the_test_launcher_ends_with_the_tests(launchable: Checkout) -> None:
    done = launchable.run(["bash", "run_tests.sh"])
    assert done.returncode == 0, done.stderr
    ran = [
        line for line in done.stdout.splitlines() if line.split()[0] in {"ruff", "mypy", "pytest"}
    ]
    assert ran[-1] == "pytest --cov --cov-report=term --cov-fail-under=90"
    assert done.stdout.splitlines()[-1] == ran[-1]
    assert {"ruff check .", "ruff format --check ."} <= set(ran)
    chosen = launchable.run(["bash", "run_tests.sh", "tests/config", "-x"])
    assert chosen.stdout.splitlines()[-1] == "pytest --cov --cov-report=term tests/config -x"


@pytest.mark.parametrize("failing", ["ruff", "mypy", "pytest"])
def test_the_test_launcher_fails_with_any_check(launchable: Checkout, failing: str) -> None:
    done = launchable.run(["bash", "run_tests.sh"], **{f"EXIT_{failing}": "4"})
    assert done.returncode == 4


def test_continuous_integration_runs_the_test_launcher() -> None:
    assert os.access(CHECKOUT / ".ci" / "run", os.X_OK)
    assert "run_tests.sh" in (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8")
