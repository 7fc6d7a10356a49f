"""scripts/push_models against two real Tritons that share a folder, and the agent on the volume by itself."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from classifiers.checkpoint import EMBEDDED, checkpoint_digest, load_checkpoint
from scripts.fetching.record import Held, measure
from scripts.local.process import free_port, free_ports
from scripts.local.triton import ENSEMBLES, ROOT, Triton
from scripts.pushing import kubernetes
from scripts.pushing.compare import Given, Limits, shift
from scripts.pushing.errors import PushError, VolumeGone
from scripts.pushing.golden import read_golden
from scripts.pushing.interrupt import Interrupts
from scripts.pushing.promote import Change, Examiner, make
from scripts.pushing.promote import Served as Answered
from scripts.pushing.push import main
from scripts.pushing.replica import Replica
from scripts.pushing.source import content_key, fitted, parse_config, read_source
from scripts.pushing.trial import link_model
from scripts.pushing.volume import Served, Volume
from tests.processes import commands
from tests.repository import copy_repository
from tests.toys import snapshot, write_toy

_CUTS = 50
_COMMAND = (sys.executable, "-P", "-m", "scripts.pushing.push")
# As on a machine without a Triton of its own, which would take its seconds.
_ELSEWHERE = (
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.modules['pytriton'] = None; from scripts.pushing.push import main; sys.exit(main())",
)
_ENVIRON = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
_PROMPT = "Write a Python function that merges two sorted lists."


@dataclass
class Two:
    """Two Tritons that serve one folder."""

    tritons: Sequence[Triton]
    repository: Path

    @property
    def staging(self) -> Path:
        return self.repository.parent / ".staging"

    @property
    def urls(self) -> list[str]:
        return [triton.grpc_url for triton in self.tritons]

    @property
    def where(self) -> list[str]:
        return _where(self.repository, self.urls)

    def replicas(self) -> list[Replica]:
        return [Replica(url, url) for url in self.urls]

    def toy(self, name: str, **what: Any) -> Path:
        """A toy's first version, served by both."""
        folder = write_toy(self.repository, name, **what)
        for replica in self.replicas():
            replica.load(name)
            replica.close()
        return folder

    def served(self, model: str) -> list[str | None]:
        """The checkpoint that each answers with."""
        found: list[str | None] = []
        for replica in self.replicas():
            if replica.served(model) is None:
                found.append(None)
            else:
                (answer,) = replica.ask(model, ["ping"], 1)
                found.append(answer["checkpoint"][0].decode())
            replica.close()
        return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """With this project's models."""
    folder = tmp_path_factory.mktemp("two")
    repository = copy_repository(folder / "volume" / "routers")
    tritons = [
        Triton(free_ports(3), folder / place, repository, ENSEMBLES, os.environ | {"TOY_PLACE": place})
        for place in ("first", "second")
    ]
    try:
        for triton in tritons:
            triton.start()
        for triton in tritons:
            triton.wait()
        yield Two(tritons, repository)
    finally:
        stopping = [threading.Thread(target=triton.stop) for triton in tritons]  # each takes seconds
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()


@dataclass
class Clients:
    """One client for each Triton that asks without a pause, and what it was answered: (when it asked, checkpoint)."""

    urls: Sequence[str]
    model: str
    asked: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    hurrying: threading.Event = field(default_factory=threading.Event)  # until then they pause, and spare this machine

    def ask(self, url: str) -> None:
        prompt = InferInput("INPUT", [1, 1], "BYTES")
        prompt.set_data_from_numpy(np.array([[_PROMPT.encode()]], dtype=np.object_))
        with InferenceServerClient(url) as client:
            while not self.stopped.is_set():
                began = time.monotonic()
                try:
                    answer = client.infer(self.model, [prompt], client_timeout=60)
                    self.asked.append((began, answer.as_numpy("checkpoint").ravel()[0].decode()))
                except InferenceServerException as error:
                    self.failures.append(str(error))
                if not self.hurrying.is_set():
                    self.stopped.wait(0.05)

    def since(self, moment: float) -> set[str]:
        return {checkpoint for began, checkpoint in self.asked if began >= moment}


@contextmanager
def load_on(two: Two, model: str) -> Iterator[Clients]:
    """Clients that ask meanwhile, without a pause from the upload on, and of whom none may see a failure."""
    clients = Clients(two.urls, model)
    incoming = two.staging / "routers" / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)

    def hurry() -> None:
        while not clients.stopped.wait(0.005):
            if incoming.exists():
                return clients.hurrying.set()

    threads = [threading.Thread(target=clients.ask, args=(url,)) for url in two.urls]
    threads.append(threading.Thread(target=hurry))
    for thread in threads:
        thread.start()
    try:
        _await(lambda: len(clients.asked) > 4)
        yield clients
        seen = len(clients.asked)
        _await(lambda: len(clients.asked) > seen + 8)
    finally:
        clients.stopped.set()
        for thread in threads:
            thread.join()
    assert clients.failures == []


def _await(happened: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _where(repository: Path, urls: Sequence[str]) -> list[str]:
    return ["--local", str(repository), *(word for url in urls for word in ("--url", url))]


def start(*arguments: str | Path, tried: bool = False) -> subprocess.Popen[str]:
    """The command, on its way; `tried`: where there is a Triton to try the version on."""
    command = [*(_COMMAND if tried else _ELSEWHERE), *map(str, arguments)]
    return subprocess.Popen(command, env=_ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def push(*arguments: str | Path, code: int = 0, tried: bool = False) -> tuple[dict[str, Any], str]:
    """What --json prints, and the last line on stderr."""
    process = start(*arguments, "--json", tried=tried)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    lines = errors.strip().splitlines()
    return json.loads(output), lines[-1]


def golden(folder: Path, label: str) -> Path:
    path = folder / f"{label}.jsonl"
    path.write_text(json.dumps({"prompt": _PROMPT, "expect": {"task_label": label}}) + "\n")
    return path


def retrained(folder: Path, factor: float = 1.01) -> Path:
    """The embedded checkpoint with other weights that mean much the same."""
    shutil.copytree(EMBEDDED, folder)
    file = folder / "adapters.safetensors"
    weights = {name: values * np.float32(factor) for name, values in load_file(file).items()}
    save_file(weights, file)
    return folder


def test_update_under_load(two: Two, tmp_path: Path) -> None:
    """A retrained checkpoint is served by both Tritons without a lost request; once the push returns, nobody is
    answered by the old one."""
    source = retrained(tmp_path / "retrained")
    checkpoint = load_checkpoint(source)
    new = f"{checkpoint.name}:2:{checkpoint_digest(checkpoint)}"
    (old,) = set(two.served("prompt_classifier"))
    with load_on(two, "router_ensemble") as clients:
        report, _ = push(source, *two.where, tried=True)
        returned = time.monotonic()
        seen = len(clients.asked)
        _await(lambda: len(clients.asked) > seen + 20)
    assert clients.since(0) == {old, new}
    assert clients.since(returned) == {new}
    assert {each["checkpoint"] for each in report["replicas"].values()} == {new}
    assert report["tried_locally"] and report["golden"] == 10
    pushed = two.repository / "prompt_classifier" / "2"
    assert measure(pushed / "checkpoint" / "adapters.safetensors") == measure(source / "adapters.safetensors")
    modes = {path.stat().st_mode & 0o777 for path in pushed.rglob("*") if "__pycache__" not in path.parts}
    assert modes == {0o644, 0o755}


def test_failed_load_is_taken_back(two: Two, tmp_path: Path) -> None:
    """A version that loads on the first Triton and not on the second goes from both, without a lost request."""
    two.toy("unloadable")
    before = snapshot(two.repository)
    fails = "if PLACE == 'second': raise ValueError('these weights are no good')"
    source = write_toy(tmp_path, "unloadable", 2, digest="bbb", initialize=fails)
    with load_on(two, "unloadable") as clients:
        report, line = push(source, *two.where, "--golden", golden(tmp_path, "Rewrite"), code=1)
        returned = time.monotonic()
    assert "these weights are no good" in report["error"] and report["error"] in line
    assert "version 2 is taken back, 2 of 2 answer as before" in line
    assert clients.since(returned) == {"toy:1:aaa"} and set(two.served("unloadable")) == {"toy:1:aaa"}
    assert snapshot(two.repository) == before


def test_failed_golden_prompts_are_taken_back(two: Two, tmp_path: Path) -> None:
    """A version that loads everywhere and answers wrongly on the second Triton goes from both, without a lost
    request; the next push of a good one goes through."""
    two.toy("wrong")
    before = snapshot(two.repository)
    label = "if PLACE == 'second': self.label = 'Chatbot'"
    source = write_toy(tmp_path, "wrong", 2, digest="bbb", initialize=label)
    prompts = golden(tmp_path, "Rewrite")
    with load_on(two, "wrong") as clients:
        report, line = push(source, *two.where, "--golden", prompts, code=1, tried=True)
    assert "task_label is Chatbot and should be Rewrite" in line and two.urls[1] in line
    assert clients.since(0) <= {"toy:1:aaa", "toy:2:bbb"} and set(two.served("wrong")) == {"toy:1:aaa"}
    assert snapshot(two.repository) == before
    write_toy(tmp_path, "wrong", 2, digest="ccc")
    report, _ = push(source, *two.where, "--golden", prompts)
    assert report["version"] == 2 and set(two.served("wrong")) == {"toy:2:ccc"}


def test_scores_that_are_no_numbers(two: Two, tmp_path: Path) -> None:
    """A model that no golden prompt of the project fits is asked nevertheless: a version whose scores are not finite is
    taken back, and one of them that is served already can be replaced."""
    nan = "self.scores = [float('nan'), 1.0]"
    two.toy("mood", head="mood")
    source = write_toy(tmp_path, "mood", 2, head="mood", digest="bbb", initialize=nan)
    _, line = push(source, *two.where, code=1)
    assert "mood_scores is not finite for 'ping'" in line and set(two.served("mood")) == {"toy:1:aaa"}
    two.toy("moods", head="mood", initialize=nan)
    push(write_toy(tmp_path, "moods", 2, head="mood", digest="bbb"), *two.where)
    assert set(two.served("moods")) == {"toy:2:bbb"}


def test_local_trial_comes_first(two: Two, tmp_path: Path) -> None:
    """A version that this machine's Triton can't load is refused before anything is sent."""
    two.toy("hopeless")
    before, served = snapshot(two.repository.parent), snapshot(two.repository)
    source = write_toy(tmp_path, "hopeless", 2, initialize="raise ValueError('not even here')")
    _, line = push(source, *two.where, code=1, tried=True)
    assert "the local Triton refuses" in line and "not even here" in line
    after = snapshot(two.repository.parent)
    assert {path for path in after.keys() ^ before.keys() if not path.startswith(".staging")} == set()
    assert not any("hopeless" in path or "incoming/" in path for path in after.keys() - before.keys())
    assert snapshot(two.repository) == served


def test_replica_that_is_down(two: Two, tmp_path: Path) -> None:
    """With a Triton that does not answer the push is refused at once, and nothing changes."""
    two.toy("lonely")
    before = snapshot(two.repository)
    source = write_toy(tmp_path, "lonely", 2)
    down = f"127.0.0.1:{free_port()}"
    _, line = push(source, *two.where, "--url", down, code=1)
    assert f"{down} does not answer" in line
    assert snapshot(two.repository) == before and set(two.served("lonely")) == {"toy:1:aaa"}


def test_replica_that_dies_meanwhile(two: Two, tmp_path: Path) -> None:
    """A Triton dies while it loads the version: it goes from those that live, the dead one is named, and comes back
    with the old one."""
    two.toy("deadly")
    third = Triton(free_ports(3), tmp_path / "third", two.repository, ("deadly",), os.environ | {"TOY_PLACE": "third"})
    replica = Replica("third", third.grpc_url)
    third.start()
    try:
        _await(replica.is_live)
        kill = "if PLACE == 'third': os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
        source = write_toy(tmp_path, "deadly", 2, digest="bbb", initialize=kill)
        with load_on(two, "deadly"):
            where = _where(two.repository, [*two.urls, third.grpc_url])
            _, line = push(source, *where, "--golden", golden(tmp_path, "Rewrite"), code=1)
        assert f"{third.grpc_url} did not answer: started again it loads what is on the volume" in line
        assert "2 of 3 answer as before" in line
        assert set(two.served("deadly")) == {"toy:1:aaa"}
        third.stop()
        third.start()
        _await(replica.is_live)
        assert replica.served("deadly") == 1
        write_toy(two.repository, "deadly", 2, digest="ccc")  # by hand
        _, line = push("--rollback", "nothing", *two.where, code=1)  # sees to what was left, and leaves this alone
        assert "nothing is not on the volume" in line and set(two.served("deadly")) == {"toy:2:ccc"}
    finally:
        replica.close()
        third.stop()


def test_two_pushes_at_once(two: Two, tmp_path: Path) -> None:
    """While somebody else is at work on the volume a push is refused, and says who it is."""
    source = write_toy(tmp_path, "busy", 1)
    with Volume(str(two.repository)) as volume:
        volume.lock("anna@desk (pid 7, push of another)")
        before = snapshot(two.repository)
        _, line = push(source, *two.where, code=1)
    assert "anna@desk (pid 7, push of another) is at work on this volume" in line
    assert snapshot(two.repository) == before


def test_new_model_and_rollback(two: Two, tmp_path: Path) -> None:
    """A model that is not on the volume comes whole; a later version can be rolled back under load, but no only one."""
    source = write_toy(tmp_path, "brand_new", 1)
    report, _ = push(source, *two.where, "--golden", golden(tmp_path, "Rewrite"))
    assert report["version"] == 1 and (two.repository / "brand_new" / "config.pbtxt").is_file()
    _, line = push("--rollback", "brand_new", *two.where, code=1)
    assert "has one version" in line
    write_toy(tmp_path, "brand_new", 7, digest="bbb")  # the folder's own number is higher
    report, _ = push(source, *two.where, "--golden", golden(tmp_path, "Rewrite"))
    assert report["version"] == 7
    with load_on(two, "brand_new") as clients:
        dry, _ = push("--rollback", "brand_new", *two.where, "--dry-run")
        assert set(two.served("brand_new")) == {"toy:7:bbb"}
        report, _ = push("--rollback", "brand_new", *two.where)
        returned = time.monotonic()
    assert clients.since(returned) == {"toy:1:aaa"}
    assert report["replicas"] == {url: {"version": 1, "checkpoint": "toy:1:aaa"} for url in two.urls}
    assert not (two.repository / "brand_new" / "7").exists()
    assert (two.staging / "routers" / "withdrawn" / "brand_new" / "7" / "model.py").is_file()


def test_failed_new_model_leaves_nothing(two: Two, tmp_path: Path) -> None:
    """A model that is new on the volume and fails there is not served by anybody afterwards."""
    before = snapshot(two.repository)
    fails = "if PLACE == 'second': raise ValueError('not here')"
    push(write_toy(tmp_path, "stillborn", 1, initialize=fails), *two.where, code=1)
    assert two.served("stillborn") == [None, None] and snapshot(two.repository) == before


def test_dry_run(two: Two, tmp_path: Path) -> None:
    """A dry run says what would be done, and changes nothing on the volume."""
    two.toy("rehearsed")
    before = snapshot(two.repository.parent)
    source = write_toy(tmp_path, "rehearsed", 2)
    mine = snapshot(source)
    report, line = push(source, *two.where, "--golden", golden(tmp_path, "Rewrite"), "--dry-run", tried=True)
    assert report["version"] == 2 and report["action"] == "dry run, nothing changed"
    assert ", ".join(two.urls) in line
    assert snapshot(two.repository.parent) == before and snapshot(source) == mine
    assert set(two.served("rehearsed")) == {"toy:1:aaa"}


def test_compare_outside_limits(two: Two, tmp_path: Path) -> None:
    """A version that answers otherwise than the served one is not promoted, unless the limits allow it; nothing of the
    comparison stays."""
    two.toy("compared")
    before = snapshot(two.repository)
    source = write_toy(tmp_path, "compared", 2, label="Chatbot", digest="bbb")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "one", "task": "Rewrite"}\n{"text": "two"}\n')
    common: tuple[str | Path, ...] = (source, *two.where, "--golden", golden(tmp_path, "Chatbot"), "--compare", prompts)
    report, line = push(*common, code=1)
    assert "not promoted: task: agreement 0.000 is below 0.9" in line
    assert report["compare"]["task"]["moved"] == {"Rewrite": {"Chatbot": 2}}
    assert snapshot(two.repository) == before and two.served("compared__candidate") == [None, None]
    loose = ("--min-agreement", "0", "--max-label-shift", "1", "--max-calibration-shift", "1")
    report, _ = push(*common, *loose)
    assert report["uploaded"] == 0 and set(two.served("compared")) == {"toy:2:bbb"}


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.rare)])
def test_interrupted_push(two: Two, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, or a terminal that goes away, while a replica loads waits for that load and takes the version back."""
    two.toy("slow")
    before = snapshot(two.repository)
    slow = "if PLACE != 'elsewhere': time.sleep(3)"
    source = write_toy(tmp_path, "slow", 2, digest="bbb", initialize=slow)
    process = start(source, *two.where, "--golden", golden(tmp_path, "Rewrite"))
    _await((two.repository / "slow" / "2").exists)
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert set(two.served("slow")) == {"toy:1:aaa"} and snapshot(two.repository) == before


def test_interrupts_in_pairs() -> None:
    """The second of two interrupts does not stop what the first one set going, and one that is held comes later."""
    interrupts = Interrupts()
    with interrupts.watching():
        with pytest.raises(KeyboardInterrupt), interrupts.held():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        with interrupts.held():
            signal.raise_signal(signal.SIGINT)


def test_killed_push(two: Two, tmp_path: Path) -> None:
    """What a push that was killed half way left behind is taken out by the next one, which then goes through."""
    two.toy("killed")
    slow = "if PLACE == 'second': time.sleep(2)"
    source = write_toy(tmp_path, "killed", 2, digest="bbb", initialize=slow)
    process = start(source, *two.where, "--golden", golden(tmp_path, "Rewrite"))
    _await((two.repository / "killed" / "2").exists)
    time.sleep(0.5)
    process.kill()
    process.communicate()
    report, _ = push("--rollback", "killed", *two.where, code=1)  # there is one again
    assert "has one version" in report["error"] and set(two.served("killed")) == {"toy:1:aaa"}
    assert not (two.repository / "killed" / "2").exists()


class Cut(Exception):
    """The way to the volume ended."""


class Cutting(Volume):
    """A way to the volume that ends after so many bytes: the agent is killed, or its stdin ends."""

    left: int | None = None
    kills = False

    def _write(self, text: bytes) -> None:
        if self.left is None or len(text) <= self.left:
            if self.left is not None:
                self.left -= len(text)
            return super()._write(text)
        super()._write(text[: self.left])
        if self.kills:
            time.sleep(random.random() * 0.01)
            os.kill(self.pid, signal.SIGKILL)
        raise Cut


@dataclass(frozen=True)
class Upload:
    """A toy's second version with weights that nobody needs."""

    source: Path
    files: Mapping[str, Path]
    held: Mapping[str, Held]

    @property
    def key(self) -> str:
        return content_key("cut", self.held)

    @property
    def size(self) -> int:
        return sum(each.size for each in self.held.values())


def _upload(folder: Path) -> Upload:
    source = write_toy(folder, "cut", 2, digest="bbb")
    (source / "2" / "weights.bin").write_bytes(random.randbytes(300_000))
    files = {name: source / "2" / name for name in ("model.py", "weights.bin")}
    return Upload(source, files, {path: measure(file) for path, file in files.items()})


def test_copies_cut_at_random_points(two: Two, tmp_path: Path) -> None:
    """A copy that is cut anywhere leaves what is served as it was; the next try with the same source goes on there, and
    is whole."""
    two.toy("cut")
    before, served = snapshot(two.repository), two.served("cut")
    random.seed(7)
    uploads = [_upload(tmp_path / str(number)) for number in range(_CUTS)]
    spared = 0
    for number, upload in enumerate(uploads):
        with Cutting(str(two.repository)) as volume:
            volume.lock("a test")
            volume.left, volume.kills = random.randrange(upload.size), bool(number % 2)
            with pytest.raises(Cut):
                volume.upload(upload.key, upload.files, upload.held, 1 << 40)
        assert snapshot(two.repository) == before
        if not number % 10:
            assert two.served("cut") == served
        with Volume(str(two.repository)) as again:
            again.lock("a test")
            spared += upload.size - again.upload(upload.key, upload.files, upload.held, 1 << 40)
        content = two.staging / "routers" / "incoming" / upload.key / "content"
        assert {path: measure(content / path) for path in upload.files} == upload.held
        assert [each.name for each in content.parent.parent.iterdir()] == [upload.key]
    assert spared > sum(upload.size for upload in uploads) / 4  # on average half of each was there already
    report, _ = push(uploads[-1].source, *two.where, "--golden", golden(tmp_path, "Rewrite"))
    assert report["uploaded"] == 0 and set(two.served("cut")) == {"toy:2:bbb"}


def test_agent_that_ends_meanwhile(two: Two, tmp_path: Path) -> None:
    """An agent that is killed while replicas load is replaced: the version can still be taken back."""
    two.toy("orphan")
    before = snapshot(two.repository)
    with Volume(str(two.repository)) as volume:
        volume.lock("a test")
        upload = _upload(tmp_path)
        volume.upload(upload.key, upload.files, upload.held, 1 << 40)
        change = Change.push("orphan", 2, False, upload.key)
        volume.ask(**change.do)
        os.kill(volume.pid, signal.SIGKILL)
        assert volume.insist(**change.undo) is True
        volume.insist("finish", key=upload.key)
    assert snapshot(two.repository) == before


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """An agent on an empty repository, which holds the lock."""
    (tmp_path / "volume" / "routers").mkdir(parents=True)
    with Volume(str(tmp_path / "volume" / "routers")) as volume:
        volume.lock("a test")
        yield volume


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a/../../x", "", ".", "a//b", "./a", "a/", ".hidden", "a/.b", "a\\b", "a\nb", "a\0b", "a/.."],
)
def test_paths_out_of_staging_are_refused(volume: Volume, tmp_path: Path, path: str) -> None:
    """A path that leads anywhere but into the upload is refused, and the agent goes on."""
    before = snapshot(tmp_path)
    volume.ask("begin", key="0" * 64)
    with pytest.raises(PushError, match="is no path inside a model"):
        volume._send(path, 0, b"abc")
    with pytest.raises(PushError, match="is no path inside a model"):
        volume.ask("verify", files={path: "0" * 64})
    volume._send("fine", 0, b"abc")
    after = snapshot(tmp_path).keys() - before.keys()
    assert after == {f"volume/.staging/routers/{name}" for name in _upload_of("0" * 64, "fine")}


def _upload_of(key: str, *files: str) -> list[str]:
    content = f"incoming/{key}/content"
    return ["incoming", f"incoming/{key}", content, *(f"{content}/{file}" for file in files)]


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "publish", "model": "../x", "version": "1", "whole": False, "key": "0"},
        {"do": "publish", "model": "x", "version": "../1", "whole": False, "key": "0"},
        {"do": "publish", "model": "x", "version": "0", "whole": False, "key": "0"},
        {"do": "publish", "model": "x__candidate", "version": "1", "whole": True, "key": "0"},
        {"do": "withdraw", "model": ".staging", "version": "1", "whole": True, "key": "0"},
        {"do": "hide", "model": ".."},
        {"do": "begin", "key": "../../x"},
        {"do": "receive", "path": "a", "offset": 5, "size": 0},
        {"do": "receive", "path": 5, "offset": 0, "size": 0},
        {"do": "unknown"},
        {"do": "verify"},
        {"do": ["x"]},
        {},
    ],
)
def test_strange_requests_are_refused(volume: Volume, tmp_path: Path, request_: dict[str, Any]) -> None:
    """What is no request, or names what is no model or version, is answered with one line, and changes nothing."""
    volume.ask("begin", key="0" * 64)
    before = snapshot(tmp_path)
    do = request_.pop("do", None)
    with pytest.raises(PushError) as refused:
        volume.ask(do, **request_)
    assert not isinstance(refused.value, VolumeGone) and "\n" not in str(refused.value)
    assert snapshot(tmp_path) == before
    assert volume.inventory().models == {}


def test_links_in_staging_are_refused(volume: Volume, tmp_path: Path) -> None:
    """A link in staging does not lead an upload elsewhere."""
    volume.ask("begin", key="0" * 64)
    content = tmp_path / "volume/.staging/routers/incoming" / ("0" * 64) / "content"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "file").write_text("theirs")
    (content / "folder").symlink_to(tmp_path / "elsewhere")
    (content / "file").symlink_to(tmp_path / "file")
    for path in ("folder/x", "file"):
        with pytest.raises(PushError, match="is a link"):
            volume._send(path, 0, b"mine")
    assert (tmp_path / "file").read_text() == "theirs" and not list((tmp_path / "elsewhere").iterdir())


def test_somebody_elses_version_stays(volume: Volume, tmp_path: Path) -> None:
    """A version that this push did not publish is neither replaced nor taken out."""
    theirs = write_toy(tmp_path / "volume" / "routers", "toy", 1)
    volume.ask("begin", key="0" * 64)
    with pytest.raises(PushError, match="is there already"):
        volume.ask("publish", model="toy", version="1", whole=False, key="0" * 64)
    volume.ask("withdraw", model="toy", version="1", whole=False, key="0" * 64)
    assert (theirs / "1" / "model.py").is_file()


def test_lock_is_awaited_by_one_who_had_it(tmp_path: Path) -> None:
    """One whose agent ended in the midst of things gets the lock back when somebody else lets go of it soon."""
    (tmp_path / "routers").mkdir()
    with Volume(str(tmp_path / "routers")) as first, Volume(str(tmp_path / "routers")) as second:
        first.lock("first")
        os.kill(first.pid, signal.SIGKILL)
        _await(lambda: _locks(second))
        threading.Timer(1, second.close).start()
        first.insist("finish", key=None)


def test_work_without_the_lock_is_refused(tmp_path: Path) -> None:
    """Without the lock an agent only looks, and leaves no trace."""
    with Volume(str(tmp_path)) as volume:
        assert volume.inventory().models == {}
        with pytest.raises(PushError, match="needs the lock"):
            volume.ask("begin", key="0" * 64)
    assert list(tmp_path.iterdir()) == [] and not (tmp_path.parent / ".staging").exists()


def test_killed_agent_gives_the_lock_back(tmp_path: Path) -> None:
    """A lock does not outlive its agent, however that ends."""
    (tmp_path / "routers").mkdir()
    with Volume(str(tmp_path / "routers")) as first:
        first.lock("first")
        with Volume(str(tmp_path / "routers")) as second, pytest.raises(PushError, match="^first is at work"):
            second.lock("second")
        os.kill(first.pid, signal.SIGKILL)
        with Volume(str(tmp_path / "routers")) as third:
            _await(lambda: _locks(third))


def _locks(volume: Volume) -> bool:
    try:
        volume.lock("third")
    except PushError:
        return False
    return True


def test_small_disk(volume: Volume, tmp_path: Path) -> None:
    """An upload that does not fit is refused before a byte is sent, and says how much is missing."""
    file = tmp_path / "weights"
    file.write_bytes(bytes(1000))
    with pytest.raises(PushError, match="has 500 bytes free, and 1,000 more"):
        volume.upload("0" * 64, {"weights": file}, {"weights": measure(file)}, 500)
    assert 0 < volume.inventory().free


def test_full_disk(tmp_path: Path) -> None:
    """A disk that fills up meanwhile is told in one line, and the agent goes on."""
    (tmp_path / "routers").mkdir()
    # A limit on the size of files stands in for the disk's: both end a write half way.
    prefix = ("sh", "-c", 'ulimit -f 100; exec "$@"', "sh", sys.executable)
    file = tmp_path / "weights"
    file.write_bytes(bytes(1_000_000))
    with Volume(str(tmp_path / "routers"), prefix) as volume:
        volume.lock("a test")
        with pytest.raises(PushError, match="File too large"):
            volume.upload("0" * 64, {"weights": file}, {"weights": measure(file)}, 1 << 40)
        assert volume.inventory().models == {}


def test_damage_in_staging_is_mended(volume: Volume, tmp_path: Path) -> None:
    """What an earlier try left, and is not what it should be, is sent again."""
    file = tmp_path / "weights"
    file.write_bytes(bytes(1000))
    volume.ask("begin", key="0" * 64)
    volume._send("weights", 0, b"x" * 600)
    volume._send("stray", 0, b"x")
    assert volume.upload("0" * 64, {"weights": file}, {"weights": measure(file)}, 1 << 40) == 1400
    content = tmp_path / "volume/.staging/routers/incoming" / ("0" * 64) / "content"
    assert [path.name for path in content.iterdir()] == ["weights"] and measure(content / "weights") == measure(file)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_sources(tmp_path: Path) -> None:
    """What is missing, damaged or does not fit together is named in one line before anything is asked."""
    checkpoint = retrained(tmp_path / "checkpoint")
    weights = checkpoint / "adapters.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(PushError, match="adapters.safetensors: truncated"):
        read_source(checkpoint, None)
    weights.write_bytes(whole)
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in checkpoint.iterdir())
    (checkpoint / "SHA256SUMS").write_text(sums)
    assert read_source(checkpoint, None).model == "prompt_classifier"
    _flip(weights)
    with pytest.raises(PushError, match="adapters.safetensors has hash"):
        read_source(checkpoint, None)
    weights.unlink()
    with pytest.raises(PushError, match="adapters.safetensors is missing|neither a model"):
        read_source(checkpoint, None)
    with pytest.raises(PushError, match="'nobody' is none of prompt_classifier"):
        read_source(checkpoint, "nobody")
    with pytest.raises(PushError, match="is no folder"):
        read_source(tmp_path / "nothing", None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('name: "toy"\nbackend: python"', "config.pbtxt"),
        ('name: "other"', "name is 'other', and the folder's name is 'toy'"),
        ('name: "toy" version_policy: { specific { versions: [1] } }', "version_policy names versions"),
        ('name: "toy" output [{ name: "x" label_filename: "labels.txt" }]', "labels.txt is missing"),
    ],
)
def test_wrong_configs(tmp_path: Path, text: str, complaint: str) -> None:
    """A config that can't be read, or that a version could not be served by, is refused."""
    folder = write_toy(tmp_path, "toy", 1)
    (folder / "config.pbtxt").write_text(text)
    with pytest.raises(PushError, match=complaint) as refused:
        read_source(folder, None)
    assert "\n" not in str(refused.value)


def test_wrong_model_folders(tmp_path: Path) -> None:
    """A model's folder without a version, or whose version lacks its program, is refused."""
    folder = write_toy(tmp_path, "toy", 1)
    with pytest.raises(PushError, match="pushed under its own name"):
        read_source(folder, "other")
    (folder / "1" / "model.py").unlink()
    with pytest.raises(PushError, match="is empty"):
        read_source(folder, None)
    (folder / "1" / "notes.txt").write_text("")
    with pytest.raises(PushError, match="model.py is missing"):
        read_source(folder, None)
    shutil.rmtree(folder / "1")
    with pytest.raises(PushError, match="holds no version"):
        read_source(folder, None)


def test_config_on_the_volume(tmp_path: Path) -> None:
    """A version fits beside those on the volume when the configs mean the same, whatever their comments say; for a
    checkpoint it is enough that the tensors are the same."""
    source = read_source(write_toy(tmp_path, "toy", 1), None)
    text = (tmp_path / "toy" / "config.pbtxt").read_text()
    fitted(source, Served((1,), f"# a comment\n{text}", {}, True))
    with pytest.raises(PushError, match="differs from the one on the volume"):
        fitted(source, Served((1,), text.replace("max_batch_size: 8", "max_batch_size: 4"), {}, True))
    checkpoint = read_source(EMBEDDED, None)
    ours = (ROOT / "model_repository" / "prompt_classifier" / "config.pbtxt").read_text()
    there = fitted(checkpoint, Served((1,), ours.replace("count: 1", "count: 2"), {}, True))
    assert there.config.instance_group[0].count == 2  # what it is tried and compared under
    config = (link_model(there, 2, tmp_path / "tried") / "prompt_classifier" / "config.pbtxt").read_text()
    assert parse_config(config, "here") == there.config
    with pytest.raises(PushError, match="other tensors"):
        fitted(checkpoint, Served((1,), ours.replace('name: "tokens"', 'name: "token"'), {}, True))


_NO_TEXT = 'Tensor("checkpoint", np.full((1, 1), bytes([255]), dtype=object))'
_NO_ROW = 'Tensor("checkpoint", np.empty((0, 1), dtype=object))'
_NO_CHECKPOINT = 'Tensor("task_scores", np.zeros((1, 2), np.float32))'


_RARE = [pytest.param(answer, marks=pytest.mark.rare) for answer in (_NO_ROW, _NO_CHECKPOINT)]


@pytest.mark.parametrize("answer", [_NO_TEXT, *_RARE])
def test_answers_that_are_none_are_taken_back(two: Two, tmp_path: Path, answer: str) -> None:
    """A version that gives a `checkpoint` which is no text, or no row, or none, goes from all replicas."""
    two.toy("garbled")
    before = snapshot(two.repository)
    tensors = f'pb_utils.Tensor("task_label", np.full((1, 1), b"Rewrite", dtype=object)), pb_utils.{answer}'
    bad = f"if PLACE == 'second': self.execute = lambda asked: [pb_utils.InferenceResponse([{tensors}]) for _ in asked]"
    source = write_toy(tmp_path, "garbled", 2, digest="bbb", initialize=bad)
    _, line = push(source, *two.where, "--golden", golden(tmp_path, "Rewrite"), code=1)
    assert f"{two.urls[1]} answers what can't be read" in line and "2 of 2 answer as before" in line
    assert set(two.served("garbled")) == {"toy:1:aaa"} and snapshot(two.repository) == before


@pytest.mark.rare
def test_nobody_reads_what_is_said(two: Two, tmp_path: Path) -> None:
    """A push whose stderr nobody reads any more goes to its end, and is taken back when it has to be."""
    two.toy("unheard")
    bad = write_toy(
        tmp_path / "bad", "unheard", 2, digest="bbb", initialize="if PLACE == 'second': self.label = 'Chatbot'"
    )
    good = write_toy(tmp_path / "good", "unheard", 2, digest="ccc")
    for source, code, served in ((bad, 1, "toy:1:aaa"), (good, 0, "toy:2:ccc")):
        process = start(source, *two.where, "--golden", golden(tmp_path, "Rewrite"), "--json")
        assert process.stderr is not None and process.stdout is not None
        process.stderr.close()
        output = json.loads(process.stdout.read())
        process.stdout.close()
        assert process.wait(60) == code and ("error" in output) == bool(code)
        assert set(two.served("unheard")) == {served}


class Restarting:
    """Replicas of which one starts again, and so reads what is on the volume, just before a change is undone."""

    def __init__(self, replicas: Sequence[Replica], model: str, is_known: bool) -> None:
        self._last, self._model, self._looks = replicas[-1], model, 0
        self.replicas = list(replicas if is_known else replicas[:-1])

    def refresh(self) -> None:
        self._looks += 1
        if self._looks == 2:
            self._last.load(self._model)

    def newcomers(self) -> list[Replica]:
        new = [] if self._last in self.replicas else [self._last]
        self.replicas += new
        return new


def _make(
    two: Two, fleet: Restarting, model: str, change: Change, before: Mapping[str, Answered], source: Path | None
) -> str:
    """Makes a change that fails, and returns what is said then."""
    config = parse_config((two.repository / model / "config.pbtxt").read_text(), model)
    with Volume(str(two.repository)) as volume:
        volume.lock("a test")
        if source is not None:
            files = {"model.py": source / "2" / "model.py"}
            volume.upload(change.do["key"], files, {path: measure(file) for path, file in files.items()}, 1 << 40)
        with pytest.raises(PushError) as failed:
            make(volume, fleet, Examiner(model, config), change, None, before, Interrupts())
    assert not (two.staging / "routers" / "journal.json").exists()
    return str(failed.value)


@pytest.mark.parametrize("is_known", [True, False])
def test_started_while_a_bad_version_was_there(two: Two, tmp_path: Path, is_known: bool) -> None:
    """A Triton that starts while a bad version is on the volume is brought back too, though it was not told of it."""
    model = f"restarted_{is_known}".lower()
    two.toy(model)
    fails = "if PLACE == 'second': raise ValueError('not here')"
    source = write_toy(tmp_path, model, 2, digest="bbb", initialize=fails)
    first, second = two.replicas()
    answered = {each.name: Answered(1, "toy:1:aaa") for each in ((first, second) if is_known else (second,))}
    fleet = Restarting([second, first], model, is_known)
    said = _make(two, fleet, model, Change.push(model, 2, False, "1" * 64), answered, source)
    assert "not here" in said and "version 2 is taken back, 2 of 2 answer as before" in said
    assert set(two.served(model)) == {"toy:1:aaa"} and not (two.repository / model / "2").exists()


@pytest.mark.rare
def test_failed_rollback_is_undone(two: Two, tmp_path: Path) -> None:
    """When one Triton can't load the version below, all answer with the higher one again, also one that started
    meanwhile."""
    flag = tmp_path / "flag"
    fails = f"if PLACE == 'second' and os.path.exists({str(flag)!r}): raise ValueError('no longer')"
    two.toy("upright", initialize=fails)
    push(write_toy(tmp_path, "upright", 2, digest="bbb"), *two.where, "--golden", golden(tmp_path, "Rewrite"))
    flag.touch()
    before = snapshot(two.repository)
    first, second = two.replicas()
    answered = {second.name: Answered(2, "toy:2:bbb")}
    fleet = Restarting([second, first], "upright", False)
    said = _make(two, fleet, "upright", Change.rollback("upright", 2, 1), answered, None)
    assert "no longer" in said and "version 2 is put back, 2 of 2 answer as before" in said
    assert set(two.served("upright")) == {"toy:2:bbb"} and snapshot(two.repository) == before
    _, line = push("--rollback", "upright", *two.where, code=1)
    assert "version 2 is put back, 2 of 2 answer as before" in line
    assert set(two.served("upright")) == {"toy:2:bbb"} and snapshot(two.repository) == before


@pytest.mark.rare
def test_model_that_nobody_serves_after_a_killed_push(two: Two, tmp_path: Path) -> None:
    """A Triton that has the model and none of its versions loads it again when a killed push is seen to."""
    two.toy("bereft")
    upload = _upload(tmp_path)
    with Volume(str(two.repository)) as volume:
        volume.lock("a test")
        volume.upload(upload.key, upload.files, upload.held, 1 << 40)
        volume.ask(**Change.push("bereft", 2, False, upload.key).do)
    for replica in two.replicas():
        replica.unload("bereft")
        replica.settle("bereft")
    assert two.served("bereft") == [None, None]
    push("--rollback", "bereft", *two.where, code=1)
    assert set(two.served("bereft")) == {"toy:1:aaa"} and not (two.repository / "bereft" / "2").exists()


@pytest.mark.rare
def test_killed_push_over_a_version_that_never_loaded(two: Two, tmp_path: Path) -> None:
    """As of a router whose weights are missing: what the push left is taken out, and later ones go on."""
    write_toy(two.repository, "barren", initialize="raise ValueError('no weights')")
    for replica in two.replicas():
        with pytest.raises(PushError, match="no weights"):
            replica.load("barren")
    upload = _upload(tmp_path)
    with Volume(str(two.repository)) as volume:
        volume.lock("a test")
        volume.upload(upload.key, upload.files, upload.held, 1 << 40)
        volume.ask(**Change.push("barren", 2, False, upload.key).do)
    for _ in range(2):
        report, _ = push("--rollback", "barren", *two.where, code=1)
        assert "has one version" in report["error"] and not (two.repository / "barren" / "2").exists()


@pytest.mark.rare
def test_killed_comparison(two: Two, tmp_path: Path) -> None:
    """What a comparison that was killed left is removed by the next push; a folder of somebody else's that is called as
    if it were one stays."""
    two.toy("halfway")
    theirs = write_toy(two.repository, "theirs__candidate")
    slow = "if PLACE == 'first': time.sleep(2)"
    source = write_toy(tmp_path, "halfway", 2, digest="bbb", initialize=slow)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n')
    common: tuple[str | Path, ...] = (source, *two.where, "--golden", golden(tmp_path, "Rewrite"))
    process = start(*common, "--compare", tmp_path / "prompts.jsonl")
    _await((two.repository / "halfway__candidate").exists)
    time.sleep(0.5)
    process.kill()
    process.communicate()
    report, _ = push("--rollback", "halfway", *two.where, code=1)
    assert "has one version" in report["error"]
    assert two.served("halfway__candidate") == [None, None] and not (two.repository / "halfway__candidate").exists()
    assert (theirs / "1" / "model.py").is_file()
    write_toy(two.repository, "halfway__candidate")
    _, line = push(*common, "--compare", tmp_path / "prompts.jsonl", code=1)
    assert "halfway__candidate is there already" in line and (two.repository / "halfway__candidate" / "1").is_dir()
    for name in ("theirs__candidate", "halfway__candidate"):
        shutil.rmtree(two.repository / name)


def test_changes_of_others_stay(volume: Volume, tmp_path: Path) -> None:
    """A version with the number of this push's, which another push brought, is neither taken out nor finished; a new
    model that has got versions of others meanwhile stays where it is."""
    repository = tmp_path / "volume" / "routers"
    ours, theirs = (Change.push("toy", 1, True, digit * 64) for digit in "12")
    file = write_toy(tmp_path, "toy", 1) / "config.pbtxt"
    files = {"config.pbtxt": file, "1/model.py": file.parent / "1" / "model.py"}
    volume.upload("1" * 64, files, {path: measure(each) for path, each in files.items()}, 1 << 40)
    volume.ask(**ours.do)
    assert volume.ask(**theirs.undo) is False and (repository / "toy" / "1").is_dir()
    with pytest.raises(PushError, match="another push has begun"):
        volume.ask(**theirs.finish)
    (repository / "toy" / "2").mkdir()
    with pytest.raises(PushError, match="has got other versions than 1"):
        volume.ask(**ours.undo)
    (repository / "toy" / "2").rmdir()
    assert volume.ask(**ours.undo) is True and not (repository / "toy").exists()


def test_stale_replica_is_refused(two: Two, tmp_path: Path) -> None:
    """A version that was copied to the volume by hand, and that nobody serves, is no ground to build on."""
    two.toy("stale")
    write_toy(two.repository, "stale", 2)
    _, line = push(write_toy(tmp_path, "stale", 3), *two.where, code=1)
    assert "serves version 1 of stale, and the volume's highest is 2" in line
    report, _ = push("--rollback", "stale", *two.where)
    assert report["version"] == 1 and not (two.repository / "stale" / "2").exists()


def test_model_without_prompts(two: Two, tmp_path: Path) -> None:
    """Of a model that takes no prompts only the load is checked, and that is said; so is that no Triton is here."""
    process = start(write_toy(tmp_path, "numbers", 1, kind="TYPE_FP32"), *two.where)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "only its load is checked" in errors
    assert "not tried on this machine: no tritonserver" in errors
    assert "numbers version 1: served by all" in output


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "line 1: expected an object with a 'prompt'"),
        ('{"prompt": "x", "expect": {"task_label": [1]}}', r"'task_label' should be a text, a number or \[low, high\]"),
        ('{"prompt": "x", "expect": {"tusk_label": "y"}}', "the model has no output tusk_label; it has task_label"),
        (" \n\t", "holds no prompts"),
        (f'{{"prompt": "x", "expect": {{"task_label": 1{"0" * 400}}}}}', "beyond all floating-point numbers"),
        ('{"prompt": "a\u2028b", "expect": {"tusk_label": "y"}}', "prompt 1: the model has no output tusk_label"),
        ('{"prompt": "x", "expect": {"task_label": [2, 1]}}', r"'task_label' should be \[low, high\], and 2 is above"),
        ('{"prompt": "x", "expect": {"task_label": [1, 2, 3]}}', "'task_label' has one value, and the golden prompt 3"),
        ('{"prompt": "x", "expect": {"scores": [1, 2]}}', "'scores' has 3 values, and the golden prompt 2"),
        ('{"prompt": "x", "expect": {"scores": 1}}', "'scores' has 3 values, and the golden prompt 1"),
    ],
)
def test_wrong_golden_prompts(tmp_path: Path, line: str, complaint: str) -> None:
    """A broken golden file is refused with the line."""
    path = tmp_path / "golden.jsonl"
    path.write_text(line)
    with pytest.raises(PushError, match=complaint):
        read_golden(path, {"task_label": 1, "scores": 3})


def test_golden_prompts_of_the_project() -> None:
    """They are asked of a model as far as it has their outputs."""
    assert len(read_golden(None, {"task_label": 1, "strong_win_rate": 1})) == 10
    assert read_golden(None, {"strong_win_rate": 1})[0].expect == {"strong_win_rate": (0.0, 1.0)}
    assert read_golden(None, {"other": 1}) == []


def test_shift() -> None:
    """Agreement, total variation of the shares, moved labels, and both calibration shifts, by hand."""
    old = Given(["a", "a", "b", "b"], np.array([1.0, 1.0, 0.5, 0.5]))
    new = Given(["a", "b", "b", "c"], np.array([1.0, 0.5, 0.5, 0.5]))
    found = shift(old, new, ["a", "a", None, None])
    assert (found.agreement, found.label_shift, found.confidence_shift) == (0.5, 0.25, -0.125)
    assert found.moved == {"a": {"b": 1}, "b": {"c": 1}}
    assert (found.labelled, found.old_error, found.new_error) == (2, 0.0, 0.25)
    assert len(found.faults(Limits(0.9, 0.05, 0.05))) == 4 and found.faults(Limits(0.5, 0.25, 0.25)) == []
    assert shift(Given(["a"], None), Given(["a"], None), ["a"]).faults(Limits(1, 0, 0)) == []


def test_scores_that_no_limit_allows() -> None:
    """Scores that are no numbers, or no probabilities where the old version's are, are outside the widest limits."""
    wide, sure = Limits(0, 1, 1), Given(["a"], np.array([0.9]))
    broken = Given(["a"], np.array([np.nan]), is_finite=False)
    assert "not all finite" in shift(sure, broken, [None]).faults(wide)[0]
    assert "confidence shift +nan" in shift(sure, broken, [None]).faults(wide)[1]
    assert "no probabilities" in shift(sure, Given(["a"], None), [None]).faults(wide)[0]


def test_names_that_the_volume_refuses(tmp_path: Path) -> None:
    """A model or a file that the agent would refuse is refused before anything is uploaded."""
    with pytest.raises(PushError, match="ends in __candidate"):
        read_source(write_toy(tmp_path, "toy__candidate"), None)
    with pytest.raises(PushError, match="is no name of a model"):
        read_source(write_toy(tmp_path, "my toy"), None)
    folder = write_toy(tmp_path, "toy")
    Path(os.fsdecode(bytes(folder / "1") + b"/weights\xff")).touch()
    with pytest.raises(PushError, match="is no path inside a model"):
        read_source(folder, None)


def _deployment() -> dict[str, Any]:
    container = {
        "name": "router-server",
        "image": "registry/llm-router-server:1",
        "env": [{"name": "MODEL_REPOSITORY", "value": "/model_repository/routers"}],
        "securityContext": {"readOnlyRootFilesystem": True},
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "volumeMounts": [
            {"name": "model-repository", "mountPath": "/model_repository", "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    spec = {
        "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "imagePullSecrets": [{"name": "pull"}],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "containers": [container],
        "volumes": [
            {"name": "model-repository", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }
    return {"metadata": {"name": "llm-router-router-server"}, "spec": {"template": {"spec": spec}}}


def test_uploader_pod() -> None:
    """The uploader mounts the server's volume for writing, with the server's image and rights, and nothing else of it:
    no GPU, no probe, no other volume, and labels that no Service selects."""
    target = kubernetes.read_target(_deployment())
    running = {"spec": {"tolerations": [{"key": "added by admission"}]}}
    pod = kubernetes.uploader(target, "llm-router", "up", [running], True)
    (container,) = pod["spec"]["containers"]
    assert target.repository == "/model_repository/routers"
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "model-uploader"
    assert pod["spec"]["volumes"] == [{"name": "model-repository", "persistentVolumeClaim": {"claimName": "models"}}]
    assert container["volumeMounts"] == [
        {"name": "model-repository", "mountPath": "/model_repository", "readOnly": False}
    ]
    assert container["image"] == "registry/llm-router-server:1"
    assert container["securityContext"] == {"readOnlyRootFilesystem": True}
    assert pod["spec"]["securityContext"] == {"runAsUser": 1000, "fsGroup": 1000}
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["spec"]["tolerations"] == [{"key": "added by admission"}]
    assert list(pod["spec"]["affinity"]["podAffinity"]) == ["requiredDuringSchedulingIgnoredDuringExecution"]
    alone = kubernetes.uploader(target, "llm-router", "up", [], True)["spec"]
    assert alone["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert list(alone["affinity"]["podAffinity"]) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    assert "nvidia.com/gpu" not in json.dumps(container) and pod["spec"]["automountServiceAccountToken"] is False
    json.dumps(pod)


_KUBECTL = """#!{python}
import json, os, pathlib, subprocess, sys, time
state = pathlib.Path({state!r})
arguments = [each for each in sys.argv[1:] if not each.startswith(("--namespace", "--context"))]
with (state / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:])[:200] + "\\n")
match arguments:
    case ["get", "deployments", *_]:
        print(json.dumps({{"items": [json.loads((state / "deployment").read_text())]}}))
    case ["get", "pods", *_]:
        pods = json.loads((state / "pods").read_text())
        shown = list(pods) if list(state.glob("created*")) else list(pods)[:1]
        parts = {{"status": {{"phase": "Running"}}, "spec": {{}}}}
        print(json.dumps({{"items": [{{"metadata": {{"name": name}}, **parts}} for name in shown]}}))
    case ["get", "pvc", "models", *_]:
        print(json.dumps({{"spec": {{"accessModes": ["ReadWriteOnce"]}}}}))
    case ["port-forward", _, pod, _]:
        print("Forwarding from " + json.loads((state / "pods").read_text())[pod.removeprefix("pod/")], flush=True)
        time.sleep(600)
    case ["create", *_]:
        (state / "created").write_text(sys.stdin.read())
    case ["exec", "--stdin", pod, container, "--", "python3", *rest]:
        os.execv(sys.executable, [sys.executable, *rest])
    case ["exec", pod, "--container=router-server", "--", "cat", file]:
        token = state / (pod.removeprefix("pod/") + file.replace("/", "."))
        if not token.exists():
            sys.exit("cat: " + file + ": No such file or directory\\ncommand terminated with exit code 1")
        print(token.read_text(), end="")
    case ["delete", *_]:
        time.sleep(2)
    case ["wait", *_]:
        pass
    case _:
        sys.exit("error: what is " + repr(arguments))
"""


def _stand_in(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl on the PATH that runs everything here, and the folder of what it knows. The Tritons are its pods
    server-0 and server-1; the latter appears with the uploader."""
    state = tmp_path / "state"
    state.mkdir()
    deployment = _deployment()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["env"][0]["value"] = str(two.repository)
    (state / "deployment").write_text(json.dumps(deployment))
    (state / "pods").write_text(json.dumps({f"server-{n}": f"{url} -> 8001" for n, url in enumerate(two.urls)}))
    (state / "server-0.tmp.model-control").write_text("secret\n")
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(_KUBECTL.format(python=sys.executable, state=str(state)))
    kubectl.chmod(0o755)
    monkeypatch.setitem(_ENVIRON, "PATH", f"{kubectl.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PATH", _ENVIRON["PATH"])
    return state


def test_kubernetes_by_a_stand_in(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kubectl that runs everything here: an uploader comes and goes, a pod that appears meanwhile is told too,
    a dry run makes no pod, and Ctrl-C while the uploader goes does not hide that the version is served."""
    two.toy("podded")
    state = _stand_in(two, tmp_path, monkeypatch)
    arguments = (write_toy(tmp_path, "podded", 2, digest="bbb"), "--golden", golden(tmp_path, "Rewrite"))
    report, line = push(*arguments, "--dry-run", "--context", "here")
    assert list(report["replicas"]) == ["server-0"] and "would tell server-0" in line
    assert not (state / "created").exists()
    process = start(*arguments, "--json")
    _await(lambda: "delete pod" in (state / "calls").read_text())
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "secret" not in output + errors
    served = {"version": 2, "checkpoint": "toy:2:bbb"}
    assert json.loads(output)["replicas"] == {"server-0": served, "server-1": served}
    name = json.loads((state / "created").read_text())["metadata"]["name"]
    calls = (state / "calls").read_text()
    assert f"delete pod {name}" in calls and "--context=here --namespace=llm-router get deployments" in calls
    _await(lambda: not commands(str(tmp_path / "bin")))


def test_pods_that_start_again(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica is reached anew when its port-forward has ended, with the token that its pod has by then; one whose pod
    is gone is forgotten."""
    state = _stand_in(two, tmp_path, monkeypatch)
    (state / "created").touch()
    pods = kubernetes.Pods(kubernetes.Cluster("llm-router", "llm-router", None))
    try:
        header = "triton-grpc-protocol-model-control"
        assert [each.headers for each in pods.replicas] == [{header: "secret"}, {}]
        (state / "server-0.tmp.model-control").write_text("another\n")
        (pid,) = commands("pod/server-0")
        os.kill(pid, signal.SIGKILL)
        _await(lambda: not commands("pod/server-0"))
        pods.refresh()
        assert pods.replicas[0].headers == {header: "another"} and len(commands("pod/server-0")) == 1
        assert all(each.is_live() for each in pods.replicas)
        (state / "pods").write_text(json.dumps({"server-1": f"{two.urls[1]} -> 8001"}))
        pods.refresh()
        assert [each.name for each in pods.replicas] == ["server-1"] and not commands("pod/server-0")
        (state / "pods").write_text("{}")
        with pytest.raises(PushError, match="no pod of release llm-router runs"):
            pods.refresh()
    finally:
        pods.close()


def test_restricted_model_control(tmp_path: Path) -> None:
    """A Triton that has its models controlled by a token alone is controlled with it, and refuses in a line without."""
    write_toy(tmp_path / "models", "guarded")
    token = "0123456789abcdef"
    restriction = f"--grpc-restricted-protocol=model-repository:model-control={token}"
    triton = Triton(free_ports(3), tmp_path / "triton", tmp_path / "models", (), options=[restriction])
    header = {"triton-grpc-protocol-model-control": token}
    trusted, stranger = (Replica("guarded", triton.grpc_url, headers) for headers in (header, None))
    triton.start()
    try:
        _await(trusted.is_live)
        trusted.load("guarded")
        assert trusted.served("guarded") == 1
        for act in (stranger.load, stranger.unload, stranger.served):
            with pytest.raises(PushError, match="for those who know its token") as refused:
                act("guarded")
            assert token not in str(refused.value)
        assert len(stranger.ask("guarded", ["ping"], 8)) == 1
        trusted.unload("guarded")
        trusted.settle("guarded")
        assert trusted.served("guarded") is None
    finally:
        trusted.close()
        stranger.close()
        triton.stop()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"volumes": []}, "its models are in its image"),
        ({"volumes": [{"name": "model-repository", "emptyDir": {}}]}, "in an emptyDir"),
        ({"containers": [{"name": "router-server", "image": "x"}]}, "does not say MODEL_REPOSITORY"),
    ],
)
def test_deployments_without_a_volume(change: Mapping[str, Any], complaint: str) -> None:
    """A release whose models can't be updated through a volume is refused with the reason."""
    deployment = _deployment()
    deployment["spec"]["template"]["spec"].update(change)
    with pytest.raises(PushError, match=complaint):
        kubernetes.read_target(deployment)


def test_running_pods() -> None:
    """Pods that wait or are about to end are no replicas."""
    pods = [
        {"metadata": {"name": "a"}, "status": {"phase": "Running"}},
        {"metadata": {"name": "b"}, "status": {"phase": "Pending"}},
        {"metadata": {"name": "c", "deletionTimestamp": "now"}, "status": {"phase": "Running"}},
    ]
    assert kubernetes.running_pods(pods) == ["a"]


def test_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kubectl the command says so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PushError, match="kubectl is not on the PATH"):
        kubernetes.Cluster("llm-router", "llm-router", None).get("pods", "router-server")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give a SOURCE, or --rollback MODEL"),
        (["x", "--dry-run", "--compare", "y"], "--dry-run asks nobody"),
        (["x", "--rollback", "y"], "give a SOURCE, or --rollback MODEL"),
        (["x", "--url", "localhost:8001"], "--local and --url belong together"),
        (["x", "--local", "nowhere", "--url", "localhost:8001"], "is no folder"),
        (["x", "--min-agreement", "2"], "2 is not from 0 to 1"),
    ],
)
def test_wrong_arguments(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that do not belong together are a usage line and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and complaint in capsys.readouterr().err


@pytest.mark.rare
def test_nothing_is_left(two: Two, tmp_path: Path) -> None:
    """After a push, one that failed and a comparison, no candidate, no half-made model and no journal is there."""
    two.toy("tidy")
    wrong = golden(tmp_path, "Chatbot")
    push(write_toy(tmp_path / "bad", "tidy", 2, digest="bbb"), *two.where, "--golden", wrong, code=1)
    source = write_toy(tmp_path / "good", "tidy", 2, digest="ccc")
    good: tuple[str | Path, ...] = (source, *two.where, "--golden", golden(tmp_path, "Rewrite"))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n')
    push(*good, "--compare", tmp_path / "prompts.jsonl")
    assert set(two.served("tidy")) == {"toy:2:ccc"}
    assert [path.name for path in two.repository.iterdir() if "__" in path.name or path.name.startswith(".")] == []
    assert not list((two.staging / "routers").glob("*.json*"))
