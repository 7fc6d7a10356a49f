"""scripts/push_models: brings a new version of a model to every Triton on a volume, or changes nothing."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.evaluating.evaluate import read_target as read_url
from scripts.pushing.compare import Limits, compare_beside, read_prompts
from scripts.pushing.errors import PushError
from scripts.pushing.golden import read_golden
from scripts.pushing.interrupt import Interrupts
from scripts.pushing.kubernetes import SERVER, Cluster, Pods, find_target, in_pod, running_uploader
from scripts.pushing.note import note
from scripts.pushing.promote import PING, Change, Examiner, Fleet, Served, look, make, recover
from scripts.pushing.replica import Replica
from scripts.pushing.source import CLASSIFIER, content_key, fitted, is_own, measure_all, parse_config, read_source
from scripts.pushing.trial import try_locally
from scripts.pushing.volume import Volume

_LIMITS = Limits(min_agreement=0.9, max_label_shift=0.05, max_calibration_shift=0.05)
_EPILOG = """\
What happens, in this order: the source is checked here (config, checksums beside it, weights), and loaded and asked
golden prompts by a Triton of this machine where there is one; it is copied to a staging folder on the volume, checked
there by SHA-256, and renamed into place; each replica in turn loads it, answers the golden prompts, and says which
checkpoint answered. If any of that fails, the version goes off the volume again, and every replica that was told of
it answers with the old one. A copy that breaks is taken up where it ended by the next run with the same source.

Exit code: 0; 1 nothing has changed, or the line says what; 2 wrong arguments; 130 interrupted, nothing has changed."""


@dataclass
class Report:
    """What a run did, as --json prints it."""

    model: str | None = None
    version: int | None = None
    action: str = "push"
    files: int = 0
    bytes: int = 0
    uploaded: int = 0
    tried_locally: bool = False
    golden: int = 0
    compare: dict[str, Any] | None = None
    replicas: dict[str, Served] = field(default_factory=dict)
    error: str | None = None
    is_done: bool = False  # whatever goes wrong from then on is only said

    def as_json(self) -> str:
        value = {name: each for name, each in vars(self).items() if each is not None and name != "is_done"}
        value["replicas"] = {name: vars(served) for name, served in self.replicas.items()}
        return json.dumps(value, indent=2)

    def as_text(self) -> str:
        lines = [f"{self.model} version {self.version}: {self.action}"]
        width = max(map(len, self.replicas), default=0)
        for name, served in self.replicas.items():
            lines.append(f"  {name:<{width}}  version {served.version}  {served.checkpoint or ''}".rstrip())
        return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = read_options(arguments)
    report = Report()
    interrupts = Interrupts()
    code = 0
    try:
        with interrupts.watching():
            run(options, report, interrupts)
    except Exception as error:
        if report.is_done:
            note(str(error))
        elif isinstance(error, PushError | OSError):
            report.error, code = str(error), 1
        else:
            raise
    except KeyboardInterrupt:
        report.error = "interrupted; what is served is as it was"
        code = 130
    if options.json:
        print(report.as_json())
    elif report.error is None:
        print(report.as_text())
    if report.error is not None:
        note(report.error)
    return code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/push_models",
        description="Brings a new version of a model to every Triton that serves from a volume, without a lost "
        "request; or changes nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = root.add_argument
    add(
        "source",
        nargs="?",
        type=Path,
        metavar="SOURCE",
        help="a Triton model's folder (config.pbtxt, and versions, of which the highest is pushed), or a checkpoint's "
        "(config.json, model.safetensors, ...), which this project's adapter of --model reads; NAME_classifier for a "
        "policy that scripts/add_policy added",
    )
    add("--model", metavar="NAME", help=f"whose version a checkpoint becomes (default: {CLASSIFIER})")
    add("--rollback", metavar="MODEL", help="take the highest version of MODEL out instead, and serve the one below")
    add("--dry-run", action="store_true", help="check everything that changes nothing, and say what would be done")
    add("--golden", type=Path, metavar="FILE", help=_GOLDEN)
    add("--json", action="store_true", help="print the result as JSON")
    where = root.add_argument_group("where", "Kubernetes, by kubectl, unless --local says otherwise.")
    add = where.add_argument
    add("--namespace", default="llm-router", metavar="NAME", help="default: %(default)s")
    add("--release", default="llm-router", metavar="NAME", help="of the chart (default: %(default)s)")
    add("--context", metavar="NAME", help="of kubectl's configuration (default: the current one)")
    add("--local", type=Path, metavar="DIR", help="a model repository that this machine sees, with --url")
    add(
        "--url",
        type=read_url,
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="gRPC endpoint of a Triton that serves DIR in explicit model control; once for each",
    )
    compare = root.add_argument_group(
        "compare before promoting",
        "The new version is loaded beside the served one on the first replica, as NAME__candidate, and both are asked.",
    )
    add = compare.add_argument
    add(
        "--compare",
        type=Path,
        metavar="FILE",
        help="prompts as JSON lines: 'prompt' or 'text'; with labels, as scripts/evaluate reads them or under their "
        "head's name, the calibration error of both is compared too",
    )
    add(
        "--min-agreement",
        type=_share,
        default=_LIMITS.min_agreement,
        metavar="SHARE",
        help="of the prompts that both give the same label (default: %(default)s)",
    )
    add(
        "--max-label-shift",
        type=_share,
        default=_LIMITS.max_label_shift,
        metavar="SHARE",
        help="of the prompts that change sides: total variation between the labels' shares (default: %(default)s)",
    )
    add(
        "--max-calibration-shift",
        type=_share,
        default=_LIMITS.max_calibration_shift,
        metavar="SHARE",
        help="by which the mean confidence may move, and the calibration error grow (default: %(default)s)",
    )
    return root


_GOLDEN = (
    'JSON lines, {"prompt": TEXT, "expect": {OUTPUT: VALUE}}; VALUE is a text, a number or [LOW, HIGH], and of an '
    "output with several values a list of them all (default: scripts/pushing/golden.jsonl, as far as the model has its "
    "outputs)"
)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Exits with a usage line unless they belong together."""
    root = parser()
    options = root.parse_args(arguments)
    if (options.source is None) == (options.rollback is None):
        root.error("give a SOURCE, or --rollback MODEL")
    if (options.local is None) != (not options.url):
        root.error("--local and --url belong together")
    if options.dry_run and options.compare:
        root.error("--dry-run asks nobody: it goes without --compare")
    if options.rollback is not None and (options.compare or options.model or options.golden):
        root.error("--rollback takes neither --model, --golden nor --compare")
    if options.local is not None and not options.local.is_dir():
        root.error(f"--local {options.local} is no folder")
    return options


def run(options: argparse.Namespace, report: Report, interrupts: Interrupts) -> None:
    """Raises PushError and KeyboardInterrupt: nothing has changed, or the line says what."""
    if options.rollback is not None:
        take_out(options, report, interrupts)
    else:
        push(options, report, interrupts)


def push(options: argparse.Namespace, report: Report, interrupts: Interrupts) -> None:
    source = read_source(options.source, options.model)
    golden = read_golden(options.golden, source.outputs) if source.prompts else []
    rows = read_prompts(options.compare) if options.compare else []
    report.model, report.golden = source.model, len(golden)
    if not source.prompts:
        note(f"{source.model} has no input INPUT of type BYTES: only its load is checked")
        if rows:
            raise PushError(f"{source.model} takes no prompts: there is nothing to compare")
    with reached(options) as (volume, fleet):
        inventory = volume.inventory()
        if not options.dry_run:
            left = volume.lock(holder(f"push of {source.model}"))
            with interrupts.held():
                inventory = recover(volume, fleet, left, inventory)
        served = inventory.models.get(source.model)
        if served is not None:
            source = fitted(source, served)
        elif source.checkpoint is not None and not source.config_is_ours and is_own(source.checkpoint):
            raise PushError(
                f"{source.model} is not on the volume: push the folders that scripts/add_policy makes first"
            )
        examiner = Examiner(source.model, source.config, golden or PING)
        if rows and (served is None or not served.versions):
            raise PushError(f"{source.model} is not on the volume: there is nothing to compare with")
        if not options.dry_run and not (inventory.writable and (served is None or served.writable)):
            raise PushError(f"{inventory.repository} on the volume can't be written by the one who uploads")
        version, whole = source.next_number(served), served is None
        report.version = version
        before = look(fleet, examiner, max(served.versions, default=None) if served else None)
        expected = source.expected_checkpoint(version)

        def check(replica: Replica) -> str | None:
            replica.load(source.model)
            return examiner.examine(replica, version, expected)

        found, reason = try_locally(source, version, check)
        report.tried_locally = reason is None
        note(f"not tried on this machine: {reason}" if reason else "serves on this machine")
        if source.checkpoint is not None:  # else its weights are those of the machine
            expected = expected or found
        files = source.upload(whole, version)
        held = measure_all(files)
        report.files, report.bytes = len(files), sum(each.size for each in held.values())
        what = f"{source.model} version {version}, {len(files)} files, {report.bytes:,} bytes"
        if options.dry_run:
            report.action = "dry run, nothing changed"
            report.replicas = before
            note(f"would bring {what} to {inventory.repository}, by way of {inventory.staging}")
            note(f"would tell {', '.join(replica.name for replica in fleet.replicas)}")
            return
        key = content_key(source.model, held)
        report.uploaded = volume.upload(key, files, held, inventory.free)
        note(f"{what}: whole on the volume, {report.uploaded:,} bytes sent")
        if rows:
            compared = compare_beside(volume, fleet.replicas[0], examiner, version, rows, interrupts)
            report.compare = compared.as_json()
            if not options.json:
                print(compared.as_text(), flush=True)
            limits = Limits(options.min_agreement, options.max_label_shift, options.max_calibration_shift)
            if faults := compared.faults(limits):
                raise PushError(f"not promoted: {'; '.join(faults)}")
        change = Change.push(source.model, version, whole, key)
        report.replicas = make(volume, fleet, examiner, change, expected, before, interrupts)
        report.action, report.is_done = "served by all", True


def take_out(options: argparse.Namespace, report: Report, interrupts: Interrupts) -> None:
    model = options.rollback
    report.model, report.action = model, "rollback"
    with reached(options) as (volume, fleet):
        inventory = volume.inventory()
        if not options.dry_run:
            left = volume.lock(holder(f"rollback of {model}"))
            with interrupts.held():
                inventory = recover(volume, fleet, left, inventory)
        served = inventory.models.get(model)
        if served is None or served.config is None:
            raise PushError(f"{model} is not on the volume; there are {', '.join(inventory.models) or 'no models'}")
        if len(served.versions) < 2:
            raise PushError(f"{model} has one version: there is none to go back to")
        examiner = Examiner(model, parse_config(served.config, f"config.pbtxt of {model} on the volume"))
        below, version = sorted(served.versions)[-2:]
        report.version = below
        if options.dry_run:
            report.action = "dry run, nothing changed"
            report.replicas = {replica.name: examiner.served(replica) for replica in fleet.replicas}
            note(f"would take version {version} out, and tell {', '.join(report.replicas)}")
            return
        before = {}
        for replica in fleet.replicas:
            replica.settle(model)
            before[replica.name] = examiner.served(replica)
        change = Change.rollback(model, version, below)
        report.replicas = make(volume, fleet, examiner, change, None, before, interrupts)
        report.action, report.is_done = "served by all again", True


@contextmanager
def reached(options: argparse.Namespace) -> Iterator[tuple[Volume, Fleet]]:
    """The volume and who serves from it. Raises PushError: one of them can't be reached."""
    with ExitStack() as stack:
        if options.local is not None:
            urls = Urls(options.url)
            stack.callback(urls.close)
            yield stack.enter_context(Volume(str(options.local.absolute()))), urls
            return
        cluster = Cluster(options.namespace, options.release, options.context)
        target = find_target(cluster)
        pods = Pods(cluster)
        stack.callback(pods.close)
        if options.dry_run:  # reading is what a replica may do
            prefix = in_pod(cluster, pods.replicas[0].name, SERVER)
        else:
            prefix = stack.enter_context(running_uploader(cluster, target))
        yield stack.enter_context(Volume(target.repository, prefix)), pods


class Urls:
    """Tritons at fixed addresses."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.replicas = [Replica(url, url) for url in urls]

    def newcomers(self) -> list[Replica]:
        return []

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()


def holder(what: str) -> str:
    """Who is at work, for others to read."""
    return f"{os.environ.get('USER') or os.getuid()}@{socket.gethostname()} (pid {os.getpid()}, {what})"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
