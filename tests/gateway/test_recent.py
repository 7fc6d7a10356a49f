from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.chat import Routed
from gateway.observe.recent import KEPT, SHOWN, Recent, merged
from gateway.observe.record import Record
from gateway.policy import Selection, Target
from tests.gateway.client import Gateway, chat

_ROUTED = Routed(Selection((Target("http://x", "m", "sk-secret", name="llm"),), "decided", "Other"))
_RECORD = Record("id", "POST", "/v1/chat/completions", 200, "complete", 1.0, 0.4, 0.5, 10, _ROUTED, "alice", None, None)


def test_rows_hold_no_content(gateway: Gateway) -> None:
    """A row has names and figures: no prompt, answer, key, client or request id, nor a model's name that the client
    made up. What names no model has no row."""
    made_up, prompt = "no-such-model-of-a-client", "a prompt of great secrecy"
    gateway.post("/v1/chat/completions", chat(prompt, model=made_up))
    gateway.post("/v1/chat/completions", chat(prompt), headers={"x-request-id": "an-id-of-its-own"})
    assert gateway.post("/v1/chat/completions", chat(prompt, model=7)).status_code == 400
    answer = gateway.get("/decisions")
    told = answer.json()
    routed, passed = told["decisions"][:2]
    assert (routed["policy"], routed["reason"], routed["status"]) == ("task_router", "decided", 200)
    assert (passed["policy"], passed["model"], passed["reason"]) == (None, None, "passthrough")
    assert routed["time"] >= passed["time"] and 0 < routed["decision_ms"] <= routed["first_byte_ms"]
    assert 0 < routed["tokens_read"] == routed["tokens_in_prompt"]
    assert routed["output_tokens"] == 4 and routed["input_tokens"] > 0
    assert not {"client", "request_id"} & routed.keys()
    for hidden in (made_up, "secrecy", "an-id-of-its-own"):
        assert hidden not in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_what_is_kept_is_bounded() -> None:
    """The newest thousand are counted, the newest hundred of them shown, newest first; only those sent on have a
    share."""
    recent = Recent()
    recent.note(replace(_RECORD, routed=None))
    for number in range(KEPT + 500):
        path = "/v1/route" if number < 600 else _RECORD.path
        recent.note(replace(_RECORD, path=path, status=number))
    told = recent.summary()
    assert told["kept"] == KEPT and told["models"] == {"m": 900} and told["policies"] == {"": 900}
    assert [row["status"] for row in told["decisions"]] == list(range(KEPT + 499, KEPT + 499 - SHOWN, -1))
    assert "sk-secret" not in str(told) and "alice" not in str(told)


_ROWS = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("ab")), max_size=300)


@given(st.lists(_ROWS, max_size=4))
def test_workers_merge(workers: list[list[tuple[int, str]]]) -> None:
    """Of several workers the newest of all rows are shown, and all are counted."""

    def summary(rows: list[tuple[int, str]]) -> dict[str, Any]:
        newest = sorted(rows, reverse=True)[:SHOWN]
        counts = {name: sum(each == name for _, each in rows) for name in "ab"}
        shown = [{"time": f"{time:07}", "model": model} for time, model in newest]
        return {"kept": len(rows), "decisions": shown, "policies": {}, "models": counts}

    told = merged(map(summary, workers))
    everything = [row for rows in workers for row in rows]
    assert told["kept"] == len(everything) == sum(told["models"].values())
    newest = sorted((f"{time:07}" for time, _ in everything), reverse=True)[:SHOWN]
    assert [row["time"] for row in told["decisions"]] == newest
