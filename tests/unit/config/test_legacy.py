from __future__ import annotations

import pytest

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.diagnostics import Draft, Findings, Source
from clip_pkg.config.legacy import CHOICES, PARAMETERS, FlatKeys, to_canonical
from clip_pkg.config.load import load_configs
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.schema import RunConfig


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
        (
            {"main_loss_type": "ce_infonce", "contrast_weight": 0.5, "infonce_temp": 0.07},
            {
                "type": "ce_infonce",
                "classifier": "linear",
                "contrast_weight": 0.5,
                "infonce_temp": 0.07,
            },
        ),
        ({"loss_type": "CE"}, {"type": "ce"}),
        (
            {
                "loss_type": "Proxy",
                "proxy_type": "ProxyAnchorLoss",
                "proxy_alpha": 32.0,
                "proxy_delta": 0.1,
            },
            {"type": "proxy", "proxy_type": "ProxyAnchorLoss", "alpha": 32.0, "delta": 0.1},
        ),
        (
            {
                "loss_type": "combined",
                "proxy_type": "FocalStyleProxyAnchorLoss",
                "proxy_gamma_pos": 1.0,
                "proxy_gamma_neg": 3,
                "lambda_combined": 0.7,
            },
            {
                "type": "combined",
                "proxy_type": "FocalStyleProxyAnchorLoss",
                "gamma_pos": 1.0,
                "gamma_neg": 3,
                "lambda_combined": 0.7,
            },
        ),
        (
            {"main_loss_type": "proxy", "proxy_alpha": 16},
            {"type": "proxy", "alpha": 16},
        ),
        (
            {"use_infonce": True, "infonce_temperature": 0.2},
            {"type": "infonce", "temperature": 0.2},
        ),
        (
            {"use_infonce": False, "infonce_temperature": 0.3, "num_negatives": 8},
            {"type": "bce", "temperature": 0.3, "num_negatives": 8},
        ),
        # a switch that is off says nothing beside one that chooses
        ({"use_superclip_loss": False, "use_infonce": True}, {"type": "infonce"}),
        ({"use_infonce": False, "main_loss_type": "ce"}, {"type": "ce"}),
        # two keys that ask for the same
        ({"main_loss_type": "ce", "loss_type": "ce"}, {"type": "ce"}),
        ({"main_loss_type": "bce", "use_infonce": False}, {"type": "bce"}),
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
        "[0].class_loss_weight: has no effect here; it is used when use_superclip_loss is true",
    )


@pytest.mark.parametrize(
    ("flat", "problem"),
    [
        ({"use_superclip_loss": "yes"}, 'expected true or false, not "yes"'),
        ({"class_loss_weight": "1"}, 'of at least 0, not "1"; write numbers without quotes'),
        ({"main_loss_type": "CE"}, 'did you mean "ce"?'),
        ({"loss_type": "InfoNCE"}, 'expected one of "CE", "proxy", "combined", not "InfoNCE"'),
        ({"proxy_type": "Focal"}, "FocalStyleProxyAnchorLoss"),
        ({"lambda_combined": 1.5}, "expected a number from 0 to 1, not 1.5"),
        ({"infonce_temp": 0}, "expected a number from 0.01 to 100, not 0"),
        ({"num_negatives": 0}, "expected a whole number from 1 to 65536, or null, not 0"),
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
        ({"type": "ce"}, {"main_loss_type": "ce_infonce"}, 'loss.type is "ce"'),
        ({"type": "combined"}, {"loss_type": "proxy"}, 'loss.type is "combined"'),
        ({"type": "combined"}, {"lambda_combined": 0.7}, "loss.lambda_combined is 0.5"),
        ({"type": "infonce"}, {"use_infonce": False}, 'loss.type is "infonce"'),
        ({"type": "infonce"}, {"infonce_temperature": 0.1}, "loss.temperature is 0.2"),
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
        ({"type": "ce"}, {"loss_type": "CE", "use_superclip_loss": False, "use_infonce": False}),
        ({"type": "bce"}, {"use_infonce": False, "infonce_temperature": 0.2}),
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


def test_flat_keys_differ_from_the_canonical_ones():
    assert not set(FlatKeys.model_fields) & set(RunConfig.model_fields)
    others = set(FlatKeys.model_fields) - {*CHOICES, *PARAMETERS}
    assert others == {"aux_weights", "loss_func"}


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice_is_a_loss(key):
    assert set(CHOICES[key].kinds.values()) <= set(LOSSES)


@pytest.mark.parametrize("key", PARAMETERS)
def test_every_parameter_belongs_to_its_losses(key):
    row = PARAMETERS[key]
    assert all(row.parameter in LOSSES[kind].model_fields for kind in row.of)
    assert set(row.of) & set(CHOICES[row.chosen_by].kinds.values())


@pytest.mark.parametrize(
    ("flat", "problem"),
    [
        (
            {"main_loss_type": "ce_infonce", "loss_type": "combined"},
            "loss_type: chooses a different loss than [0].main_loss_type",
        ),
        (
            {"use_infonce": True, "use_superclip_loss": True},
            "use_infonce: chooses a different loss than [0].use_superclip_loss",
        ),
        (
            {"use_infonce": False, "use_superclip_loss": False},
            "use_infonce: chooses a different loss than [0].use_superclip_loss",
        ),
        (
            {"use_infonce": False, "main_loss_type": "infonce"},
            "use_infonce: is false, but [0].main_loss_type chooses that loss",
        ),
    ],
)
def test_selectors_of_two_guides_that_contradict_each_other(flat, problem):
    _, (found,), _ = translate(flat)
    assert found.startswith(f"[0].{problem}")


@pytest.mark.parametrize(
    ("flat", "key", "user"),
    [
        ({"infonce_temp": 0.1, "use_infonce": True}, "infonce_temp", 'main_loss_type is "ce_info'),
        ({"infonce_temperature": 0.1, "main_loss_type": "supcon"}, "infonce_temperature", "true"),
        ({"proxy_alpha": 3, "loss_type": "CE"}, "proxy_alpha", '"proxy" or "combined"'),
        ({"lambda_combined": 0.3, "loss_type": "proxy"}, "lambda_combined", 'is "combined"'),
    ],
)
def test_parameters_of_a_loss_that_is_not_chosen_are_noticed(flat, key, user):
    _, problems, (notice,) = translate(flat)
    assert not problems
    assert notice.startswith(f"[0].{key}: has no effect here; it is used when ")
    assert user in notice


@pytest.mark.parametrize(
    ("flat", "aux"),
    [
        ({"aux_losses": [], "aux_weights": []}, []),
        ({"aux_losses": ["center"]}, [{"type": "center"}]),
        (
            {"aux_losses": ["center", "arcface"], "aux_weights": [0.1, 2]},
            [{"type": "center", "weight": 0.1}, {"type": "arcface", "weight": 2}],
        ),
        (
            {"aux_losses": [{"type": "triplet", "margin": 0.3}, "center"], "aux_weights": [1, 2]},
            [{"type": "triplet", "margin": 0.3, "weight": 1}, {"type": "center", "weight": 2}],
        ),
        (
            {"aux_losses": [{"type": "center", "weight": 1.0}], "aux_weights": [1]},
            [{"type": "center", "weight": 1.0}],
        ),
    ],
)
def test_names_and_weights_become_blocks(flat, aux):
    draft, problems, notices = translate(flat)
    assert draft.values == {"aux_losses": aux}
    assert not problems
    assert not notices


@pytest.mark.parametrize(
    ("flat", "problem"),
    [
        (
            {"aux_losses": ["center", "arcface"], "aux_weights": [0.1]},
            "[0].aux_weights: expected one number for each loss in aux_losses, 2 in all, not 1",
        ),
        (
            {"aux_weights": [0.1]},
            "[0].aux_weights: expected one number for each loss in aux_losses, 0 in all",
        ),
        (
            {"aux_losses": ["center"], "aux_weights": [-1]},
            "[0].aux_weights[0]: expected a number of at least 0, not -1",
        ),
        (
            {"aux_losses": ["center"], "aux_weights": 0.1},
            "[0].aux_weights: expected a list in brackets, not 0.1",
        ),
        (
            {"aux_losses": [{"type": "center", "weight": 1}], "aux_weights": [2]},
            "[0].aux_weights[0]: aux_weights contradicts aux_losses: [0].aux_losses[0].weight is 1",
        ),
    ],
)
def test_weights_that_do_not_fit_the_names(flat, problem):
    _, (found,), _ = translate(flat)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("member", "place", "problem"),
    [
        (
            '"aux_losses": ["centre"]',
            "aux_losses[0]",
            'expected one of "center", "triplet", "arcface", "cosface", "cosine_sim", '
            'not "centre"; did you mean "center"?',
        ),
        ('"aux_losses": "center"', "aux_losses", 'expected a list in brackets, not "center"'),
        (
            '"aux_losses": ["center", {"type": "triplet", "mining": "batch_hart"}]',
            "aux_losses[1].mining",
            'did you mean "batch_hard"?',
        ),
        ('"sweep": {"aux_losses": [["centre"]]}', "sweep.aux_losses[0][0]", "did you mean"),
        (
            '"loss_type": "combined", "proxy_gamma_pos": 1',
            "proxy_gamma_pos",
            'only "FocalStyleProxyAnchorLoss" has a focus; leave gamma_pos out',
        ),
    ],
)
def test_wrong_lists_are_reported_where_they_were_written(tmp_path, member, place, problem):
    file = tmp_path / "configs.json"
    file.write_text(f"[{{{member}}}]")
    with pytest.raises(ConfigErrors) as caught:
        load_configs(file)
    ((found),) = caught.value.problems
    assert found.where == f"[0].{place}"
    assert problem in found.message
