"""open_clip text towers over a fixed list of prompts; `clip_towers` builds them.

Legend: M prompts, L tokens per prompt, U distinct tokens among them, F features.

Two reductions make a training step cheaper without changing its numbers: with causal or masked
attention, prompts are truncated to the longest real one; and the token embeddings are reduced to
the tokens that some prompt uses, because the others get no gradient.
"""

from __future__ import annotations

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from clip_pkg.models.families import TextTower


class ClipText(TextTower):
    """Rows [m] of the prompts → features [m, F] of an open_clip text tower.

    tower: open_clip's text module. tokens: [M, context length] int64, padded at the end.
    """

    tokens: Tensor

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


def _visible_length(tower: nn.Module, tokens: Tensor) -> int:
    """Number of leading tokens that can affect the features of some prompt.

    In causal towers the end-of-text token does not attend to later tokens; transformers towers mask
    padding. Other towers attend to padding, or append a class token.
    """
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
    if not isinstance(tower, TextTransformer):  # some transformers towers derive positions from ids
        return None, tokens
    vocabulary = torch.unique(tokens)
    table = tower.token_embedding.weight.detach()[vocabulary]
    tower.token_embedding = nn.Embedding(len(table), table.shape[1], _weight=table)
    for name in ("pad_id", "eos_id"):
        position = (vocabulary == getattr(tower, name)).nonzero()
        setattr(tower, name, int(position) if len(position) else -1)
    return vocabulary, torch.searchsorted(vocabulary, tokens.contiguous())
