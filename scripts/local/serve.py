"""`scripts/serve`: Triton, a demo Dynamo and the gateway on one machine, watched until Ctrl-C."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

import yaml

from gateway.cli import port_number
from gateway.config import Config, ConfigError, load_config, read_yaml
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import (
    Process,
    StartError,
    ask,
    lock_folder,
    require_free_port,
    require_running,
    wait_until,
)
from scripts.local.routellm import (
    add_routellm_options,
    check_routellm_options,
    checkpoint_variable,
    with_routellm_policy,
)
from scripts.local.traces import trace_options, trace_variables
from scripts.local.triton import ROOT, Triton, models_with_weights, own_models

_WATCH_SECONDS = 2.0
_FAILURES_UNTIL_RESTART = 3
_READY_SECONDS = 180.0
_NO_UPSTREAM = "upstream_unavailable"
_CURL = """\
Try it{browser}:

  curl -i {url}/v1/chat/completions \\
    -H "Content-Type: application/json" \\
    -d '{{
      "model": "",
      "messages": [{{"role": "user", "content": "Write a Python function to sort a list"}}],
      "max_tokens": 32,
      "nim-llm-router": {{"policy": "{policy}"}}
    }}'
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/serve",
        description="Serve the router on this machine: Triton, the gateway and, unless told of an upstream, "
        "a demo Dynamo whose engines answer with nonsense. Ctrl-C stops everything.",
    )
    add = root.add_argument
    environ = os.environ
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration file (default: deploy/router-config-dynamo.yaml, or none with --strong-model)",
    )
    add(
        "--models",
        type=Path,
        metavar="DIR",
        help="a model repository besides this project's: what scripts/add_policy filled",
    )
    add(
        "--upstream",
        "--backend-url",
        default=environ.get("ROUTELLM_BACKEND_URL"),
        metavar="URL",
        help="Dynamo's frontend, instead of the demo (or ROUTELLM_BACKEND_URL, DYNAMO_API_BASE)",
    )
    add(
        "--host",
        default=environ.get("ROUTELLM_HOST") or "127.0.0.1",
        help="address that the gateway listens on (default: ROUTELLM_HOST, else 127.0.0.1)",
    )
    add(
        "--port",
        "--http-port",
        type=port_number,
        default=environ.get("ROUTELLM_PORT") or "8084",
        help="the gateway's port (default: ROUTELLM_PORT, else 8084)",
    )
    add(
        "--triton-port",
        type=_first_of_three,
        default=8000,
        metavar="PORT",
        help="Triton's HTTP port; gRPC and metrics take the next two (default: %(default)s)",
    )
    add(
        "--dynamo-port",
        type=port_number,
        default=8100,
        metavar="PORT",
        help="the demo Dynamo's port (default: %(default)s)",
    )
    add(
        "--state",
        type=Path,
        default=ROOT / ".local",
        metavar="DIR",
        help="where logs and the demo's files go (default: .local)",
    )
    add_routellm_options(root)
    return root


def _first_of_three(text: str) -> int:
    port = port_number(text)
    port_number(str(port + 2))
    return port


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns 0 after Ctrl-C, 1 when something failed, 2 for a wrong configuration."""
    root = parser()
    options = root.parse_args(arguments)
    check_routellm_options(root, options)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT, too: a shell's background jobs start with it ignored
        signal.signal(number, _interrupt)
    try:
        with ExitStack() as stack:
            _serve(options, stack)
    except ConfigError as error:
        print("\n".join(error.faults), file=sys.stderr)
        return 2
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 0


def _serve(options: argparse.Namespace, stack: ExitStack) -> NoReturn:
    demo_url = f"http://127.0.0.1:{options.dynamo_port}"
    given = options.upstream or os.environ.get("DYNAMO_API_BASE")
    upstream = given or demo_url
    environ = os.environ | checkpoint_variable(options)
    config_file = _config_file(options, stack)
    environ |= {"DYNAMO_API_BASE": upstream, "TRITON_GRPC_URL": f"127.0.0.1:{options.triton_port + 1}"}
    config = load_config(config_file, environ)
    wanted = {policy.name: policy.triton_model for policy in config.policies.values()}
    triton = Triton(
        options.triton_port,
        options.state / "triton",
        models=(*models_with_weights(environ), *own_models(wanted, options.models)),
        environ=environ,
        options=[
            *([f"--model-repository={options.models}"] if options.models else []),
            *trace_options(environ | {"OTEL_SERVICE_NAME": "triton"}),  # what is set is the gateway's
        ],
    )
    demo_models = [] if given else _models_at(config, demo_url)
    demo = DemoDynamo(options.dynamo_port, demo_models, options.state / "dynamo", environ=trace_variables(environ))
    for warning in config.warnings:
        _say(f"warning: {warning}")
    _require_ports(options, bool(demo.models))
    stack.enter_context(lock_folder(options.state))

    start = time.monotonic()
    stack.callback(triton.stop)
    triton.start()
    if demo.models:
        stack.callback(demo.stop)
        demo.start()
        _say(f"demo Dynamo: starting at {demo_url} with {', '.join(demo.models)}")
    _say(f"Triton: starting at {triton.http_url} (HTTP) and {triton.grpc_url} (gRPC)")
    triton.wait()
    _say(f"Triton: ready after {time.monotonic() - start:.0f} s")
    if demo.models:
        demo.wait()
        _say(f"demo Dynamo: ready after {time.monotonic() - start:.0f} s")
    gateway = _start_gateway(config_file, options, environ)
    stack.callback(gateway.stop)
    url = f"http://{_reachable(options.host)}:{options.port}"
    enough = (None,) if demo.processes else (None, _NO_UPSTREAM)  # somebody else's upstream may come later
    wait_until(lambda: _not_ready(url) in enough, gateway, _READY_SECONDS)
    if _not_ready(url) == _NO_UPSTREAM:
        _say("gateway: no upstream has answered yet; until one does, /health/ready is a 503")
    _say(f"gateway: ready at {url} after {time.monotonic() - start:.0f} s; logs in {options.state}")
    browser = f" in a browser at {url}/, or here" if config.settings.playground else ""
    _say("\n" + _CURL.format(browser=browser, url=url, policy=config.default_policy.name))
    _say("ready")
    _watch(triton, [*demo.processes, gateway])


def _not_ready(url: str) -> str | None:
    """Why the gateway is not ready, as its error code; None when it is."""
    status, body = ask(f"{url}/health/ready", 10)
    if status == 200:
        return None
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _reachable(host: str) -> str:
    """Where this machine reaches a server that listens on `host`, as it stands in a URL."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _models_at(config: Config, base: str) -> list[str]:
    return [
        upstream.model
        for policy in config.policies.values()
        for upstream in policy.upstreams.values()
        if upstream.api_base == base
    ]


def _require_ports(options: argparse.Namespace, demo: bool) -> None:
    require_free_port(options.host, options.port, "the gateway")
    for offset, use in enumerate(("HTTP", "gRPC", "metrics")):
        require_free_port("127.0.0.1", options.triton_port + offset, f"Triton's {use}")
    if demo:
        require_free_port("127.0.0.1", options.dynamo_port, "the demo Dynamo")


def _config_file(options: argparse.Namespace, stack: ExitStack) -> Path:
    """The file to serve with: the one given, the default one, or one written for --strong-model and --weak-model."""
    if options.strong_model is None:
        file: Path = options.config or ROOT / "deploy" / "router-config-dynamo.yaml"
        return file
    if options.config:
        load_config(options.config, os.environ | {"DYNAMO_API_BASE": "http://dynamo"})  # its faults under its own name
    tree = with_routellm_policy(read_yaml(options.config) if options.config else {}, options)
    written = Path(stack.enter_context(TemporaryDirectory(prefix="llm-router-"))) / "config.yaml"
    written.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return written


def _start_gateway(config_file: Path, options: argparse.Namespace, environ: dict[str, str]) -> Process:
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config_file)]
    command += ["--host", options.host, "--port", str(options.port), "--drain-delay", "0"]  # no load balancer here
    return Process("gateway", command, environ, options.state / "gateway.log")


def _watch(triton: Triton, others: Sequence[Process]) -> NoReturn:
    """Until something dies. A Triton that lives but cannot infer has lost a Python stub, and is started anew.

    Raises StartError with the last lines of what died.
    """
    failures = 0
    while True:
        time.sleep(_WATCH_SECONDS)
        assert triton.process is not None
        require_running([triton.process, *others])
        failures = 0 if triton.infers() else failures + 1
        if failures == _FAILURES_UNTIL_RESTART:
            _say("Triton: runs, but answers no inference; restarting it")
            triton.stop()
            triton.start()
            triton.wait()
            _say("Triton: ready again")
            failures = 0


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
