"""The documentation as a site: built without a warning, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny import CHECKOUT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(build, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_with_its_links(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {"index.html", "README.ko.html", "README.zh-CN.html"} <= pages
    for page in set(CHECKOUT.glob("docs/**/*.md")) - {CHECKOUT / "docs/pypi.md"}:
        assert page.relative_to(CHECKOUT / "docs").with_suffix(".html").as_posix() in pages
    start = (site / "index.html").read_text(encoding="utf-8")
    for target in ("config.html", "examples/next_item/index.html", "CONTRIBUTING.html"):
        assert f'href="{target}"' in start
    assert "Rooms with imports" in (site / "decisions/index.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'(?:src|rel="stylesheet" href)="(?:https?:)?//[^"]*', text) == [], page


@pytest.mark.parametrize("name", ["README.zh-CN.md", "README.ko.md"])
def test_translations_print_commands_of_the_readme(name: str) -> None:
    def commands(page: str) -> set[str]:
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        lines = "\n".join(re.findall(r"(?ms)^```bash\n(.*?)^```", text)).splitlines()
        return {line.split("#")[0].strip() for line in lines}

    logs = "tail -f logs/clip_training/*.log"
    assert commands(name) - {logs} <= commands("README.md")
    assert logs in commands(name)
