"""Manifests of Kubernetes: reading them, and having them looked at by those who know how they should be."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.deploying.tools import PYTHON, ROOT

VERSIONS = ("1.25", "1.37")  # of Kubernetes: the oldest that we say we support, and the newest
_CRDS = ROOT / "tests" / "deploy"
_VALIDATOR = Path(__file__).with_name("validate_manifests.py")

Document = Mapping[str, Any]


class Unreadable(Exception):
    """One line: the file, and why it holds no manifests."""


@dataclass(frozen=True)
class Rendering:
    """What the chart makes of a values file for a version of Kubernetes."""

    name: str
    version: str
    file: Path


@dataclass(frozen=True)
class Manifest:
    """A document to validate, and what to call its source."""

    source: str
    version: str
    manifest: Document


def read_manifests(file: Path) -> list[Document]:
    """The documents of a file. Raises Unreadable."""
    try:
        documents = [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
    except yaml.YAMLError as error:
        raise Unreadable(f"{file.name}: {' '.join(str(error).split())}") from error
    for document in documents:
        if not isinstance(document, dict) or not {"apiVersion", "kind", "metadata"} <= set(document):
            raise Unreadable(f"{file.name}: a document without apiVersion, kind or metadata")
    return documents


def rendered_manifests(rendering: Rendering) -> Iterator[Manifest]:
    for document in read_manifests(rendering.file):
        yield Manifest(rendering.name, rendering.version, document)


def graph_manifests(documents: Iterable[tuple[str, Document]]) -> Iterator[Manifest]:
    """Each document for each version, and each component's podTemplate as what it is."""
    for source, document in documents:
        for version in VERSIONS:
            yield Manifest(source, version, document)
            for component in document.get("spec", {}).get("components", []):
                metadata = {"name": f"{document['metadata']['name']}.{component.get('name')}"}
                template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata}
                yield Manifest(source, version, template | {"template": component.get("podTemplate", {})})


def validate(manifests: Iterable[Manifest]) -> tuple[list[str], list[str]]:
    """What is wrong with them, and the kinds that there is no schema for."""
    crds = [document for file in sorted(_CRDS.glob("crd-*.yaml")) for document in read_manifests(file)]
    given = {"crds": crds, "manifests": [vars(manifest) for manifest in manifests]}
    done = subprocess.run([PYTHON, "-I", _VALIDATOR], input=json.dumps(given), capture_output=True, text=True)
    if done.returncode:
        return [f"the validator failed: {done.stderr.strip().splitlines()[-1]}"], []
    answer = json.loads(done.stdout)
    return answer["faults"], answer["unknown"]


def scan_with_checkov(folder: Path, framework: str, pattern: str) -> list[str]:
    """The failed checks for the files of `folder`."""
    files = [option for file in sorted(folder.glob(pattern)) for option in ("--file", str(file))]
    command = [
        str(PYTHON),
        "-m",
        "checkov.main",
        "--framework",
        framework,
        "--skip-download",
        "--output",
        "json",
        *files,
    ]
    done = subprocess.run([*command, "--quiet", "--compact"], capture_output=True, text=True)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return [f"checkov failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"]
    if "results" not in answer:
        return ["checkov looked at nothing"]
    results = answer["results"]
    failed = [
        f"{each['check_id']} {each['check_name']}: {each['resource']} ({Path(each['file_path']).name})"
        for each in results["failed_checks"]
    ]
    return failed + [f"checkov cannot read {file}" for file in results.get("parsing_errors", [])]


def unexplained_skips(renderings: Iterable[Rendering]) -> list[str]:
    """Checks that a manifest switches off without saying why."""
    faults = []
    for rendering in renderings:
        for document in read_manifests(rendering.file):
            faults += [f"{rendering.name}: {document['kind']}: {fault}" for fault in _unexplained(document)]
    return faults


def _unexplained(document: Document) -> Sequence[str]:
    annotations = document["metadata"].get("annotations") or {}
    skips = [value for key, value in annotations.items() if key.startswith("checkov.io/skip")]
    return [f"{skip} is not explained" for skip in skips if not skip.partition("=")[2].strip()]
