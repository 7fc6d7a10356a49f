"""The network of a checkpoint: an encoder, mean pooling, and linear heads side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, DebertaV2Config
from transformers.initialization import no_init_weights

from classifiers import nvidia
from classifiers.checkpoint import (
    Checkpoint,
    CheckpointError,
    Encoder,
    adapted_layers,
    check_encoder,
    nvidia_sizes,
    read_shapes,
)
from classifiers.encoder import FusedBert, can_fuse

# Vectors are averaged over a prompt's tokens; a prompt without tokens would divide by 0.
_LEAST_TOKENS = 1e-9


class PromptClassifier(nn.Module):
    """Token ids to logits: the encoder's vectors, averaged over each prompt's tokens, through all heads at once."""

    def __init__(self, encoder: nn.Module, logits_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        self.vocabulary: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        # One layer with all heads' rows, in head order: the same sums as a layer for each head.
        self.heads = nn.Linear(config.hidden_size, logits_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Logits [N, logits_size] float32 of ids and mask [N, T], both int64; without a mask every id is read."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # Pooling and heads stay in float32 whatever precision the encoder runs in: the published class does so, and
        # they cost nothing.
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.heads(mean_pool(hidden.float(), attention_mask))
        return logits

    def classify(self, batches: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Logits [n_i, logits_size] float32 for each request's `input_ids` [n_i, T_i], padded with -1 on the right.

        All rows of all requests go through the network together, padded to the longest of them. Each batch should
        have passed `check_ids`: a bad id here fails all of them, and on a GPU all that come after.
        """
        counts = [len(batch) for batch in batches]
        if not sum(counts):
            return [np.empty((0, self.heads.out_features), dtype=np.float32) for _ in counts]
        stacked = _stack(batches)
        padded = bool((stacked < 0).any())  # asked here, where it needs no wait for a GPU
        ids = torch.from_numpy(stacked).to(self.heads.weight.device)
        with torch.inference_mode():
            logits = self(ids.clamp(min=0), (ids >= 0).long() if padded else None).cpu().numpy()
        return np.split(logits, np.cumsum(counts)[:-1])

    def check_ids(self, input_ids: NDArray[np.int32]) -> None:
        """Raises ValueError unless `input_ids` is what `classify` takes: [n, T] ids of the vocabulary, then -1."""
        if input_ids.ndim != 2 or not np.issubdtype(input_ids.dtype, np.integer):
            raise ValueError(
                f"input_ids should be integers [rows, tokens], and are {input_ids.dtype} {input_ids.shape}"
            )
        if input_ids.size and (input_ids.min() < -1 or input_ids.max() >= self.vocabulary):
            raise ValueError(f"input_ids should lie between -1 and {self.vocabulary - 1}")
        real = input_ids >= 0
        if not real.any(axis=1).all():
            raise ValueError("input_ids has a row without a token")
        if (real[:, 1:] & ~real[:, :-1]).any():
            raise ValueError("input_ids has padding (-1) before a token; it should only follow the last one")
        if real.sum(axis=1).max(initial=0) > self.max_positions:
            raise ValueError(f"input_ids has a row of more than {self.max_positions} tokens")


def load_network(checkpoint: Checkpoint, device: str = "cpu") -> PromptClassifier:
    """The checkpoint's network in float32, ready to classify on `device` ("cpu", "cuda:0").

    Raises CheckpointError: a tensor is missing, unexpected or of the wrong shape, or the encoder is another file than
    the one that the adapters were trained for.
    """
    network = _nvidia_network(checkpoint) if checkpoint.kind == "nvidia" else _softmax_network(checkpoint)
    return network.requires_grad_(False).eval().to(device)


def build_encoder(checkpoint: Checkpoint) -> nn.Module:
    """The sentence encoder under a softmax checkpoint, as its package has it, without the adapters.

    Raises CheckpointError: the encoder's weights are missing or another file than expected.
    """
    if checkpoint.encoder is None:
        raise ValueError(f"a checkpoint of kind '{checkpoint.kind}' holds its own encoder")
    return load_encoder(checkpoint.encoder)


def load_encoder(encoder: Encoder) -> nn.Module:
    """The sentence encoder as its package has it.

    Raises CheckpointError: its weights are missing or another file than expected.
    """
    check_encoder(encoder)
    config = AutoConfig.from_pretrained(encoder.folder, local_files_only=True)
    with no_init_weights():
        module: nn.Module = AutoModel.from_config(config, add_pooling_layer=False)
    _fill(module, encoder.weights_file, prefix="")
    return module


def _nvidia_network(checkpoint: Checkpoint) -> PromptClassifier:
    # Every value is filled in from the file below, so drawing random ones first would only cost seconds.
    with no_init_weights():
        network = PromptClassifier(AutoModel.from_config(_deberta(nvidia_sizes(checkpoint))), checkpoint.logits_size)
    _fill(network.encoder, checkpoint.weights_file, prefix="backbone.")
    weights, biases = zip(*nvidia.head_tensors(), strict=True)
    _fill_heads(network, checkpoint.weights_file, weights, biases)
    return network


def _deberta(sizes: nvidia.Sizes) -> DebertaV2Config:
    """microsoft/deberta-v3-base's config; the published config.json describes another network and is not asked."""
    return DebertaV2Config(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // nvidia.ATTENTION_HEAD_SIZE,
        intermediate_size=sizes.intermediate,
        max_position_embeddings=nvidia.MAX_TOKENS,
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=sizes.positions // 2,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        layer_norm_eps=1e-7,
        type_vocab_size=0,
        pad_token_id=0,
        hidden_act="gelu",
    )


def _softmax_network(checkpoint: Checkpoint) -> PromptClassifier:
    encoder = build_encoder(checkpoint)
    _merge_adapters(encoder, checkpoint.weights_file)
    network = PromptClassifier(FusedBert(encoder) if can_fuse(encoder) else encoder, checkpoint.logits_size)
    names = [f"heads.{head.name}" for head in checkpoint.heads]
    _fill_heads(
        network,
        checkpoint.weights_file,
        [f"{name}.weight" for name in names],
        [f"{name}.bias" for name in names],
    )
    return network


def _merge_adapters(encoder: nn.Module, file: Path) -> None:
    weights = encoder.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    with safe_open(file, framework="pt") as tensors:
        for layer in adapted_layers(shapes):
            down = tensors.get_tensor(f"adapters.{layer}.down").float()
            up = tensors.get_tensor(f"adapters.{layer}.up").float()
            weights[f"{layer}.weight"] += up @ down


def _fill(module: nn.Module, file: Path, prefix: str) -> None:
    """Copies the file's tensors into the module's, one at a time: the weights are never in memory twice.

    They are copied, not mapped: a mapped file that is overwritten in place would change or kill a serving network.
    """
    found = read_shapes(file)
    targets = module.state_dict()
    wrong = [name for name, target in targets.items() if found.get(prefix + name) != tuple(target.shape)]
    if wrong:
        raise CheckpointError(f"{file}: tensors missing or of the wrong shape: {', '.join(prefix + n for n in wrong)}")
    with safe_open(file, framework="pt") as tensors:
        for name, target in targets.items():
            target.copy_(tensors.get_tensor(prefix + name))


def _fill_heads(network: PromptClassifier, file: Path, weights: Sequence[str], biases: Sequence[str]) -> None:
    with safe_open(file, framework="pt") as tensors, torch.no_grad():
        network.heads.weight.copy_(torch.cat([tensors.get_tensor(name) for name in weights]))
        network.heads.bias.copy_(torch.cat([tensors.get_tensor(name) for name in biases]))


def mean_pool(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The mean [N, hidden] of the vectors [N, T, hidden] where the mask [N, T] is 1; without a mask, of all."""
    if mask is None:
        return hidden.mean(dim=1)
    mask = mask.float()
    total = (hidden * mask.unsqueeze(-1)).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=_LEAST_TOKENS)


def _stack(batches: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """All rows, padded with -1 to the longest row that has a token there; int64, as embeddings take it."""
    longest = max(int((batch >= 0).sum(axis=1).max(initial=0)) for batch in batches)
    ids = np.full((sum(map(len, batches)), longest), -1, dtype=np.int64)
    start = 0
    for batch in batches:
        ids[start : start + len(batch), : min(batch.shape[1], longest)] = batch[:, :longest]
        start += len(batch)
    return ids
