"""scripts/launch_routellm: the commands that it prints and runs, what it refuses, and how it ends."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from scripts.local import serve
from scripts.local.dynamo import Command
from scripts.local.layout import DEFAULTS, LayoutError, read_layout, router_command, vllm_dynamo
from scripts.local.process import Process, free_port, free_ports, wait_until
from scripts.local.routellm import check_routellm_options
from scripts.local.triton import ROOT
from tests.gateway.client import chat
from tests.processes import commands

COMMAND = ROOT / "scripts" / "launch_routellm"
_SECONDS = 300
_VARIABLES = (*DEFAULTS, "STRONG_TP", "ROUTELLM_HOST", "ROUTELLM_PORT")


def environ(**variables: str) -> dict[str, str]:
    """This environment with `variables`, and none of the command's own besides."""
    return {name: value for name, value in os.environ.items() if name not in _VARIABLES} | variables


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *arguments]
    return subprocess.run(command, env=environ(**variables), capture_output=True, text=True, timeout=120)


def common(folder: str) -> str:
    """The environment by which Dynamo's processes find each other, as a shell is told."""
    return (
        f"DYN_FILE_KV={folder}/discovery \\\n"
        "  DYN_TCP_RPC_HOST=127.0.0.1 \\\n"
        "  DYN_TCP_RESPONSE_STREAM_HOST=lo \\\n"
        f"  DYN_ZMQ_BROKER_URL='xsub=ipc://{folder}/sockets/xsub , xpub=ipc://{folder}/sockets/xpub' \\\n"
    )


def test_the_default_layout(tmp_path: Path) -> None:
    """Without variables: gpt-oss-120b on GPUs 1 to 4, gpt-oss-20b on GPU 5, an endpoint each, and the router on the
    CPU; nothing is started or written."""
    done = run("--dry-run", "--state", tmp_path / "state")
    folder = f"{tmp_path}/state/dynamo"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "# dynamo-frontend\n"
        + common(folder)
        + f"  {sys.executable} -m dynamo.frontend --http-host 127.0.0.1 --http-port 8000 --discovery-backend file\n"
        "\n"
        "# strong-worker\n"
        + common(folder)
        + "  CUDA_VISIBLE_DEVICES=1,2,3,4 \\\n"
        + f"  {sys.executable} -m dynamo.vllm --model /data/models/gpt-oss-120b --tensor-parallel-size 4 "
        "--endpoint dyn://dynamo.strong.generate --discovery-backend file\n"
        "\n"
        "# weak-worker\n"
        + common(folder)
        + "  CUDA_VISIBLE_DEVICES=5 \\\n"
        + f"  {sys.executable} -m dynamo.vllm --model /data/models/gpt-oss-20b --tensor-parallel-size 1 "
        "--endpoint dyn://dynamo.weak.generate --discovery-backend file\n"
        "\n"
        "# router\n"
        "CUDA_VISIBLE_DEVICES='' \\\n"
        f"  {ROOT}/scripts/serve --backend-url http://127.0.0.1:8000 --http-port 8080 --triton-port 8010 "
        "--strong-model /data/models/gpt-oss-120b --weak-model /data/models/gpt-oss-20b --router-type mf "
        f"--threshold 0.3 --state {tmp_path}/state/router\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_layout_of_ones_own(tmp_path: Path) -> None:
    """Every variable and option goes where it belongs, quoted for a shell where it must be."""
    done = run(
        *("--dry-run", "--state", tmp_path / "a state", "--frontend-port", "9000", "--http-port", "9001"),
        *("--triton-port", "9002"),
        STRONG_MODEL="Qwen/Qwen3-4B",
        WEAK_MODEL="/models/it's small",
        STRONG_GPUS="0, 7",
        STRONG_TP="2",
        WEAK_GPUS="GPU-6f1c,2",
        ROUTER_GPUS="3",
        THRESHOLD="0.11593",
        ROUTER_TYPE="bert",
        CHECKPOINT_PATH="/models/bert",
        DYNAMO_PYTHON="/opt/dynamo/bin/python",
    )
    assert (done.returncode, done.stderr) == (0, "")
    frontend, strong, weak, router = (
        shlex.split(part.replace("\\\n", ""), comments=True) for part in done.stdout.split("\n\n")
    )
    assert frontend[-3:] == ["9000", "--discovery-backend", "file"]
    assert f"DYN_FILE_KV={tmp_path}/a state/dynamo/discovery" in strong
    assert strong[4:] == [
        *("CUDA_VISIBLE_DEVICES=0,7", "/opt/dynamo/bin/python", "-m", "dynamo.vllm", "--model", "Qwen/Qwen3-4B"),
        *("--tensor-parallel-size", "2", "--endpoint", "dyn://dynamo.strong.generate", "--discovery-backend", "file"),
    ]
    assert weak[4:] == [
        *(
            "CUDA_VISIBLE_DEVICES=GPU-6f1c,2",
            "/opt/dynamo/bin/python",
            "-m",
            "dynamo.vllm",
            "--model",
            "/models/it's small",
        ),
        *("--tensor-parallel-size", "2", "--endpoint", "dyn://dynamo.weak.generate", "--discovery-backend", "file"),
    ]
    assert router == [
        *("CUDA_VISIBLE_DEVICES=3", f"{ROOT}/scripts/serve", "--backend-url", "http://127.0.0.1:9000"),
        *("--http-port", "9001", "--triton-port", "9002", "--strong-model", "Qwen/Qwen3-4B"),
        *("--weak-model", "/models/it's small", "--router-type", "bert", "--threshold", "0.11593"),
        *("--checkpoint-path", "/models/bert", "--state", f"{tmp_path}/a state/router"),
    ]


def test_the_mockers_layout(tmp_path: Path) -> None:
    """With --mocker the same layout runs on mockers, which go by the last part of a model's path."""
    done = run("--dry-run", "--mocker", "--state", tmp_path, WEAK_MODEL="Qwen/Qwen3-0.6B")
    assert (done.returncode, done.stderr) == (0, "")
    hub = f"  HF_HUB_CACHE={tmp_path}/dynamo/hub \\\n  HF_HUB_OFFLINE=1 \\\n"
    assert done.stdout == (
        "# dynamo-frontend\n" + common(f"{tmp_path}/dynamo") + hub + f"  DYN_ENABLE_ANTHROPIC_API=true \\\n"
        f"  {sys.executable} -m dynamo.frontend --http-host 127.0.0.1 --http-port 8000 --discovery-backend file\n"
        "\n"
        "# dynamo-gpt-oss-120b\n"
        + common(f"{tmp_path}/dynamo")
        + hub
        + f"  {sys.executable} -m dynamo.mocker --model-path gpt-oss-120b --speedup-ratio 1.0 "
        "--endpoint dyn://dynamo.model0.generate --discovery-backend file\n"
        "\n"
        "# dynamo-Qwen/Qwen3-0.6B\n"
        + common(f"{tmp_path}/dynamo")
        + hub
        + f"  {sys.executable} -m dynamo.mocker --model-path Qwen/Qwen3-0.6B --speedup-ratio 1.0 "
        "--endpoint dyn://dynamo.model1.generate --discovery-backend file\n"
        "\n"
        "# router\n"
        "CUDA_VISIBLE_DEVICES='' \\\n"
        f"  {ROOT}/scripts/serve --backend-url http://127.0.0.1:8000 --http-port 8080 --triton-port 8010 "
        "--strong-model gpt-oss-120b --weak-model Qwen/Qwen3-0.6B --router-type mf --threshold 0.3 "
        f"--state {tmp_path}/router\n"
    )


def dynamos_own(command: Command) -> tuple[argparse.Namespace, list[str]]:
    """A worker's words as Dynamo's parser reads them, and those that it leaves to vLLM."""
    from dynamo.common.configuration.groups.runtime_args import DynamoRuntimeArgGroup

    parser = argparse.ArgumentParser(allow_abbrev=False)
    DynamoRuntimeArgGroup().add_arguments(parser)
    assert command.words[:2] == (sys.executable, "-m")
    return parser.parse_known_args(command.words[3:])


def test_dynamo_and_serve_understand_it(tmp_path: Path) -> None:
    """Dynamo's own parser and that of scripts/serve take the words; each worker has an endpoint of its own."""
    from dynamo.common.utils.runtime import parse_endpoint

    layout = read_layout({})
    dynamo = vllm_dynamo(layout, 8000, tmp_path)
    _, *workers = dynamo.commands
    endpoints = set()
    for command, model, count in zip(workers, (layout.strong_model, layout.weak_model), ("4", "1"), strict=True):
        options, rest = dynamos_own(command)
        assert rest == ["--model", model, "--tensor-parallel-size", count]
        assert options.discovery_backend == "file"
        endpoints.add(parse_endpoint(options.endpoint))
    assert endpoints == {("dynamo", "strong", "generate"), ("dynamo", "weak", "generate")}
    parser = serve.parser()
    options = parser.parse_args(router_command(layout, dynamo, 8080, 8010, tmp_path).words[1:])
    check_routellm_options(parser, options)
    assert (options.strong_model, options.weak_model) == dynamo.models
    assert (options.upstream, options.port, options.triton_port) == (dynamo.url, 8080, 8010)
    assert (options.threshold, options.router_type) == (0.3, "mf")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STRONG_GPUS": "1,a"}, ["STRONG_GPUS: expected GPU numbers with commas between, as 1,2,3,4, and got '1,a'"]),
        ({"WEAK_GPUS": "6,,7"}, ["WEAK_GPUS: expected GPU numbers with commas between, as 1,2,3,4, and got '6,,7'"]),
        ({"WEAK_GPUS": "-1"}, ["WEAK_GPUS: expected GPU numbers with commas between, as 1,2,3,4, and got '-1'"]),
        ({"WEAK_GPUS": "6;7"}, ["WEAK_GPUS: expected GPU numbers with commas between, as 1,2,3,4, and got '6;7'"]),
        ({"WEAK_GPUS": "6,6"}, ["WEAK_GPUS: names a GPU twice: 6,6"]),
        ({"WEAK_GPUS": "4,5"}, ["WEAK_GPUS: 4 is also in STRONG_GPUS; a model fills its GPU's memory"]),
        ({"ROUTER_GPUS": "5"}, ["ROUTER_GPUS: 5 is also in WEAK_GPUS; a model fills its GPU's memory"]),
        ({"STRONG_TP": "2"}, ["STRONG_TP: expected 4, the number of STRONG_GPUS, and got '2'"]),
        ({"STRONG_TP": "four"}, ["STRONG_TP: expected 4, the number of STRONG_GPUS, and got 'four'"]),
        ({"STRONG_GPUS": "0", "STRONG_TP": "4"}, ["STRONG_TP: expected 1, the number of STRONG_GPUS, and got '4'"]),
        ({"THRESHOLD": "1.1"}, ["THRESHOLD: expected a number from 0 to 1, and got '1.1'"]),
        ({"THRESHOLD": "nan"}, ["THRESHOLD: expected a number from 0 to 1, and got 'nan'"]),
        ({"ROUTER_TYPE": "nope"}, ["ROUTER_TYPE: expected one of mf, bert, causal_llm, sw_ranking, and got 'nope'"]),
        ({"STRONG_MODEL": "--help"}, ["STRONG_MODEL: expected a folder or a hub name, and got '--help'"]),
        ({"STRONG_MODEL": "a", "WEAK_MODEL": "a"}, ["WEAK_MODEL: is a, as STRONG_MODEL; expected two models"]),
        (
            {"THRESHOLD": "half", "WEAK_GPUS": "x"},
            [
                "WEAK_GPUS: expected GPU numbers with commas between, as 1,2,3,4, and got 'x'",
                "THRESHOLD: expected a number from 0 to 1, and got 'half'",
            ],
        ),
    ],
)  # fmt: skip
def test_wrong_variables(variables: dict[str, str], said: list[str]) -> None:
    """Each wrong variable is a line that names it, says what was expected and what it got."""
    with pytest.raises(LayoutError) as refused:
        read_layout(variables)
    assert refused.value.faults == said


def test_what_is_wrong_starts_nothing(tmp_path: Path) -> None:
    """The command prints the faults and ends with 2; an empty variable means its default."""
    done = run("--dry-run", "--state", tmp_path, THRESHOLD="2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "THRESHOLD: expected a number from 0 to 1, and got '2'\n"
    assert run("--dry-run", "--state", tmp_path, THRESHOLD="").returncode == 0
    done = run("--mocker", "--state", tmp_path, STRONG_MODEL="/a/model", WEAK_MODEL="/b/model")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "WEAK_MODEL: /b/model has the last part of STRONG_MODEL, the mockers' name\n"
    assert not list(tmp_path.iterdir())


def test_no_vllm(tmp_path: Path) -> None:
    """A Python without vLLM, as this project's, or none at all, is one line, and nothing is started."""
    for variables, said in (
        ({}, f"error: {sys.executable} has no vllm; set DYNAMO_PYTHON to the Python of an environment with"),
        ({"DYNAMO_PYTHON": "/no/python"}, "error: DYNAMO_PYTHON: /no/python can't be run (No such file or directory)"),
    ):
        done = run("--state", tmp_path, **variables)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(said)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    """A model's folder that is missing is named before anything is started, with a Python that has vLLM."""
    site = tmp_path / "site"
    for package in ("vllm", "dynamo"):
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = run("--state", tmp_path / "state", DYNAMO_PYTHON=str(python), STRONG_MODEL="/no/such/model")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: STRONG_MODEL: there is no folder /no/such/model\n"
    assert not (tmp_path / "state").exists()


def ports() -> list[str]:
    triton_port = free_ports(3)
    return ["--frontend-port", str(free_port()), "--http-port", str(free_port()), "--triton-port", str(triton_port)]


@pytest.mark.parametrize(
    ("option", "owner"),
    [("--frontend-port", "Dynamo's frontend"), ("--http-port", "the router"), ("--triton-port", "Triton's HTTP")],
)
def test_a_port_in_use(tmp_path: Path, option: str, owner: str) -> None:
    """A port that is taken is one line, before minutes of loading."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--mocker", "--state", tmp_path, *ports(), option, str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: port {port} for {owner} cannot be used on 127.0.0.1: Address already in use\n"


@contextmanager
def launching(folder: Path, *arguments: str) -> Iterator[Process]:
    """The command on mockers, from its first line on."""
    command = [str(COMMAND), "--mocker", "--state", str(folder / "state"), *(arguments or ports())]
    process = Process("launch", command, environ(), folder / "launch.log")
    try:
        wait_until(lambda: "Dynamo: starting" in printed(process), process, 60)
        yield process
    finally:
        process.stop(grace=90)


def printed(process: Process) -> str:
    return process.log.read_text()


def pid_of(folder: Path, *words: str) -> int:
    """The one process under `folder` whose command line has these words."""
    (pid,) = (pid for pid, line in commands(str(folder)).items() if set(words) <= set(line))
    return pid


def worker_pid(folder: Path, model: str) -> int:
    """Mockers carry the folder in their environment alone."""
    mockers = [pid for pid, line in commands("dynamo.mocker").items() if model in line]
    (pid,) = (pid for pid in mockers if str(folder).encode() in Path(f"/proc/{pid}/environ").read_bytes())
    return pid


def left_over(folder: Path) -> list[int]:
    """Dynamo's processes that were started under `folder` and still run."""
    found = []
    for pid in (*commands("dynamo.mocker"), *commands("dynamo.frontend")):
        try:
            if str(folder).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue  # it ended meanwhile
    return found


def test_a_worker_that_dies_ends_the_launch(tmp_path: Path) -> None:
    """A worker that dies while another one still loads ends the launch, with its last lines, and nothing is left."""
    with launching(tmp_path) as process:
        mocker = worker_pid(tmp_path, "gpt-oss-20b")
        wait_until(lambda: bool((tmp_path / "state/dynamo/logs/dynamo-gpt-oss-20b.log").stat().st_size), process, 60)
        os.kill(mocker, signal.SIGKILL)
        wait_until(lambda: process.exit_code is not None, process, 90)
        assert process.exit_code == 1
        assert "\nerror: dynamo-gpt-oss-20b ended with code -9:\n" in printed(process)
        assert "Created MockEngineArgs" in printed(process)
        assert not left_over(tmp_path)


def test_ctrl_c_while_it_loads(tmp_path: Path) -> None:
    """Ctrl-C ends everything at any time, with exit code 0."""
    with launching(tmp_path) as process:
        os.kill(process.pid, signal.SIGINT)
        wait_until(lambda: process.exit_code is not None, process, 90)
        assert process.exit_code == 0 and printed(process).endswith("stopped\n")
        assert not left_over(tmp_path)


def test_one_at_a_time(tmp_path: Path) -> None:
    """A folder holds one launch: a second one says so."""
    with launching(tmp_path):
        done = run("--mocker", "--state", tmp_path / "state", *ports())
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {tmp_path}/state is in use by another")


@pytest.mark.rare
def test_two_models_and_the_router(tmp_path: Path) -> None:
    """On mockers, `auto` is answered by the model on its side of the threshold; a dead router ends it all."""
    http_port = free_port()
    with launching(tmp_path, *ports(), "--http-port", str(http_port)) as process:
        wait_until(lambda: "\nready\n" in printed(process), process, _SECONDS)
        url = f"http://127.0.0.1:{http_port}"
        for threshold, model in ((0, "gpt-oss-120b"), (1, "gpt-oss-20b")):
            router = {"nim-llm-router": {"threshold": threshold}}
            answer = httpx2.post(f"{url}/v1/chat/completions", json=chat("hello", **router), timeout=60)
            assert answer.json()["model"] == answer.headers["x-routellm-routed-model"] == model
        answer = httpx2.post(f"{url}/v1/chat/completions", json=chat("good evening", model="auto"), timeout=60)
        assert answer.headers["x-router-reason"] == "decided"
        os.kill(pid_of(tmp_path, "scripts.local.serve"), signal.SIGKILL)
        wait_until(lambda: process.exit_code is not None, process, 90)
        assert process.exit_code == 1 and "\nerror: router ended with code -9:\n" in printed(process)
        assert not left_over(tmp_path)
