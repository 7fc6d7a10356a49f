"""`python -m gateway serve | check | route`."""

import argparse
import asyncio
import json
import logging
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.app import create_app
from gateway.auth import Keys, load_keys
from gateway.chat import Routed, decide, explanation
from gateway.config import Config, ConfigError, Policy, RouteLLMPolicy, load_config
from gateway.health import Drain
from gateway.observe.log import configure_logging
from gateway.online import look_online
from gateway.policy import Wish
from gateway.server import Server, close, collect_less, listen, raise_file_limit, say_where
from gateway.state import open_state
from gateway.tls import server_context
from gateway.workers import supervise

_MOST_WORKERS = 16  # so many share the bound on bodies in hand, and the part of each holds the largest body


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m gateway", description="The LLM router's gateway.")
    commands = root.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the OpenAI-compatible API")
    serve.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration file")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=port_number, default=8084, help="port to listen on (default: %(default)s)")
    _add_server_options(serve)
    check = commands.add_parser("check", help="check a configuration file, and the client keys, without serving")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--strict", action="store_true", help="count warnings as errors")
    check.add_argument(
        "--online", action="store_true", help="also ask Triton for its labels and the upstreams for their models"
    )
    route = commands.add_parser("route", help="decide about one prompt, and forward nothing")
    route.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration file")
    route.add_argument("--policy", metavar="NAME", help="the policy that decides (default: the default policy)")
    route.add_argument("--json", action="store_true", help="print JSON instead of a table")
    route.add_argument("prompt", help="the prompt")
    return root


def _add_server_options(serve: argparse.ArgumentParser) -> None:
    add = serve.add_argument
    add(
        "--workers",
        type=_worker_count,
        default=1,
        metavar="N",
        help="processes that serve, on the same ports (default: %(default)s)",
    )
    add(
        "--management-port",
        type=port_number,
        metavar="PORT",
        help="port of its own for /config, /metrics and /decisions (default: they are on --port)",
    )
    add("--management-host", default="127.0.0.1", metavar="HOST", help="its address (default: %(default)s)")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM: serve HTTPS, on both ports")
    add("--tls-key", type=Path, metavar="FILE", help="the certificate's key in PEM, unencrypted")
    add(
        "--drain-delay",
        type=_whole_seconds,
        default=2,
        metavar="S",
        help="seconds from SIGTERM, when /health/ready turns 503, until it stops listening (default: %(default)s)",
    )
    add(
        "--drain-seconds",
        type=_whole_seconds,
        default=30,
        metavar="S",
        help="how long running answers may go on after that (default: %(default)s)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (it failed) or 2 (wrong usage or configuration)."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    config = load_config(options.file if options.command == "check" else options.config)
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if options.command == "route":
        return _route(config, options.policy, options.prompt, options.json)
    keys = load_keys()
    if options.command == "serve":
        return _serve(config, keys, options)
    warnings = len(config.warnings)
    if options.online:
        found = asyncio.run(look_online(config))
        for warning in found.warnings:
            print(f"warning: {options.file}: {warning}", file=sys.stderr)
        if found.faults:
            raise ConfigError([f"{options.file}: {fault}" for fault in found.faults])
        warnings += len(found.warnings)
    return 2 if options.strict and warnings else 0


def port_number(text: str) -> int:
    """An argument that is a TCP port. Raises ArgumentTypeError for anything else."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"expected a port between 1 and 65535, and got {text!r}")
    return int(text)


def _worker_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"expected a number between 1 and {_MOST_WORKERS}, and got {text!r}")
    return int(text)


def _whole_seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected whole seconds, and got {text!r}")
    return int(text)


def _serve(config: Config, keys: Keys | None, options: argparse.Namespace) -> int:
    tls = _tls(options)
    addresses = [(options.host, options.port)]
    if options.management_port is not None:
        if options.management_port == options.port:
            raise ConfigError(["--management-port: expected another port than --port"])
        addresses.append((options.management_host, options.management_port))
    configure_logging()
    raise_file_limit()
    sockets: list[socket.socket] = []
    for host, port in addresses:
        try:
            sockets += listen(host, port)
        except OSError as error:
            close(sockets)
            print(f"cannot listen on {host} port {port}: {error.strerror}", file=sys.stderr)
            return 1
    say_where(sockets)
    if options.workers > 1:
        return 0 if supervise(options.workers, _work, options, sockets) else 1
    return _serve_on(sockets, config, keys, tls, options)


def _work(options: argparse.Namespace, sockets: list[socket.socket]) -> None:
    """One of several workers. It reads for itself what its supervisor has checked."""
    configure_logging()
    try:
        code = _serve_on(sockets, load_config(options.config), load_keys(), _tls(options), options)
    except ConfigError as error:
        logging.getLogger(__name__).error("configuration refused", extra={"fields": {"faults": error.faults}})
        code = 2
    sys.exit(code)


def _serve_on(
    sockets: list[socket.socket],
    config: Config,
    keys: Keys | None,
    tls: ssl.SSLContext | None,
    options: argparse.Namespace,
) -> int:
    drain = Drain()
    app = create_app(
        config,
        options.config,
        keys=keys,
        drain=drain,
        management_port=options.management_port,
        workers=options.workers,
    )
    server = Server(app, drain, drain_delay=options.drain_delay, drain_seconds=options.drain_seconds, tls=tls)
    collect_less()
    return 0 if server.serve_on(sockets) else 1


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None and options.tls_key is None:
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise ConfigError(["--tls-cert and --tls-key: expected both"])
    try:
        return server_context(options.tls_cert, options.tls_key)
    except ValueError as error:
        raise ConfigError([f"--tls-cert and --tls-key: {error}"]) from None


def _route(config: Config, policy_name: str | None, prompt: str, as_json: bool) -> int:
    policy = config.policies.get(policy_name) if policy_name else config.default_policy
    if policy is None:
        print(f"there is no policy {policy_name!r}; there are: {', '.join(config.policies)}", file=sys.stderr)
        return 2
    routed = asyncio.run(_decide(config, policy, os.fsencode(prompt).decode(errors="replace")))
    shown = explanation(routed)
    if as_json:
        print(json.dumps(shown))
    else:
        _print_table(shown)
    return 0 if routed.decision is not None else 1


async def _decide(config: Config, policy: Policy | RouteLLMPolicy, prompt: str) -> Routed:
    async with open_state(config) as state:
        return await decide(state, Wish(policy), prompt)


def _print_table(shown: dict[str, object]) -> None:
    scores = shown.pop("scores")
    for name, value in shown.items():
        print(f"{name:<18}{'-' if value is None else value}")
    if isinstance(scores, dict):
        for label, score in sorted(scores.items(), key=lambda item: -item[1]):
            print(f"  {label:<24}{score:.3f}")
