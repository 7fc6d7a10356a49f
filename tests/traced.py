"""A network as the LLM Router blueprint's notebooks make it: a sequence classifier, traced at a fixed length."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from classifiers.checkpoint import EMBEDDED, load_checkpoint

LABELS = ("activate_my_card", "card_arrival", "exchange_rate", "top_up_failed", "other: see #7")
LENGTH = 512  # the notebooks' max_length


class LogitsOnly(nn.Module):
    """The library answers with an object, and the blueprint's config.pbtxt names one output, `logits`."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.classifier(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def classifier(labels: Sequence[str] = LABELS, seed: int = 0) -> LogitsOnly:
    """Random weights, large enough that prompts are told apart, with the embedded encoder's vocabulary."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=len(labels),
        initializer_range=0.6,
    )
    return LogitsOnly(BertForSequenceClassification(config)).eval()


def trace(module: nn.Module, file: Path, length: int = LENGTH, strict: bool = True) -> Path:
    """`torch.jit.trace` of one prompt of so many tokens, padding included."""
    ids = torch.zeros((1, length), dtype=torch.int64)
    ids[0, :3] = torch.tensor([101, 7592, 102])
    mask = (ids > 0).long()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the library's and torch's own
        traced: Any = torch.jit.trace(module, (ids, mask), strict=strict)  # type: ignore[no-untyped-call]
        traced.save(str(file))
    return file


def write_tokenizer(folder: Path) -> Path:
    """The embedded encoder's, as `save_pretrained` leaves one."""
    encoder = load_checkpoint(EMBEDDED).encoder
    assert encoder is not None
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(encoder.tokenizer_file, folder / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_traced(
    folder: Path, module: nn.Module | None = None, labels: Sequence[str] = LABELS, length: int = LENGTH
) -> Path:
    """A checkpoint of it, as scripts/add_policy makes one."""
    write_tokenizer(folder)
    trace(module or classifier(labels), folder / "model.pt", length)
    config = {
        "kind": "torchscript",
        "name": "traced-intents",
        "max_tokens": length,
        "pad_id": 0,
        "heads": [{"name": "intent", "labels": list(labels), "temperature": 1.0}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def blueprint_labels(module: nn.Module, tokenizer: Path, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The blueprint's three models one after the other, a prompt at a time as there: AutoTokenizer padded to 512,
    the network, and the index of the highest logit, which it gives one-hot."""
    read = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    found = []
    for prompt in prompts:
        encoded = read(prompt, max_length=LENGTH, padding="max_length", truncation=True, return_tensors="pt")
        with torch.inference_mode():
            logits = module(encoded["input_ids"], encoded["attention_mask"])
        one_hot = torch.nn.functional.one_hot(logits[0].argmax(), len(labels))
        found.append(labels[int(one_hot.argmax())])
    return found
