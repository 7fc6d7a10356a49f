"""RouteLLM's `bert`: XLM-RoBERTa with three labels over the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

from classifiers.checkpoint import CheckpointError
from classifiers.routellm.folder import files_digest
from classifiers.routellm.router import Scores
from classifiers.routellm.transformer import load_network, load_tokenizer, pad, read_config, read_json

# The strong model wins, a tie, the weak model wins (Ong et al. 2024, section 4.2).
_LABELS = 3
_STRONG_WINS = 0


class BertRouter:
    """A prompt's win rate is the probability of the label "the strong model wins"."""

    def __init__(self, digest: str, network: nn.Module, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.name = f"bert:{digest}"
        self._network = network
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        config: Any = network.config
        self._padding: int = config.pad_token_id
        self._device = next(network.parameters()).device

    def score(self, prompts: Sequence[bytes]) -> Scores:
        """One forward pass, padded to the longest prompt. Of a prompt that is too long the head is read, as in
        RouteLLM; `tokens` counts the two special tokens."""
        texts = [prompt.decode("utf-8", errors="replace") for prompt in prompts]
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        rows = [self._cut(ids) for ids in encoded]
        counts = [(len(row), len(ids)) for row, ids in zip(rows, encoded, strict=True)]
        tokens = np.array(counts, dtype=np.int32).reshape(-1, 2)
        if not rows:
            return Scores(np.empty(0, dtype=np.float32), tokens)
        input_ids = torch.from_numpy(pad(rows, self._padding)).to(self._device)
        # From the lengths, not from the ids: a prompt may spell the padding token out.
        lengths = torch.from_numpy(tokens[:, :1]).to(self._device)
        mask = torch.arange(input_ids.shape[1], device=self._device) < lengths
        with torch.inference_mode():
            logits = self._network(input_ids=input_ids, attention_mask=mask.long()).logits
            win_rate = logits.softmax(dim=1)[:, _STRONG_WINS].cpu().numpy()
        return Scores(win_rate, tokens)

    def _cut(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self._max_tokens else ids[: self._max_tokens - 1] + ids[-1:]


def load_bert(folder: Path, device: str = "cpu") -> BertRouter:
    """The router of a checkpoint folder as RouteLLM publishes it (config.json, model.safetensors, tokenizer.json,
    tokenizer_config.json), on `device` ("cpu", "cuda:0"). In float32, as published: it is small.

    Raises CheckpointError: a file is missing or wrong.
    """
    config: Any = read_config(folder, XLMRobertaConfig)
    if config.num_labels != _LABELS:
        raise CheckpointError(f"{folder / 'config.json'}: should have {_LABELS} labels, and has {config.num_labels}")
    tokenizer = load_tokenizer(folder / "tokenizer.json", config.vocab_size)
    if len(tokenizer.encode("").ids) != 2:
        raise CheckpointError(f"{folder / 'tokenizer.json'}: should put one token before a text and one behind it")
    network, files = load_network(folder, XLMRobertaForSequenceClassification, config, torch.float32, device)
    digest = files_digest([folder / "config.json", *files])
    return BertRouter(digest, network, tokenizer, _max_tokens(folder, config))


def _max_tokens(folder: Path, config: Any) -> int:
    # RoBERTa's positions start behind the padding token's id.
    positions: int = config.max_position_embeddings - config.pad_token_id - 1
    file = folder / "tokenizer_config.json"
    length = read_json(file).get("model_max_length", positions)
    if not isinstance(length, int | float) or length < 3:
        raise CheckpointError(f"{file}: 'model_max_length' should be a number of tokens, and is {length!r}")
    return int(min(positions, length))
