"""Prompts to the token ids that RouteLLM's `causal_llm` reads: the text around a prompt, and the five label tokens.

The format is Llama 3's, with a system's and a user's turn and no header for the answer, as in `routellm` 0.2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from classifiers.checkpoint import CheckpointError
from classifiers.routellm.folder import expect_files
from classifiers.routellm.transformer import load_tokenizer

LABELS = ("[[1]]", "[[2]]", "[[3]]", "[[4]]", "[[5]]")
SYSTEM_FILE, CLASSIFIER_FILE = "system_ft_v5.txt", "classifier_ft_v5.txt"

_HEADER, _END_OF_HEADER, _END_OF_TURN = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"


@dataclass(frozen=True)
class Template:
    """The text around a prompt. `head` and `tail` share its turn, whose outer white space is dropped."""

    before: str
    head: str
    tail: str

    def fill(self, prompt: str) -> str:
        return self.before + (self.head + prompt + self.tail).strip() + _END_OF_TURN


class CausalPrompts:
    """Encodes prompts with the text around them.

    Raises CheckpointError: the text alone is as long as what the network reads.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        room = max_tokens - len(tokenizer.encode(template.fill("")).ids)
        if room < 1:
            raise CheckpointError(
                f"{SYSTEM_FILE} and {CLASSIFIER_FILE} leave no room for a prompt in the {max_tokens} tokens that the "
                "network reads"
            )
        # What stays at the end of a prompt that is cut: half of the room, and the text behind it.
        self._kept_tail = room // 2 + len(tokenizer.encode(template.tail + _END_OF_TURN, add_special_tokens=False).ids)

    def encode(self, prompts: Sequence[bytes]) -> tuple[list[list[int]], NDArray[np.int32]]:
        """The token ids of each prompt, and [N, 2] tokens read and tokens there, with the text around the prompt.

        A prompt that is too long loses its middle; the text around it stays. Bytes that are not UTF-8 are read as
        U+FFFD.
        """
        texts = [self._template.fill(prompt.decode("utf-8", errors="replace")) for prompt in prompts]
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        rows = [self._cut(ids) for ids in encoded]
        counts = [(len(row), len(ids)) for row, ids in zip(rows, encoded, strict=True)]
        return rows, np.array(counts, dtype=np.int32).reshape(-1, 2)

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self._max_tokens:
            return ids
        return ids[: self._max_tokens - self._kept_tail] + ids[-self._kept_tail :]


def read_template(folder: Path) -> Template:
    """The template in the checkpoint's two text files.

    Raises CheckpointError: a file is missing, or has not just the field {question}.
    """
    system_file, classifier_file = folder / SYSTEM_FILE, folder / CLASSIFIER_FILE
    expect_files([system_file, classifier_file])
    system, classifier = (file.read_text(encoding="utf-8", errors="replace") for file in (system_file, classifier_file))
    try:
        fields = [field[1:] for field in Formatter().parse(classifier) if field[1] is not None]
    except ValueError as error:
        raise CheckpointError(f"{classifier_file}: {error}") from None
    if fields != [("question", "", None)]:
        raise CheckpointError(f"{classifier_file}: should have the field {{question}}, once, and no other")
    head, tail = classifier.format(question="\0").split("\0", 1)
    system_turn = f"{_HEADER}system{_END_OF_HEADER}\n\n{system.strip()}{_END_OF_TURN}" if system else ""
    return Template(f"{system_turn}{_HEADER}user{_END_OF_HEADER}\n\n", head, tail)


def load_label_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """The folder's tokenizer.json, with the labels, which get the last five of the network's ids.

    Raises CheckpointError: it is missing, unreadable or that of another model.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(
            f"{file} is missing, and the published checkpoint has none; name a folder with that of "
            "meta-llama/Meta-Llama-3-8B in ROUTELLM_CAUSAL_LLM_TOKENIZER"
        )
    tokenizer = load_tokenizer(file, vocabulary)
    tokenizer.add_special_tokens(list(LABELS))
    ids = [tokenizer.token_to_id(label) for label in LABELS]
    expected = list(range(vocabulary - len(LABELS), vocabulary))
    if ids != expected:
        raise CheckpointError(f"{file}: the labels get the ids {ids} behind its tokens, and should get {expected}")
    for token in (_HEADER, _END_OF_HEADER, _END_OF_TURN):
        if tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"{file}: should have the token {token}")
    return tokenizer
