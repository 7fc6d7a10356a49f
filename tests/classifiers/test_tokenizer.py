"""Bytes to token ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from classifiers.checkpoint import CheckpointError
from classifiers.tokenizer import PADDING_ID, PromptTokenizer
from tests.classifiers.loaded import Loaded


def test_ids_are_the_checkpoints_own(loaded: Loaded) -> None:
    """A prompt that fits gets the ids that transformers gives it with the same tokenizer.json."""
    reference = PreTrainedTokenizerFast(tokenizer_file=str(loaded.checkpoint.tokenizer_file))
    for text in ("Write a Python script that uses a for loop.", "Grüße, 世界! 🙂", " two  spaces\nand lines\n"):
        ids, tokens = loaded.tokenizer.encode([text.encode()])
        assert ids[0].tolist() == reference.encode(text, truncation=False)
        assert tokens.tolist() == [[ids.shape[1], ids.shape[1]]]


def test_rows_are_as_long_as_the_longest(loaded: Loaded) -> None:
    """Rows are padded with -1 to the longest of the call, and a row's ids are those it has alone."""
    prompts = [b"What is the capital of Australia?", b"", b"Hi"]
    ids, tokens = loaded.tokenizer.encode(prompts)
    assert ids.dtype == tokens.dtype == np.int32
    assert ids.shape == (3, tokens[:, 0].max())
    for row, prompt in zip(ids, prompts, strict=True):
        alone, _ = loaded.tokenizer.encode([prompt])
        assert row[row != PADDING_ID].tolist() == alone[0].tolist()
        assert (row[alone.shape[1] :] == PADDING_ID).all()


@pytest.mark.parametrize("most", [7, 8])
def test_long_prompts_are_cut_to_head_and_tail(loaded: Loaded, most: int) -> None:
    """Of a longer prompt the first and the last tokens are read, half and half, between the special tokens."""
    tokenizer = PromptTokenizer(replace(loaded.checkpoint, max_tokens=most))
    prompt = b"one two three four five six seven eight nine ten"
    whole, (_, counts) = loaded.tokenizer.encode([prompt, prompt])
    ids, tokens = tokenizer.encode([prompt])
    assert ids[0].tolist() == [*whole[0][: most - most // 2], *whole[0][-(most // 2) :]]
    assert tokens.tolist() == [[most, counts[1]]]


def test_nothing_is_cut_at_the_limit(loaded: Loaded) -> None:
    """A prompt of exactly as many tokens as are read keeps them all."""
    whole, tokens = loaded.tokenizer.encode([b"one two three four five"])
    same, _ = PromptTokenizer(replace(loaded.checkpoint, max_tokens=int(tokens[0, 1]))).encode(
        [b"one two three four five"]
    )
    assert whole.tolist() == same.tolist()


@settings(deadline=None, max_examples=100)
@given(prompts=st.lists(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)), max_size=5))
def test_any_bytes(loaded: Loaded, prompts: list[bytes]) -> None:
    """No bytes raise, and every row starts and ends with a special token and counts what it holds."""
    ids, tokens = loaded.tokenizer.encode(prompts)
    assert tokens.shape == (len(prompts), 2)
    assert ((ids != PADDING_ID).sum(axis=1) == tokens[:, 0]).all()
    assert (tokens[:, 0] == np.minimum(tokens[:, 1], loaded.checkpoint.max_tokens)).all()
    assert (tokens[:, 0] >= 2).all()
    assert ids.max(initial=0) < loaded.tokenizer.vocabulary <= loaded.network.vocabulary


@pytest.mark.parametrize("prompt", [bytes(1000), b"\xff\xfe" * 500, b"a" * 1_000_000, "é漢".encode() * 20_000])
def test_awkward_bytes(loaded: Loaded, prompt: bytes) -> None:
    """NULs, bytes that are no text, a megabyte without a space: read as any other prompt."""
    ids, tokens = loaded.tokenizer.encode([prompt])
    assert 2 <= tokens[0, 0] == ids.shape[1] <= loaded.checkpoint.max_tokens
    assert ids.max(initial=0) < loaded.tokenizer.vocabulary <= loaded.network.vocabulary


def test_unreadable_tokenizer(loaded: Loaded, tmp_path: Path) -> None:
    """A tokenizer.json that can't be read is named."""
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"/tokenizer\.json: not a tokenizer\.json"):
        PromptTokenizer(replace(loaded.checkpoint, tokenizer_file=path))
