"""Encoders as the transformers library computes them: for training, and for those that have no packed form here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from classifiers.checkpoint import CheckpointError, Encoder, check_encoder, one_line
from classifiers.encoder import fill
from classifiers.packing import Packed

_SIZES = ("vocab_size", "hidden_size", "max_position_embeddings")  # that a classifier is made by


class LibraryEncoder(nn.Module):
    """Any encoder of the library, called group by group."""

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


def load_library_encoder(encoder: Encoder) -> nn.Module:
    """The sentence encoder as its package has it.

    Raises CheckpointError: its weights are missing or another file than expected.
    """
    check_encoder(encoder)
    return load_module(encoder.folder, encoder.weights_file)


def load_module(folder: Path, weights_file: Path) -> nn.Module:
    """The encoder that `folder`'s config.json describes, without a pooler, filled from `weights_file`.

    Raises CheckpointError: the library knows no such encoder, or a tensor is missing or of the wrong shape.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Every value is filled in from the file below, so drawing random ones first would only cost seconds.
        with no_init_weights():
            module: nn.Module = _without_pooler(config)
    except Exception as error:  # the library raises of every kind for keys that it does not expect
        raise CheckpointError(
            f"{folder / 'config.json'}: transformers makes no encoder of it ({one_line(error)})"
        ) from None
    if missing := [size for size in _SIZES if not isinstance(getattr(module.config, size, None), int)]:
        raise CheckpointError(
            f"{folder / 'config.json'}: transformers makes no encoder of token ids alone of it (it has no {missing[0]})"
        )
    fill(module, weights_file)
    return module


def _without_pooler(config: Any) -> nn.Module:
    try:
        module: nn.Module = AutoModel.from_config(config, add_pooling_layer=False, trust_remote_code=False)
    except TypeError:  # an encoder that has none to leave out
        module = AutoModel.from_config(config, trust_remote_code=False)
    return module
