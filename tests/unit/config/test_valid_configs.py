"""Generated valid configs: they survive a round trip, and the JSON Schema accepts them."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.describe import config_list_schema
from clip_pkg.config.load import configs_from_mapping, dump_canonical, load_configs
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.pretraining import PretrainConfig
from clip_pkg.config.schema import RunConfig
from clip_pkg.config.two_view_losses import TWO_VIEW_LOSSES
from clip_pkg.metrics.table import MONITORS

VALIDATOR = jsonschema.Draft202012Validator(config_list_schema())

weights = st.floats(0, 1e6) | st.integers(0, 100)
focal = st.fixed_dictionaries(
    {}, optional={"gamma": weights, "alpha": st.none() | st.floats(1e-3, 10)}
)
methods = st.sampled_from(["inverse_freq", "inverse_sqrt", "balanced", "effective_number"])
positives = st.sampled_from(["same_class", "diagonal"])
above_zero = st.floats(1e-3, 1e3)
temperatures = st.floats(0.01, 100)
classifier = {
    "classifier": st.sampled_from(["text", "linear"]),
    "class_weighting": methods | st.sampled_from(["none", "auto"]),
}
proxy = {
    "alpha": above_zero,
    "delta": st.floats(0, 2),
    "proxy_lr_scale": above_zero,
} | {"proxy_type": st.just("ProxyAnchorLoss")}
focused = proxy | {"gamma_pos": st.none() | weights, "gamma_neg": st.none() | weights}
pairs = {"temperature": temperatures, "num_negatives": st.none() | st.integers(1, 65536)}
main_losses: list[tuple[str, dict, dict]] = [  # kind, needed keys, other keys
    ("clip", {}, {"positives": positives}),
    (
        "superclip",
        {"contrastive_loss_weight": above_zero},
        {
            "class_loss_weight": weights,
            "positives": positives,
            "class_weighting": methods | st.sampled_from(["none", "auto"]),
            "focal": st.none() | focal,
        },
    ),
    (
        "superclip_tokens",
        {},
        {"class_loss_weight": weights, "contrastive_loss_weight": above_zero},
    ),
    ("siglip", {}, {"initial_bias": st.floats(-1000, 1000)}),
    ("supcon", {}, {"temperature": temperatures}),
    ("ce", {}, classifier),
    ("focal", {}, classifier | {"gamma": weights, "alpha": st.none() | above_zero}),
    ("ce_infonce", {}, classifier | {"contrast_weight": weights, "infonce_temp": temperatures}),
    ("proxy", {}, proxy),
    ("proxy", {"proxy_type": st.just("FocalStyleProxyAnchorLoss")}, focused),
    ("combined", {}, classifier | proxy | {"lambda_combined": st.floats(0, 1)}),
    ("infonce", {}, pairs),
    ("bce", {}, pairs),
]
losses = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just(kind), **needed},
        optional={key: value for key, value in other.items() if key not in needed},
    )
    for kind, needed, other in main_losses
)
aux_blocks: list[tuple[str, dict]] = [
    ("center", {"lr_scale": above_zero}),
    ("triplet", {"mining": st.sampled_from(["batch_hard", "batch_all"])}),
    ("arcface", {"scale": above_zero, "margin": st.floats(0, 3)}),
    ("cosface", {"scale": above_zero, "margin": st.floats(0, 2)}),
    ("cosine_sim", {}),
]
aux_losses = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.just(kind)}, optional={"weight": weights, **other})
        for kind, other in aux_blocks
    ),
    unique_by=lambda block: block["type"],
    max_size=3,
)
two_views: dict[str, dict] = {
    "info_nce": {"temperature": temperatures},
    "nt_xent": {"temperature": temperatures},
    "dcl": {"temperature": temperatures},
    "dcl_symmetric": {"temperature": temperatures},
    "dclw": {"temperature": temperatures, "sigma": st.floats(1e-3, 100)},
    "dhel": {"temperature": temperatures, "include_augs": st.booleans()},
    "kcl": {"t": above_zero, "gamma": weights},
    "vicreg": {
        "invariance_weight": above_zero,
        "variance_weight": weights,
        "covariance_weight": weights,
    },
    "supcon": {"temperature": temperatures},
}
pretrain = {
    "loss": st.one_of(
        st.fixed_dictionaries({"type": st.just(kind)}, optional=keys)
        for kind, keys in two_views.items()
        if kind != "supcon"  # only with the images of the training fold
    ),
    "images": st.sampled_from(["train_fold", "all", "some/folder"]),
    "epochs": st.integers(1, 10**6),
    "batch_size": st.integers(2, 1024),
    "micro_batch_size": st.none() | st.just(2),
    "augmentation": st.sampled_from(["simclr", "standard"]),
    "smallest_crop": st.floats(0.01, 1),
    "projection": st.fixed_dictionaries(
        {},
        optional={
            "layers": st.integers(1, 8),
            "hidden": st.integers(1, 65536),
            "dim": st.integers(2, 65536),
        },
    ),
    "optimizer": st.fixed_dictionaries(
        {"type": st.sampled_from(["adamw", "sgd", "lars"])},
        optional={
            "learning_rate": st.floats(1e-6, 100),
            "weight_decay": st.floats(0, 1),
            "warmup_epochs": weights,
        },
    ),
    "queue": st.none(),
    "grad_clip_norm": st.none() | st.floats(1e-6, 1e9),
    "probe_every": st.integers(1, 100),
}
texts = st.text(st.characters(exclude_categories=["C"]), max_size=20)
optional = {
    "name": st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20).filter(
        lambda name: not name.startswith(".")
    ),
    "image_encoder_name": st.sampled_from(
        ["resnet18", "resnet18:scratch", "vit", "clip:ViT-L/14:scratch"]
    ),
    "text_encoder_name": st.sampled_from(["clip:ViT-B/32", "hf:a/b:scratch"]),
    "stem": st.sampled_from(["standard", "cifar"]),
    "weights_dir": st.none() | texts,
    "embed_dim": st.integers(1, 65536),
    "temperature": st.floats(0.01, 100),
    "freeze_image_encoder": st.booleans(),
    "freeze_text_encoder": st.booleans(),
    "img_size": st.sampled_from([112, 224, 448]),
    "augmentation": st.sampled_from(["none", "minimal", "standard"]),
    "horizontal_flip": st.none() | st.booleans(),
    "vertical_flip": st.booleans(),
    "mixup_alpha": st.floats(0, 100),
    "cutmix_alpha": st.floats(0, 100),
    "label_smoothing": st.floats(0, 0.99),
    "num_workers": st.integers(0, 256),
    "class_texts_file": st.none() | texts,
    "text_template": st.none() | texts.filter(lambda t: "{}" not in t).map(lambda t: t + " {}"),
    "prompts_per_class": st.none() | st.integers(1, 256),
    "batch_size": st.integers(3, 4096),
    "micro_batch_size": st.none() | st.integers(2, 4096),
    "activation_checkpointing": st.booleans(),
    "epochs": st.integers(1, 10**6),
    "learning_rate": st.floats(1e-9, 10),
    "weight_decay": st.floats(0, 1),
    "image_lr_scale": st.floats(0, 100),
    "text_lr_scale": st.floats(0, 100),
    "warmup_epochs": st.floats(0, 1e9),
    "grad_clip_norm": st.none() | st.floats(1e-6, 1e9),
    "use_amp": st.booleans(),
    "amp_dtype": st.sampled_from(["auto", "bfloat16", "float16"]),
    "compile": st.just("auto") | st.booleans(),
    "cuda_graphs": st.just("auto") | st.booleans(),
    "loss": losses,
    "aux_losses": aux_losses,
    "pretrain": st.none() | st.fixed_dictionaries({}, optional=pretrain),
    "use_weighted_sampling": st.booleans(),
    "weight_method": methods,
    "weight_smooth_factor": weights,
    "use_cv": st.booleans(),
    "n_splits": st.integers(2, 1000),
    "test_dir": st.none() | texts,
    "val_fraction": st.floats(0.001, 0.999),
    "inner_val_fraction": st.floats(0, 0.999),
    "group_pattern": st.none() | st.just(r"^(p\d+)_"),
    "random_state": st.integers(0, 2**32 - 1),
    "early_stopping_patience": st.none() | st.integers(1, 10**9),
    "early_stopping_min_delta": weights,
    "early_stopping_monitor": st.sampled_from(MONITORS),
    "save_best": st.booleans(),
    "gpu_id": st.none() | st.integers(0, 64) | st.just("GPU-1a2b"),
    "gpus_per_task": st.integers(1, 16),
}
SOFT_LABELS = ("mixup_alpha", "cutmix_alpha", "label_smoothing")


def without_contradictions(config):
    """Leave out what the loss cannot take: soft labels, a text encoder that drops its tokens."""
    loss = LOSSES[config.get("loss", {"type": "clip"})["type"]]
    out = set(SOFT_LABELS) if loss.soft_targets == "no" else set()
    out |= {"freeze_text_encoder"} if loss.needs_tokens else set()
    if config.get("freeze_image_encoder"):
        out |= {"activation_checkpointing"}
    if config.get("activation_checkpointing") or config.get("gpus_per_task", 1) > 1:
        out |= {"compile"}
    if (config.get("micro_batch_size") or 0) > config.get("batch_size", 32):
        out |= {"micro_batch_size"}
    if config.get("image_encoder_name") != "resnet18:scratch":
        out |= {"stem"}
    return {key: value for key, value in config.items() if key not in out}


configs = st.fixed_dictionaries({}, optional=optional).map(without_contradictions)
flat_losses = st.fixed_dictionaries(
    {},
    optional={
        "use_superclip_loss": st.booleans(),
        "class_loss_weight": weights,
        "aux_losses": st.lists(st.sampled_from(list(AUXILIARY_LOSSES)), unique=True),
    },
)


def test_every_key_of_the_schema_is_generated():
    assert optional.keys() == RunConfig.model_fields.keys()
    blocks = {kind: {"type", *needed, *other} for kind, needed, other in main_losses}
    assert {kind: set(block.model_fields) for kind, block in LOSSES.items()} == {
        **blocks,
        "combined": blocks["combined"] | {"gamma_pos", "gamma_neg"},
    }
    assert {kind for kind, _ in aux_blocks} == set(AUXILIARY_LOSSES)
    assert pretrain.keys() == PretrainConfig.model_fields.keys()
    assert {kind: {"type", *keys} for kind, keys in two_views.items()} == {
        kind: set(block.model_fields) for kind, block in TWO_VIEW_LOSSES.items()
    }


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
    dropped = ("loss", *SOFT_LABELS)
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
    try:
        configs_from_mapping([config])
    except ConfigErrors:
        return
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
    with pytest.raises(ConfigErrors):
        configs_from_mapping([config])
