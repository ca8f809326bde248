"""Other class texts for a trained fold: new classes, or new words for the old ones.

A checkpoint holds the features of its own classes, and of the text side what training made:

- a text encoder that was trained. Of an open_clip tower's token table only the rows that occurred
  in training are there; others come from the pretrained weights, which training left as they were;
- of a frozen one its features only. The encoder comes from the pretrained weights.

Legend: C new classes, M prompts of all classes one after another, F features, D embedding size.
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
from clip_pkg.models.clip_text import ClipText
from clip_pkg.models.image_text import VOCABULARY_KEY, ImageTextModel
from clip_pkg.models.state_dicts import load_strictly
from clip_pkg.models.text_encoder import (
    FROZEN_KEY,
    FrozenTextFeatures,
    TextEncoder,
    build_text_encoder,
    precompute,
)
from clip_pkg.study.class_texts import ClassTexts

ENCODER, PROJECTION = "text_encoder.", "text_projection."
TABLE = f"{ENCODER}tower.token_embedding.weight"  # of tokens
LEAST_COSINE = 0.999  # of features that the same weights give on two machines


def with_class_texts(
    fold: FoldClassifier, texts: ClassTexts, weights_dir: Path | None = None
) -> FoldClassifier:
    """Give a fold that tells the classes of `texts`, by their texts alone.

    weights_dir: where pretrained weights are looked for; None for the config's own setting.

    Raises:
        UserError: The fold does not predict by texts, or its text encoder cannot read new ones.
        WeightsError: Pretrained weights are needed and neither here nor to be had.
        CheckpointError: Those that were found are others than it was trained with.
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
    load_strictly(model.text_projection, _part(content.model, PROJECTION), source=str(fold.source))
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
        raise UserError(f"{fold.source}: its model has no text encoder, so it knows no new classes")
    if family == "prompts":
        raise UserError(
            f"{fold.source}: its model has learned vectors for its classes in place of reading "
            f'texts (text_encoder_name "{content.config.text_encoder_name}"), so it knows no new '
            "classes; a text encoder such as clip:ViT-B/32 reads them"
        )
    # Whoever compares images with texts has as many logits as there are texts.
    count = len(fold.classes) + 1
    dimension = content.config.embed_dim
    more = torch.ones(count, dimension, device=fold.device)
    image = torch.ones(1, dimension, device=fold.device)
    logits = replace(fold.classifier, class_features=more).logits(image)
    if logits.shape[1] != count:
        raise UserError(
            f"{fold.source}: its loss ({content.config.loss.type}) predicts by what it learned of "
            "the classes in training and not by their texts, so it knows no new classes; losses "
            "such as clip and superclip compare with texts"
        )


def _text_encoder(
    fold: FoldClassifier, content: CheckpointContent, prompts: Sequence[str]
) -> TextEncoder:
    """The text encoder as it was trained, for other prompts."""
    if FROZEN_KEY in content.model:
        return _frozen(fold, content, prompts)
    spec, state = content.config.text_encoder, content.model
    encoder = _built(content, spec.untrained, prompts)
    if isinstance(encoder, ClipText) and encoder.vocabulary is not None:
        known = state[VOCABULARY_KEY]
        if unknown := _unknown(encoder, known, prompts):
            if spec.weights == "scratch":
                raise UserError(
                    f"{fold.source}: its text encoder began at random weights (:scratch) and has "
                    "read no words but those of its own class texts; it cannot read "
                    f"{some(map(repr, unknown))}"
                )
            encoder = _built(content, spec, prompts)
            assert isinstance(encoder, ClipText), "weights do not change the kind of encoder"
        state = _with_vocabulary_of(encoder, state)
    load_strictly(encoder, _part(state, ENCODER), source=str(fold.source))
    return encoder


def _unknown(encoder: ClipText, known: Tensor, prompts: Sequence[str]) -> list[str]:
    """Prompts with tokens that the trained token table lacks; nothing depends on padding."""
    tokens = encoder.prompt_tokens
    strange = ~torch.isin(tokens, known) & (tokens >= 0)
    return [prompts[row] for row in strange.any(dim=1).nonzero()[:, 0].tolist()]


def _with_vocabulary_of(encoder: ClipText, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A trained state with a token table for the encoder's prompts; its own rows fill it up."""
    vocabulary, known = encoder.vocabulary, state[VOCABULARY_KEY]
    assert vocabulary is not None, "the table was cut"
    table = encoder.state_dict()[TABLE.removeprefix(ENCODER)].clone()
    shared = torch.isin(vocabulary, known)
    table[shared] = state[TABLE][torch.searchsorted(known, vocabulary[shared])]
    return {**state, TABLE: table, VOCABULARY_KEY: vocabulary}


def _frozen(
    fold: FoldClassifier, content: CheckpointContent, prompts: Sequence[str]
) -> FrozenTextFeatures:
    """Run the encoder that was frozen, after a look whether it is the same one."""
    spec = content.config.text_encoder
    if spec.weights == "scratch":
        raise UserError(
            f"{fold.source}: its text encoder was frozen at random weights (:scratch), of which "
            "only the features of its own class texts were kept; it cannot read new ones"
        )
    old = [prompt for of_class in content.prompts for prompt in of_class]
    found = precompute(_built(content, spec, [*old, *prompts]), len(old) + len(prompts)).features
    kept = content.model[FROZEN_KEY]
    same = kept.shape == found[: len(old)].shape
    if not same or F.cosine_similarity(kept, found[: len(old)]).min() < LEAST_COSINE:
        raise CheckpointError(
            f"{fold.source} was trained with other weights of {spec.written} than those found "
            "here; name the folder or file that has them with --weights-dir"
        )
    return FrozenTextFeatures(found[len(old) :])


def _built(content: CheckpointContent, spec: EncoderSpec, prompts: Sequence[str]) -> TextEncoder:
    config = content.config
    folder = Path(config.weights_dir).expanduser() if config.weights_dir else None
    return build_text_encoder(spec, prompts, embed_dim=config.embed_dim, weights_dir=folder)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors of one part of a model, by their names in it."""
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
