from __future__ import annotations

import itertools
import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.load import configs_from_mapping, load_configs


def names(config):
    return [member.name for member in configs_from_mapping([config]).configs]


def problems(config):
    with pytest.raises(ConfigErrors) as caught:
        configs_from_mapping([config])
    return [(problem.where, problem.message) for problem in caught.value.problems]


def test_product_in_the_order_of_the_keys():
    loaded = configs_from_mapping(
        [{"epochs": 7, "sweep": {"learning_rate": [0.001, 0.01], "embed_dim": [64, 128]}}]
    )
    assert [(member.learning_rate, member.embed_dim) for member in loaded.configs] == [
        *itertools.product([0.001, 0.01], [64, 128])
    ]
    assert {member.epochs for member in loaded.configs} == {7}
    assert loaded.configs[0].name == "resnet18_clip_ViT-B_32_learning_rate-0.001_embed_dim-64"


LOSSES = [
    {"type": "clip"},
    {"type": "superclip"},
    {"type": "superclip", "class_loss_weight": 0.5, "focal": {"gamma": 1}},
    {"type": "superclip", "class_loss_weight": 0.5, "focal": {"gamma": 2}},
]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"sweep": {"image_encoder_name": ["resnet18", "clip:ViT-B/32"]}},
            ["resnet18_clip_ViT-B_32", "clip_ViT-B_32_clip_ViT-B_32"],
        ),
        (
            {"name": "exp", "sweep": {"image_encoder_name": ["resnet18", "resnet34:scratch"]}},
            ["exp_resnet18", "exp_resnet34_scratch"],
        ),
        (
            {"name": "exp", "sweep": {"loss": LOSSES}},
            [
                "exp_clip",
                "exp_superclip",
                "exp_superclip_class_loss_weight-0.5_focal.gamma-1",
                "exp_superclip_class_loss_weight-0.5_focal.gamma-2",
            ],
        ),
        (
            {"name": "exp", "sweep": {"early_stopping_patience": [None, 3]}},
            ["exp_early_stopping_patience-none", "exp_early_stopping_patience-3"],
        ),
        (
            {"name": "exp", "sweep": {"text_template": ["{}!", "{}?", "a " * 200 + "{}"]}},
            ["exp_text_template-1", "exp_text_template-2", "exp_text_template-3"],
        ),
        (
            {"name": "exp", "sweep": {"class_texts_file": ["a/b.json", "a_b.json"]}},
            ["exp_class_texts_file-1", "exp_class_texts_file-2"],
        ),
    ],
)
def test_names_say_what_differs(config, expected):
    assert names(config) == expected


@pytest.mark.parametrize(
    ("config", "where", "part"),
    [
        ({"sweep": []}, "[0].sweep", "an object of keys and lists of values, not []"),
        ({"sweep": {}}, "[0].sweep", "name at least one key"),
        ({"sweep": {"epochs": []}}, "[0].sweep.epochs", "at least one value, not []"),
        ({"sweep": {"epoch": [3]}}, "[0].sweep.epoch", 'did you mean "epochs"?'),
        ({"sweep": {"name": ["a"]}}, "[0].sweep.name", "not a key that can be swept"),
        ({"epochs": 3, "sweep": {"epochs": [3]}}, "[0].sweep.epochs", "set outside the sweep"),
        (
            {"sweep": {"epochs": [3, 4, 3]}},
            "[0].sweep.epochs[2]",
            "already in the list, at [0].sweep.epochs[0]",
        ),
        ({"sweep": {"weight_decay": [0, 0.0]}}, "[0].sweep.weight_decay[1]", "already"),
        (
            {"sweep": {"loss": [{"type": "clip"}, {"type": "clip", "positives": "same_class"}]}},
            "[0].sweep",
            "are the same config",
        ),
        (
            {"sweep": {"random_state": list(range(101)), "epochs": list(range(1, 101))}},
            "[0].sweep",
            "expands to 10,100 configs; at most 10,000",
        ),
    ],
)
def test_broken_sweeps(config, where, part):
    ((place, message),) = problems(config)
    assert place == where
    assert part in message


def test_a_problem_of_a_value_is_reported_once_and_at_the_value(tmp_path):
    file = tmp_path / "configs.json"
    file.write_text(
        '[{"batch_size": 0,\n"sweep": {\n"epochs": [1,\n0,\n2],\n"embed_dim": [1, 2, 3],\n'
        '"loss": [{"type": "clip"},\n{"type": "superclip",\n"gama": 1}]}}]'
    )
    with pytest.raises(ConfigErrors) as caught:
        load_configs(file)
    assert [(problem.line, problem.where) for problem in caught.value.problems] == [
        (1, "[0].batch_size"),
        (4, "[0].sweep.epochs[1]"),
        (9, "[0].sweep.loss[1].gama"),
    ]


def test_flat_values_in_a_sweep_are_reported_at_the_value():
    assert [where for where, _ in problems({"sweep": {"use_superclip_loss": [True, "no"]}})] == [
        "[0].sweep.use_superclip_loss[1]"
    ]
    ((where, message),) = problems(
        {"loss": {"type": "clip"}, "sweep": {"use_superclip_loss": [False, True]}}
    )
    assert where == "[0].sweep.use_superclip_loss[1]"
    assert "contradicts [0].loss" in message


def test_rule_over_two_swept_keys_is_reported_at_the_size():
    config = {"sweep": {"image_encoder_name": ["resnet18", "vit"], "img_size": [224, 100]}}
    ((where, message),) = problems(config)
    assert where == "[0].sweep.img_size[1]"
    assert "patch size 16; use 96 or 112" in message


def test_a_wrong_sweep_does_not_hide_other_problems():
    config = {"batch_size": 0, "sweep": {"epochs": [0, 1], "embed_dim": []}}
    assert {where for where, _ in problems(config)} == {
        "[0].batch_size",
        "[0].sweep.epochs[0]",
        "[0].sweep.embed_dim",
    }


def test_a_name_that_grows_too_long_is_a_problem_of_the_sweep():
    config = {"name": "n" * 190, "sweep": {"learning_rate": [0.1]}}
    ((where, message),) = problems(config)
    assert where == "[0].name"
    assert "shorten `name`" in message


def test_ten_thousand_members_are_allowed():
    sweep = {"random_state": list(range(100)), "epochs": list(range(1, 101))}
    assert len(set(names({"sweep": sweep}))) == 10_000


swept_values = {
    "learning_rate": st.floats(1e-6, 1, allow_nan=False),
    "embed_dim": st.integers(1, 4096),
    "use_amp": st.booleans(),
    "augmentation": st.sampled_from(["none", "minimal", "standard"]),
    "class_texts_file": st.none() | st.text(alphabet='aA/._ é"', max_size=5),
    "image_encoder_name": st.sampled_from(["resnet18", "resnet34", "vit", "clip:ViT-B/32"]),
    "loss": st.sampled_from(LOSSES),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_members_have_different_folders_and_every_combination_is_there(data):
    keys = data.draw(st.lists(st.sampled_from(sorted(swept_values)), min_size=1, unique=True))
    sweep = {
        key: data.draw(
            st.lists(swept_values[key], min_size=1, max_size=3, unique_by=json.dumps), label=key
        )
        for key in keys
    }
    members = configs_from_mapping([{"sweep": sweep}]).configs
    folders = {unicodedata.normalize("NFC", member.name).casefold() for member in members}
    count = 1
    for entries in sweep.values():
        count *= len(entries)
    assert len(folders) == len(members) == count
