from pathlib import Path

import pytest

from gateway.cli import main
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import free_port
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG
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
