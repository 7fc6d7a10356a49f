"""scripts/calibrate_threshold: the method, what it reads, and the one value that it changes in a file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import RouteLLMPolicy, load_config
from scripts.calibrating.calibrate import main
from scripts.calibrating.edit import EditError, diff, settings, with_threshold
from scripts.calibrating.threshold import CalibrationError, calibrate, strong_share, threshold_for
from scripts.calibrating.traffic import read_traffic
from scripts.evaluating.score import reach_router, score
from scripts.local.process import free_port
from scripts.local.triton import ROOT, Triton
from scripts.training.data import DataError
from tests.conftest import StartGateway
from tests.gateway.client import chat

COMMAND = ROOT / "scripts" / "calibrate_threshold"
CONFIG = """\
# Two pairs of models.
default_policy: pair   # the cheap one

policies:
  - name: pair
    type: routellm
    router: mf
    # Last calibrated in spring.
    threshold:    0.3   # a guess
    strong:
      api_base: http://upstream:8000
      api_key: sk-strong-secret
      model: large
    weak: {api_base: 'http://upstream:8000', "model": small}

  - name: other
    type: routellm
    threshold: 0.3
    input: first_user
    strong: {api_base: http://upstream:8000, model: large}
    weak: {api_base: http://upstream:8000, model: small}

  - {name: inline, type: routellm, strong: {api_base: http://u, api_key: sk-inline-secret, model: l}, threshold: 0.5,
     weak: {api_base: http://u, model: s}}

  - name: task_router
    url: http://triton:8000/v2/models/custom/infer
    llms:
      - {name: Other, api_base: http://upstream:8000, model: small}
"""


def write_lines(path: Path, values: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def decisions(win_rates: Sequence[float], **fields: Any) -> list[dict[str, Any]]:
    return [
        {"event": "request", "policy": "pair", "checkpoint": "mf:1:abc", "win_rate": rate} | fields
        for rate in win_rates
    ]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A thousand decisions, with win rates 0, .001, ... .999 in an order that says nothing."""
    order = np.random.default_rng(7).permutation(1000) / 1000
    return write_lines(tmp_path / "gateway.log", decisions(order.tolist()))


def test_the_published_method() -> None:
    """The threshold is the quantile 1 - share, on the line between two win rates, with five decimals."""
    win_rates = np.array([0.1, 0.9, 0.4, 0.2, 0.8])
    assert threshold_for(win_rates, 0.5) == 0.4
    assert threshold_for(win_rates, 0.25) == 0.8
    assert threshold_for(win_rates, 0.1) == pytest.approx(0.86)  # a quantile .9 of four steps: .8 + .6 * .1
    assert threshold_for(np.array([0, 1 / 3]), 0.5) == 0.16667
    # The win rate that equals the threshold goes to the strong model.
    assert strong_share(win_rates, 0.8) == 0.4


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.floats(0.01, 0.99))
def test_any_quantile(win_rates: list[float], share: float) -> None:
    """The threshold is what the definition of the linear quantile gives, step by step."""
    ranked = sorted(win_rates)
    place = (1 - share) * (len(ranked) - 1)
    below = min(int(place), len(ranked) - 2)
    expected = ranked[below] + (place - below) * (ranked[below + 1] - ranked[below])
    assert threshold_for(np.array(win_rates), share) == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 1000), st.integers(50, 300), st.sampled_from([0.1, 0.2, 0.5, 0.9]))
def test_two_halves(seed: int, count: int, share: float) -> None:
    """The threshold depends on one half alone; the halves share no prompt, and each share is a count of its own."""
    needed = {0.1: 100, 0.2: 50, 0.5: 20, 0.9: 100}[share]
    win_rates = np.random.default_rng(seed).random(max(count, needed))
    found = calibrate(win_rates, share, seed)
    assert abs(found.computed_on.prompts - found.held_out.prompts) <= 1
    assert found.computed_on.prompts + found.held_out.prompts == len(win_rates)
    assert found.computed_on.strong_share == pytest.approx(share, abs=1 / found.computed_on.prompts)
    reached = found.computed_on.strong_share * found.computed_on.prompts
    reached += found.held_out.strong_share * found.held_out.prompts
    assert round(reached) == (win_rates >= found.threshold).sum()
    # Whoever is held out could have any win rate.
    chosen = np.random.default_rng(seed).permutation(len(win_rates))[: found.computed_on.prompts]
    assert threshold_for(win_rates[chosen], share) == found.threshold


def test_another_seed_is_another_half() -> None:
    """The seed decides who is held out: the same one gives the same threshold."""
    win_rates = np.random.default_rng(0).random(200)
    assert calibrate(win_rates, 0.2, 1) == calibrate(win_rates, 0.2, 1) != calibrate(win_rates, 0.2, 2)


@pytest.mark.parametrize(
    ("win_rates", "share", "said"),
    [
        ([0.5] * 100, 0.2, "the win rates are too alike, from 0.5 to 0.5: the threshold 0.5 would send all prompts"),
        ([0.4999999, 0.4999998] * 50, 0.2, "too alike, from 0.4999998 to 0.4999999"),
        ([0.1, 0.2] * 24, 0.2, "a share of 0.2 needs at least 50 prompts with a win rate, and there are 48"),
        ([0.1, 0.2] * 50, 0.99, "a share of 0.99 needs at least 1,000 prompts"),
        ([], 0.5, "a share of 0.5 needs at least 20 prompts with a win rate, and there are 0"),
    ],
)
def test_no_threshold(win_rates: list[float], share: float, said: str) -> None:
    """Too few prompts, or win rates that no threshold divides, are refused with the reason."""
    with pytest.raises(CalibrationError, match=said):
        calibrate(np.array(win_rates), share, 0)


def test_what_a_prompt_is(tmp_path: Path) -> None:
    """Each form of a prompt gives the text that the gateway would judge; those without text are left out."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "What?"},
        {"role": "user", "content": [{"type": "text", "text": "last"}, {"type": "image_url", "image_url": {}}]},
    ]
    rows = [
        {"text": "one", "source": "x"},
        {"prompt": "two"},
        {"prompt": ["three", "four"]},
        {"messages": messages, "model": "auto"},
        {"text": "  "},
        {"messages": messages[:1]},
        {"text": "x" * 70_000},
    ]
    path = write_lines(tmp_path / "prompts.jsonl", rows)
    read = read_traffic([path], "last_user")
    assert read.prompts[:-1] == ["one", "two", "three\n\nfour", "last"]
    assert len(read.prompts[-1]) == 65_537  # head, line break and tail, as in the gateway
    assert (read.win_rates, read.skipped) == ([], 2)
    assert read_traffic([path], "first_user").prompts[3] == "first"


def test_what_a_log_holds(tmp_path: Path) -> None:
    """Of a log the lines with a win rate count, of the policy that is asked for; the others are skipped."""
    lines = [
        {"time": "2026-01-01T00:00:00", "level": "info", "event": "started"},
        *decisions([0.1, 0.2]),
        *decisions([0.9], policy="other"),
        {"event": "request", "policy": "task_router", "win_rate": None},
    ]
    path = write_lines(tmp_path / "gateway.log", lines)
    path.write_text("warning: printed before the gateway logged\n" + path.read_text())
    read = read_traffic([path], "last_user", "pair")
    assert (read.win_rates, read.checkpoints, read.skipped) == ([0.1, 0.2], {"mf:1:abc"}, 4)
    assert read_traffic([path], "last_user").win_rates == [0.1, 0.2, 0.9]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "a.jsonl, line 1: not JSON"),
        (["[" * 100_000], "a.jsonl, line 1: not JSON"),
        (['{"text": "a"}', "warning: x"], "a.jsonl, line 2: not JSON"),
        (["[]"], "a.jsonl, line 1: expected a JSON object"),
        (['{"question": "a"}'], "line 1: expected one of text, prompt, messages, or a decision's win_rate"),
        (['{"text": 1}'], "line 1: 'text' should be a text"),
        (['{"messages": "a"}'], "line 1: 'messages' must be a list"),
        (['{"prompt": 7}'], "line 1: 'prompt' must be a string or a list"),
        (['{"win_rate": 1.5}'], "line 1: 'win_rate' should be a number from 0 to 1, and is 1.5"),
        (['{"win_rate": true}'], "line 1: 'win_rate' should be a number"),
        (['{"win_rate": NaN}'], "line 1: 'win_rate' should be a number"),
        (['{"text": "a"}', '{"win_rate": 0.5}'], "line 2: is a decision, and the lines before it are prompts"),
        (['{"win_rate": 0.5}', '{"text": "a"}'], "line 2: is a prompt, and the lines before it are decisions"),
        (
            ['{"win_rate": 0.5, "checkpoint": "mf:1:a"}', '{"win_rate": 0.5, "checkpoint": "mf:2:b"}'],
            r"the decisions are of several checkpoints \(mf:1:a, mf:2:b\)",
        ),
    ],
)
def test_wrong_data(tmp_path: Path, lines: list[str], said: str) -> None:
    """What is wrong with the data is said in one line, with file and line."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=said):
        read_traffic([path], "last_user")


def test_a_file_twice_or_not_there(tmp_path: Path, log: Path) -> None:
    """A file that is given twice would count twice; one that is missing is named."""
    with pytest.raises(DataError, match="gateway.log: given twice"):
        read_traffic([log, log], "last_user")
    with pytest.raises(DataError, match="gone.jsonl: can't be read"):
        read_traffic([tmp_path / "gone.jsonl"], "last_user")


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    """The lines that differ between texts of as many lines."""
    pairs = zip(before.split("\n"), after.split("\n"), strict=True)
    return [(old, new) for old, new in pairs if old != new]


def test_only_the_value_changes(config: Path) -> None:
    """The policy's threshold changes where it stands, and every other byte of the file stays."""
    after = with_threshold(CONFIG, "pair", 0.12345)
    assert changed_lines(CONFIG, after) == [
        ("    threshold:    0.3   # a guess", "    threshold:    0.12345   # a guess")
    ]
    assert changed_lines(CONFIG, with_threshold(CONFIG, "other", 1.0)) == [("    threshold: 0.3", "    threshold: 1.0")]
    (change,) = changed_lines(CONFIG, with_threshold(CONFIG, "inline", 0.00001))
    assert change[1] == change[0].replace("threshold: 0.5", "threshold: 0.00001")
    config.write_text(after)
    policies = load_config(config, {}).policies
    assert {name: each.threshold for name, each in policies.items() if isinstance(each, RouteLLMPolicy)} == {
        "pair": 0.12345,
        "other": 0.3,
        "inline": 0.5,
    }


@given(st.floats(0, 1).map(lambda value: round(value, 5)))
def test_any_threshold_is_read_back(threshold: float) -> None:
    """Whatever the value, YAML reads it as that number, and the text beside it is the old one."""
    after = with_threshold(CONFIG, "pair", threshold)
    tree = yaml.safe_load(after)
    assert tree["policies"][0]["threshold"] == threshold
    assert isinstance(tree["policies"][0]["threshold"], float)
    head, tail = CONFIG.split("0.3   # a guess")
    assert after.startswith(head) and after.endswith(f"   # a guess{tail}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("threshold: '0.3'", "threshold: 0.2"),
        ('"threshold": 0.3 # x', '"threshold": 0.2 # x'),
        ("threshold:", "threshold: 0.2"),
        ("threshold: # to be found", "threshold: 0.2 # to be found"),
        ("router: bert # why", "router: bert # why\n    threshold: 0.2"),
        ("timeout_ms: 9", "threshold: 0.2\n    timeout_ms: 9"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["\n", "\n\n  # the end\n", ""])
def test_however_it_is_written(before: str, after: str, newline: str, tail: str) -> None:
    """A quoted or empty value is replaced; a missing one goes below the router, else the type; line ends stay."""

    def file(line: str) -> str:
        return f"policies:\n  - name: p\n    type: routellm\n    {line}{tail}".replace("\n", newline)

    assert with_threshold(file(before), "p", 0.2) == file(after)


def test_a_missing_one_between_braces() -> None:
    """A policy on one line gets its threshold there."""
    text = "policies: [{name: p, type: routellm, router: mf, strong: {model: a}}]"
    assert with_threshold(text, "p", 0.2) == text.replace("router: mf", "router: mf, threshold: 0.2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONFIG.replace("name: pair", "name: pairs"), "there is no policy 'pair'; there are: pairs, other, inline"),
        (CONFIG.replace("name: other", "name: pair"), "policy 'pair' is defined 2 times"),
        (CONFIG.replace("type: routellm", "type: classification", 1), "its type should be routellm, and is classif"),
        (CONFIG.replace("    type: routellm\n", "", 1), "its type should be routellm, and is classification"),
        (CONFIG.replace("router: mf", "router: random"), "its router should be one of mf, bert, .*, and is 'random'"),
        (CONFIG.replace("   0.3", "   ${THRESHOLD:-0.3}"), "is \\${THRESHOLD:-0.3}; set that variable to 0.2 instead"),
        (CONFIG.replace("   0.3", "   &shared 0.3"), "its threshold can't be changed alone; set it to 0.2 by hand"),
        (CONFIG.replace("   0.3", "   !!float 0.3"), "can't be changed alone"),
        (CONFIG.replace("   0.3", "   [0.3]"), "can't be changed alone"),
        (CONFIG.replace("   0.3", "   |\n      0.3\n"), "can't be changed alone"),
        (CONFIG.replace("0.3   #", "&t 0.3   #").replace("threshold: 0.5", "threshold: *t"), "can't be changed alone"),
        (CONFIG.replace("    # Last", "    threshold: 0.4\n    # Last"), "has 2 thresholds"),
        ("policies: {}", "holds no list of policies"),
        ("[]", "holds no list of policies"),
        ("", "holds no list of policies"),
        ("policies: [\n  key: sk-secret", "not valid YAML, line 2: "),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, said: str) -> None:
    """A file in which the value can't be changed alone is refused, in one line without keys."""
    with pytest.raises(EditError, match=said) as refused:
        settings(text, "pair")
        with_threshold(text, "pair", 0.2)
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


def test_the_diff_holds_no_key(tmp_path: Path) -> None:
    """The diff shows the changed line alone; a key on that line is left out, and `patch` applies the rest."""
    path = Path("config.yaml")
    shown = diff(path, CONFIG, with_threshold(CONFIG, "pair", 0.2))
    assert shown.splitlines() == [
        "--- config.yaml",
        "+++ config.yaml",
        "@@ -9 +9 @@",
        "-    threshold:    0.3   # a guess",
        "+    threshold:    0.2   # a guess",
    ]
    (tmp_path / path).write_text(CONFIG)
    subprocess.run(["patch", "-p0"], input=shown, text=True, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / path).read_text() == with_threshold(CONFIG, "pair", 0.2)
    inline = diff(path, CONFIG, with_threshold(CONFIG, "inline", 0.2))
    assert "secret" not in inline and "api_key: [REDACTED], model: l}, threshold: 0.2" in inline
    last = "policies: [{name: pair, type: routellm, threshold: 0.3}]"
    assert diff(path, last, with_threshold(last, "pair", 0.2)).count("\n\\ No newline at end of file\n") == 2


def test_shown_then_applied(config: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --apply the change is shown and the file stays; with it the file has just that change, and its mode."""
    config.chmod(0o640)
    arguments = ["--data", str(log), "--strong-share", "0.2", "--config", str(config), "--policy", "pair"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert config.read_text() == CONFIG
    assert shown.endswith("\nnot written: --apply writes it\n")
    assert f"--- {config}\n+++ {config}\n@@ -9 +9 @@\n-    threshold:    0.3   # a guess\n" in shown

    assert main([*arguments, "--apply", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    threshold = report["threshold"]
    assert config.read_text() == with_threshold(CONFIG, "pair", threshold)
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert sorted(path.name for path in config.parent.iterdir()) == ["config.yaml", "gateway.log"]
    assert report["applied"] is True and report["checkpoint"] == "mf:1:abc" and report["diff"] in shown
    assert report["computed_on"] == {"prompts": 500, "strong_share": 0.2}
    held_out = report["held_out"]["strong_share"]
    # Win rates are 0 to .999 in steps of .001: both halves together reach the threshold 1000 - 1000 * threshold times.
    assert 0.2 + held_out == pytest.approx(2 * (1 - threshold), abs=0.005)
    assert 0.15 < held_out < 0.25

    assert main([*arguments, "--apply"]) == 0
    assert capsys.readouterr().out.endswith("\nnothing to change\n")


def test_a_link_stays_a_link(config: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A symbolic link, a read-only file and one that is not there are refused before anything else, and stay."""
    link = config.with_name("link.yaml")
    link.symlink_to(config.name)
    locked = config.with_name("locked.yaml")
    locked.write_text(CONFIG)
    locked.chmod(0o444)
    gone = config.with_name("gone.yaml")
    for path, said in (
        (link, "is a symbolic link to config.yaml; name the file itself"),
        (locked, "is read-only"),
        (gone, "is no file"),
        (config.parent, "is no file"),
    ):
        arguments = ["--data", str(log), "--strong-share", "0.2", "--config", str(path), "--policy", "pair"]
        assert main([*arguments, "--apply"]) == 2
        assert capsys.readouterr().err == f"calibrate_threshold: {path}: {said}\n"
    assert link.is_symlink() and config.read_text() == locked.read_text() == CONFIG
    # Without --apply they are only read.
    assert main(["--data", str(log), "--strong-share", "0.2", "--config", str(link), "--policy", "pair"]) == 0


def test_a_full_disk_loses_nothing(config: Path, log: Path) -> None:
    """When the new file can't be written, the old one stays whole, and nothing is left beside it."""
    before = sorted(config.parent.iterdir())
    command: list[str | Path] = [COMMAND, "--data", log, "--strong-share", "0.2"]
    command += ["--config", config, "--policy", "pair", "--apply"]
    script = 'ulimit -f 0; exec "$@"'  # no file may grow
    environ = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["bash", "-c", script, "bash", *command], capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stderr) == (1, f"calibrate_threshold: {config}: can't be written (File too large)\n")
    assert config.read_text() == CONFIG and sorted(config.parent.iterdir()) == before


def test_a_log_of_another_policy(config: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The decisions of one policy never calibrate another one."""
    arguments = ["--data", str(log), "--strong-share", "0.2", "--config", str(config), "--policy", "other"]
    assert main(arguments) == 2
    said = "a share of 0.2 needs at least 50 prompts with a win rate, and there are 0"
    assert capsys.readouterr().err == f"calibrate_threshold: {said}\n"


def test_prompts_need_a_triton(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts without a Triton that scores them, or with one that is not there, are one line each."""
    path = write_lines(tmp_path / "prompts.jsonl", [{"text": "a"}])
    assert main(["--data", str(path), "--strong-share", "0.2"]) == 2
    assert "--triton HOST:PORT should name the Triton to score them" in capsys.readouterr().err
    target = f"127.0.0.1:{free_port()}"
    assert main(["--data", str(path), "--strong-share", "0.2", "--triton", target]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"calibrate_threshold: no Triton answers at {target} (")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: --data, --strong-share"),
        (["--data", "a", "--strong-share", "1.5"], "expected a share above 0 and below 1, as 0.2, and got '1.5'"),
        (["--data", "a", "--strong-share", "0"], "expected a share above 0 and below 1"),
        (["--data", "a", "--strong-share", "nan"], "expected a share above 0 and below 1"),
        (["--data", "a", "--strong-share", "some"], "expected a share above 0 and below 1"),
        (["--data", "a", "--strong-share", ".2", "--seed", "-1"], "expected a whole number from 0 on, and got '-1'"),
        (["--data", "a", "--strong-share", ".2", "--router", "random"], "invalid choice: 'random'"),
        (["--data", "a", "--strong-share", ".2", "--config", "c"], "--config needs --policy"),
        (["--data", "a", "--strong-share", ".2", "--apply"], "--apply needs --config"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument ends with the usage and one line, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("usage: scripts/calibrate_threshold ") and said in error.splitlines()[-1]


def test_another_router_than_the_policys(config: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Win rates of one router never calibrate a policy of another."""
    arguments = ["--data", str(log), "--strong-share", "0.2", "--config", str(config), "--policy", "pair"]
    assert main([*arguments, "--router", "bert"]) == 2
    assert capsys.readouterr().err.endswith("policy 'pair' has the router mf, not --router's\n")


THINGS = ("a bicycle", "the tide", "two brothers", "an old radio", "a village fair", "rye bread", "a lost letter")
QUESTIONS = (
    "What is {}?",
    "Prove that {} has no largest prime factor, by contradiction, step by step.",
    "Write a haiku about {}.",
    "Which of these is heavier, {} or a ton of feathers? A) the first B) the second C) neither",
    "Translate into French: I have seen {}.",
    "In the quantum theory of {}, derive the Hamiltonian and its ground state energy to second order.",
    "hi \ud800 {}",
    "Summarise the history of {} in the nineteenth century, with dates, names and the causes of each change.",
)
PROMPTS = [question.format(thing) for question in QUESTIONS for thing in THINGS] * 2


def test_through_triton(triton: Triton, tmp_path: Path, config: Path) -> None:
    """Prompts are scored by the served router, in batches, each as it is alone; the shares are counts of its scores."""
    path = write_lines(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    command: list[str | Path] = [COMMAND, "--data", path, "--strong-share", "0.3", "--triton", triton.grpc_url]
    command += ["--config", config, "--policy", "pair", "--json", "--apply"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)

    with reach_router(triton.grpc_url, "mf") as client:
        scored = score(client, "mf", PROMPTS)
        alone = [score(client, "mf", [prompt]).win_rates[0] for prompt in PROMPTS[: len(PROMPTS) // 2 : 3]]
    np.testing.assert_allclose(scored.win_rates[: len(PROMPTS) // 2 : 3], alone, atol=2e-3)
    assert len(PROMPTS) > 64  # more than one request
    assert report["checkpoint"] == scored.checkpoint and scored.checkpoint.count(":") == 2
    assert len(set(scored.win_rates.round(4).tolist())) > 20
    assert report["computed_on"]["prompts"] == report["held_out"]["prompts"] == len(PROMPTS) // 2
    expected = calibrate(scored.win_rates, 0.3, 0)
    assert report["threshold"] == pytest.approx(expected.threshold, abs=2e-3)
    shares = [(report[half]["strong_share"] * len(PROMPTS) / 2) for half in ("computed_on", "held_out")]
    reached = (scored.win_rates >= report["threshold"]).sum()
    assert sum(shares) == pytest.approx(reached, abs=2)  # a rounding may move the prompt that is the threshold
    policy = load_config(config, {}).policies["pair"]
    assert isinstance(policy, RouteLLMPolicy) and policy.threshold == report["threshold"]


def test_a_gateways_own_log(triton: Triton, start_gateway: StartGateway, capsys: pytest.CaptureFixture[str]) -> None:
    """The log that the gateway writes calibrates as the prompts do that it was asked."""
    gateway = start_gateway(CONFIG.replace("    type: routellm", "    timeout_ms: 30000\n    type: routellm"))
    for prompt in PROMPTS[:60]:
        assert gateway.post("/v1/route", chat(prompt)).json()["reason"] in ("decided", "cached")
    arguments = ["--data", str(gateway.process.log), "--strong-share", "0.5", "--json", "--policy", "pair"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    with reach_router(triton.grpc_url, "mf") as client:
        scored = score(client, "mf", PROMPTS[:60])
    assert report["checkpoint"] == scored.checkpoint
    assert report["computed_on"]["prompts"] + report["held_out"]["prompts"] == 60
    assert scored.win_rates.min() < report["threshold"] < scored.win_rates.max()


def test_a_router_that_is_not_served(triton: Triton, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A router that Triton has not loaded is named."""
    path = write_lines(tmp_path / "prompts.jsonl", [{"text": "a"}])
    arguments = ["--data", str(path), "--strong-share", "0.2", "--triton", triton.grpc_url, "--router", "bert"]
    assert main(arguments) == 1
    said = f"calibrate_threshold: the Triton at {triton.grpc_url} does not serve routellm_bert\n"
    assert capsys.readouterr().err == said
