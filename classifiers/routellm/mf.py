"""RouteLLM's `mf`: matrix factorization, a score for each pair of a model and a prompt's embedding.

Ong et al. (2024), section 4.2. The two models are fixed when the router is loaded, and then everything that stands
between embedding and win rate is one vector: see `fold`.

Two kinds of folder, told apart by `encoder` in config.json:
- Without it, or without the file: weights as RouteLLM publishes or trains them. The prompts' embeddings come from an
  OpenAI-compatible endpoint, and must be those of the model that the weights were trained on.
- With it: weights for an encoder that runs here. config.json names it by package, folder and SHA-256, as that of
  classifiers/embedded does, and says by `max_tokens` how much of a prompt it reads and by `layers`, if it is there,
  how many of its layers are run. The weights are RouteLLM's three matrices, or what scripts/train_mf writes: the
  vector itself, and a bias.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from classifiers.checkpoint import (
    CheckpointError,
    Keys,
    check_shapes,
    find_encoder,
    read_config,
    read_shapes,
    shipped_folder,
)
from classifiers.routellm.embeddings import EmbeddingsEndpoint
from classifiers.routellm.folder import expect_files, files_digest
from classifiers.routellm.router import UNCOUNTED, Scores

EMBEDDED_MF = Path(__file__).parents[1] / "embedded_mf"

# RouteLLM's rows for gpt-4-1106-preview and mixtral-8x7b-instruct-v0.1, among those of its 64 models. It compares these
# two whatever models it is told to route to, and its published thresholds are for them.
STRONG_MODEL = 24
WEAK_MODEL = 36
_MODELS = 64

# As published; RouteLLM's training writes other names, and with them its training prompts' embeddings.
_MODEL_VECTORS, _PROJECTION, _CLASSIFIER = "P.weight", "text_proj.0.weight", "classifier.0.weight"
_TRAINING_NAMES = {_PROJECTION: "text_proj.weight", _CLASSIFIER: "classifier.weight"}
_TRAINING_EMBEDDINGS = "Q.weight"
_PUBLISHED_SIZES = (128, 1536)
_READABLE = ("F32", "F16")  # numpy has no bfloat16, unless some other package has taught it one

Embed = Callable[[Sequence[bytes]], tuple[NDArray[np.float32], NDArray[np.int32]]]
"""Prompts to embeddings [N, d] and `tokens` [N, 2]."""


@dataclass(frozen=True)
class Head:
    """win rate = sigmoid(embedding . `direction` [d] + `bias`); RouteLLM's own weights have no bias."""

    direction: NDArray[np.float32]
    bias: float = 0.0

    def win_rates(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """The strong model's win rate [N] float32 by the prompts' embeddings [N, d]."""
        logits = embeddings @ self.direction + np.float32(self.bias)
        halves: NDArray[np.float32] = np.tanh(logits / 2)
        return (1 + halves) / 2  # the logistic function, without its overflow


class MfRouter:
    """Implements `Router`."""

    def __init__(self, name: str, embed: Embed, head: Head) -> None:
        self.name = name
        self._embed = embed
        self._head = head

    def score(self, prompts: Sequence[bytes]) -> Scores:
        """See `Router`. All prompts are embedded together; what an endpoint's client raises goes through."""
        embeddings, tokens = self._embed(prompts)
        return Scores(self._head.win_rates(embeddings), tokens)


def mf_folder(environ: Mapping[str, str], version: Path | None = None) -> Path:
    """Where the weights lie: in the model's `version` folder, else where ROUTELLM_MF_CHECKPOINT says, else embedded."""
    return shipped_folder(version) or Path(environ.get("ROUTELLM_MF_CHECKPOINT") or EMBEDDED_MF)


def load_mf(folder: Path, device: str = "cpu", environ: Mapping[str, str] = os.environ) -> MfRouter:
    """The router of a checkpoint folder of either kind. A local encoder runs on `device` ("cpu", "cuda:0"); the
    endpoint is the one that `environ` names (see `EmbeddingsEndpoint.from_environ`), and is asked once.

    Raises CheckpointError: a file, a key or a tensor is missing or wrong, the encoder is another one than the config
    says, or the embeddings are of another size than the weights take. EmbeddingsError: the endpoint gives none.
    """
    weights, config_file = folder / "model.safetensors", folder / "config.json"
    expect_files([weights])
    config = read_config(folder) if config_file.is_file() else {}
    head = read_head(weights)
    digest = files_digest([config_file, weights] if config else [weights])
    name = f"{config.get('name', folder.absolute().name)}:{digest}"
    if "encoder" in config:
        return MfRouter(name, _local(Keys(config_file, config), device, weights, head), head)
    return MfRouter(name, _remote(environ, weights, head), head)


def read_head(file: Path) -> Head:
    """The head of a model.safetensors: RouteLLM's matrices, under its serving or its training names, or the vector.

    Raises CheckpointError: the file is truncated, or a tensor is missing, unexpected, of the wrong shape or type, or
    not finite.
    """
    shapes = read_shapes(file)
    if "direction" in shapes:
        check_shapes(file, {"direction": (math.prod(shapes["direction"]),), "bias": (1,)})
        tensors = _read_tensors(file, ["direction", "bias"])
        return Head(tensors["direction"], float(tensors["bias"][0]))
    names = {name: name for name in _TRAINING_NAMES}
    ignored = {}
    if any(name in shapes for name in _TRAINING_NAMES.values()):
        names = _TRAINING_NAMES
        ignored = {name: shape for name, shape in shapes.items() if name == _TRAINING_EMBEDDINGS}
    inner, outer = (
        shapes[name][1] if len(shapes.get(name, ())) == 2 else size
        for name, size in zip((_MODEL_VECTORS, names[_PROJECTION]), _PUBLISHED_SIZES, strict=True)
    )
    expected = {_MODEL_VECTORS: (_MODELS, inner), names[_PROJECTION]: (inner, outer), names[_CLASSIFIER]: (1, inner)}
    check_shapes(file, expected | ignored)
    tensors = _read_tensors(file, list(expected))
    return Head(fold(tensors[_MODEL_VECTORS], tensors[names[_PROJECTION]], tensors[names[_CLASSIFIER]]))


def fold(
    models: NDArray[np.float32], projection: NDArray[np.float32], classifier: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The one vector [d] that gives RouteLLM's logit by a product with an embedding.

    Its score of a model m is w . (v_m * (W e)), with v_m the row of `models` [64, k] scaled to length 1, W the
    `projection` [k, d], w the `classifier` [1, k] and e the embedding [d]; the logit is the strong model's score less
    the weak one's. That is linear in e.
    """
    pair = models[[STRONG_MODEL, WEAK_MODEL]].astype(np.float64)
    strong, weak = pair / np.maximum(np.linalg.norm(pair, axis=1, keepdims=True), 1e-12)
    folded: NDArray[np.float64] = ((strong - weak) * classifier[0]) @ projection
    return folded.astype(np.float32)


def _read_tensors(file: Path, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    tensors = {}
    with safe_open(file, framework="numpy") as opened:
        for name in names:
            if opened.get_slice(name).get_dtype() not in _READABLE:
                raise CheckpointError(f"{file}: tensor {name} should be F32 or F16")
            tensors[name] = opened.get_tensor(name).astype(np.float32)
            if not np.isfinite(tensors[name]).all():
                raise CheckpointError(f"{file}: tensor {name} should hold finite numbers only")
    return tensors


def _local(read: Keys, device: str, weights: Path, head: Head) -> Embed:
    # An endpoint needs neither torch nor seconds to import it.
    from classifiers.sentence import LocalEncoder, SentenceEncoder

    encoder = find_encoder(Keys(read.path, read.value("encoder", dict)))
    layers = read.value("layers", int) if "layers" in read.config else None
    sentences = SentenceEncoder(LocalEncoder(encoder, read.value("max_tokens", int), layers), device)
    _check_dimensions(weights, head, sentences.dimensions, f"the encoder in {read.path} gives")
    return sentences.embed


def _remote(environ: Mapping[str, str], weights: Path, head: Head) -> Embed:
    endpoint = EmbeddingsEndpoint.from_environ(environ)
    _check_dimensions(weights, head, endpoint.dimensions, "ROUTELLM_EMBEDDING_MODEL at OPENAI_BASE_URL gives")

    def embed(prompts: Sequence[bytes]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        texts = [prompt.decode("utf-8", errors="replace") for prompt in prompts]
        return endpoint.embed(texts), np.full((len(prompts), 2), UNCOUNTED, dtype=np.int32)

    return embed


def _check_dimensions(weights: Path, head: Head, dimensions: int, source: str) -> None:
    if len(head.direction) != dimensions:
        raise CheckpointError(
            f"{weights}: its tensors are for embeddings of {len(head.direction)} dimensions, and {source} {dimensions}"
        )
