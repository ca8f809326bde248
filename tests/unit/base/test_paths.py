from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.base.paths import RunPaths, folder_name


def test_guides_folder_name() -> None:
    assert folder_name("resnet18_clip:ViT-B/32") == "resnet18_clip_ViT-B_32"


@pytest.mark.parametrize("name", ["", "  ", ".", "..", ".hidden", "a\nb", "x" * 300, "\x00"])
def test_names_that_are_no_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"folder|longer"):
        folder_name(name)


@given(st.text())
def test_no_name_escapes_the_output_folder(name: str) -> None:
    try:
        root = RunPaths(Path("/out")).config(name).root
    except ValueError:
        return
    assert root.parent == Path("/out")
    assert root.name not in {"", ".", ".."}
