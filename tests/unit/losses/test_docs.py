"""docs/losses.md says what the table and the configs say."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from clip_pkg.cli.main import parser_of
from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.flags import config_from_flags
from clip_pkg.config.load import configs_from_mapping
from clip_pkg.config.loss_blocks import LossConfig
from clip_pkg.config.losses import LOSSES
from support.tiny import CHECKOUT

TEXT = (CHECKOUT / "docs/losses.md").read_text(encoding="utf-8")
SECTIONS: dict[str, str] = dict(re.findall(r"(?ms)^### `(\w+)`\n(.*?)(?=^##|\Z)", TEXT))
ROWS = {**LOSSES, **AUXILIARY_LOSSES}


def test_every_row_has_a_section_and_every_section_a_row() -> None:
    assert set(SECTIONS) == set(ROWS)


@pytest.mark.parametrize(("kind", "row"), ROWS.items(), ids=list(ROWS))
def test_a_section_has_parameters_defaults_tags_and_reference(
    kind: str, row: type[LossConfig]
) -> None:
    section = SECTIONS[kind]
    fields = {key: field for key, field in row.model_fields.items() if key != "type"}
    for key in fields:
        assert f"`{key}`" in section, key
    for key, default in re.findall(r"`(\w+)` \(`?([\w.−]+)`?[,)]", section):
        if key in fields and default != "as":
            actual = fields[key].default
            stated = {"none": None}.get(default, default) if actual is None else default
            if isinstance(actual, float | int):
                assert float(str(stated).replace("−", "-")) == actual, key
            else:
                assert stated == actual, key
    for label in row.terms:
        assert f"`{label.tag}`" in section
    for paper in re.findall(r"arXiv:[\d.]+\d", row.source):
        assert paper in section
    if kind in LOSSES:
        answer = {"yes": "yes", "warn": "in part", "no": "no"}[row.soft_targets]
        assert f"Soft labels: {answer}" in section


def test_its_json_is_a_config_list() -> None:
    (block,) = re.findall(r"(?ms)^```json\n(.*?)^```", TEXT)
    (config,) = configs_from_mapping(json.loads(block)).configs
    assert config.loss.type == "combined"
    assert [aux.type for aux in config.aux_losses] == ["center", "triplet"]


def test_its_commands_are_understood() -> None:
    (block,) = re.findall(r"(?ms)^```bash\n(.*?)^```", TEXT)
    kinds = []
    for line in block.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line.removeprefix("python "))
        assert program == "train_clip.py"
        parser = parser_of()
        parsed = parser.parse(arguments)
        (config,) = config_from_flags(parsed).configs
        kinds.append(config.loss.type)
    assert kinds == ["ce_infonce", "combined", "infonce"]


def test_links_lead_to_sections() -> None:
    anchors = set(re.findall(r"\]\(#([\w-]+)\)", TEXT))
    assert anchors <= {name.lower() for name in SECTIONS}
