"""Generated valid configs: they survive a round trip, and the JSON Schema accepts them."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.describe import config_list_schema
from clip_pkg.config.load import configs_from_mapping, dump_canonical, load_configs
from clip_pkg.config.nodes import model_schema, options
from clip_pkg.config.schema import RunConfig

VALIDATOR = jsonschema.Draft202012Validator(config_list_schema())

SOFT_LABELS = ("mixup_alpha", "cutmix_alpha", "label_smoothing")
texts = st.text(st.characters(exclude_categories=["C"]), max_size=20)
# Keys whose text follows further rules.
SPECIAL = {
    "name": st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20).filter(
        lambda name: not name.startswith(".")
    ),
    "image_encoder_name": st.sampled_from(
        ["resnet18", "resnet18:scratch", "vit", "clip:ViT-L/14:scratch"]
    ),
    "text_encoder_name": st.sampled_from(["clip:ViT-B/32", "hf:a/b:scratch"]),
    "text_template": st.none() | texts.filter(lambda t: "{}" not in t).map(lambda t: t + " {}"),
    "group_pattern": st.none() | st.just(r"^(p\d+)_"),
    "img_size": st.sampled_from([112, 224, 448]),
    "gpu_id": st.none() | st.integers(0, 64) | st.just("GPU-1a2b"),
}


def values(node):
    """Values that a schema node allows."""
    if "oneOf" in node or "anyOf" in node:
        return st.one_of(map(values, options(node)))
    if "const" in node or "enum" in node:
        return st.sampled_from(node.get("enum", [node.get("const")]))
    match node["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(node.get("minimum", -1000), node.get("maximum", 10**9))
        case "number":
            lower = node.get("exclusiveMinimum", -1e6)
            upper = node.get("exclusiveMaximum", 1e6)
            return st.floats(
                max(lower, node.get("minimum", lower)),
                min(upper, node.get("maximum", upper)),
                exclude_min=lower == 0 and "minimum" not in node,
                exclude_max="exclusiveMaximum" in node,
            )
        case "string":
            return texts.filter(lambda text: len(text) >= node.get("minLength", 0))
        case "array":
            return st.lists(values(node["items"]), unique_by=lambda b: b["type"], max_size=3)
    required = {key: values(node["properties"][key]) for key in node.get("required", ())}
    return st.fixed_dictionaries(
        required,
        optional={k: values(v) for k, v in node["properties"].items() if k not in required},
    )


def problems(config):
    try:
        configs_from_mapping([config])
    except ConfigErrors as errors:
        return errors.problems
    return ()


def without_contradictions(config):
    """Leave out the keys that contradict others: every value is valid on its own."""
    while found := problems(config):
        assert not any(problem.message.startswith("expected") for problem in found)
        places = (problem.where.removeprefix("[0].") for problem in found)
        wrong = {re.split(r"[.\[]", place)[0] for place in places}
        config = {key: value for key, value in config.items() if key not in wrong}
    return config


optional = {
    key: SPECIAL.get(key, values(node))
    for key, node in model_schema(RunConfig)["properties"].items()
}
configs = st.fixed_dictionaries({}, optional=optional).map(without_contradictions)
flat_losses = st.fixed_dictionaries(
    {},
    optional={
        "use_superclip_loss": st.booleans(),
        "class_loss_weight": st.floats(0, 1e6),
        "aux_losses": st.lists(st.sampled_from(list(AUXILIARY_LOSSES)), unique=True),
    },
)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(config=configs)
def test_canonical_form_loads_back_to_an_equal_config(tmp_path, config):
    (made,) = configs_from_mapping([config]).configs
    file = tmp_path / "config.json"
    file.write_text(json.dumps(dump_canonical(made), ensure_ascii=False), encoding="utf-8")
    (again,) = load_configs(file).configs
    assert again == made
    assert dump_canonical(again) == dump_canonical(made)
    for key, value in config.items():
        if key not in ("name", "loss", "aux_losses", "pretrain"):
            assert getattr(made, key) == value


@settings(max_examples=40, deadline=None)
@given(config=configs, flat=flat_losses, learning_rates=st.lists(st.floats(0.1, 1), unique=True))
def test_the_json_schema_accepts_what_the_loader_accepts(config, flat, learning_rates):
    flat = {"aux_losses": [], **flat}
    # rules over several keys are not in the schema
    dropped = ("loss", "batch_size", "micro_batch_size", *SOFT_LABELS)
    config = {key: value for key, value in config.items() if key not in dropped} | flat
    if learning_rates:
        config.pop("learning_rate", None)
        config["sweep"] = {"learning_rate": learning_rates}
    made = configs_from_mapping([config]).configs
    VALIDATOR.validate([config])
    VALIDATOR.validate(config)
    VALIDATOR.validate([dump_canonical(member) for member in made])


wrong = st.sampled_from([None, True, -1, 0.5, 1e9, "x", "", [], {}, {"type": "clip"}])


@settings(max_examples=150, deadline=None)
@given(config=configs, key=st.sampled_from(sorted(optional)), value=wrong)
def test_the_json_schema_refuses_only_what_the_loader_refuses(config, key, value):
    config = {**config, key: value}
    if not problems(config):
        VALIDATOR.validate([config])


@pytest.mark.parametrize(
    "config",
    [
        {"epoch": 3},
        {"epochs": "3"},
        {"epochs": 0},
        {"learning_rate": 0},
        {"augmentation": "standrad"},
        {"loss": {}},
        {"loss": {"type": "clop"}},
        {"loss": {"type": "clip", "class_loss_weight": 1}},
        {"loss": {"type": "superclip", "focal": {"gama": 1}}},
        {"use_superclip_loss": "yes"},
        {"class_loss_weight": -1},
        {"main_loss_type": "ce_info"},
        {"loss_type": "center"},
        {"aux_losses": ["centre"]},
        {"aux_losses": [{"type": "center", "margin": 1}]},
        {"aux_losses": "center"},
        {"aux_losses": ["center"], "aux_weights": ["0.1"]},
        {"infonce_temperature": 0.001},
        {"sweep": {}},
        {"sweep": {"epochs": []}},
        {"sweep": {"epochs": [1, 1]}},
        {"sweep": {"epoch": [1]}},
        {"sweep": {"name": ["a"]}},
        {"sweep": {"epochs": ["1"]}},
    ],
)
def test_both_refuse_typos_and_wrong_values(config):
    assert not VALIDATOR.is_valid([config])
    assert problems(config)
