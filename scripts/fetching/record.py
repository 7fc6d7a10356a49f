"""fetched.json: what was fetched into a folder, so that a later run finds a damaged file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.fetching.manifest import Model

RECORD = "fetched.json"


@dataclass(frozen=True)
class Held:
    """A file as it lies on disk."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Expected:
    """What a file should be. `digest` is a SHA-256, or a SHA-1 as the hub has it for small files; None: not known."""

    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Record:
    """`revisions`: of each repository, by its name."""

    revisions: Mapping[str, str]
    files: Mapping[str, Held]

    def is_of(self, model: Model) -> bool:
        return all(
            repository.name in self.revisions
            and (not repository.is_pinned or self.revisions[repository.name] == repository.revision)
            for repository in model.repositories
        )


def read_record(folder: Path) -> Record | None:
    """None: there is none, or it can't be read, which is the same to a run that checks every file anyway."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {name: Held(int(file["size"]), str(file["sha256"])) for name, file in record["files"].items()}
        return Record({str(name): str(revision) for name, revision in record["revisions"].items()}, files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_record(folder: Path, record: Record) -> None:
    unfinished = folder / f"{RECORD}.new"
    unfinished.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / RECORD)


def faults(model: Model, folder: Path) -> dict[str, str]:
    """What is wrong with each file of a fetched folder: nothing, when it is whole."""
    record = read_record(folder)
    recorded = record.files if record and record.is_of(model) else {}
    found = {}
    for name, file in model.files.items():
        held = recorded.get(name)
        wrong = fault(folder / name, Expected(held.size, held.sha256)) if held else "was not fetched"
        wrong = wrong or fault(folder / name, Expected(digest=file.sha256))
        if wrong:
            found[name] = wrong
    return found


def fault(path: Path, expected: Expected) -> str | None:
    """What is wrong with a file, or None."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"has {size} bytes and should have {expected.size}"
    found = digests(path, expected.digest)
    return f"has hash {found[0]} and should have {expected.digest}" if expected.digest not in found else None


def digests(path: Path, like: str | None) -> tuple[str | None, ...]:
    """A file's digests of the same length as another one."""
    if like is None:
        return (None,)
    if len(like) == 64:
        return (measure(path).sha256,)
    # The hub names small files by git's id of them; some mirrors by the plain SHA-1.
    header = b"blob %d\0" % path.stat().st_size
    with path.open("rb") as file:
        git = hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()
    with path.open("rb") as file:
        return git, hashlib.file_digest(file, "sha1").hexdigest()


def measure(path: Path) -> Held:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Held(path.stat().st_size, digest)


def as_digest(text: str | None) -> str | None:
    """The text when it is a digest: an ETag, or the name of a file in the hub's cache, need not be one."""
    return text if text and re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", text) else None
