"""scripts/check_deploy: everything that deploys, checked without a cluster, and a table of what was."""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.deploying import tools
from scripts.deploying.manifests import (
    VERSIONS,
    Rendering,
    Unreadable,
    graph_manifests,
    read_manifests,
    rendered_manifests,
    scan_with_checkov,
    unexplained_skips,
    validate,
)
from scripts.deploying.tools import HELM, PYTHON, ROOT, ToolsError

CHART = ROOT / "deploy" / "helm" / "llm-router"
VALUES = ROOT / "tests" / "deploy" / "values"
DYNAMO = ROOT / "deploy" / "dynamo"
DOCKERFILES = (ROOT / "Dockerfile.triton", ROOT / "Dockerfile.gateway")
COMPOSE = tuple(ROOT / "deploy" / name for name in ("compose.yaml", "compose.gpu.yaml", "compose.observe.yaml"))
HADOLINT = Path(sys.executable).parent / "hadolint"
# The same as that of scripts/test_cluster, which builds the same images.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-router" / "cluster"


@dataclass(frozen=True)
class Outcome:
    """What a check looked at, and what it found."""

    name: str
    covered: str
    faults: Sequence[str] = ()
    left_out: str = ""
    seconds: float = 0.0

    @property
    def result(self) -> str:
        if self.left_out:
            return f"left out: {self.left_out}"
        return f"{len(self.faults)} faults" if self.faults else "ok"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        tools.install()
    except (ToolsError, OSError) as error:
        print(f"check_deploy: {error}", file=sys.stderr)
        return 1
    if options.only_tools:
        return 0
    outcomes = check_everything(images=not options.without_images)
    print_table(outcomes)
    faults = [f"{outcome.name}: {fault}" for outcome in outcomes for fault in outcome.faults]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="scripts/check_deploy",
        description="Checks the chart, Dynamo's graphs, the Dockerfiles and the compose file, without a cluster, and "
        f"builds the images. Its tools are installed into {tools.FOLDER.relative_to(ROOT)} once.",
        epilog="Exit code: 0, or 1 when something was found.",
    )
    root.add_argument(
        "--without-images", action="store_true", help="build no images, which takes root, Debian 12 and some minutes"
    )
    root.add_argument("--only-tools", action="store_true", help="only install the tools")
    return root


def check_everything(images: bool) -> list[Outcome]:
    values = sorted(VALUES.glob("*.yaml"))
    with tempfile.TemporaryDirectory(prefix="check-deploy-") as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        lint = pool.submit(timed, lambda: check_lint(values))
        dockerfiles = pool.submit(timed, lambda: check_dockerfiles(Path(folder)))
        compose = pool.submit(timed, check_compose)
        template, renderings = render_everything(values, Path(folder))
        checkov = pool.submit(timed, lambda: check_renderings(renderings))
        manifests = timed(lambda: check_manifests(renderings))
        graphs = timed(check_graphs)
        outcomes = [
            lint.result(),
            template,
            manifests,
            checkov.result(),
            graphs,
            dockerfiles.result(),
            compose.result(),
        ]
    return [*outcomes, timed(check_images) if images else Outcome("images", "", left_out="--without-images")]


def timed(check: Callable[[], Outcome]) -> Outcome:
    begin = time.monotonic()
    outcome = check()
    return Outcome(outcome.name, outcome.covered, outcome.faults, outcome.left_out, time.monotonic() - begin)


# The chart.


def check_lint(values: Sequence[Path]) -> Outcome:
    faults = []
    for file in values:
        done = run([str(HELM), "lint", "--strict", "--quiet", str(CHART), "--values", str(file)])
        if done.returncode:
            faults += [f"{file.name}: {line}" for line in lines(done.stdout + done.stderr)]
    return Outcome("helm lint", f"{len(values)} values files, --strict", faults or missing(values, "values file"))


def render_everything(values: Sequence[Path], folder: Path) -> tuple[Outcome, list[Rendering]]:
    """Every values file for the oldest and the newest Kubernetes."""
    begin = time.monotonic()
    wanted = [
        Rendering(file.stem, version, folder / f"{file.stem}-{version}.yaml") for file in values for version in VERSIONS
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = [
            fault for found in pool.map(render, wanted, [file for file in values for _ in VERSIONS]) for fault in found
        ]
    covered = f"{len(wanted)} renderings, Kubernetes {' and '.join(VERSIONS)}"
    rendered = [rendering for rendering in wanted if rendering.file.exists()]
    return Outcome("helm template", covered, faults, seconds=time.monotonic() - begin), rendered


def render(rendering: Rendering, values: Path) -> list[str]:
    crds = ("monitoring.coreos.com/v1", "keda.sh/v1alpha1", "gateway.networking.k8s.io/v1", "route.openshift.io/v1")
    command = [str(HELM), "template", "llm-router", str(CHART), "--namespace=llm-router", f"--values={values}"]
    done = run([*command, f"--kube-version={rendering.version}", *(f"--api-versions={crd}" for crd in crds)])
    if done.returncode:
        return [f"{rendering.name} for Kubernetes {rendering.version}: {line}" for line in lines(done.stderr)]
    rendering.file.write_text(done.stdout)
    return []


def check_manifests(renderings: Sequence[Rendering]) -> Outcome:
    try:
        manifests = [manifest for rendering in renderings for manifest in rendered_manifests(rendering)]
    except Unreadable as error:
        return Outcome("manifests", "", [str(error)])
    faults = validate(manifests) or missing(manifests, "manifest")
    return Outcome("manifests", f"{len(manifests)} of the chart, by kubernetes-validate and CRDs", faults)


def check_renderings(renderings: Iterable[Rendering]) -> Outcome:
    newest = [rendering for rendering in renderings if rendering.version == VERSIONS[-1]]
    if not newest:
        return Outcome("checkov", "", missing(newest, "rendering"))
    faults = scan_with_checkov(newest[0].file.parent, "kubernetes", f"*-{VERSIONS[-1]}.yaml")
    return Outcome("checkov", f"{len(newest)} renderings", [*faults, *unexplained_skips(newest)])


# What stands for itself.


def check_graphs() -> Outcome:
    files = sorted(DYNAMO.glob("*.yaml"))
    try:
        documents = [(file.name, document) for file in files for document in read_manifests(file)]
    except Unreadable as error:
        return Outcome("Dynamo graphs", "", [str(error)])
    faults = validate(graph_manifests(documents)) or missing(documents, "graph")
    covered = f"{len(files)} files by the CRD, pods by kubernetes-validate"
    return Outcome("Dynamo graphs", covered, faults)


def check_dockerfiles(folder: Path) -> Outcome:
    done = run([str(HADOLINT), "--no-color", "--strict-labels", *map(str, DOCKERFILES)])
    faults = [f"hadolint: {line}" for line in lines(done.stdout + done.stderr)] if done.returncode else []
    copies = folder / "dockerfiles"
    copies.mkdir()
    for file in DOCKERFILES:
        (copies / file.name).write_text(file.read_text())
    faults += scan_with_checkov(copies, "dockerfile", "Dockerfile.*")
    return Outcome("Dockerfiles", f"{len(DOCKERFILES)} by hadolint and checkov", faults)


def check_compose() -> Outcome:
    command = [str(PYTHON), "-m", "check_jsonschema", "--builtin-schema=vendor.compose-spec", "--color=never"]
    done = run([*command, *map(str, COMPOSE)])
    faults = lines(done.stdout + done.stderr) if done.returncode else []
    return Outcome("compose", f"{len(COMPOSE)} files by the Compose Specification", faults)


def check_images() -> Outcome:
    covered = ", ".join(file.name for file in DOCKERFILES) + " on stand-ins for their base images"
    folder = CACHE / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return Outcome("images", covered, [f"another one is building them: {CACHE / 'lock'} is held"])
        done = run([str(ROOT / "scripts" / "cluster" / "build-images"), str(folder)])
    return Outcome("images", covered, lines(done.stderr)[-20:] if done.returncode else [])


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def missing(found: Sequence[object], what: str) -> list[str]:
    """A check that looks at nothing finds nothing."""
    return [] if found else [f"there is no {what} to look at"]


def print_table(outcomes: Sequence[Outcome]) -> None:
    width = max(len(outcome.name) for outcome in outcomes)
    results = max(len(outcome.result) for outcome in outcomes)
    for outcome in outcomes:
        seconds = f"{outcome.seconds:5.1f} s" if outcome.seconds else " " * 7
        print(f"{outcome.name:{width}}  {outcome.result:{results}}  {seconds}  {outcome.covered}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
