"""Rules over several keys of a config: what contradicts what, and what deserves a word.

Each rule names the keys it looks at, so that it is left out while one of them is wrong by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, TypeAlias

from clip_pkg.config.encoders import timm_resnets
from clip_pkg.config.jsonc import JsonPath

if TYPE_CHECKING:
    from clip_pkg.config.loss_blocks import LossConfig
    from clip_pkg.config.schema import RunConfig

Finding: TypeAlias = tuple[JsonPath, str]
Rule: TypeAlias = Callable[["RunConfig"], Iterator[Finding]]

PATCH_SIZE = re.compile(r"patch(\d+)|ViT-\w+-(\d+)")
SOFT_LABEL_KEYS = ("mixup_alpha", "cutmix_alpha", "label_smoothing")
TEXT_KEYS = ("class_texts_file", "text_template", "prompts_per_class")


def contradictions(config: RunConfig, wrong_keys: Collection[str] = ()) -> dict[JsonPath, str]:
    """Every pair of settings that cannot both be meant, by the place of one of them.

    wrong_keys: keys that are wrong by themselves and left out of `config`; what their defaults
        would contradict is nobody's mistake.
    """
    found: dict[JsonPath, str] = {}
    for keys, rule in _RULES:
        if not set(keys) & set(wrong_keys):
            for path, sentence in rule(config):
                found.setdefault(path, sentence)
    return found


def notices(config: RunConfig) -> dict[JsonPath, str]:
    """What is allowed and has a consequence that is easily overlooked, by its place."""
    found: dict[JsonPath, str] = {}
    mixed = [key for key in ("mixup_alpha", "cutmix_alpha") if getattr(config, key) > 0]
    for path, loss in _losses(config):
        if mixed and loss.soft_targets == "warn":
            found[path] = (
                f'"{loss.type}" sees mixed images under {" and ".join(mixed)}: '
                f"{loss.hard_part} takes each for the class with the larger share"
            )
    if not config.needs_text and config.text_encoder.family != "none":
        found["text_encoder_name",] = (
            f'is loaded and not used: "{config.loss.type}" looks at no class text; "none" leaves '
            "it out"
        )
    return found


def _losses(config: RunConfig) -> Iterator[tuple[JsonPath, LossConfig]]:
    yield ("loss",), config.loss
    for index, aux in enumerate(config.aux_losses):
        yield ("aux_losses", index), aux


def _image_size_fits_the_encoder(config: RunConfig) -> Iterator[Finding]:
    match = PATCH_SIZE.search(config.image_encoder.model)
    patch = int(next(group for group in match.groups() if group)) if match else 1
    if config.img_size % patch:
        lower, upper = config.img_size // patch * patch, -(-config.img_size // patch) * patch
        near = " or ".join(str(size) for size in (lower, upper) if size >= patch)
        yield (
            ("img_size",),
            f"{config.img_size} is no multiple of the image encoder's patch size {patch}; "
            f"use {near}",
        )


def _texts_are_there_where_needed(config: RunConfig) -> Iterator[Finding]:
    if config.text_encoder.family != "none":
        return
    for path, loss in _losses(config):
        if loss.needs_text:
            has_linear_form = (
                "classifier" in type(loss).model_fields
                and not loss.model_copy(update={"classifier": "linear"}).needs_text
            )
            way_out = (
                'set its classifier to "linear" or choose a text encoder'
                if has_linear_form
                else "choose a text encoder or a loss without texts, such as "
                '{"type": "ce", "classifier": "linear"}'
            )
            yield path, f'"{loss.type}" needs class texts, text_encoder_name is "none"; {way_out}'
    for key in TEXT_KEYS:
        if getattr(config, key) is not None:
            yield (key,), 'has no meaning where text_encoder_name is "none"; leave it out'


def _tokens_are_there_where_needed(config: RunConfig) -> Iterator[Finding]:
    for path, loss in _losses(config):
        if loss.needs_tokens and config.text_encoder.family == "prompts":
            yield (
                path,
                f'"{loss.type}" needs the tokens of the class texts, and learned prompts have '
                "none; choose `clip:<model>` or `hf:<model>` as text_encoder_name",
            )


def _tokens_are_kept_where_needed(config: RunConfig) -> Iterator[Finding]:
    if config.needs_tokens and config.freeze_text_encoder:
        yield (
            ("freeze_text_encoder",),
            "keeps the features of the class texts and drops their tokens, which the loss reads; "
            "set it to false",
        )


def _soft_labels_mean_something(config: RunConfig) -> Iterator[Finding]:
    for key in SOFT_LABEL_KEYS:
        if getattr(config, key) > 0:
            for path, loss in _losses(config):
                if loss.soft_targets == "no":
                    yield (
                        (key,),
                        f'makes soft labels, which "{loss.type}" in {path[0]} cannot take; set it '
                        "to 0 or choose a loss with a cross-entropy",
                    )


def _batches_are_large_enough(config: RunConfig) -> Iterator[Finding]:
    for path, loss in _losses(config):
        if config.batch_size < loss.smallest_batch:
            yield (
                ("batch_size",),
                f'{config.batch_size} is too small for "{loss.type}" in {path[0]}, which learns '
                f"from batches of at least {loss.smallest_batch}",
            )


def _parts_are_of_a_batch(config: RunConfig) -> Iterator[Finding]:
    if config.micro_batch_size is not None and config.micro_batch_size > config.batch_size:
        yield (
            ("micro_batch_size",),
            f"{config.micro_batch_size} is more than the batch has (batch_size "
            f"{config.batch_size}); leave it out, or make it smaller",
        )


def _activations_are_kept_otherwise(config: RunConfig) -> Iterator[Finding]:
    if config.activation_checkpointing and config.freeze_image_encoder:
        yield (
            ("activation_checkpointing",),
            "has no effect on a frozen image encoder, which keeps no activations; leave it out",
        )


def _what_is_compiled_is_whole(config: RunConfig) -> Iterator[Finding]:
    if config.compile is not True:
        return
    for key, is_set in (
        ("activation_checkpointing", config.activation_checkpointing),
        ("gpus_per_task", config.gpus_per_task > 1),
    ):
        if is_set:
            yield (
                ("compile",),
                f'cannot be true together with {key}; set it to "auto", or leave {key} out',
            )


def _auxiliary_losses_differ(config: RunConfig) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, aux in enumerate(config.aux_losses):
        if first.setdefault(aux.type, index) != index:
            yield (
                ("aux_losses", index),
                f'"{aux.type}" is in the list twice; keep one of them',
            )


def _stem_fits_the_encoder(config: RunConfig) -> Iterator[Finding]:
    if config.stem == "standard":
        return
    encoder = config.image_encoder
    if encoder.family != "timm" or encoder.model.partition(".")[0] not in timm_resnets():
        yield ("stem",), f'"{config.stem}" is for ResNets; {encoder.written} is none'
    elif encoder.weights != "scratch":
        yield (
            ("stem",),
            f'"{config.stem}" has layers that published weights do not fit; write '
            f'"{encoder.model}:scratch" as image_encoder_name',
        )


def _pretraining_can_learn(config: RunConfig) -> Iterator[Finding]:
    block = config.pretrain
    if block is None:
        return
    if block.micro_batch_size is not None and block.micro_batch_size > block.batch_size:
        yield (
            ("pretrain", "micro_batch_size"),
            f"{block.micro_batch_size} is more than the batch has ({block.batch_size}); leave it "
            "out, or make it smaller",
        )
    if block.queue is not None and block.loss.type != "info_nce":
        yield (
            ("pretrain", "queue"),
            f'is for the loss "info_nce" alone, not "{block.loss.type}"; leave it out',
        )
    if block.queue is not None and block.micro_batch_size is not None:
        yield (
            ("pretrain", "micro_batch_size"),
            "does not go together with a queue, which is there so that batches can be small; keep "
            "one of the two",
        )
    if block.loss.uses_labels and not block.is_per_fold:
        yield (
            ("pretrain", "images"),
            f'"{block.loss.type}" learns from labels, and those of validation images must not be '
            'seen; use "train_fold"',
        )


def _labels_stay_out_of_a_choice(config: RunConfig) -> Iterator[Finding]:
    block = config.pretrain
    if block is not None and block.loss.uses_labels and config.inner_val_fraction > 0:
        yield (
            ("inner_val_fraction",),
            f'sets images aside to choose the epoch, and the pre-training by "{block.loss.type}" '
            "would know their labels; set it to 0, or pre-train without labels",
        )


_LOSS_KEYS = ("loss", "aux_losses")
_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("image_encoder_name", "img_size"), _image_size_fits_the_encoder),
    ((*_LOSS_KEYS, "text_encoder_name", *TEXT_KEYS), _texts_are_there_where_needed),
    ((*_LOSS_KEYS, "text_encoder_name"), _tokens_are_there_where_needed),
    ((*_LOSS_KEYS, "freeze_text_encoder"), _tokens_are_kept_where_needed),
    ((*_LOSS_KEYS, *SOFT_LABEL_KEYS), _soft_labels_mean_something),
    ((*_LOSS_KEYS, "batch_size"), _batches_are_large_enough),
    (("batch_size", "micro_batch_size"), _parts_are_of_a_batch),
    (("activation_checkpointing", "freeze_image_encoder"), _activations_are_kept_otherwise),
    (("compile", "activation_checkpointing", "gpus_per_task"), _what_is_compiled_is_whole),
    (("aux_losses",), _auxiliary_losses_differ),
    (("stem", "image_encoder_name"), _stem_fits_the_encoder),
    (("pretrain",), _pretraining_can_learn),
    (("pretrain", "inner_val_fraction"), _labels_stay_out_of_a_choice),
)
