"""The endpoints that choose a model: read the request, decide, select, forward."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.body import Body, parse_body
from gateway.cache import DecisionCache, Memory
from gateway.config import ROUTELLM, Policy, RouteLLMPolicy
from gateway.decision import Decision
from gateway.errors import (
    AsciiJSONResponse,
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    DecisionFailed,
    ModelNotServed,
    NotFound,
)
from gateway.forward import Outgoing, forward_to_first_able
from gateway.policy import Selection, Wish, as_cached, fall_back, read_named_model, read_wish, select
from gateway.prompt import Rule, bounded, estimated_tokens, text_of_input, text_of_messages, text_of_prompt
from gateway.share import HeldShare
from gateway.state import State
from gateway.targets import Eligibility
from gateway.traffic import Seen, Snapshot, beside, language_of, seen

_EMBEDDED_ROUTER = "routellm_mf"  # its weights are there: when it is not served, it soon will be
MAX_BODY_BYTES = 32 * 1024 * 1024  # room for a few images inside the JSON
BODY_SILENCE_SECONDS = 30.0  # a client that sends nothing for so long is most likely gone
BODY_SECONDS = 300.0  # the largest body at 1 Mbit/s

_UNSAFE_IN_HEADER = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path of the upstream, the field that holds its prompt, and how that is read; None: it is never routed."""

    path: str
    field: str
    text: Callable[[Any, Rule], str] | None


CHAT = Endpoint("/v1/chat/completions", "messages", text_of_messages)
COMPLETIONS = Endpoint("/v1/completions", "prompt", text_of_prompt)
RESPONSES = Endpoint("/v1/responses", "input", text_of_input)
MESSAGES = Endpoint("/v1/messages", "messages", text_of_messages)  # Anthropic's
EMBEDDINGS = Endpoint("/v1/embeddings", "input", None)
ENDPOINTS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS)
ALIAS = "/completions"
ROUTE = "/v1/route"


@dataclass(frozen=True, slots=True)
class Routed:
    """What was decided for one request, for those who watch."""

    selection: Selection
    policy: Policy | RouteLLMPolicy | None = None
    decision: Decision | None = None
    decision_seconds: float | None = None
    """How long Triton was asked; None when it was not."""
    prompt_cut: bool = False
    """Whether Triton saw only the head and the tail of the prompt."""
    strong_share: float | None = None
    """Of a policy that holds it: the share of its last thousand decisions that were for the strong model."""
    traffic: Seen | None = None
    """Of a policy with a snapshot, decided as the policy has it: what is counted beside that."""
    upstream_seconds: float | None = None
    """From the first request upstream to the head of the answer that went to the client; None: there was none."""


def answering(endpoint: Endpoint) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """The handler of one endpoint."""

    async def handle(request: Request) -> Response:
        return await _answer(request, endpoint, await _read_body(request))

    return handle


async def alias(request: Request) -> Response:
    """The blueprint's ALIAS: a chat when it has messages, a completion when it has a prompt."""
    body = await _read_body(request)
    endpoint = COMPLETIONS if "prompt" in body.fields and "messages" not in body.fields else CHAT
    return await _answer(request, endpoint, body)


async def route(request: Request) -> Response:
    """ROUTE, the decision alone: nothing is forwarded."""
    body = await _read_body(request)
    routed = await _route(request.state.router, _endpoint_of(body), body, request.state.client)
    request.state.routed = routed
    return AsciiJSONResponse(explanation(routed), headers=decision_headers(routed))


async def _answer(request: Request, endpoint: Endpoint, body: Body) -> Response:
    state: State = request.state.router
    settings = state.config.settings
    routed = await _route(state, endpoint, body, request.state.client, count=True)
    request.state.routed = routed
    body = body.without_fields()
    query = request.scope["query_string"].decode("latin-1")
    path = f"{endpoint.path}?{query}" if query else endpoint.path
    outgoing = Outgoing(path, body, request.headers, request.state.request_id, request.state.client)
    start = time.perf_counter()
    answer = await forward_to_first_able(state.session, routed.selection.targets, outgoing, settings, state.eligibility)
    selection = routed.selection
    if answer.reason is not None:
        selection = replace(selection, targets=(answer.target,), reason=answer.reason)
    routed = replace(routed, selection=selection, upstream_seconds=time.perf_counter() - start)
    request.state.routed = routed
    answer.response.set_headers(decision_headers(routed))
    return answer.response


async def _route(state: State, endpoint: Endpoint, body: Body, client: str | None, count: bool = False) -> Routed:
    """Who answers this request; with `count` it is one of those over which a share of strong calls is held."""
    read = read_named_model if endpoint.text is None else read_wish
    wish = read(body.fields, state.config)
    if wish.target is not None:
        return Routed(Selection((wish.target,), wish.reason), wish.policy)
    assert wish.policy is not None and endpoint.text is not None  # a wish has one or the other
    if endpoint.field not in body.fields:
        raise BadRequest(f"'{endpoint.field}' is missing", param=endpoint.field)
    text = endpoint.text(body.fields[endpoint.field], wish.policy.input)
    held = state.shares.get(wish.policy.name) if wish.threshold is None else None
    routed = await decide(state, wish, text, held, Memory(state.cache, client or ""))
    selection = _in_order(state.eligibility, routed.selection, body)
    if selection is not routed.selection:
        routed = replace(routed, selection=selection)
    if held is None:
        return routed
    if count and routed.decision is not None:
        held.count(routed.selection.label == "strong")
    return replace(routed, strong_share=held.share)


def _in_order(eligibility: Eligibility, selection: Selection, body: Body) -> Selection:
    """The selection with the targets that can take this request now."""
    matters = len(selection.targets) > 1 and any(target.context_length for target in selection.targets)
    order = eligibility.order(selection.targets, estimated_tokens(body.fields) if matters else 0)
    if order.reason is None and len(order.targets) == len(selection.targets):
        return selection
    return replace(selection, targets=order.targets, reason=order.reason or selection.reason)


async def decide(
    state: State, wish: Wish, text: str, held: HeldShare | None = None, memory: Memory | None = None
) -> Routed:
    """Ask Triton, or `memory`, and apply the policy that `wish` has; without an answer its fallback stands in.

    Raises NotFound when the request named a RouteLLM router that Triton does not serve.
    """
    policy = wish.policy
    assert policy is not None
    if not text.strip():
        return Routed(fall_back(policy, "empty_prompt"), policy)
    judged = bounded(text)
    cut = judged != text
    threshold = wish.threshold if held is None else held.threshold
    snapshot = state.config.snapshots.get(policy.name) if wish.threshold is None else None
    triton = f"{state.config.triton_target(policy)}/{policy.triton_model}"
    memory = memory or Memory(DecisionCache(0, 1.0), "")
    prompt = memory.hash_of(policy.name, triton, judged)
    if (remembered := memory.cache.get(prompt)) is not None:
        selection = as_cached(select(policy, remembered, threshold))
        traffic = _traffic(snapshot, policy, selection, remembered, judged)
        return Routed(selection, policy, remembered, None, cut, traffic=traffic)
    start = time.perf_counter()
    try:
        decision = await state.triton_of(policy).decide(policy.triton_model, judged, policy.timeout_ms / 1000)
    except DecisionFailed as failure:
        if wish.router_named and isinstance(failure, ModelNotServed) and policy.triton_model != _EMBEDDED_ROUTER:
            raise _not_served(policy.triton_model) from failure
        return Routed(fall_back(policy, failure.reason), policy, None, time.perf_counter() - start, cut)
    seconds = time.perf_counter() - start
    state.decided_once = True
    if snapshot is not None:
        decision = replace(decision, language=language_of(judged))
    memory.cache.put(prompt, triton, decision)
    selection = select(policy, decision, threshold)
    traffic = _traffic(snapshot, policy, selection, decision, judged)
    return Routed(selection, policy, decision, seconds, cut, traffic=traffic)


def _traffic(
    snapshot: Snapshot | None, policy: Policy | RouteLLMPolicy, selection: Selection, decision: Decision, text: str
) -> Seen | None:
    """What is counted beside the policy's snapshot, if it has one."""
    if snapshot is None:
        return None
    language = decision.language or language_of(text)  # one that was remembered may be older than the snapshot
    row = seen(selection.label or "", decision.confidence, decision.tokens_in_prompt, language)
    return beside(snapshot, policy.upstreams, row)


def _not_served(triton_model: str) -> NotFound:
    router = triton_model.removeprefix(ROUTELLM)
    return NotFound(
        f"router {router!r} is not served: its weights are not loaded; scripts/fetch_models {triton_model} fetches "
        f"them, and ROUTELLM_{router.upper()}_CHECKPOINT names their folder to Triton",
        param="model",
        code="model_not_found",
    )


def decision_headers(routed: Routed) -> dict[str, str]:
    """What the client is told of the decision."""
    headers = {
        "x-routellm-routed-model": routed.selection.target.model,
        "x-router-reason": routed.selection.reason,
    }
    if routed.policy is not None:
        headers["x-router-policy"] = routed.policy.name
    if routed.selection.label is not None:
        headers["X-Chosen-Classifier"] = routed.selection.label
    if routed.decision_seconds is not None or routed.decision is not None:  # a remembered one took no time
        headers["x-router-decision-ms"] = f"{(routed.decision_seconds or 0.0) * 1000:.1f}"
    # Model names come from clients, labels from Triton: neither may break out of its header.
    return {name: _UNSAFE_IN_HEADER.sub("?", value) for name, value in headers.items()}


def explanation(routed: Routed) -> dict[str, Any]:
    """The decision as JSON."""
    decision, seconds = routed.decision, routed.decision_seconds
    return {
        "policy": routed.policy.name if routed.policy else None,
        "label": routed.selection.label,
        "model": routed.selection.target.model,
        "fallbacks": [target.model for target in routed.selection.targets[1:]],
        "reason": routed.selection.reason,
        "decision_ms": None if seconds is None else round(seconds * 1000, 1),
        "scores": dict(zip(decision.labels, decision.scores, strict=True)) if decision and decision.labels else None,
        "confidence": decision and decision.confidence,
        "win_rate": decision and decision.win_rate,
        "threshold": routed.selection.threshold,
        "strong_share": routed.strong_share,
        "tokens_read": decision and decision.tokens_read,
        "tokens_in_prompt": decision and decision.tokens_in_prompt,
        "prompt_cut": routed.prompt_cut,
        "checkpoint": decision and decision.checkpoint,
    }


def _endpoint_of(body: Body) -> Endpoint:
    """Whose body this is: Anthropic's is read as a chat. `input` goes first: a response may have a `prompt`, too."""
    candidates = (CHAT, RESPONSES, COMPLETIONS)
    return next((each for each in candidates if each.field in body.fields), CHAT)


async def _read_body(request: Request) -> Body:
    """The parsed body. Raises BadRequest, BodyTooLarge, BodyTooSlow, or ClientGone when the client leaves half-way."""
    raw = bytearray()
    now = asyncio.get_running_loop().time
    end = now() + BODY_SECONDS
    try:
        async with asyncio.timeout(BODY_SILENCE_SECONDS) as patience:
            async for chunk in request.stream():
                patience.reschedule(min(now() + BODY_SILENCE_SECONDS, end))
                raw += chunk
                if len(raw) > MAX_BODY_BYTES:
                    raise BodyTooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise BodyTooSlow("the body did not come in time") from None
    except ClientDisconnect:
        raise ClientGone from None
    return parse_body(bytes(raw))
