"""`python -m gateway serve | check | route`."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from gateway.app import create_app
from gateway.chat import Routed, decide, explanation
from gateway.config import Config, ConfigError, Policy, RouteLLMPolicy, load_config
from gateway.observe.log import configure_logging
from gateway.policy import Wish
from gateway.state import open_state


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m gateway", description="The LLM router's gateway.")
    commands = root.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the OpenAI-compatible API")
    serve.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration file")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=port_number, default=8084, help="port to listen on (default: %(default)s)")
    check = commands.add_parser("check", help="check a configuration file without starting anything")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--strict", action="store_true", help="count warnings as errors")
    route = commands.add_parser("route", help="decide about one prompt, and forward nothing")
    route.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration file")
    route.add_argument("--policy", metavar="NAME", help="the policy that decides (default: the default policy)")
    route.add_argument("--json", action="store_true", help="print JSON instead of a table")
    route.add_argument("prompt", help="the prompt")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (it failed) or 2 (wrong usage or configuration)."""
    options = parser().parse_args(arguments)
    try:
        config = load_config(options.file if options.command == "check" else options.config)
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return 2
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    match options.command:
        case "serve":
            return _serve(config, options.config, options.host, options.port)
        case "route":
            return _route(config, options.policy, options.prompt, options.json)
    return 2 if options.strict and config.warnings else 0


def port_number(text: str) -> int:
    """An argument that is a TCP port. Raises ArgumentTypeError for anything else."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"expected a port between 1 and 65535, and got {text!r}")
    return int(text)


def _serve(config: Config, file: Path, host: str, port: int) -> int:
    configure_logging()
    uvicorn.run(
        create_app(config, file),
        host=host,
        port=port,
        log_config=None,  # its messages go the way of ours
        access_log=False,
        server_header=False,
        loop="uvloop",
        # Not httptools: on `Connection: upgrade` it reads the body as a second request. h11 also bounds the headers.
        http="h11",
        timeout_graceful_shutdown=30,
        timeout_keep_alive=75,  # longer than common load balancers keep a connection, so that they close it first
    )
    return 0


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
