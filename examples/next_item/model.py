"""A causal transformer over a user's items.

Legend: B sequences, L positions, D hidden units, I items, F numbers per item of a feature.
Kang and McAuley 2018, "Self-Attentive Sequential Recommendation", from the parts of torch.nn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.next_item.settings import Settings


class NextItemModel(nn.Module):
    """Turns items so far into a vector to compare with every item's.

    features: name → [I + 1, F] precomputed item features, row 0 for padding; they stay as they are,
    and a linear layer of each is added to the items' learned vectors.
    """

    def __init__(self, settings: Settings, num_items: int, features: Mapping[str, Tensor]) -> None:
        super().__init__()
        size = settings.hidden_units
        self.items = nn.Embedding(num_items + 1, size, padding_idx=0)
        self.positions = nn.Embedding(settings.maxlen, size)
        self.feature_sizes = {name: values.shape[1] for name, values in features.items()}
        self.features = nn.ModuleDict(
            {f"mm_{name}": ItemFeature(values, size) for name, values in features.items()}
        )
        self.dropout = nn.Dropout(settings.dropout_rate)
        block = nn.TransformerEncoderLayer(
            size,
            settings.num_heads,
            dim_feedforward=size,
            dropout=settings.dropout_rate,
            batch_first=True,
            norm_first=settings.norm_first,
        )
        self.blocks = nn.TransformerEncoder(
            block, settings.num_blocks, norm=nn.LayerNorm(size), enable_nested_tensor=False
        )
        self._initialise()

    def _initialise(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        with torch.no_grad():
            self.items.weight[0] = 0.0

    def item_vectors(self, rows: Tensor) -> Tensor:
        """Vectors of items, [..., D] for rows [...]."""
        vectors: Tensor = self.items(rows)
        for feature in self.features.values():
            vectors = vectors + feature(rows)
        return vectors

    def all_item_vectors(self) -> Tensor:
        """[I + 1, D]."""
        rows = torch.arange(self.items.num_embeddings, device=self.items.weight.device)
        return self.item_vectors(rows)

    def hidden_states(self, groups: Sequence[Tensor]) -> Tensor:
        """What is known after each item of groups [b, l], [P, D], without the padding."""
        return torch.cat([self(group)[group > 0] for group in groups])

    def forward(self, rows: Tensor) -> Tensor:
        """What is known after each item, [B, L, D], of sequences [B, L] with 0 behind their end."""
        length = rows.shape[1]
        places = self.positions.weight[:length]
        scale = math.sqrt(self.items.embedding_dim)
        inputs = self.dropout(self.item_vectors(rows) * scale + places)
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=rows.device)
        hidden: Tensor = self.blocks(inputs, mask=mask, is_causal=True)
        return hidden


class ItemFeature(nn.Module):
    """One precomputed feature of all items [I + 1, F], scaled to length 1, and its linear layer."""

    def __init__(self, values: Tensor, size: int) -> None:
        super().__init__()
        self.values: Tensor
        self.register_buffer("values", F.normalize(values, dim=-1))
        self.layer = nn.Linear(values.shape[1], size, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., D] for rows [...]."""
        vectors: Tensor = self.layer(self.values[rows])
        return vectors
