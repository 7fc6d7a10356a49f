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
from classifiers.bert import PackedBert, is_plain_bert
from classifiers.checkpoint import (
    Checkpoint,
    CheckpointError,
    Encoder,
    adapted_layers,
    check_encoder,
    nvidia_sizes,
    read_shapes,
)
from classifiers.deberta import PackedDeberta, is_deberta_v3
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


class LibraryEncoder(nn.Module):
    """Any encoder of the transformers library, called group by group: for training, and for those that have no packed
    form here."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.config = module.config

    def forward(self, packed: Packed) -> Tensor:
        """The vectors [P, hidden] after the last layer."""
        vectors = []
        for group in packed.groups:
            ids = packed.ids[group.places].view(group.prompts, group.length)
            mask = None if group.mask is None else group.mask.long()
            vectors.append(self.module(input_ids=ids, attention_mask=mask).last_hidden_state.flatten(0, 1))
        return torch.cat(vectors)


def load_network(checkpoint: Checkpoint, device: str = "cpu", dtype: torch.dtype = torch.float32) -> PromptClassifier:
    """The checkpoint's network, ready to classify on `device` ("cpu", "cuda:0"), its linear layers in `dtype`.

    On a CPU the rest stays in float32; on a GPU, and of an encoder without a packed form, all is in `dtype`.

    Raises CheckpointError: a tensor is missing, unexpected or of the wrong shape, or the encoder is another file than
    the one that the adapters were trained for.
    """
    encoder = _nvidia_encoder(checkpoint) if checkpoint.kind == "nvidia" else _softmax_encoder(checkpoint)
    network = PromptClassifier(serving_encoder(encoder, device, dtype), checkpoint.logits_size)
    _fill_heads(network, checkpoint)
    network.heads.to(device)
    return network.requires_grad_(False).eval()


def serving_encoder(encoder: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """The encoder on `device`, in its packed form if there is one."""
    encoder = encoder.requires_grad_(False).eval().to(device)
    packed: nn.Module
    if is_deberta_v3(encoder):
        packed = PackedDeberta(encoder, dtype)
    elif is_plain_bert(encoder):
        packed = PackedBert(encoder, dtype)
    else:
        packed = LibraryEncoder(encoder.to(dtype))
    return packed if device == "cpu" else packed.to(dtype)


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


def _nvidia_encoder(checkpoint: Checkpoint) -> nn.Module:
    # Every value is filled in from the file below, so drawing random ones first would only cost seconds.
    with no_init_weights():
        encoder: nn.Module = AutoModel.from_config(_deberta(nvidia_sizes(checkpoint)))
    _fill(encoder, checkpoint.weights_file, prefix="backbone.")
    return encoder


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


def _softmax_encoder(checkpoint: Checkpoint) -> nn.Module:
    encoder = build_encoder(checkpoint)
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


def _fill_heads(network: PromptClassifier, checkpoint: Checkpoint) -> None:
    if checkpoint.kind == "nvidia":
        weights, biases = zip(*nvidia.head_tensors(), strict=True)
    else:
        names = [f"heads.{head.name}" for head in checkpoint.heads]
        weights, biases = zip(*((f"{name}.weight", f"{name}.bias") for name in names), strict=True)
    with safe_open(checkpoint.weights_file, framework="pt") as tensors, torch.no_grad():
        network.heads.weight.copy_(torch.cat([tensors.get_tensor(name) for name in weights]))
        network.heads.bias.copy_(torch.cat([tensors.get_tensor(name) for name in biases]))
