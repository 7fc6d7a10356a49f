"""An encoder's weights under the names that its file gives them, and the sizes that tell how many there are.

The modules made here only hold what a safetensors file is read into: the forward passes are in `bert` and `deberta`.
The library's own modules hold the same under the same names, but importing them takes a serving process 120 MB and
seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from classifiers.checkpoint import CheckpointError, Keys, read_config, read_shapes, require_floats, shorten


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder's sizes, by the names that transformers' configurations have for them."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    layer_norm_eps: float
    type_vocab_size: int = 0
    position_buckets: int = 0
    """DeBERTa's; 0 for BERT."""


class HeldEncoder(nn.ModuleDict):
    """The weights of one, without a forward pass."""

    config: EncoderConfig


def read_bert_config(folder: Path) -> EncoderConfig | None:
    """Of a config.json as transformers writes it; None for an encoder whose sums are not those of `bert`.

    Raises CheckpointError: the file is missing or no JSON, or a size is missing or none.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; run scripts/install to install the pinned package again")
    config = read_config(folder)
    if (
        config.get("model_type") != "bert"
        or config.get("hidden_act", "gelu") != "gelu"
        or config.get("position_embedding_type", "absolute") != "absolute"
        or config.get("is_decoder", False)
    ):
        return None
    keys = Keys(file, config)
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {name: keys.value(name, int) for name in (*names, "max_position_embeddings", "type_vocab_size")}
    wrong = [name for name, size in sizes.items() if size < 1]
    if wrong or sizes["hidden_size"] % sizes["num_attention_heads"]:
        what = f"'{wrong[0]}' should be above 0" if wrong else "'hidden_size' should be a multiple of the heads"
        raise CheckpointError(f"{keys.path}: {what}")
    return EncoderConfig(**sizes, layer_norm_eps=keys.positive("layer_norm_eps"))


def hold_bert(config: EncoderConfig) -> HeldEncoder:
    """By `transformers.BertModel`'s names, without a pooler. What the matrices hold is not set yet."""
    embeddings = {
        "word_embeddings": _embedding(config.vocab_size, config),
        "position_embeddings": _embedding(config.max_position_embeddings, config),
        "token_type_embeddings": _embedding(config.type_vocab_size, config),
        "LayerNorm": _norm(config),
    }
    return _hold(config, embeddings, ("query", "key", "value"), {})


def hold_deberta(config: EncoderConfig) -> HeldEncoder:
    """By `transformers.DebertaV2Model`'s names, as DeBERTa-v3 has them. What the matrices hold is not set yet."""
    embeddings = {"word_embeddings": _embedding(config.vocab_size, config), "LayerNorm": _norm(config)}
    positions = {"rel_embeddings": _embedding(2 * config.position_buckets, config), "LayerNorm": _norm(config)}
    return _hold(config, embeddings, ("query_proj", "key_proj", "value_proj"), positions)


def fill(module: nn.Module, file: Path, prefix: str = "") -> None:
    """Copies the file's tensors into the module's, one at a time: the weights are never in memory twice.

    They are copied, not mapped: a mapped file that is overwritten in place would change or kill a serving network.

    Raises CheckpointError: a tensor is missing, of the wrong shape, or of whole numbers.
    """
    found = read_shapes(file)
    expected = module.state_dict()
    wrong = [name for name, tensor in expected.items() if found.get(prefix + name) != tuple(tensor.shape)]
    if wrong:
        named = ", ".join(prefix + name for name in wrong)
        raise CheckpointError(f"{file}: tensors missing or of the wrong shape: {shorten(named)}")
    require_floats(file, {prefix + name for name, tensor in expected.items() if tensor.is_floating_point()})
    with safe_open(file, framework="pt") as tensors:
        for name, target in expected.items():
            target.copy_(tensors.get_tensor(prefix + name))


def _hold(
    config: EncoderConfig, embeddings: dict[str, nn.Module], projections: Sequence[str], positions: dict[str, nn.Module]
) -> HeldEncoder:
    layers = nn.ModuleList(_layer(config, projections) for _ in range(config.num_hidden_layers))
    encoder = {"layer": layers, **positions}
    held = HeldEncoder({"embeddings": nn.ModuleDict(embeddings), "encoder": nn.ModuleDict(encoder)})
    held.config = config
    return held


def _layer(config: EncoderConfig, projections: Sequence[str]) -> nn.Module:
    width, wide = config.hidden_size, config.intermediate_size
    attention = {
        "self": nn.ModuleDict({name: _Linear(width, width) for name in projections}),
        "output": nn.ModuleDict({"dense": _Linear(width, width), "LayerNorm": _norm(config)}),
    }
    return nn.ModuleDict(
        {
            "attention": nn.ModuleDict(attention),
            "intermediate": nn.ModuleDict({"dense": _Linear(width, wide)}),
            "output": nn.ModuleDict({"dense": _Linear(wide, width), "LayerNorm": _norm(config)}),
        }
    )


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Nothing: drawing numbers that the file replaces would cost seconds."""


def _embedding(rows: int, config: EncoderConfig) -> nn.Embedding:
    return nn.Embedding(rows, config.hidden_size, _weight=torch.empty(rows, config.hidden_size))


def _norm(config: EncoderConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
