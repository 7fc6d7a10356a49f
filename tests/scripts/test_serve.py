import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from classifiers.routellm.mf import EMBEDDED_MF
from gateway.config import ConfigError
from scripts.adding.add import main as add_policy
from scripts.local.process import Process, free_port, free_ports, wait_until
from scripts.local.routellm import with_routellm_policy
from scripts.local.serve import parser
from tests.conftest import DEFAULT_CONFIG, ROOT
from tests.gateway.client import eventually
from tests.own_checkpoint import THREE, write_own
from tests.processes import commands, stubs_of

_SECONDS = 300


@contextmanager
def _serving(folder: Path, *arguments: str) -> Iterator[tuple[Process, str]]:
    """`scripts/serve` on free ports, and the gateway's URL."""
    port, triton_port = free_port(), free_ports(3)
    command = [str(ROOT / "scripts" / "serve"), "--port", str(port), "--triton-port", str(triton_port)]
    command += ["--dynamo-port", str(free_port()), "--state", str(folder / "state"), *arguments]
    process = Process("serve", command, os.environ, folder / "serve.log")
    try:
        wait_until(lambda: "\nready\n" in _printed(process), process, _SECONDS)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.stop(grace=60)


def _printed(process: Process) -> str:
    return process.log.read_text()


def _wait_for(process: Process, text: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while text not in _printed(process):
        assert time.monotonic() < deadline, f"{text!r} was never printed:\n{_printed(process)}"
        time.sleep(0.1)


def _triton_pid(folder: Path) -> int:
    (pid,) = (pid for pid, words in commands(str(folder)).items() if words[0].endswith("/tritonserver"))
    return pid


@pytest.mark.rare
def test_serve_heals_a_dead_stub_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    """One command reaches `ready` and prints a request that works; a dead stub is healed; Ctrl-C ends it all."""
    with _serving(tmp_path) as (process, url):
        printed = _printed(process)
        assert "Triton: ready" in printed and "demo Dynamo: ready" in printed and "gateway: ready" in printed
        assert f"Try it in a browser at {url}/, or here:" in printed
        assert "<title>LLM router playground</title>" in httpx2.get(f"{url}/").text
        curl = printed[printed.index("curl ") : printed.index("\nready\n")].replace("\\\n", " ")
        answer = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout
        assert "x-chosen-classifier: Code Generation" in answer
        assert '"model":"llama-3.3-nemotron-super-49b-v1"' in answer

        triton_pid = _triton_pid(tmp_path)
        for stub in stubs_of(triton_pid, "prompt_classifier"):
            os.kill(stub, signal.SIGKILL)
        _wait_for(process, "restarting it")
        _wait_for(process, "Triton: ready again")
        # The gateway tries to reach it again once a second at the latest.
        assert eventually(lambda: _reason(url) == "decided")

        os.kill(process.pid, signal.SIGINT)
        wait_until(lambda: process.exit_code is not None, process, 60)
        assert process.exit_code == 0
        assert _printed(process).endswith("stopped\n")
    assert not commands(str(tmp_path))


def _reason(url: str) -> str:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    reason: str = httpx2.post(f"{url}/v1/route", json=body, timeout=60).json()["reason"]
    return reason


@pytest.mark.rare
def test_models_of_ones_own(tmp_path: Path) -> None:
    """With --models a policy that scripts/add_policy added is decided by its own model, whose dead stub is healed."""
    arguments = ["intent", "--checkpoint", str(write_own(tmp_path / "own")), "--model", "demo"]
    where = ["--repository", str(tmp_path / "models"), "--config", str(tmp_path / "config.yaml")]
    assert add_policy([*arguments, *where]) == 0
    with _serving(tmp_path, "--config", where[3], "--models", where[1]) as (process, url):
        body = {"model": "auto", "messages": [{"role": "user", "content": "my card is lost"}], "max_tokens": 4}
        answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        for stub in stubs_of(_triton_pid(tmp_path), "intent_classifier"):
            os.kill(stub, signal.SIGKILL)
        _wait_for(process, "Triton: ready again")
        assert eventually(lambda: _reason(url) == "decided")
    assert answer.headers["x-router-reason"] == "decided" and answer.headers["x-router-policy"] == "intent_router"
    assert answer.headers["x-chosen-classifier"] in THREE["intent"] and answer.json()["model"] == "demo"


def test_one_that_dies_stops_the_rest(tmp_path: Path) -> None:
    """When a part dies, serve shows its last lines, stops the others, and fails."""
    with _serving(tmp_path, "--upstream", "http://127.0.0.1:9") as (process, _):
        assert "demo Dynamo" not in _printed(process)
        triton_pid = _triton_pid(tmp_path)
        os.kill(triton_pid, signal.SIGKILL)
        wait_until(lambda: process.exit_code is not None, process, 60)
        assert process.exit_code == 1
        assert "error: triton ended with code -9:" in _printed(process)
        assert "Started HTTPService" in _printed(process)
    assert not commands(str(tmp_path))


_PROXY_COMMANDS = r"""
set -euo pipefail
echo '== health'
curl -sS http://localhost:8080/health
echo
echo '== models'
curl -sS http://localhost:8080/v1/models
echo
echo '== chat'
curl -sS http://localhost:8080/v1/chat/completions \
    -H "Content-Type: application/json" \
    -d '{"model":"auto","messages":[{"role":"user","content":"What is 2+2?"}],"max_tokens":50}'
echo
echo '== metrics'
curl -sS http://localhost:8080/metrics
echo '== header'
curl -v http://localhost:8080/v1/chat/completions \
    -H "Content-Type: application/json" \
    -d '{"model":"auto","messages":[{"role":"user","content":"Explain quantum entanglement in detail with mathematical formulations"}],"max_tokens":200}' \
    2>&1 | grep x-routellm-routed-model
echo '== stream'
curl -sS -N http://localhost:8080/v1/chat/completions \
    -H "Content-Type: application/json" \
    -d '{"model":"auto","messages":[{"role":"user","content":"Hello"}],"max_tokens":50,"stream":true}'
"""  # noqa: E501


@pytest.mark.rare
def test_the_routellm_proxy_s_commands(tmp_path: Path) -> None:
    """Started with the RouteLLM proxy's options, the commands of its testing guide work as written, ports aside."""
    arguments = ["--strong-model", "gpt-oss-120b", "--weak-model", "gpt-oss-20b", "--router-type", "mf"]
    arguments += ["--threshold", "0.3", "--fallback-model", "gpt-oss-20b", "--virtual-model-name", "switchyard"]
    with _serving(tmp_path, *arguments) as (_, url):
        commands_there = _PROXY_COMMANDS.replace("http://localhost:8080", url)
        done = subprocess.run(["bash", "-c", commands_there], capture_output=True, text=True, check=True)
        parts = dict(part.split("\n", 1) for part in done.stdout.split("== ")[1:])
        config = httpx2.get(f"{url}/config", timeout=60).json()
        routed = httpx2.post(f"{url}/v1/route", json={"model": "switchyard", "prompt": "hi"}, timeout=60).json()
    models = ("gpt-oss-120b", "gpt-oss-20b")
    assert json.loads(parts["health"]) == {"status": "OK"}
    assert {"auto", "switchyard", *models} <= {model["id"] for model in json.loads(parts["models"])["data"]}
    assert json.loads(parts["chat"])["model"] in models
    assert re.search(r'llm_router_routellm_total{model="gpt-oss-\d+b",policy="switchyard",.*} 1.0', parts["metrics"])
    assert re.search(r"x-routellm-routed-model: gpt-oss-(120|20)b", parts["header"])
    assert parts["stream"].rstrip().endswith("data: [DONE]") and parts["stream"].count("data: ") > 50
    assert (config["default_policy"], config["policies"][0]["fallback"]) == ("switchyard", "gpt-oss-20b")
    assert routed["policy"] == "switchyard" and 0 <= routed["win_rate"] <= 1 and routed["threshold"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--strong-model", "a"], "--strong-model and --weak-model belong together"),
        (["--weak-model", "a"], "--strong-model and --weak-model belong together"),
        (["--strong-model", " ", "--weak-model", "a"], "--strong-model is empty"),
        (["--threshold", "0.3"], "--threshold needs --strong-model and --weak-model"),
        (["--strong-model", "a", "--weak-model", "b", "--threshold", "nan"], "--threshold: expected a number between"),
        (["--strong-model", "a", "--weak-model", "b", "--router-type", "random"], "--router-type: invalid choice"),
        (["--strong-model", "a", "--weak-model", "b", "--checkpoint-path", "/no"], "'/no' is no folder"),
        (
            ["--strong-model", "a", "--weak-model", "b", "--router-type", "bert"],
            "--router-type bert needs --checkpoint-path or ROUTELLM_BERT_CHECKPOINT; scripts/fetch_models",
        ),
    ],
)
def test_wrong_routellm_options(arguments: list[str], complaint: str) -> None:
    """Wrong options of the proxy's end with a usage line that names them."""
    done = _run(*arguments)
    assert done.returncode == 2 and complaint in done.stderr, done.stderr


def test_the_routellm_proxy_s_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's environment variables are the defaults of host, port and upstream; options come first."""
    monkeypatch.setenv("ROUTELLM_HOST", "127.0.0.2")
    monkeypatch.setenv("ROUTELLM_PORT", "8081")
    monkeypatch.setenv("ROUTELLM_BACKEND_URL", "http://frontend:8000")
    options = parser().parse_args([])
    assert (options.host, options.port, options.upstream) == ("127.0.0.2", 8081, "http://frontend:8000")
    options = parser().parse_args(["--http-port", "9000", "--backend-url", "http://other:8000"])
    assert (options.port, options.upstream) == (9000, "http://other:8000")
    monkeypatch.setenv("ROUTELLM_PORT", "many")
    with pytest.raises(SystemExit):
        parser().parse_args([])


def test_a_policy_of_options_stands_behind_those_of_a_file() -> None:
    """With a file too, its policies stay where they are, that of the options is the default; names may not clash."""
    embedded_threshold = json.loads((EMBEDDED_MF / "config.json").read_text())["threshold_for_half_of_training_prompts"]
    options = parser().parse_args(["--strong-model", "s", "--weak-model", "w", "--virtual-model-name", "auto"])
    tree = with_routellm_policy({"default_policy": "p", "policies": [{"name": "p"}]}, options)
    assert [policy["name"] for policy in tree["policies"]] == ["p", "routellm"]
    assert tree["default_policy"] == "routellm"
    with pytest.raises(ConfigError, match="has a policy 'routellm'; --virtual-model-name names another"):
        with_routellm_policy({"policies": [{"name": "routellm"}]}, options)
    assert tree["policies"][1]["threshold"] == embedded_threshold != 0.5
    options = parser().parse_args(["--strong-model", "s", "--weak-model", "w", "--router-type", "bert"])
    assert with_routellm_policy({}, options)["policies"][0]["threshold"] == 0.5
    with pytest.raises(ConfigError):
        with_routellm_policy([], options)


def _run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.local.serve", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("option", "owner"),
    [("--port", "the gateway"), ("--triton-port", "Triton's HTTP"), ("--dynamo-port", "the demo Dynamo")],
)
def test_a_port_in_use_is_one_line(tmp_path: Path, option: str, owner: str) -> None:
    """A port that is taken is one clear line, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = {"--port": free_port(), "--triton-port": free_ports(3), "--dynamo-port": free_port(), option: port}
        arguments = [str(each) for pair in free.items() for each in pair]
        done = _run(*arguments, "--state", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} for {owner} cannot be used on 127.0.0.1: Address already in use\n"
    assert not list(tmp_path.iterdir())


def test_a_wrong_configuration_starts_nothing(tmp_path: Path) -> None:
    """Every fault is a line on stderr, and the exit code is 2."""
    config = tmp_path / "config.yaml"
    config.write_text("policies: []\nextra: 1\n")
    done = _run("--config", str(config), "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{config}: policies: expected at least one",
        f"{config}: extra: unknown key",
    ]
    assert not (tmp_path / "state").exists()


def test_a_policy_whose_model_is_nowhere(tmp_path: Path) -> None:
    """It is named before anything starts: its requests would all go to the fallback."""
    config = tmp_path / "config.yaml"
    config.write_text(DEFAULT_CONFIG.read_text().replace("task_router_ensemble", "intent_router_ensemble"))
    done = _run("--config", str(config), "--state", str(tmp_path / "state"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: policy 'task_router': there is no model 'intent_router_ensemble'")
    assert "--models" in done.stderr and not (tmp_path / "state").exists()


def test_defaults_are_the_documented_ports() -> None:
    """The gateway is on 8084, Triton on 8000 to 8002, the demo Dynamo on 8100, all on loopback."""
    options = parser().parse_args([])
    assert (options.host, options.port, options.triton_port, options.dynamo_port) == ("127.0.0.1", 8084, 8000, 8100)
