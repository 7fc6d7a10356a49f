"""Token ids to logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import DebertaV2Config, DebertaV2Model

from classifiers.network import load_network
from scripts.local.published import TARGET_SIZES, write_published_checkpoint
from tests.classifiers.loaded import Loaded, load

NEAR = 1e-4  # float32, sums in another order

WORDS = ("write", "Python", "loop", "capital", "of", "story", "1815", "why?", "summarize", "\n", "e-mail", "def f():")
prompts = st.lists(st.sampled_from(WORDS), max_size=40).map(lambda words: " ".join(words).encode())


def pad(ids: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    return np.pad(ids, ((0, 0), (0, width)), constant_values=-1)


@settings(deadline=None, max_examples=30)
@given(requests=st.lists(st.lists(prompts, min_size=1, max_size=3), min_size=1, max_size=4))
def test_neighbours_change_nothing(loaded: Loaded, requests: list[list[bytes]]) -> None:
    """A prompt's logits are the same alone, beside others in its request, and beside other requests."""
    together = loaded.network.classify([loaded.tokenizer.encode(request)[0] for request in requests])
    for request, logits in zip(requests, together, strict=True):
        assert logits.shape == (len(request), loaded.checkpoint.logits_size)
        assert logits.dtype == np.float32
        for prompt, row in zip(request, logits, strict=True):
            (alone,) = loaded.network.classify([loaded.tokenizer.encode([prompt])[0]])
            np.testing.assert_allclose(alone[0], row, rtol=NEAR, atol=NEAR)


def test_padding_changes_nothing(loaded: Loaded) -> None:
    """Padding beyond the longest row is dropped: the logits are equal to the bit."""
    ids, _ = loaded.tokenizer.encode([b"What is the capital of Australia?", b"Hi"])
    assert np.array_equal(loaded.network.classify([ids])[0], loaded.network.classify([pad(ids, 100)])[0])


def test_prompts_differ(loaded: Loaded) -> None:
    """Different prompts get different logits: the network reads what it is given."""
    ids, _ = loaded.tokenizer.encode([b"Write a story about a letter.", b"Classify each review: it broke."])
    (logits,) = loaded.network.classify([ids])
    assert np.abs(logits[0] - logits[1]).max() > 0.01


def test_nothing_to_classify(loaded: Loaded) -> None:
    """No requests give no answers, and a request without rows an answer without rows."""
    empty = np.empty((0, 0), dtype=np.int32)
    ids, _ = loaded.tokenizer.encode([b"Hi"])
    assert loaded.network.classify([]) == []
    assert loaded.network.classify([empty])[0].shape == (0, loaded.checkpoint.logits_size)
    assert [len(logits) for logits in loaded.network.classify([ids, empty, ids])] == [1, 0, 1]


def test_longest_prompt(loaded: Loaded) -> None:
    """A prompt as long as the network reads goes through."""
    ids, _ = loaded.tokenizer.encode([b"one two three " * 500])
    assert ids.shape == (1, loaded.checkpoint.max_tokens)
    assert np.isfinite(loaded.network.classify([ids])[0]).all()


def test_the_last_id_of_the_vocabulary_is_good(loaded: Loaded) -> None:
    """The first and the last row of the embedding can be asked for."""
    ids = np.array([[0, loaded.network.vocabulary - 1]], dtype=np.int32)
    assert np.isfinite(loaded.network.classify([ids])[0]).all()


def test_published_computation(published: Loaded) -> None:
    """The logits are those of the published class: DeBERTa, mean over the tokens, each head's own layer in order."""
    weights = load_file(published.checkpoint.weights_file)
    backbone = DebertaV2Model(deberta_v3(weights)).eval()
    backbone.load_state_dict(
        {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    )
    ids, _ = published.tokenizer.encode([b"Write a Python script that uses a for loop."])
    with torch.inference_mode():
        hidden = backbone(torch.from_numpy(ids).long()).last_hidden_state
        expected = torch.cat(
            [
                torch.nn.functional.linear(
                    hidden.mean(dim=1), weights[f"head_{number}.fc.weight"], weights[f"head_{number}.fc.bias"]
                )
                for number in range(len(TARGET_SIZES))
            ],
            dim=1,
        )
    np.testing.assert_allclose(published.network.classify([ids])[0], expected.numpy(), rtol=NEAR, atol=NEAR)


def deberta_v3(weights: dict[str, torch.Tensor]) -> DebertaV2Config:
    """DeBERTa-v3-base's config with the test checkpoint's sizes."""
    rows, hidden = weights["backbone.embeddings.word_embeddings.weight"].shape
    return DebertaV2Config(
        vocab_size=rows,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=128,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        layer_norm_eps=1e-7,
        type_vocab_size=0,
    )


def test_sorted_keys_give_the_same_logits(published: Loaded, tmp_path: Path) -> None:
    """A config that was written with sorted keys moves no head."""
    resaved = load(write_published_checkpoint(tmp_path, sorted_keys=True))
    ids, _ = published.tokenizer.encode([b"Give me five ideas for a birthday party."])
    assert np.array_equal(published.network.classify([ids])[0], resaved.network.classify([ids])[0])


def test_weights_are_copied(tmp_path: Path) -> None:
    """A weights file that is overwritten in place does not change a network that is serving."""
    served = load(write_published_checkpoint(tmp_path))
    ids, _ = served.tokenizer.encode([b"Hi, how are you today?"])
    (before,) = served.network.classify([ids])
    served.checkpoint.weights_file.write_bytes(bytes(served.checkpoint.weights_file.stat().st_size))
    assert np.array_equal(before, served.network.classify([ids])[0])


def test_more_than_one_part(loaded: Loaded) -> None:
    """Requests that are computed in several parts, their rows apart, each get their own logits in their own order."""
    prompts = [[b"long " * 300], [b"Hi"], [b"Hi", b"longer " * 200], [b"What is the capital of Australia?"]] * 4
    batches = [loaded.tokenizer.encode(request)[0] for request in prompts]
    for batch, logits in zip(batches, loaded.network.classify(batches), strict=True):
        np.testing.assert_allclose(logits, loaded.network.classify([batch])[0], rtol=NEAR, atol=NEAR)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_near(loaded: Loaded, precision: torch.dtype) -> None:
    """In half the bits the logits move by little: `scripts/check_agreement` says how little for real weights."""
    ids, _ = loaded.tokenizer.encode([b"Write a Python function that sorts a list.", b"Hi"])
    (exact,) = loaded.network.classify([ids])
    (reduced,) = load_network(loaded.checkpoint, dtype=precision).classify([ids])
    assert reduced.dtype == np.float32
    assert 0 < np.abs(reduced - exact).max() < 0.05 * np.abs(exact).max()


def test_only_inference(loaded: Loaded) -> None:
    """A loaded network is in evaluation mode, in float32, and learns nothing."""
    assert not loaded.network.training
    parameters = list(loaded.network.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in parameters)


@pytest.mark.slow
def test_full_size(tmp_path: Path) -> None:
    """A checkpoint of the published size loads and classifies through the same code."""
    full = load(write_published_checkpoint(tmp_path, tiny=False))
    assert full.checkpoint.weights_file.stat().st_size > 4 * (183_831_552 + 24_608)  # the published parameters
    ids, _ = full.tokenizer.encode([b"Hi, how are you today?"])
    (logits,) = load_network(full.checkpoint).classify([ids])
    assert logits.shape == (1, 32)
