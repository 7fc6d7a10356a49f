"""`scripts/report` on a log that a real gateway wrote, and on what is none."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, StartGateway
from tests.gateway.client import chat, eventually
from tests.gateway.test_metrics import CHEAP, DEAR, LARGE, SMALL, llm, policy

Line = dict[str, Any]


def _report(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "scripts" / "report", *arguments], capture_output=True, text=True, timeout=120)


def _line(**fields: Any) -> Line:
    """A line of a request that was answered by the cheap one of two models."""
    line = {"time": "2026-01-31T12:00:00.000+00:00", "event": "request", "path": "/v1/chat/completions", "status": 200}
    line |= {"outcome": "complete", "policy": "p", "model": "small", "reason": "decided"}
    line |= {"input_tokens": 1000, "output_tokens": 100, "cost": 0.25, "cost_at_strongest": 1.0}
    return line | fields


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A log with these lines; text goes in as it is."""

    def written(*lines: Line | str) -> Path:
        file = tmp_path / "gateway.log"
        file.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
        return file

    return written


def test_a_gateways_log(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Requests, tokens and saving of a log are those of the requests that were made; the plot is a picture."""
    to_small = policy("to_small", llm("Code Generation", SMALL, CHEAP), llm("Other", LARGE, DEAR))
    gateway = start_gateway("policies:\n" + to_small)
    body = chat("Write a Python function to sort a list", model="auto")
    usage = [gateway.post("/v1/chat/completions", body).json()["usage"] for _ in range(3)]
    gateway.post("/v1/chat/completions", body | {"stream": True})
    gateway.post("/v1/route", body)
    gateway.post("/v1/chat/completions", body | {"model": "made\u001bup"})
    assert eventually(lambda: sum(line.get("path") == "/v1/chat/completions" for line in gateway.log_lines()) == 5)
    done = _report(gateway.process.log, "--json", "--plot", tmp_path / "saved.png")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    small = found["policies"]["to_small"]["models"][SMALL]
    prompt = sum(each["prompt_tokens"] for each in usage)
    assert (small["requests"], small["answers"], small["without_tokens"]) == (4, 4, 1)
    assert (small["input_tokens"], small["output_tokens"]) == (prompt, 12)
    assert small["cost"] == pytest.approx((prompt * 0.1 + 12 * 0.2) / 1e6)
    assert small["at_strongest"] == pytest.approx((prompt * 1 + 12 * 10) / 1e6)
    assert small["saved"] == pytest.approx(small["at_strongest"] - small["cost"])
    assert found["policies"]["to_small"]["reasons"] == {"cached": 3, "decided": 1}
    assert list(found["policies"][""]["models"]) == ["(unknown)"]
    assert (tmp_path / "saved.png").read_bytes().startswith(b"\x89PNG")
    shown = _report(gateway.process.log).stdout
    assert "cold prefix" in shown and "Answers in no sum: 1." in shown and "\x1b" not in shown
    assert f"{small['saved_share']:.1%}" in shown


def test_sums(write: Callable[..., Path]) -> None:
    """What has no tokens, no cost or no comparison is in no sum that would need it, and is told."""
    log = write(
        _line(),
        _line(model="large", cost=3.0, cost_at_strongest=3.0),
        _line(input_tokens=None, output_tokens=None, cost=None, cost_at_strongest=None),
        _line(cost=None, cost_at_strongest=None),
        _line(cost_at_strongest=None, policy="q"),
        _line(status=503, input_tokens=None, output_tokens=None, cost=None, cost_at_strongest=None),
        _line(policy=None, model="named", reason="passthrough", cost_at_strongest=0.25),
        _line(path="/v1/route"),
        {"time": "2026-01-31T12:00:00.000+00:00", "event": "Started server process [7]"},
        "a line of somebody else's",
        "[1, 2]",
    )
    total = json.loads(_report(log, "--json").stdout)["total"]
    assert (total["requests"], total["answers"], total["without_tokens"]) == (7, 6, 1)
    assert (total["without_cost"], total["without_comparison"]) == (1, 1)
    assert (total["input_tokens"], total["output_tokens"]) == (5000, 500)
    assert total["cost"] == 0.25 + 3 + 0.25 + 0.25 and total["at_strongest"] == 1 + 3 + 0.25
    assert total["saved"] == 0.75 and total["saved_share"] == 0.75 / 4.25
    shown = _report(log).stdout
    for note in (
        "Answers in no sum: 1.",
        "Answers of models without a cost: 1.",
        "Answers that saved nothing known: 1.",
        "4 other lines",
    ):
        assert note in shown


def test_a_dash_for_what_nobody_told(write: Callable[..., Path]) -> None:
    """No answer's usage, no cost, or no comparison: none of them is a 0, which a model that costs nothing has."""
    nothing = {"input_tokens": None, "output_tokens": None, "cost": None, "cost_at_strongest": None}
    log = write(
        _line(model="silent", **nothing),
        _line(model="priceless", cost=None, cost_at_strongest=None),
        _line(model="alone", cost=0.5, cost_at_strongest=None),
        _line(model="free", cost=0, cost_at_strongest=2),
        _line(model="idle", cost=0, cost_at_strongest=0),
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in _report(log).stdout.splitlines()]
    assert {row[1]: row[4:] for row in rows if len(row) == 10 and row[0] == "p" and row[1] != "all"} == {
        "silent": ["-", "-", "-", "-", "-", "-"],
        "priceless": ["1,000", "100", "-", "-", "-", "-"],
        "alone": ["1,000", "100", "0.5", "-", "-", "-"],
        "free": ["1,000", "100", "0", "2", "2", "100.0%"],
        "idle": ["1,000", "100", "0", "0", "0", "-"],
    }


def test_times_are_compared_in_one_zone(write: Callable[..., Path]) -> None:
    """Whatever zone a line has, the span is told in UTC."""
    log = write(_line(time="2026-01-31T12:00:00+10:00"), _line(time="2026-01-31T01:00:00-02:00"))
    assert "2026-01-31 02:00:00 to 2026-01-31 03:00:00 UTC" in _report(log).stdout
    assert json.loads(_report(log, "--json").stdout)["first"] == "2026-01-31T02:00:00+00:00"


def test_a_plot_of_any_names(write: Callable[..., Path], tmp_path: Path) -> None:
    """A policy may be called like a formula, a broken one too."""
    done = _report(write(_line(policy=r"$\frac$"), _line(policy="_$x^2$")), "--plot", tmp_path / "saved.png")
    assert done.returncode == 0 and not done.stderr
    assert (tmp_path / "saved.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"time": "yesterday"}, "'time' should be a time"),
        ({"time": "2026-01-31T12:00:00"}, "'time' should be a time with its zone"),
        ({"time": None}, "'time' should be"),
        ({"time": "0001-01-01T00:00:00+10:00"}, "'time' should be"),
        ({"time": "9999-12-31T23:00:00-10:00"}, "'time' should be"),
        ({"model": 3}, "'model' should be a text"),
        ({"input_tokens": "3"}, "'input_tokens' should be a whole number"),
        ({"output_tokens": -1}, "'output_tokens' should be a whole number"),
        ({"input_tokens": True}, "'input_tokens' should be a whole number"),
        ({"input_tokens": None}, "belong together"),
        ({"cost": "free"}, "'cost' should be a number"),
        ({"cost": float("nan")}, "'cost' should be a number"),
        ({"cost": 10**400}, "'cost' should be a number"),
        ({"cost": 1e308}, "'cost' should be a number"),
        ({"cost_at_strongest": -0.1}, "'cost_at_strongest' should be a number"),
    ],
)
def test_wrong_lines(write: Callable[..., Path], fields: Line, fault: str) -> None:
    """Each wrong value is told with its line, and nothing is reported."""
    done = _report(write(_line(), _line(**fields), _line(reason=7)))
    assert done.returncode == 2 and not done.stdout
    first, second = done.stderr.splitlines()
    assert fault in first and "line 2" in first and "line 3: 'reason'" in second


def test_no_log(write: Callable[..., Path], tmp_path: Path) -> None:
    """What holds no request, is not there or is given twice is refused, and so is a picture that can't be written."""
    empty = write('{"text": "a prompt"}')
    assert "no request for a model's answer" in _report(empty).stderr
    assert "can't be read" in _report(tmp_path / "none.log").stderr
    log = write(_line())
    assert "given twice" in _report(log, log).stderr
    done = _report(log, "--plot", tmp_path / "none" / "saved.png")
    assert done.returncode == 2 and "none/saved.png" in done.stderr and not done.stdout
