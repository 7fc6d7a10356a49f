"""Checkpoints of one's own, TorchScript's too, as they are served."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer

from classifiers.checkpoint import EMBEDDED, CheckpointError, load_checkpoint
from classifiers.heads import HeadsClassification
from classifiers.network import load_network
from classifiers.tokenizer import PromptTokenizer
from classifiers.torchscript import load_torchscript
from tests.own_checkpoint import THREE, edit_config, write_own
from tests.traced import LABELS, blueprint_labels, classifier, trace, write_tokenizer, write_traced

REQUESTS = [[b"I lost my card"], [b"What is the rate for euros?", b"top up " * 60], [b""]]
PROMPTS = [
    "I lost my card",
    "hi",
    "What is the exchange rate for euros today, and when does it change?",
    "",
    "Top up failed! " * 30,
    "日本の首都はどこですか",
    "Why was I charged a fee?",
    "\x00 \n\t",
]


def test_outputs_of_each_head(tmp_path: Path) -> None:
    """Scores are softmax over logits divided by the head's temperature; the label is the likeliest."""
    checkpoint = load_checkpoint(write_own(tmp_path, THREE | {"urgent": ("no", "yes")}))
    wanted = ["intent_scores", "intent_label", "urgent_scores", "urgent_label", "tokens", "checkpoint"]
    answers = HeadsClassification(checkpoint, "4").answers(REQUESTS, [wanted, ["urgent_label"], ["tokens"]])
    assert [list(outputs) for outputs in answers] == [wanted, ["urgent_label"], ["tokens"]]
    ids, _ = PromptTokenizer(checkpoint).encode(REQUESTS[0])
    (logits,) = load_network(checkpoint).classify([ids])
    outputs = answers[0]
    for head in checkpoint.heads:
        powers = np.exp(logits[:, checkpoint.head_slices[head.name]].astype(np.float64) / 1.5)
        scores = outputs[f"{head.name}_scores"]
        np.testing.assert_allclose(scores, powers / powers.sum(), rtol=1e-5)
        assert scores.dtype == np.float32 and scores.shape == (1, head.size)
        assert outputs[f"{head.name}_label"][0, 0].decode() == head.labels[scores.argmax()]
    assert outputs["checkpoint"][0, 0].startswith(b"toy-intents:4:")
    assert answers[1]["urgent_label"].shape == (2, 1)


def test_not_of_ones_own() -> None:
    """What answers task and complexity is refused."""
    with pytest.raises(CheckpointError, match="answers task and complexity, which prompt_classifier serves"):
        HeadsClassification(load_checkpoint(EMBEDDED), "1")


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    """A network whose scores are not finite is refused when it is loaded."""
    file = write_own(tmp_path) / "model.safetensors"
    save_file(load_file(file) | {"heads.intent.bias": torch.tensor([0.0, float("nan"), 0.0])}, file)
    with pytest.raises(CheckpointError, match="intent_scores of 'ping' are not finite"):
        HeadsClassification(load_checkpoint(tmp_path), "1")


def test_own_files_that_do_not_fit(tmp_path: Path) -> None:
    """More tokens than the encoder has positions are refused when loading."""
    edit_config(write_own(tmp_path), max_tokens=129)
    with pytest.raises(CheckpointError, match="'max_tokens' is 129, and the network reads 128"):
        HeadsClassification(load_checkpoint(tmp_path), "1")


def _labels(folder: Path, prompts: list[str]) -> list[str]:
    requests = [[prompt.encode() for prompt in prompts]]
    (outputs,) = HeadsClassification(load_checkpoint(folder), "1").answers(requests, [["intent_label"]])
    return [label.decode() for label in outputs["intent_label"][:, 0]]


def test_traced_as_the_notebooks_do(tmp_path: Path) -> None:
    """A TorchScript network answers with the labels that it gives in the blueprint's pipeline, and without its padding;
    torch's word that such files are old stays with those who make them."""
    module = classifier()
    folder = write_traced(tmp_path, module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = load_torchscript(load_checkpoint(folder))
        given = _labels(folder, PROMPTS)
    assert network.bears_lengths and network.bears_batches
    assert given == blueprint_labels(module, write_tokenizer(tmp_path / "tokenizer"), PROMPTS, LABELS)
    assert len(set(given)) > 2


def test_long_prompts_lose_their_tail(tmp_path: Path) -> None:
    """A traced network that says so reads the tokens of a longer prompt that the library leaves, and others head and
    tail; nothing else can be said."""
    folder = write_traced(tmp_path, length=32)
    prompts = ["Where is my card? " * 20 + "What is the exchange rate?", "hi"]
    read = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    expected = [read(prompt, truncation=True, max_length=32)["input_ids"] for prompt in prompts]

    def given() -> list[list[int]]:
        ids, _ = PromptTokenizer(load_checkpoint(folder)).encode([prompt.encode() for prompt in prompts])
        return [row[row >= 0].tolist() for row in ids]

    assert given() != expected
    edit_config(folder, truncation="head")
    assert given() == expected
    edit_config(folder, truncation="tail")
    with pytest.raises(CheckpointError, match="'truncation' should be 'head', or left out, and is 'tail'"):
        load_checkpoint(folder)


class _OnGpu(nn.Module):
    """What a trace that was made on a GPU may hold: constants that lie there."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.zeros([input_ids.shape[0], 5], device=torch.device("cuda:0"))


class _Raises(nn.Module):
    """Its own code gives up."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        assert input_ids.shape[0] < 0, "rows"
        return torch.zeros([1, 5])


_GPU = "RuntimeError: Could not run .*; it was traced on a GPU, and holds on to it: trace it anew on a CPU"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("module", "message"), [(_OnGpu(), _GPU), (_Raises(), "RuntimeError: AssertionError: rows$")], ids=["gpu", "raises"]
)
def test_traces_that_do_not_run(tmp_path: Path, module: nn.Module, message: str) -> None:
    """The line names the cause, and what to do when that is a GPU that isn't here."""
    folder = write_traced(tmp_path, length=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such files are old
        torch.jit.script(module).save(str(folder / "model.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(CheckpointError, match=message) as caught:
        load_torchscript(load_checkpoint(folder))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


class _Fixed(nn.Module):
    """Bears nothing but the length, and the number of rows, that it was traced with."""

    def __init__(self, module: nn.Module, length: int, rows: int | None) -> None:
        super().__init__()
        self.module = module
        self.length, self.rows = length, rows

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        rows = input_ids.shape[0] if self.rows is None else self.rows
        logits: Tensor = self.module(input_ids.view(rows, self.length), attention_mask.view(rows, self.length))
        return logits


@pytest.mark.parametrize("rows", [None, 1], ids=["any batch", "one row"])
def test_traces_that_hold_on_to_their_form(tmp_path: Path, rows: int | None) -> None:
    """A trace that bears only its own length, or only single prompts, is given what it bears, and answers the same."""
    module = classifier()
    folder = write_traced(tmp_path, _Fixed(module, 32, rows), length=32)
    network = load_torchscript(load_checkpoint(folder))
    assert not network.bears_lengths and network.bears_batches == (rows is None)
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    short = [prompt for prompt in PROMPTS if len(prompt) < 70]
    assert _labels(folder, short) == blueprint_labels(module, tokenizer, short, LABELS)


class _As(nn.Module):
    """The network's answer in another form."""

    def __init__(self, module: nn.Module, form: str) -> None:
        super().__init__()
        self.module, self.form = module, form

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        logits = self.module(input_ids, attention_mask)
        return {"logits": logits} if self.form == "dict" else (logits, logits.sum())


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_forms_of_an_answer(tmp_path: Path, form: str) -> None:
    """Logits are found in a dict, as `strict=False` traces the library's answer, and as the first of several."""
    module = classifier()
    checkpoint = load_checkpoint(write_traced(tmp_path, module, length=32))
    trace(_As(module, form), tmp_path / "model.pt", 32, strict=False)
    ids, _ = PromptTokenizer(checkpoint).encode([b"I lost my card"])
    (logits,) = load_torchscript(checkpoint).classify([ids])
    tokens = torch.from_numpy(ids).long()
    np.testing.assert_allclose(logits, module(tokens, torch.ones_like(tokens)).detach(), atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"heads": [{"name": "intent", "labels": ["a", "b"], "temperature": 1}]},
            r"gives \[1, 5\] for 1 prompts, and should give \[1, 2\]",
        ),
        ({"max_tokens": 600}, r"does not run \(1 x 600 tokens on cpu\)"),
        ({"pad_id": None}, "'pad_id' should be int"),
        ({"heads": [{"name": name, "labels": ["a", "b"], "temperature": 1} for name in "xy"]}, "'heads' should be one"),
    ],
)
def test_traced_faults(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    """A TorchScript network that does not fit its config is refused, in one line, when it is loaded."""
    edit_config(write_traced(tmp_path, length=32), **keys)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_torchscript(load_checkpoint(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_torchscript(tmp_path: Path) -> None:
    """A file that is none, as a state dict is, is named; so is a tokenizer with more ids than the network has."""
    folder = write_traced(tmp_path, length=32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save(str(folder / "more.json"))
    checkpoint = load_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"model\.pt: does not run .*index"):
        load_torchscript(replace(checkpoint, tokenizer_file=folder / "more.json"))
    torch.save({"weight": torch.zeros(2)}, folder / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt: not a TorchScript file"):
        load_torchscript(checkpoint)
