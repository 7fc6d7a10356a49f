"""A version that lies in staging becomes the one that every replica answers with, or nothing changes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tritonclient.grpc.model_config_pb2 import TYPE_STRING, ModelConfig

from scripts.pushing.errors import PushError, ReplicaGone, VolumeGone
from scripts.pushing.golden import Golden, faults
from scripts.pushing.interrupt import Interrupts
from scripts.pushing.note import note
from scripts.pushing.replica import Replica
from scripts.pushing.volume import Inventory, Volume

_READY_SECONDS = 15.0


class Fleet(Protocol):
    """Who serves from the volume."""

    @property
    def replicas(self) -> Sequence[Replica]: ...

    def newcomers(self) -> list[Replica]:
        """Those that appeared since the last look."""
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
    golden: Sequence[Golden] = ()

    @property
    def can_ask(self) -> bool:
        return any(each.name == "INPUT" and each.data_type == TYPE_STRING for each in self.config.input)

    def examine(self, replica: Replica, version: int, expected: str | None = None) -> str | None:
        """Its `checkpoint`. Raises PushError unless it serves the version, and answers as it should."""
        await_version(replica, self.model, version)
        if not self.can_ask:
            return None
        prompts = [each.prompt for each in self.golden] or ["ping"]
        answers = replica.ask(self.model, prompts, self.config.max_batch_size)
        if self.golden and (found := faults(self.golden, answers)):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise PushError(f"{replica.name} fails a golden prompt: {found[0]}{more}")
        given = {values.ravel()[0].decode() for each in answers if (values := each.get("checkpoint")) is not None}
        if not given:
            return None
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


def promote(
    volume: Volume,
    fleet: Fleet,
    examiner: Examiner,
    version: int,
    whole: bool,
    expected: str | None,
    before: Mapping[str, Served],
    interrupts: Interrupts,
) -> dict[str, Served]:
    """What each replica answers with now: the version. Raises PushError, KeyboardInterrupt: all is as it was."""
    model = examiner.model
    told: list[Replica] = []
    now: dict[str, Served] = {}
    try:
        with interrupts.held():
            volume.ask("publish", model=model, version=str(version), whole=whole)
        waiting = list(fleet.replicas)
        while waiting:
            for replica in waiting:
                told.append(replica)
                with interrupts.held():  # a folder that is being loaded can't be taken back
                    replica.load(model)
                checkpoint = examiner.examine(replica, version, expected)
                expected = expected or checkpoint
                now[replica.name] = Served(version, checkpoint)
                note(f"{replica.name} serves version {version}" + (f" ({checkpoint})" if checkpoint else ""))
            waiting = fleet.newcomers()
        with interrupts.held():
            volume.insist("finish", model=model)
            interrupts.forget()  # it is done
    except (PushError, KeyboardInterrupt) as error:
        with interrupts.held():
            note(f"{error or 'interrupted'}; taking version {version} back")
            state = take_back(volume, told, examiner, version, whole, before)
            interrupts.forget()
        if isinstance(error, KeyboardInterrupt) and state.is_whole:
            raise
        raise PushError(f"{error or 'interrupted'}; {state.line}") from None
    return now


@dataclass(frozen=True)
class Outcome:
    """How taking back went."""

    line: str
    is_whole: bool


def take_back(
    volume: Volume,
    told: Sequence[Replica],
    examiner: Examiner,
    version: int,
    whole: bool,
    before: Mapping[str, Served],
) -> Outcome:
    """The version goes off the volume, and every replica that was told of it back to what it answered with."""
    model = examiner.model
    gone: list[str] = []
    wrong: list[str] = []
    live = []
    for replica in told:
        try:
            replica.settle(model)
            live.append(replica)
        except ReplicaGone:
            gone.append(replica.name)
        except PushError as error:
            wrong.append(str(error))
    if wrong:
        return Outcome(f"version {version} is still on the volume: {wrong[0]}; the next push takes it back", False)
    try:
        volume.insist("withdraw", model=model, version=str(version), whole=whole)
    except PushError as error:
        return Outcome(f"version {version} is still on the volume: {error}; the next push takes it back", False)
    usual = next(iter(before.values()), Served())
    for replica in live:
        try:
            go_back(replica, examiner, before.get(replica.name, usual))
        except ReplicaGone:
            gone.append(replica.name)
        except PushError as error:
            wrong.append(str(error))
    if not wrong and not gone:
        try:
            volume.ask("finish")
        except VolumeGone:
            pass  # the next push finds everything in place
    line = f"version {version} is taken back"
    if told and len(told) > len(gone) + len(wrong):
        line += f", {len(told) - len(gone) - len(wrong)} of {len(told)} that were told answer as before"
    if gone:
        line += (
            f"; {', '.join(gone)} did not answer: started again it loads what is on the volume, and the next push sees"
        )
        line += " to it"
    if wrong:
        line += f"; {'; '.join(wrong)}"
    return Outcome(line, not wrong and not gone)


def go_back(replica: Replica, examiner: Examiner, before: Served) -> None:
    """After its folder was changed back."""
    if before.version is None:
        replica.unload(examiner.model)
        replica.settle(examiner.model)
        return
    replica.load(examiner.model)
    examiner.plain.examine(replica, before.version, before.checkpoint)


def recover(volume: Volume, fleet: Fleet, left: Mapping[str, Any], inventory: Inventory) -> Inventory:
    """What a push that was killed left behind is put back; what lies on the volume then."""
    for name in left["candidates"]:
        note(f"{name} was left by a comparison that was killed: removing it")
        for replica in fleet.replicas:
            remove(replica, name)
        volume.ask("hide", model=name.removesuffix("__candidate"))
    entry = left["unfinished"]
    if entry is None:
        return volume.inventory() if left["candidates"] else inventory
    model, version = entry["model"], int(entry["version"])
    note(f"a {entry['action']} of {model} did not come to its end: version {version} is out, or goes now")
    for replica in fleet.replicas:
        replica.settle(model)
    volume.ask("withdraw", model=model, version=str(version), whole=entry["whole"])
    inventory = volume.inventory()
    served = inventory.models.get(model)
    for replica in fleet.replicas:
        if replica.served(model) is None:
            continue
        if served is None or not served.versions:
            remove(replica, model)
        else:
            replica.load(model)
            await_version(replica, model, max(served.versions))
    volume.ask("finish")
    return inventory


def remove(replica: Replica, model: str) -> None:
    """The replica no longer serves it, nor reads its folder."""
    replica.settle(model)
    if replica.served(model) is not None:
        replica.unload(model)
        replica.settle(model)


def roll_back(
    volume: Volume,
    fleet: Fleet,
    examiner: Examiner,
    versions: Sequence[int],
    interrupts: Interrupts,
) -> dict[str, Served]:
    """The highest version goes, and every replica answers with the one below. Raises as `promote`: all is as it was."""
    model, (below, version) = examiner.model, sorted(versions)[-2:]
    before = {}
    for replica in fleet.replicas:
        replica.settle(model)
        before[replica.name] = examiner.served(replica)
    told: list[Replica] = []
    now: dict[str, Served] = {}
    expected = None
    try:
        with interrupts.held():
            volume.ask("withdraw", model=model, version=str(version), whole=False, rollback=True)
        waiting = list(fleet.replicas)
        while waiting:
            for replica in waiting:
                told.append(replica)
                with interrupts.held():
                    replica.load(model)
                expected = examiner.examine(replica, below, expected)
                now[replica.name] = Served(below, expected)
                note(f"{replica.name} serves version {below}" + (f" ({expected})" if expected else ""))
            waiting = fleet.newcomers()
        with interrupts.held():
            volume.insist("finish")
            interrupts.forget()  # it is done
    except (PushError, KeyboardInterrupt) as error:
        with interrupts.held():
            state = _put_back(volume, told, examiner, version, before)
            interrupts.forget()
        if isinstance(error, KeyboardInterrupt) and state.is_whole:
            raise
        raise PushError(f"{error or 'interrupted'}; {state.line}") from None
    return now


def _put_back(
    volume: Volume, told: Sequence[Replica], examiner: Examiner, version: int, before: Mapping[str, Served]
) -> Outcome:
    wrong = []
    for replica in told:
        try:
            replica.settle(examiner.model)
        except PushError as error:
            wrong.append(str(error))
    try:
        volume.insist("restore", model=examiner.model, version=str(version))
    except PushError as error:
        return Outcome(f"version {version} could not be put back: {error}", False)
    for replica in told:
        try:
            go_back(replica, examiner, before.get(replica.name, Served(version)))
        except PushError as error:
            wrong.append(str(error))
    if not wrong:
        volume.ask("finish")
    return Outcome("; ".join([f"version {version} is put back", *wrong]), not wrong)
