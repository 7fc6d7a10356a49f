"""Low-rank adapters on the encoder's linear layers: how they are trained, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import parametrize

from classifiers.checkpoint import Checkpoint, adapted_layers
from classifiers.library import LibraryEncoder, load_library_encoder
from classifiers.network import PromptClassifier


class LowRank(nn.Module):
    """A parametrization: the weight it stands on, plus up @ down. It starts as nothing, `up` being zeros."""

    def __init__(self, outputs: int, inputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def trainable_network(checkpoint: Checkpoint) -> PromptClassifier:
    """The checkpoint's encoder, frozen, with fresh adapters and fresh heads: only these two learn.

    Raises CheckpointError: the encoder is missing or another file than expected.
    """
    assert checkpoint.encoder is not None  # what is trained stands on one
    encoder = load_library_encoder(checkpoint.encoder).requires_grad_(False)
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    adapt(encoder, adapted_layers(shapes), checkpoint.adapter_rank)
    return PromptClassifier(LibraryEncoder(encoder), checkpoint.logits_size)


def adapt(encoder: nn.Module, layers: Iterable[str], rank: int) -> None:
    """Puts a fresh adapter on each of these linear layers."""
    for layer in layers:
        linear = encoder.get_submodule(layer)
        assert isinstance(linear, nn.Linear)
        outputs, inputs = linear.weight.shape
        parametrize.register_parametrization(linear, "weight", LowRank(outputs, inputs, rank))


def merge(encoder: nn.Module) -> None:
    """Makes each adapter a part of the weight that it stands on."""
    for module in list(encoder.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")


def save_adapters(network: PromptClassifier, checkpoint: Checkpoint, file: Path) -> None:
    """Writes what was trained: the adapters in float16 (half the size, no measurable loss), the heads in float32."""
    tensors: dict[str, Tensor] = {}
    for name, module in network.encoder.get_submodule("module").named_modules():
        if isinstance(module, LowRank):
            layer = name.removesuffix(".parametrizations.weight.0")
            tensors[f"adapters.{layer}.down"] = module.down.detach().half()
            tensors[f"adapters.{layer}.up"] = module.up.detach().half()
    for head in checkpoint.heads:
        rows = checkpoint.head_slices[head.name]
        tensors[f"heads.{head.name}.weight"] = network.heads.weight.detach()[rows].clone()
        tensors[f"heads.{head.name}.bias"] = network.heads.bias.detach()[rows].clone()
    # Not save_file: the file would be readable by its owner alone, and Triton often runs as another user.
    file.write_bytes(save(tensors))
