"""A request as OpenTelemetry spans: the server's, one for the question to Triton, one for each try at an upstream.

OpenTelemetry's own instrumentations of ASGI and gRPC were not taken: the one puts query strings into URLs, the other
never ends the span of a call that is cancelled, and both patch what they watch.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import aiohttp
import grpc  # type: ignore[import-untyped]
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    format_trace_id,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from gateway.chat import ALIAS, Routed
from gateway.observe.content import Content
from gateway.observe.log import QUIET_PATHS
from gateway.observe.record import Record
from gateway.policy import Target
from gateway.reasons import AS_MEANT
from gateway.state import Hooks

CLOSE_SECONDS = 2.0
"""For the last spans, when the gateway ends: a collector that is gone holds it no longer."""
LOG_SECONDS = 60.0
"""Between two log lines about a collector that takes no spans."""

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    ALIAS: "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/embeddings": "embeddings",
}
_CHATS = frozenset({"/v1/chat/completions", ALIAS})
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE"})
_MODEL_INFER = "inference.GRPCInferenceService/ModelInfer"
_LONGEST = 256  # characters of a name: a client may have made it up
_Attributes = dict[str, str | int | float | bool | None]
_propagator = TraceContextTextMapPropagator()  # alone: a client's baggage goes by as any header does
_log = logging.getLogger(__name__)


class Tracing:
    """The spans of one process, and what sends them. Its variables are OpenTelemetry's own."""

    def __init__(self, with_content: bool = False) -> None:
        """Raises ValueError for variables that OpenTelemetry refuses."""
        _take_over_logging()
        exporter = BatchSpanProcessor(OTLPSpanExporter())
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(exporter)
        self.tracer = self._provider.get_tracer("llm-router")
        self.with_content = with_content
        self.hooks = Hooks((upstream_spans(self.tracer),), self.asking)
        self.middleware = Middleware(TraceRequests, tracing=self)

    def describe(self, record: Record) -> None:
        """Observer: what the request's span tells of it."""
        span = get_current_span()
        if span.is_recording():
            _describe(span, record)

    @contextmanager
    def asking(self, triton: str, triton_model: str) -> Iterator[Sequence[tuple[str, str]]]:
        """Around a question to Triton; gives the metadata that Triton continues the trace by.

        A request that is not sampled has none: Triton would trace whatever has a parent, sampled or not.
        """
        if not get_current_span().is_recording():
            yield ()
            return
        span = self.tracer.start_span(_MODEL_INFER, kind=SpanKind.CLIENT, attributes=_question(triton, triton_model))
        try:
            yield tuple(_headers_of(span).items())
            span.set_attribute("rpc.response.status_code", "OK")
        except grpc.RpcError as error:
            span.set_attribute("rpc.response.status_code", error.code().name)
            _fail(span, error.code().name)
            raise
        except BaseException as error:
            _fail(span, type(error).__name__)
            raise
        finally:
            span.end()

    async def aclose(self) -> None:
        """Send what is left, for CLOSE_SECONDS at most."""
        # A daemon: it does not hold the process either.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        end = time.monotonic() + CLOSE_SECONDS
        while closing.is_alive() and time.monotonic() < end:
            await asyncio.sleep(0.02)


class TraceRequests:
    """ASGI middleware: a server span around each request, probes aside, which continues the client's trace."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in QUIET_PATHS:
            await self.app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes = {"http.request.method": method, "url.scheme": scope["scheme"]}
        parent = _parent(scope["headers"])
        span = self.tracing.tracer.start_span(method, parent, SpanKind.SERVER, attributes)
        scope.setdefault("state", {})["trace_id"] = format_trace_id(span.get_span_context().trace_id)
        content = None
        if self.tracing.with_content and span.is_recording() and scope["path"] in _CHATS:
            content = Content(receive, send)
            receive, send = content.receive, content.send
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            await self.app(scope, receive, send)
            if content is not None:
                span.set_attributes(content.attributes())


def upstream_spans(tracer: Tracer) -> aiohttp.TraceConfig:
    """A client span for each request to an upstream, until the head of its answer, that the upstream continues.

    Its `traceparent` and `tracestate` take the place of the client's. What belongs to no request has no span.
    """

    async def start(
        session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        context.span = None
        if not get_current_span().get_span_context().is_valid:
            return
        name, attributes = _attempt(request.method, request.url, context.trace_request_ctx)
        context.span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        for header in _propagator.fields:
            request.headers.popall(header, None)
        request.headers.update(_headers_of(context.span))

    async def end(
        session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestEndParams
    ) -> None:
        if (span := context.span) is None:
            return
        status = request.response.status
        span.set_attribute("http.response.status_code", status)
        if status >= 400:
            _fail(span, str(status))
        span.end()

    async def fail(
        session: aiohttp.ClientSession, context: SimpleNamespace, request: aiohttp.TraceRequestExceptionParams
    ) -> None:
        if (span := context.span) is not None:
            _fail(span, type(request.exception).__name__)
            span.end()

    config = aiohttp.TraceConfig()
    config.on_request_start.append(start)
    config.on_request_end.append(end)
    config.on_request_exception.append(fail)
    return config


def _question(triton: str, triton_model: str) -> dict[str, str | int]:
    host, _, port = triton.rpartition("/")[2].rpartition(":")
    return {
        "rpc.system.name": "grpc",
        "rpc.method": _MODEL_INFER,
        "llm_router.triton_model": triton_model,
        **({"server.address": host, "server.port": int(port)} if port.isdecimal() else {}),
    }


def _attempt(method: str, url: URL, target: object) -> tuple[str, dict[str, str | int]]:
    """The name and the attributes of a request upstream: neither query nor credentials of its URL."""
    bare = url.with_user(None).with_query(None)
    attributes: dict[str, str | int] = {"http.request.method": method, "url.full": str(bare)}
    if url.host is not None and url.port is not None:
        attributes |= {"server.address": url.host, "server.port": url.port}
    if not isinstance(target, Target):
        return f"{method} {url.path}", attributes
    path = url.path.removeprefix(URL(target.api_base).path.rstrip("/"))
    operation = _OPERATIONS.get(path, "chat")
    attributes |= _gen_ai(path, operation, target)
    # Without a name it is a model that the client named itself: no part of a span's name.
    return (f"{operation} {target.model}" if target.name else operation), attributes


def _gen_ai(path: str, operation: str, target: Target) -> dict[str, str | int]:
    provider = "anthropic" if path == "/v1/messages" else "openai"  # the API that is spoken, by the convention
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": _name(target.model),
    }


def _describe(span: Span, record: Record) -> None:
    if record.path:
        span.update_name(f"{record.method} {record.path}")
        span.set_attribute("http.route", record.path)
    if record.status is not None:
        span.set_attribute("http.response.status_code", record.status)
    if record.outcome != "complete":
        _fail(span, record.outcome)
    elif record.status is None or record.status >= 500:
        _fail(span, str(record.status))
    attributes: _Attributes = {
        "llm_router.request_id": record.request_id,
        "llm_router.client": record.client,
    }
    if record.routed is not None:
        attributes |= _of_routed(record.routed) | _of_answer(record, record.routed.selection.target)
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def _of_routed(routed: Routed) -> _Attributes:
    selection, decision = routed.selection, routed.decision
    return {
        "llm_router.policy": routed.policy.name if routed.policy else None,
        "llm_router.label": _name(selection.label) if selection.label is not None else None,
        "llm_router.llm": selection.target.name or None,
        "llm_router.reason": selection.reason,
        "llm_router.fallback": selection.reason not in AS_MEANT,
        "llm_router.threshold": selection.threshold,
        "llm_router.decision_ms": _ms(routed.decision_seconds),
        "llm_router.upstream_ms": _ms(routed.upstream_seconds),
        "llm_router.prompt_cut": routed.prompt_cut,
        "llm_router.confidence": decision.confidence if decision else None,
        "llm_router.win_rate": decision.win_rate if decision else None,
        "llm_router.tokens_read": decision.tokens_read if decision else None,
        "llm_router.tokens_in_prompt": decision.tokens_in_prompt if decision else None,
        "llm_router.checkpoint": _name(decision.checkpoint) if decision and decision.checkpoint else None,
    }


def _of_answer(record: Record, target: Target) -> _Attributes:
    """GenAI's names for a request that went to a model."""
    operation = _OPERATIONS.get(record.path)
    if operation is None:
        return {}
    answered = record.status is not None and record.status < 300
    return {
        **_gen_ai(record.path, operation, target),
        "gen_ai.response.model": _name(target.model) if answered else None,
        "gen_ai.response.time_to_first_chunk": record.first_byte_seconds if answered else None,
        "gen_ai.usage.input_tokens": record.usage.input_tokens if record.usage else None,
        "gen_ai.usage.output_tokens": record.usage.output_tokens if record.usage else None,
        "llm_router.cost": record.spent.cost if record.spent else None,
        "llm_router.cost_at_strongest": record.spent.at_strongest if record.spent else None,
    }


def _parent(headers: Sequence[tuple[bytes, bytes]]) -> Context:
    """The client's span, when it names one in a way that can be read."""
    carrier: dict[str, list[str]] = {}
    for name, value in headers:
        if name in (b"traceparent", b"tracestate"):
            carrier.setdefault(name.decode(), []).append(value.decode("latin-1"))
    if len(carrier.get("traceparent", ())) != 1:  # none, or several, of which none can be believed
        return Context()
    return _propagator.extract(carrier, Context())


def _headers_of(span: Span) -> dict[str, str]:
    """`traceparent`, and `tracestate` when there is one, for those who continue from this span."""
    headers: dict[str, str] = {}
    _propagator.inject(headers, set_span_in_context(span, Context()))
    return headers


def _fail(span: Span, error_type: str) -> None:
    """No description: an error's text may hold what a client wrote."""
    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)


def _name(text: str) -> str:
    """A name that may be a client's, bounded; a lone surrogate in it would cost a whole batch of spans."""
    return text[:_LONGEST].encode(errors="replace").decode()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _resource() -> Resource:
    """The variables', with a name and an id for this process where they give none."""
    given = Resource.create({})
    own = {SERVICE_INSTANCE_ID: str(uuid.uuid4())} if SERVICE_INSTANCE_ID not in given.attributes else {}
    if str(given.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        own[SERVICE_NAME] = "llm-router"
    return given.merge(Resource(own))


class _Seldom(logging.Handler):
    """OpenTelemetry's messages as ours: one in LOG_SECONDS, since a collector that is gone gives one every few.

    Nothing of what they quote is told: the values of variables, the collector's URL and its answers may hold keys.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        if (now := time.monotonic()) < self._next:
            self._left_out += 1
            return
        _log.warning("tracing: %s", _unquoted(record)[:300], extra={"fields": {"left_out": self._left_out}})
        self._next, self._left_out = now + LOG_SECONDS, 0


def _unquoted(record: logging.LogRecord) -> str:
    """Its message, of whose values numbers are told, and of an exception the type."""
    message = record.msg if isinstance(record.msg, str) else str(_told(record.msg))
    raised = f" ({record.exc_info[0].__name__})" if record.exc_info and record.exc_info[0] else ""
    try:
        return message % tuple(map(_told, record.args or ())) + raised
    except (TypeError, ValueError):  # a place that takes numbers only, or has a name
        return message + raised


def _told(value: object) -> object:
    if isinstance(value, int | float):
        return value
    return type(value).__name__ if isinstance(value, BaseException) else "…"


def _take_over_logging() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [_Seldom()], False
