"""scripts/check_deploy: what is wrong is found, by the real tools."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.deploying import check, tools
from scripts.deploying.manifests import (
    VERSIONS,
    Manifest,
    Rendering,
    Unreadable,
    graph_manifests,
    read_manifests,
    scan_with_checkov,
    unexplained_skips,
    validate,
)

GRAPH = read_manifests(check.DYNAMO / "llama-3-1-8b-instruct.yaml")[0]
MONITOR = yaml.safe_load("""
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: a}
spec: {selector: {matchLabels: {app: a}}, endpoints: [{port: metrics}]}
""")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    tools.install()


def changed(document: Any, change: Callable[[Any], None]) -> Any:
    document = copy.deepcopy(document)
    change(document)
    return document


def component(graph: Any) -> Any:
    return graph["spec"]["components"][0]


def pod(graph: Any) -> Any:
    return component(graph)["podTemplate"]["spec"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda graph: component(graph).update(type="proxy"), "'proxy' is not one of"),
        (lambda graph: component(graph).update(dynamoNamespace="a"), "'dynamoNamespace' was unexpected"),
        (lambda graph: component(graph).pop("name"), "'name' is a required property"),
        (lambda graph: component(graph).update(replicas=-1), "less than the minimum"),
        (lambda graph: pod(graph).pop("containers"), "'containers' is a required property"),
        (lambda graph: pod(graph).update(tolerate=[]), "'tolerate' was unexpected"),
        (lambda graph: pod(graph)["containers"][0].update(command="python3"), "'python3' is not of type"),
    ],
)
def test_a_wrong_graph_is_found(change: Callable[[Any], None], says: str) -> None:
    """By the CRD's schema what is Dynamo's, by Kubernetes' own what is in the pod; the graph as it stands is right."""
    assert validate(graph_manifests([("graph", GRAPH)])) == []
    faults = validate(graph_manifests([("graph", changed(GRAPH, change))]))
    assert len(faults) == len(VERSIONS)
    assert all(says in fault and fault.startswith("graph, Kubernetes 1.") for fault in faults)


def test_a_wrong_custom_resource_is_found() -> None:
    """By its operator's schema, in which a field that nobody knows is a fault."""
    wrong = changed(MONITOR, lambda monitor: monitor["spec"]["endpoints"][0].update(every="5s"))
    assert validate([Manifest("values", "1.37", MONITOR)]) == []
    (fault,) = validate([Manifest("values", "1.37", wrong)])
    assert "'every' was unexpected" in fault


def test_a_kind_without_a_schema_is_found() -> None:
    """Rather than taken for right: a resource of nobody's, and an API that this Kubernetes has no more."""
    unheard = {"apiVersion": "example.com/v1", "kind": "Unheard", "metadata": {"name": "a"}}
    budget = {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}}
    faults = validate([Manifest("values", "1.25", unheard), Manifest("values", "1.25", budget)])
    assert faults == [
        "values, Kubernetes 1.25: Unheard a: no schema for example.com/v1",
        "values, Kubernetes 1.25: PodDisruptionBudget a: no schema for policy/v1beta1",
    ]


def test_a_privileged_pod_is_found_and_a_skip_needs_a_reason(tmp_path: Path) -> None:
    """Checkov's failures are faults; those that a manifest switches off are, unless it says why."""
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {}}}
    manifest |= {"spec": {"containers": [{"name": "a", "image": "a", "securityContext": {"privileged": True}}]}}
    file = tmp_path / "values-1.37.yaml"
    file.write_text(yaml.safe_dump(manifest))
    assert any("CKV_K8S_16 " in fault for fault in scan_with_checkov(tmp_path, "kubernetes", "*.yaml"))
    for skip, explained in {"CKV_K8S_16=a reason": True, "CKV_K8S_16": False, "CKV_K8S_16= ": False}.items():
        manifest["metadata"] = {"name": "a", "annotations": {"checkov.io/skip1": skip}}
        file.write_text(yaml.safe_dump(manifest))
        assert (unexplained_skips([Rendering("values", "1.37", file)]) == []) == explained
    assert not any("CKV_K8S_16 " in fault for fault in scan_with_checkov(tmp_path, "kubernetes", "*.yaml"))


def test_a_wrong_dockerfile_and_a_wrong_compose_file_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hadolint and checkov, and by the Compose Specification's schema."""
    dockerfile = tmp_path / "Dockerfile.wrong"
    dockerfile.write_text("FROM debian\nRUN cd /tmp\n")
    monkeypatch.setattr(check, "DOCKERFILES", (dockerfile,))
    (tmp_path / "copies").mkdir()
    faults = check.check_dockerfiles(tmp_path / "copies").faults
    assert any("DL3006" in fault for fault in faults) and any("CKV_DOCKER_3 " in fault for fault in faults)
    compose = tmp_path / "compose.yaml"
    compose.write_text((tools.ROOT / "deploy" / "compose.yaml").read_text().replace("read_only", "read_onyl"))
    monkeypatch.setattr(check, "COMPOSE", (compose,))
    assert any("read_onyl" in fault for fault in check.check_compose().faults)


@pytest.mark.parametrize("text", ["a: [", "- a", "a: b"])
def test_what_is_no_manifest_is_a_line(tmp_path: Path, text: str) -> None:
    """With the file's name."""
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(Unreadable, match=r"^a\.yaml: [^\n]+$"):
        read_manifests(file)


def test_a_check_that_looks_at_nothing_is_a_fault() -> None:
    """No values file, no rendering: a path that has moved is not a chart without faults."""
    assert check.check_lint([]).faults and check.check_manifests([]).faults and check.check_renderings([]).faults
