"""scripts/fetch_models: brings a published checkpoint into a folder and says how to put it into service."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.fetching.errors import FetchError, explain_disk
from scripts.fetching.folder import check, fetch, note
from scripts.fetching.manifest import MODELS, Model
from scripts.fetching.record import Held, read_record

ENVIRONMENT = "HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE mean what huggingface_hub says of them."


@dataclass(frozen=True)
class Outcome:
    """What a run did, as --json prints it."""

    model: str
    revisions: dict[str, str]
    folder: str
    files: dict[str, Held]
    fetched: list[str]
    serve: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    model = MODELS[options.model]
    folder = Path(os.path.abspath(options.into or model.default_folder))
    # A failure is one line here, and the hub's own warnings hold signed addresses.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        outcome = run(model, folder, options)
    except FetchError as error:
        return fail(str(error), options.json)
    except OSError as error:
        return fail(explain_disk(error, folder), options.json)
    except KeyboardInterrupt:
        note("interrupted; run it again to go on")
        return 130
    report(outcome, options.json)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    models = []
    for model in MODELS.values():
        models += [f"{model.name}: {', '.join(each.name for each in model.repositories)}", f"  {model.licence}"]
    root = argparse.ArgumentParser(
        prog="scripts/fetch_models",
        description="Brings published classifiers and routers into models/, checks them, and says how to put them into "
        "service.",
        epilog="\n".join([*models, ENVIRONMENT]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument(
        "model",
        nargs="?",
        choices=MODELS,
        default="nvidia",
        metavar="MODEL",
        help="one of those below; default: nvidia",
    )
    root.add_argument("--into", type=Path, metavar="DIR", help="default: models/OWNER/NAME in the project's folder")
    ways = root.add_mutually_exclusive_group()
    ways.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="copy a folder laid out like the hub's; no network"
    )
    ways.add_argument("--check", action="store_true", help="only check what was fetched; no network")
    root.add_argument("--json", action="store_true", help="print the result as JSON")
    return root


def run(model: Model, folder: Path, options: argparse.Namespace) -> Outcome:
    fetched: list[str] = []
    if options.check:
        check(model, folder)
    else:
        fetched = fetch(model, folder, options.source)
    record = read_record(folder)
    revisions, files = (dict(record.revisions), dict(record.files)) if record else ({}, {})
    serve = f"{model.variable}={shlex.quote(str(folder))} scripts/serve"
    return Outcome(model.name, revisions, str(folder), files, fetched, serve)


def report(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(outcome), indent=2))
        return
    width = max(map(len, outcome.files), default=0)
    for name, held in outcome.files.items():
        state = "fetched" if name in outcome.fetched else "whole"
        print(f"{name:<{width}} {held.size:>12,} bytes  sha256 {held.sha256}  {state}")
    print(outcome.serve)


def fail(reason: str, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": reason}))
    note(reason)
    return 1


if __name__ == "__main__":
    sys.exit(main())
