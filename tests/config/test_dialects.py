from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from pydantic import Field

from clip_pkg.config import dialects
from clip_pkg.config.dialects import DIALECTS, Dialect, SuperClipDialect, loss_classes, to_canonical
from clip_pkg.config.findings import Draft, Findings, Source
from clip_pkg.config.load import load_configs
from clip_pkg.config.losses import NonNegative
from clip_pkg.config.schema import RunConfig
from clip_pkg.errors import ConfigErrors


def translate(values):
    """Canonical draft, problems and notices of one config."""
    findings = Findings(Source())
    draft = to_canonical(Draft(values, (0,)), findings)
    try:
        findings.raise_problems()
    except ConfigErrors as errors:
        return draft, [str(problem) for problem in errors.problems], findings.notices
    return draft, [], findings.notices


@pytest.mark.parametrize(
    ("flat", "loss"),
    [
        ({"use_superclip_loss": True}, {"type": "superclip"}),
        ({"use_superclip_loss": False}, {"type": "clip"}),
        (
            {"use_superclip_loss": True, "class_loss_weight": 2, "contrastive_loss_weight": 0.5},
            {"type": "superclip", "class_loss_weight": 2, "contrastive_loss_weight": 0.5},
        ),
    ],
)
def test_flat_keys_become_the_loss_block(flat, loss):
    draft, problems, notices = translate({"epochs": 3, **flat})
    assert draft.values == {"epochs": 3, "loss": loss}
    assert not problems
    assert not notices


@pytest.mark.parametrize("switch", [{}, {"use_superclip_loss": False}])
def test_weights_without_the_switch_are_kept_out_with_a_notice(switch):
    draft, problems, notices = translate({"class_loss_weight": 2.0, **switch})
    assert draft.values.get("loss", {"type": "clip"}) == {"type": "clip"}
    assert not problems
    assert notices == (
        "[0].class_loss_weight: has no effect here; it is used where use_superclip_loss is true",
    )


@pytest.mark.parametrize(
    ("flat", "problem"),
    [
        ({"use_superclip_loss": "yes"}, 'expected true or false, not "yes"'),
        ({"class_loss_weight": "1"}, 'of at least 0, not "1"; numbers stand without quotes'),
        ({"use_superclip_loss": False, "contrastive_loss_weight": -1}, "of at least 0, not -1"),
        ({"class_loss_weight": True}, "of at least 0, not true"),
        ({"use_superclip_loss": None}, "expected true or false, not null"),
    ],
)
def test_wrong_values_are_reported_at_the_flat_key(flat, problem):
    draft, (found,), _ = translate(flat)
    assert problem in found
    assert found.startswith(f"[0].{list(flat)[-1]}: ")
    assert "loss" not in draft.values


SUPERCLIP = {"type": "superclip", "class_loss_weight": 2.0}


@pytest.mark.parametrize(
    ("loss", "flat", "problem"),
    [
        ({"type": "clip"}, {"use_superclip_loss": True}, 'loss.type is "clip"'),
        (SUPERCLIP, {"use_superclip_loss": False}, 'loss.type is "superclip"'),
        (SUPERCLIP, {"class_loss_weight": 1.0}, "loss.class_loss_weight is 2.0"),
        (SUPERCLIP, {"contrastive_loss_weight": 0.5}, "loss.contrastive_loss_weight is 1.0"),
    ],
)
def test_contradictions_name_both_keys(loss, flat, problem):
    _, (found,), _ = translate({"loss": loss, **flat})
    key = next(iter(flat))
    assert problem in found
    assert found.startswith(f"[0].{key}: {key} contradicts [0].loss")
    assert found.endswith(f"keep either {key} or loss")


@pytest.mark.parametrize(
    ("loss", "flat"),
    [
        ({"type": "clip", "positives": "diagonal"}, {"use_superclip_loss": False}),
        (SUPERCLIP, {"use_superclip_loss": True, "class_loss_weight": 2}),
        (SUPERCLIP, {"contrastive_loss_weight": 1.0}),
    ],
)
def test_flat_keys_that_say_the_same_are_fine(loss, flat):
    draft, problems, notices = translate({"loss": loss, **flat})
    assert draft.values == {"loss": loss}
    assert not problems
    assert not notices


def test_a_broken_block_beside_flat_keys_is_left_to_the_schema(tmp_path):
    file = tmp_path / "configs.json"
    for block in ("3", '{"type": "clop"}', "{}", '{"type": ["superclip"]}'):
        file.write_text(f'[{{"loss": {block}, "use_superclip_loss": true}}]')
        with pytest.raises(ConfigErrors) as caught:
            load_configs(file)
        assert [problem.where[:8] for problem in caught.value.problems] == ["[0].loss"]


def test_problem_inside_the_made_block_is_reported_where_the_user_wrote_it(tmp_path):
    file = tmp_path / "configs.json"
    file.write_text('[{"use_superclip_loss": true,\n"class_loss_weight": -1}]')
    with pytest.raises(ConfigErrors) as caught:
        load_configs(file)
    (problem,) = caught.value.problems
    assert (problem.line, problem.where) == (2, "[0].class_loss_weight")


def test_notice_has_file_and_line(tmp_path):
    file = tmp_path / "configs.json"
    file.write_text('[{"use_superclip_loss": false,\n"class_loss_weight": 1.0}]')
    (notice,) = load_configs(file).notices
    assert notice.startswith(f"{file}:2: [0].class_loss_weight: has no effect")


def test_flat_keys_differ_from_the_schema_and_from_each_other():
    flat = [key for dialect in DIALECTS for key in dialect.model_fields]
    assert len(set(flat)) == len(flat)
    assert not set(flat) & set(RunConfig.model_fields)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_rows_are_complete(dialect):
    assert {dialect.selector, *dialect.parameters} == set(dialect.model_fields)
    for block in dialect.blocks.values():
        loss_classes()[block["type"]].model_validate(block)
    for path in dialect.parameters.values():
        assert any(path[0] in kind.model_fields for kind in loss_classes().values())


class Neighbour(Dialect):
    """A second row: a choice by name, and a parameter deeper in the block."""

    selector = "main_kind"
    blocks: ClassVar = {
        "plain": {"type": "clip"},
        "both": {"type": "superclip", "positives": "diagonal"},
    }
    parameters: ClassVar = {"focus": ("focal", "gamma")}

    main_kind: Literal["plain", "both"] = Field("plain", description="Which loss.")
    focus: NonNegative = Field(0.0, description="Focusing power.")


@pytest.fixture
def two_dialects(monkeypatch):
    monkeypatch.setattr(dialects, "DIALECTS", (SuperClipDialect, Neighbour))


@pytest.mark.usefixtures("two_dialects")
def test_a_further_dialect_is_one_more_row():
    draft, problems, _ = translate({"main_kind": "both", "focus": 2})
    assert draft.values["loss"] == {
        "type": "superclip",
        "positives": "diagonal",
        "focal": {"gamma": 2},
    }
    assert draft.written(("loss", "focal", "gamma")) == (0, "focus")
    assert draft.written(("loss", "positives")) == (0, "main_kind")
    assert not problems
    _, (problem,), _ = translate({"main_kind": "bth"})
    assert 'did you mean "both"' in problem


@pytest.mark.usefixtures("two_dialects")
def test_two_dialects_that_choose_different_losses_contradict_each_other():
    _, (problem,), _ = translate({"use_superclip_loss": True, "main_kind": "plain"})
    assert problem == (
        "[0].main_kind: asks for another loss than [0].use_superclip_loss; keep one of the two"
    )
    _, problems, _ = translate({"use_superclip_loss": True, "main_kind": "both"})
    assert not problems
