from __future__ import annotations

import argparse
import shlex

import pytest

from clip_pkg.base.errors import ConfigErrors, UserError
from clip_pkg.cli.parser import Parser
from clip_pkg.config.describe import config_keys
from clip_pkg.config.flags import (
    add_config_flags,
    config_from_flags,
    given_flags,
)
from clip_pkg.config.schema import RunConfig
from clip_pkg.config.synonyms import ANSWERS, SYNONYMS


@pytest.fixture
def parser():
    parser = Parser(prog="program", description="")
    parser.add_argument("--data-dir")
    add_config_flags(parser)
    return parser


def config(parser, line):
    (made,) = config_from_flags(parser.parse_args(shlex.split(line))).configs
    return made


def problems(parser, line):
    with pytest.raises(ConfigErrors) as caught:
        config_from_flags(parser.parse_args(shlex.split(line)))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("--no-infonce", {"loss": {"type": "bce"}}),
        (
            "--loss-type Combined --proxy_type FocalStyleProxyAnchorLoss --lambda-combined 0.7",
            {
                "loss": {
                    "type": "combined",
                    "proxy_type": "FocalStyleProxyAnchorLoss",
                    "lambda_combined": 0.7,
                }
            },
        ),
        (
            """--aux-losses center '{"type": "triplet", "margin": 0.5}'""",
            {"aux_losses": [{"type": "center"}, {"type": "triplet", "margin": 0.5}]},
        ),
        (
            """--aux-losses '[{"type": "triplet", "margin": 0.5},]'""",
            {"aux_losses": [{"type": "triplet", "margin": 0.5}]},
        ),
        ("--aux-losses []", {}),
        (
            '--mixup_alpha 0.2 --loss \'{"type": "ce"}\'',
            {"mixup_alpha": 0.2, "loss": {"type": "ce"}},
        ),
    ],
)
def test_flags_of_losses(parser, line, values):
    assert config(parser, line) == RunConfig.model_validate(values)


def test_problems_of_list_flags_begin_with_the_flag(parser):
    found = problems(parser, "--aux-losses center arcfase --aux-weights 0.1 x")
    by_flag = dict(problem.split(": ", 1) for problem in found)
    assert by_flag.keys() == {"--aux-losses[1]", "--aux-weights[1]"}
    assert 'did you mean "arcface"?' in by_flag["--aux-losses[1]"]
    found = problems(parser, "--aux-losses center --aux-weights 0.1 0.2")
    assert found == [
        "--aux-weights: expected one number for each loss in aux_losses, 1 in all, not 2"
    ]
    found = problems(parser, "--main-loss-type ce --use-infonce")
    assert found == [
        "--use-infonce: chooses a different loss than --main-loss-type; keep one of the two"
    ]


def test_no_flag_is_the_default_config(parser):
    assert config(parser, "") == RunConfig()
    assert vars(parser.parse_args([])) == {"data_dir": None}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("--batch-size 8", "batch_size", 8),
        ("--learning-rate 1e-3", "learning_rate", 1e-3),
        ("--learning_rate=.5", "learning_rate", 0.5),
        ("--image-encoder-name resnet34", "image_encoder_name", "resnet34"),
        ("--image_encoder resnet34", "image_encoder_name", "resnet34"),
        ("--no-amp", "use_amp", False),
        ("--no-use-amp", "use_amp", False),
        ("--no_amp", "use_amp", False),
        ("--no-amp --use-amp", "use_amp", True),
        ("--no-cv", "use_cv", False),
        ("--use_weighted_sampling", "use_weighted_sampling", True),
        ("--freeze-text-encoder", "freeze_text_encoder", True),
        ("--no-horizontal-flip", "horizontal_flip", False),
        ("--early-stopping-patience none", "early_stopping_patience", None),
        ("--early-stopping-patience 3", "early_stopping_patience", 3),
        ("--grad-clip-norm null", "grad_clip_norm", None),
        ("--compile auto", "compile", "auto"),
        ("--compile TRUE", "compile", True),
        ("--gpu-id 6", "gpu_id", 6),
        ("--gpu-id GPU-1a2b", "gpu_id", "GPU-1a2b"),
        ("--name 7", "name", "7"),
    ],
)
def test_spellings_and_values(parser, line, key, value):
    actual = getattr(config(parser, line), key)
    assert actual == value
    assert type(actual) is type(value)


def test_loss_as_json(parser):
    made = config(parser, """--loss '{"type": "superclip", "focal": {"gamma": 1},}'""")
    assert made.loss.focal.gamma == 1.0


def test_all_problems_begin_with_their_flags(parser):
    line = (
        "--batch-size x --epochs 1e2 --learning_rate=-1 --image-encoder resnet19 --no-cv"
        """ --augmentation standart --loss '{"type": "superclip", "focal": {"gama": 1}}'"""
    )
    found = dict(problem.split(": ", 1) for problem in problems(parser, line))
    assert found["--batch-size"] == 'expected a whole number from 2 to 1048576, not "x"'
    assert found["--epochs"].endswith("not 100.0; write 100")
    assert found["--learning-rate"].endswith("not -1")
    assert "did you mean" in found["--image-encoder"]
    assert found["--augmentation"].endswith('did you mean "standard"?')
    assert found["--loss.focal.gama"] == 'unknown key; did you mean "gamma"?'
    assert len(found) == 6


def test_broken_json_is_reported_with_the_rest(parser):
    found = problems(parser, "--loss '{type}' --epochs 0")
    assert [problem.split(":")[0] for problem in found] == ["--loss", "--epochs"]


def test_flat_flags_without_effect_are_noticed(parser):
    loaded = config_from_flags(parser.parse_args(["--class-loss-weight", "2"]))
    (notice,) = loaded.notices
    assert notice.startswith("--class-loss-weight: has no effect")


def test_given_flags_are_listed(parser):
    namespace = parser.parse_args(["--epochs", "3", "--no-amp", "--text_encoder", "prompts"])
    assert given_flags(namespace) == ("--text-encoder", "--epochs", "--use-amp")


@pytest.mark.parametrize(
    ("line", "image", "text"),
    [
        ("--model resnet34", "resnet34", "clip:ViT-B/32"),
        ("--model resnet34 --text-encoder prompts", "resnet34", "prompts"),
        ("--model resnet34 --image-encoder resnet34", "resnet34", "clip:ViT-B/32"),
        ("--model efficientvim_m1_clip_prompts", "efficientvim_m1", "prompts"),
        ("--model mambaout_tiny_clip_prompts --text-encoder prompts", "mambaout_tiny", "prompts"),
        ("--model resnet34_clip_prompts:scratch", "resnet34:scratch", "prompts"),
        ("--model vit_clip_prompts --text_encoder prompts:clip:ViT-B/32", "vit", None),
    ],
)
def test_a_models_name_stands_for_its_encoders(parser, line, image, text):
    made = config(parser, line)
    assert made.image_encoder_name == image
    assert made.text_encoder_name == (text or "prompts:clip:ViT-B/32")
    assert given_flags(parser.parse_args(shlex.split(line)))[0] == "--model"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "--model resnet34 --image-encoder resnet18",
            ['--model: stands for "resnet34", and --image-encoder is "resnet18"'],
        ),
        (
            "--model resnet34_clip_prompts --image_encoder resnet18 --text-encoder clip:ViT-B/32",
            [
                '--model: stands for "resnet34", and --image-encoder is "resnet18"',
                '--model: stands for "prompts", and --text-encoder is "clip:ViT-B/32"',
            ],
        ),
        ("--model resnet43_clip_prompts", ["--model: unknown image encoder 'resnet43'; did you m"]),
        ("--model _clip_prompts", ["--model: unknown image encoder ''"]),
        (
            "--model vim_tiny_patch16_224_clip_prompts --epochs 0",
            [
                "--model: 'vim_tiny_patch16_224': Vision Mamba is not in timm; its relatives there "
                "are `efficientvim_m1` to `efficientvim_m4` and `mambaout_femto` to",
                "--epochs: expected",
            ],
        ),
        (
            "--model resnet18 --text-encoder clap",
            ["--text-encoder: unknown text encoder 'clap'"],
        ),
        (
            "--model resnet18_clip_prompts --main-loss-type superclip_tokens",
            ['--main-loss-type: "superclip_tokens" needs the tokens of the class texts'],
        ),
    ],
)
def test_problems_of_a_models_name_begin_with_its_flag(parser, line, found):
    told = problems(parser, line)
    assert [text[: len(start)] for text, start in zip(told, found, strict=True)] == found


def test_a_notice_about_a_named_model_begins_with_its_flag(parser):
    line = "--model resnet18_clip_prompts --loss-type proxy"
    (notice,) = config_from_flags(parser.parse_args(line.split())).notices
    assert notice.startswith("--model: is loaded but not used")


def test_excluded_flags_are_left_to_the_parser():
    parser = Parser(prog="program", description="")
    parser.add_argument("--gpu-id", default=argparse.SUPPRESS, type=int)
    add_config_flags(parser, exclude=("gpu_id",))
    assert config(parser, "--gpu-id 3").gpu_id == 3


def test_help_shows_every_key_with_default_and_choices(parser):
    text = " ".join(parser.format_help().split())
    for key in config_keys():
        assert f"--{key.key.replace('_name', '').replace('_', '-')} " in text.replace(",", " ")
        assert key.section in text
    assert "One of none, minimal, standard. Default: standard." in text
    assert "A whole number of at least 1, or none. Default: none." in text
    assert "--use-amp, --no-amp" in text
    assert "--batch_size" not in text


@pytest.mark.parametrize(
    ("unknown", "suggestion"),
    [
        ("--epoch", "--epochs"),
        ("--batchsize", "--batch-size"),
        ("--use_superclip", "--use-superclip-loss"),
        ("--data_dri", "--data-dir"),
        ("--learnin-rate=3", "--learning-rate"),
        ("--zzzz", None),
    ],
)
def test_unknown_flags_get_a_suggestion(parser, unknown, suggestion):
    with pytest.raises(UserError) as caught:
        parser.parse([unknown])
    near = f"did you mean {suggestion}" if suggestion else "see program --help"
    assert f"unknown flag {unknown.partition('=')[0]}" in str(caught.value)
    assert near in str(caught.value)


def test_names_of_other_programs_are_flags_too(parser):
    made = config(parser, "--lr 0.01 --wd 0.1 --seed 3 --bs 8 --workers 0 --amp --n-folds 4")
    assert (made.learning_rate, made.weight_decay, made.random_state) == (0.01, 0.1, 3)
    assert (made.batch_size, made.num_workers, made.n_splits, made.use_amp) == (8, 0, 4, True)


@pytest.mark.parametrize(
    ("flag", "answer"),
    [("--optimizer", "AdamW"), ("--device", "--gpus"), ("--scheduler", "cosine")],
)
def test_a_flag_without_a_key_is_answered_by_its_meaning(parser, flag, answer):
    with pytest.raises(UserError, match=answer):
        parser.parse([flag, "x"])


def test_synonyms_name_keys_and_hide_none():
    keys = {key.key for key in config_keys()}
    assert set(SYNONYMS.values()) <= keys
    assert not keys & {*SYNONYMS, *ANSWERS}
