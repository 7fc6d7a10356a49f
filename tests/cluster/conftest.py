"""A cluster for the whole run, with the images of this checkout; see scripts/test_cluster, which starts this."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from scripts.cluster.node import Node
from tests.gateway.client import eventually

ROOT = Path(__file__).parents[2]
_ROWS = pytest.StashKey[list[tuple[str, str]]]()


@dataclass(frozen=True)
class Cluster:
    """What a person at a terminal has: kubectl and helm."""

    kubeconfig: Path

    def run(self, *words: str, stdin: str | None = None, ok: bool = True) -> str:
        """What the command printed. Fails when it did, unless that is not `ok`: then when it did not."""
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, env=os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        )
        assert (done.returncode == 0) == ok, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if ok else done.stderr

    def kubectl(self, *words: str, stdin: str | None = None, ok: bool = True) -> str:
        return self.run("kubectl", *words, stdin=stdin, ok=ok)

    def helm(self, *words: str, ok: bool = True) -> str:
        return self.run("helm", *words, ok=ok)

    def apply(self, *manifests: Any) -> None:
        self.kubectl("apply", "-f", "-", stdin="---\n".join(json.dumps(each) for each in manifests))

    def get(self, *words: str) -> Any:
        """An object, or a list's items."""
        found = json.loads(self.kubectl("get", *words, "--output=json"))
        return found["items"] if found["kind"] == "List" else found

    def wait(self, happened: Callable[[], bool], seconds: float = 120.0) -> None:
        assert eventually(happened, seconds), self.kubectl("get", "pods,events", "--all-namespaces")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A node that is Ready, and nothing on it."""
    if "CLUSTER_CACHE" not in os.environ:
        pytest.fail("run scripts/test_cluster: it makes the images and namespaces that this needs")
    cache = Path(os.environ["CLUSTER_CACHE"])
    images = sorted((cache / "images" / "tar").glob("*.tar"))
    node = Node(cache / "run", cache / "kubernetes" / "bin", images)
    try:
        node.start()
        yield Cluster(node.kubeconfig)
    finally:
        node.stop()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line to the table of the end: the test's name, and what was seen."""

    def add(seen: str) -> None:
        request.config.stash[_ROWS].append((request.node.name.removeprefix("test_").replace("_", " "), seen))

    return add


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash[_ROWS]:
        terminalreporter.section("on a real Kubernetes")
        width = max(len(name) for name, _ in rows)
        for name, seen in rows:
            terminalreporter.write_line(f"{name:<{width}}  {seen}")
