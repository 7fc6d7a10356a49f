"""What the gateway's parts measure: Triton with the embedded checkpoint, Dynamo with mockers, the gateway, nginx."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from classifiers.checkpoint import EMBEDDED, load_checkpoint
from gateway.labels import known_labels
from scripts.benchmarking import servers
from scripts.benchmarking.processes import cpu_seconds
from scripts.benchmarking.prompts import sort_into_bands
from scripts.benchmarking.rounds import Run
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import Process, StartError, ask, free_port, wait_until
from scripts.local.triton import Triton

MODEL = "benchmark-model"
CONFIG = "config.yaml"
WITHOUT_CACHE = {"cache_entries": 0}
FAST = 1000.0  # Dynamo's engine answers at once: what is measured is the way to it
PACED = 0.5  # about 90 tokens per second for each stream, as a large model on a GPU
_READY_SECONDS = 60.0
_NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream dynamo {{ server 127.0.0.1:{upstream}; keepalive 128; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://dynamo;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Server:
    """Where it answers, and the processes, each with its group, that do it."""

    url: str
    processes: tuple[Process, ...]

    def cpu(self) -> float:
        """Seconds so far."""
        return sum(cpu_seconds(process.pid) for process in self.processes)


@dataclass(frozen=True)
class Rig:
    """Everything running. `gateway`, `remembering` and `nginx` are in front of `direct`, the others of `paced`."""

    triton: Triton
    direct: Server
    paced: Server
    gateway: Server
    paced_gateway: Server
    remembering: Server
    """As `gateway`, but with its cache of decisions on."""
    nginx: Server
    paced_nginx: Server
    prompts: tuple[str, ...]
    """Short ones: what is measured here is not the network."""
    _numbers: Iterator[int]

    def unique(self) -> Iterator[str]:
        """Prompts that nobody has asked yet, without end."""
        for number in self._numbers:
            yield f"{self.prompts[number % len(self.prompts)]} ({number})"

    @property
    def config(self) -> Path:
        """The configuration of `remembering`, but for its variables."""
        return self.remembering.processes[0].log.parent / CONFIG


def kept_rig(run: Run) -> Rig:
    """Started, or still running from the part before. Raises StartError."""
    return run.kept.enter("rig", lambda: running_rig(run))


@contextmanager
def running_rig(run: Run, remembering: Mapping[str, object] = MappingProxyType({})) -> Iterator[Rig]:
    """Started and answering; `remembering`: settings of that gateway. Raises StartError."""
    bands = sort_into_bands(run.texts, load_checkpoint(EMBEDDED))
    prompts = tuple(prompt.text for prompt in bands["short"])
    triton = servers.ours(run.folder / "ours", None)
    fast = DemoDynamo(free_port(), [MODEL], run.folder / "dynamo", FAST)
    paced = DemoDynamo(free_port(), [MODEL], run.folder / "dynamo-paced", PACED)
    with ExitStack() as stack:
        for dynamo in (fast, paced):
            stack.callback(dynamo.stop)
            dynamo.start()
        stack.enter_context(servers.running([triton]))
        for dynamo in (fast, paced):
            dynamo.wait()
        folder = run.folder / "gateway"
        gateway = stack.enter_context(_gateway(triton, fast.url, folder / "fast", WITHOUT_CACHE))
        paced_gateway = stack.enter_context(_gateway(triton, paced.url, folder / "paced", WITHOUT_CACHE))
        remembering_gateway = stack.enter_context(_gateway(triton, fast.url, folder / "remembering", remembering))
        nginx = stack.enter_context(_nginx(fast.port, run.folder / "nginx"))
        paced_nginx = stack.enter_context(_nginx(paced.port, run.folder / "nginx-paced"))
        direct = Server(fast.url, tuple(fast.processes))
        slow = Server(paced.url, tuple(paced.processes))
        servers_before = (gateway, paced_gateway, remembering_gateway, nginx, paced_nginx)
        yield Rig(triton, direct, slow, *servers_before, prompts, itertools.count())


def write_config(file: Path, settings: Mapping[str, object]) -> Path:
    """One policy that sends every task to the one model, and waits for decisions as long as a busy machine takes."""
    labels = known_labels("task_router_ensemble") or ()
    llms = [{"name": label, "api_base": "${DYNAMO_API_BASE}", "model": MODEL} for label in labels]
    url = "http://triton:8000/v2/models/task_router_ensemble/infer"
    policy = {"name": "task_router", "url": url, "timeout_ms": 60_000, "llms": llms}
    tree = {"gateway": dict(settings), "policies": [policy]} if settings else {"policies": [policy]}
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return file


@contextmanager
def _gateway(triton: Triton, upstream: str, folder: Path, settings: Mapping[str, object]) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    config = write_config(folder / CONFIG, settings)
    port = free_port()
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--port", str(port)]
    environ = os.environ | {"DYNAMO_API_BASE": upstream, "TRITON_GRPC_URL": triton.grpc_url}
    with _process("gateway", [*command, "--drain-delay", "0"], environ, folder, port, "/health/ready") as server:
        yield server


@contextmanager
def _nginx(upstream: int, folder: Path) -> Iterator[Server]:
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise StartError("no nginx to compare with: apt-get install nginx-light")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=upstream, port=port))
    command = [binary, "-p", str(folder), "-c", str(config)]
    with _process("nginx", command, dict(os.environ), folder, port, "/v1/models") as server:
        yield server


@contextmanager
def _process(
    name: str, command: list[str], environ: Mapping[str, str], folder: Path, port: int, probe: str
) -> Iterator[Server]:
    process = Process(name, command, environ, folder / f"{name}.log")
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: ask(url + probe, 10)[0] == 200, process, _READY_SECONDS)
        yield Server(url, (process,))
    finally:
        process.stop()
