"""RouteLLM's `mf`, against RouteLLM's own classes on the same weights and embeddings, and of the embedded one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from classifiers.checkpoint import EMBEDDED, CheckpointError, load_checkpoint
from classifiers.routellm.embeddings import EmbeddingsError
from classifiers.routellm.mf import (
    EMBEDDED_MF,
    STRONG_MODEL,
    WEAK_MODEL,
    MfRouter,
    load_mf,
    mf_folder,
    read_head,
)
from classifiers.routellm.router import UNCOUNTED, Router
from scripts.local.published import PAGE
from tests.embeddings_endpoint import Endpoint, running_endpoint, vectors
from tests.oracle import MODEL_IDS, embed_at, routellm

PUBLISHED = {"P.weight": (64, 128), "text_proj.0.weight": (128, 1536), "classifier.0.weight": (1, 128)}
PROMPTS = [*PAGE.splitlines(), "Was heißt das auf Deutsch? 🙂", "x"]
RAW = [prompt.encode() for prompt in PROMPTS]


def weights(shapes: Mapping[str, tuple[int, ...]] = PUBLISHED, seed: int = 0) -> dict[str, torch.Tensor]:
    """So wide that win rates lie anywhere between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint() as running:
        embed_at(running.base_url)
        yield running


@pytest.fixture(scope="module")
def embedded() -> MfRouter:
    return load_mf(EMBEDDED_MF)


@pytest.mark.parametrize("with_config", [False, True])
def test_same_as_routellm(tmp_path: Path, endpoint: Endpoint, with_config: bool) -> None:
    """On weights of the published names and shapes, with the hub's config or without, the win rates are RouteLLM's to
    1e-5; it asks for one embedding a prompt, and ours for all at once."""
    folder = tmp_path / "mf_gpt4_augmented"
    if with_config:
        shape = {"dim": 128, "num_models": 64, "text_dim": 1536, "num_classes": 1, "use_proj": True}
        model = routellm.MFModel(**shape)
        model.load_state_dict(weights())
        model.save_pretrained(folder, config=shape)
        assert json.loads((folder / "config.json").read_text())["text_dim"] == 1536
    else:
        write(folder, weights())
    oracle = routellm.MatrixFactorizationRouter(str(folder))
    expected = [oracle.calculate_strong_win_rate(prompt) for prompt in PROMPTS]
    router: Router = load_mf(folder, environ=endpoint.environ())
    endpoint.requests.clear()
    scores = router.score(RAW)
    assert [request["input"] for request in endpoint.requests] == [PROMPTS]
    assert scores.strong_win_rate.dtype == np.float32
    assert np.abs(scores.strong_win_rate - np.array(expected)).max() < 1e-5
    assert min(expected) < 0.1 and max(expected) > 0.9
    assert scores.tokens.tolist() == [[UNCOUNTED, UNCOUNTED]] * len(PROMPTS)
    assert router.name.startswith("mf_gpt4_augmented:")


def test_model_ids() -> None:
    """The two rows of P are those of the two models that RouteLLM compares."""
    assert MODEL_IDS["gpt-4-1106-preview"] == STRONG_MODEL
    assert MODEL_IDS["mixtral-8x7b-instruct-v0.1"] == WEAK_MODEL


@pytest.mark.parametrize("prompts_learnt_from", [None, 7])
def test_training_names(tmp_path: Path, prompts_learnt_from: int | None) -> None:
    """Weights as RouteLLM's training leaves them, its embeddings among them, are the same router."""
    published = weights()
    trained = {name.replace(".0.", "."): tensor for name, tensor in published.items()}
    if prompts_learnt_from:
        trained["Q.weight"] = torch.zeros(prompts_learnt_from, 1536)
    first = read_head(write(tmp_path / "published", published) / "model.safetensors")
    second = read_head(write(tmp_path / "trained", trained) / "model.safetensors")
    assert np.array_equal(first.direction, second.direction)


def test_another_embedding_model(tmp_path: Path) -> None:
    """Weights for embeddings of another size work with an endpoint that gives them."""
    shapes = {"P.weight": (64, 32), "text_proj.0.weight": (32, 768), "classifier.0.weight": (1, 32)}
    with running_endpoint(768) as endpoint:
        router = load_mf(write(tmp_path, weights(shapes)), environ=endpoint.environ(ROUTELLM_EMBEDDING_MODEL="e5"))
        head = read_head(tmp_path / "model.safetensors")
        logits = vectors(PROMPTS, 768) @ head.direction
        assert np.allclose(router.score(RAW).strong_win_rate, 1 / (1 + np.exp(-logits)), atol=1e-6)
        assert {request["model"] for request in endpoint.requests} == {"e5"}


def test_half_precision(tmp_path: Path) -> None:
    """Weights in float16 are read as they are."""
    half = {name: tensor.half() for name, tensor in weights().items()}
    head = read_head(write(tmp_path, half) / "model.safetensors")
    exact = read_head(write(tmp_path / "exact", weights()) / "model.safetensors")
    assert np.allclose(head.direction, exact.direction, rtol=0.01, atol=0.05)


def test_the_endpoint_gives_another_size(tmp_path: Path) -> None:
    """Weights for another embedding model than the endpoint's are refused at load."""
    folder = write(tmp_path, weights())
    with (
        running_endpoint(768) as endpoint,
        pytest.raises(CheckpointError, match="of 1536 dimensions, and .* gives 768"),
    ):
        load_mf(folder, environ=endpoint.environ())


def test_no_key(tmp_path: Path) -> None:
    """Published weights without an endpoint's key are refused at load, and it is said which variable is missing."""
    with pytest.raises(EmbeddingsError, match="OPENAI_API_KEY is unset"):
        load_mf(write(tmp_path, weights()), environ={})


def test_missing(tmp_path: Path) -> None:
    """A folder without weights is refused with the command that fetches them."""
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing; scripts/fetch_models"):
        load_mf(tmp_path, environ={})


def without(name: str) -> dict[str, torch.Tensor]:
    return {other: tensor for other, tensor in weights().items() if other != name}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (without("P.weight"), "missing: P.weight"),
        (without("text_proj.0.weight"), r"missing: text_proj\.0\.weight"),
        (without("classifier.0.weight"), r"missing: classifier\.0\.weight"),
        (weights(PUBLISHED | {"P.weight": (63, 128)}), r"P\.weight is \[63, 128\] and should be \[64, 128\]"),
        (weights(PUBLISHED | {"P.weight": (64,)}), r"P\.weight is \[64\] and should be \[64, 128\]"),
        (weights(PUBLISHED | {"text_proj.0.weight": (64, 1536)}), r"text_proj\.0\.weight is \[64, 1536\]"),
        (weights(PUBLISHED | {"classifier.0.weight": (2, 128)}), r"classifier\.0\.weight is \[2, 128\]"),
        (weights(PUBLISHED | {"classifier.0.bias": (1,)}), r"unexpected: classifier\.0\.bias"),
        (weights(PUBLISHED | {"Q.weight": (7, 1536)}), r"unexpected: Q\.weight"),
        (weights() | {"P.weight": torch.ones(64, 128, dtype=torch.int32)}, "wrong type: P.weight is I32"),
        (weights() | {"P.weight": torch.full((64, 128), torch.nan)}, "tensor P.weight should hold finite numbers"),
        (weights() | {"P.weight": torch.ones(64, 128).bfloat16()}, "tensor P.weight should be F32 or F16"),
        (weights({"direction": (384,)}), "missing: bias"),
        (weights({"direction": (384, 2), "bias": (1,)}), r"direction is \[384, 2\] and should be \[768\]"),
        (weights({"direction": (384,), "bias": (3,)}), r"bias is \[3\] and should be \[1\]"),
    ],
)
def test_wrong_tensors(tmp_path: Path, tensors: dict[str, torch.Tensor], said: str) -> None:
    """A wrong tensor is refused at load, in one line that names file and tensor."""
    file = write(tmp_path, tensors) / "model.safetensors"
    with pytest.raises(CheckpointError, match=f"^{file}: .*{said}") as caught:
        load_mf(tmp_path, environ={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 700_000])
def test_truncated(tmp_path: Path, keep: int) -> None:
    """A file that ends early is refused at load."""
    file = write(tmp_path, weights()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=f"^{file}: truncated, or no safetensors file"):
        load_mf(tmp_path, environ={})


def test_embedded(embedded: MfRouter) -> None:
    """The embedded router needs neither key nor network, and says how much of a prompt it read."""
    scores = embedded.score([b"Hi", b"word " * 1000])
    assert ((scores.strong_win_rate > 0) & (scores.strong_win_rate < 1)).all()
    assert scores.tokens.tolist() == [[3, 3], [256, 1002]]
    assert embedded.name.startswith("minilm-mf:")
    assert mf_folder({"ROUTELLM_MF_CHECKPOINT": ""}) == EMBEDDED_MF
    assert sum(path.stat().st_size for path in EMBEDDED_MF.iterdir()) < 1_000_000


def reference_embeddings(layers: int = -1) -> list[NDArray[np.float32]]:
    """Of PROMPTS by transformers' own classes, one at a time, after that many layers."""
    encoder_of = load_checkpoint(EMBEDDED).encoder
    assert encoder_of is not None
    tokenizer = AutoTokenizer.from_pretrained(encoder_of.folder)
    encoder = AutoModel.from_pretrained(encoder_of.folder)
    found = []
    for prompt in PROMPTS:
        with torch.inference_mode():
            states = encoder(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states
        found.append(torch.nn.functional.normalize(states[layers][0].mean(dim=0), dim=0).numpy())
    return found


def test_embedded_by_hand(embedded: MfRouter) -> None:
    """Its win rate is the sigmoid of the direction times what transformers' own forward pass gives after that many
    layers, mean-pooled, and the bias."""
    head = read_head(EMBEDDED_MF / "model.safetensors")
    layers = json.loads((EMBEDDED_MF / "config.json").read_text())["layers"]
    logits = np.array([embedding @ head.direction + head.bias for embedding in reference_embeddings(layers)])
    assert np.abs(embedded.score(RAW).strong_win_rate - 1 / (1 + np.exp(-logits))).max() < 1e-5


def test_embedded_alone_or_together(embedded: MfRouter) -> None:
    """A prompt's score does not hang on its neighbours."""
    together = embedded.score(RAW)
    for number, prompt in enumerate(RAW):
        alone = embedded.score([prompt])
        assert alone.strong_win_rate[0] == pytest.approx(together.strong_win_rate[number], abs=1e-5)
        assert np.array_equal(alone.tokens[0], together.tokens[number])


def test_odd_prompts(embedded: MfRouter) -> None:
    """No prompts, an empty one, bytes that are no text and a million characters all have an answer."""
    assert embedded.score([]).strong_win_rate.shape == (0,)
    assert embedded.score([]).tokens.shape == (0, 2)
    odd = embedded.score([b"", b"\xff\xfe\x00", b"1" * 1_000_000])
    assert np.isfinite(odd.strong_win_rate).all()


def test_routellms_matrices_on_the_local_encoder(tmp_path: Path) -> None:
    """RouteLLM's three matrices, trained on the encoder that the config names, are run on it, on all of its layers."""
    config = json.loads((EMBEDDED_MF / "config.json").read_text())
    tensors = weights(PUBLISHED | {"text_proj.0.weight": (128, 384)})
    router = load_mf(write(tmp_path, tensors, {key: config[key] for key in ("encoder", "max_tokens")}), environ={})
    oracle = routellm.MFModel(dim=128, num_models=64, text_dim=384, num_classes=1, use_proj=True)
    oracle.load_state_dict(tensors)
    pair = torch.nn.functional.normalize(oracle.P(torch.tensor([STRONG_MODEL, WEAK_MODEL])), dim=1)
    expected = []
    for embedding in reference_embeddings():
        strong, weak = oracle.classifier(pair * oracle.text_proj(torch.from_numpy(embedding))).squeeze().tolist()
        expected.append(1 / (1 + np.exp(weak - strong)))
    scores = router.score(RAW)
    assert np.abs(scores.strong_win_rate - np.array(expected)).max() < 2e-5
    assert (scores.tokens > 0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": "minilm"}, "'encoder' should be dict"),
        ({"encoder": {"package": "no_such_package", "folder": "model", "sha256": "00"}}, "no_such_package, which"),
        ({"max_tokens": None}, "'max_tokens' should be int"),
        ({"max_tokens": 2}, "reads 3 to 512 tokens, and 'max_tokens' is 2"),
        ({"max_tokens": 513}, "reads 3 to 512 tokens, and 'max_tokens' is 513"),
        ({"layers": 0}, "has 6 layers, and 'layers' is 0"),
        ({"layers": 7}, "has 6 layers, and 'layers' is 7"),
        ({"layers": "all"}, "'layers' should be int"),
    ],
)
def test_wrong_config(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """A config that names no encoder, or asks too much of it, is refused at load, and the key is named."""
    folder = tmp_path / "mf"
    shutil.copytree(EMBEDDED_MF, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=said):
        load_mf(folder)


def test_another_encoder(tmp_path: Path) -> None:
    """Weights that were trained on another encoder's file than the installed one are refused."""
    folder = tmp_path / "mf"
    shutil.copytree(EMBEDDED_MF, folder)
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"SHA-256 is .* and should be {'0' * 64}"):
        load_mf(folder)


def test_weights_of_another_size_than_the_encoder(tmp_path: Path) -> None:
    """A direction of another length than the encoder's embeddings is refused."""
    folder = tmp_path / "mf"
    shutil.copytree(EMBEDDED_MF, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"direction": torch.ones(385)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="of 385 dimensions, and the encoder in .* gives 384"):
        load_mf(folder)


def test_digest(tmp_path: Path, embedded: MfRouter) -> None:
    """Another byte in the weights or in the config is another name."""
    folder = tmp_path / "mf"
    shutil.copytree(EMBEDDED_MF, folder)
    (folder / "README.md").unlink()
    assert load_mf(folder).name == embedded.name
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_tokens": 128}))
    assert load_mf(folder).name != embedded.name
