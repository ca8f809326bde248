"""New class texts for a trained fold: new classes, or new wordings of the old ones.

A checkpoint contains the features of its own classes and, for the text encoder:

- if it was trained, its weights. Of an open_clip tower's token embeddings, only the tokens of the
  training texts are stored; the others are those of the pretrained weights, unchanged by training.
- if it was frozen, only its features. The encoder itself comes from the pretrained weights.

Legend: C new classes, M prompts of all classes, concatenated, F features, D embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.base.errors import CheckpointError, UserError, some
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.inference.fold_classifier import CheckpointContent, FoldClassifier, read_content
from clip_pkg.models.families import TextTower, family_of
from clip_pkg.models.image_text import VOCABULARY_KEY, ImageTextModel
from clip_pkg.models.state_dicts import load_strictly
from clip_pkg.models.text_encoder import (
    FROZEN_KEY,
    FrozenTextFeatures,
    TextEncoder,
    precompute,
)
from clip_pkg.study.class_texts import ClassTexts

ENCODER, PROJECTION = "text_encoder.", "text_projection."
TABLE = f"{ENCODER}tower.token_embedding.weight"  # of tokens
MIN_COSINE = 0.999  # between features of the same weights on two machines


def with_class_texts(
    fold: FoldClassifier, texts: ClassTexts, weights_dir: Path | None = None
) -> FoldClassifier:
    """A copy of the fold that predicts the classes of `texts` from their texts.

    weights_dir: folder of pretrained weights; None for that of the config.

    Raises:
        UserError: The fold does not predict from texts, or its text encoder cannot read new ones.
        WeightsError: Pretrained weights are needed and not available.
        CheckpointError: The available weights differ from those that it was trained with.
    """
    content = read_content(fold.source)
    _refuse_without_texts(fold, content)
    if weights_dir is not None:
        config = content.config.model_copy(update={"weights_dir": str(weights_dir)})
        content = content.model_copy(update={"config": config})
    prompts = [prompt for of_class in texts.prompts for prompt in of_class]
    model = ImageTextModel(
        fold.classifier.model.image_encoder,
        _text_encoder(fold, content, prompts),
        [len(of_class) for of_class in texts.prompts],
        embed_dim=content.config.embed_dim,
        temperature=content.config.temperature,
    ).eval()
    load_strictly(
        model.text_projection, _submodule(content.model, PROJECTION), source=str(fold.source)
    )
    with torch.no_grad():
        features = model.mean_class_features().to(fold.device)
    return replace(
        fold,
        classes=texts.classes,
        classifier=replace(fold.classifier, class_features=features),
    )


def _refuse_without_texts(fold: FoldClassifier, content: CheckpointContent) -> None:
    family = content.config.text_encoder.family
    if family == "none":
        raise UserError(
            f"{fold.source}: its model has no text encoder, so it cannot predict new classes"
        )
    if family == "prompts":
        raise UserError(
            f"{fold.source}: its model learned one vector per class and reads no texts "
            f'(text_encoder_name "{content.config.text_encoder_name}"), so it cannot predict new '
            "classes; train with a text encoder such as clip:ViT-B/32"
        )
    # A model that compares images with texts has one logit per text.
    count = len(fold.classes) + 1
    dimension = content.config.embed_dim
    more = torch.ones(count, dimension, device=fold.device)
    image = torch.ones(1, dimension, device=fold.device)
    logits = replace(fold.classifier, class_features=more).logits(image)
    if logits.shape[1] != count:
        raise UserError(
            f"{fold.source}: its loss ({content.config.loss.type}) learned the classes themselves "
            "and does not compare images with texts, so it cannot predict new classes; losses such "
            "as clip and superclip do"
        )


def _text_encoder(
    fold: FoldClassifier, content: CheckpointContent, prompts: Sequence[str]
) -> TextEncoder:
    """The trained text encoder, for other prompts."""
    if FROZEN_KEY in content.model:
        return _frozen(fold, content, prompts)
    spec, state = content.config.text_encoder, content.model
    encoder = _built(content, spec.untrained, prompts)
    if encoder.vocabulary is not None:
        known = state[VOCABULARY_KEY]
        if unknown := _unknown(encoder, known, prompts):
            if spec.weights == "scratch":
                raise UserError(
                    f"{fold.source}: its text encoder started from random weights (:scratch) and "
                    "was trained on the words of its own class texts only; it cannot read "
                    f"{some(map(repr, unknown))}"
                )
            encoder = _built(content, spec, prompts)
        state = _with_vocabulary_of(encoder, state)
    load_strictly(encoder, _submodule(state, ENCODER), source=str(fold.source))
    return encoder


def _unknown(encoder: TextTower, known: Tensor, prompts: Sequence[str]) -> list[str]:
    """Prompts with tokens that are not among the trained embeddings, padding aside."""
    tokens = encoder.prompt_tokens
    strange = ~torch.isin(tokens, known) & (tokens >= 0)
    return [prompts[row] for row in strange.any(dim=1).nonzero()[:, 0].tolist()]


def _with_vocabulary_of(encoder: TextTower, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained state with token embeddings for the encoder's prompts; pretrained where new."""
    vocabulary, known = encoder.vocabulary, state[VOCABULARY_KEY]
    assert vocabulary is not None, "the token table was reduced"
    table = encoder.state_dict()[TABLE.removeprefix(ENCODER)].clone()
    shared = torch.isin(vocabulary, known)
    table[shared] = state[TABLE][torch.searchsorted(known, vocabulary[shared])]
    return {**state, TABLE: table, VOCABULARY_KEY: vocabulary}


def _frozen(
    fold: FoldClassifier, content: CheckpointContent, prompts: Sequence[str]
) -> FrozenTextFeatures:
    """Features of the frozen encoder, after verifying that its weights are the same."""
    spec = content.config.text_encoder
    if spec.weights == "scratch":
        raise UserError(
            f"{fold.source}: its text encoder was frozen at random weights (:scratch) and only the "
            "features of its own class texts were stored; it cannot read new texts"
        )
    old = [prompt for of_class in content.prompts for prompt in of_class]
    found = precompute(_built(content, spec, [*old, *prompts]), len(old) + len(prompts)).features
    kept = content.model[FROZEN_KEY]
    same = kept.shape == found[: len(old)].shape
    if not same or F.cosine_similarity(kept, found[: len(old)]).min() < MIN_COSINE:
        raise CheckpointError(
            f"{fold.source} was trained with other weights of {spec.written} than those on this "
            "machine; pass the right folder or file with --weights-dir"
        )
    return FrozenTextFeatures(found[len(old) :])


def _built(content: CheckpointContent, spec: EncoderSpec, prompts: Sequence[str]) -> TextTower:
    directory = content.config.weights_dir
    folder = Path(directory).expanduser() if directory else None
    return family_of(spec).build_text(spec, prompts, folder)


def _submodule(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
