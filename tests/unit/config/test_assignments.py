"""A config that is written as Python assignments."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.assignments import parse_assignments
from clip_pkg.config.load import configs_from_mapping, load_configs
from support import guide_examples as printed


@pytest.mark.parametrize("code", printed.PROXY_SETTINGS.values(), ids=printed.PROXY_SETTINGS.keys())
def test_settings_of_the_guide_are_a_config(tmp_path: Path, code: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(code, encoding="utf-8")
    names = dict(line.split("  #")[0].split(" = ") for line in code.splitlines() if " = " in line)
    plain = {name: text.strip("'") if "'" in text else float(text) for name, text in names.items()}
    assert load_configs(path).configs == configs_from_mapping([plain]).configs


def test_values_are_those_of_json(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(
        '"""My settings."""\nepochs: int = 3\nuse_cv = False\nlr = -1e-3 * -1\nname = None\n'
        "aux_losses = ('center', {'type': 'triplet'})\nimport os\nepochs = 4\nwd = float('nan')\n"
    )
    with pytest.raises(ConfigErrors) as caught:
        load_configs(path)
    found = {(one.line, one.where) for one in caught.value.problems}
    assert {(4, ""), (7, ""), (8, "epochs"), (9, ""), (5, "name")} == found


def test_nothing_runs(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    marker = tmp_path / "marker"
    path.write_text(f"name = open({str(marker)!r}, 'w').name\nopen({str(marker)!r}, 'w')\n")
    with pytest.raises(ConfigErrors, match="read, not run"):
        load_configs(path)
    assert not marker.exists()


@given(st.text(max_size=80) | st.binary(max_size=40).map(lambda text: text.decode("latin-1")))
def test_any_text_is_a_document_or_a_sentence(text: str) -> None:
    try:
        document = parse_assignments(text, Path("config.py"))
    except ConfigErrors:
        return
    assert isinstance(document.value, dict)
