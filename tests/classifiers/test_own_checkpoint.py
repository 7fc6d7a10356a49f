"""Checkpoints with heads and labels of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, DistilBertConfig, PreTrainedConfig

from classifiers.checkpoint import CheckpointError, load_checkpoint
from classifiers.network import load_network
from classifiers.prompt import PromptClassification
from classifiers.tokenizer import PromptTokenizer
from tests.own_checkpoint import THREE, edit_config, tiny_bert, write_own

_PROMPTS = [b"I lost my card", b"What is the rate for euros, and when does it change?", b"top up"]


@pytest.mark.parametrize(
    "config",
    [tiny_bert(), DistilBertConfig(vocab_size=30522, dim=32, n_layers=2, n_heads=2, hidden_dim=64)],
    ids=["bert", "distilbert"],
)
def test_library_equal(tmp_path: Path, config: PreTrainedConfig) -> None:
    """Logits are those of the library's encoder, averaged over the tokens, through each head."""
    folder = write_own(tmp_path, THREE | {"urgent": ("no", "yes")}, config)
    checkpoint = load_checkpoint(folder)
    ids, _ = PromptTokenizer(checkpoint).encode(_PROMPTS)
    (logits,) = load_network(checkpoint).classify([ids])
    assert checkpoint.head_slices == {"intent": slice(0, 3), "urgent": slice(3, 5)}

    module = AutoModel.from_pretrained(folder).eval()
    tensors = load_file(folder / "model.safetensors")
    for row, given in zip(ids, logits, strict=True):
        with torch.inference_mode():
            vectors = module(input_ids=torch.tensor(row[row >= 0][None])).last_hidden_state.mean(dim=1)
        expected = [vectors @ tensors[f"heads.{each}.weight"].T + tensors[f"heads.{each}.bias"] for each in THREE]
        np.testing.assert_allclose(given[:3], expected[0][0].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"heads": []}, "'heads' should be one or several"),
        ({"heads": ["intent"]}, "'heads' should hold objects"),
        ({"heads": [{"name": "in/tent", "labels": ["a", "b"], "temperature": 1}]}, "should be of a-z, 0-9 and _"),
        (
            {"heads": [{"name": "intent", "labels": ["a"], "temperature": 1}]},
            "two or more different labels, and there are 1",
        ),
        ({"heads": [{"name": "intent", "labels": ["a", "a"], "temperature": 1}]}, "'a' stands there twice"),
        ({"heads": [{"name": "intent", "labels": ["a", "b\nc"], "temperature": 1}]}, "label 2 is .*a text of one line"),
        ({"heads": [{"name": "intent", "labels": ["a", ""], "temperature": 1}]}, "label 2 is '', and should be"),
        ({"heads": [{"name": "intent", "labels": ["a", "b"], "temperature": 0}]}, "'temperature' should be above 0"),
        (
            {"heads": [{"name": "intent", "labels": ["a", "b"], "temperature": 1}]},
            r"is \[3, 32\], and should be \[2, 32\]",
        ),
        ({"heads": [{"name": "other", "labels": ["a", "b"], "temperature": 1}]}, "heads.other.weight is missing"),
        ({"max_tokens": 2}, "'max_tokens' should be 3 or more"),
        (
            {"heads": [{"name": "intent", "labels": ["a", "b"], "temperature": 10**400}]},
            "'temperature' should be above 0",
        ),
        ({"name": None}, "'name' should be str"),
        ({"name": ""}, "'name' should be a line of 1 to 128 characters"),
        ({"name": "a:b"}, "without ':', and is 'a:b'"),
        ({"name": "a\nb"}, "'name' should be a line"),
        ({"name": "a" * 129}, "of 1 to 128 characters"),
    ],
)
def test_faults(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    """A config that does not fit is refused in a line that names the key."""
    edit_config(write_own(tmp_path), **keys)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_deep_config(tmp_path: Path) -> None:
    """Brackets without end are no JSON."""
    (write_own(tmp_path) / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("heads.intent.weight", torch.tensor(1.0), r"heads\.intent\.weight is \[\], and should be"),
        ("heads.intent.bias", torch.ones(3, dtype=torch.int64), r"wrong type: heads\.intent\.bias is I64"),
        ("embeddings.LayerNorm.weight", torch.ones(32, dtype=torch.int32), "LayerNorm.weight is I32"),
    ],
)
def test_wrong_tensors(tmp_path: Path, name: str, tensor: torch.Tensor, message: str) -> None:
    """A tensor without dimensions, or of whole numbers, is named."""
    file = write_own(tmp_path) / "model.safetensors"
    save_file(load_file(file) | {name: tensor}, file)
    with pytest.raises(CheckpointError, match=message):
        load_network(load_checkpoint(tmp_path))


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "nobody-knows"},
        {"model_type": "t5", "classifier_dropout": 0.0, "max_position_embeddings": None},
        {"model_type": "distilbert", "n_layers": "two"},
        {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}},
    ],
    ids=lambda keys: keys["model_type"],
)
def test_no_encoder_of_the_library(tmp_path: Path, keys: dict[str, Any]) -> None:
    """A config that transformers makes no encoder of is refused in a line when the network is loaded, and no code that
    it names is asked for, or run."""
    (write_own(tmp_path) / "theirs.py").write_text("raise SystemExit")
    edit_config(tmp_path, **keys)
    with pytest.raises(CheckpointError, match="transformers makes no encoder of ") as caught:
        load_network(load_checkpoint(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_tensor(tmp_path: Path) -> None:
    """An encoder that lacks a tensor is refused when the network is loaded."""
    file = write_own(tmp_path) / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        load_network(load_checkpoint(tmp_path))


def test_heads_of_another_encoder(tmp_path: Path) -> None:
    """Heads that were trained on an encoder of another width are refused when the network is loaded."""
    file = write_own(tmp_path) / "model.safetensors"
    save_file(load_file(file) | {"heads.intent.weight": torch.zeros(3, 48)}, file)
    with pytest.raises(CheckpointError, match="the heads read 48 numbers, and the encoder gives 32"):
        load_network(load_checkpoint(tmp_path))


def test_not_task_and_complexity(tmp_path: Path) -> None:
    """The model that answers task and complexity refuses it, and says what serves it."""
    checkpoint = load_checkpoint(write_own(tmp_path))
    with pytest.raises(CheckpointError, match="answers intent, and this model task and complexity; scripts/add_policy"):
        PromptClassification(checkpoint, "1")


def test_opens_as_the_library_saves(tmp_path: Path) -> None:
    """The config stays one that transformers reads, our keys included."""
    write_own(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    assert AutoModel.from_pretrained(tmp_path).config.heads[0]["name"] == "intent"
