"""Prompts to sentence embeddings, by an encoder in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from classifiers.checkpoint import CheckpointError, Encoder
from classifiers.network import load_encoder, serving_encoder
from classifiers.packing import pack, pool
from classifiers.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class LocalEncoder:
    """Which encoder, how many tokens of a prompt it is given, the two special ones included, and how many of its layers
    are run, from the first: None for all."""

    encoder: Encoder
    max_tokens: int
    layers: int | None = None
    keeps_tail = True

    @property
    def tokenizer_file(self) -> Path:
        return self.encoder.tokenizer_file


class SentenceEncoder:
    """The mean of the token vectors, scaled to length 1 (Reimers and Gurevych, "Sentence-BERT", 2019).

    After all layers it is what a sentence encoder was trained to give, and tells what a text is about. An earlier
    layer keeps more of how it is put.
    """

    def __init__(self, local: LocalEncoder, device: str = "cpu") -> None:
        """In float32, on `device` ("cpu", "cuda:0").

        Raises CheckpointError: the encoder is missing or another file than expected, or has fewer layers or tokens.
        """
        encoder = load_encoder(local.encoder)
        config: Any = encoder.config
        if local.layers is not None:
            _keep_layers(encoder, local.layers, local.encoder.folder)
        if not 2 < local.max_tokens <= config.max_position_embeddings:
            raise CheckpointError(
                f"{local.encoder.folder} reads 3 to {config.max_position_embeddings} tokens, "
                f"and 'max_tokens' is {local.max_tokens}"
            )
        self.dimensions: int = config.hidden_size
        self._tokenizer = PromptTokenizer(local)
        self._network = serving_encoder(encoder, device, torch.float32)
        self._device = device
        self._positions: int = config.max_position_embeddings

    def embed(self, prompts: Sequence[bytes]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The embeddings [N, dimensions] of the prompts, and `tokens` [N, 2]: tokens read and tokens in the prompt.

        A prompt of more than `max_tokens` is read at its head and its tail.
        """
        rows, tokens = self._tokenizer.encode(prompts)
        vectors = np.empty((len(rows), self.dimensions), dtype=np.float32)
        with torch.inference_mode():
            for packed in pack([row[row >= 0] for row in rows], self._device, positions=self._positions):
                means = pool(self._network(packed), packed.groups)
                vectors[list(packed.prompts)] = normalize(means, dim=1).cpu().numpy()
        return vectors, tokens


def _keep_layers(encoder: Any, count: int, folder: Path) -> None:
    """Of an encoder built like BERT's."""
    layers = encoder.encoder.layer
    if not 1 <= count <= len(layers):
        raise CheckpointError(f"{folder} has {len(layers)} layers, and 'layers' is {count}")
    encoder.encoder.layer = layers[:count]
