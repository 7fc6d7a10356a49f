"""Measures how fast the served ensembles and the gateway are, against baselines that run beside them in the same
rounds: the blueprint's behaviour, the bare network in one process, the upstream without the gateway, nginx.

Everything is started on loopback and stopped again. Nothing else should run meanwhile."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import TimeoutExpired

from scripts.benchmarking.decisions import measure_curves, measure_decisions
from scripts.benchmarking.figures import number
from scripts.benchmarking.gateway import measure_gateway, measure_growth
from scripts.benchmarking.profile import measure_profile
from scripts.benchmarking.prompts import DEFAULT, PromptsError, read_texts
from scripts.benchmarking.record import PLOTS, RECORD, add_part, load_record, results_of, save_record, values_of
from scripts.benchmarking.rounds import Kept, Run, Values
from scripts.evaluating.ask import TritonError
from scripts.local.process import StartError, lock_folder
from scripts.local.triton import ROOT

PARTS: Mapping[str, Callable[[Run], Values]] = {
    "deberta": lambda run: measure_decisions(run, run.deberta()),
    "deberta-curves": lambda run: measure_curves(run, run.deberta()),
    "embedded": lambda run: measure_decisions(run, None),
    "embedded-curves": lambda run: measure_curves(run, None),
    "gateway": measure_gateway,
    "growth": measure_growth,
    "profile": measure_profile,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description=__doc__,
        epilog="Exit code: 0, whether targets are met or not; 2 wrong arguments or prompts; 1 otherwise.",
    )
    add = root.add_argument
    add(
        "--quick",
        action="store_true",
        help="one round, a few requests, a tiny DeBERTa: shows that everything works; its figures mean nothing",
    )
    add("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"these parts: {', '.join(PARTS)} (default: all)")
    add(
        "--rounds", type=_rounds, default=5, metavar="N", help="how often each thing is measured (default: %(default)s)"
    )
    add(
        "--prompts",
        type=Path,
        default=DEFAULT,
        metavar="FILE",
        help="prompts to ask about, one JSON object a line with text (default: scripts/training/prompts.jsonl)",
    )
    add(
        "--record",
        action="store_true",
        help="write the figures to docs/benchmarks.json and the plots beside it; parts that are there already stay "
        "when they are of this machine and not measured now (then scripts/check --fix renews docs/BENCHMARKS.md)",
    )
    add("--out", type=Path, metavar="FILE", help="write the figures to this JSON file, too, whose parts stay likewise")
    add(
        "--state",
        type=Path,
        default=ROOT / ".local" / "benchmark",
        metavar="DIR",
        help="where logs, checkpoints and fetched tools are kept (default: .local/benchmark)",
    )
    return root


def _rounds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected a number between 1 and 100, and got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parser().parse_args(arguments)
    files = [file for file in (RECORD if options.record else None, options.out) if file is not None]
    if options.quick and options.record:
        print("benchmark: --quick measures nothing worth recording; --out FILE takes it", file=sys.stderr)
        return 2
    try:
        texts = read_texts(options.prompts)
        rounds = 1 if options.quick else options.rounds
        with lock_folder(options.state), Kept() as kept:
            shown = load_record(Path("/nonexistent"))
            for name in options.only or PARTS:
                run = Run(options.state.absolute(), texts, kept, rounds, options.quick)
                run.notes["prompts"] = _shown(options.prompts)
                values = PARTS[name](run)
                shown = add_part(shown, name, values, run)
                for file in files:  # after each part: a run that is cut keeps what it has
                    save_record(add_part(load_record(file), name, values, run), file)
    except (PromptsError, StartError, TritonError, OSError, TimeoutExpired) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2 if isinstance(error, PromptsError) else 1
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        return 130
    if options.record:
        from scripts.benchmarking.draw import draw

        draw(values_of(load_record()), PLOTS)
    print(summary(shown))
    return 0


def summary(record: Mapping[str, object]) -> str:
    """The figures for a terminal; of parts without a promise, all that was measured."""
    found = results_of(dict(record))
    lines = [
        f"{number(each.value):>8} {each.promise.unit:<3} {each.promise.comparison} {each.target:<5g} "
        f"{'met' if each.met else 'NOT met':<8}{each.promise.what}; {each.beside}"
        for each in found
    ]
    promised = {each.promise.part for each in found}
    rest = {name: values for name, values in values_of(dict(record)).items() if name not in promised}
    return "\n".join([*lines, *([json.dumps(rest, indent=1)] if rest else [])])


def _shown(file: Path) -> str:
    """Its path in the project, or its name alone: a path of this machine means nothing elsewhere."""
    place = file.absolute()
    return str(place.relative_to(ROOT)) if place.is_relative_to(ROOT) else place.name


if __name__ == "__main__":
    sys.exit(main())
