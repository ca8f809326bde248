"""Completion on Tab, asked of a real bash."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from clip_pkg.cli import main

ASK = """
source "$1"
COMP_WORDS=($2) COMP_CWORD=$(($(wc -w <<<"$2") - 1))
$(complete -p clip-pkg | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("clip-pkg eval", {"evaluate"}),
        ("clip-pkg --image-enc", {"--image-encoder"}),
        ("clip-pkg status --wat", {"--watch"}),
        ("clip-pkg completion z", {"zsh"}),
    ],
)
def test_bash_offers(
    typed: str, offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", script, typed], capture_output=True, text=True, check=True
    )
    assert offered <= {word.strip() for word in done.stdout.splitlines()}


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "powershell"]) == 2
    assert "choose from" in capsys.readouterr().err
