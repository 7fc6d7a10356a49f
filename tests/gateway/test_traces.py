"""Traces: one from the client through the gateway to Triton and to the model, without what was said in it."""

import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest

from gateway.observe.spans import _Seldom
from gateway.observe.traces import load_tracing
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import Process, free_port, wait_until
from scripts.local.traces import trace_options
from scripts.local.triton import Triton
from tests.conftest import MODELS, StartGateway, running_gateway
from tests.gateway.client import Gateway, chat, eventually
from tests.gateway.otlp import Collector, Span
from tests.gateway.scripted import Scripted, scripted_upstream
from tests.gateway.tee import Tee, bodies, running_tee

SECRET = "a7e3f1c9"  # in prompts and keys: nothing of them is ever sent
CONFIG = """\
gateway: {{cache_entries: 0}}
policies:
  - name: plain
    url: http://triton:8000/v2/models/task_router_ensemble/infer
    timeout_ms: 30000
    fallback: Chatbot
    llms:
      - {{name: Chatbot, api_base: "{dynamo}", api_key: key-{secret}, model: {model}}}
  - name: busy_first
    url: http://triton:8000/v2/models/task_router_ensemble/infer
    timeout_ms: 30000
    fallback: Chatbot
    llms:
      - {{name: Chatbot, api_base: "{busy}", model: tried-in-vain, fallbacks: [Rewrite]}}
      - {{name: Rewrite, api_base: "{dynamo}", model: {model}}}
"""
SERVER, DECISION, ATTEMPT = (
    "POST /v1/chat/completions",
    "inference.GRPCInferenceService/ModelInfer",
    f"chat {MODELS[3]}",
)
TRITONS = ("InferRequest", "router_ensemble", "prompt_classifier", "compute")


@dataclass(frozen=True)
class Traced:
    """A gateway that sends traces, the way to its Dynamo, and an upstream that is too busy."""

    gateway: Gateway
    tee: Tee
    busy: Scripted


def _logged(traced: Traced, answer: httpx2.Response) -> str:
    """The id of its trace that the log has. The line may come a moment after the answer."""
    request_id = answer.headers["x-request-id"]
    assert eventually(lambda: traced.gateway.request_lines(request_id) != [])
    (line,) = traced.gateway.request_lines(request_id)
    return str(line["trace_id"])


def _forwarded(traced: Traced, trace_id: str) -> tuple[bytes, bytes]:
    """The head of the request that Dynamo got in this trace, and all that it sent on that connection."""
    for connection in traced.tee.every:
        for head in re.findall(rb"POST .*?\r\n\r\n", connection.received, re.DOTALL):
            if f"00-{trace_id}-".encode() in head:
                return head, bytes(connection.sent)
    raise AssertionError(f"Dynamo got nothing in trace {trace_id}")


def _continued(head: bytes) -> dict[str, str]:
    """Its headers of the trace, each of which is there once."""
    found = re.findall(rb"(?im)^(traceparent|tracestate): *(.*?)\r$", head)
    headers = {name.decode().lower(): value.decode() for name, value in found}
    assert len(headers) == len(found)
    return headers


@pytest.fixture(scope="module")
def traced(
    triton: Triton, dynamo: DemoDynamo, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    with running_tee("127.0.0.1", dynamo.port) as tee, scripted_upstream(models=["tried-in-vain"]) as busy:
        config = folder / "config.yaml"
        config.write_text(CONFIG.format(dynamo=tee.url, busy=busy.url, model=MODELS[3], secret=SECRET))
        environ = {"TRITON_GRPC_URL": triton.grpc_url, "DYNAMO_API_BASE": tee.url, **_sending_to(collector)}
        with running_gateway(config, folder, True, (), None, **environ) as gateway:
            yield Traced(gateway, tee, busy)


def _config(dynamo: str = "${DYNAMO_API_BASE}") -> str:
    return CONFIG.format(dynamo=dynamo, busy="http://127.0.0.1:9", model=MODELS[3], secret="none")


def _sending_to(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}


def _ids() -> tuple[str, str]:
    """Of a trace and of the client's span in it."""
    return secrets.token_hex(16), secrets.token_hex(8)


def _traceparent(trace_id: str, span_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}


def _one(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def _assert_connected(spans: list[Span], root: str) -> None:
    """Each span's parent is another of them, or `root`, the client's; and Triton's are below the decision."""
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert {span.parent_id for span in spans if span.parent_id not in ids} == {root}
    server = _one(spans, SERVER)
    assert (server.parent_id, server.service, server.kind) == (root, "llm-router", 2)
    for span in spans:
        if span.service == "llm-router" and span is not server:
            assert (span.parent_id, span.kind) == (server.span_id, 3)


def _assert_triton_continues(spans: list[Span]) -> None:
    decision, request = _one(spans, DECISION), _one(spans, "InferRequest")
    ensemble, step = _one(spans, "router_ensemble"), _one(spans, "prompt_classifier")
    assert request.parent_id == decision.span_id
    assert ensemble.parent_id == request.span_id
    assert step.parent_id == ensemble.span_id
    assert {span.service for span in (request, ensemble, step)} == {"triton"}


def test_a_stream_is_one_trace(traced: Traced, collector: Collector) -> None:
    """From OpenAI's client through the gateway to Triton's steps and to Dynamo, whose bytes pass as they are."""
    trace_id, client = _ids()
    body = chat(f"hello {SECRET}", model="plain", stream=True)
    headers = {"authorization": f"Bearer {SECRET}", "tracestate": "theirs=1", **_traceparent(trace_id, client)}
    answer = traced.gateway.post(f"/v1/chat/completions?key={SECRET}", body, headers=headers)
    assert answer.status_code == 200
    spans = collector.whole(trace_id, SERVER, DECISION, ATTEMPT, *TRITONS)
    _assert_connected(spans, client)
    _assert_triton_continues(spans)

    head, sent = _forwarded(traced, trace_id)
    assert _continued(head) == {
        "traceparent": f"00-{trace_id}-{_one(spans, ATTEMPT).span_id}-01",
        "tracestate": "theirs=1",
    }
    assert answer.content in bodies(sent[sent.index(b"text/event-stream") :])

    assert not [body for body in collector.bodies if SECRET.encode() in body]
    assert _logged(traced, answer) == trace_id


def test_what_the_spans_tell(traced: Traced, collector: Collector) -> None:
    """GenAI's attributes and the router's own: names and numbers."""
    trace_id, client = _ids()
    answer = traced.gateway.post(
        "/v1/chat/completions", chat("hello", model="plain"), headers=_traceparent(trace_id, client)
    )
    spans = collector.whole(trace_id, SERVER, DECISION, ATTEMPT)
    server, decision, attempt = (_one(spans, name) for name in (SERVER, DECISION, ATTEMPT))
    told = server.attributes
    assert {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": MODELS[3],
        "gen_ai.response.model": MODELS[3],
        "gen_ai.usage.input_tokens": answer.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer.json()["usage"]["completion_tokens"],
        "llm_router.policy": "plain",
        "llm_router.llm": "Chatbot",
        "llm_router.label": answer.headers["x-chosen-classifier"],
        "llm_router.reason": answer.headers["x-router-reason"],
        "llm_router.fallback": answer.headers["x-router-reason"] != "decided",
        "llm_router.prompt_cut": False,
        "llm_router.request_id": answer.headers["x-request-id"],
    }.items() <= told.items()
    assert told["llm_router.decision_ms"] > 0 and told["llm_router.upstream_ms"] > 0
    assert 0 < told["llm_router.confidence"] <= 1 and told["llm_router.tokens_read"] > 0
    assert decision.attributes["rpc.response.status_code"] == "OK"
    assert decision.attributes["llm_router.triton_model"] == "task_router_ensemble"
    assert attempt.attributes["server.port"] == traced.tee.port
    assert attempt.attributes["url.full"] == f"{traced.tee.url}/v1/chat/completions"
    assert attempt.attributes["http.response.status_code"] == 200
    assert not any(span.error for span in (server, decision, attempt))


def test_a_fallback_shows_both_attempts(traced: Traced, collector: Collector) -> None:
    """The first is an error, the second the answer, in one trace with Triton's steps."""
    trace_id, client = _ids()
    with openai.OpenAI(base_url=f"{traced.gateway.url}/v1", api_key="none", max_retries=0) as ask:
        completion = ask.chat.completions.create(
            model="busy_first",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=4,
            extra_headers=_traceparent(trace_id, client),
        )
    assert completion.model == MODELS[3]
    spans = collector.whole(trace_id, SERVER, DECISION, "chat tried-in-vain", ATTEMPT, *TRITONS)
    _assert_connected(spans, client)
    _assert_triton_continues(spans)
    first, second = _one(spans, "chat tried-in-vain"), _one(spans, ATTEMPT)
    assert first.error and first.attributes["error.type"] == "503"
    assert not second.error
    assert _one(spans, SERVER).attributes["llm_router.reason"] == "upstream_overloaded"


def test_what_is_not_sampled_is_not_sent(traced: Traced, collector: Collector) -> None:
    """Neither by the gateway nor by Triton; Dynamo is told that, too. Probes are never traced."""
    unsampled, client = _ids()
    for path in ("/health", "/health/ready", "/metrics"):
        assert traced.gateway.get(path, _traceparent(*_ids())).status_code == 200
    body = chat("hello", model="plain")
    traced.gateway.post("/v1/chat/completions", body, headers=_traceparent(unsampled, client, "00"))
    head, _ = _forwarded(traced, unsampled)
    assert _continued(head)["traceparent"].endswith("-00")
    later, client = _ids()
    traced.gateway.post("/v1/chat/completions", body, headers=_traceparent(later, client))
    collector.whole(later, SERVER, DECISION, ATTEMPT, *TRITONS)
    assert not collector.of(unsampled)
    assert not [span for span in collector.spans if "health" in span.name or "metrics" in span.name]


@pytest.mark.parametrize("header", ["", "00-xyz", f"00-{'0' * 32}-{'0' * 16}-01", f"00-{SECRET * 4}-{SECRET * 2}-01-x"])
def test_a_wrong_traceparent_starts_a_trace(traced: Traced, collector: Collector, header: str) -> None:
    """As none does; it goes no further."""
    headers = {"traceparent": header, "tracestate": "theirs=1"}
    answer = traced.gateway.post("/v1/chat/completions", chat("hello", model="plain"), headers=headers)
    trace_id = _logged(traced, answer)
    server = _one(collector.whole(trace_id, SERVER), SERVER)
    assert server.parent_id == ""
    head, _ = _forwarded(traced, trace_id)
    assert _continued(head).keys() == {"traceparent"}


def test_two_traceparents_are_none(traced: Traced, collector: Collector) -> None:
    """Which of them is the client's cannot be told."""
    first, second = _ids(), _ids()
    headers = [("traceparent", _traceparent(*ids)["traceparent"]) for ids in (first, second)]
    answer = httpx2.post(
        f"{traced.gateway.url}/v1/chat/completions", json=chat("hello", model="plain"), headers=headers, timeout=60
    )
    assert _logged(traced, answer) not in (first[0], second[0])


def test_names_that_clients_make_up(traced: Traced, collector: Collector) -> None:
    """A model's name that is passed on is cut, and is in no span's name."""
    trace_id, client = _ids()
    body = chat("hello", model="m" * 400)
    answer = traced.gateway.post("/v1/chat/completions", body, headers=_traceparent(trace_id, client))
    assert answer.status_code >= 400
    spans = collector.whole(trace_id, SERVER, "chat")
    assert {span.attributes["gen_ai.request.model"] for span in spans} == {"m" * 256}
    assert _one(spans, SERVER).attributes["llm_router.reason"] == "passthrough"


def test_a_client_that_leaves(traced: Traced, collector: Collector) -> None:
    """It is an error of that name, and its spans end."""
    trace_id, client = _ids()
    body = (
        b'{"model": "plain", "stream": true, "max_tokens": 20000, "messages": [{"role": "user", "content": "hello"}]}'
    )
    headers = {"host": "x", "content-type": "application/json", "content-length": len(body)}
    lines = [f"{name}: {value}" for name, value in (headers | _traceparent(trace_id, client)).items()]
    url = httpx2.URL(traced.gateway.url)
    with socket.create_connection((url.host, url.port)) as connection:
        head = "\r\n".join(["POST /v1/chat/completions HTTP/1.1", *lines, "", ""])
        connection.sendall(head.encode() + body)
        assert connection.recv(1)
    server = _one(collector.whole(trace_id, SERVER), SERVER)
    assert server.error and server.attributes["error.type"] == "client_gone", server.attributes


def test_content_when_a_setting_says_so(start_gateway: StartGateway, collector: Collector) -> None:
    """Of a stream and of a whole answer: the messages that were sent, and what was said."""
    capture = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    with_cache = _config().partition("\n")[2]
    gateway = start_gateway(with_cache, **_sending_to(collector), **capture)
    said = []
    for stream in (False, True):
        trace_id, client = _ids()
        body = chat("what I ask", model="plain", stream=stream)
        headers = {"authorization": f"Bearer {SECRET}", **_traceparent(trace_id, client)}
        gateway.post("/v1/chat/completions", body, headers=headers)
        spans = collector.whole(trace_id, SERVER, ATTEMPT)
        assert (DECISION in {span.name for span in spans}) is not stream  # the second time it is remembered
        told = _one(spans, SERVER).attributes
        assert told["gen_ai.input.messages"] == (
            '[{"role": "user", "parts": [{"type": "text", "content": "what I ask"}]}]'
        )
        assert '"role": "assistant"' in told["gen_ai.output.messages"]
        said.append(re.sub(r'"content": "[^"]+"', "TEXT", told["gen_ai.output.messages"]))
        assert "TEXT" in said[-1]  # nonsense, and other nonsense each time
    assert said[0] == said[1]
    assert not [body for body in collector.bodies if SECRET.encode() in body]


def test_a_triton_that_is_gone(start_gateway: StartGateway, collector: Collector) -> None:
    """The question that nobody answered is an error, the request is not."""
    gone = {"TRITON_GRPC_URL": f"127.0.0.1:{free_port()}"}
    gateway = start_gateway(_config(), ready=False, **gone, **_sending_to(collector))
    trace_id, client = _ids()
    gateway.post("/v1/chat/completions", chat("hello", model="plain"), headers=_traceparent(trace_id, client))
    spans = collector.whole(trace_id, SERVER, DECISION, ATTEMPT)
    _assert_connected(spans, client)
    decision, server = _one(spans, DECISION), _one(spans, SERVER)
    assert decision.error and decision.attributes["rpc.response.status_code"] == "UNAVAILABLE"
    assert not server.error and server.attributes["llm_router.reason"] == "triton_unavailable"


@pytest.mark.rare
def test_workers_are_instances(start_gateway: StartGateway, collector: Collector) -> None:
    """Each has an id of its own in what it sends."""
    gateway = start_gateway(_config(), arguments=["--workers", "2"], **_sending_to(collector))
    trace_ids = []

    def both_answered() -> bool:
        trace_id, client = _ids()
        trace_ids.append(trace_id)
        gateway.post("/v1/chat/completions", chat("hello", model="plain"), headers=_traceparent(trace_id, client))
        servers = [_one(collector.whole(each, SERVER), SERVER) for each in trace_ids]
        return len({server.resource["service.instance.id"] for server in servers}) == 2

    assert eventually(both_answered)


def test_a_collector_that_is_gone(start_gateway: StartGateway) -> None:
    """Requests are answered, and the log has one line about it, without the keys that its URL may hold."""
    endpoint = f"http://me:{SECRET}@127.0.0.1:{free_port()}/v1/traces?api-key={SECRET}"
    fast = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
    gateway = start_gateway(_config(), OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint, **fast)

    def ask() -> int:
        return gateway.post("/v1/chat/completions", chat("hello", model="plain")).status_code

    def lines() -> int:
        return sum(line["event"].startswith("tracing: ") for line in gateway.log_lines())

    assert ask() == 200
    assert eventually(lambda: lines() > 0)
    assert [ask() for _ in range(3)] == [200] * 3
    assert lines() == 1
    (line,) = [line for line in gateway.log_lines() if line["event"].startswith("tracing: ")]
    assert "ConnectionError" in line["event"]
    assert SECRET not in gateway.process.log.read_text()


@pytest.mark.parametrize(
    ("message", "values", "told"),
    [
        ("code: %s, reason: %s", (403, f"no such key: {SECRET}"), "code: 403, reason: …"),
        ("error %s, retrying in %.2fs", (OSError(f"/?key={SECRET}"), 0.5), "error OSError, retrying in 0.50s"),
        ("invalid number %d", (SECRET,), "invalid number %d"),
        ("invalid header %(header)s", ({"header": SECRET},), "invalid header %(header)s"),
        (ValueError(SECRET), (), "ValueError"),
        ("100 % sure", (), "100 % sure"),
    ],
)
def test_log_lines_quote_nothing(
    message: object, values: tuple[object, ...], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry's messages with numbers and types of exceptions alone: the rest may hold a key."""
    made = logging.LogRecord("opentelemetry.exporter.x", logging.WARNING, "", 0, message, values, None)
    _Seldom().emit(made)
    (record,) = caplog.records
    assert record.getMessage() == f"tracing: {told}"


@pytest.mark.rare
def test_a_collector_that_hangs(start_gateway: StartGateway) -> None:
    """It does not hold the gateway's end, however long it may take to answer."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections, and answers none
        endpoint = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
        gateway = start_gateway(_config(), OTEL_BSP_SCHEDULE_DELAY="50", **settings)
        body = chat("hello", model="plain")
        assert gateway.post("/v1/chat/completions", body).status_code == 200
        hanging.accept()[0].close()  # something was sent, and will be again
        assert gateway.post("/v1/chat/completions", body).status_code == 200
        os.kill(gateway.process.pid, signal.SIGTERM)
        assert eventually(lambda: gateway.process.exit_code is not None, 25)  # OpenTelemetry alone would wait for 30 s


def test_without_the_extra(tmp_path: Path, dynamo: DemoDynamo, triton: Triton) -> None:
    """One warning that names the command, and the gateway serves."""
    config = tmp_path / "config.yaml"
    config.write_text(_config(dynamo.url))
    port = free_port()
    missing = "import sys; sys.modules['opentelemetry.sdk'] = None; from gateway.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", missing, "serve", "--config", str(config), "--port", str(port)]
    environ = os.environ | {"TRITON_GRPC_URL": triton.grpc_url, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    process = Process("gateway", command, environ, tmp_path / "gateway.log")
    gateway = Gateway(f"http://127.0.0.1:{port}", process)
    try:
        wait_until(gateway.is_live, process, 60)
        assert gateway.post("/v1/chat/completions", chat("hello", model="plain")).status_code == 200
        (line,) = [line for line in gateway.log_lines() if line["level"] == "warning" and "traces" in line["event"]]
        assert line["fault"] == "OpenTelemetry is not installed: pip install 'llm-router[tracing]'"
    finally:
        process.stop()


def test_off_nothing_is_imported() -> None:
    """Neither its packages nor ours that use them."""
    code = (
        "import sys; from pathlib import Path; from gateway.app import create_app;"
        "from gateway.config import load_config;"
        "file = Path('deploy/router-config-dynamo.yaml');"
        "create_app(load_config(file, {'DYNAMO_API_BASE': 'http://x'}), file);"
        "print([name for name in sys.modules if 'opentelemetry' in name or name.endswith('observe.spans')])"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize("more", [{"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_turned_off(more: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """By OpenTelemetry's own variables, in silence; Triton, too."""
    assert load_tracing(ENDPOINT | more) is None
    assert trace_options(ENDPOINT | more) == ()
    assert load_tracing({}) is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: expected 'otlp' or 'none', and got 'zipkin'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: expected 'http/protobuf'"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector:4318"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: expected a URL",
        ),
    ],
)
def test_wrong_variables(more: dict[str, str], fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """One warning that names the variable; there are no traces then."""
    caplog.set_level(logging.WARNING)
    assert load_tracing(ENDPOINT | more) is None
    (record,) = caplog.records
    assert record.__dict__["fields"]["fault"].startswith(fault)


def test_options_for_triton() -> None:
    """Where the variables say; the path is added to the one for all signals only."""
    assert "--trace-config=opentelemetry,url=http://c:4318/v1/traces" in trace_options(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}
    )
    assert "--trace-config=opentelemetry,url=http://c/t" in trace_options(
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/t", **ENDPOINT}
    )
    assert trace_options({}) == ()
