from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema

from clip_pkg.config.describe import (
    config_keys,
    config_list_schema,
    config_table_markdown,
    with_config_table,
)
from clip_pkg.config.legacy import FlatKeys
from clip_pkg.config.schema import RunConfig

PAGE = Path(__file__).resolve().parents[3] / "docs/config.md"


def test_is_a_schema_of_the_stated_draft():
    schema = config_list_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


def test_every_key_has_a_description():
    properties = config_list_schema()["$defs"]["config"]["properties"]
    assert set(properties) == {*RunConfig.model_fields, *FlatKeys.model_fields, "sweep"}
    sweep = config_list_schema()["$defs"]["sweep"]
    assert all(properties[key].get("description") for key in properties if key != "sweep")
    assert sweep["description"]
    assert set(sweep["properties"]) == set(properties) - {"name", "sweep"}


def test_the_schema_is_made_anew_each_time():
    config_list_schema()["$defs"]["config"]["properties"]["epochs"].clear()
    assert config_list_schema()["$defs"]["config"]["properties"]["epochs"]["minimum"] == 1


def test_the_page_in_the_docs_has_the_table():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_config_table(page)
    assert config_table_markdown() in page


def test_table_has_a_row_of_four_cells_per_key():
    lines = config_table_markdown().splitlines()
    assert lines[0] == "| key | default | values | meaning |"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    rows = {line.split("`")[1]: line for line in lines[2:]}
    assert {key.key for key in config_keys()} < set(rows)
    assert rows["epochs"].startswith("| `epochs` | `100` | a whole number from 1 to 1000000 | ")
    assert "(`superclip`)" in next(line for line in lines if "`loss.class_loss_weight`" in line)
    kinds = "`ce`, `focal`, `ce_infonce`, `combined`"
    assert f"`loss.class_weighting` ({kinds})" in "\n".join(lines)
    assert f"`loss.classifier` ({kinds}, `logit_adjust`, " in "\n".join(lines)
    assert rows["aux_losses[].mining"].startswith("| `aux_losses[].mining` (`triplet`) | ")
    assert rows["loss.focal.gamma"].startswith("| `loss.focal.gamma` | `2.0` | a number of at")
    assert "sweep" in rows
