"""A checkpoint of one's own, small enough for tests: a BERT of random weights, or any encoder of the library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel, BertConfig, PreTrainedConfig

from classifiers.checkpoint import EMBEDDED, load_checkpoint

THREE = {"intent": ("card lost", "exchange rate", "top up")}


def tiny_bert(**sizes: int) -> BertConfig:
    """With the embedded encoder's vocabulary, whose tokenizer it shares."""
    known = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(vocab_size=30522, max_position_embeddings=128, **(known | sizes))


def write_own(
    folder: Path,
    heads: Mapping[str, Sequence[str]] = THREE,
    config: PreTrainedConfig | None = None,
    name: str = "toy-intents",
    seed: int = 0,
) -> Path:
    """The folder, filled as scripts/train_classifier fills it, but for the card."""
    torch.manual_seed(seed)
    module = AutoModel.from_config(config or tiny_bert())
    width = module.config.hidden_size
    tensors = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("pooler.")}
    for head, labels in heads.items():
        tensors |= {
            f"heads.{head}.weight": torch.randn(len(labels), width),
            f"heads.{head}.bias": torch.zeros(len(labels)),
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    own = {
        "kind": "softmax",
        "name": name,
        "max_tokens": 64,
        "heads": [{"name": head, "labels": list(labels), "temperature": 1.5} for head, labels in heads.items()],
    }
    (folder / "config.json").write_text(json.dumps(module.config.to_dict() | own), encoding="utf-8")
    encoder = load_checkpoint(EMBEDDED).encoder
    assert encoder is not None
    shutil.copy(encoder.tokenizer_file, folder / "tokenizer.json")
    return folder


def edit_config(folder: Path, **keys: object) -> None:
    """Sets keys of its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | keys), encoding="utf-8")
