"""What Triton says of a prompt: one gRPC call, under a deadline."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from gateway.config import ROUTELLM_MODELS
from gateway.errors import DecisionFailed, DecisionPaused, DecisionTimeout, ModelNotServed, TritonUnavailable
from gateway.labels import known_labels
from gateway.patience import Patience

_CHANNEL_ARGUMENTS = [
    # A Triton that comes back is found within a second; gRPC's own default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Triton is close by; a proxy that the environment names is for elsewhere.
    ("grpc.enable_http_proxy", 0),
    # A connection that hangs without closing is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]
_NOT_READY = "is not ready"
_MOST_LABELS = 4096  # asked of a model that is not ours; Triton answers with as many as it has


@dataclass(frozen=True, slots=True)
class Decision:
    """What one prompt is, by one model."""

    label: str
    labels: tuple[str, ...]
    """All labels of the model, in its order; empty strings when it has no label file."""
    scores: tuple[float, ...]
    """A score for each label."""
    tokens_read: int | None = None
    tokens_in_prompt: int | None = None
    checkpoint: str | None = None
    """`name:version:digest` of the network that answered."""
    win_rate: float | None = None
    """RouteLLM's: how likely the strong model's answer beats the weak one's; label and scores are empty then."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of which model. Ours answer by name, tasks and complexities through `router_ensemble`; others by
    their `OUTPUT`."""

    model: str
    outputs: list[InferRequestedOutput] = field(repr=False)
    kind: str | None = None


@cache
def _question(triton_model: str) -> _Question:
    if triton_model in ROUTELLM_MODELS:
        return _ask_for(triton_model, ("strong_win_rate", "tokens", "checkpoint"), "routellm")
    if known_labels(triton_model) is None:
        return _Question(triton_model, [InferRequestedOutput("OUTPUT", class_count=_MOST_LABELS)])
    kind = triton_model.removesuffix("_router_ensemble")
    return _ask_for("router_ensemble", (f"{kind}_label", f"{kind}_scores", "tokens", "checkpoint"), kind)


def _ask_for(model: str, outputs: Sequence[str], kind: str) -> _Question:
    return _Question(model, [InferRequestedOutput(name) for name in outputs], kind)


class TritonClient:
    """One Triton. To be made inside the running event loop, and closed."""

    def __init__(self, target: str, ca_file: Path | None = None) -> None:
        """`target`: host:port of its gRPC endpoint, which speaks TLS when there is a `ca_file` to verify it by."""
        self._client = InferenceServerClient(
            target, ssl=ca_file is not None, root_certificates=ca_file, channel_args=_CHANNEL_ARGUMENTS
        )
        self._patience: defaultdict[tuple[str, float], Patience] = defaultdict(Patience)

    async def close(self) -> None:
        await self._client.close()

    async def decide(self, triton_model: str, text: str, seconds: float) -> Decision:
        """Classify `text` with `triton_model`. Cancelling the call cancels the request at Triton.

        Raises DecisionTimeout past `seconds`, DecisionPaused right after several of those in a row, TritonUnavailable
        when it cannot be reached or does not serve the model, DecisionFailed for any other failure.
        """
        patience = self._patience[triton_model, seconds]  # a model's deadlines are those of its policies: a few
        if not patience.may_ask():
            raise DecisionPaused("no decision within the deadline several times in a row")
        try:
            decision = await self._ask(triton_model, text, seconds)
        except DecisionTimeout:
            patience.missed()
            raise
        except ModelNotServed:
            patience.answered()
            raise
        patience.answered()
        return decision

    async def _ask(self, triton_model: str, text: str, seconds: float) -> Decision:
        question = _question(triton_model)
        prompt = InferInput("INPUT", [1, 1], "BYTES")
        # A lone surrogate, which JSON can carry, has no UTF-8: it becomes a question mark.
        prompt.set_data_from_numpy(np.array([[text.encode(errors="replace")]], dtype=np.object_))
        try:
            result = await self._client.infer(
                question.model,
                [prompt],
                outputs=question.outputs,
                client_timeout=seconds,
                timeout=int(seconds * 1e6),  # microseconds that it may wait in a queue, whose policy is to refuse then
            )
        except InferenceServerException as error:
            raise _failure(error) from error
        if question.kind is None:
            return _read_classes(result.as_numpy("OUTPUT"))
        # Below 0 they were not counted: an embeddings endpoint keeps that to itself.
        read, in_prompt = (int(count) if count >= 0 else None for count in result.as_numpy("tokens")[0])
        checkpoint = result.as_numpy("checkpoint")[0, 0].decode()
        if question.kind == "routellm":
            return _read_win_rate(float(result.as_numpy("strong_win_rate")[0, 0]), read, in_prompt, checkpoint)
        known = known_labels(triton_model)
        assert known is not None  # only ours have a kind
        return Decision(
            label=result.as_numpy(f"{question.kind}_label")[0, 0].decode(),
            labels=known,
            scores=tuple(result.as_numpy(f"{question.kind}_scores")[0].tolist()),
            tokens_read=read,
            tokens_in_prompt=in_prompt,
            checkpoint=checkpoint,
        )


def _failure(error: InferenceServerException) -> DecisionFailed:
    match error.status():
        case "StatusCode.DEADLINE_EXCEEDED":
            return DecisionTimeout("no decision within the deadline")
        case "StatusCode.NOT_FOUND":
            return ModelNotServed(error.message())
        case "StatusCode.UNAVAILABLE":
            # Triton says this of a model that is not loaded, and gRPC of a Triton that is not there.
            return (ModelNotServed if _NOT_READY in error.message() else TritonUnavailable)(error.message())
        case _:
            return DecisionFailed(error.message())


def _read_win_rate(win_rate: float, read: int | None, in_prompt: int | None, checkpoint: str) -> Decision:
    if not 0 <= win_rate <= 1:  # a NaN, too
        raise DecisionFailed("the win rate is not between 0 and 1")
    return Decision("", (), (), read, in_prompt, checkpoint, win_rate)


def _read_classes(classes: NDArray[np.object_]) -> Decision:
    """A Decision out of Triton's classification strings, `value:index` or `value:index:label`, best first.

    Raises DecisionFailed when they are none.
    """
    rows: Sequence[bytes] = classes.reshape(-1).tolist()
    scores, labels = [0.0] * len(rows), [""] * len(rows)
    try:
        parsed = [row.decode().split(":", 2) for row in rows]
        for value, index, *label in parsed:
            scores[int(index)] = float(value)
            labels[int(index)] = label[0] if label else ""
        best = int(parsed[0][1])
    except (ValueError, IndexError) as error:
        raise DecisionFailed(f"the model's OUTPUT is no list of classes: {error}") from error
    if not all(map(math.isfinite, scores)):
        raise DecisionFailed("the model's OUTPUT is not finite")
    return Decision(labels[best] or str(best), tuple(labels), tuple(scores))
