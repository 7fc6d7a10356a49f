"""Our forward pass of BERT against the library's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from classifiers.bert import PackedBert, is_plain_bert
from classifiers.checkpoint import EMBEDDED, load_checkpoint
from classifiers.network import LibraryEncoder, build_encoder
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
    bert = build_encoder(load_checkpoint(EMBEDDED)).eval()
    assert isinstance(bert, BertModel)
    theirs = torch.stack([bert(torch.from_numpy(ids)[None].long()).last_hidden_state.mean(1)[0] for ids in PROMPTS])
    ours = PackedBert(bert)
    for parts in (list(pack(PROMPTS)), list(pack(PROMPTS, layout=ROUNDED)), [pad(PROMPTS)]):
        torch.testing.assert_close(means(ours, parts), theirs, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_trained_biases_and_norms_are_kept() -> None:
    """Every parameter of a layer has its part in the vectors."""
    bert = drawn_bert()
    ours, theirs = PackedBert(copy.deepcopy(bert)), LibraryEncoder(bert)
    torch.testing.assert_close(means(ours, list(pack(PROMPTS))), means(theirs, [pad(PROMPTS)]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"is_decoder": True}])
def test_only_what_it_computes(change: dict[str, object]) -> None:
    """An encoder whose sums are others is left to the library."""
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    assert is_plain_bert(BertModel(BertConfig(**sizes)))
    assert not is_plain_bert(BertModel(BertConfig(**sizes, **change)))
    assert not is_plain_bert(torch.nn.Linear(2, 2))
