"""Prompts, as bytes, to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from classifiers.checkpoint import CheckpointError

# Fills up the shorter rows, so that one tensor carries ids and mask; no vocabulary has it.
PADDING_ID = -1


class Tokenized(Protocol):
    """What a `Checkpoint` says of its tokens, and whoever else runs an encoder."""

    @property
    def tokenizer_file(self) -> Path: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def keeps_tail(self) -> bool: ...


class PromptTokenizer:
    """The tokenizer of a checkpoint.

    Raises CheckpointError: tokenizer.json can't be read.
    """

    def __init__(self, checkpoint: Tokenized) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_file))
        except Exception as error:  # the package raises nothing narrower
            raise CheckpointError(f"{checkpoint.tokenizer_file}: not a tokenizer.json ({error})") from None
        # The file's own settings would cut at the tail and pad to a fixed length.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special = self._tokenizer.encode("").ids
        if len(special) != 2:
            raise CheckpointError(f"{checkpoint.tokenizer_file}: should put one token before a text and one behind it")
        self._max_tokens = checkpoint.max_tokens
        self._keeps_tail = checkpoint.keeps_tail
        self.vocabulary = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, prompts: Sequence[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids of each prompt, and how much of it was read.

        Returns `input_ids` [N, T], T being the longest row of this call and shorter rows filled with PADDING_ID, and
        `tokens` [N, 2]: tokens read and tokens in the prompt, both with the two special tokens. A prompt of more than
        the checkpoint's `max_tokens` is cut to its head and its tail, since instructions often stand last; to its head,
        as the library's tokenizers do it, for a network that learnt so.

        Bytes that are not UTF-8 are read as U+FFFD: nothing raises.
        """
        texts = [prompt.decode("utf-8", errors="replace") for prompt in prompts]
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        rows = [self._cut(ids) for ids in encoded]
        input_ids = np.full((len(rows), max(map(len, rows), default=0)), PADDING_ID, dtype=np.int32)
        for number, row in enumerate(rows):
            input_ids[number, : len(row)] = row
        counts = [(len(row), len(ids)) for row, ids in zip(rows, encoded, strict=True)]
        return input_ids, np.array(counts, dtype=np.int32).reshape(-1, 2)

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self._max_tokens:
            return ids
        # Half and half; the first and the last are the special tokens. An odd one goes to the head.
        tail = self._max_tokens // 2 if self._keeps_tail else 1
        return ids[: self._max_tokens - tail] + ids[-tail:]
