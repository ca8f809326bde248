"""Hundreds of generated mistakes: each is refused at its line, and none raises anything else."""

from __future__ import annotations

import json
import random

import pytest

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.load import dump_canonical, load_configs
from clip_pkg.config.schema import RunConfig

LOSS = {"type": "superclip", "class_loss_weight": 1.0, "focal": {"gamma": 2.0}}
VALUES = {
    **dump_canonical(RunConfig(name="a")),
    "image_encoder_name": "resnet18:scratch",
    "text_encoder_name": "clip:ViT-B/32:scratch",
    "class_texts_file": "texts.json",
    "early_stopping_patience": 10,
    "loss": LOSS,
}
# One member per line, so that the line of a mistake is known: member i stands on line i + 3.
MEMBERS = {key: json.dumps(value) for key, value in VALUES.items()}
NUMBERS = [key for key, value in VALUES.items() if type(value) in (int, float)]
CHOICES = ["stem", "augmentation", "weight_method", "early_stopping_monitor"]
TEXTS = ["name", "image_encoder_name", "text_encoder_name", *CHOICES]
SWITCHES = [
    key
    for key, value in VALUES.items()
    if type(value) is bool and key not in ("compile", "cuda_graphs")
]


def render(members: list[tuple[str, str]]) -> str:
    return "[\n{\n" + ",\n".join(f'"{key}": {value}' for key, value in members) + "\n}\n]\n"


def misspelt(word: str, choose: random.Random) -> str:
    index = choose.randrange(len(word))
    return choose.choice(
        [
            word[:index] + word[index + 1 :],
            word[:index] + "z" + word[index:],
            word[:index] + "z" + word[index + 1 :],
        ]
    )


def typo_key(members, choose):
    line = choose.randrange(len(members))
    key, value = members[line]
    members[line] = (misspelt(key, choose), value)
    return line


def replace_value(members, key, value):
    line = list(MEMBERS).index(key)
    members[line] = (key, value)
    return line


def wrong_type(members, choose):
    groups = [
        (NUMBERS, ['"1"', "true", "[]", "{}", '"x"']),
        (TEXTS, ["1", "false", "null", "[]", "{}"]),
        (SWITCHES, ["0", '"true"', "null", "[]"]),
        (["loss"], ["1", '"superclip"', "null", "[]"]),
    ]
    keys, wrong = choose.choice(groups)
    return replace_value(members, choose.choice(keys), choose.choice(wrong))


def out_of_range(members, choose):
    return replace_value(members, choose.choice(NUMBERS), choose.choice(["-1", "-1e9"]))


def wrong_choice(members, choose):
    key = choose.choice(CHOICES)
    return replace_value(members, key, f'"{misspelt(MEMBERS[key][1:-1], choose)}"')


def wrong_encoder(members, choose):
    return replace_value(members, "image_encoder_name", f'"{choose.choice("xyz")}resnet1_8"')


def nested_typo(members, choose):
    word = choose.choice(["class_loss_weight", "focal", "gamma"])
    block = MEMBERS["loss"].replace(f'"{word}"', f'"{misspelt(word, choose)}"')
    return replace_value(members, "loss", block)


def nested_value(members, choose):
    old, new = choose.choice(
        [("1.0", '"1"'), ("1.0", "-2"), ("2.0", "null"), ("superclip", "clop")]
    )
    return replace_value(members, "loss", MEMBERS["loss"].replace(old, new))


def duplicate(members, choose):
    line = choose.randrange(1, len(members))
    members.insert(line, members[choose.randrange(line)])
    return line


def truncate_value(members, choose):
    line = choose.randrange(len(members))
    members[line] = (members[line][0], "")
    return line


def bad_token(members, choose):
    line = choose.randrange(len(members))
    tokens = ["NaN", "Infinity", "True", "'x'", "01", "+1", ".5", "0x1", "“x”", '"\t"', "[1,,2]"]
    members[line] = (members[line][0], choose.choice(tokens))
    return line


MISTAKES = [
    typo_key,
    wrong_type,
    out_of_range,
    wrong_choice,
    wrong_encoder,
    nested_typo,
    nested_value,
    duplicate,
    truncate_value,
    bad_token,
]


def test_the_unbroken_config_is_fine(tmp_path):
    file = tmp_path / "configs.json"
    file.write_text(render(list(MEMBERS.items())), encoding="utf-8")
    assert len(load_configs(file).configs) == 1


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_every_mistake_is_reported_at_its_line(tmp_path, mistake):
    choose = random.Random(mistake.__name__)
    file = tmp_path / "configs.json"
    for _ in range(30):
        members = list(MEMBERS.items())
        line = mistake(members, choose) + 3
        file.write_text(render(members), encoding="utf-8")
        with pytest.raises(ConfigErrors) as caught:
            load_configs(file)
        lines = {problem.line for problem in caught.value.problems}
        # A value that is missing altogether is missed where the next token stands.
        assert lines & {line, line + (mistake is truncate_value)}, file.read_text(encoding="utf-8")
        assert len(caught.value.problems) == 1


def test_every_truncation_is_reported_with_a_line(tmp_path):
    text = render(list(MEMBERS.items()))
    file = tmp_path / "configs.json"
    for length in range(len(text.rstrip())):
        file.write_text(text[:length], encoding="utf-8")
        with pytest.raises(ConfigErrors) as caught:
            load_configs(file)
        assert all(problem.line for problem in caught.value.problems)
