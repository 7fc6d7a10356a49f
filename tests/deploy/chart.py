"""The chart as helm renders it, and what tests ask of a manifest."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.deploying import tools

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "llm-router"
VALUES = Path(__file__).parent / "values"
SETS = sorted(path.stem for path in VALUES.glob("*.yaml"))

Manifest = dict[str, Any]


@functools.cache
def find_helm() -> str:
    """The one that HELM names, else the one of scripts/check_deploy, which is installed where it is missing."""
    if named := os.environ.get("HELM"):
        return named
    tools.install()
    return str(tools.HELM)


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([find_helm(), *arguments], capture_output=True, text=True, timeout=60)


def template(values: Sequence[str | Path], release: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`helm template`; of `values` a path is a file, and a string sets one key."""
    given = [option for value in values for option in (("--values" if isinstance(value, Path) else "--set", value))]
    return helm("template", release, CHART, "--namespace", "llms", *given, *options)


@functools.cache
def rendered(
    name: str = "defaults", *settings: str, release: str = "llm-router", options: tuple[str, ...] = ()
) -> tuple[Manifest, ...]:
    """The manifests of a file of values and some keys set besides."""
    done = template([VALUES / f"{name}.yaml", *settings], release, *options)
    assert done.returncode == 0, done.stderr
    return tuple(manifest for manifest in yaml.safe_load_all(done.stdout) if manifest)


def refusal(*values: str | Path) -> str:
    """What helm says about values that it does not take."""
    done = template(values, "llm-router")
    assert done.returncode != 0, "nothing was refused"
    return done.stderr


def of_kind(manifests: Sequence[Manifest], kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def only(manifests: Sequence[Manifest], kind: str, ending: str = "") -> Manifest:
    """The one manifest of a kind whose name ends so."""
    (found,) = (each for name, each in of_kind(manifests, kind).items() if name.endswith(ending))
    return found


def pod_specs(manifests: Sequence[Manifest]) -> Iterator[tuple[str, dict[str, str], Manifest]]:
    """Of every pod: a name, its labels and its spec."""
    for each in manifests:
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]
            yield each["metadata"]["name"], pod["metadata"]["labels"], pod["spec"]
        elif each["kind"] == "Pod":
            yield each["metadata"]["name"], each["metadata"]["labels"], each["spec"]


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def server(manifests: Sequence[Manifest]) -> tuple[Manifest, Manifest]:
    """Triton's pod and its main container."""
    spec = only(manifests, "Deployment", "-router-server")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def gateway(manifests: Sequence[Manifest]) -> tuple[Manifest, Manifest]:
    """The gateway's pod and its container."""
    spec = only(manifests, "Deployment", "-router-controller")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def variables(container: Manifest) -> dict[str, str]:
    """The variables that have a value."""
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def mounts(container: Manifest) -> dict[str, Manifest]:
    return {each["name"]: each for each in container["volumeMounts"]}


def volumes(spec: Manifest) -> dict[str, Manifest]:
    return {each["name"]: each for each in spec["volumes"]}


def config_text(manifests: Sequence[Manifest]) -> str:
    text: str = only(manifests, "ConfigMap", "-router-controller-config")["data"]["config.yaml"]
    return text


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()
