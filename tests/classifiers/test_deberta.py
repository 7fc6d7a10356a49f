"""Our forward pass of DeBERTa against the library's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from classifiers.deberta import PackedDeberta, rows_by_distance
from classifiers.encoder import EncoderConfig
from classifiers.packing import EXACT, ROUNDED, Layout, pack
from tests.classifiers.test_bert import means

CONFIG = EncoderConfig(
    vocab_size=500, hidden_size=48, num_hidden_layers=3, num_attention_heads=2, intermediate_size=80,
    max_position_embeddings=512, layer_norm_eps=1e-7,
)  # fmt: skip


@pytest.fixture(scope="module")
def deberta() -> DebertaV2Model:
    """Two heads and three layers of DeBERTa-v3's kind, and no weight that is still 0 or 1 as it was drawn."""
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=500, hidden_size=48, num_hidden_layers=3, num_attention_heads=2, intermediate_size=80,
        max_position_embeddings=512, relative_attention=True, max_relative_positions=-1, position_buckets=256,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        layer_norm_eps=1e-7, type_vocab_size=0,
    )  # fmt: skip
    model = DebertaV2Model(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.6)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("layout", [EXACT, ROUNDED])
def test_same_vectors_as_the_library(deberta: DebertaV2Model, layout: Layout) -> None:
    """From one token to the most, past the distances that share a bucket, the vectors are the library's."""
    generator = np.random.default_rng(0)
    prompts = [generator.integers(1, 500, length, dtype=np.int32) for length in (1, 2, 9, 9, 127, 128, 129, 300, 512)]
    theirs = torch.stack([deberta(torch.from_numpy(ids)[None].long()).last_hidden_state.mean(1)[0] for ids in prompts])
    ours = means(PackedDeberta(deberta), list(pack(prompts, layout=layout)))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("buckets", "positions"), [(256, 512), (32, 512), (8, 64)])
def test_same_buckets_as_the_library(buckets: int, positions: int) -> None:
    """Each distance has the row that the library gives it."""
    config = replace(CONFIG, position_buckets=buckets, max_position_embeddings=positions)
    distances = torch.arange(1 - positions, positions)
    theirs = make_log_bucket_position(distances, buckets, positions).long() + buckets
    assert torch.equal(rows_by_distance(config), theirs.clamp(0, 2 * buckets - 1))


@torch.inference_mode()
def test_order_matters(deberta: DebertaV2Model) -> None:
    """The same tokens the other way round get other vectors: the positions are read."""
    ids = np.arange(1, 20, dtype=np.int32)
    forwards, backwards = means(PackedDeberta(deberta), list(pack([ids, ids[::-1].copy()])))
    assert (forwards - backwards).abs().max() > 0.01
