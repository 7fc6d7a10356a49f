"""Our forward pass of BERT against the library's."""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

from classifiers.checkpoint import EMBEDDED, load_checkpoint
from classifiers.encoder import FusedBert, can_fuse
from classifiers.network import build_encoder

IDS = torch.tensor([[101, 4339, 1037, 18750, 102], [101, 2054, 102, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@torch.inference_mode()
def test_same_vectors_as_the_library() -> None:
    """The embedded encoder's vectors of every real token, with padding and without, are the library's."""
    bert = build_encoder(load_checkpoint(EMBEDDED)).eval()
    assert isinstance(bert, BertModel)
    fused = FusedBert(bert)
    theirs = bert(input_ids=IDS, attention_mask=MASK).last_hidden_state
    ours = fused(IDS, MASK).last_hidden_state
    torch.testing.assert_close(ours[MASK.bool()], theirs[MASK.bool()], atol=1e-5, rtol=0)
    torch.testing.assert_close(fused(IDS[:1], None).last_hidden_state, theirs[:1], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_trained_biases_and_norms_are_kept() -> None:
    """Another width, number of heads and layers, and no weight that is still 0 or 1 as it was drawn."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5000, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
        layer_norm_eps=1e-3,
    )  # fmt: skip
    bert = BertModel(config, add_pooling_layer=False).eval()
    for parameter in bert.parameters():
        parameter.copy_(torch.randn_like(parameter))
    ids = IDS % 5000
    theirs = bert(input_ids=ids, attention_mask=MASK).last_hidden_state
    ours = FusedBert(copy.deepcopy(bert))(ids, MASK).last_hidden_state
    torch.testing.assert_close(ours[MASK.bool()], theirs[MASK.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"is_decoder": True}])
def test_only_what_it_computes(change: dict[str, object]) -> None:
    """An encoder whose sums are others is left to the library."""
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    assert can_fuse(BertModel(BertConfig(**sizes)))
    assert not can_fuse(BertModel(BertConfig(**sizes, **change)))
    assert not can_fuse(torch.nn.Linear(2, 2))
