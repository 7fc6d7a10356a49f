"""scripts/fetch_models, run as a person runs it, against a small hub on loopback and against local folders."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file
from safetensors.torch import load_file as load_torch_file

from scripts.fetching.errors import explain_disk
from scripts.fetching.manifest import MODELS, Model, Repository
from scripts.local.published import TINY, random_weights, write_published_checkpoint
from tests.published_battles import write_battles
from tests.published_routellm import write_bert, write_causal_llm, write_shards

COMMAND = Path(__file__).parents[2] / "scripts" / "fetch_models"
NVIDIA = MODELS["nvidia"].repositories[0]
WEIGHTS = "model.safetensors"
FETCHED = {"config.json", "fetched.json", WEIGHTS, "tokenizer.json"}
TOKEN = "hf_thisIsNoRealToken"


@dataclass
class Hub:
    """What the hub's client needs of a hub: HEAD and GET on resolve/, and a second address for large files.

    As on the real one, a small file's ETag is git's id of it; a large one's SHA-256 stands in X-Linked-Etag.
    """

    repositories: Sequence[Repository]
    files: dict[str, bytes]  # by their path in the fetched folder
    commit: str = "c0ffee" * 6 + "c0ff"  # of every branch
    announced: dict[str, bytes] = field(default_factory=dict)  # what the headers describe, where it is not the content
    refusal: tuple[int, str] | None = None  # status and X-Error-Code of every answer
    cut_after: dict[str, int] = field(default_factory=dict)  # the first GET of a file ends after so many bytes
    stalled: threading.Event | None = None  # set when a cut GET hangs instead of ending
    requests: list[tuple[str, str, str, str]] = field(default_factory=list)  # method, file, Range, Authorization
    older: list[str] = field(default_factory=list)  # commits that no branch has any more
    revisions: set[str] = field(default_factory=set)  # that were asked for
    address: str = ""

    def gets(self) -> list[str]:
        return [name for method, name, _, _ in self.requests if method == "GET"]

    def find(self, path: str) -> tuple[str, str]:
        """The file that a path on the hub means, "" if none, and the commit that it is of."""
        for repository in self.repositories:
            kind = "/datasets" if repository.kind == "dataset" else ""
            for revision in (repository.revision, self.commit, *self.older):
                prefix = f"{kind}/{repository.name}/resolve/{quote(revision, safe='')}/"
                name = str(Path(repository.into, path.removeprefix(prefix)))
                if path.startswith(prefix) and name in self.files:
                    self.revisions.add(revision)
                    return name, revision if revision != repository.revision or repository.is_pinned else self.commit
        return "", ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        stored = self.path.removeprefix("/large/")
        name, commit = (stored, "") if stored != self.path else self.hub.find(self.path)
        self.hub.requests.append(
            (self.command, name, self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        )
        if self.hub.refusal:
            self.refuse(*self.hub.refusal)
        elif name not in self.hub.files:
            self.refuse(404, "EntryNotFound")
        elif commit and Path(name).suffix in (".safetensors", ".parquet"):
            self.redirect(name, commit)
        else:
            self.send_file(name, commit)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def redirect(self, name: str, commit: str) -> None:
        announced = self.hub.announced.get(name, self.hub.files[name])
        self.send_response(302)
        # Another host, as on the real one: the client takes what it needs to know from this answer.
        self.send_header("Location", f"{self.hub.address.replace('127.0.0.1', 'localhost')}/large/{name}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(announced)))
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(announced).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_file(self, name: str, commit: str) -> None:
        content = self.hub.files[name]
        start = int(re.sub(r"bytes=(\d+)-", r"\1", self.headers.get("Range", "")) or 0)
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{git_id(self.hub.announced.get(name, content))}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.send_body(name, content[start:])

    def send_body(self, name: str, content: bytes) -> None:
        cut = self.hub.cut_after.pop(name, None)
        self.wfile.write(content[:cut])
        if cut is not None:
            self.wfile.flush()
            if self.hub.stalled:
                self.hub.stalled.set()
                self.rfile.read(1)  # until the client is gone
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published_checkpoint(tmp_path_factory.mktemp("published"))


@contextmanager
def running_hub(model: Model, folder: Path) -> Iterator[Hub]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub = Hub(model.repositories, files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    with running_hub(MODELS["nvidia"], published) as hub:
        hub.files |= {"spm.model": b"not needed", "README.md": b"not needed"}
        yield hub


@dataclass
class Command:
    """The command with an environment of its own: no cache, no token, no hub but the one named."""

    folder: Path
    into: Path
    environment: dict[str, str]

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COMMAND, "--into", self.into, *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def fails(self, *arguments: str | Path, **environment: str) -> str:
        """The last line on stderr of a run that ends with 1 and says why in that one line."""
        done = self(*arguments, **environment)
        assert done.returncode == 1, done
        lines = [line for line in done.stderr.splitlines() if "License" not in line]
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("fetch_models: ")
        return lines[0]

    def held(self) -> set[str]:
        return {path.name for path in self.into.iterdir()} if self.into.exists() else set()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    nowhere = f"http://127.0.0.1:{closed_port()}"
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": nowhere, "NO_PROXY": "127.0.0.1,localhost"}
    return Command(tmp_path, tmp_path / "into", environment)


@pytest.fixture
def online(command: Command, hub: Hub) -> Command:
    command.environment["HF_ENDPOINT"] = hub.address
    return command


def closed_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def write_cache(home: Path, published: Path) -> Path:
    """The hub client's cache as a run of it leaves it; returns where the weights lie."""
    repository = home / "hub" / f"models--{NVIDIA.name.replace('/', '--')}"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / NVIDIA.revision
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in published.iterdir():
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest() if path.name == WEIGHTS else git_id(content)
        (blobs / digest).write_bytes(content)
        (snapshot / path.name).symlink_to(blobs / digest)
    return (snapshot / WEIGHTS).resolve()


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_fetched_folder_holds_what_the_loader_needs_and_is_ready_for_service(online: Command, hub: Hub) -> None:
    """Three files come and nothing else; licence and the line for scripts/serve are printed; a rerun asks nobody."""
    done = online()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"CLASSIFIER_CHECKPOINT={online.into} scripts/serve"
    assert done.stderr.count("NVIDIA Open Model License") == 1
    assert online.held() == FETCHED
    assert sorted(hub.gets()) == sorted(NVIDIA.files)
    assert all((online.into / name).read_bytes() == hub.files[name] for name in NVIDIA.files)

    hub.requests.clear()
    again = online()
    assert (again.returncode, hub.requests, again.stderr) == (0, [], "")
    assert again.stdout.replace("whole", "fetched") == done.stdout


def test_the_record_names_revision_sizes_and_hashes(online: Command, hub: Hub) -> None:
    """fetched.json and --json hold what was fetched, by size and SHA-256."""
    result = json.loads(online("--json").stdout)
    record = json.loads((online.into / "fetched.json").read_text())
    assert record["revisions"] == result["revisions"] == {NVIDIA.name: NVIDIA.revision}
    for name, held in record["files"].items():
        content = hub.files[name]
        assert held == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert result["files"] == record["files"]
    assert sorted(result["fetched"]) == sorted(NVIDIA.files)
    assert result["serve"] == f"CLASSIFIER_CHECKPOINT={online.into} scripts/serve"
    assert json.loads(online("--json").stdout)["fetched"] == []


def test_a_cut_connection_is_taken_up_where_it_broke(online: Command, hub: Hub) -> None:
    """The rest of the file is asked for, not all of it again, and the whole is right."""
    # The hub's client writes 10 MiB at a time, so the file must have more.
    large = random_weights(replace(TINY, vocabulary=50_000), 50_000, np.random.default_rng(0))
    hub.files[WEIGHTS] = save(large)
    hub.cut_after[WEIGHTS] = 11_000_000
    assert online().returncode == 0
    ranges = [span for method, name, span, _ in hub.requests if (method, name) == ("GET", WEIGHTS)]
    assert ranges == ["", f"bytes={10 * 2**20}-"]
    assert (online.into / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_killed_run_leaves_nothing_that_loads_and_the_next_one_goes_on(online: Command, hub: Hub) -> None:
    """Nothing but the staging folder is there after a kill; the next run fetches only the file that was under way."""
    hub.cut_after[WEIGHTS] = 100_000
    hub.stalled = threading.Event()
    process = online.start()
    assert hub.stalled.wait(30)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert online.held() == {".partial"}
    assert "was not fetched" in online.fails("--check")

    hub.requests.clear()
    assert online().returncode == 0
    assert set(hub.gets()) == {WEIGHTS}
    assert online.held() == FETCHED


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_content_that_is_not_what_the_hub_announces_is_refused(online: Command, hub: Hub, name: str) -> None:
    """A file of the right size and another hash, small or large, is named and not kept."""
    hub.announced[name] = hub.files[name]
    hub.files[name] = hub.files[name][:-1] + b"\0"
    line = online.fails()
    assert f"{name} from {NVIDIA.name}" in line and "has hash" in line
    assert online.held() == {".partial"}
    assert not (online.into / ".partial" / name).exists()


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((404, "RevisionNotFound"), f"knows no revision {NVIDIA.revision}"),
        ((404, "EntryNotFound"), "has no config.json"),
        ((401, "RepoNotFound"), "(HTTP 401): set HF_TOKEN"),
        ((403, "GatedRepo"), "(HTTP 403): set HF_TOKEN"),
        ((503, ""), "(HTTP 503): run the command again later"),
        ((418, ""), "answers HTTP 418"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(
    online: Command, hub: Hub, refusal: tuple[int, str], says: str
) -> None:
    """What, where from and what to do; and the token is in no output."""
    hub.refusal = refusal
    done = online(HF_TOKEN=TOKEN)
    assert done.returncode == 1
    assert says in done.stderr.splitlines()[-1] and hub.address in done.stderr.splitlines()[-1]
    assert TOKEN not in done.stdout + done.stderr


def test_the_token_goes_to_the_hub_and_nowhere_else(online: Command, hub: Hub) -> None:
    """HF_TOKEN is sent, and stands in no output and in no file."""
    done = online(HF_TOKEN=TOKEN)
    assert done.returncode == 0
    assert (f"Bearer {TOKEN}") in {authorization for *_, authorization in hub.requests}
    written = b"".join(path.read_bytes() for path in online.folder.rglob("*") if path.is_file())
    assert TOKEN not in done.stdout + done.stderr and TOKEN.encode() not in written


def test_no_network_is_said_with_the_address_and_the_way_out(command: Command) -> None:
    """An address that nobody listens on: one line that names it and --from."""
    line = command.fails()
    assert f"cannot reach {command.environment['HF_ENDPOINT']}" in line and "--from DIR" in line


def test_offline_without_a_cache_is_said(online: Command, hub: Hub) -> None:
    """HF_HUB_OFFLINE is respected: nothing is asked, and the line names the variable and the cache."""
    line = online.fails(HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in line and online.environment["HF_HOME"] in line
    assert hub.requests == []


def test_offline_with_a_cache_needs_no_hub(command: Command, published: Path) -> None:
    """What the hub's client has cached is taken, and checked against the cache's own digests."""
    write_cache(Path(command.environment["HF_HOME"]), published)
    done = command(HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert command.held() == FETCHED
    assert "taken as it is" not in done.stderr


def test_a_damaged_cache_is_passed_over(online: Command, hub: Hub, published: Path) -> None:
    """A cached file that is not what its name says is fetched from the hub instead."""
    flip_byte(write_cache(Path(online.environment["HF_HOME"]), published))
    assert online().returncode == 0
    assert set(hub.gets()) == {WEIGHTS}
    assert (online.into / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_a_damaged_file_is_found_and_only_it_is_fetched_anew(online: Command, hub: Hub, damage: str) -> None:
    """--check names the file and changes nothing; the next run fetches that file and leaves the others."""
    assert online().returncode == 0
    weights = online.into / WEIGHTS
    if damage == "truncated":
        os.truncate(weights, 1000)
    elif damage == "flipped":
        flip_byte(weights)
    else:
        weights.unlink()
    line = online.fails("--check")
    assert WEIGHTS in line and "tokenizer.json" not in line
    assert f"scripts/fetch_models nvidia --into {online.into}" in line

    hub.requests.clear()
    result = json.loads(online("--json").stdout)
    assert (result["fetched"], set(hub.gets())) == ([WEIGHTS], {WEIGHTS})
    assert online("--check").returncode == 0
    assert online.held() == FETCHED


@pytest.mark.parametrize("record", ["", '{"files": {"config.json": 1}}'])
def test_a_record_that_says_nothing_makes_everything_be_fetched_anew(
    online: Command, hub: Hub, published: Path, record: str
) -> None:
    """A broken fetched.json is no reason to trust the files beside it."""
    assert online("--from", published).returncode == 0
    (online.into / "fetched.json").write_text(record)
    assert "was not fetched" in online.fails("--check")
    assert json.loads(online("--json").stdout)["fetched"] == list(NVIDIA.files)


def test_a_copy_needs_no_network(command: Command, published: Path) -> None:
    """--from takes a folder laid out like the hub's, by a path relative to the caller; unknown hashes are admitted."""
    done = command("--from", os.path.relpath(published, command.folder))
    assert done.returncode == 0, done.stderr
    assert command.held() == FETCHED
    assert done.stderr.count("taken as it is") == len(NVIDIA.files)


def test_a_copy_of_a_fetched_folder_is_checked_against_its_record(command: Command, published: Path) -> None:
    """An air-gapped machine finds that the copy it was given is damaged, and keeps nothing of it."""
    copied = command.folder / "copied"
    assert command("--from", published).returncode == 0
    shutil.move(command.into, copied)
    assert "taken as it is" not in command("--from", copied).stderr
    shutil.rmtree(command.into)

    flip_byte(copied / WEIGHTS)
    assert f"{WEIGHTS} from {copied} has hash" in command.fails("--from", copied)
    record = json.loads((copied / "fetched.json").read_text())
    (copied / "fetched.json").write_text(json.dumps(record | {"revisions": {NVIDIA.name: "0" * 40}}))
    assert f"at revision {'0' * 40}" in command.fails("--from", copied)
    assert "config.json" not in command.held()


def test_a_copy_that_lacks_a_file_is_refused(command: Command, published: Path) -> None:
    """The line names the file and the folder."""
    copied = shutil.copytree(published, command.folder / "copied")
    (copied / "tokenizer.json").unlink()
    assert f"{copied} holds no tokenizer.json" in command.fails("--from", copied)
    assert "holds no config.json" in command.fails("--from", command.folder / "nothing")


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", WEIGHTS])
def test_files_that_the_models_could_not_load_are_not_put_in_place(
    command: Command, published: Path, broken: str
) -> None:
    """The loader has the last word, and its line names the file of the copy."""
    copied = shutil.copytree(published, command.folder / "copied")
    (copied / broken).write_text("{}")
    done = command("--from", copied)
    assert done.returncode == 1
    assert str(copied / broken) in done.stderr.splitlines()[-1]
    assert command.held() == set()


def test_somebody_elses_checkpoint_is_left_alone(command: Command, published: Path) -> None:
    """A folder that holds a config.json of other origin is refused and not touched."""
    command.into.mkdir()
    (command.into / "config.json").write_text("mine")
    assert "did not fetch: choose another --into DIR" in command.fails("--from", published)
    assert command.held() == {"config.json"}
    assert (command.into / "config.json").read_text() == "mine"


def test_a_run_that_was_ended_while_moving_is_mended(command: Command, published: Path) -> None:
    """Files moved, config.json and the record not yet: nothing loads, and the next run finishes."""
    assert command("--from", published).returncode == 0
    staging = command.into / ".partial"
    staging.mkdir()
    for name in ("config.json", "fetched.json"):
        (command.into / name).rename(staging / name)
    assert command("--check").returncode == 1
    assert command("--from", published).returncode == 0
    assert command.held() == FETCHED


def test_two_runs_do_not_meddle(command: Command, published: Path) -> None:
    """While one run is at work, another one into the same folder ends with a line that says so."""
    staging = command.into / ".partial"
    staging.mkdir(parents=True)
    handle = os.open(staging, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "another run is fetching" in command.fails("--from", published)
    os.close(handle)
    assert command("--from", published).returncode == 0


@pytest.mark.parametrize("arguments", [["llama"], ["--check", "--from", "x"], ["--nosuch"]])
def test_a_wrong_command_line_ends_with_2(command: Command, arguments: list[str]) -> None:
    """An unknown model, two ways at once, an unknown option: argparse's line, and nothing is written."""
    done = command(*arguments)
    assert done.returncode == 2
    assert "scripts/fetch_models: error:" in done.stderr
    assert command.held() == set()


def test_help_names_models_licence_and_environment(command: Command) -> None:
    """Whoever reads --help learns what can be fetched, under which licence."""
    text = command("--help").stdout
    assert NVIDIA.name in text and "NVIDIA Open Model License" in text and "HF_HUB_OFFLINE" in text
    assert all(name in text for name in MODELS)


def test_a_failure_is_json_too(command: Command) -> None:
    """With --json a program reads the reason where it reads the result."""
    done = command("--check", "--json")
    assert done.returncode == 1
    assert "was not fetched" in json.loads(done.stdout)["error"]


def test_a_folder_that_cannot_be_made_is_said(command: Command, published: Path) -> None:
    """--into below a file: one line with the path, no traceback."""
    command.into = published / "config.json" / "below"
    assert f"cannot write {command.into}" in command.fails("--from", published)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk that holds /data/x is full"),
        (errno.EDQUOT, "the disk that holds /data/x is full"),
        (errno.EACCES, "no permission for /data/x/config.json"),
        (errno.EROFS, "no permission for /data/x/config.json"),
        (errno.EIO, "cannot write /data/x/config.json (Input/output error)"),
    ],
)
def test_what_the_file_system_refuses_is_explained(number: int, says: str) -> None:
    """Each failure has one line that ends with what to do."""
    line = explain_disk(OSError(number, os.strerror(number), "/data/x/config.json"), Path("/data/x"))
    assert line.startswith(says) and "--into DIR" in line and "\n" not in line


@dataclass
class Published:
    """A model's folder as it is once fetched, tiny, and a hub that has it."""

    model: Model
    folder: Path
    hub: Hub


def write_mf(folder: Path) -> None:
    shapes = {"P.weight": (64, 128), "text_proj.0.weight": (128, 1536), "classifier.0.weight": (1, 128)}
    save_file({name: np.ones(shape, dtype=np.float32) for name, shape in shapes.items()}, folder / WEIGHTS)


def write_sharded_causal_llm(folder: Path) -> None:
    """In four shards, as published."""
    weights: dict[str, torch.Tensor] = {}
    for shard in write_causal_llm(folder).glob("*.safetensors"):
        weights |= load_torch_file(shard)
        shard.unlink()
    write_shards(folder, weights, count=4)


@pytest.fixture(
    params=["mf", *(pytest.param(name, marks=pytest.mark.rare) for name in ("bert", "causal_llm")), "sw_ranking"]
)
def routellm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Published]:
    writers: dict[str, Callable[[Path], object]] = {
        "mf": write_mf,
        "bert": write_bert,
        "causal_llm": write_sharded_causal_llm,
        "sw_ranking": write_battles,
    }
    folder = tmp_path / "published"
    folder.mkdir()
    writers[request.param](folder)
    model = MODELS[f"routellm_{request.param}"]
    with running_hub(model, folder) as hub:
        hub.files |= {"optimizer.pt": b"not needed", "arena/battles/README.md": b"not needed"}
        yield Published(model, folder, hub)


def test_routellms_routers_are_fetched_checked_and_put_into_service(command: Command, routellm: Published) -> None:
    """Just the loader's files come, from repositories of models and of data; the last line is for scripts/serve."""
    command.environment["HF_ENDPOINT"] = routellm.hub.address
    done = command(routellm.model.name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{routellm.model.variable}={command.into} scripts/serve"
    assert "Apache License 2.0" in done.stderr
    found = {str(path.relative_to(command.into)) for path in command.into.rglob("*") if path.is_file()}
    assert found == {*routellm.model.files, "fetched.json"}
    for name in routellm.model.files:
        assert (command.into / name).read_bytes() == routellm.hub.files[name]
    assert command(routellm.model.name, "--check").returncode == 0


@pytest.mark.parametrize("routellm", [pytest.param("bert", marks=pytest.mark.rare), "sw_ranking"], indirect=True)
def test_a_branch_stays_at_the_commit_that_it_was_first_fetched_at(command: Command, routellm: Published) -> None:
    """Every file is of the commit that the hub names, which is recorded and said; so is one that is fetched later."""
    command.environment["HF_ENDPOINT"] = routellm.hub.address
    first = routellm.hub.commit
    said = command(routellm.model.name).stderr
    expected = {each.name: each.revision if each.is_pinned else first for each in routellm.model.repositories}
    assert json.loads((command.into / "fetched.json").read_text())["revisions"] == expected
    branches = [each for each in routellm.model.repositories if not each.is_pinned]
    for branch in branches:
        assert f"{branch.name}: this is commit {first} of {branch.revision}; scripts/fetching/manifest.py" in said
    assert said.count("this is commit") == len(branches) > 0

    routellm.hub.commit = "beef" * 10  # the branches move on
    routellm.hub.older.append(first)
    name = list(routellm.model.files)[-1]
    flip_byte(command.into / name)
    routellm.hub.revisions.clear()
    assert command(routellm.model.name).returncode == 0
    assert routellm.hub.revisions == {expected[routellm.model.files[name].repository.name]}


@pytest.mark.parametrize("routellm", ["mf", "sw_ranking"], indirect=True)
def test_a_copy_of_routellms_files_needs_no_network(command: Command, routellm: Published) -> None:
    """--from takes the folder that a fetch makes."""
    assert command(routellm.model.name, "--from", routellm.folder).returncode == 0
    assert routellm.hub.requests == []
    shutil.rmtree(command.into)
    name = next(iter(routellm.model.files))
    (routellm.folder / name).write_bytes((routellm.folder / name).read_bytes()[:-20])
    done = command(routellm.model.name, "--from", routellm.folder)
    assert done.returncode == 1
    assert str(routellm.folder / name) in done.stderr.splitlines()[-1]
    assert command.held() == set()


def test_the_manifest_names_commits_or_branches_and_hashes_or_none() -> None:
    """A revision is a full commit id or a branch, a hash a SHA-256 or not known; no two files have one place."""
    for name, model in MODELS.items():
        assert name == model.name
        assert len(model.files) == sum(len(repository.files) for repository in model.repositories)
        for repository in model.repositories:
            assert repository.is_pinned or repository.revision in ("main", "refs/convert/parquet")
        for file in model.files.values():
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)


@pytest.mark.slow
def test_the_full_size_loads_and_answers(command: Command, tmp_path: Path) -> None:
    """735,424,640 bytes of tensors, as published, are copied, checked, loaded and run once."""
    from classifiers.checkpoint import load_checkpoint, read_shapes
    from classifiers.network import load_network
    from classifiers.tokenizer import PromptTokenizer

    published = write_published_checkpoint(tmp_path / "published", tiny=False, sorted_keys=True)
    assert command("--from", published).returncode == 0
    assert sum(4 * math.prod(shape) for shape in read_shapes(command.into / WEIGHTS).values()) == 735_424_640
    checkpoint = load_checkpoint(command.into)
    input_ids, _ = PromptTokenizer(checkpoint).encode([b"Write a Python script that uses a for loop."])
    (logits,) = load_network(checkpoint).classify([input_ids])
    assert logits.shape == (1, 32)
    assert np.isfinite(logits).all()
    shutil.rmtree(tmp_path)  # pytest would keep 1.5 GB for each of the last three runs
