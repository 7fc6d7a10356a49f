"""The embeddings client, against a real HTTP server on loopback."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from openai import OpenAI

from classifiers.routellm.embeddings import EmbeddingsEndpoint, EmbeddingsError
from tests.embeddings_endpoint import Answer, Endpoint, embeddings, running_endpoint, vectors

DIMENSIONS = 12
TEXTS = ["Write a poem about a lighthouse.", "Was heißt das auf Deutsch? 🙂", "1 + 1 = ?"]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint(DIMENSIONS) as running:
        yield running


@pytest.fixture
def client(endpoint: Endpoint) -> EmbeddingsEndpoint:
    """It has asked once, to learn the dimensions."""
    made = EmbeddingsEndpoint.from_environ(endpoint.environ())
    endpoint.requests.clear()
    endpoint.headers.clear()
    return made


def test_embed(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """Texts give the endpoint's own vectors in their order, from one request in OpenAI's form with the key."""
    found = client.embed(TEXTS)
    assert found.dtype == np.float32
    assert np.array_equal(found, vectors(TEXTS, DIMENSIONS))
    assert client.dimensions == DIMENSIONS
    assert endpoint.requests == [{"input": TEXTS, "model": "text-embedding-3-small", "encoding_format": "base64"}]
    assert endpoint.headers[0]["Authorization"] == "Bearer sk-a-secret"


def test_same_as_openais_client(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """The `openai` package, which RouteLLM uses, reads the same numbers from the same endpoint."""
    with OpenAI(base_url=endpoint.base_url, api_key="sk-a-secret") as openai:
        answer = openai.embeddings.create(input=TEXTS, model="text-embedding-3-small")
    assert np.array_equal(client.embed(TEXTS), np.array([each.embedding for each in answer.data], dtype=np.float32))


def test_model_from_the_environment(endpoint: Endpoint) -> None:
    """ROUTELLM_EMBEDDING_MODEL names another model, and a base URL may end in a slash."""
    environ = endpoint.environ(ROUTELLM_EMBEDDING_MODEL="e5", OPENAI_BASE_URL=endpoint.base_url + "/")
    assert EmbeddingsEndpoint.from_environ(environ).dimensions == DIMENSIONS
    assert endpoint.requests[0]["model"] == "e5"


def test_float_lists(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """A server that gives lists of numbers although it was asked for base64 is understood."""
    endpoint.script = [lambda request: Answer(body=embeddings(request["input"], DIMENSIONS, as_base64=False))]
    assert np.array_equal(client.embed(TEXTS), vectors(TEXTS, DIMENSIONS))


def test_out_of_order(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """Embeddings belong to the texts by their index, whatever their order in the answer."""

    def backwards(request: dict[str, Any]) -> Answer:
        answer = embeddings(request["input"], DIMENSIONS)
        return Answer(body=answer | {"data": answer["data"][::-1]})

    endpoint.script = [backwards]
    assert np.array_equal(client.embed(TEXTS), vectors(TEXTS, DIMENSIONS))


def test_many_texts(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """Many texts go in requests of at most 64, and long ones in requests of at most 300,000 bytes."""
    many = [f"text {number}" for number in range(150)]
    assert np.array_equal(client.embed(many), vectors(many, DIMENSIONS))
    assert [len(request["input"]) for request in endpoint.requests] == [64, 64, 22]
    endpoint.requests.clear()
    long = [f"{number}{'é' * 60_000}" for number in range(5)]
    assert np.array_equal(client.embed(long), vectors(long, DIMENSIONS))
    assert [len(request["input"]) for request in endpoint.requests] == [2, 2, 1]


def test_no_texts(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """No text needs no request."""
    assert client.embed([]).shape == (0, DIMENSIONS)
    assert not endpoint.requests


def test_blank_texts(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """A blank text, which OpenAI refuses, is sent as a full stop, and its neighbours as they are."""
    assert np.array_equal(client.embed(["", "Hi ", " \n"]), vectors([".", "Hi ", "."], DIMENSIONS))
    assert endpoint.requests[0]["input"] == [".", "Hi ", "."]


@pytest.mark.parametrize("status", [400, 413])
def test_too_long_a_text(endpoint: Endpoint, client: EmbeddingsEndpoint, status: int) -> None:
    """Where a request is refused, its overlong texts are cut to head and tail, and the others stay."""
    long = "head " + "é" * 9000 + " tail"
    endpoint.script = [Answer(status, {"error": {"code": None, "message": "maximum context length"}})]
    assert client.embed(["Hi", long]).shape == (2, DIMENSIONS)
    first, second = (request["input"] for request in endpoint.requests)
    assert first == ["Hi", long]
    assert second[0] == "Hi"
    assert len(second[1].encode()) <= 8191
    assert second[1].startswith("head é") and second[1].endswith("é tail")


def test_a_long_text_is_sent_whole(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """A long text that the endpoint takes is not cut: RouteLLM sends it whole."""
    long = "word " * 3000
    assert np.array_equal(client.embed([long]), vectors([long], DIMENSIONS))


@pytest.mark.parametrize(
    "failures",
    [
        [Answer(429, {"error": {"code": "rate_limit_exceeded"}}, {"Retry-After": "0"})],
        [Answer(500, b"oops"), Answer(503, b"", {"Retry-After": "0"})],
        [Answer(502, b""), Answer(504, b"")],
        [Answer(0)],
    ],
)
def test_tried_again(endpoint: Endpoint, client: EmbeddingsEndpoint, failures: list[Answer]) -> None:
    """An overloaded server or a dropped connection is asked again, and its good answer counts."""
    endpoint.script = [*failures]
    assert np.array_equal(client.embed(TEXTS), vectors(TEXTS, DIMENSIONS))
    assert len(endpoint.requests) == len(failures) + 1


def test_retry_after(endpoint: Endpoint, client: EmbeddingsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Retry-After says is waited for, but at most five seconds."""
    waited: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waited.append)
    endpoint.script = [Answer(429, {}, {"Retry-After": "2"}), Answer(429, {}, {"Retry-After": "3600"})]
    client.embed(TEXTS)
    assert waited == [2, 5]


def test_retries_end(endpoint: Endpoint, client: EmbeddingsEndpoint) -> None:
    """After three failures it is an error that names address and status, and the next call starts anew."""
    endpoint.script = [Answer(500, b"oops")] * 3
    with pytest.raises(EmbeddingsError, match=f"^{endpoint.base_url}/embeddings answered 500 when asked"):
        client.embed(TEXTS)
    assert len(endpoint.requests) == 3
    assert client.embed(TEXTS).shape == (3, DIMENSIONS)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "invalid_api_key", r"answered 401 \(invalid_api_key\) when asked for embeddings by text-embedding"),
        (404, "model_not_found", r"answered 404 \(model_not_found\)"),
        (400, None, "answered 400 when"),
        (400, "Your key sk-a-secret is wrong", "answered 400 when"),
        (301, None, "answered 301"),
    ],
)
def test_refused(endpoint: Endpoint, client: EmbeddingsEndpoint, status: int, code: str | None, said: str) -> None:
    """Any other status is an error at once, with OpenAI's code for it."""
    message = {"message": "sk-a-secret is wrong for: Write a poem", "code": code}
    endpoint.script = [Answer(status, {"error": message}, {"Location": "http://127.0.0.1:9/"})]
    with pytest.raises(EmbeddingsError, match=said):
        client.embed(TEXTS)
    assert len(endpoint.requests) == 1


def spoilt(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[dict[str, Any]], Answer]:
    """A good answer whose `data` was changed."""

    def answer(request: dict[str, Any]) -> Answer:
        good = embeddings(request["input"], DIMENSIONS, as_base64=False)
        change(good["data"])
        return Answer(body=good)

    return answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(body=b"<html>"), "with something else than JSON"),
        (Answer(body=b"\xff"), "with something else than JSON"),
        (Answer(body=[]), "without a list 'data'"),
        (Answer(body={"data": "none"}), "without a list 'data'"),
        (Answer(body={"data": [1, 2, 3]}), "without a list 'data'"),
        (spoilt(lambda data: data.pop()), "with 2 embeddings for 3 texts"),
        (spoilt(lambda data: data.append(data[0])), "with 4 embeddings for 3 texts"),
        (spoilt(lambda data: data[0].update(index=1)), "'index' does not count from 0 to 2"),
        (spoilt(lambda data: data[0].update(index="0")), "'index' does not count from 0 to 2"),
        (spoilt(lambda data: data[1]["embedding"].pop()), "of 11 dimensions where 12 were expected"),
        (spoilt(lambda data: [each["embedding"].pop() for each in data]), "of 11 dimensions where 12 were expected"),
        (spoilt(lambda data: data[2].update(embedding=[])), "no row of numbers"),
        (spoilt(lambda data: data[2].update(embedding=[[0.5] * 12])), "no row of numbers"),
        (spoilt(lambda data: data[2].update(embedding=[[0.5], 1])), "neither base64 of float32 nor a list"),
        (spoilt(lambda data: data[2].update(embedding=None)), "neither base64 of float32 nor a list"),
        (spoilt(lambda data: data[2].update(embedding="AAAA")), "neither base64 of float32 nor a list"),
        (spoilt(lambda data: data[2].update(embedding="not base64!")), "neither base64 of float32 nor a list"),
        (spoilt(lambda data: data[2].update(embedding=[10**400] * 12)), "neither base64 of float32 nor a list"),
        (spoilt(lambda data: data[2].update(embedding=[float("nan")] * 12)), "not of finite numbers"),
        (spoilt(lambda data: data[2].update(embedding=[1e300] * 12)), "not of finite numbers"),
    ],
)
def test_wrong_answers(
    endpoint: Endpoint, client: EmbeddingsEndpoint, answer: Answer | Callable[[dict[str, Any]], Answer], said: str
) -> None:
    """An answer that is not the embeddings asked for is one clear error, and is not asked for again."""
    endpoint.script = [answer]
    with pytest.raises(EmbeddingsError, match=f"^{endpoint.base_url}/embeddings answered .*{said}"):
        client.embed(TEXTS)
    assert len(endpoint.requests) == 1


def test_wrong_endpoint_fails_at_construction(endpoint: Endpoint) -> None:
    """An endpoint without embeddings, a closed port and a wrong key are errors before any prompt."""
    with pytest.raises(EmbeddingsError, match=r"answered 404 \(unknown_url\)"):
        EmbeddingsEndpoint.from_environ(endpoint.environ(OPENAI_BASE_URL=endpoint.base_url + "/v2"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(EmbeddingsError, match=f"{address}/embeddings can't be reached \\(NewConnectionError\\)"):
            EmbeddingsEndpoint.from_environ(endpoint.environ(OPENAI_BASE_URL=address))


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "OPENAI_API_KEY is unset"),
        ({"OPENAI_API_KEY": ""}, "OPENAI_API_KEY is unset"),
        ({"OPENAI_API_KEY": "sk-a-secret\n"}, "OPENAI_API_KEY should be printable ASCII"),
        ({"OPENAI_API_KEY": "sk-ä"}, "OPENAI_API_KEY should be printable ASCII"),
        ({"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "127.0.0.1"}, "OPENAI_BASE_URL should be like"),
        ({"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "ftp://127.0.0.1"}, "OPENAI_BASE_URL should be like"),
        ({"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "http://[1"}, "OPENAI_BASE_URL should be like"),
        (
            {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "http://me:sk-a-secret@127.0.0.1"},
            "OPENAI_BASE_URL should be like",
        ),
    ],
)
def test_wrong_settings(environ: dict[str, str], said: str) -> None:
    """Settings that can't be right are named, and their values are not shown."""
    with pytest.raises(EmbeddingsError, match=said) as caught:
        EmbeddingsEndpoint.from_environ(environ)
    assert "secret" not in str(caught.value)


def test_no_secret_is_told(endpoint: Endpoint, client: EmbeddingsEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    """Neither key nor prompt stands in an error, its traceback or a log, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    prompts = ["a private matter"]
    told = ""
    for failure in (Answer(0), Answer(500, b"x"), Answer(401, {"error": {"message": "sk-a-secret"}}), Answer(body=b"")):
        endpoint.script = [failure] * 3
        with pytest.raises(EmbeddingsError) as caught:
            client.embed(prompts)
        told += "".join(traceback.format_exception(caught.value))
        endpoint.script = []
    told += caplog.text + repr(client)
    assert "sk-a-secret" not in told
    assert "private matter" not in told
    assert "answered 401" in told
