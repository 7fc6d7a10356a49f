"""Our forward pass of BERT against the library's."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, DistilBertConfig, PretrainedConfig

from classifiers.bert import PackedBert
from classifiers.checkpoint import EMBEDDED, CheckpointError, load_checkpoint
from classifiers.encoder import read_bert_config
from classifiers.library import LibraryEncoder, load_library_encoder
from classifiers.network import load_encoder
from classifiers.packing import ROUNDED, Packed, pack, pad, pool

PROMPTS = [
    np.array(ids, dtype=np.int32)
    for ids in ([101, 4339, 1037, 18750, 102], [101, 2054, 102], [101, 102], [101, 7592, 102], [101] * 40)
]


def drawn_bert() -> BertModel:
    """Another width, number of heads and layers, and no weight that is still 0 or 1 as it was drawn."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20_000, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
        layer_norm_eps=1e-3,
    )  # fmt: skip
    bert = BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    for parameter in bert.parameters():
        parameter.copy_(torch.randn_like(parameter))
    return bert


def means(encoder: torch.nn.Module, parts: list[Packed]) -> Tensor:
    """The mean vector of each prompt, in the prompts' order."""
    numbers = torch.tensor([number for part in parts for number in part.prompts])
    return torch.cat([pool(encoder(part), part.groups) for part in parts])[numbers.argsort()]


@torch.inference_mode()
def test_same_vectors_as_the_library() -> None:
    """The embedded encoder's vectors are the library's: packed, with lengths rounded up, and padded."""
    encoder = load_checkpoint(EMBEDDED).encoder
    assert encoder is not None
    bert = load_library_encoder(encoder).eval()
    assert isinstance(bert, BertModel)
    theirs = torch.stack([bert(torch.from_numpy(ids)[None].long()).last_hidden_state.mean(1)[0] for ids in PROMPTS])
    ours = PackedBert(load_encoder(encoder))
    for parts in (list(pack(PROMPTS)), list(pack(PROMPTS, layout=ROUNDED)), [pad(PROMPTS)]):
        torch.testing.assert_close(means(ours, parts), theirs, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_trained_biases_and_norms_are_kept() -> None:
    """Every parameter of a layer has its part in the vectors."""
    bert = drawn_bert()
    ours, theirs = PackedBert(copy.deepcopy(bert)), LibraryEncoder(bert)
    torch.testing.assert_close(means(ours, list(pack(PROMPTS))), means(theirs, [pad(PROMPTS)]), atol=1e-4, rtol=1e-4)


SIZES: dict[str, object] = {
    "vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8,
}  # fmt: skip


def write_config(folder: Path, config: PretrainedConfig, **change: object) -> Path:
    """As the library writes it, but for what is changed."""
    config.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SIZES, hidden_act="relu"),
        BertConfig(**SIZES, is_decoder=True),
        BertConfig(**SIZES, position_embedding_type="relative_key"),
        DistilBertConfig(),
    ],
)
def test_only_what_it_computes(tmp_path: Path, config: PretrainedConfig) -> None:
    """An encoder whose sums are others is left to the library."""
    plain = read_bert_config(write_config(tmp_path / "plain", BertConfig(**SIZES)))
    assert plain is not None
    assert {name: getattr(plain, name) for name in SIZES} == SIZES
    assert read_bert_config(write_config(tmp_path / "other", config)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": "8"}, "'hidden_size' should be int"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' should be above 0"),
        ({"num_attention_heads": 3}, "'hidden_size' should be"),
        ({"layer_norm_eps": None}, "'layer_norm_eps' should be"),
    ],
)
def test_wrong_sizes_are_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    """A config.json whose sizes cannot be is an error that says which."""
    with pytest.raises(CheckpointError, match=said):
        read_bert_config(write_config(tmp_path, BertConfig(**SIZES), **change))


def test_serving_leaves_the_library_alone() -> None:
    """Loading the embedded checkpoint imports none of the library's modules, which take 120 MB."""
    code = (
        "import sys; from classifiers.checkpoint import EMBEDDED, load_checkpoint; from classifiers.network import "
        "load_network; import classifiers.prompt, classifiers.sentence; load_network(load_checkpoint(EMBEDDED)); "
        "print('transformers' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
