"""Replays requests under two configurations, and says what would change: which requests move from which model to which,
what is abstained from, the share of strong calls, the estimated cost, and where the truth is known the quality.

OLD and NEW are configuration files as the gateway reads them, and its own code decides. Prompts are put to Triton. The
decisions in a gateway's log need none, and show what the configuration alone changes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gateway.config import ConfigError, load_config
from gateway.decision import Decision
from scripts.diffing.compare import Difference, Limits, Verdict, compare, judge
from scripts.diffing.outcome import (
    Side,
    costs_of,
    decided_by_both,
    outcomes,
    question_of,
    require_policies,
    require_replayable,
)
from scripts.diffing.replay import Request, nothing_decided, read_requests
from scripts.diffing.show import format_difference
from scripts.evaluating.ask import TritonError
from scripts.evaluating.decisions import decide_all
from scripts.evaluating.evaluate import read_target
from scripts.training.data import DataError
from scripts.training.records import refuse

_OUTPUT_TOKENS = 256


@dataclass(frozen=True)
class Report:
    """What differs, how many lines held no request, what was assumed, and the limits that were given."""

    difference: Difference
    skipped: int
    output_tokens: int
    checkpoints: dict[str, list[str]]
    verdicts: list[Verdict]

    def as_json(self) -> str:
        limits = [verdict._asdict() | {"exceeded": verdict.exceeded} for verdict in self.verdicts]
        value: dict[str, Any] = self.difference.as_json() | {
            "skipped": self.skipped,
            "assumed_output_tokens": self.output_tokens,
            "checkpoints": self.checkpoints,
            "limits": [limit | {"value": _finite(limit["value"])} for limit in limits],
        }
        return json.dumps(value, indent=2, allow_nan=False)

    def as_text(self) -> str:
        return format_difference(self.difference, self.output_tokens, self.skipped)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 1 past a limit; 2 when an argument, a configuration or the data is wrong, or a limit
    can't be judged; 3 when Triton fails."""
    options = parser().parse_args(arguments)
    try:
        report = run(options)
    except (ConfigError, DataError, TritonError) as error:
        for line in str(error).splitlines():
            print(f"policy_diff: {line}", file=sys.stderr)
        return 3 if isinstance(error, TritonError) else 2
    except KeyboardInterrupt:
        print("policy_diff: interrupted", file=sys.stderr)
        return 130
    print(report.as_json() if options.json else report.as_text())
    unjudged = [verdict for verdict in report.verdicts if verdict.value is None]
    exceeded = [verdict for verdict in report.verdicts if verdict.exceeded]
    for verdict in unjudged + exceeded:
        print(f"policy_diff: {verdict.line}", file=sys.stderr)
    return 2 if unjudged else 1 if exceeded else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/policy_diff",
        description=__doc__,
        epilog="Exit code: 0; 1 past a limit; 2 wrong arguments, configurations or data, or a limit that can't be "
        "judged; 3 Triton gave no decision. A limit that can't be judged outweighs one that is exceeded.",
    )
    add = root.add_argument
    add("old", type=Path, metavar="OLD", help="the configuration in force")
    add("new", type=Path, metavar="NEW", help="the one that would replace it")
    add(
        "--replay",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="requests, one JSON object a line: prompts (text, prompt or messages, what else a request says, and where "
        "known policy, label, strong and weak, output_tokens), or the gateway's log",
    )
    add(
        "--triton",
        type=read_target,
        metavar="HOST:PORT",
        help="gRPC endpoint of the Triton that decides (default: as the gateway: TRITON_GRPC_URL, else each policy's)",
    )
    add("--new-triton", type=read_target, metavar="HOST:PORT", help="another one for NEW, as with a new checkpoint")
    add(
        "--output-tokens",
        type=_read_count,
        default=_OUTPUT_TOKENS,
        metavar="N",
        help="an answer's tokens where a request does not tell, to estimate costs by (default: %(default)s)",
    )
    _add_limits(root)
    add("--json", action="store_true", help="print the result as JSON")
    return root


def _add_limits(root: argparse.ArgumentParser) -> None:
    limits = root.add_argument_group("limits", "shares, as 0.05; one that the requests can't show is a fault")
    for option, what in (
        ("--max-moved", "of the requests that go to another model"),
        ("--max-cost-increase", "by which the estimated cost rises"),
        ("--max-quality-drop", "of right labels, or right answers, by which NEW has less than OLD"),
        ("--max-strong-share-change", "by which the share of strong calls rises or falls"),
    ):
        limits.add_argument(option, type=_read_limit, metavar="SHARE", help=f"the most {what}")


def run(options: argparse.Namespace) -> Report:
    """Raises ConfigError, DataError and TritonError."""
    old, new = _load(options.old, options.new)
    replay = read_requests(options.replay)
    require_policies(replay.requests, (old, new))
    requests = decided_by_both(replay.requests, (old, new))
    if not requests:
        raise nothing_decided(options.replay)
    require_replayable(requests, old, new)
    if options.new_triton is not None and any(request.logged is not None for request in requests):
        raise DataError("--new-triton asks a network that a log's decisions are not of; replay prompts")
    (old_costs, faults), (new_costs, more) = costs_of(old), costs_of(new)
    refuse(faults + more)
    asked = _ask(requests, (old, options.triton), (new, options.new_triton or options.triton))
    before, after = (outcomes(side, requests, asked[side.name]) for side in (old, new))
    found = compare(requests, before, after, (old_costs, new_costs), options.output_tokens)
    limits = Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)})
    skipped = replay.skipped + len(replay.requests) - len(requests)
    return Report(found, skipped, options.output_tokens, _checkpoints(asked), judge(found, limits))


def _load(old: Path, new: Path) -> tuple[Side, Side]:
    """Both configurations, or every fault of both."""
    sides, faults = [], []
    for name, path in (("OLD", old), ("NEW", new)):
        try:
            sides.append(Side(name, load_config(path)))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    for warning in dict.fromkeys(warning for side in sides for warning in side.config.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    return sides[0], sides[1]


def _ask(requests: Sequence[Request], *sides: tuple[Side, str | None]) -> dict[str, list[Decision | None]]:
    """By side, Triton's decision about each request; what both sides ask alike is asked once."""
    questions = {side.name: [question_of(side, target, each) for each in requests] for side, target in sides}
    wanted = {question for each in questions.values() for question in each if question is not None}
    found = decide_all(wanted, sides[0][0].config.triton_ca_file) if wanted else {}
    return {
        name: [None if question is None else found[question] for question in each] for name, each in questions.items()
    }


def _checkpoints(asked: dict[str, list[Decision | None]]) -> dict[str, list[str]]:
    """By side, the networks that answered, as far as they tell."""
    return {
        name.lower(): sorted(
            {each.checkpoint for each in decisions if each is not None and each.checkpoint is not None}
        )
        for name, decisions in asked.items()
    }


def _read_limit(value: str) -> float:
    try:
        limit = float(value)
    except ValueError:
        limit = float("nan")
    if not 0 <= limit < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a share from 0 on, as 0.05, and got {value!r}")
    return limit


def _read_count(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, and got {value!r}")
    return int(value)


def _finite(value: float | None) -> float | None:
    return None if value == float("inf") else value


if __name__ == "__main__":
    sys.exit(main())
