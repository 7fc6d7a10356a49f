"""A version that lies in staging becomes the one that every replica answers with, or nothing changes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tritonclient.grpc.model_config_pb2 import TYPE_STRING, ModelConfig

from scripts.pushing.agent import CANDIDATE
from scripts.pushing.errors import PushError, ReplicaBusy, ReplicaGone
from scripts.pushing.golden import Golden, faults
from scripts.pushing.interrupt import Interrupts
from scripts.pushing.note import note
from scripts.pushing.replica import Replica
from scripts.pushing.volume import Inventory, Volume

_READY_SECONDS = 15.0
PING = (Golden("ping", {}),)  # what no golden prompt fits answers with numbers, at least


class Fleet(Protocol):
    """Who serves from the volume."""

    @property
    def replicas(self) -> Sequence[Replica]: ...

    def newcomers(self) -> list[Replica]:
        """Those that appeared since the last look."""
        ...

    def refresh(self) -> None:
        """Forgets those that are no more, and finds the way anew to those that started again."""
        ...


@dataclass(frozen=True)
class Served:
    """What a replica answers with: a version, and its `checkpoint`; neither when it does not serve the model."""

    version: int | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Examiner:
    """How a model is asked."""

    model: str
    config: ModelConfig
    golden: Sequence[Golden] = PING
    """Empty: nothing is expected, not even numbers."""

    @property
    def can_ask(self) -> bool:
        return any(each.name == "INPUT" and each.data_type == TYPE_STRING for each in self.config.input)

    def examine(self, replica: Replica, version: int, expected: str | None = None) -> str | None:
        """Its `checkpoint`. Raises PushError unless it serves the version, and answers as it should."""
        await_version(replica, self.model, version)
        if not self.can_ask:
            return None
        with understood(replica):
            return self._ask(replica, expected)

    def _ask(self, replica: Replica, expected: str | None) -> str | None:
        prompts = [each.prompt for each in self.golden] or ["ping"]
        answers = replica.ask(self.model, prompts, self.config.max_batch_size)
        if self.golden and (found := faults(self.golden, answers)):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise PushError(f"{replica.name} fails a golden prompt: {found[0]}{more}")
        if not any(each.name == "checkpoint" for each in self.config.output):
            return None
        given = {each["checkpoint"].ravel()[0].decode() for each in answers}
        checkpoint = given.pop()
        if given or expected not in (None, checkpoint):
            raise PushError(f"{replica.name} answers with {checkpoint} and should with {expected or given.pop()}")
        return str(checkpoint)

    @property
    def plain(self) -> Examiner:
        """For versions that golden prompts were not made for."""
        return replace(self, golden=())

    def served(self, replica: Replica) -> Served:
        """What it answers with now."""
        if not replica.is_live():
            raise ReplicaGone(f"{replica.name} does not answer")
        version = replica.served(self.model)
        return Served() if version is None else Served(version, self.plain.examine(replica, version))


@contextmanager
def understood(replica: Replica) -> Iterator[None]:
    """A PushError for answers that are none: a number where a text should be, an output that is missing or empty."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise PushError(f"{replica.name} answers what can't be read ({type(error).__name__}: {error})") from None


def everybody(fleet: Fleet) -> Iterator[Replica]:
    """All replicas, and those that appear while these are seen to, until there are no more."""
    waiting = list(fleet.replicas)
    while waiting:
        yield from waiting
        waiting = fleet.newcomers()


def await_version(replica: Replica, model: str, version: int) -> None:
    """Raises PushError unless it soon says that this version is its highest."""
    deadline = time.monotonic() + _READY_SECONDS
    while replica.served(model) != version:
        state, reason = replica.versions(model).get(version, ("", ""))
        if state not in ("LOADING", "READY") or time.monotonic() > deadline:
            raise PushError(
                f"{replica.name} does not serve version {version} of {model}: {reason or state or 'unknown'}"
            )
        time.sleep(0.05)


def look(fleet: Fleet, examiner: Examiner, highest: int | None) -> dict[str, Served]:
    """What each replica answers with. Raises PushError: one does not answer, or not with what the volume has."""
    found = {}
    for replica in fleet.replicas:
        replica.settle(examiner.model)
        served = examiner.served(replica)
        if served.version not in (None, highest):
            raise PushError(
                f"{replica.name} serves version {served.version} of {examiner.model}, and the volume's highest is "
                f"{highest}: load that one, or take it out with --rollback {examiner.model}"
            )
        found[replica.name] = served
    return found


@dataclass(frozen=True)
class Change:
    """A version that comes into the repository or goes out of it: what the agent is asked, and what is served then."""

    version: int
    wanted: int
    do: Mapping[str, Any]
    undo: Mapping[str, Any]
    finish: Mapping[str, Any]
    undone: str

    @classmethod
    def push(cls, model: str, version: int, whole: bool, key: str) -> Change:
        """`key`: the upload's."""
        what = {"model": model, "version": str(version), "whole": whole, "key": key}
        finish = {"do": "finish", "model": model, "key": key}
        return cls(version, version, {"do": "publish"} | what, {"do": "withdraw"} | what, finish, "taken back")

    @classmethod
    def rollback(cls, model: str, version: int, below: int) -> Change:
        what = {"model": model, "version": str(version), "key": secrets.token_hex(32)}
        out = {"do": "withdraw", "whole": False, "rollback": True} | what
        return cls(version, below, out, {"do": "restore"} | what, {"do": "finish", "key": what["key"]}, "put back")


def make(
    volume: Volume,
    fleet: Fleet,
    examiner: Examiner,
    change: Change,
    expected: str | None,
    before: Mapping[str, Served],
    interrupts: Interrupts,
) -> dict[str, Served]:
    """What each replica answers with now: the change is made. After whatever else is raised, all is as it was; a
    PushError says what is not.
    """
    fleet.refresh()
    reached = False
    told: set[str] = set()
    now: dict[str, Served] = {}
    try:
        with interrupts.held():
            volume.ask(**change.do)
            reached = True
        for replica in everybody(fleet):
            told.add(replica.name)
            with interrupts.held():  # a folder that is being loaded can't be taken back
                replica.load(examiner.model)
            checkpoint = examiner.examine(replica, change.wanted, expected)
            expected = expected or checkpoint
            now[replica.name] = Served(change.wanted, checkpoint)
            note(f"{replica.name} serves version {change.wanted}" + (f" ({checkpoint})" if checkpoint else ""))
        with interrupts.held():
            volume.insist(**change.finish)
            interrupts.end()  # it is done
    except BaseException as error:
        with interrupts.held():
            why = str(error) or "interrupted"
            note(f"{why}; version {change.version} is to be {change.undone}")
            outcome = undo(volume, fleet, examiner, change, told, before, reached)
            interrupts.end()
        if isinstance(error, PushError) or not outcome.is_whole:
            raise PushError(f"{why}; {outcome.line}") from None
        raise
    return now


@dataclass(frozen=True)
class Outcome:
    """How undoing went."""

    line: str
    is_whole: bool


def undo(
    volume: Volume,
    fleet: Fleet,
    examiner: Examiner,
    change: Change,
    told: set[str],
    before: Mapping[str, Served],
    reached: bool,
) -> Outcome:
    """The folder is as it was, and then every replica made to answer as before: those that were `told`, and those that
    started meanwhile. Raises nothing. `reached`: the agent has said that the change is on the volume.
    """
    gone: list[str] = []
    wrong: list[str] = []
    usual = next((each for each in before.values() if each.version is not None), Served())
    try:
        fleet.refresh()
    except Exception as error:
        wrong.append(str(error))
    try:
        wrong += _settle(fleet, examiner.model)
        was_there = volume.insist(**change.undo)
    except Exception as error:
        return Outcome(f"version {change.version} is not {change.undone}: {error}; the next push sees to it", False)
    count = 0
    try:
        for replica in everybody(fleet):
            count += 1
            try:
                go_back(replica, examiner, before.get(replica.name, usual), replica.name in told)
            except ReplicaGone:
                gone.append(replica.name)
            except Exception as error:
                wrong.append(str(error))
    except Exception as error:  # of looking for newcomers
        wrong.append(str(error))
    if not wrong and not gone:
        try:
            volume.insist(do="finish", key=change.finish["key"])
        except Exception:
            pass  # the next push finds everything in place
    if was_there:
        line = f"version {change.version} is {change.undone}"
    else:
        line = f"version {change.version} was not there to be {change.undone}" if reached else "nothing has changed"
    if count > len(gone):
        line += f", {max(0, count - len(gone) - len(wrong))} of {count} answer as before"
    if gone:
        line += f"; {', '.join(gone)} did not answer: started again it loads what is on the volume, and the next push "
        line += "sees to it"
    return Outcome("; ".join([line, *wrong]), not wrong and not gone)


def _settle(fleet: Fleet, model: str) -> list[str]:
    """Waits until nobody reads the model's folder; what was refused meanwhile. Raises ReplicaBusy."""
    refused = []
    for replica in fleet.replicas:
        try:
            replica.settle(model)
        except ReplicaGone:
            pass  # it reads nothing
        except ReplicaBusy:
            raise
        except PushError as error:
            refused.append(str(error))
    return refused


def go_back(replica: Replica, examiner: Examiner, before: Served, was_told: bool) -> None:
    """After its folder was changed back."""
    replica.settle(examiner.model)
    if before.version is None:
        remove(replica, examiner.model)
    elif was_told or examiner.served(replica) != before:
        replica.load(examiner.model)
        examiner.plain.examine(replica, before.version, before.checkpoint)


def recover(volume: Volume, fleet: Fleet, left: Mapping[str, Any], inventory: Inventory) -> Inventory:
    """What a push that was killed left behind is put back; what lies on the volume then."""
    if (candidate := left["candidate"]) is not None:
        name = f"{candidate['model']}{CANDIDATE}"
        note(f"{name} was left by a comparison that was killed: removing it")
        for replica in everybody(fleet):
            remove(replica, name)
        volume.ask("hide", model=candidate["model"])
    entry = left["unfinished"]
    if entry is None:
        return inventory if candidate is None else volume.inventory()
    model, version, key = entry["model"], int(entry["version"]), entry.get("key")
    note(f"a {entry['action']} of {model} did not come to its end: version {version} is out, or goes now")
    for replica in fleet.replicas:
        replica.settle(model)
    volume.ask("withdraw", model=model, version=str(version), whole=entry["whole"], key=key)
    inventory = volume.inventory()
    served = inventory.models.get(model)
    for replica in everybody(fleet):
        if not replica.versions(model):
            continue
        if served is None or not served.versions:
            remove(replica, model)
        else:
            try:
                replica.load(model)
                await_version(replica, model, max(served.versions))
            except ReplicaGone:
                raise
            except PushError as error:  # as before the push that was killed: it has never loaded
                note(f"{error}; {model} is not served by {replica.name}")
                remove(replica, model)
    volume.ask("finish", key=key)
    return inventory


def remove(replica: Replica, model: str) -> None:
    """The replica no longer serves it, nor reads its folder."""
    replica.settle(model)
    if replica.served(model) is not None:
        replica.unload(model)
        replica.settle(model)
