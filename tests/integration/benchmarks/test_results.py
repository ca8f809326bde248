"""Sections of RESULTS.md: what one benchmark writes leaves those of the others alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import results

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
# Markdown as it comes, with the lines that could be taken for a marker.
LINES = st.sampled_from(
    ["", "## Losses", "| a | b |", "<!-- begin -->", "<!-- x: start -->", "end"]
)
BODIES = st.lists(LINES | st.text(st.characters(codec="utf-8", exclude_characters="\r"))).map(
    "\n".join
)


@given(st.lists(st.tuples(NAMES, BODIES), max_size=6))
def test_the_last_body_of_every_section_is_what_the_file_holds(
    written: list[tuple[str, str]],
) -> None:
    text = ""
    for name, body in written:
        text = results.replace_section(text, name, body)
    for name, body in dict(written).items():
        assert results.section(text, name) == body.strip("\n")
    order = [text.index(results.markers(name)[0]) for name in dict(written)]
    assert order == sorted(order)  # a section keeps its place


@given(NAMES, BODIES, BODIES, st.text("ab\n", max_size=9), st.text("ab\n", max_size=9))
def test_what_is_around_a_section_stays(
    name: str, old: str, new: str, before: str, after: str
) -> None:
    begin, end = results.markers(name)
    text = f"{before}{begin}\n{old}\n{end}{after}"
    replaced = results.replace_section(text, name, new)
    assert replaced.startswith(before + begin)
    assert replaced.endswith(end + after)
    assert results.section(replaced, name) == new.strip("\n")
    assert results.replace_section(replaced, name, new) == replaced


def test_names_that_contain_each_other_are_different_sections() -> None:
    text = results.replace_section("", "losses-cpu", "on the CPU")
    text = results.replace_section(text, "losses", "others")
    text = results.replace_section(text, "cpu", "third")
    assert results.section(text, "losses-cpu") == "on the CPU"
    assert results.section(text, "losses") == "others"
    assert results.section(text, "absent") is None
    assert text.startswith("# Results\n")


@pytest.mark.parametrize(
    "text",
    [
        "<!-- a: begin -->",
        "<!-- a: end -->",
        "<!-- a: end -->\n<!-- a: begin -->",
        "<!-- a: begin -->\n<!-- a: begin -->\n<!-- a: end -->",
    ],
)
def test_markers_that_do_not_match_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        results.replace_section(text, "a", "new")


@pytest.mark.parametrize("name", ["", "a b", "a-->", "é!"])
def test_a_name_that_would_not_be_found_again_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="named by"):
        results.replace_section("", name, "body")


def test_a_body_with_its_own_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="own marker"):
        results.replace_section("", "a", "text\n<!-- a: end -->\n")


def test_the_file_is_made_and_then_changed_in_place(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    results.write_section("one", "1", path)
    results.write_section("two", "2", path)
    results.write_section("one", "µ", path)
    text = path.read_text(encoding="utf-8")
    assert text.count("begin -->") == text.count("end -->") == 2
    assert results.section(text, "one") == "µ"
    assert list(tmp_path.iterdir()) == [path]


def test_the_header_names_the_machine_and_the_versions() -> None:
    header = results.measured_on(torch.device("cpu"), ["numpy"])
    assert f"torch {torch.__version__.split('+')[0]}" in header
    assert "numpy " in header
    assert results.cpu_model() in header
    assert all(line.startswith("- ") for line in header.splitlines())


def test_the_revision_says_whether_files_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.revision() == "unknown"

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    commit = results.revision()
    assert len(commit) >= 7
    results.RESULTS.touch()  # its own result does not make the measured code another one
    assert results.revision() == commit
    (tmp_path / "code.py").touch()
    assert results.revision() == f"{commit} with changes"
