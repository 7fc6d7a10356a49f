"""A checkpoint with everything that is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from classifiers.checkpoint import Checkpoint, load_checkpoint
from classifiers.network import PromptClassifier, load_network
from classifiers.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class Loaded:
    checkpoint: Checkpoint
    tokenizer: PromptTokenizer
    network: PromptClassifier


def load(folder: Path) -> Loaded:
    checkpoint = load_checkpoint(folder)
    return Loaded(checkpoint, PromptTokenizer(checkpoint), load_network(checkpoint))
