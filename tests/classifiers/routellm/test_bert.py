"""`bert`, held against RouteLLM's own class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from classifiers.checkpoint import CheckpointError
from classifiers.routellm.bert import BertRouter, load_bert
from tests.classifiers.routellm.damage import Damage, cut, edit_json, remove, set_tensor
from tests.oracle import routellm
from tests.published_routellm import PROMPTS, write_bert

NEAR = 1e-5
BYTES = [prompt.encode() for prompt in PROMPTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def router(folder: Path) -> BertRouter:
    return load_bert(folder)


def test_parity(folder: Path, router: BertRouter) -> None:
    """A batch gives each prompt the win rate, and reads as many tokens of it, as RouteLLM does for it alone."""
    theirs = routellm.BERTRouter(str(folder))
    scores = router.score(BYTES)
    assert scores.strong_win_rate.dtype == np.float32 and scores.tokens.dtype == np.int32
    expected = [theirs.calculate_strong_win_rate(prompt) for prompt in PROMPTS]
    np.testing.assert_allclose(scores.strong_win_rate, expected, rtol=0, atol=NEAR)
    assert np.ptp(expected) > 0.1  # prompts differ, so that mixing them up would show
    for prompt, (read, whole) in zip(PROMPTS, scores.tokens, strict=True):
        assert read == len(theirs.tokenizer(prompt, truncation=True).input_ids)
        assert whole == len(theirs.tokenizer(prompt).input_ids)
    assert (scores.tokens[:, 0] <= 512).all()
    assert (scores.tokens[:, 0] < scores.tokens[:, 1]).sum() == 1


@settings(deadline=None, max_examples=20)
@given(chosen=st.lists(st.sampled_from(range(len(PROMPTS))), min_size=1, max_size=8))
def test_neighbours_change_nothing(router: BertRouter, chosen: list[int]) -> None:
    """A prompt's score is the same alone and beside any others."""
    together = router.score([BYTES[index] for index in chosen])
    for index, rate, tokens in zip(chosen, together.strong_win_rate, together.tokens, strict=True):
        alone = router.score([BYTES[index]])
        assert alone.strong_win_rate[0] == pytest.approx(rate, abs=NEAR)
        assert alone.tokens[0].tolist() == tokens.tolist()


def test_the_head_is_read(router: BertRouter) -> None:
    """What stands behind the tokens that the network reads changes nothing."""
    long = b"one two three " * 400
    assert router.score([long + b"x"]).strong_win_rate == router.score([long + b"y"]).strong_win_rate


def test_any_bytes(router: BertRouter) -> None:
    """Bytes that are not UTF-8 are read as U+FFFD; nothing raises. No prompts give no scores."""
    bad, good = router.score([b"caf\xe9 \xff\xfe", "caf\ufffd \ufffd\ufffd".encode()]).strong_win_rate
    assert bad == good
    nothing = router.score([])
    assert nothing.strong_win_rate.shape == (0,) and nothing.tokens.shape == (0, 2)


def test_name(folder: Path, router: BertRouter, tmp_path: Path) -> None:
    """The name tells checkpoints apart: equal files have equal ones, other weights another."""
    assert load_bert(folder).name == router.name
    assert router.name.startswith("bert:") and len(router.name) == len("bert:") + 12
    assert load_bert(write_bert(tmp_path, seed=1)).name != router.name


def test_weights_are_copied(tmp_path: Path) -> None:
    """Weights that are overwritten in place do not change a router that is serving."""
    router = load_bert(write_bert(tmp_path))
    before = router.score(BYTES[:5]).strong_win_rate
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert np.array_equal(before, router.score(BYTES[:5]).strong_win_rate)


def test_half_precision_is_widened(folder: Path, router: BertRouter, tmp_path: Path) -> None:
    """A checkpoint saved in a narrower type is computed in float32."""
    write_bert(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    found = load_bert(tmp_path).score(BYTES).strong_win_rate
    np.testing.assert_allclose(found, router.score(BYTES).strong_win_rate, atol=5e-3)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("config.json"), "config.json is missing; scripts/fetch_models"),
        (remove("tokenizer.json"), "tokenizer.json is missing; scripts/fetch_models"),
        (remove("tokenizer_config.json"), "tokenizer_config.json is missing; scripts/fetch_models"),
        (remove("model.safetensors"), "model.safetensors is missing; scripts/fetch_models"),
        (cut("config.json", 100), "config.json: not JSON"),
        (cut("tokenizer.json", 100), "tokenizer.json: not a tokenizer.json"),
        (cut("model.safetensors", 5), "model.safetensors: truncated, or no safetensors file"),
        (cut("model.safetensors", -4), "model.safetensors: truncated, or no safetensors file"),
        (edit_json("config.json", model_type="bert"), "'model_type' should be 'xlm-roberta', and is 'bert'"),
        (edit_json("config.json", id2label={"0": "a", "1": "b"}), "should have 3 labels, and has 2"),
        (edit_json("config.json", hidden_size="wide"), "config.json: .*hidden_size"),
        (edit_json("config.json", num_attention_heads=7), "config.json: describes no network"),
        (edit_json("config.json", hidden_size=128), "wrong shape: .*classifier.dense.weight is .64, 64. and should be"),
        (edit_json("config.json", num_hidden_layers=1), r"unexpected: roberta\.encoder\.layer\.1\."),
        (edit_json("config.json", vocab_size=10), "tokenizer.json: has token ids up to"),
        (edit_json("tokenizer_config.json", model_max_length="512"), "'model_max_length' should be a number"),
        (
            set_tensor("model.safetensors", "classifier.out_proj.bias", None),
            "model.safetensors: tensors missing: classifier.out_proj.bias",
        ),
        (
            set_tensor("model.safetensors", "classifier.out_proj.bias", torch.zeros(2)),
            r"wrong shape: classifier\.out_proj\.bias is \[2\] and should be \[3\]",
        ),
        (
            set_tensor("model.safetensors", "classifier.dense.bias", torch.full((64,), torch.nan)),
            "model.safetensors: tensor classifier.dense.bias holds values that are not finite",
        ),
    ],
)
def test_broken_checkpoints_are_refused(tmp_path: Path, damage: Damage, said: str) -> None:
    """A file that is missing, cut or wrong is refused at load, in one line that names it and what is wrong."""
    damage(write_bert(tmp_path))
    with pytest.raises(CheckpointError, match=said) as error:
        load_bert(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
