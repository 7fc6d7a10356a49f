"""Says what a router did, by the gateway's log: requests by policy and model, why each model was chosen, tokens, what
they cost, and what was saved against each policy's strongest model.

Costs are those of the llms' `cost` when the requests were answered. Of a RouteLLM policy the strongest model is the
strong one, of another the llm whose answers cost most.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.reporting.account import account_of
from scripts.reporting.read import read_log
from scripts.reporting.show import NOT_COUNTED, format_account
from scripts.training.data import DataError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/report", description=__doc__, epilog="Exit code: 0; 2 for a file that can't be read or is no log."
    )
    root.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="what the gateway wrote to its standard output")
    root.add_argument("--plot", type=Path, metavar="FILE", help="a PNG of what was spent and saved")
    root.add_argument("--json", action="store_true", help="print JSON in place of tables")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        log = read_log(options.logs)
        account = account_of(log.answers)
        if options.plot is not None:
            from scripts.reporting.draw import draw_account  # matplotlib takes half a second

            draw_account(account, log.answers, options.plot)
    except (DataError, OSError) as error:
        for line in str(error).splitlines():
            print(f"report: {line}", file=sys.stderr)
        return 2
    times = [answer.time for answer in log.answers]
    first, last = min(times), max(times)
    if options.json:
        span = {"first": first.isoformat(), "last": last.isoformat()}
        print(json.dumps(account.as_json() | span | {"other_lines": log.others, "note": NOT_COUNTED}, indent=2))
    else:
        print(format_account(account, log.others, first, last))
    return 0


if __name__ == "__main__":
    sys.exit(main())
