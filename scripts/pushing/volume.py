"""The volume as its caller sees it: an agent, here or in a pod, asked over its stdin and stdout."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from scripts.fetching.record import Held
from scripts.pushing.errors import PushError, VolumeGone

_SOURCE = Path(__file__).with_name("agent.py").read_bytes()
# The source comes first on stdin: on a command line it would be part of a URL on the way to a pod.
_START = f"import sys; exec(compile(sys.stdin.buffer.read({len(_SOURCE)}), 'agent.py', 'exec'))"
_BLOCK = 4 << 20  # for each, an answer is awaited
_LOCK_SECONDS = 20.0
_SPARE = 64 << 20  # bytes that stay free on the volume


@dataclass(frozen=True)
class Served:
    """A model on the volume. `files`: the SHA-256 of those beside its config, by name; `labels`: the texts of those of
    them that end in _labels.txt."""

    versions: Sequence[int]
    config: str | None
    files: Mapping[str, str]
    writable: bool
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Inventory:
    """What lies on the volume."""

    repository: str
    staging: str
    writable: bool
    free: int
    models: Mapping[str, Served]


class Volume:
    """An agent at work. What it can't do is a PushError."""

    def __init__(self, repository: str, prefix: Sequence[str] = (sys.executable,)) -> None:
        """`prefix`: what runs a Python where the volume is."""
        self._command = [*prefix, "-I", "-c", _START, repository]
        self._start()

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()
        self._agent = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for this process, which may have to put things back
        )
        self._write(_SOURCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._agent.pid

    def close(self) -> None:
        """Ends the agent, which gives the lock back."""
        for pipe in (self._agent.stdin, self._agent.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        try:
            self._agent.wait(10)
        except subprocess.TimeoutExpired:
            self._agent.kill()
            self._agent.wait()
        self._log.close()

    def lock(self, holder: str) -> Any:
        """Keeps other pushes out until this object is closed; what an earlier one left half done."""
        self._holder = holder
        return self.ask("lock", holder=holder)

    def insist(self, do: str, **arguments: Any) -> Any:
        """As `ask`, with another agent when this one has ended."""
        try:
            return self.ask(do, **arguments)
        except VolumeGone:
            self.close()
            self._start()
            self._lock_again()
            return self.ask(do, **arguments)

    def _lock_again(self) -> None:
        """The agent before may take its time to see that nobody asks it any more."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                self.lock(self._holder)
                return
            except VolumeGone:
                raise
            except PushError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def ask(self, do: str, **arguments: Any) -> Any:
        """The result of an operation of the agent."""
        self._write(json.dumps({"do": do} | arguments).encode() + b"\n")
        return self._answer()

    def inventory(self) -> Inventory:
        found = self.ask("inventory")
        models = {name: Served(**model) for name, model in found.pop("models").items()}
        return Inventory(models=models, **found)

    def upload(self, key: str, files: Mapping[str, Path], held: Mapping[str, Held], free: int) -> int:
        """Brings `files`, by their path on the volume, into staging, whole by their SHA-256; the bytes that were sent.

        What an earlier try with the same key brought is not sent again.
        """
        staged: dict[str, int] = self.ask("begin", key=key)
        missing = sum(each.size for each in held.values()) - sum(staged.values())
        if missing + _SPARE > free:
            raise PushError(f"the volume has {free:,} bytes free, and {missing:,} more and some to spare are needed")
        sent = self._send_all(files, held, staged)
        digests = {path: each.sha256 for path, each in held.items()}
        wrong = self.ask("verify", files=digests)
        if wrong:  # what an earlier try left may be damaged: once more, from the start
            sent += self._send_all({path: files[path] for path in wrong}, held, {})
            wrong = self.ask("verify", files=digests)
        if wrong:
            raise PushError(f"{wrong[0]} does not arrive as it is here: it changes meanwhile, or the way damages it")
        return sent

    def _send_all(self, files: Mapping[str, Path], held: Mapping[str, Held], staged: Mapping[str, int]) -> int:
        sent = 0
        total = sum(held[path].size for path in files)
        # No bar where nobody looks: disable=None means only on a terminal.
        with tqdm(total=total, unit="B", unit_scale=True, desc="uploading", disable=None) as bar:
            for path, file in files.items():
                size, have = held[path].size, staged.get(path)
                start = min(have or 0, size)
                bar.update(start)
                for offset, block in () if have == size else _blocks(file, start, size):
                    self._send(path, offset, block)
                    sent += len(block)
                    bar.update(len(block))
        return sent

    def _send(self, path: str, offset: int, block: bytes) -> None:
        request = {"do": "receive", "path": path, "offset": offset, "size": len(block)}
        self._write(json.dumps(request).encode() + b"\n" + block)
        self._answer()

    def _write(self, text: bytes) -> None:
        assert self._agent.stdin is not None
        try:
            self._agent.stdin.write(text)
            self._agent.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise VolumeGone(self._broken()) from None

    def _answer(self) -> Any:
        assert self._agent.stdout is not None
        line = self._agent.stdout.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise VolumeGone(self._broken()) from None
        if "error" in answer:
            raise PushError(answer["error"])
        return answer["ok"]

    def _broken(self) -> str:
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        why = f" ({said[-1]})" if said else ""
        return f"the connection to the volume broke{why}; run it again to go on"


def _blocks(file: Path, offset: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The bytes from `offset` to `size`, with their offsets: at least one block, also of an empty file."""
    with file.open("rb") as opened:
        opened.seek(offset)
        while True:
            block = opened.read(min(_BLOCK, size - offset))
            if len(block) < min(_BLOCK, size - offset):
                raise PushError(f"{file} became shorter meanwhile")
            yield offset, block
            offset += len(block)
            if offset == size:
                return
