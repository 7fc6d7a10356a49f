from collections.abc import Callable, Iterator

import pytest

from gateway.policy import Target
from gateway.targets import FAILURES, LONGEST_REST_SECONDS, REST_SECONDS, Eligibility, rest_seconds
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import free_port
from tests.conftest import StartGateway
from tests.gateway.client import Gateway, chat, eventually
from tests.gateway.scripted import scripted_upstream
from tests.gateway.tee import Tee, running_tee

_A, _B, _C = (Target("http://x", name, context_length=length) for name, length in (("a", 10), ("b", 100), ("c", None)))
_SMALL = "llama-3.1-8b-instruct"


def _eligibility() -> tuple[Eligibility, list[float]]:
    """One that follows a, b and c, and its clock."""
    now = [0.0]
    eligibility = Eligibility(lambda: now[0])
    eligibility.follow([_A, _B, _C])
    return eligibility, now


@pytest.mark.parametrize(
    ("listed", "resting", "tokens", "order", "reason"),
    [
        (None, (), 5, (_A, _B, _C), None),
        ({"a", "b", "c"}, (), 5, (_A, _B, _C), None),
        ({"b", "c"}, (), 5, (_B, _C), "target_unavailable"),
        (None, (_B,), 5, (_A, _C), None),
        (None, (_A, _B), 5, (_C,), "target_unavailable"),
        (None, (_A, _B, _C), 5, (_A, _B, _C), None),
        (set(), (), 5, (_A, _B, _C), None),
        (None, (), 10, (_A, _B, _C), None),
        (None, (), 11, (_B, _C), "context_length"),
        (None, (), 101, (_C,), "context_length"),
        (None, (_B,), 11, (_C,), "context_length"),
        ({"a"}, (), 11, (_B, _C), "context_length"),
    ],
)
def test_order(
    listed: set[str] | None, resting: tuple[Target, ...], tokens: int, order: tuple[Target, ...], reason: str | None
) -> None:
    """Those without room, unlisted or resting are passed over, unless that leaves nobody."""
    eligibility, _ = _eligibility()
    eligibility.list_models("http://x", None if listed is None else frozenset(listed))
    for target in resting:
        eligibility.rest(target)
    found = eligibility.order((_A, _B, _C), tokens)
    assert (found.targets, found.reason) == (order, reason)


def test_a_server_that_does_not_answer() -> None:
    """Models of a server that did not answer when it was asked for its list are passed over, until it does."""
    eligibility, _ = _eligibility()
    other = Target("http://y", "d")
    eligibility.follow([_A, other])
    eligibility.list_models("http://x", None, answered=False)
    assert eligibility.order((_A, other), 0).targets == (other,)
    eligibility.list_models("http://x", None, answered=True)
    assert eligibility.order((_A, other), 0).targets == (_A, other)


def test_none_has_room() -> None:
    """A request that no target has room for goes to the first: its own answer says what is wrong."""
    eligibility, _ = _eligibility()
    assert eligibility.order((_A, _B), 1000).targets == (_A, _B)


def test_rest_ends() -> None:
    """A target rests for its time, never for long, and an answer ends it."""
    eligibility, now = _eligibility()
    eligibility.rest(_A)
    assert not eligibility.eligible(_A)
    now[0] = REST_SECONDS
    assert eligibility.eligible(_A)
    eligibility.rest(_A, 1e9)
    assert not eligibility.eligible(_A)
    now[0] += LONGEST_REST_SECONDS
    assert eligibility.eligible(_A)
    eligibility.rest(_A)
    eligibility.answered(_A)
    assert eligibility.eligible(_A)


def test_errors_in_a_row() -> None:
    """A target rests after some server errors in a row; one that is well in between is given the whole number again."""
    eligibility, now = _eligibility()
    for _ in range(2):
        for _ in range(FAILURES - 1):
            eligibility.failed(_A)
        assert eligibility.eligible(_A)
        eligibility.answered(_A)
    for _ in range(FAILURES):
        eligibility.failed(_A)
    assert not eligibility.eligible(_A)
    now[0] += REST_SECONDS
    assert eligibility.eligible(_A)
    eligibility.failed(_A)  # still no good
    assert not eligibility.eligible(_A)


def test_strangers_are_not_remembered() -> None:
    """What a client makes up leaves nothing behind, and a target that is configured no more is forgotten."""
    eligibility, _ = _eligibility()
    stranger = Target("http://x", "made up")
    eligibility.rest(stranger)
    assert eligibility.eligible(stranger)
    eligibility.rest(_A)
    eligibility.follow([_B])
    eligibility.follow([_A, _B])
    assert eligibility.eligible(_A)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, REST_SECONDS),
        ("0", 0),
        ("7", 7),
        ("-1", REST_SECONDS),
        ("1.5", REST_SECONDS),
        ("Wed, 21 Oct 2026 07:28:00 GMT", REST_SECONDS),
        ("\u0663", REST_SECONDS),
        ("9" * 5000, REST_SECONDS),
    ],
)
def test_retry_after(header: str | None, seconds: float) -> None:
    """`Retry-After` in seconds counts; anything else is as if it were missing."""
    assert rest_seconds(header) == seconds


def _config(first_base: str, first_model: str, dynamo: DemoDynamo, more: str = "", fallbacks: str = "[Chatbot]") -> str:
    """A policy whose every prompt goes to one llm, with Dynamo's small model after it."""
    labels = ["Unknown", "Other", "Open QA", "Closed QA", "Text Generation", "Code Generation", "Brainstorming"]
    labels += ["Classification", "Extraction", "Rewrite", "Summarization"]
    llms = "".join(
        f"      - {{name: {label}, api_base: '{first_base}', model: {first_model}, fallbacks: {fallbacks}{more}}}\n"
        for label in labels
    )
    return (
        "policies:\n  - name: task_router\n    timeout_ms: 30000\n"
        "    url: http://x:8000/v2/models/task_router_ensemble/infer\n"
        f"    llms:\n{llms}      - {{name: Chatbot, api_base: '{dynamo.url}', model: {_SMALL}}}\n"
    )


_PROMPT = "Write a Python function that sorts a list of numbers."


def _ask(gateway: Gateway, **fields: object) -> tuple[int, str, str]:
    answer = gateway.post("/v1/chat/completions", chat(_PROMPT, **fields))
    return answer.status_code, answer.headers["x-routellm-routed-model"], answer.headers["x-router-reason"]


def _eligible(gateway: Gateway, model: str) -> Callable[[str], bool]:
    def is_so(value: str) -> bool:
        lines = gateway.get("/metrics").text.splitlines()
        return any(f'model="{model}"' in line and line.endswith(value) for line in lines if "target_eligible{" in line)

    return is_so


@pytest.fixture
def tee(dynamo: DemoDynamo) -> Iterator[Tee]:
    with running_tee("127.0.0.1", dynamo.port) as tee:
        yield tee


def test_a_model_that_dynamo_does_not_serve(start_gateway: StartGateway, dynamo: DemoDynamo, tee: Tee) -> None:
    """Dynamo's 404 leads to the fallback; as soon as its list is known the model is not even asked."""
    gateway = start_gateway(_config(tee.url, "no-such-model", dynamo))
    assert _ask(gateway) == (200, _SMALL, "target_unavailable")
    assert eventually(lambda: _eligible(gateway, "no-such-model")("0.0"))
    posts = sum(each.received.count(b"POST ") for each in tee.connections)
    assert _ask(gateway) == (200, _SMALL, "target_unavailable")
    assert sum(each.received.count(b"POST ") for each in tee.connections) == posts
    explained = gateway.post("/v1/route", chat(_PROMPT)).json()
    assert (explained["model"], explained["reason"], explained["label"]) == (
        _SMALL,
        "target_unavailable",
        "Code Generation",
    )
    assert _eligible(gateway, _SMALL)("1.0")


def test_a_server_that_is_gone(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """A refused connection leads to the fallback; without one it is our 502."""
    gone = f"http://127.0.0.1:{free_port()}"
    gateway = start_gateway(_config(gone, "m", dynamo))
    assert _ask(gateway) == (200, _SMALL, "target_unavailable")
    gateway = start_gateway(_config(gone, "m", dynamo, fallbacks="[]"))
    answer = gateway.post("/v1/chat/completions", chat(_PROMPT))
    assert answer.status_code == 502 and answer.json()["error"]["code"] == "upstream_unavailable"


@pytest.mark.parametrize("status", [429, 503, 529])
def test_overload_moves_on(start_gateway: StartGateway, dynamo: DemoDynamo, status: int) -> None:
    """An overloaded model is followed by its fallback and then rests, as long as it says; then it is asked again."""
    with scripted_upstream(status=status, headers={"retry-after": "1"}) as busy:
        gateway = start_gateway(_config(busy.url, "busy", dynamo))
        assert _ask(gateway) == (200, _SMALL, "upstream_overloaded")
        assert [body["model"] for body in busy.received] == ["busy"]
        assert _ask(gateway)[0] == 200
        busy.status = 200
        assert eventually(lambda: _ask(gateway)[1] == "busy")
        assert len(busy.received) >= 2


def test_the_last_answer_goes_through(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """With no target left the client gets the last one's own answer: status, Retry-After and body; each asked once."""
    with scripted_upstream(status=503) as first, scripted_upstream(status=429, headers={"retry-after": "7"}) as second:
        text = _config(first.url, "first", dynamo).replace(dynamo.url, second.url)
        gateway = start_gateway(text)
        answer = gateway.post("/v1/chat/completions", chat(_PROMPT))
        assert (answer.status_code, answer.headers["retry-after"], answer.content) == (429, "7", second.body)
        assert answer.headers["x-router-reason"] == "upstream_overloaded"
        assert (len(first.received), len(second.received)) == (1, 1)


def test_an_answer_before_a_dead_server_goes_through(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """When the last target can't be reached, the client gets the answer that another one gave."""
    gone = f"http://127.0.0.1:{free_port()}"
    with scripted_upstream(status=429, headers={"retry-after": "7"}) as busy:
        gateway = start_gateway(_config(busy.url, "busy", dynamo).replace(dynamo.url, gone))
        answer = gateway.post("/v1/chat/completions", chat(_PROMPT))
        assert (answer.status_code, answer.headers["retry-after"], answer.content) == (429, "7", busy.body)
        assert answer.headers["x-routellm-routed-model"] == "busy"


def test_a_server_that_fails_again_and_again(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """A server's errors pass untouched, but after some in a row its model is passed over for a while."""
    with scripted_upstream(status=500) as failing:
        gateway = start_gateway(_config(failing.url, "failing", dynamo))
        for _ in range(FAILURES):
            assert _ask(gateway)[:2] == (500, "failing")
        assert _ask(gateway) == (200, _SMALL, "target_unavailable")
        failing.status = 200
        assert eventually(lambda: _ask(gateway)[1] == "failing")


def test_a_clients_own_limit_is_its_own(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """A 429 to a client's own key moves that client on, and keeps no other from the model."""
    with scripted_upstream(status=429, headers={"retry-after": "60"}) as limiting:
        gateway = start_gateway(_config(limiting.url, "limiting", dynamo))
        header = {"authorization": "Bearer poor"}
        answer = gateway.post("/v1/chat/completions", chat(_PROMPT), headers=header)
        assert answer.headers["x-router-reason"] == "upstream_overloaded"
        limiting.status, limiting.headers = 200, {}
        assert _ask(gateway)[1] == "limiting"


@pytest.mark.parametrize("status", [400, 401, 500, 502])
def test_other_errors_pass(start_gateway: StartGateway, dynamo: DemoDynamo, status: int) -> None:
    """An error that says nothing of the model's ability is the answer: no fallback hides it."""
    with scripted_upstream(status=status) as failing:
        gateway = start_gateway(_config(failing.url, "failing", dynamo))
        answer = gateway.post("/v1/chat/completions", chat(_PROMPT))
        assert (answer.status_code, answer.content) == (status, failing.body)
        assert len(failing.received) == 1


def test_an_explicit_choice_is_kept(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """A request that names its llm or its model gets that one's answer, whatever it is."""
    with scripted_upstream(status=503) as busy:
        gateway = start_gateway(_config(busy.url, "busy", dynamo))
        manual = {"nim-llm-router": {"policy": "task_router", "routing_strategy": "manual", "model": "Other"}}
        assert _ask(gateway, **manual) == (503, "busy", "manual")
        assert _ask(gateway, model="busy") == (503, "busy", "passthrough")


def test_a_prompt_that_does_not_fit(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """A request that is too long for a model goes to the fallback that has room; a short one stays."""
    with scripted_upstream(status=200) as small:
        gateway = start_gateway(_config(small.url, "small", dynamo, more=", context_length: 200"))
        assert _ask(gateway)[1:] == ("small", "decided")
        assert _ask(gateway, max_tokens=300)[1:] == (_SMALL, "context_length")
        long = [{"role": "system", "content": "x" * 2000}, {"role": "user", "content": _PROMPT}]
        answer = gateway.post("/v1/chat/completions", {"messages": long, "max_tokens": 4})
        assert answer.headers["x-router-reason"] == "context_length" and len(small.received) == 1
