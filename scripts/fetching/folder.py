"""A fetched folder: fetching what it lacks, checking what it holds.

Everything is brought into a folder `.partial` first, checked and loaded there, and then moved: the model's first file,
without which nothing loads a folder, goes away first and comes back last but for fetched.json. A half-fetched folder is
therefore never taken for a finished one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from classifiers.checkpoint import CheckpointError
from scripts.fetching.errors import FetchError
from scripts.fetching.manifest import Model, Repository
from scripts.fetching.record import RECORD, Expected, Record, fault, faults, measure, read_record, write_record
from scripts.fetching.sources import at_commit, bring_from_folder, bring_from_hub, check_source

STAGING = ".partial"
MANIFEST = "scripts/fetching/manifest.py"


def check(model: Model, folder: Path) -> None:
    """Raises FetchError unless every file is as it was fetched, and loads."""
    found = faults(model, folder)
    if found:
        into = "" if folder == model.default_folder else f" --into {folder}"
        named = ", ".join(f"{name} {wrong}" for name, wrong in found.items())
        raise FetchError(f"{folder}: {named}; scripts/fetch_models {model.name}{into} fetches what is wrong")
    validate(model, folder)


def fetch(model: Model, folder: Path, source: Path | None) -> list[str]:
    """Brings what is missing or damaged, and returns its names."""
    wanted = list(faults(model, folder))
    if not wanted:
        validate(model, folder)
        return []
    refuse_foreign(model, folder)
    if source:
        check_source(model, source)
    note(f"{model.name} is under the {model.licence}")
    with locked_staging(folder) as staging:
        settled = settle(model, folder, source)
        stage_whole(folder, staging, [name for name in model.files if name not in wanted])
        for name in wanted:
            bring(settled, name, staging, source)
        validate_staged(model, staging, source)
        put_in_place(settled, staging, folder)
    for branch, commit in zip(model.repositories, settled.repositories, strict=True):
        if branch != commit:
            note(f"{branch.name}: this is commit {commit.revision} of {branch.revision}; {MANIFEST} can pin it")
    if model.needs:
        note(f"{model.name} also needs {model.needs}")
    return wanted


def settle(model: Model, folder: Path, source: Path | None) -> Model:
    """The model with commits in place of branches: those that were fetched before, else those that the hub names."""
    record = read_record(source or folder)
    revisions = record.revisions if record and record.is_of(model) else {}

    def settled(repository: Repository) -> Repository:
        recorded = replace(repository, revision=revisions.get(repository.name, repository.revision))
        return recorded if source else at_commit(recorded)

    return replace(model, repositories=tuple(map(settled, model.repositories)))


def refuse_foreign(model: Model, folder: Path) -> None:
    """Never writes over a checkpoint that somebody else put there. A run that was ended while moving left a record."""
    if (folder / RECORD).exists() or (folder / STAGING / RECORD).exists():
        return
    for name in model.files:
        if (folder / name).exists():
            raise FetchError(f"{folder} holds a {name} that this command did not fetch: choose another --into DIR")


@contextmanager
def locked_staging(folder: Path) -> Iterator[Path]:
    """The staging folder, for one run at a time. What an interrupted run brought stays in it for the next one."""
    staging = folder / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    handle = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Unfinished files of a killed download: the hub's client does not take them up again.
        for cache in list(staging.rglob(".cache")):
            shutil.rmtree(cache, ignore_errors=True)
        yield staging
    except BlockingIOError:
        raise FetchError(f"another run is fetching into {folder}: wait for it") from None
    finally:
        os.close(handle)


def stage_whole(folder: Path, staging: Path, names: Iterable[str]) -> None:
    for name in names:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).unlink(missing_ok=True)
        try:
            os.link(folder / name, staging / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(folder / name, staging / name)


def bring(model: Model, name: str, staging: Path, source: Path | None) -> None:
    """Brings one file and checks it against every hash that is known."""
    file, staged = model.files[name], staging / name
    staged.parent.mkdir(parents=True, exist_ok=True)
    if source is None:
        expected = bring_from_hub(file, staging)
    else:
        expected = bring_from_folder(name, staging, source)
    wrong = fault(staged, expected) or fault(staged, Expected(digest=file.sha256))
    if wrong:
        staged.unlink(missing_ok=True)
        origin = source or f"{file.repository.name} at revision {file.repository.revision}"
        raise FetchError(f"{name} from {origin} {wrong}: run the command again, or bring a copy with --from DIR")
    if expected.digest is None and file.sha256 is None:
        note(f"nothing tells the hash of this {name}, so it is taken as it is")


def validate_staged(model: Model, staging: Path, source: Path | None) -> None:
    try:
        validate(model, staging)
    except FetchError as error:
        shutil.rmtree(staging)
        raise FetchError(str(error).replace(str(staging), str(source or staging.parent))) from error


def validate(model: Model, folder: Path) -> None:
    """Reads what the model in Triton will load."""
    try:
        model.check(folder)
    except CheckpointError as error:
        raise FetchError(str(error)) from error


def put_in_place(model: Model, staging: Path, folder: Path) -> None:
    held = {name: measure(staging / name) for name in model.files}
    write_record(staging, Record({each.name: each.revision for each in model.repositories}, held))
    first, *others = model.files
    for name in (RECORD, first):
        (folder / name).unlink(missing_ok=True)
    for name in [*others, first, RECORD]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, folder / name)
    shutil.rmtree(staging)


def note(text: str) -> None:
    print(f"fetch_models: {text}", file=sys.stderr)
