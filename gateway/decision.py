"""What Triton says of a prompt: one gRPC call, under a deadline."""

import math
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.config import ROUTELLM_MODELS
from gateway.errors import DecisionFailed, DecisionPaused, DecisionTimeout, ModelNotServed, TritonUnavailable
from gateway.labels import known_labels
from gateway.patience import Patience
from gateway.tensors import asked, floats, integers, outputs_of, question, strings

_CHANNEL_ARGUMENTS = [
    # A name with several addresses, as a headless Service's, is several Tritons: requests take turns among them.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # The address of a Triton that was replaced is found as soon; gRPC's own default waits for half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
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
_MODEL_CHANGED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
"""What may mean that the model is not what was learnt of it: it lacks an output, is gone, or so is its Triton."""
_MOST_LABELS = 4096  # asked of a model that is not ours; Triton answers with as many as it has
_ROUNDING = 1e-3  # of probabilities in reduced precision, or in six decimals, in their sum
_BESIDE = {"tokens": ("INT32", 2), "checkpoint": ("BYTES", 1)}
"""Outputs that a model may have beside OUTPUT, with the type and the length of a row that make them what we mean."""


Asking = Callable[[str, str], AbstractContextManager[Sequence[tuple[str, str]]]]
"""Around each question, by Triton's address and the model: gives gRPC metadata to ask with."""
_unwatched = nullcontext[Sequence[tuple[str, str]]](())


def unwatched(triton: str, triton_model: str) -> AbstractContextManager[Sequence[tuple[str, str]]]:
    """Nobody watches, and nothing is added."""
    return _unwatched


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
    language: str | None = None
    """Of the prompt; told only where the policy has a snapshot to compare it with."""

    @property
    def confidence(self) -> float | None:
        """The highest score when the scores are probabilities, as those of a one-hot answer are; else None."""
        # What is not finite has no such sum.
        if self.scores and min(self.scores) >= 0 and abs(sum(self.scores) - 1) <= _ROUNDING:
            return max(self.scores)
        return None


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of which model. Ours answer by name, tasks and complexities through `router_ensemble`; others by
    their `OUTPUT`, and what they have beside it."""

    message: Message = field(repr=False)
    kind: str | None = None
    labels: tuple[str, ...] = ()


@cache
def _question_of_ours(triton_model: str) -> _Question | None:
    """None for a model that is not ours."""
    if triton_model in ROUTELLM_MODELS:
        return _Question(question(triton_model, ("strong_win_rate", "tokens", "checkpoint")), "routellm")
    labels = known_labels(triton_model)
    if labels is None:
        return None
    kind = triton_model.removesuffix("_router_ensemble")
    outputs = (f"{kind}_label", f"{kind}_scores", "tokens", "checkpoint")
    return _Question(question("router_ensemble", outputs), kind, labels)


def _question_of(metadata: Message) -> _Question:
    """What a model that is not ours is asked, by what Triton says of it."""
    there = {output.name: (output.datatype, output.shape[-1]) for output in metadata.outputs if output.shape}
    beside = [name for name, kind in _BESIDE.items() if there.get(name) == kind]
    return _Question(question(metadata.name, ("OUTPUT", *beside), {"OUTPUT": _MOST_LABELS}))


class TritonClient:
    """One Triton. To be made inside the running event loop, and closed."""

    def __init__(self, target: str, ca_file: Path | None = None, asking: Asking = unwatched) -> None:
        """`target`: host:port of its gRPC endpoint, which speaks TLS when there is a `ca_file` to verify it by."""
        self._target = target
        self._asking = asking
        if ca_file is None:
            self._channel = grpc.aio.insecure_channel(target, _CHANNEL_ARGUMENTS)
        else:
            authorities = grpc.ssl_channel_credentials(ca_file.read_bytes())
            self._channel = grpc.aio.secure_channel(target, authorities, _CHANNEL_ARGUMENTS)
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._learnt: dict[str, _Question] = {}
        self._patience: defaultdict[tuple[str, float], Patience] = defaultdict(Patience)

    async def close(self) -> None:
        await self._channel.close()

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
        end = time.monotonic() + seconds
        try:
            question = _question_of_ours(triton_model) or await self._learn(triton_model, seconds)
            left = max(end - time.monotonic(), 0.0)
            with self._asking(self._target, triton_model) as metadata:
                answer = await self._triton.ModelInfer(
                    asked(question.message, text, left), timeout=left, metadata=metadata
                )
        except grpc.RpcError as error:
            if error.code() in _MODEL_CHANGED:
                self._learnt.pop(triton_model, None)
            raise _failure(error) from error
        try:
            return _read(question, outputs_of(answer))
        except (KeyError, ValueError, struct.error) as error:
            raise DecisionFailed(f"the model's answer cannot be read: {error!r}") from error

    async def _learn(self, triton_model: str, seconds: float) -> _Question:
        """What to ask of a model that is not ours; Triton says it once."""
        if triton_model not in self._learnt:
            request = service_pb2.ModelMetadataRequest(name=triton_model)
            self._learnt[triton_model] = _question_of(await self._triton.ModelMetadata(request, timeout=seconds))
        return self._learnt[triton_model]


def _read(question: _Question, outputs: Mapping[str, bytes]) -> Decision:
    """A Decision out of one row of the model's outputs.

    Raises DecisionFailed for numbers that say nothing; KeyError, ValueError or struct.error for other outputs.
    """
    # Below 0 they were not counted: an embeddings endpoint keeps that to itself.
    tokens = integers(outputs["tokens"]) if "tokens" in outputs else (-1, -1)
    read, in_prompt = (count if count >= 0 else None for count in tokens)
    (checkpoint,) = strings(outputs["checkpoint"]) if "checkpoint" in outputs else (None,)
    if question.kind is None:
        return _read_classes(strings(outputs["OUTPUT"]), read, in_prompt, checkpoint)
    if question.kind == "routellm":
        (win_rate,) = floats(outputs["strong_win_rate"])
        return _read_win_rate(win_rate, read, in_prompt, checkpoint)
    (label,) = strings(outputs[f"{question.kind}_label"])
    scores = floats(outputs[f"{question.kind}_scores"])
    return Decision(label, question.labels, scores, read, in_prompt, checkpoint)


def _failure(error: grpc.RpcError) -> DecisionFailed:
    message = error.details() or ""
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DecisionTimeout("no decision within the deadline")
        case grpc.StatusCode.NOT_FOUND:
            return ModelNotServed(message)
        case grpc.StatusCode.UNAVAILABLE:
            # Triton says this of a model that is not loaded, and gRPC of a Triton that is not there.
            return (ModelNotServed if _NOT_READY in message else TritonUnavailable)(message)
        case _:
            return DecisionFailed(message)


def _read_win_rate(win_rate: float, read: int | None, in_prompt: int | None, checkpoint: str | None) -> Decision:
    if not 0 <= win_rate <= 1:  # a NaN, too
        raise DecisionFailed("the win rate is not between 0 and 1")
    return Decision("", (), (), read, in_prompt, checkpoint, win_rate)


def _read_classes(rows: Sequence[str], read: int | None, in_prompt: int | None, checkpoint: str | None) -> Decision:
    """A Decision out of Triton's classification strings, `value:index` or `value:index:label`, best first.

    Raises DecisionFailed when they are none.
    """
    scores, labels = [0.0] * len(rows), [""] * len(rows)
    try:
        parsed = [row.split(":", 2) for row in rows]
        for value, index, *label in parsed:
            scores[int(index)] = float(value)
            labels[int(index)] = label[0] if label else ""
        best = int(parsed[0][1])
    except (ValueError, IndexError) as error:
        raise DecisionFailed(f"the model's OUTPUT is no list of classes: {error}") from error
    if not all(map(math.isfinite, scores)):
        raise DecisionFailed("the model's OUTPUT is not finite")
    return Decision(labels[best] or str(best), tuple(labels), tuple(scores), read, in_prompt, checkpoint)
