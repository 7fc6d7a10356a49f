"""BERT's forward pass over packed prompts, for inference.

The sums are those of Devlin et al., BERT (2019), and of `transformers.BertModel`; `packing` says why the prompts are
packed. Query, key and value of a layer are one product instead of three.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from classifiers.encoder import EncoderConfig
from classifiers.linear import ServingLinear
from classifiers.packing import Group, Packed


class PackedBert(nn.Module):
    """BERT without pooler or dropout. Embeddings and norms are those of the module that it is made of, linear layers
    copies."""

    def __init__(self, bert: Any, dtype: torch.dtype = torch.float32) -> None:
        """`bert`: a `HeldEncoder`, or a `transformers.BertModel`, which has the same names. `dtype`: the linear layers'
        precision. Their answers are of the type that the embeddings have."""
        super().__init__()
        self.config: EncoderConfig = bert.config
        self.embeddings = bert.embeddings
        self.layers = nn.ModuleList(
            _Layer(layer, self.config.num_attention_heads, dtype) for layer in bert.encoder.layer
        )

    def forward(self, packed: Packed) -> Tensor:
        """The vectors [P, hidden] after the last layer, in the embeddings' type."""
        parts = self.embeddings
        hidden: Tensor = parts.word_embeddings(packed.ids) + parts.position_embeddings(packed.positions)
        hidden = parts.LayerNorm(hidden + parts.token_type_embeddings.weight[0])
        for layer in self.layers:
            hidden = layer(hidden, packed.groups)
        return hidden


class _Layer(nn.Module):
    def __init__(self, layer: Any, heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        parts = (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
        self.heads = heads
        self.mixed = ServingLinear(
            torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]), dtype
        )
        self.joined, self.wide, self.narrow = serving_linears(layer, dtype)
        self.attention_norm, self.norm = layer.attention.output.LayerNorm, layer.output.LayerNorm

    def forward(self, hidden: Tensor, groups: tuple[Group, ...]) -> Tensor:
        mixed = self.mixed(hidden)
        context = torch.zeros_like(hidden)
        for group in groups:
            query, key, value = split_heads(mixed, group, self.heads)
            # One row for all heads and all queries.
            attended = None if group.mask is None else group.mask[:, None, None]
            join_heads(scaled_dot_product_attention(query, key, value, attended), context, group)
        hidden = self.attention_norm(hidden + self.joined(context))
        result: Tensor = self.norm(hidden + self.narrow(self.wide(hidden)))
        return result


def serving_linears(layer: Any, dtype: torch.dtype) -> tuple[ServingLinear, ServingLinear, ServingLinear]:
    """What follows attention in a layer of BERT's kind: the output of attention, and the two of the feed-forward."""
    joined, wide, narrow = layer.attention.output.dense, layer.intermediate.dense, layer.output.dense
    return (
        ServingLinear(joined.weight, joined.bias, dtype),
        ServingLinear(wide.weight, wide.bias, dtype, then_gelu=True),
        ServingLinear(narrow.weight, narrow.bias, dtype),
    )


def split_heads(mixed: Tensor, group: Group, heads: int) -> Tensor:
    """A group's query, key and value [3, prompts, heads, length, width] out of `mixed` [P, 3 * heads * width]."""
    part = mixed[group.places]
    return part.view(group.prompts, group.length, 3, heads, part.shape[1] // (3 * heads)).permute(2, 0, 3, 1, 4)


def join_heads(attention: Tensor, context: Tensor, group: Group) -> None:
    """Writes a group's attention [prompts, heads, length, width] to its places in `context` [P, heads * width]."""
    places = context[group.places].view(group.prompts, group.length, attention.shape[1], attention.shape[3])
    places.copy_(attention.transpose(1, 2))
