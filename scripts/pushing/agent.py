"""The end of scripts/push_models that touches the volume: `python3 -I agent.py REPOSITORY`, here or in a pod.

It reads one JSON object a line and answers each with one: {"ok": RESULT} or {"error": "one line"}. `receive` is
followed by as many raw bytes as it says. It ends with its stdin. Everything is written into a staging folder on the
same file system and comes into the repository, and out of it, by rename only. Standard library only: it is sent as
text to a machine that has nothing else.

Under .staging: `lock`, held by one agent at a time, and a folder named after the repository, with
    incoming/KEY    one upload, kept for the next try when it breaks; KEY names its content
    withdrawn/      versions that were taken out on demand
    journal.json    a version that came in or went out, until the caller says that every replica agrees
    candidate.json  a model that is in the repository only to be compared
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

STAGING = ".staging"
CANDIDATE = "__candidate"  # ends the name of a model that is only compared
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_KEY = re.compile(r"[0-9a-f]{64}")
_OTHERS = "another push has begun on this volume meanwhile, and has not ended: run that one again"
_PIECE = 1 << 18
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644  # Triton may run as another user


class AgentError(Exception):
    """One line for the caller."""


class Ended(Exception):
    """The caller is gone."""


class Agent:
    """One served repository, and what lies in staging for it."""

    def __init__(self, repository: Path, requests: BinaryIO) -> None:
        self._repository = repository.resolve()
        if not self._repository.is_dir():
            raise AgentError(f"{repository} is no folder")
        self._staging = staging_folder(self._repository)
        self._own = self._staging / self._repository.name
        self._requests = requests
        self._lock: int | None = None
        self._content: Path | None = None  # of the upload that was begun

    def handle(self, request: dict[str, Any]) -> Any:
        """The answer to one request. Raises AgentError, OSError, Ended."""
        do = request.pop("do", None)
        operations: dict[Any, Callable[..., Any]] = {
            "inventory": self.inventory,
            "lock": self.lock,
            "begin": self.begin,
            "receive": self.receive,
            "verify": self.verify,
            "publish": self.publish,
            "withdraw": self.withdraw,
            "restore": self.restore,
            "show": self.show,
            "hide": self.hide,
            "finish": self.finish,
        }
        if do not in operations:
            raise AgentError(f"no operation {do!r}")
        if self._lock is None and do not in ("inventory", "lock"):
            raise AgentError(f"{do} needs the lock")
        return operations[do](**request)

    def inventory(self) -> dict[str, Any]:
        """The models and their versions, and how much room there is. Changes nothing."""
        space = os.statvfs(self._repository)
        models = {
            folder.name: _describe(folder)
            for folder in sorted(self._repository.iterdir())
            if folder.is_dir() and not folder.is_symlink() and _MODEL.fullmatch(folder.name)
        }
        return {
            "repository": str(self._repository),
            "staging": str(self._staging),
            "writable": os.access(self._repository, os.W_OK) and _may_write(self._staging),
            "free": space.f_bavail * space.f_frsize,
            "models": models,
        }

    def lock(self, holder: str) -> dict[str, Any]:
        """Keeps other pushes out until this process ends. What an earlier one left half done is in the answer."""
        _make(self._staging)
        _make(self._own)
        handle = os.open(self._staging / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(handle, 1000).decode(errors="replace").strip() or "somebody"
            os.close(handle)
            raise AgentError(f"{other} is at work on this volume: wait for it") from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{holder}\n".encode())
        self._lock = handle
        return {"unfinished": self._read("journal"), "candidate": self._read("candidate")}

    def begin(self, key: str) -> dict[str, int]:
        """Makes room for one upload, and returns the sizes of what came of it before. Other uploads go."""
        if not _KEY.fullmatch(key):
            raise AgentError(f"{key!r} is no key")
        incoming = self._own / "incoming"
        _make(incoming)
        for other in incoming.iterdir():
            if other.name != key or not _is_folder(other):
                _remove(other)
        self._content = incoming / key / "content"
        _make(incoming / key)
        if self._content.is_symlink():
            _remove(self._content)
        _make(self._content)
        return _sizes(self._content)

    def receive(self, path: str, offset: int, size: int) -> None:
        """Writes the bytes that follow at `offset` of a file, and cuts it there first."""
        try:
            file = self._open_staged(path, offset)
        except BaseException:
            self._skip(size)
            raise
        with open(file, "r+b", buffering=0) as target:
            target.truncate(offset)
            target.seek(offset)
            while size:
                piece = self._receive(min(size, _PIECE))
                size -= len(piece)
                try:
                    _write(target, piece)
                except OSError:
                    self._skip(size)
                    raise

    def verify(self, files: dict[str, str]) -> list[str]:
        """The paths whose SHA-256 is another one, which go, to be sent again; none: all is on the disk."""
        content = self._begun()
        wanted = {str(path_in_model(path)) for path in files}
        for path in set(_sizes(content)) - wanted:
            _remove(content / path)
        wrong = []
        for path, digest in files.items():
            file = content / path_in_model(path)
            _refuse_links(content, file)
            if not file.is_file() or _digest(file) != digest:
                wrong.append(path)
                _remove(file)
        if not wrong:
            _settle(content, wanted)
        return wrong

    def publish(self, model: str, version: str, whole: bool, key: str) -> None:
        """Renames the upload into its place: a version of a model, or a whole model that holds this version.

        `key` tells this change from others, of the same number too, when it is taken back or finished.
        """
        content, place = self._begun(), self._place(model, version, whole)
        if os.path.lexists(place):
            raise AgentError(f"{place} is there already")
        if not content.is_dir():
            raise AgentError("nothing was uploaded")
        self._write("journal", {"action": "push", "model": model, "version": version, "whole": whole, "key": key})
        _rename(content, place)

    def withdraw(self, model: str, version: str, whole: bool, key: str | None, rollback: bool = False) -> bool:
        """Renames it out of its place, back to the upload or to `withdrawn`; whether it was there.

        Only what was published and is not finished, unless it is a rollback: nobody else's.
        """
        place = self._place(model, version, whole)
        if rollback:
            entry = {"action": "rollback", "model": model, "version": version, "whole": whole, "key": key}
            self._write("journal", entry)
        entry = self._read("journal") or {}
        if not _is(entry, model, version, key) or entry.get("out") or not os.path.lexists(place):
            return False
        if whole and _versions(place) != [int(version)]:
            raise AgentError(f"{place} has got other versions than {version} meanwhile: take them out, or move it away")
        kept = self._withdrawn(model, version)
        if self._content is not None and not os.path.lexists(self._content):
            kept = self._content
        _make(kept.parent)
        _remove(kept)
        _rename(place, kept)
        self._write("journal", {**entry, "out": True})  # what comes to this place from now on is somebody else's
        return True

    def restore(self, model: str, version: str, key: str) -> bool:
        """Renames a version that was taken out on demand back into its place. Whether it was out."""
        kept, place = self._withdrawn(model, version), self._place(model, version, False)
        entry = self._read("journal")
        if entry is None and os.path.lexists(place):
            return False  # it never went
        if not _is(entry or {}, model, version, key):
            raise AgentError(_OTHERS)
        if os.path.lexists(place):
            return False
        _rename(kept, place)
        return True

    def show(self, model: str, version: str, config: str) -> str:
        """Renames the upload into a model of its own beside the served one, and returns the name."""
        content, served = self._begun(), self._repository / model_name(model)
        name = f"{model}{CANDIDATE}"
        place = self._repository / name
        if os.path.lexists(place):
            raise AgentError(f"{place} is there already")
        stage = content.parent / "candidate"
        _remove(stage)
        _make(stage)
        for file in _top_files(served):  # labels
            shutil.copyfile(file, stage / file.name)
        (stage / "config.pbtxt").write_text(config, encoding="utf-8")
        for file in stage.iterdir():
            file.chmod(_FILE_MODE)
        _rename(content, stage / version_number(version))
        self._write("candidate", {"model": model})
        _rename(stage, place)
        return name

    def hide(self, model: str) -> bool:
        """Takes the model that `show` made away again, and no other; the upload is kept. Whether it was there."""
        name = f"{model_name(model)}{CANDIDATE}"
        place, stage = self._repository / name, self._own / "hidden"
        if (self._read("candidate") or {}).get("model") != model:
            return False
        if not os.path.lexists(place):
            self._forget("candidate")
            return False
        _remove(stage)
        _rename(place, stage)
        self._forget("candidate")
        versions = [each for each in stage.iterdir() if _VERSION.fullmatch(each.name)]
        if self._content is not None and not self._content.exists() and len(versions) == 1:
            _rename(versions[0], self._content)
        _remove(stage)
        return True

    def finish(self, key: str | None, model: str | None = None) -> None:
        """All is well: what was half done is forgotten, and after a push what was taken out of that model before."""
        entry = self._read("journal")
        if entry is not None and entry.get("key") != key:
            raise AgentError(_OTHERS)
        self._forget("journal")
        if model is not None:
            for left in (self._own / "incoming", self._own / "withdrawn" / model_name(model)):
                try:
                    _remove(left)
                except OSError:
                    pass  # the change is made; what can't go now may go after the next one

    def _receive(self, size: int) -> bytes:
        piece: bytes = self._requests.read1(size)  # type: ignore[attr-defined]
        if not piece:
            raise Ended
        return piece

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._receive(min(size, _PIECE)))

    def _begun(self) -> Path:
        if self._content is None:
            raise AgentError("no upload was begun")
        return self._content

    def _open_staged(self, path: str, offset: int) -> int:
        content = self._begun()
        file = content / path_in_model(path)
        _refuse_links(content, file)
        if not 0 <= offset <= (file.stat().st_size if file.is_file() else 0):
            raise AgentError(f"{path}: {offset} is beyond its end")
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)

    def _place(self, model: str, version: str, whole: bool) -> Path:
        folder = self._repository / model_name(model)
        if folder.is_symlink():
            raise AgentError(f"{folder} is a link")
        version_number(version)
        return folder if whole else folder / version

    def _withdrawn(self, model: str, version: str) -> Path:
        return self._own / "withdrawn" / model_name(model) / version_number(version)

    def _read(self, name: str) -> Any:
        """What is noted there, or None."""
        path = self._own / f"{name}.json"
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            entry["model"]
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, LookupError):
            raise AgentError(f"{path} is damaged: remove it") from None
        return entry

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        unfinished = self._own / f"{name}.json.new"
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(entry, file)
            file.flush()
            os.fsync(file.fileno())
        _rename(unfinished, self._own / f"{name}.json")

    def _forget(self, name: str) -> None:
        (self._own / f"{name}.json").unlink(missing_ok=True)
        _sync(self._own)


def staging_folder(repository: Path) -> Path:
    """Beside the repository where that is the same file system and may be written, else inside it."""
    beside = repository.parent / STAGING
    same = repository.parent.stat().st_dev == repository.stat().st_dev
    return beside if same and _may_write(beside) and not beside.is_symlink() else repository / STAGING


def _may_write(folder: Path) -> bool:
    return os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK)


def _describe(folder: Path) -> dict[str, Any]:
    """A model's folder: its versions, its config's text, the SHA-256 of other files beside it, the texts of labels."""
    labels = [file for file in _top_files(folder) if file.name.endswith("_labels.txt")]
    others = {file.name: _digest(file) for file in _top_files(folder)}
    config = folder / "config.pbtxt"
    return {
        "versions": _versions(folder),
        "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None,
        "files": others,
        "writable": os.access(folder, os.W_OK),
        "labels": {file.name: file.read_text(encoding="utf-8", errors="replace") for file in labels},
    }


def _versions(folder: Path) -> list[int]:
    return sorted(int(each.name) for each in folder.iterdir() if each.is_dir() and _VERSION.fullmatch(each.name))


def _is(entry: dict[str, Any], model: str, version: str, key: str | None) -> bool:
    return (entry.get("model"), entry.get("version"), entry.get("key")) == (model, version, key)


def _top_files(folder: Path) -> list[Path]:
    """The files beside config.pbtxt: labels."""
    return [
        each
        for each in sorted(folder.iterdir())
        if each.is_file() and not each.name.startswith(".") and each.name != "config.pbtxt"
    ]


def path_in_model(path: str) -> Path:
    parts = path.split("/")
    if any(part.startswith(".") or not part or "\\" in part or not part.isprintable() for part in parts):
        raise AgentError(f"{path!r} is no path inside a model")
    return Path(*parts)


def model_name(name: str) -> str:
    if not isinstance(name, str) or not _MODEL.fullmatch(name):
        raise AgentError(f"{name!r} is no name of a model")
    if name.endswith(CANDIDATE):
        raise AgentError(f"{name} ends in {CANDIDATE}, which is for what is only compared: give it another name")
    return name


def version_number(number: str) -> str:
    if not isinstance(number, str) or not _VERSION.fullmatch(number):
        raise AgentError(f"{number!r} is no number of a version")
    return number


def _refuse_links(content: Path, file: Path) -> None:
    """Nobody but agents writes here; a link would lead out of staging all the same."""
    for each in (file, *file.parents):
        if each == content:
            return
        if each.is_symlink():
            raise AgentError(f"{each} is a link")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _make(folder: Path) -> None:
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    if folder.is_symlink():
        raise AgentError(f"{folder} is a link")


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _rename(old: Path, new: Path) -> None:
    """On the disk when it returns."""
    os.rename(old, new)
    _sync(new.parent)
    _sync(old.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle(content: Path, wanted: set[str]) -> None:
    """Modes, no folder without a file, and all on the disk: a name is worth nothing before what it names."""
    keep = {parent for path in wanted for parent in (content / path).parents}
    for folder, _, names in os.walk(content, topdown=False):
        here = Path(folder)
        if here not in keep:
            here.rmdir()
            continue
        for name in names:
            (here / name).chmod(_FILE_MODE)
            _sync(here / name)
        here.chmod(_FOLDER_MODE)
        _sync(here)


def _sizes(content: Path) -> dict[str, int]:
    """The plain files below a folder; anything else goes."""
    found = {}
    for folder, folders, names in os.walk(content):
        for name in (*folders, *names):
            path = Path(folder, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found[str(path.relative_to(content))] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                path.unlink()
    return found


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _write(target: Any, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[target.write(view) :]


def _explain(error: OSError) -> str:
    where = error.filename2 or error.filename or "the volume"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the volume is full"
    if error.errno == errno.EXDEV:
        return f"{where} lies on another file system than staging: nothing can be renamed into it"
    return f"{where}: {os.strerror(error.errno) if error.errno else error}"


def _answer(line: bytes, agent: Agent) -> dict[str, Any]:
    try:
        return {"ok": agent.handle(json.loads(line))}
    except AgentError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": _explain(error)}
    except (ValueError, TypeError, AttributeError) as error:
        return {"error": f"no request of this protocol ({error})"}


def main(repository: str) -> int:
    os.umask(0o022)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    try:
        agent = Agent(Path(repository), requests)
    except (AgentError, OSError) as error:
        say({"error": _explain(error) if isinstance(error, OSError) else str(error)})
        return 1
    try:
        while line := requests.readline():
            say(_answer(line, agent))
    except (Ended, BrokenPipeError, KeyboardInterrupt):
        pass  # what came so far is kept
    return 0


def _run() -> NoReturn:
    code = main(sys.argv[1])
    os._exit(code)  # without Python's complaint about a closed stdout


if __name__ == "__main__":
    _run()
