"""Finds the threshold that sends a wanted share of the prompts to the strong model, by RouteLLM's published method: a
quantile of the win rates, computed on one random half of the prompts and tried on the other, held-out half.

Prompts are scored through a running Triton; the decisions in a gateway's log have their win rates already.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.calibrating import edit, files
from scripts.calibrating.edit import EditError, PolicySettings
from scripts.calibrating.files import WriteError
from scripts.calibrating.threshold import Calibration, CalibrationError, calibrate
from scripts.calibrating.traffic import read_traffic
from scripts.evaluating.ask import TritonError
from scripts.evaluating.evaluate import read_target
from scripts.evaluating.score import ROUTERS, reach_router, score
from scripts.training.data import DataError


@dataclass(frozen=True)
class Report:
    """What was calibrated on what. `diff` is what it changes in the configuration, None without one."""

    checkpoint: str | None
    wanted_share: float
    seed: int
    skipped: int
    calibration: Calibration
    diff: str | None = None
    applied: bool = False

    def as_json(self) -> str:
        value: dict[str, Any] = asdict(self)
        return json.dumps(value | value.pop("calibration"), indent=2, allow_nan=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 2 when an argument, the data or the configuration is wrong; 1 when Triton or
    writing fails."""
    root = parser()
    options = root.parse_args(arguments)
    if options.config is not None and options.policy is None:
        root.error("--config needs --policy, the name of the policy to change")
    if options.apply and options.config is None:
        root.error("--apply needs --config, the file to change")
    try:
        report = run(options)
    except (DataError, CalibrationError, EditError, TritonError, WriteError) as error:
        print(f"calibrate_threshold: {error}", file=sys.stderr)
        return 1 if isinstance(error, (TritonError, WriteError)) else 2
    except KeyboardInterrupt:
        print("calibrate_threshold: interrupted", file=sys.stderr)
        return 130
    print(report.as_json() if options.json else format_report(report))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/calibrate_threshold",
        description=__doc__,
        epilog="Exit code: 0; 2 wrong arguments, data or configuration; 1 otherwise.",
    )
    add = root.add_argument
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="prompts, one JSON object a line with text, prompt or messages; or the gateway's log, "
        "whose lines with a win_rate count",
    )
    add(
        "--strong-share",
        type=read_share,
        required=True,
        metavar="SHARE",
        help="the wanted share of strong calls, above 0 and below 1",
    )
    add("--triton", type=read_target, metavar="HOST:PORT", help="gRPC endpoint of the Triton that scores prompts")
    add("--router", choices=ROUTERS, help="the router that scores prompts (default: the policy's, else mf)")
    add("--config", type=Path, metavar="FILE", help="configuration to show the change in, and with --apply to change")
    add("--policy", metavar="NAME", help="the policy in --config; of a log, only its decisions count")
    add("--apply", action="store_true", help="write the policy's threshold, and nothing else, to --config")
    add("--seed", type=read_seed, default=0, help="deals the prompts out to the two halves (default: %(default)s)")
    add("--json", action="store_true", help="print the result as JSON")
    return root


def read_share(value: str) -> float:
    """Raises ArgumentTypeError: no number above 0 and below 1."""
    try:
        share = float(value)
    except ValueError:
        share = float("nan")
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and below 1, as 0.2, and got {value!r}")
    return share


def read_seed(value: str) -> int:
    """Raises ArgumentTypeError: no whole number from 0 on."""
    if not value.isascii() or not value.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, and got {value!r}")
    return int(value)


def run(options: argparse.Namespace) -> Report:
    """Raises DataError, CalibrationError, EditError, TritonError and WriteError; nothing is changed then."""
    policy = PolicySettings(options.router or "mf", "last_user")
    if options.config is not None:
        with _naming(options.config):  # before the long part
            if options.apply:
                files.require_writable(options.config)
            policy = edit.settings(files.read_text(options.config), options.policy)
    if options.router not in (None, policy.router):
        raise EditError(f"{options.config}: policy {options.policy!r} has the router {policy.router}, not --router's")
    traffic = read_traffic(options.data, policy.input, options.policy)
    win_rates: NDArray[np.float64] = np.array(traffic.win_rates)
    checkpoint = next(iter(traffic.checkpoints), None)
    if traffic.prompts:
        if options.triton is None:
            raise DataError(
                f"{options.data[0]}: holds prompts; --triton HOST:PORT should name the Triton to score them"
            )
        with reach_router(options.triton, policy.router) as client:
            scored = score(client, policy.router, traffic.prompts)
        win_rates, checkpoint = scored.win_rates, scored.checkpoint
    found = calibrate(win_rates, options.strong_share, options.seed)
    change, applied = None, False
    if options.config is not None:
        with _naming(options.config):
            # Read again: scoring may have taken minutes.
            before = files.read_text(options.config)
            after = edit.with_threshold(before, options.policy, found.threshold)
            change = edit.diff(options.config, before, after)
            if options.apply and change:
                files.write_atomically(options.config, after)
                applied = True
    return Report(checkpoint, options.strong_share, options.seed, traffic.skipped, found, change, applied)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except EditError as error:
        raise EditError(f"{path}: {error}") from None


def format_report(report: Report) -> str:
    found = report.calibration
    lines = [
        ("checkpoint", report.checkpoint or "unknown"),
        ("threshold", f"{found.threshold:.5f}"),
        ("wanted share of strong calls", f"{report.wanted_share:.3f}"),
        (f"on the {found.computed_on.prompts:,} prompts it was computed on", f"{found.computed_on.strong_share:.3f}"),
        (f"on the {found.held_out.prompts:,} held-out prompts", f"{found.held_out.strong_share:.3f}"),
    ]
    if report.skipped:
        lines.append(("lines skipped: no text, or no win rate", f"{report.skipped:,}"))
    width = max(len(name) for name, _ in lines) + 2
    text = "\n".join(f"{name:<{width}}{value}" for name, value in lines)
    if report.diff is None:
        return text
    done = "written" if report.applied else "not written: --apply writes it" if report.diff else "nothing to change"
    return f"{text}\n\n{report.diff}{done}"


if __name__ == "__main__":
    sys.exit(main())
