"""A checkout to set up and launch, with tiny lock files and a stand-in for uv.

The stand-in "installs" packages of two empty files, so that nothing is downloaded and every way in
which an installation can go wrong is quick to try.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

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
        return self.run(self.command(kind), None, **extra)

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
        if path.suffix in (".sh", ".py"):
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
    (root / "clip_pkg" / "study").mkdir(parents=True)
    (root / "clip_pkg" / "study" / "demo.py").write_text(
        "import os, sys\nos.mkdir(sys.argv[1])\nprint('made the demo')\n", encoding="utf-8"
    )
    programs = folder / "programs"
    programs.mkdir()
    (programs / "install.py").write_text(FAKE_INSTALL, encoding="utf-8")
    uv = FAKE_UV.format(python=sys.executable, program=programs / "install.py")
    (programs / "uv").write_text(uv, encoding="utf-8")
    (programs / "uv").chmod(0o755)
    return Checkout(root, folder / "calls", f"{programs}{os.pathsep}{os.environ['PATH']}")
