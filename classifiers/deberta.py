"""DeBERTa's forward pass over packed prompts, for inference.

The sums are those of He et al., DeBERTa (2021), section 3.1, and of `transformers.DebertaV2Model` as DeBERTa-v3
configures it. What differs is when they are done:

- How a token attends to another depends on the distance between them, through products with projected embeddings of
  relative positions. The projections depend on the weights alone, and are made once, at loading; the library makes them
  anew in each layer at each call. They are held by distance, not by bucket of distances, so that a prompt of T tokens
  needs 2 T - 1 rows of them, next to each other.
- Whose distance is i - j, is read out of such a product [T, 2 T - 1] by stepping through its memory diagonally, without
  gathering.
- The scale of the scores, 1 / sqrt(3 width), is part of the query's weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from classifiers.bert import join_heads, serving_linears, split_heads
from classifiers.encoder import EncoderConfig
from classifiers.linear import ServingLinear
from classifiers.packing import Group, Packed

_KINDS_OF_SCORE = 3  # content to content, content to position, position to content


class PackedDeberta(nn.Module):
    """DeBERTa-v3 without dropout. Embeddings and norms are those of the module that it is made of, linear layers
    copies."""

    def __init__(self, deberta: Any, dtype: torch.dtype = torch.float32) -> None:
        """`deberta`: a `HeldEncoder`, or a `transformers.DebertaV2Model`, which has the same names. `dtype`: the linear
        layers' precision. Their answers are of the type that the embeddings have."""
        super().__init__()
        self.config: EncoderConfig = deberta.config
        self.embeddings = deberta.embeddings
        positions = deberta.encoder.LayerNorm(deberta.encoder.rel_embeddings.weight)
        positions = positions[rows_by_distance(self.config)]
        heads = self.config.num_attention_heads
        self.layers = nn.ModuleList(_Layer(layer, positions, heads, dtype) for layer in deberta.encoder.layer)

    def forward(self, packed: Packed) -> Tensor:
        """The vectors [P, hidden] after the last layer, in the embeddings' type."""
        hidden: Tensor = self.embeddings.LayerNorm(self.embeddings.word_embeddings(packed.ids))
        for layer in self.layers:
            hidden = layer(hidden, packed.groups)
        return hidden


def rows_by_distance(config: EncoderConfig) -> Tensor:
    """The row of the relative embeddings for each distance from -(N - 1) to N - 1, N being the most tokens.

    Near distances, up to half the buckets, have one each; farther ones share them, logarithmically (the function
    make_log_bucket_position of the authors' code, github.com/microsoft/DeBERTa).
    """
    buckets, most = config.position_buckets, config.max_position_embeddings
    near = buckets // 2
    distances = torch.arange(1 - most, most)
    far = distances.abs().clamp(min=near) / near
    shared = near + torch.ceil(torch.log(far) / math.log((most - 1) / near) * (near - 1)).long()
    shared = shared.clamp(max=buckets - 1)  # the farthest distance's logarithm may be rounded up
    rows = torch.where(distances.abs() <= near, distances, shared * distances.sign())
    return (rows + buckets).clamp(0, 2 * buckets - 1)


class _Layer(nn.Module):
    # [heads, 2 N - 1, width] each, by distance: the keys from the largest to the smallest, the queries the other way.
    position_keys: Tensor
    position_queries: Tensor

    def __init__(self, layer: Any, positions: Tensor, heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        attention = layer.attention.self
        query, key, value = attention.query_proj, attention.key_proj, attention.value_proj
        scale = 1 / math.sqrt(_KINDS_OF_SCORE * query.out_features / heads)
        self.heads = heads
        self.mixed = ServingLinear(
            torch.cat([query.weight * scale, key.weight, value.weight]),
            torch.cat([query.bias * scale, key.bias, value.bias]),
            dtype,
        )
        self.joined, self.wide, self.narrow = serving_linears(layer, dtype)
        self.attention_norm, self.norm = layer.attention.output.LayerNorm, layer.output.LayerNorm
        keys, queries = key(positions), query(positions) * scale
        self.register_buffer("position_keys", _by_head(keys.flip(0), heads), persistent=False)
        self.register_buffer("position_queries", _by_head(queries, heads), persistent=False)

    def forward(self, hidden: Tensor, groups: tuple[Group, ...]) -> Tensor:
        mixed = self.mixed(hidden)
        context = torch.zeros_like(hidden)
        for group in groups:
            query, key, value = split_heads(mixed, group, self.heads)
            bias = self._position_scores(query, key)
            if group.mask is not None:
                bias = bias.masked_fill(~group.mask[:, None, None], -math.inf)
            join_heads(scaled_dot_product_attention(query, key, value, bias, scale=1.0), context, group)
        hidden = self.attention_norm(hidden + self.joined(context))
        result: Tensor = self.norm(hidden + self.narrow(self.wide(hidden)))
        return result

    def _position_scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Content to position plus position to content [prompts, heads, T, T], of a query in a row and a key in a
        column, for `query` and `key` [prompts, heads, T, width]."""
        tokens = query.shape[2]
        middle = self.position_keys.shape[1] // 2
        near = slice(middle - (tokens - 1), middle + tokens)
        by_query = query @ self.position_keys[:, near].transpose(1, 2)
        by_key = key @ self.position_queries[:, near].transpose(1, 2)
        # Row i of `by_query` has distance i - j in column T - 1 - i + j, row j of `by_key` in column T - 1 + i - j.
        return _diagonals(by_query) + _diagonals(by_key).transpose(2, 3)


def _by_head(vectors: Tensor, heads: int) -> Tensor:
    """[N, heads * width] as [heads, N, width]."""
    return vectors.detach().view(len(vectors), heads, -1).transpose(0, 1).contiguous()


def _diagonals(scores: Tensor) -> Tensor:
    """A view [prompts, heads, T, T] of `scores` [prompts, heads, T, 2 T - 1] whose row i begins at column T - 1 - i."""
    prompts, heads, tokens, distances = scores.shape
    strides = (heads * tokens * distances, tokens * distances, distances - 1, 1)
    return scores.as_strided((prompts, heads, tokens, tokens), strides, tokens - 1)
