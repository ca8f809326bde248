"""open_clip text towers over a fixed list of prompts.

Legend: M prompts, L tokens per prompt, U distinct tokens among them, F features.

Two reductions make a training step cheaper without changing its numbers: with causal or masked
attention, prompts are truncated to the longest real one; and the token embeddings are reduced to
the tokens that some prompt uses, because the others get no gradient.

open_clip is imported inside functions: it takes a second, and every training process imports this
module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.models.assets import Asset, Snapshot, assets
from clip_pkg.models.weights import obtain

logger = logging.getLogger(__name__)


class ClipText(nn.Module):
    """Rows [m] of the prompts → features [m, F] of an open_clip text tower.

    tower: open_clip's text module. tokens: [M, context length] int64, padded at the end.

    prompt_tokens: [M, L] token ids, -1 for padding. vocabulary_size: of the tokenizer.
    """

    prompt_tokens: Tensor
    tokens: Tensor
    vocabulary: Tensor | None

    def __init__(self, tower: nn.Module, tokens: Tensor, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        tokens = tokens[:, : _visible_length(tower, tokens)]
        self.vocabulary_size = _vocabulary_size(tower)
        self.register_buffer("prompt_tokens", _without_padding(tokens), persistent=False)
        vocabulary, tokens = _cut_vocabulary(tower, tokens)
        mask = getattr(tower, "attn_mask", None)
        if isinstance(mask, Tensor) and getattr(tower, "cls_emb", 0) is None:
            tower.attn_mask = mask[: tokens.shape[1], : tokens.shape[1]].contiguous()
        self.tower = tower
        self.register_buffer("tokens", tokens, persistent=False)
        # Saved with the weights: it gives the token of each row of the embeddings.
        self.register_buffer("vocabulary", vocabulary)

    def forward(self, prompt_rows: Tensor) -> Tensor:
        features: Tensor = self.tower(self.tokens[prompt_rows])
        return features


def build_clip_text(
    spec: EncoderSpec, prompts: Sequence[str], weights_dir: Path | None
) -> ClipText:
    """Build the text tower of `spec` for these prompts.

    Raises WeightsError for unavailable weights, tokenizers or configurations, CheckpointError for
    a file that does not fit.
    """
    from clip_pkg.models import clip_towers  # noqa: PLC0415

    needed = assets(spec, "text")
    found = {asset: obtain(asset, spec, weights_dir) for asset in needed}
    weights = next((path for asset, path in found.items() if not isinstance(asset, Snapshot)), None)
    tokens = _tokenizer(spec, _component(found, "tokenizer"))(prompts)
    tower = clip_towers.text_tower(spec, weights, _component(found, "configuration"))
    return ClipText(tower, tokens, clip_towers.embedding_size(spec))


def _component(found: dict[Asset, Path], component: str) -> Path | None:
    """Folder of the asset that provides one part of a transformers model."""
    snapshots = ((a, path) for a, path in found.items() if isinstance(a, Snapshot))
    return next((path for asset, path in snapshots if component in asset.components), None)


def _tokenizer(spec: EncoderSpec, folder: Path | None) -> Callable[[Sequence[str]], Tensor]:
    """Tokenizer of the model: open_clip's own, or transformers' from a local folder."""
    import open_clip  # noqa: PLC0415

    config = open_clip.get_model_config(spec.model)["text_cfg"]
    length = config.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    if folder is None:
        simple = open_clip.get_tokenizer(spec.model)

        def tokenize(prompts: Sequence[str]) -> Tensor:
            for prompt in prompts:
                if (count := len(simple.encode(prompt)) + 2) > length:
                    logger.warning(
                        "%s reads %d tokens; truncating a prompt of %d: %.60s…",
                        *(spec.written, length, count, prompt),
                    )
            tokens: Tensor = simple(list(prompts))
            return tokens

        return tokenize
    tokenizer = open_clip.tokenizer.HFTokenizer(
        str(folder),
        context_length=length,
        tokenizer_mode=config.get("tokenizer_mode"),
        local_files_only=True,
        **config.get("tokenizer_kwargs", {}),
    )
    return lambda prompts: tokenizer(list(prompts))


def _visible_length(tower: nn.Module, tokens: Tensor) -> int:
    """Number of leading tokens that can affect the features of some prompt.

    In causal towers the end-of-text token does not attend to later tokens; transformers towers mask
    padding. Other towers attend to padding, or append a class token.
    """
    from open_clip.hf_model import HFTextEncoder  # noqa: PLC0415

    if isinstance(tower, HFTextEncoder):
        used = (tokens != tower.config.pad_token_id).any(dim=0)
    elif tower.attn_mask is not None and tower.cls_emb is None:
        used = torch.zeros(tokens.shape[1], dtype=torch.bool)
        if tower.pool_type == "argmax":
            used[: int(tokens.argmax(dim=-1).max()) + 1] = True
        elif tower.pool_type == "eos":
            used[: int((tokens == tower.eos_id).int().argmax(dim=-1).max()) + 1] = True
        else:
            used[:] = True
    else:
        return tokens.shape[1]
    return int(used.nonzero().max()) + 1


def _vocabulary_size(tower: nn.Module) -> int:
    """Number of token ids, before the embeddings are reduced."""
    embedding = getattr(tower, "token_embedding", None)
    if isinstance(embedding, nn.Embedding):
        return embedding.num_embeddings
    size: int = getattr(tower, "config").vocab_size  # noqa: B009  a transformers tower
    return size


def _without_padding(tokens: Tensor) -> Tensor:
    """Replace trailing padding (id 0) by -1."""
    tail = tokens.flip(1)
    is_tail = (tail == 0).cumprod(dim=1).bool().flip(1)
    return tokens.masked_fill(is_tail, -1)


def _cut_vocabulary(tower: nn.Module, tokens: Tensor) -> tuple[Tensor | None, Tensor]:
    """Reduce the token embeddings to used tokens; returns their ids [U] and renumbered tokens.

    The order of ids is kept, because CLIP finds the end of a text as its largest token.
    """
    from open_clip.transformer import TextTransformer  # noqa: PLC0415

    if not isinstance(tower, TextTransformer):  # some transformers towers derive positions from ids
        return None, tokens
    vocabulary = torch.unique(tokens)
    table = tower.token_embedding.weight.detach()[vocabulary]
    tower.token_embedding = nn.Embedding(len(table), table.shape[1], _weight=table)
    for name in ("pad_id", "eos_id"):
        position = (vocabulary == getattr(tower, name)).nonzero()
        setattr(tower, name, int(position) if len(position) else -1)
    return vocabulary, torch.searchsorted(vocabulary, tokens.contiguous())
