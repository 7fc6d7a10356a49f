"""A checkpoint at work: tokens, network and decisions behind one another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.checkpoint import Checkpoint, CheckpointError, checkpoint_digest
from classifiers.network import load_network
from classifiers.rows import slices
from classifiers.tokenizer import PromptTokenizer
from classifiers.torchscript import load_torchscript

Outputs = Mapping[str, NDArray[Any]]


class Network(Protocol):
    """Token ids to logits."""

    @property
    def vocabulary(self) -> int:
        """How many token ids it reads."""
        ...

    @property
    def max_positions(self) -> int:
        """How many tokens of a prompt it reads."""
        ...

    def classify(self, batches: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        """Logits [n_i, logits_size] for each of the `input_ids` [n_i, T_i], padded with -1 on the right."""
        ...


class Classification(ABC):
    """A checkpoint, ready to answer.

    One object for all steps: between processes each step costs a prompt more than its own work takes.
    """

    def __init__(
        self, checkpoint: Checkpoint, version: str, device: str = "cpu", precision: torch.dtype = torch.float32
    ) -> None:
        """`version` goes into the `checkpoint` output. A TorchScript network has a precision of its own.

        Raises CheckpointError: the checkpoint's files do not fit together.
        """
        self._checkpoint = checkpoint
        self._tokenizer = PromptTokenizer(checkpoint)
        self._network = _load(checkpoint, device, precision)
        # Checked once, here: an id without a row would fail a whole batch, and on a GPU all that come after.
        if self._tokenizer.vocabulary > self._network.vocabulary:
            raise CheckpointError(
                f"{checkpoint.tokenizer_file}: has {self._tokenizer.vocabulary} token ids, "
                f"and the network reads {self._network.vocabulary}"
            )
        if checkpoint.max_tokens > self._network.max_positions:
            raise CheckpointError(
                f"{checkpoint.config_file}: 'max_tokens' is {checkpoint.max_tokens}, "
                f"and the network reads {self._network.max_positions}"
            )
        self._name = f"{checkpoint.name}:{version}:{checkpoint_digest(checkpoint)}".encode()

    def answers(self, requests: Sequence[Sequence[bytes]], wanted: Sequence[Collection[str]]) -> list[Outputs]:
        """Each request's outputs, from one pass over all of them.

        `requests` are their prompts (n each), `wanted` the names of the outputs that each is to have: those of
        `_decide`, `tokens` int32 [n, 2] (read, in the prompt), and `checkpoint` bytes [n, 1].
        """
        input_ids, tokens = self._tokenizer.encode([prompt for request in requests for prompt in request])
        names = frozenset().union(*wanted)
        outputs = {"tokens": tokens, "checkpoint": np.full((len(tokens), 1), self._name, dtype=object)}
        if names - outputs.keys():
            (logits,) = self._network.classify([input_ids])
            outputs |= self._decide(logits, names)
        rows = slices(map(len, requests))
        return [{name: outputs[name][own] for name in each} for own, each in zip(rows, wanted, strict=True)]

    @abstractmethod
    def _decide(self, logits: NDArray[np.float32], wanted: Collection[str]) -> dict[str, NDArray[Any]]:
        """Outputs [N, ...] of the `logits` [N, logits_size]: the wanted ones, and others that come along."""


def label_bytes(labels: Sequence[str]) -> NDArray[np.object_]:
    """As Triton takes texts."""
    return np.array([label.encode() for label in labels], dtype=object)


def _load(checkpoint: Checkpoint, device: str, precision: torch.dtype) -> Network:
    if checkpoint.kind == "torchscript":
        return load_torchscript(checkpoint, device)
    return load_network(checkpoint, device, precision)
