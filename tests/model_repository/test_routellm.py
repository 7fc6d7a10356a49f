"""RouteLLM's routers as Triton serves them: all four, from folders of the published shape with random weights."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from classifiers.routellm.bert import load_bert
from classifiers.routellm.causal_llm import load_causal_llm
from classifiers.routellm.embeddings import EmbeddingsEndpoint
from classifiers.routellm.mf import load_mf
from classifiers.routellm.router import UNCOUNTED, Router
from classifiers.routellm.sw_ranking import load_sw_ranking
from scripts.local.process import StartError, free_ports
from scripts.local.triton import Triton, models_with_weights
from tests.classifiers.routellm.test_mf import weights, write
from tests.embeddings_endpoint import running_endpoint
from tests.model_repository.test_ensembles import _ask
from tests.published_battles import DIMENSIONS, write_battles
from tests.published_routellm import write_bert, write_causal_llm, write_llama_tokenizer

_MF_SHAPES = {"P.weight": (64, 128), "text_proj.0.weight": (128, DIMENSIONS), "classifier.0.weight": (1, 128)}
_OUTPUTS = ["strong_win_rate", "tokens", "checkpoint"]
_PROMPTS = [
    "What is 2+2?",
    "Prove that the square root of 2 is irrational.",
    "",
    "日本の首都はどこですか",
    "word " * 300,
]


@pytest.fixture(scope="module")
def client(triton: Triton) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(triton.grpc_url) as client:
        yield client


@pytest.mark.parametrize("count", [1, 64])
def test_the_embedded_router(client: InferenceServerClient, count: int) -> None:
    """N prompts give N win rates between 0 and 1, by the router alone and through router_ensemble alike."""
    prompts = [_PROMPTS[number % len(_PROMPTS)] for number in range(count)]
    alone = _ask(client, "routellm_mf", prompts, _OUTPUTS)
    assert alone["strong_win_rate"].shape == (count, 1) and alone["tokens"].shape == (count, 2)
    assert ((alone["strong_win_rate"] > 0) & (alone["strong_win_rate"] < 1)).all()
    assert len(set(alone["strong_win_rate"][: len(_PROMPTS), 0].tolist())) == min(count, len(_PROMPTS))
    together = _ask(client, "router_ensemble", prompts, ["strong_win_rate", "routellm_checkpoint", "task_label"])
    np.testing.assert_allclose(together["strong_win_rate"], alone["strong_win_rate"], atol=1e-5)
    assert (together["routellm_checkpoint"] == alone["checkpoint"]).all()
    name, version, digest = alone["checkpoint"][0, 0].decode().split(":")
    assert version == "1" and len(digest) == 12


def test_neighbours_change_nothing(client: InferenceServerClient) -> None:
    """A prompt's win rate is the same alone and among others."""
    together = _ask(client, "routellm_mf", _PROMPTS, ["strong_win_rate"])["strong_win_rate"]
    for number, prompt in enumerate(_PROMPTS):
        alone = _ask(client, "routellm_mf", [prompt], ["strong_win_rate"])["strong_win_rate"]
        np.testing.assert_allclose(alone[0], together[number], atol=1e-5)


def test_65_rows_are_refused(client: InferenceServerClient) -> None:
    """One row too many is a clear error."""
    with pytest.raises(InferenceServerException, match="batch-size must be <= 64"):
        _ask(client, "routellm_mf", ["hi"] * 65, ["strong_win_rate"])


@pytest.mark.rare
def test_all_four_are_served(tmp_path: Path) -> None:
    """Folders of the published shapes, put in place by variables, score through Triton as their routers do alone."""
    bert = write_bert(tmp_path / "bert")
    causal_llm = write_causal_llm(tmp_path / "causal_llm")
    tokenizer = write_llama_tokenizer(tmp_path / "tokenizer")
    battles = write_battles(tmp_path / "battles")
    mf = write(tmp_path / "mf", weights(_MF_SHAPES))
    with running_endpoint(DIMENSIONS) as endpoint:
        environ = os.environ | endpoint.environ()
        environ |= {
            "ROUTELLM_MF_CHECKPOINT": str(mf),
            "ROUTELLM_BERT_CHECKPOINT": str(bert),
            "ROUTELLM_CAUSAL_LLM_CHECKPOINT": str(causal_llm),
            "ROUTELLM_CAUSAL_LLM_TOKENIZER": str(tokenizer),
            "ROUTELLM_SW_RANKING_CHECKPOINT": str(battles),
        }
        embeddings = EmbeddingsEndpoint.from_environ(environ)
        routers: dict[str, Router] = {
            "routellm_mf": load_mf(mf, environ=environ),
            "routellm_bert": load_bert(bert),
            "routellm_causal_llm": load_causal_llm(causal_llm, tokenizer_folder=tokenizer),
            "routellm_sw_ranking": load_sw_ranking(battles, embeddings.embed, embeddings.dimensions),
        }
        triton = Triton(free_ports(3), tmp_path / "triton", models=models_with_weights(environ), environ=environ)
        try:
            triton.start()
            triton.wait()
            with InferenceServerClient(triton.grpc_url) as client:
                for model, router in routers.items():
                    served = _ask(client, model, _PROMPTS, _OUTPUTS)
                    scores = router.score([prompt.encode() for prompt in _PROMPTS])
                    np.testing.assert_allclose(served["strong_win_rate"][:, 0], scores.strong_win_rate, atol=1e-5)
                    assert np.array_equal(served["tokens"], scores.tokens)
                    name, digest = router.name.split(":")
                    assert served["checkpoint"][0, 0].decode() == f"{name}:1:{digest}"
                    assert (scores.tokens == UNCOUNTED).all() == (model in ("routellm_mf", "routellm_sw_ranking"))
        finally:
            triton.stop()


@pytest.mark.rare
def test_a_broken_checkpoint_ends_the_start(tmp_path: Path) -> None:
    """Truncated weights end the start with a line that names the file."""
    bert = write_bert(tmp_path / "bert")
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    environ = os.environ | {"ROUTELLM_BERT_CHECKPOINT": str(bert)}
    triton = Triton(free_ports(3), tmp_path / "triton", models=models_with_weights(environ), environ=environ)
    try:
        with pytest.raises(StartError) as error:
            triton.start()
            triton.wait()
    finally:
        triton.stop()
    lines = str(error.value).splitlines()
    assert any("CheckpointError" in line and "model.safetensors: truncated" in line for line in lines)
