"""Encoders as the transformers library computes them: for training, and for those that have no packed form here."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from classifiers.checkpoint import Encoder, check_encoder
from classifiers.encoder import fill
from classifiers.packing import Packed


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
    config = AutoConfig.from_pretrained(encoder.folder, local_files_only=True)
    # Every value is filled in from the file below, so drawing random ones first would only cost seconds.
    with no_init_weights():
        module: nn.Module = AutoModel.from_config(config, add_pooling_layer=False)
    fill(module, encoder.weights_file)
    return module
