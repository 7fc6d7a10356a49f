from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config import Policy, load_config
from gateway.decision import Decision
from gateway.online import misfits, snapshot_warnings
from gateway.traffic import seen, take_snapshot
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import free_port
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, MODELS
from tests.gateway.scripted import scripted_upstream


def _check(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main(["check", "--online", str(file)])
    return code, [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]


@pytest.fixture
def environ(triton: Triton, dynamo: DemoDynamo, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("DYNAMO_API_BASE", dynamo.url)
    monkeypatch.setenv("TRITON_GRPC_URL", triton.grpc_url)
    return monkeypatch


def test_all_is_there(environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The default file fits the Triton and the Dynamo that run."""
    assert _check(DEFAULT_CONFIG, capsys) == (0, [])


def test_what_is_not_there_is_named(
    environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, dynamo: DemoDynamo
) -> None:
    """A model that Triton does not have, labels that are not its labels and models that are not listed: all named."""
    file = tmp_path / "config.yaml"
    gone = f"http://127.0.0.1:{free_port()}"
    url = "http://x:8000/v2/models/{}/infer"
    file.write_text(f"""
policies:
  - {{name: a, url: '{url.format("no_such_model")}', llms: [{{name: x, api_base: '{dynamo.url}', model: nobody}}]}}
  - {{name: b, url: '{url.format("renamed_ensemble")}', llms: [{{name: y, api_base: '{gone}', model: m}}]}}
""")
    code, lines = _check(file, capsys)
    assert code == 2
    first, second, third, fourth = (line.removeprefix(f"{file}: ") for line in lines)
    assert first.startswith("policy 'a': no_such_model at ") and "no decision (triton_unavailable)" in first
    assert second.startswith("policy 'b': renamed_ensemble at ") and "llm 'y' is no label of" in second
    assert third == f"upstream {gone}: does not answer"
    assert fourth == f"upstream {dynamo.url}: does not list model 'nobody'"


def test_a_confidence_that_never_comes(
    environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, dynamo: DemoDynamo
) -> None:
    """A one-hot model's confidence says nothing: a policy that waits for a low one is warned; probabilities do. A
    snapshot of another checkpoint is warned of, too."""
    file = tmp_path / "config.yaml"
    url = "http://x:8000/v2/models/{}/infer"
    llms = f"llms: [{{name: Unknown, api_base: '{dynamo.url}', model: {MODELS[0]}}}]"
    file.write_text(f"""
policies:
  - {{name: a, url: '{url.format("renamed_ensemble")}', min_confidence: 0.5, {llms}}}
  - {{name: b, url: '{url.format("scored_ensemble")}', min_confidence: 0.5, {llms}}}
""")
    (tmp_path / "s.json").write_text(take_snapshot([seen("a", 0.9, 9, "en")] * 10, "own:abc").model_dump_json())
    with file.open("a") as text:
        text.write(f"  - {{name: c, url: '{url.format('task_router_ensemble')}', snapshot: s.json, {llms}}}\n")
    assert main(["check", "--online", str(file)]) == 0
    first, second = [line for line in capsys.readouterr().err.splitlines() if " at " in line]
    assert first.startswith(f"warning: {file}: policy 'a': renamed_ensemble at ") and "one-hot" in first
    assert second.startswith(f"warning: {file}: policy 'c': task_router_ensemble at ")
    assert second.endswith(", and the policy's snapshot is of own:abc")


@pytest.mark.parametrize(
    ("scores", "faults"),
    [((0.25, 0.75), []), ((2.5, 0.5), ["its scores are no probabilities, which a min_confidence needs"])],
)
def test_scores_that_are_no_probabilities(scores: tuple[float, ...], faults: list[str]) -> None:
    """A policy that waits for a low confidence needs a model that gives probabilities."""
    llm = {"name": "a", "api_base": "http://up:1", "model": "m"}
    url = "http://x:8000/v2/models/m/infer"
    policy = Policy.model_validate({"name": "p", "url": url, "llms": [llm], "min_confidence": 0.5})
    assert list(misfits(policy, Decision("a", ("a", "b"), scores))) == faults


@pytest.mark.parametrize(
    ("taken_of", "answers", "warned"),
    [
        ("own:abc", "own:3:abc", False),
        ("own:1:abc", "own:2:abc", False),
        ("own:1:abc", "own:2:def", True),
        ("own:abc", "other:1:abc", True),
        (None, "own:1:abc", False),
        ("own:abc", None, False),
    ],
)
def test_a_snapshot_of_another_checkpoint(
    tmp_path: Path, taken_of: str | None, answers: str | None, warned: bool
) -> None:
    """A snapshot that was taken before a push is warned of, whatever the versions; one of the same weights is not."""
    (tmp_path / "s.json").write_text(take_snapshot([seen("a", 0.9, 9, "en")] * 10, taken_of).model_dump_json())
    llms = "[{name: a, api_base: 'http://up:1', model: m}]"
    file = tmp_path / "config.yaml"
    file.write_text(f"policies: [{{name: p, url: 'http://x:8000/v2/models/m/infer', snapshot: s.json, llms: {llms}}}]")
    config = load_config(file)
    found = list(snapshot_warnings(config, config.default_policy, Decision("a", ("a",), (1.0,), checkpoint=answers)))
    said = f"its checkpoint is {answers}, and the policy's snapshot is of {taken_of}"
    assert found == [said] * warned


def test_nothing_runs(environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without Triton and Dynamo both are named for what uses them; nothing hangs."""
    environ.setenv("DYNAMO_API_BASE", f"http://127.0.0.1:{free_port()}")
    environ.setenv("TRITON_GRPC_URL", f"127.0.0.1:{free_port()}")
    code, lines = _check(DEFAULT_CONFIG, capsys)
    assert code == 2 and len(lines) == 3


def test_an_upstream_that_lists_nothing_is_warned_of(
    environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An upstream that lists its models only to its clients' own keys may be right: a warning, an error if strict."""
    with scripted_upstream(status=401) as upstream:
        environ.setenv("DYNAMO_API_BASE", upstream.url)
        assert main(["check", "--online", str(DEFAULT_CONFIG)]) == 0
        assert f"warning: {DEFAULT_CONFIG}: upstream {upstream.url}: does not list" in capsys.readouterr().err
        assert main(["check", "--online", "--strict", str(DEFAULT_CONFIG)]) == 2
