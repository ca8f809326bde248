"""Rules over several keys of a config: contradictions, and settings that deserve a notice.

Each row of `_RULES` names the keys that its rule reads: the rule is skipped while one of them is
wrong on its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

from clip_pkg.config.encoders import parse_image_encoder, parse_text_encoder, timm_resnets
from clip_pkg.config.jsonc import JsonPath
from clip_pkg.config.keys import ConfigKeys
from clip_pkg.config.loss_blocks import LossConfig

Finding: TypeAlias = tuple[JsonPath, str]
Rule: TypeAlias = Callable[[ConfigKeys], Iterator[Finding]]

_PATCH_SIZE = re.compile(r"patch(\d+)|ViT-\w+-(\d+)")
MAX_SAFE_REPEATS = 5  # at which the corrected t-test keeps its level, see benchmarks/null_rate.py
_SOFT_LABEL_KEYS = ("mixup_alpha", "cutmix_alpha", "label_smoothing")
_TEXT_KEYS = ("class_texts_file", "text_template", "prompts_per_class")


def contradictions(config: ConfigKeys, wrong_keys: Collection[str] = ()) -> dict[JsonPath, str]:
    """Find settings that contradict each other: path of one of them → sentence.

    wrong_keys: keys that are invalid on their own and therefore left out of `config`; their
        defaults are not checked against the rest.
    """
    found: dict[JsonPath, str] = {}
    for keys, rule in _RULES:
        if not set(keys) & set(wrong_keys):
            for path, sentence in rule(config):
                found.setdefault(path, sentence)
    return found


def notices(config: ConfigKeys) -> dict[JsonPath, str]:
    """Find settings that are allowed but have a consequence that is easy to overlook."""
    found: dict[JsonPath, str] = {}
    mixed = [key for key in ("mixup_alpha", "cutmix_alpha") if getattr(config, key) > 0]
    for path, loss in _losses(config):
        if mixed and loss.soft_targets == "warn":
            found[path] = (
                f'"{loss.type}" with {" and ".join(mixed)}: {loss.hard_term} assigns each mixed '
                "image to the class with the larger share"
            )
    if config.n_repeats > MAX_SAFE_REPEATS:
        found["n_repeats",] = (
            f"with more than {MAX_SAFE_REPEATS} repeats the corrected t-test finds differences a "
            "little too often, 6 to 8 % false ones instead of 5 % (docs/comparing.md)"
        )
    if corrects_imbalance_twice(config):
        found["use_weighted_sampling",] = (
            f'corrects class imbalance, and "{config.loss.type}", by its nature, corrects it a '
            "second time; set use_weighted_sampling to false"
            if config.loss.adjusts_for_counts
            else f'corrects class imbalance, and the class weights of "{config.loss.type}" correct '
            "it a second time; keep one of the two: set use_weighted_sampling to false, or "
            'class_weighting of loss to "none"'
        )
    if config.loss.type == "ce_infonce" and config.loss.classifier == "text":
        found["loss", "classifier"] = (
            '"text" makes both terms a cross-entropy of the same cosines, which differ in their '
            'temperature only; "linear" gives the classifier weights of its own'
        )
    uses_text = any(loss.needs_text for _, loss in _losses(config))
    if not uses_text and parse_text_encoder(config.text_encoder_name).family != "none":
        found["text_encoder_name",] = (
            f'is loaded but not used: "{config.loss.type}" uses no class texts; set it to "none"'
        )
    return found


def corrects_imbalance_twice(config: ConfigKeys) -> bool:
    """Whether rare classes are drawn more often, and the loss corrects for their rarity too."""
    weighted = config.loss.class_weight_method(config.weight_method) is not None
    return config.use_weighted_sampling and (weighted or config.loss.adjusts_for_counts)


def _losses(config: ConfigKeys) -> Iterator[tuple[JsonPath, LossConfig]]:
    yield ("loss",), config.loss
    for index, aux in enumerate(config.aux_losses):
        yield ("aux_losses", index), aux


def _image_size_fits_the_encoder(config: ConfigKeys) -> Iterator[Finding]:
    match = _PATCH_SIZE.search(parse_image_encoder(config.image_encoder_name).model)
    patch = int(next(group for group in match.groups() if group)) if match else 1
    if config.img_size % patch:
        lower, upper = config.img_size // patch * patch, -(-config.img_size // patch) * patch
        near = " or ".join(str(size) for size in (lower, upper) if size >= patch)
        yield (
            ("img_size",),
            f"{config.img_size} is not a multiple of the image encoder's patch size {patch}; "
            f"use {near}",
        )


def _stem_fits_the_encoder(config: ConfigKeys) -> Iterator[Finding]:
    if config.stem == "standard":
        return
    encoder = parse_image_encoder(config.image_encoder_name)
    if encoder.family != "timm" or encoder.model.partition(".")[0] not in timm_resnets():
        yield ("stem",), f'"{config.stem}" is only for ResNets, and {encoder.written} is not one'
    elif encoder.weights != "scratch":
        yield (
            ("stem",),
            f'pretrained weights do not fit the layers of "{config.stem}"; set image_encoder_name '
            f'to "{encoder.model}:scratch"',
        )


def _texts_exist_where_needed(config: ConfigKeys) -> Iterator[Finding]:
    if parse_text_encoder(config.text_encoder_name).family != "none":
        return
    for path, loss in _losses(config):
        if loss.needs_text:
            remedy = (
                'set its classifier to "linear" or choose a text encoder'
                if loss.uses_texts == "classifier"
                else "choose a text encoder, or a loss without texts such as "
                '{"type": "ce", "classifier": "linear"}'
            )
            yield (
                path,
                f'"{loss.type}" needs class texts, but text_encoder_name is "none"; {remedy}',
            )
    for key in _TEXT_KEYS:
        if getattr(config, key) is not None:
            yield (key,), 'has no effect when text_encoder_name is "none"; remove it'


def _tokens_exist_where_needed(config: ConfigKeys) -> Iterator[Finding]:
    family = parse_text_encoder(config.text_encoder_name).family
    for path, loss in _losses(config):
        if loss.needs_tokens and family == "prompts":
            yield (
                path,
                f'"{loss.type}" needs the tokens of the class texts, and learned prompts have '
                "none; set text_encoder_name to `clip:<model>` or `hf:<model>`",
            )


def _tokens_are_kept_where_needed(config: ConfigKeys) -> Iterator[Finding]:
    if config.freeze_text_encoder and any(loss.needs_tokens for _, loss in _losses(config)):
        yield (
            ("freeze_text_encoder",),
            "caches the features of the class texts without their tokens, which the loss needs; "
            "set it to false",
        )


def _losses_accept_soft_labels(config: ConfigKeys) -> Iterator[Finding]:
    for key in _SOFT_LABEL_KEYS:
        if getattr(config, key) > 0:
            for path, loss in _losses(config):
                if loss.soft_targets == "no":
                    yield (
                        (key,),
                        f'creates soft labels, which "{loss.type}" in {path[0]} does not accept; '
                        "set it to 0 or choose a loss with a cross-entropy",
                    )


def _auxiliary_losses_differ(config: ConfigKeys) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, aux in enumerate(config.aux_losses):
        if first.setdefault(aux.type, index) != index:
            yield ("aux_losses", index), f'"{aux.type}" is listed twice; remove one of them'


def _batches_are_large_enough(config: ConfigKeys) -> Iterator[Finding]:
    for path, loss in _losses(config):
        if config.batch_size < loss.smallest_batch:
            yield (
                ("batch_size",),
                f'{config.batch_size} is too small for "{loss.type}" in {path[0]}, which needs at '
                f"least {loss.smallest_batch} images per batch",
            )


def _micro_batches_fit_into_a_batch(config: ConfigKeys) -> Iterator[Finding]:
    if config.micro_batch_size is not None and config.micro_batch_size > config.batch_size:
        yield (
            ("micro_batch_size",),
            f"{config.micro_batch_size} is larger than batch_size ({config.batch_size}); reduce "
            "it, or remove it",
        )


def _checkpointing_has_an_effect(config: ConfigKeys) -> Iterator[Finding]:
    if config.activation_checkpointing and config.freeze_image_encoder:
        yield (
            ("activation_checkpointing",),
            "has no effect on a frozen image encoder, which stores no activations; remove it",
        )


def _only_a_cross_validation_is_repeated(config: ConfigKeys) -> Iterator[Finding]:
    if config.n_repeats > 1 and not config.use_cv:
        yield (
            ("n_repeats",),
            f"{config.n_repeats} repeats need a cross-validation; set use_cv to true, or n_repeats "
            "to 1",
        )


def _compilation_is_possible(config: ConfigKeys) -> Iterator[Finding]:
    conflicts = {
        "activation_checkpointing": config.activation_checkpointing,
        "gpus_per_task": config.gpus_per_task > 1,
    }
    for key, is_set in conflicts.items():
        if config.compile is True and is_set:
            yield (
                ("compile",),
                f'cannot be true together with {key}; set it to "auto", or remove {key}',
            )


def _pretraining_can_learn(config: ConfigKeys) -> Iterator[Finding]:
    block = config.pretrain
    if block is None:
        return
    if block.micro_batch_size is not None and block.micro_batch_size > block.batch_size:
        yield (
            ("pretrain", "micro_batch_size"),
            f"{block.micro_batch_size} is larger than batch_size ({block.batch_size}); reduce it, "
            "or remove it",
        )
    if block.queue is not None and block.loss.type != "info_nce":
        yield (
            ("pretrain", "queue"),
            f'is only for the loss "info_nce", not for "{block.loss.type}"; remove it',
        )
    if block.queue is not None and block.micro_batch_size is not None:
        yield (
            ("pretrain", "micro_batch_size"),
            "cannot be combined with a queue, which already allows small batches; remove one of "
            "the two",
        )
    if block.loss.uses_labels and not block.is_per_fold:
        yield (
            ("pretrain", "images"),
            f'"{block.loss.type}" learns from labels and must not see those of validation images; '
            'use "train_fold"',
        )


def _labels_stay_out_of_the_inner_split(config: ConfigKeys) -> Iterator[Finding]:
    block = config.pretrain
    if block is not None and block.loss.uses_labels and config.inner_val_fraction > 0:
        yield (
            ("inner_val_fraction",),
            f'sets images aside to choose the epoch, but pre-training with "{block.loss.type}" '
            "would learn their labels; set it to 0, or pre-train without labels",
        )


_LOSS_KEYS = ("loss", "aux_losses")
_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("image_encoder_name", "img_size"), _image_size_fits_the_encoder),
    ((*_LOSS_KEYS, "text_encoder_name", *_TEXT_KEYS), _texts_exist_where_needed),
    ((*_LOSS_KEYS, "text_encoder_name"), _tokens_exist_where_needed),
    ((*_LOSS_KEYS, "freeze_text_encoder"), _tokens_are_kept_where_needed),
    ((*_LOSS_KEYS, *_SOFT_LABEL_KEYS), _losses_accept_soft_labels),
    ((*_LOSS_KEYS, "batch_size"), _batches_are_large_enough),
    (("batch_size", "micro_batch_size"), _micro_batches_fit_into_a_batch),
    (("activation_checkpointing", "freeze_image_encoder"), _checkpointing_has_an_effect),
    (("compile", "activation_checkpointing", "gpus_per_task"), _compilation_is_possible),
    (("aux_losses",), _auxiliary_losses_differ),
    (("use_cv", "n_repeats"), _only_a_cross_validation_is_repeated),
    (("stem", "image_encoder_name"), _stem_fits_the_encoder),
    (("pretrain",), _pretraining_can_learn),
    (("pretrain", "inner_val_fraction"), _labels_stay_out_of_the_inner_split),
)
