"""scripts/policy_diff: what another configuration would change for requests that were seen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load_config
from gateway.decision import Decision
from scripts.diffing.compare import label_quality
from scripts.diffing.diff import main
from scripts.diffing.outcome import Place, Side, decided_by_both, outcomes, question_of, scores_of
from scripts.diffing.replay import Request, read_requests
from scripts.diffing.show import names_of
from scripts.local.triton import Triton
from scripts.training.data import DataError
from tests.conftest import WITHOUT_CACHE, StartGateway
from tests.gateway.client import chat

BASE = "http://upstream:8000"
COSTS = {"large": {"input": 2, "output": 10}, "small": {"input": 0.5, "output": 1}}
PROMPTS = (
    "Write a Python function that counts the words in a file.",
    "Give me ten ideas for a birthday party, please.",
    "Say this more politely: 'Take it away, now.'",
    "Good evening! How are you?",
    "zxq zxq",
)


def upstream(model: str) -> dict[str, Any]:
    return {"api_base": BASE, "model": model} | ({"cost": COSTS[model]} if model in COSTS else {})


def tasks(models: dict[str, str], **keys: Any) -> dict[str, Any]:
    """A policy of the task classifier: a model for each label."""
    llms = [{"name": label} | upstream(model) for label, model in models.items()]
    return {"name": "tasks", "url": "http://t:8000/v2/models/task_router_ensemble/infer", "llms": llms} | keys


def pair(threshold: float = 0.5, **keys: Any) -> dict[str, Any]:
    """A RouteLLM policy."""
    sides = {"strong": upstream("large"), "weak": upstream("small")}
    return {"name": "pair", "type": "routellm", "threshold": threshold, "timeout_ms": 30_000} | sides | keys


MANUAL = {"nim-llm-router": {"policy": "tasks", "routing_strategy": "manual", "model": "Chatbot"}}
TASKS = tasks({"Chatbot": "small", "Code Generation": "large", "Unknown": "small"})


def write_config(path: Path, *policies: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"policies": list(policies)}))
    return path


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def logged(label: str | None = None, policy: str = "tasks", **fields: Any) -> dict[str, Any]:
    """A line of the gateway's log."""
    line = {"event": "request", "policy": policy, "label": label, "reason": "decided", "win_rate": None}
    return line | {"confidence": 0.9, "tokens_in_prompt": 100} | fields


class Diff:
    """Runs the command on configurations and lines, and reads what it says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.warnings: list[str] = []

    def run(
        self, old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], lines: Sequence[Any], *arguments: str
    ) -> tuple[int, str, list[str]]:
        files = [write_config(self.folder / f"{name}.yaml", *each) for name, each in (("old", old), ("new", new))]
        replay = write_lines(self.folder / "replay.jsonl", lines)
        code = main([*map(str, files), "--replay", str(replay), *arguments])
        captured = self.capsys.readouterr()
        lines = captured.err.splitlines()
        self.warnings = [line for line in lines if line.startswith("warning: ")]
        return code, captured.out, [line for line in lines if not line.startswith("warning: ")]

    def json(
        self, old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], lines: Sequence[Any], *arguments: str
    ) -> dict[str, Any]:
        code, out, err = self.run(old, new, lines, "--json", *arguments)
        assert (code, err) == (0, [])
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture
def diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Diff:
    return Diff(tmp_path, capsys)


def test_nothing_differs(diff: Diff) -> None:
    """A configuration against itself moves nothing and costs the same; every limit of 0 holds that can be judged."""
    lines = [logged("Chatbot"), logged("Code Generation", confidence=0.2), logged("Open QA")]
    code, out, _ = diff.run([TASKS], [TASKS], lines, "--max-moved", "0", "--max-cost-increase", "0")
    assert code == 0 and out.startswith("0 of 3 requests move (0.0%)\n")


def test_what_moves(diff: Diff) -> None:
    """A label's new model takes its requests; they are counted by model and by label, and so is what has no llm."""
    new = tasks({"Chatbot": "large", "Code Generation": "large", "Unknown": "small"})
    lines = [logged("Chatbot"), logged("Chatbot"), logged("Code Generation"), logged("Open QA")]
    found = diff.json([TASKS], [new], lines)
    assert found["moved"] == {"requests": 2, "share": 0.5}
    small, large = ({"api_base": BASE, "model": model} for model in ("small", "large"))
    assert found["moves"] == [{"old": small, "new": large, "requests": 2}]
    assert found["labels"][0] == {"label": "Chatbot", "old": 2, "new": 2, "moved": 2}
    assert sorted(each["label"] for each in found["labels"]) == ["Chatbot", "Code Generation", "Open QA"]


def test_what_is_abstained_from(diff: Diff) -> None:
    """With a min_confidence the unsure decisions of a log go where on_abstain says, and count as abstained."""
    new = TASKS | {"min_confidence": 0.6, "on_abstain": "huge"}
    lines = [logged("Chatbot", confidence=each) for each in (0.59, 0.6, 1.0)]
    lines += [logged("Chatbot", confidence=None), logged(None, reason="decision_timeout", confidence=None)]
    found = diff.json([TASKS], [new], lines)
    assert found["abstained_share"] == {"old": 0, "new": 0.2}
    assert [(each["new"]["model"], each["requests"]) for each in found["moves"]] == [("huge", 1)]


def test_a_log_without_confidences(diff: Diff) -> None:
    """One from before gateways logged confidences says nothing of a min_confidence, and all else."""
    older = [{"event": "request", "policy": "tasks", "label": "Chatbot", "reason": "decided", "score": 0.3}]
    assert diff.json([TASKS], [TASKS], older)["moved"]["requests"] == 0
    code, out, err = diff.run([TASKS], [TASKS | {"min_confidence": 0.6}], [logged("Chatbot"), *older])
    assert (code, out, len(err)) == (2, "", 1)
    assert err[0].endswith("line 2: the log is older than what min_confidence is judged by; replay prompts")


def test_a_threshold(diff: Diff) -> None:
    """A RouteLLM policy's threshold divides the log's win rates; without a decision its fallback answers."""
    lines = [logged("weak", "pair", win_rate=each / 10, confidence=None) for each in range(10)]
    lines.append(logged(None, "pair", reason="triton_unavailable"))
    found = diff.json([pair(0.5)], [pair(0.8, fallback="weak")], lines)
    assert found["strong_share"] == {"old": pytest.approx(6 / 11), "new": pytest.approx(2 / 11)}
    assert found["moved"]["requests"] == 4
    assert found["labels"][-1] == {"label": "(triton_unavailable)", "old": 1, "new": 1, "moved": 1}


def test_a_held_share(diff: Diff) -> None:
    """A policy that holds its share of strong calls moves its threshold along the replay, as in the gateway."""
    lines = [logged("weak", "pair", win_rate=(number * 37 % 1000) / 1000) for number in range(2000)]
    found = diff.json([pair(0.9)], [pair(0.9, target_strong_share=0.5)], lines)
    assert found["strong_share"]["old"] == pytest.approx(0.1, abs=0.01)
    assert found["strong_share"]["new"] == pytest.approx(0.5, abs=0.06)


def test_costs(diff: Diff) -> None:
    """A request costs its prompt's tokens and its answer's, assumed where it does not tell, by each side's prices."""
    new = tasks({"Chatbot": "large", "Code Generation": "large", "Unknown": "small"})
    lines = [logged("Chatbot", output_tokens=10), logged("Code Generation", tokens_in_prompt=3)]
    found = diff.json([TASKS], [new], lines, "--output-tokens", "20")["cost"]
    code = (3 * 2 + 20 * 10) / 1e6
    assert found["total"] == {
        "old": pytest.approx((100 * 0.5 + 10 * 1) / 1e6 + code),
        "new": pytest.approx((100 * 2 + 10 * 10) / 1e6 + code),
    }
    assert found["increase"] == pytest.approx(found["total"]["new"] / found["total"]["old"] - 1)
    assert (found["assumed"], found["unpriced"]) == (1, [])


def test_costs_that_nobody_knows(diff: Diff) -> None:
    """There is no total where a model has no cost, or a decision no tokens; it is said, and a limit on it fails."""
    new = tasks({"Chatbot": "huge", "Unknown": "small"})
    for lines, said in (
        ([logged("Chatbot")], "no cost of huge"),
        ([logged("Unknown", tokens_in_prompt=None)], "1 requests do not tell their prompts' tokens"),
    ):
        code, out, err = diff.run([TASKS], [new], lines, "--max-cost-increase", "5")
        assert (code, err) == (2, [f"policy_diff: --max-cost-increase 5 can't be judged: {said}"])
        assert "no estimated cost: " in out
    twice = tasks({"Chatbot": "small", "Unknown": "small"})
    twice["llms"][1]["cost"] = {"input": 0, "output": 0}
    code, _, err = diff.run([TASKS], [twice], [logged("Chatbot")])
    assert (code, err) == (2, [f"policy_diff: NEW: model 'small' at {BASE} has different costs"])


def test_costs_of_some(diff: Diff) -> None:
    """A timeout in the log, and requests for the same model without a price on both sides, are left out of both sums,
    and it is said."""
    old = tasks({"Chatbot": "small", "Open QA": "huge", "Unknown": "small"})
    new = tasks({"Chatbot": "large", "Open QA": "huge", "Unknown": "small"})
    timeout = logged(None, reason="decision_timeout", tokens_in_prompt=None)
    lines = [logged("Chatbot"), logged("Open QA"), logged("Open QA"), timeout]
    code, out, _ = diff.run([old], [new], lines, "--output-tokens", "10", "--max-cost-increase", "9")
    assert code == 0
    assert "cost: 1 requests do not tell their prompts' tokens, and are left out" in out
    assert "cost: 2 requests go to the same model without a cost on both sides, and are left out" in out
    found = diff.json([old], [new], lines, "--output-tokens", "10")["cost"]
    assert found["total"] == {"old": pytest.approx(60 / 1e6), "new": pytest.approx(300 / 1e6)}
    assert (found["unmeasured"], found["same_unpriced"], found["assumed"]) == (1, 2, 1)
    _, _, err = diff.run([old], [new], [logged("Open QA")], "--max-cost-increase", "9")
    why = "1 requests go to the same model without a cost on both sides"
    assert err == [f"policy_diff: --max-cost-increase 9 can't be judged: {why}"]


def test_free_of_charge(diff: Diff) -> None:
    """From nothing to something is past any limit, and JSON all the same."""
    old = tasks({"Chatbot": "small"})
    old["llms"][0]["cost"] = {"input": 0, "output": 0}
    code, out, _ = diff.run([old], [TASKS], [logged("Chatbot")], "--max-cost-increase", "9", "--json")
    assert code == 1
    (limit,) = json.loads(out)["limits"]
    assert (limit["exceeded"], limit["value"]) == (True, None)


@pytest.mark.parametrize(
    ("limits", "code", "said"),
    [
        (["--max-moved", "0.5"], 0, []),
        (["--max-moved", "0.49"], 1, ["--max-moved 0.49: 50.0% of the requests move"]),
        (["--max-cost-increase", "0.2"], 1, ["--max-cost-increase 0.2: "]),
        (["--max-quality-drop", "1"], 2, ["--max-quality-drop 1 can't be judged: no truths"]),
        (
            ["--max-moved", "0", "--max-strong-share-change", "1"],
            2,
            ["--max-strong-share-change 1 can't be judged: no request that a RouteLLM", "--max-moved 0: 50.0%"],
        ),
    ],
)
def test_limits(diff: Diff, limits: list[str], code: int, said: list[str]) -> None:
    """A limit that is exceeded is named, with exit code 1; one that nobody can judge is a fault, with exit code 2."""
    new = tasks({"Chatbot": "large", "Code Generation": "large", "Unknown": "small"})
    lines = [logged("Chatbot"), logged("Code Generation")]
    found, out, err = diff.run([TASKS], [new], lines, *limits)
    assert found == code and out.startswith("1 of 2 requests move")
    assert len(err) == len(said)
    assert all(line.startswith(f"policy_diff: {part}") for line, part in zip(err, said, strict=True)), err


def test_a_changed_share_of_strong_calls(diff: Diff) -> None:
    """The limit holds for a share that rises, and for one that falls."""
    lines = [logged("weak", "pair", win_rate=each / 10) for each in range(10)]
    for old, new in ((0.5, 0.8), (0.8, 0.5)):
        code, _, err = diff.run([pair(old)], [pair(new)], lines, "--max-strong-share-change", "0.29")
        assert (code, err) == (
            1,
            ["policy_diff: --max-strong-share-change 0.29: 30.0% of the calls change between strong and weak"],
        )
        assert diff.run([pair(old)], [pair(new)], lines, "--max-strong-share-change", "0.3")[0] == 0


OWN = tasks({"a": "small", "b": "large"}) | {"url": "http://t:8000/v2/models/own/infer"}


@pytest.mark.parametrize(
    ("old", "new", "lines", "said"),
    [
        ([TASKS], [pair()], [logged("Chatbot")], ["line 1: policy 'tasks' is not in NEW (there: pair)"]),
        (
            [TASKS],
            [TASKS | {"url": "http://t:8000/v2/models/own/infer"}],
            [logged("Chatbot")],
            ["line 1: policy 'tasks': OLD asks task_router_ensemble, NEW own, and a log holds what one model decided"],
        ),
        (
            [TASKS],
            [TASKS | {"input": "conversation"}],
            [logged("Chatbot")],
            ["line 1: policy 'tasks': its input is last_user in OLD and conversation in NEW; replay prompts"],
        ),
        ([pair()], [pair()], [logged("a", "pair")], ["line 1: policy 'pair' decides by a win rate, and this line's"]),
        ([TASKS], [TASKS], [logged("a", win_rate=0.5)], ["line 1: policy 'tasks' decides by a label alone"]),
        (
            [OWN],
            [OWN],
            [logged("0"), logged("1")],
            [
                "line 1: policy 'tasks': no llm of OLD is named after a label of the log",
                "line 1: policy 'tasks': no llm of NEW is named after a label of the log",
            ],
        ),
    ],
)
def test_what_a_log_can_not_tell(
    diff: Diff, old: list[dict[str, Any]], new: list[dict[str, Any]], lines: list[Any], said: list[str]
) -> None:
    """A log's decisions are replayed only where they say what both configurations would make of the requests."""
    code, out, err = diff.run(old, new, lines)
    assert (code, out, len(err)) == (2, "", len(said))
    assert all(part in line for line, part in zip(err, said, strict=True)), err


def test_a_model_of_ones_own_from_a_log(diff: Diff) -> None:
    """Labels that this project does not know are replayed by the llms' names."""
    new = OWN | {"llms": [OWN["llms"][0], OWN["llms"][1] | upstream("small")]}
    assert diff.json([OWN], [new], [logged("a"), logged("b"), logged("c")])["moved"]["requests"] == 1


def test_what_a_log_holds(tmp_path: Path) -> None:
    """Messages, lines that are no JSON and requests that named their model are skipped in a log, and counted."""
    lines = [
        "warning: x",
        "7",
        "[" * 100_000,
        {"event": "started"},
        logged("Chatbot"),
        logged(None, reason="manual"),
        logged(policy=None),  # type: ignore[arg-type]
    ]
    log = write_lines(tmp_path / "gateway.log", lines)
    replay = read_requests([log])
    assert (len(replay.requests), replay.skipped) == (1, 6)
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"text": "a"}, "{", "[" * 100_000])
    with pytest.raises(DataError) as raised:  # a log beside it excuses nothing
        read_requests([log, prompts])
    second, third = str(raised.value).splitlines()
    assert f"{prompts}, line 2: not JSON" in second and f"{prompts}, line 3: not JSON" in third


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{", '{"text": "a"}', "[]"], ["line 1: not JSON", "line 3: expected a JSON object"]),
        (["{}"], ["line 1: expected one of text, prompt, messages, or a line of the gateway's log"]),
        ([{"text": 1}], ["line 1: 'text' should be a text"]),
        ([{"messages": "a"}], ["line 1: 'messages' must be a list"]),
        ([{"text": "a", "policy": 1}], ["line 1: 'policy' should be a text, and is 1"]),
        ([{"text": "a", "strong": 1}], ["line 1: 'strong' and 'weak' belong together"]),
        ([{"text": "a", "strong": 2, "weak": 0}], ["line 1: 'strong' should be 0 or 1"]),
        ([{"text": "a", "output_tokens": -1}], ["line 1: 'output_tokens' should be a whole number from 0 on"]),
        ([logged("a", confidence=1.5)], ["line 1: 'confidence' should be a number from 0.0001 to 1, and is 1.5"]),
        ([logged("a", win_rate=2)], ["line 1: 'win_rate' should be a number from 0 to 1"]),
        ([{"event": "started"}], ["no request that a policy decides"]),
        ([], ["no request that a policy decides"]),
    ],
)
def test_wrong_lines(tmp_path: Path, lines: list[Any], said: list[str]) -> None:
    """Each broken line is a fault with its number."""
    with pytest.raises(DataError) as raised:
        read_requests([write_lines(tmp_path / "a.jsonl", lines)])
    found = str(raised.value).splitlines()
    assert len(found) == len(said)
    assert all(part in line for line, part in zip(found, said, strict=True)), found


def test_what_a_request_asks_for(diff: Diff, tmp_path: Path) -> None:
    """`model` and `nim-llm-router` choose as in the gateway: a policy, a router with a threshold, or a model, which
    nothing decides; what one of the gateways would refuse, or only one decide, is a fault."""
    side = Side("OLD", load_config(write_config(tmp_path / "a.yaml", TASKS, pair())))

    def request(**fields: Any) -> Request:
        return Request("a", prompt={"text": "x"} | fields)

    asked = [
        request(model="auto"),
        request(model="pair"),
        request(model="router-bert-0.3"),
        request(**{"nim-llm-router": {"policy": "pair", "threshold": 0.7}}),
    ]
    assert decided_by_both([*asked, request(model="small"), request(**MANUAL)], (side, side)) == asked
    questions = [question_of(side, "t:8001", each) for each in asked]
    models = [question.model for question in questions if question is not None]
    assert models == ["task_router_ensemble", "routellm_mf", "routellm_bert", "routellm_mf"]
    decision = Decision("", (), (), win_rate=0.4)
    assert [each.place.model for each in outcomes(side, asked[1:], [decision] * 3)] == ["small", "large", "small"]

    lines = [{"text": "x"} | each for each in ({"model": "pair"}, {"model": 7}, {"nim-llm-router": {"policy": "b"}})]
    code, out, err = diff.run([TASKS, pair()], [TASKS, tasks({"Chatbot": "pair"}, name="b")], lines)
    assert (code, out, len(err)) == (2, "", 3)
    assert err[0].endswith("line 1: names its model by NEW, and a policy by the other side")
    assert err[1].endswith("line 2: 'model' must be a string") and "line 3: there is no policy 'b'" in err[2]
    code, _, err = diff.run([TASKS], [TASKS], [{"text": "x", "model": "small"}])
    assert (code, err) == (2, [f"policy_diff: {tmp_path / 'replay.jsonl'}: no request that a policy decides"])


def test_labels_without_names(tmp_path: Path) -> None:
    """The labels of a model without a label file are numbers, and truths are compared with those."""
    policy = tasks({"0": "small", "1": "large"}, url="http://t:8000/v2/models/own/infer")
    side = Side("OLD", load_config(write_config(tmp_path / "a.yaml", policy)))
    requests = [Request("a", prompt={"text": "x"}, label=label) for label in "10"]
    found = outcomes(side, requests, [Decision("1", ("", ""), (0.25, 0.75))] * 2)
    quality, _ = label_quality(requests, list(zip(found, found, strict=True)))
    assert quality == (2, (0.5, 0.5))


def test_another_configurations_log(diff: Diff) -> None:
    """A log in which other models answered than OLD chooses is said to be one."""
    lines = [logged("Chatbot", model=model) for model in ("small", "large", "huge")]
    _, out, _ = diff.run([TASKS], [TASKS], lines)
    assert "2 logged requests were answered by another model than OLD's choice" in out


def test_wrong_configurations(tmp_path: Path, diff: Diff, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faults of both files are said at once; a key whose variable is not set is only warned of."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    code, out, err = diff.run([TASKS | {"x": 1}], [TASKS | {"y": 1}], [logged("Chatbot")])
    assert (code, out, len(err)) == (2, "", 2)
    assert "old.yaml: policies[0].x: unknown key" in err[0] and "new.yaml: policies[0].y: unknown key" in err[1]
    shy = tasks({"Chatbot": "small"})
    shy["llms"][0]["api_key"] = "${NO_SUCH_KEY}"
    code, _, err = diff.run([TASKS], [shy], [logged("Chatbot")])
    assert (code, err) == (0, []) and any("NO_SUCH_KEY is not set" in line for line in diff.warnings)


@given(st.floats(1e-4, 1))
def test_any_logged_confidence(confidence: float) -> None:
    """A decision out of the log is exactly as confident as it was."""
    scores = scores_of(confidence)
    assert Decision("a", ("a",), scores).confidence == confidence


def test_a_prompt_that_is_too_long(tmp_path: Path) -> None:
    """A request that is too long for its model goes to the fallback that has room, as in the gateway."""
    policy = tasks({"Chatbot": "small", "Unknown": "large"})
    policy["llms"][0] |= {"context_length": 100, "fallbacks": ["Unknown"]}
    side = Side("NEW", load_config(write_config(tmp_path / "a.yaml", policy)))
    requests = [Request("a", prompt={"text": "x" * size}) for size in (300, 500)]
    requests.append(Request("a", prompt={"messages": [{"role": "user", "content": "x"}], "max_tokens": 200}))
    decision = Decision("Chatbot", ("Chatbot", "Unknown"), (0.9, 0.1))
    places = [each.place.model for each in outcomes(side, requests, [decision] * 3)]
    assert places == ["small", "large", "large"]


def test_models_of_one_name() -> None:
    """A model's name stands alone, unless it is served in two places."""
    places = [Place("http://a", "x"), Place("http://b", "x"), Place("http://a", "y")]
    assert list(names_of(places).values()) == ["x at http://a", "x at http://b", "y"]


def test_prompts_and_log_show_what_the_gateway_does(
    triton: Triton, start_gateway: StartGateway, diff: Diff, tmp_path: Path
) -> None:
    """Prompts through Triton move as they do from one real gateway to the other, and so does the first one's log."""
    old = tasks({"Chatbot": "small", "Code Generation": "large", "Unknown": "small"}, timeout_ms=30_000)
    new = tasks({"Chatbot": "large", "Unknown": "huge"}, min_confidence=0.7, on_abstain="large", timeout_ms=30_000)
    gateways = [start_gateway(WITHOUT_CACHE + yaml.safe_dump({"policies": [each, pair()]})) for each in (old, new)]
    bodies = [chat(text) for text in (*PROMPTS, " ")]
    bodies += [chat(PROMPTS[0], **{"nim-llm-router": {"policy": "pair"}})]
    models = [[each.post("/v1/route", body).json()["model"] for body in bodies] for each in gateways]
    expected = Counter((*pair,) for pair in zip(*models, strict=True) if pair[0] != pair[1])
    lines = [{"messages": body["messages"]} for body in bodies]
    lines[-1]["policy"] = "pair"
    found = diff.json([old, pair()], [new, pair()], lines, "--triton", triton.grpc_url)
    moves = Counter({(each["old"]["model"], each["new"]["model"]): each["requests"] for each in found["moves"]})
    assert moves == expected and expected.total() >= 2
    assert found["checkpoints"]["old"] == found["checkpoints"]["new"] != []

    log = [line for line in gateways[0].log_lines() if line.get("path") == "/v1/route"]
    again = diff.json([old, pair()], [new, pair()], log)
    assert (again["requests"], again["skipped"], again["unlike_log"]) == (len(bodies), 0, 0)
    for key in ("moved", "moves", "labels", "abstained_share", "strong_share"):
        assert again[key] == found[key], key


def test_quality(triton: Triton, diff: Diff) -> None:
    """Labels and right answers are counted on both sides; a rise is no drop, and a label that nobody has a fault."""
    renamed = TASKS | {"url": "http://t:8000/v2/models/renamed_ensemble/infer"}
    asked = ("--triton", triton.grpc_url)
    lines: list[dict[str, Any]] = [
        {"text": PROMPTS[0], "label": "Code Generation"},
        {"text": PROMPTS[3], "label": "Rewrite"},
    ]
    lines += [{"text": PROMPTS[1], "policy": "pair", "strong": 1, "weak": 0}] * 2
    old, new = [TASKS, pair(1)], [renamed, pair(0)]
    found = diff.json(old, new, lines, *asked, "--max-quality-drop", "0", "--max-strong-share-change", "1")
    assert found["quality"]["labels"] == {"requests": 2, "old": 0.5, "new": 0.5}
    assert found["quality"]["answers"] == {"requests": 2, "old": 0, "new": 1}
    code, _, err = diff.run(new, old, lines, *asked, "--max-quality-drop", "0.99")
    assert (code, err[-1]) == (1, "policy_diff: --max-quality-drop 0.99: 100.0% fewer right answers")
    code, _, err = diff.run(old, new, [lines[0] | {"label": "Poem"}], *asked)
    assert code == 2 and err[-1].endswith("line 1: 'label' is 'Poem', which is no label of the model that decides")


def test_a_model_that_counts_no_tokens(triton: Triton, diff: Diff) -> None:
    """Where no model tells a prompt's tokens, four bytes of what decides count as one, and it is said."""
    own = tasks({"Chatbot": "small"}) | {"url": "http://t:8000/v2/models/renamed_ensemble/infer"}
    messages = [{"role": "user", "content": text} for text in (PROMPTS[0], PROMPTS[3])]
    cost = diff.json([own], [own], [{"messages": messages}], "--triton", triton.grpc_url)["cost"]
    assert (cost["estimated"], cost["assumed"]) == (1, 1)
    assert cost["total"]["old"] == pytest.approx((-(-len(PROMPTS[3]) // 4) * 0.5 + 256 * 1) / 1e6)


def test_a_triton_that_fails(triton: Triton, diff: Diff) -> None:
    """Without a decision there is no difference: one line, and an exit code of its own; so with a Triton for NEW."""
    nowhere = "127.0.0.1:1"
    for arguments in (("--triton", nowhere), ("--triton", triton.grpc_url, "--new-triton", nowhere)):
        code, out, err = diff.run([TASKS], [TASKS], [{"text": "Hi"}], *arguments)
        assert (code, out) == (3, "")
        assert err[-1].startswith(f"policy_diff: no Triton answers at {nowhere} (")
    code, _, err = diff.run([TASKS], [TASKS], [logged("Chatbot")], "--new-triton", nowhere)
    assert code == 2 and err[-1].endswith("asks a network that a log's decisions are not of; replay prompts")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--replay"),
        (["--replay", "a", "--max-moved", "-1"], "--max-moved: expected a share from 0 on, as 0.05, and got '-1'"),
        (["--replay", "a", "--max-moved", "inf"], "expected a share"),
        (["--replay", "a", "--output-tokens", "x"], "--output-tokens: expected a whole number from 0 on"),
        (["--replay", "a", "--triton", "x"], "expected HOST:PORT"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument ends with the usage and one line, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["old.yaml", "new.yaml", *arguments])
    assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
