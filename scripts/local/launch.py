"""`scripts/launch_routellm`: two models under Dynamo and the router in front, watched until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from gateway.cli import port_number
from scripts.local.dynamo import Command, Dynamo
from scripts.local.layout import (
    DEFAULTS,
    Layout,
    LayoutError,
    is_path,
    mocker_dynamo,
    read_layout,
    router_command,
    vllm_dynamo,
)
from scripts.local.process import (
    Process,
    StartError,
    lock_folder,
    require_free_port,
    require_running,
    wait_until,
)
from scripts.local.triton import ROOT

_WATCH_SECONDS = 2.0
_MODEL_SECONDS = 3600.0  # 60 GB from a slow disk, and the engine's own preparations
_ROUTER_SECONDS = 300.0
_HAS_VLLM = "import importlib.util as u; raise SystemExit(not (u.find_spec('vllm') and u.find_spec('dynamo')))"
_VARIABLES = f"""\
environment variables (empty means the default):
  STRONG_MODEL     folder or hub name, and the name it is served under (default: {DEFAULTS["STRONG_MODEL"]})
  WEAK_MODEL       likewise (default: {DEFAULTS["WEAK_MODEL"]})
  STRONG_GPUS      GPU numbers or UUIDs with commas between (default: {DEFAULTS["STRONG_GPUS"]})
  STRONG_TP        tensor parallelism: the number of STRONG_GPUS, and nothing else
  WEAK_GPUS        as STRONG_GPUS; tensor parallelism is their number (default: {DEFAULTS["WEAK_GPUS"]})
  ROUTER_GPUS      as STRONG_GPUS, for the router itself (default: none, it runs on the CPU)
  THRESHOLD        win rates from it on go to the strong model, 0 to 1 (default: {DEFAULTS["THRESHOLD"]});
                   it means something else for each router and checkpoint: see scripts/calibrate_threshold
  ROUTER_TYPE      mf, bert, causal_llm or sw_ranking (default: {DEFAULTS["ROUTER_TYPE"]})
  CHECKPOINT_PATH  folder of the router's weights (default for mf: embedded ones)
  DYNAMO_PYTHON    the Python of an environment with ai-dynamo[vllm]==1.4.2 (default: this project's, without vllm)

All other variables go on to the processes, so DYN_REASONING_PARSER=gpt_oss does what it does for Dynamo.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/launch_routellm",
        description="Launch a strong and a weak model as vLLM workers of one Dynamo, and the router in front of it,\n"
        "all on this machine. Ctrl-C stops everything; when a part dies, so does the rest.",
        epilog=_VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = root.add_argument
    add("--dry-run", action="store_true", help="print the commands with their environment, and start nothing")
    add("--mocker", action="store_true", help="engines that answer with nonsense, without GPU and weights")
    add("--http-port", type=port_number, default=8080, metavar="PORT", help="the router's port (default: %(default)s)")
    add(
        "--frontend-port",
        type=port_number,
        default=8000,
        metavar="PORT",
        help="the Dynamo frontend's port (default: %(default)s)",
    )
    add(
        "--triton-port",
        type=port_number,
        default=8010,
        metavar="PORT",
        help="Triton's HTTP port; gRPC and metrics take the next two (default: %(default)s)",
    )
    add(
        "--state",
        type=Path,
        default=ROOT / ".local" / "launch",
        metavar="DIR",
        help="where logs and the processes' files go (default: .local/launch)",
    )
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 after Ctrl-C or a dry run, 1 when something failed, 2 for wrong variables."""
    options = parser().parse_args(arguments)
    state = options.state.absolute()
    make = mocker_dynamo if options.mocker else vllm_dynamo
    try:
        layout = read_layout(os.environ)
        dynamo = make(layout, options.frontend_port, state / "dynamo")
    except LayoutError as error:
        print("\n".join(error.faults), file=sys.stderr)
        return 2
    router = router_command(layout, dynamo, options.http_port, options.triton_port, state / "router")
    if options.dry_run:
        print("\n\n".join(f"# {command.name}\n{command.shell()}" for command in (*dynamo.commands, router)))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT, too: a shell's background jobs start with it ignored
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            if not options.mocker:
                _require_engine(layout)
            _require_ports(options)
            stack.enter_context(lock_folder(state))
            _launch(dynamo, router, options, state, stack)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 0


def _launch(dynamo: Dynamo, router: Command, options: argparse.Namespace, state: Path, stack: ExitStack) -> NoReturn:
    start = time.monotonic()
    stack.callback(dynamo.stop)
    dynamo.start()
    strong, weak = dynamo.models
    _say(f"Dynamo: starting at {dynamo.url} with {strong} (strong) and {weak} (weak); logs in {state / 'dynamo/logs'}")
    dynamo.wait(_MODEL_SECONDS)
    _say(f"Dynamo: both models answer after {time.monotonic() - start:.0f} s")
    process = Process(router.name, router.words, os.environ | router.environ, state / "router.log")
    stack.callback(process.stop, grace=60)  # it has a Triton to stop

    def ready() -> bool:
        require_running(dynamo.processes)
        return process.log.read_text().endswith("\nready\n")  # what scripts/serve prints last

    wait_until(ready, process, _ROUTER_SECONDS)
    _say(process.log.read_text().rstrip())
    while True:
        time.sleep(_WATCH_SECONDS)
        require_running([*dynamo.processes, process])


def _require_engine(layout: Layout) -> None:
    """Before minutes pass: vLLM, and the folders that are named."""
    try:
        found = subprocess.run([layout.dynamo_python, "-c", _HAS_VLLM]).returncode == 0
    except OSError as error:
        raise StartError(f"DYNAMO_PYTHON: {layout.dynamo_python} can't be run ({error.strerror})") from None
    if not found:
        raise StartError(
            f"{layout.dynamo_python} has no vllm; set DYNAMO_PYTHON to the Python of an environment with "
            "'ai-dynamo[vllm]==1.4.2' (not this one: vllm wants another torch), or use --mocker"
        )
    folders = {"STRONG_MODEL": layout.strong_model, "WEAK_MODEL": layout.weak_model}
    folders = {name: folder for name, folder in folders.items() if is_path(folder)}
    if layout.checkpoint_path:
        folders["CHECKPOINT_PATH"] = layout.checkpoint_path
    for name, folder in folders.items():
        if not Path(folder).is_dir():
            raise StartError(f"{name}: there is no folder {folder}")


def _require_ports(options: argparse.Namespace) -> None:
    require_free_port("127.0.0.1", options.frontend_port, "Dynamo's frontend")
    require_free_port(os.environ.get("ROUTELLM_HOST") or "127.0.0.1", options.http_port, "the router")
    for offset, use in enumerate(("HTTP", "gRPC", "metrics")):
        require_free_port("127.0.0.1", options.triton_port + offset, f"Triton's {use}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
