import socket
import time

import httpx2
import pytest

from gateway.decision import Decision, TritonClient
from gateway.errors import DecisionFailed
from scripts.local.triton import Triton

_PATIENCE = 30.0
_PROMPT = "Write a Python function that reverses a list."


@pytest.mark.parametrize(
    ("scores", "confidence"),
    [
        ((0.25, 0.75), 0.75),
        ((0.0, 1.0, 0.0), 1.0),
        ((0.3333, 0.3333, 0.3333), 0.3333),
        ((0.5, 0.6), None),
        ((-0.5, 1.5), None),
        ((3.0, 0.5), None),
        ((float("nan"), 1.0), None),
        ((float("inf"), 0.0), None),
        ((), None),
    ],
)
def test_confidence(scores: tuple[float, ...], confidence: float | None) -> None:
    """Confidence is the highest probability; scores that are no probabilities give none."""
    assert Decision("a", ("a",) * len(scores), scores).confidence == confidence


@pytest.mark.anyio
async def test_a_foreign_model_says_what_it_has(triton: Triton) -> None:
    """Tokens and checkpoint are asked of a model that has them beside OUTPUT; one with OUTPUT alone decides as well."""
    client = TritonClient(triton.grpc_url)
    scored = await client.decide("scored_ensemble", _PROMPT, _PATIENCE)
    alone = await client.decide("renamed_ensemble", _PROMPT, _PATIENCE)
    ours = await client.decide("task_router_ensemble", _PROMPT, _PATIENCE)
    await client.close()
    assert scored.label == alone.label == ours.label == "Code Generation"
    assert scored.labels == alone.labels == ours.labels
    assert scored.scores == pytest.approx(ours.scores, abs=1e-5)
    assert (scored.tokens_read, scored.tokens_in_prompt) == (ours.tokens_read, ours.tokens_in_prompt)
    assert scored.checkpoint == ours.checkpoint is not None
    assert scored.confidence is not None and 0.5 < scored.confidence < 1
    assert (alone.tokens_read, alone.checkpoint, alone.confidence) == (None, None, 1.0)


def _load(triton: Triton, **parameters: str) -> None:
    url = f"{triton.http_url}/v2/repository/models/scored_ensemble/load"
    assert httpx2.post(url, json={"parameters": parameters}, timeout=_PATIENCE).status_code == 200


_WITHOUT_CHECKPOINT = """{
  "platform": "ensemble",
  "max_batch_size": 64,
  "input": [{"name": "INPUT", "data_type": "TYPE_STRING", "dims": [1]}],
  "output": [{"name": "OUTPUT", "data_type": "TYPE_FP32", "dims": [12]}],
  "ensemble_scheduling": {"step": [{
    "model_name": "prompt_classifier",
    "model_version": -1,
    "input_map": {"INPUT": "INPUT"},
    "output_map": {"task_scores": "OUTPUT"}
  }]}
}"""


@pytest.mark.anyio
async def test_a_model_that_changed_is_asked_anew(triton: Triton) -> None:
    """When Triton refuses what was learnt of a model, that decision fails, and the next one fits the model again."""
    client = TritonClient(triton.grpc_url)
    try:
        assert (await client.decide("scored_ensemble", _PROMPT, _PATIENCE)).checkpoint
        _load(triton, config=_WITHOUT_CHECKPOINT)
        with pytest.raises(DecisionFailed, match="checkpoint|tokens"):
            await client.decide("scored_ensemble", _PROMPT, _PATIENCE)
        assert (await client.decide("scored_ensemble", _PROMPT, _PATIENCE)).checkpoint is None
    finally:
        _load(triton)
        await client.close()


@pytest.mark.anyio
async def test_the_deadline_covers_what_is_learnt() -> None:
    """A Triton that says nothing costs no more than the deadline when nothing is known of its model yet, either."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = TritonClient(f"127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(DecisionFailed):
            await client.decide("scored_ensemble", _PROMPT, 0.2)
        assert time.monotonic() - start < _PATIENCE / 3
        await client.close()
