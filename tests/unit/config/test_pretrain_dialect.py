"""`loss_func` of the guide: in a file, in a sweep, as a flag, beside a `pretrain` block."""

from __future__ import annotations

import pytest

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.cli.main import parser_of
from clip_pkg.config.flags import config_from_flags
from clip_pkg.config.load import configs_from_mapping
from clip_pkg.config.two_view_losses import TWO_VIEW_LOSSES


@pytest.mark.parametrize("kind", TWO_VIEW_LOSSES)
def test_it_chooses_the_loss_of_the_pretraining(kind):
    (config,) = configs_from_mapping([{"loss_func": kind}]).configs
    assert config.pretrain is not None
    assert config.pretrain.loss == TWO_VIEW_LOSSES[kind]()
    assert config.loss.type == "clip"  # that of the folds is another matter


def test_it_completes_a_block_and_leaves_the_rest_of_it():
    block = {"epochs": 3, "loss": {"temperature": 0.2}}
    same = {"epochs": 3, "loss": {"type": "dhel", "temperature": 0.2}}
    (config,) = configs_from_mapping([{"pretrain": block, "loss_func": "dhel"}]).configs
    (other,) = configs_from_mapping([{"pretrain": same, "loss_func": "dhel"}]).configs
    assert config == other
    assert config.pretrain is not None
    assert config.pretrain.model_dump()["loss"]["temperature"] == 0.2


def test_a_sweep_over_it_names_its_configs_by_the_loss():
    block = {"name": "r18", "pretrain": {"epochs": 3}, "sweep": {"loss_func": ["dhel", "vicreg"]}}
    configs = configs_from_mapping([block]).configs
    assert [config.name for config in configs] == ["r18_dhel", "r18_vicreg"]
    assert {config.pretrain and config.pretrain.epochs for config in configs} == {3}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"loss_func": "dhl"}, '[0].loss_func: expected one of "info_nce", "nt_xent"'),
        (
            {"pretrain": {"loss": {"type": "dcl"}}, "loss_func": "dhel"},
            "[0].loss_func: loss_func contradicts [0].pretrain.loss.type, where pretrain.loss.type "
            'is "dcl"; keep one of the two',
        ),
        (
            {"pretrain": None, "loss_func": "dhel"},
            "[0].loss_func: loss_func contradicts [0].pretrain, where pretrain is null",
        ),
        ({"pretrain": 3, "loss_func": "dhel"}, "[0].pretrain: expected an object"),
        (
            {"pretrain": {"loss": {"temperature": -1}}, "loss_func": "dhel"},
            "[0].pretrain.loss.temperature: expected a number",
        ),
        (
            {"loss_func": "supcon", "pretrain": {"images": "all"}},
            '[0].pretrain.images: "supcon" learns from labels',
        ),
    ],
)
def test_what_is_wrong_is_said_where_it_was_written(values, problem):
    with pytest.raises(ConfigErrors) as caught:
        configs_from_mapping([values])
    (found,) = map(str, caught.value.problems)
    assert found.startswith(problem)


@pytest.mark.parametrize("spelling", ["--loss-func", "--loss_func"])
@pytest.mark.parametrize("goes_on", ["--continue-pretrain", "--continue_pretrain"])
def test_the_guides_command_line(spelling, goes_on):
    words = [spelling, "dcl_symmetric", goes_on, "--continue_finetune"]
    parsed = parser_of().parse_args(words)
    (config,) = config_from_flags(parsed).configs
    assert config.pretrain is not None
    assert config.pretrain.loss.type == "dcl_symmetric"
    assert (parsed.continue_pretrain, parsed.continue_finetune) == (True, True)
