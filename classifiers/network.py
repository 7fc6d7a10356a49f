"""The network of a checkpoint: an encoder, mean pooling, and linear heads side by side."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from classifiers import nvidia
from classifiers.bert import PackedBert
from classifiers.checkpoint import Checkpoint, CheckpointError, Encoder, adapted_layers, check_encoder, nvidia_sizes
from classifiers.deberta import PackedDeberta
from classifiers.encoder import EncoderConfig, HeldEncoder, fill, hold_bert, hold_deberta, read_bert_config
from classifiers.packing import Packed, pack, pool
from classifiers.rows import slices


class PromptClassifier(nn.Module):
    """Token ids to logits: the encoder's vectors, averaged over each prompt's tokens, through all heads at once."""

    def __init__(self, encoder: nn.Module, logits_size: int) -> None:
        """`encoder` gives vectors [P, hidden] of a `Packed`, and has transformers' config."""
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        self.vocabulary: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        # One layer with all heads' rows, in head order: the same sums as a layer for each head.
        self.heads = nn.Linear(config.hidden_size, logits_size)

    def forward(self, packed: Packed) -> Tensor:
        """Logits [prompts, logits_size] float32, in the order in which the prompts stand in `packed`.

        Pooling and heads are in float32 whatever precision the encoder runs in: the published class does so, and they
        cost nothing.
        """
        logits: Tensor = self.heads(pool(self.encoder(packed), packed.groups))
        return logits

    def classify(self, batches: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Logits [n_i, logits_size] float32 for each of the `input_ids` [n_i, T_i], padded with -1 on the right.

        Every row holds a token, and every id is one of the network's `vocabulary`.
        """
        rows = [row[row >= 0] for batch in batches for row in batch]
        logits = np.empty((len(rows), self.heads.out_features), dtype=np.float32)
        with torch.inference_mode():
            for packed in pack(rows, str(self.heads.weight.device), positions=self.max_positions):
                logits[list(packed.prompts)] = self(packed).cpu().numpy()
        return [logits[own] for own in slices(map(len, batches))]


def load_network(checkpoint: Checkpoint, device: str = "cpu", dtype: torch.dtype = torch.float32) -> PromptClassifier:
    """The checkpoint's network, ready to classify on `device` ("cpu", "cuda:0"), its linear layers in `dtype`.

    On a CPU the rest stays in float32; on a GPU, and of an encoder without a packed form, all is in `dtype`.

    Raises CheckpointError: a tensor is missing, unexpected or of the wrong shape, or the encoder is another file than
    the one that the adapters were trained for.
    """
    if checkpoint.is_own:
        encoder = _own_encoder(checkpoint)
    else:
        encoder = _nvidia_encoder(checkpoint) if checkpoint.kind == "nvidia" else _softmax_encoder(checkpoint)
    network = PromptClassifier(serving_encoder(encoder, device, dtype), checkpoint.logits_size)
    _fill_heads(network, checkpoint)
    network.heads.to(device)
    return network.requires_grad_(False).eval()


def serving_encoder(encoder: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """What `load_encoder` gives, on `device`, in its packed form if there is one."""
    encoder = encoder.requires_grad_(False).eval().to(device)
    packed: nn.Module
    if not isinstance(encoder, HeldEncoder):
        packed = library().LibraryEncoder(encoder.to(dtype))
    elif encoder.config.position_buckets:
        packed = PackedDeberta(encoder, dtype)
    else:
        packed = PackedBert(encoder, dtype)
    return packed if device == "cpu" else packed.to(dtype)


def load_encoder(encoder: Encoder) -> nn.Module:
    """The sentence encoder's weights, or, where it has no packed form here, the library's module.

    Raises CheckpointError: its weights are missing or another file than expected, or its config.json is wrong.
    """
    config = read_bert_config(encoder.folder)
    if config is None:
        module: nn.Module = library().load_library_encoder(encoder)
        return module
    check_encoder(encoder)
    held = hold_bert(config)
    fill(held, encoder.weights_file)
    return held


def library() -> ModuleType:
    """`classifiers.library`, imported only where it is needed: it takes 120 MB."""
    return import_module("classifiers.library")


def _nvidia_encoder(checkpoint: Checkpoint) -> nn.Module:
    sizes = nvidia_sizes(checkpoint)
    if sizes.positions < 4:  # two buckets of distances, on either side
        raise CheckpointError(f"{checkpoint.weights_file}: has {sizes.positions} relative positions, and needs 4")
    held = hold_deberta(_deberta(sizes))
    fill(held, checkpoint.weights_file, prefix="backbone.")
    return held


def _deberta(sizes: nvidia.Sizes) -> EncoderConfig:
    """microsoft/deberta-v3-base's config; the published config.json describes another network and is not asked."""
    return EncoderConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // nvidia.ATTENTION_HEAD_SIZE,
        intermediate_size=sizes.intermediate,
        max_position_embeddings=nvidia.MAX_TOKENS,
        layer_norm_eps=1e-7,
        position_buckets=sizes.positions // 2,
    )


def _own_encoder(checkpoint: Checkpoint) -> nn.Module:
    config = read_bert_config(checkpoint.folder)
    if config is None:
        module: nn.Module = library().load_module(checkpoint.folder, checkpoint.weights_file)
        return module
    held = hold_bert(config)
    fill(held, checkpoint.weights_file)
    return held


def _softmax_encoder(checkpoint: Checkpoint) -> nn.Module:
    assert checkpoint.encoder is not None  # the other kind holds its own
    encoder = load_encoder(checkpoint.encoder)
    _merge_adapters(encoder, checkpoint.weights_file)
    return encoder


def _merge_adapters(encoder: nn.Module, file: Path) -> None:
    weights = encoder.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    with safe_open(file, framework="pt") as tensors:
        for layer in adapted_layers(shapes):
            down = tensors.get_tensor(f"adapters.{layer}.down").float()
            up = tensors.get_tensor(f"adapters.{layer}.up").float()
            weights[f"{layer}.weight"] += up @ down


def _fill_heads(network: PromptClassifier, checkpoint: Checkpoint) -> None:
    if checkpoint.kind == "nvidia":
        weights, biases = zip(*nvidia.head_tensors(), strict=True)
    else:
        names = [f"heads.{head.name}" for head in checkpoint.heads]
        weights, biases = zip(*((f"{name}.weight", f"{name}.bias") for name in names), strict=True)
    with safe_open(checkpoint.weights_file, framework="pt") as tensors, torch.no_grad():
        weight = torch.cat([tensors.get_tensor(name) for name in weights])
        if weight.shape != network.heads.weight.shape:
            raise CheckpointError(
                f"{checkpoint.weights_file}: the heads read {weight.shape[1]} numbers, "
                f"and the encoder gives {network.heads.in_features}"
            )
        network.heads.weight.copy_(weight)
        network.heads.bias.copy_(torch.cat([tensors.get_tensor(name) for name in biases]))
