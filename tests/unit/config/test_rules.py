from __future__ import annotations

import pytest
from pydantic import ValidationError

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.keys import keys_without_effect
from clip_pkg.config.load import configs_from_mapping
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.schema import RunConfig

VICREG = {"type": "vicreg", "invariance_weight": 0, "variance_weight": 0, "covariance_weight": 0}
NO_TEXTS = {"text_encoder_name": "none", "loss": {"type": "ce", "classifier": "linear"}}


def problems(values):
    with pytest.raises(ConfigErrors) as caught:
        configs_from_mapping([values])
    return {
        problem.where.removeprefix("[0]."): problem.message for problem in caught.value.problems
    }


def notices(values):
    loaded = configs_from_mapping([values])
    return dict(notice.removeprefix("[0].").split(": ", 1) for notice in loaded.notices)


def test_only_a_cross_validation_is_repeated():
    (problem,) = problems({"use_cv": False, "n_repeats": 3}).items()
    assert problem[0] == "n_repeats"
    assert "3 repeats need a cross-validation; set use_cv to true" in problem[1]
    assert set(problems({"n_repeats": 0})) == {"n_repeats"}
    assert notices({"n_repeats": 5}) == {}
    assert "corrected t-test" in notices({"n_repeats": 6})["n_repeats"]


@pytest.mark.parametrize(
    ("loss", "corrects"),
    [
        ({"type": "superclip"}, True),
        ({"type": "superclip", "class_weighting": "none"}, False),
        ({"type": "ce"}, False),
        ({"type": "ce", "class_weighting": "balanced"}, True),
        ({"type": "proxy"}, False),
    ],
)
def test_imbalance_that_is_corrected_twice_has_a_notice(loss, corrects):
    told = notices({"loss": loss, "use_weighted_sampling": True, "text_encoder_name": "prompts"})
    assert ("class_weighting" in told.get("use_weighted_sampling", "")) == corrects
    assert "use_weighted_sampling" not in notices({"loss": loss})


def test_imbalance_that_a_sweep_corrects_twice_is_noticed_once():
    swept = {"use_weighted_sampling": True, "sweep": {"learning_rate": [1e-3, 1e-4]}}
    loaded = configs_from_mapping([{"loss": {"type": "superclip"}, **swept}])
    assert len(loaded.configs) == 2
    (notice,) = loaded.notices
    assert notice.startswith("[0].use_weighted_sampling: ")


def test_defaults_need_no_notice():
    assert notices({}) == {}
    for kind in LOSSES:
        made = configs_from_mapping([{"loss": {"type": kind}}])
        assert made.configs[0].needs_text == (
            "text_encoder_name" not in notices({"loss": {"type": kind}})
        )


@pytest.mark.parametrize("kind", LOSSES)
def test_without_a_text_encoder_only_losses_without_texts(kind):
    values = {"text_encoder_name": "none", "loss": {"type": kind}}
    if not LOSSES[kind]().needs_text:
        assert configs_from_mapping([values]).configs[0].text_encoder.family == "none"
        return
    (problem,) = problems(values).items()
    assert problem[0] == "loss"
    assert f'"{kind}" needs class texts, but text_encoder_name is "none"' in problem[1]
    has_way = kind in ("ce", "focal", "combined", "logit_adjust", "balanced_softmax", "ldam")
    assert ('set its classifier to "linear"' in problem[1]) == has_way
    if has_way:
        values["loss"]["classifier"] = "linear"
        assert not configs_from_mapping([values]).configs[0].needs_text


@pytest.mark.parametrize("kind", AUXILIARY_LOSSES)
def test_without_a_text_encoder_only_auxiliary_losses_without_texts(kind):
    values = {**NO_TEXTS, "aux_losses": [{"type": kind}]}
    if AUXILIARY_LOSSES[kind]().needs_text:
        assert set(problems(values)) == {"aux_losses[0]"}
    else:
        assert not configs_from_mapping([values]).configs[0].needs_text


@pytest.mark.parametrize(
    ("key", "value"),
    [("class_texts_file", "texts.json"), ("text_template", "a {}"), ("prompts_per_class", 3)],
)
def test_texts_without_a_text_encoder(key, value):
    (problem,) = problems({**NO_TEXTS, key: value}).items()
    assert problem[0] == key
    assert "has no effect" in problem[1]


def test_every_contradiction_is_reported_at_once():
    found = problems(
        {
            "text_encoder_name": "none",
            "class_texts_file": "texts.json",
            "mixup_alpha": 0.2,
            "batch_size": 2,
            "aux_losses": [{"type": "triplet"}, {"type": "triplet"}],
            "image_encoder_name": "vit",
            "img_size": 225,
        }
    )
    assert set(found) == {
        "loss",
        "class_texts_file",
        "mixup_alpha",
        "batch_size",
        "aux_losses[1]",
        "img_size",
    }


def test_what_is_wrong_by_itself_contradicts_nothing():
    assert set(problems({**NO_TEXTS, "loss": {"type": "cee"}})) == {"loss.type"}
    assert set(problems({"mixup_alpha": 0.2, "loss": {"type": "cee"}})) == {"loss.type"}
    # but what the right keys contradict is still said
    found = problems({"epochs": 0, "mixup_alpha": 0.2})
    assert set(found) == {"epochs", "mixup_alpha"}


@pytest.mark.parametrize("key", ["mixup_alpha", "cutmix_alpha", "label_smoothing"])
@pytest.mark.parametrize("kind", ["clip", "superclip", "ce"])
def test_soft_labels(key, kind):
    values = {"loss": {"type": kind}, key: 0.3}
    accepts = LOSSES[kind].soft_targets
    if accepts == "no":
        assert f'"{kind}" in loss does not accept' in problems(values)[key]
        return
    found = notices(values)
    assert ("loss" in found) == (accepts == "warn" and key != "label_smoothing")
    if "loss" in found:
        assert found["loss"].startswith(f'"{kind}" with {key}: its ')


def test_auxiliary_losses_see_mixed_images_too():
    aux = [{"type": kind} for kind in AUXILIARY_LOSSES]
    found = notices({"loss": {"type": "ce"}, "aux_losses": aux, "cutmix_alpha": 1.0})
    assert set(found) == {
        f"aux_losses[{index}]" for index, block in enumerate(aux) if block["type"] != "cosine_sim"
    }


def test_batches_must_be_large_enough_for_every_loss():
    values = {"aux_losses": ["triplet"]}
    message = problems({**values, "batch_size": 2})["batch_size"]
    assert '"triplet" in aux_losses' in message
    assert "at least 3 images" in message
    assert configs_from_mapping([{**values, "batch_size": 3}]).configs[0].smallest_batch == 3


@pytest.mark.parametrize("text_encoder", ["prompts", "prompts:clip:ViT-B/32"])
def test_learned_prompts_have_no_tokens(text_encoder):
    values = {"loss": {"type": "superclip_tokens"}, "text_encoder_name": text_encoder}
    assert "learned prompts have none" in problems(values)["loss"]


@pytest.mark.parametrize(
    ("block", "place"),
    [
        (
            {"type": "superclip", "class_loss_weight": 0, "contrastive_loss_weight": 0},
            "loss.class_loss_weight",
        ),
        (
            {"type": "superclip_tokens", "contrastive_loss_weight": 0},
            "loss.contrastive_loss_weight",
        ),
        (VICREG, "pretrain.loss.invariance_weight"),
    ],
)
def test_weights_that_leave_nothing_to_learn(block, place):
    values = {"pretrain": {"loss": block}} if block["type"] == "vicreg" else {"loss": block}
    assert set(problems(values)) == {place}


def test_a_focus_belongs_to_the_focal_style():
    for kind in ("proxy", "combined"):
        for gamma in ("gamma_pos", "gamma_neg"):
            assert set(problems({"loss": {"type": kind, gamma: 1.0}})) == {f"loss.{gamma}"}
    block = {"type": "proxy", "proxy_type": "FocalStyleProxyAnchorLoss", "gamma_neg": 0.5}
    (config,) = configs_from_mapping([{"loss": block}]).configs
    assert config.loss.focus == (2.0, 0.5)
    assert configs_from_mapping([{"loss": {"type": "proxy"}}]).configs[0].loss.focus == (0.0, 0.0)


def test_python_users_get_the_same_sentences():
    with pytest.raises(ValidationError, match="needs class texts"):
        RunConfig.model_validate({"text_encoder_name": "none"})


def test_micro_batches_are_parts_of_a_batch():
    assert configs_from_mapping([{"batch_size": 8, "micro_batch_size": 8}])
    (problem,) = problems({"batch_size": 8, "micro_batch_size": 9}).items()
    assert problem[0] == "micro_batch_size"
    assert "9 is larger than batch_size (8)" in problem[1]


def test_a_frozen_encoder_keeps_no_activations():
    values = {"activation_checkpointing": True}
    assert configs_from_mapping([values]).configs[0].activation_checkpointing
    assert set(problems(values | {"freeze_image_encoder": True})) == {"activation_checkpointing"}


@pytest.mark.parametrize("other", [{"activation_checkpointing": True}, {"gpus_per_task": 2}])
def test_what_is_compiled_is_computed_whole_and_once(other):
    (key,) = other
    assert not configs_from_mapping([other]).configs[0].compile
    (problem,) = problems({"compile": True} | other).items()
    assert problem[0] == "compile"
    assert f"cannot be true together with {key}" in problem[1]


@pytest.mark.parametrize("name", ["resnet18", "resnet10t", "test_resnet", "wide_resnet50_2"])
def test_a_stem_is_for_resnets_from_scratch(name):
    values = {"stem": "cifar", "image_encoder_name": f"{name}:scratch"}
    assert configs_from_mapping([values]).configs[0].stem == "cifar"
    values["image_encoder_name"] = name
    (problem,) = problems(values).items()
    assert problem[0] == "stem"
    assert f'"{name}:scratch"' in problem[1]


@pytest.mark.parametrize(
    "name", ["vit", "clip:RN50", "resnetv2_50", "resnest14d", "gcresnet33ts", "legacy_seresnet18"]
)
def test_other_encoders_have_no_such_stem(name):
    values = {"stem": "cifar", "image_encoder_name": f"{name}:scratch"}
    (problem,) = problems(values).items()
    assert problem[0] == "stem"
    assert "only for ResNets" in problem[1]


def test_a_pretraining_on_a_fold_is_of_that_fold():
    assert configs_from_mapping([{"pretrain": {}}]).configs[0].pretrain.is_per_fold
    other = configs_from_mapping([{"pretrain": {"images": "all"}}]).configs[0]
    assert not other.pretrain.is_per_fold


@pytest.mark.parametrize(
    ("block", "key", "sentence"),
    [
        ({"batch_size": 8, "micro_batch_size": 9}, "micro_batch_size", "larger than batch_size"),
        ({"queue": {}}, "queue", 'only for the loss "info_nce"'),
        (
            {"loss": {"type": "info_nce"}, "queue": {}, "micro_batch_size": 4},
            "micro_batch_size",
            "cannot be combined with a queue",
        ),
        ({"loss": {"type": "supcon"}, "images": "all"}, "images", "must not see"),
        ({"loss": {"type": "supcon"}, "images": "a/folder"}, "images", "must not see"),
    ],
)
def test_a_pretraining_that_could_not_learn_is_refused(block, key, sentence):
    (problem,) = problems({"pretrain": block}).items()
    assert problem[0] == f"pretrain.{key}"
    assert sentence in problem[1]


def test_labels_of_an_inner_split_are_not_learned_before_it_chooses():
    labelled = {"pretrain": {"loss": {"type": "supcon"}}, "inner_val_fraction": 0.2}
    (problem,) = problems(labelled).items()
    assert problem[0] == "inner_val_fraction"
    assert "would learn their labels" in problem[1]
    (allowed,) = configs_from_mapping([{**labelled, "pretrain": {}}]).configs
    assert allowed.inner_val_fraction == 0.2


@pytest.mark.parametrize(
    ("augmentation", "horizontal_flip", "flips"),
    [
        ("none", None, False),
        ("none", True, True),
        ("minimal", None, True),
        ("standard", None, True),
        ("standard", False, False),
    ],
)
def test_what_null_means_for_horizontal_flips(augmentation, horizontal_flip, flips):
    config = RunConfig(augmentation=augmentation, horizontal_flip=horizontal_flip)
    assert config.flips_horizontally == flips


def test_keys_say_whether_they_change_numbers():
    assert {"name", "gpu_id", "num_workers"} < keys_without_effect() < set(RunConfig.model_fields)
    assert not keys_without_effect() & {"loss", "learning_rate", "random_state", "use_amp"}
