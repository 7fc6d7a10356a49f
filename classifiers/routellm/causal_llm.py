"""RouteLLM's `causal_llm`: a Llama that was taught to answer a prompt with one of five label tokens.

[[1]] to [[5]] say how well the weak model would do; the win rate of the strong one is the probability of the first
three. The formula and the limit of six tokens are those of the package `routellm` 0.2.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from classifiers.routellm.causal_prompt import (
    CLASSIFIER_FILE,
    LABELS,
    SYSTEM_FILE,
    CausalPrompts,
    load_label_tokenizer,
    read_template,
)
from classifiers.routellm.folder import files_digest
from classifiers.routellm.router import Scores
from classifiers.routellm.transformer import load_network, pad, read_config, read_json

_STRONG_LABELS = 3
_MAX_NEW_TOKENS = 6

# Tokens, padding included, that go through the network at once: some 4 GB of activations for the published 8B. Without
# a bound, one long prompt among 64 would ask for more than a GPU has.
_TOKENS_AT_ONCE = 32_768


class CausalLLMRouter:
    """Scores with the label token that the network would answer with."""

    def __init__(
        self, digest: str, network: LlamaForCausalLM, prompts: CausalPrompts, end_tokens: frozenset[int]
    ) -> None:
        self.name = f"causal_llm:{digest}"
        self._network: Any = network
        self._prompts = prompts
        self._end_tokens = end_tokens
        self._first_label: int = network.config.vocab_size - len(LABELS)

    def score(self, prompts: Sequence[bytes]) -> Scores:
        """One forward pass; a further one for just those prompts whose answer does not begin with a label.

        A prompt without a label among its answer's first tokens goes to the strong model: its rate is 1. `tokens`
        counts the text around the prompt, too. A prompt that is too long loses its middle.
        """
        rows, tokens = self._prompts.encode(prompts)
        win_rate = np.ones(len(rows), dtype=np.float32)
        pending = list(range(len(rows)))
        for _ in range(_MAX_NEW_TOKENS):
            answers = zip(pending, *self._next_tokens([rows[index] for index in pending]), strict=True)
            pending = []
            for index, token, rate in answers:
                if token >= self._first_label:
                    win_rate[index] = rate
                elif token not in self._end_tokens:
                    rows[index] = [*rows[index], token]
                    pending.append(index)
        return Scores(win_rate, tokens)

    def _next_tokens(self, rows: Sequence[Sequence[int]]) -> tuple[list[int], list[float]]:
        """Each row's likeliest next token, and the win rate if that is a label.

        No cache of keys and values: after training the first token is a label, and a cache for all the others would
        cost every prompt its memory.
        """
        tokens, rates = [0] * len(rows), [0.0] * len(rows)
        device = self._network.device
        for group in _groups([len(row) for row in rows]):
            # Any id will do as padding, and no mask is needed: attention is causal, and nothing stands behind padding.
            ids = torch.from_numpy(pad([rows[index] for index in group], padding=0)).to(device)
            last = torch.tensor([len(rows[index]) - 1 for index in group], device=device)
            with torch.inference_mode():
                hidden = self._network.model(input_ids=ids, use_cache=False).last_hidden_state
                logits: Tensor = self._network.lm_head(hidden[torch.arange(len(group)), last]).float()
            labels = logits[:, self._first_label :].softmax(dim=1)
            likeliest, strong = logits.argmax(dim=1).tolist(), labels[:, :_STRONG_LABELS].sum(dim=1).tolist()
            for index, token, rate in zip(group, likeliest, strong, strict=True):
                tokens[index], rates[index] = token, rate
        return tokens, rates


def load_causal_llm(folder: Path, device: str = "cpu", tokenizer_folder: Path | None = None) -> CausalLLMRouter:
    """The router of a checkpoint folder as RouteLLM publishes it (config.json, generation_config.json, the shards of
    model.safetensors and their index, system_ft_v5.txt, classifier_ft_v5.txt), on `device` ("cpu", "cuda:0").

    The published folder has no tokenizer: `tokenizer_folder` has the tokenizer.json of the Llama that was trained,
    without the labels. The network runs in the checkpoint's own type on any device: bfloat16 as published, which is
    RouteLLM's choice, and half the memory of float32 (16 GB for 8 billion weights).

    Raises CheckpointError: a file is missing or wrong.
    """
    config: Any = read_config(folder, LlamaConfig)
    # The tokens that may have to be generated are read, too, all but the last.
    max_tokens = config.max_position_embeddings - (_MAX_NEW_TOKENS - 1)
    tokenizer = load_label_tokenizer(tokenizer_folder or folder, config.vocab_size)
    prompts = CausalPrompts(read_template(folder), tokenizer, max_tokens)
    network, files = load_network(folder, LlamaForCausalLM, config, config.dtype or torch.float32, device)
    digest = files_digest([folder / name for name in ("config.json", SYSTEM_FILE, CLASSIFIER_FILE)] + files)
    return CausalLLMRouter(digest, network, prompts, _end_tokens(folder, config))


def _end_tokens(folder: Path, config: Any) -> frozenset[int]:
    file = folder / "generation_config.json"
    tokens = read_json(file).get("eos_token_id") if file.is_file() else config.eos_token_id
    return frozenset([tokens] if isinstance(tokens, int) else tokens or ())


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The rows in groups that go through the network together, padded to the longest of the group.

    A group holds _TOKENS_AT_ONCE at most, and no row shorter than half of its longest: a long prompt does not make its
    short neighbours as expensive as itself.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        longest = lengths[order[0]]
        group = [index for index in order if 2 * lengths[index] >= longest][: max(1, _TOKENS_AT_ONCE // longest)]
        yield group
        order = order[len(group) :]
