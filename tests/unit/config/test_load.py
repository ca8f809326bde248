from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.load import configs_from_mapping, dump_canonical, load_configs

COMMENTED = """[
  {
    "image_encoder_name": "resnet18",
    "text_encoder_name": "clip:ViT-B/32",
    "learning_rate": 1e-4,
    "early_stopping_patience": null,
    "gpu_id": 0,

    // SuperCLIP
    "use_superclip_loss": true,           // on
    "class_loss_weight": 1.5,             /* more of the class loss */
    "contrastive_loss_weight": 1,
  },
]
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "configs.json"
    file.write_text(text, encoding="utf-8")
    return file


def problems(folder: Path, text: str) -> list[tuple[int, str, str]]:
    """Line, JSON path and message of each problem."""
    file = write(folder, text)
    with pytest.raises(ConfigErrors) as caught:
        load_configs(file)
    assert all(problem.file == file for problem in caught.value.problems)
    assert "Traceback" not in str(caught.value)
    return [(problem.line, problem.where, problem.message) for problem in caught.value.problems]


def test_comments_flat_keys_and_defaults(tmp_path):
    loaded = load_configs(write(tmp_path, COMMENTED))
    (config,) = loaded.configs
    assert config.name == "resnet18_clip_ViT-B_32"
    assert config.loss.model_dump(exclude_defaults=True) == {"class_loss_weight": 1.5}
    assert config.loss.type == "superclip"
    assert (config.epochs, config.batch_size, config.gpu_id) == (100, 32, 0)
    assert loaded.notices == ()


def test_a_single_object_is_a_list_of_one(tmp_path):
    (config,) = load_configs(write(tmp_path, '{"epochs": 3}')).configs
    assert config.epochs == 3
    assert problems(tmp_path, '{\n"epochs": 0}')[0][:2] == (2, "epochs")


def test_byte_order_mark_is_no_problem(tmp_path):
    file = tmp_path / "configs.json"
    file.write_bytes(b"\xef\xbb\xbf[{}]")
    assert len(load_configs(file).configs) == 1


BASE = '[\n{},\n{{"name": "x",\n{}}}\n]'


@pytest.mark.parametrize(
    ("member", "where", "message"),
    [
        (
            '"epochs": "10"',
            "epochs",
            'a whole number from 1 to 1000000, not "10"; write numbers without',
        ),
        ('"epochs": 1e2', "epochs", "not 100.0; write 100"),
        ('"epochs": 0', "epochs", "from 1 to 1000000, not 0"),
        (f'"epochs": {"9" * 400}', "epochs", "from 1 to 1000000, not 999"),
        (f'"learning_rate": {"9" * 400}', "learning_rate", "a number above 0, up to 10, not 999"),
        ('"learning_rate": [1]', "learning_rate", "a number above 0, up to 10, not [1]"),
        ('"val_fraction": 1', "val_fraction", "a number above 0, below 1, not 1"),
        ('"use_amp": 1', "use_amp", "true or false, not 1"),
        ('"use_amp": "true"', "use_amp", "write true without quotes"),
        ('"augmentation": "standrad"', "augmentation", 'did you mean "standard"?'),
        ('"augmentation": null', "augmentation", 'one of "none", "minimal", "standard", not null'),
        ('"early_stopping_monitor": "val_map"', "early_stopping_monitor", 'mean "val_mAP"?'),
        ('"prompts_per_class": 0', "prompts_per_class", "from 1 to 256, or null, not 0"),
        ('"gpu_id": 1.5', "gpu_id", "a whole number, text, or null, not 1.5"),
        ('"gpu_id": -1', "gpu_id", "counts from 0"),
        ('"learnin_rate": 1', "learnin_rate", 'unknown key; did you mean "learning_rate"?'),
        ('"swep": {}', "swep", 'did you mean "sweep"?'),
        ('"a b": 1', '["a b"]', "unknown key"),
        ('"image_encoder_name": "resnet81"', "image_encoder_name", "did you mean 'resnet18'"),
        ('"text_encoder_name": "clip:ViT-B/31"', "text_encoder_name", "did you mean 'clip:ViT-B"),
        ('"text_template": "no place"', "text_template", "needs `{}` exactly once"),
        ('"group_pattern": "("', "group_pattern", "is not a regular expression"),
        ('"img_size": 225, "image_encoder_name": "vit"', "img_size", "use 224 or 240"),
        ('"loss": 3', "loss", "an object in braces whose"),
        ('"loss": {}', "loss", 'an object in braces whose "type" is one of "clip", "superclip"'),
        ('"loss": {"type": "superclop"}', "loss.type", 'did you mean "superclip"?'),
        ('"loss": {"type": 3}', "loss.type", '"balanced_softmax", "ldam", not 3'),
        ('"loss": {"type": "clip", "gamma": 1}', "loss.gamma", "known here are type, positives"),
        (
            '"loss": {"type": "superclip", "class_weighting": "x"}',
            "loss.class_weighting",
            '"effective_number", "none", "auto", not "x"',
        ),
        (
            '"loss": {"type": "superclip", "focal": {"gama": 1}}',
            "loss.focal.gama",
            'did you mean "gamma"?',
        ),
    ],
)
def test_each_problem_has_line_path_and_sentence(tmp_path, member, where, message):
    ((line, path, text),) = problems(tmp_path, BASE.format("{}", member))
    assert line == 4
    assert path == (f"[1].{where}" if not where.startswith("[") else f"[1]{where}")
    assert message in text
    assert len(text) < 400


def test_all_problems_of_all_configs_come_at_once(tmp_path):
    text = """[
      {"epochs": 0, "epochs": 3,
       "image_encoder_name": "vit", "img_size": 100,
       "batch_size": 1},
      7,
      {"name": "a", "augmentation": "x"},
      {"name": "b", "sweep": {"epochs": []},
       "lrn": 1}
    ]"""
    assert [(line, where) for line, where, _ in problems(tmp_path, text)] == [
        (2, "[0].epochs"),
        (3, "[0].img_size"),
        (4, "[0].batch_size"),
        (5, "[1]"),
        (6, "[2].augmentation"),
        (7, "[3].sweep.epochs"),
        (8, "[3].lrn"),
    ]


def test_duplicate_key_names_both_lines(tmp_path):
    ((line, where, message),) = problems(tmp_path, '[{"epochs": 1,\n"name": "a",\n"epochs": 2}]')
    assert (line, where) == (3, "[0].epochs")
    assert "duplicate key, first given on line 1" in message


@pytest.mark.parametrize(
    ("text", "part"),
    [("[]", "empty"), ("3", "not 3"), ('["a"]', 'not "a"'), ("null", "not null"), ("", "nothing")],
)
def test_files_without_a_config(tmp_path, text, part):
    ((line, _, message),) = problems(tmp_path, text)
    assert line == 1
    assert part in message


@pytest.mark.parametrize(
    ("content", "line", "part"),
    [
        ('[{"name": "é"}]'.encode("utf-16"), 1, "UTF-16"),
        (b'[{\n"name": "\xe9"}]', 2, "byte 0xe9 is not UTF-8"),
        (b"\x00\x01\x02", 1, "expected a value"),
    ],
)
def test_files_that_are_no_utf8(tmp_path, content, line, part):
    file = tmp_path / "configs.json"
    file.write_bytes(content)
    with pytest.raises(ConfigErrors) as caught:
        load_configs(file)
    (problem,) = caught.value.problems
    assert problem.line == line
    assert part in problem.message


def test_files_that_cannot_be_read(tmp_path):
    for path, part in [
        (tmp_path / "absent.json", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (Path("nul\0byte"), "cannot be read"),
    ]:
        with pytest.raises(ConfigErrors, match=part):
            load_configs(path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"),
        ("Run", "run"),
        ("a:b", "a_b"),
        (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "É")),
        ("straße", "STRASSE"),
    ],
)
def test_two_configs_may_not_share_a_folder(tmp_path, first, second):
    configs = [{"name": first, "epochs": 1}, {"name": second, "epochs": 2}]
    text = "[" + ",\n".join(json.dumps(config) for config in configs) + "]"
    ((line, where, message),) = problems(tmp_path, text)
    assert (line, where) == (2, "[1].name")
    assert "[0] (line 1)" in message
    assert "different `name`" in message


def test_unnamed_configs_with_the_same_encoders_are_told_about_name(tmp_path):
    ((_, where, message),) = problems(tmp_path, '[{"epochs": 1}, {"epochs": 2}]')
    assert where == "[1]"
    assert "set a different `name`" in message


def test_identical_configs_are_refused(tmp_path):
    ((line, where, message),) = problems(tmp_path, '[{"epochs": 1},\n{"epochs": 1}]')
    assert (line, where) == (2, "[1]")
    assert "the same config as [0] (line 1)" in message


@pytest.mark.parametrize("name", ["../up", ".hidden", "  ", "a\\u0000b", "replaced", "x" * 201])
def test_names_that_must_not_become_folders(tmp_path, name):
    ((_, where, _),) = problems(tmp_path, f'[{{"name": "{name}"}}]')
    assert where == "[0].name"


def test_wrong_encoder_is_one_problem_and_not_also_one_of_the_name(tmp_path):
    text = json.dumps([{"image_encoder_name": "x" * 300}])
    assert [where for _, where, _ in problems(tmp_path, text)] == ["[0].image_encoder_name"]


@pytest.mark.parametrize("name", ["5", "null", "true", "[]"])
def test_name_is_text(tmp_path, name):
    ((_, where, message),) = problems(tmp_path, f'[{{"name": {name}}}]')
    assert where == "[0].name"
    assert f"expected text, not {name}" in message


def test_mappings_follow_the_same_rules_without_a_file():
    with pytest.raises(ConfigErrors) as caught:
        configs_from_mapping([{}, {"epochs": 0, "name": "b", "learning_rate": float("nan")}])
    assert [str(problem) for problem in caught.value.problems] == [
        "[1].epochs: expected a whole number from 1 to 1000000, not 0",
        "[1].learning_rate: expected a number above 0, up to 10, not NaN",
    ]


def test_canonical_form_holds_every_key_and_no_flat_one(tmp_path):
    (config,) = load_configs(write(tmp_path, COMMENTED)).configs
    canonical = dump_canonical(config)
    assert "use_superclip_loss" not in canonical
    assert canonical["loss"]["class_loss_weight"] == 1.5
    assert canonical.keys() == type(config).model_fields.keys()
    (again,) = load_configs(write(tmp_path, json.dumps(canonical))).configs
    assert again == config


def test_loading_stays_free_of_heavy_packages(tmp_path):
    code = """
import sys
from pathlib import Path
from clip_pkg.config.load import load_configs
load_configs(Path(sys.argv[1]))
heavy = {"torch", "timm", "open_clip", "torchvision", "numpy", "sklearn", "PIL", "rich"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    file = write(tmp_path, COMMENTED)
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, timeout=60)


def test_names_of_other_programs_mean_our_keys(tmp_path: Path) -> None:
    text = """[{"lr": 0.01, "seed": 7, "folds": 3, "backbone": "resnet34"},
              {"name": "b", "sweep": {"bs": [8, 16]}, "amp": false}]"""
    first, *swept = load_configs(write(tmp_path, text)).configs
    assert (first.learning_rate, first.random_state, first.n_splits) == (0.01, 7, 3)
    assert first.name.startswith("resnet34")
    assert [(one.batch_size, one.use_amp) for one in swept] == [(8, False), (16, False)]


def test_two_names_of_one_key_contradict_each_other(tmp_path: Path) -> None:
    text = """[{"learning_rate": 0.1,
               "lr": 0.01, "wd": -1}]"""
    (clash, wrong) = problems(tmp_path, text)
    assert clash == (
        2,
        "[0].lr",
        "sets learning_rate, and so does [0].learning_rate (line 1); keep one of the two",
    )
    assert wrong[:2] == (2, "[0].wd")
