"""Hook of mkdocs: pages that lie outside of docs/, and links between all of them.

The files are written for the repository, where `docs/config.md` links `../benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DECISIONS = "decisions/README.md"
OUTSIDE = (
    "README.md",
    "README.zh-CN.md",
    "README.ko.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/RESULTS.md",
    "examples/next_item/README.md",
)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside, and a list of the decisions."""
    for name in OUTSIDE:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    rows = [_decision(path) for path in sorted((ROOT / "docs/decisions").glob("*.md"))]
    text = "\n".join(["# Decisions", "", "Why some things are as they are.", "", *rows])
    files.append(File.generated(config, DECISIONS, content=text))
    return files


def _decision(path: Path) -> str:
    title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    return f"- [{title}]({path.name})"


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Turn links of the repository into links of the site; files that it lacks become text."""
    name = page.file.src_uri
    source = name if name in OUTSIDE else f"docs/{name}"
    known = {file.src_uri for file in files}

    def replaced(found: re.Match[str]) -> str:
        image, text, target, anchor = found.groups()
        if not target or "://" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        on_site = path.removeprefix("docs/")
        if on_site not in known:
            return text if (ROOT / path).exists() else found[0]
        place = posixpath.relpath(on_site, posixpath.dirname(name) or ".")
        return f"{image}[{text}]({place}{anchor or ''})"

    return LINK.sub(replaced, markdown)
