"""BERT's forward pass with nothing around the sums, for short prompts on a CPU.

A dozen tokens are so little work for a small encoder that a third of the library's own forward pass is calls around
it: the query, key and value of a layer as three products, masks built anew at each call, and hooks. The sums are those
of Devlin et al., BERT (2019), and of `transformers.BertModel`, whose weights it takes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from transformers import BertConfig, BertModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bert.modeling_bert import BertLayer


def can_fuse(encoder: nn.Module) -> bool:
    """Whether `FusedBert` computes what `encoder` does."""
    return isinstance(encoder, BertModel) and encoder.config.hidden_act == "gelu" and not encoder.config.is_decoder


class FusedBert(nn.Module):
    """A `BertModel` without pooler or dropout, for inference: it shares the model's weights, all of them but query, key
    and value, which it holds as one matrix for each layer."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.config: BertConfig = bert.config
        self.embeddings = bert.embeddings
        self.layers = nn.ModuleList(_Layer(layer, self.config.num_attention_heads) for layer in bert.encoder.layer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> BaseModelOutput:
        """`last_hidden_state` [N, T, hidden] float32 of ids and mask [N, T], both int64; without a mask all count."""
        parts = self.embeddings
        hidden = parts.word_embeddings(input_ids) + parts.position_embeddings.weight[: input_ids.shape[1]]
        hidden = parts.LayerNorm(hidden + parts.token_type_embeddings.weight[0])
        # One row for all heads and all queries.
        attended = None if attention_mask is None else attention_mask.bool()[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, attended)
        return BaseModelOutput(last_hidden_state=hidden)


class _Layer(nn.Module):
    def __init__(self, layer: BertLayer, heads: int) -> None:
        super().__init__()
        parts = (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
        self.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        self.heads = heads
        self.attention_output, self.attention_norm = layer.attention.output.dense, layer.attention.output.LayerNorm
        self.wide, self.narrow, self.norm = layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm

    def forward(self, hidden: Tensor, attended: Tensor | None) -> Tensor:
        rows, tokens, size = hidden.shape
        heads = linear(hidden, self.weight, self.bias).view(rows, tokens, 3, self.heads, size // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        context = scaled_dot_product_attention(query, key, value, attended)
        context = context.transpose(1, 2).reshape(rows, tokens, size)
        hidden = self.attention_norm(hidden + self.attention_output(context))
        result: Tensor = self.norm(hidden + self.narrow(gelu(self.wide(hidden))))
        return result
