"""The encoder under a classifier of your own: a folder as transformers writes it, tried before it is trained."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils import logging

from classifiers.checkpoint import EMBEDDED, CheckpointError, load_checkpoint, one_line
from classifiers.tokenizer import PromptTokenizer

USUAL_TOKENS = 256
"""What a classifier reads of a text unless it is told otherwise, or its encoder reads less."""

_WEIGHTS = ("*.safetensors", "*.bin")
_TRIED = "one two three"


@dataclass(frozen=True)
class Encoder:
    """`module`: the library's, without a pooler, in float32, ready to answer; `max_tokens`: what will be read of a
    text."""

    folder: Path
    module: nn.Module
    max_tokens: int

    keeps_tail = True

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / "tokenizer.json"


def embedded_encoder() -> Path:
    """The folder of the encoder that comes as a Python package. Raises CheckpointError: it is not installed."""
    encoder = load_checkpoint(EMBEDDED).encoder
    assert encoder is not None
    return encoder.folder


def load_encoder(folder: Path, max_tokens: int | None) -> Encoder:
    """Raises CheckpointError: a file is missing, transformers makes no encoder of the folder, its tokenizer is of
    another kind, or it reads fewer tokens."""
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; transformers' save_pretrained writes it")
    module = _load_module(folder)
    positions = readable_tokens(module)
    if positions is None:
        raise CheckpointError(f"{folder / 'config.json'}: does not say how many tokens it reads")
    if max_tokens is not None and max_tokens > positions:
        raise CheckpointError(f"{folder} reads {positions} tokens, and --max-tokens is {max_tokens}")
    encoder = Encoder(folder, module, max_tokens or min(USUAL_TOKENS, positions))
    _try_out(encoder)
    return encoder


def readable_tokens(module: Any) -> int | None:
    """How many tokens of a text it has positions for.

    RoBERTa and its kin number them from behind the padding token's, so that their first ones are never used.
    """
    positions = getattr(module.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    embedding = getattr(getattr(module, "embeddings", None), "position_embeddings", None)
    unused = getattr(embedding, "padding_idx", None)
    return positions if unused is None else positions - unused - 1


def folder_digest(folder: Path) -> str:
    """The SHA-256 of what an encoder is made from: config, tokenizer and weights."""
    names = {"config.json", "tokenizer.json"} | {path.name for kind in _WEIGHTS for path in folder.glob(kind)}
    digest = hashlib.sha256()
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load_module(folder: Path) -> nn.Module:
    logging.set_verbosity_error()  # a table of the tensors that are not wanted
    logging.disable_progress_bar()
    given = {
        "local_files_only": True,
        "trust_remote_code": False,
        "output_loading_info": True,
        "dtype": torch.float32,
    }
    try:
        try:
            module, found = AutoModel.from_pretrained(folder, add_pooling_layer=False, **given)
        except TypeError:  # an encoder that has none to leave out
            module, found = AutoModel.from_pretrained(folder, **given)
    except Exception as error:  # the library raises of every kind for broken folders
        raise CheckpointError(f"{folder}: transformers makes no encoder of it ({one_line(error)})") from None
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"{folder}: the weights lack {len(missing)} tensors of the encoder, such as {missing[0]}")
    result: nn.Module = module.eval()
    return result


def _try_out(encoder: Encoder) -> None:
    """Raises CheckpointError unless the tokenizer fits and two texts, one of full length, give a vector a token."""
    tokenizer = PromptTokenizer(encoder)
    module: Any = encoder.module
    if tokenizer.vocabulary > module.config.vocab_size:
        raise CheckpointError(
            f"{encoder.tokenizer_file}: has {tokenizer.vocabulary} token ids, "
            f"and the encoder reads {module.config.vocab_size}"
        )
    ids, _ = tokenizer.encode([_TRIED.encode(), " ".join([_TRIED] * encoder.max_tokens).encode()])
    tokens = torch.from_numpy(ids).long()
    try:
        with torch.inference_mode():
            vectors = module(input_ids=tokens.clamp(min=0), attention_mask=(tokens >= 0).long()).last_hidden_state
    except Exception as error:  # whatever a network of another shape raises
        raise CheckpointError(f"{encoder.folder}: is no encoder of token ids alone ({one_line(error)})") from None
    expected = (*tokens.shape, module.config.hidden_size)
    if tuple(vectors.shape) != expected:
        raise CheckpointError(f"{encoder.folder}: gave vectors {tuple(vectors.shape)} instead of {expected}")
    if not vectors[tokens >= 0].isfinite().all():
        raise CheckpointError(f"{encoder.folder}: gave vectors that are no numbers")
