"""deploy/dynamo: the graphs have what the router's configuration names, and no two models share an endpoint."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy" / "dynamo").glob("*.yaml"))
REAL = [file for file in FILES if file.stem not in ("frontend", "mockers")]


def graphs(*files: Path) -> list[dict[str, Any]]:
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    return [document for document in documents if document["kind"] == "DynamoGraphDeployment"]


def components(graph: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = graph["spec"]["components"]
    return found


def main_container(component: dict[str, Any]) -> dict[str, Any]:
    (container,) = component["podTemplate"]["spec"]["containers"]
    assert container["name"] == "main"
    found: dict[str, Any] = container
    return found


def models(graph: dict[str, Any]) -> set[str]:
    """The names that its workers serve."""
    words = [word for component in components(graph) for word in main_container(component).get("args", [])]
    return {match[1] for word in words if (match := re.fullmatch(r"--(?:served-)?model-name=(.+)", word))}


def configured_models() -> set[str]:
    config = yaml.safe_load((ROOT / "deploy" / "router-config-dynamo.yaml").read_text())
    return {llm["model"] for policy in config["policies"] for llm in policy["llms"]}


@pytest.mark.parametrize("files", [[ROOT / "deploy" / "dynamo" / "mockers.yaml"], REAL], ids=["mockers", "models"])
def test_every_model_that_is_routed_to_is_served(files: list[Path]) -> None:
    """The mockers serve the default configuration's models and no other; the real graphs also the strong and weak."""
    served = set().union(*map(models, graphs(*files)))
    others = set() if files != REAL else {"gpt-oss-120b", "gpt-oss-20b"}
    assert served == configured_models() | others


def test_a_graph_serves_one_model() -> None:
    """Workers of two models in one graph would share an endpoint and answer for each other."""
    for graph in graphs(*REAL, ROOT / "deploy" / "dynamo" / "mockers.yaml"):
        assert len(models(graph)) == 1, graph["metadata"]["name"]
        assert not any(component.get("globalDynamoNamespace") for component in components(graph))


def test_names_are_given_once() -> None:
    """All files can be applied to one namespace; component names differ whatever their case."""
    names = [graph["metadata"]["name"] for graph in graphs(*FILES)]
    assert len(names) == len(set(names))
    for graph in graphs(*FILES):
        own = [component["name"].lower() for component in components(graph)]
        assert len(own) == len(set(own))


def test_the_frontend_sees_every_graph_and_is_reachable_from_the_router_alone() -> None:
    """It is global, and a NetworkPolicy selects its pods by the operator's label."""
    file = ROOT / "deploy" / "dynamo" / "frontend.yaml"
    (graph,) = graphs(file)
    (frontend,) = components(graph)
    assert (frontend["type"], frontend["globalDynamoNamespace"]) == ("frontend", True)
    (policy,) = (document for document in yaml.safe_load_all(file.read_text()) if document["kind"] == "NetworkPolicy")
    name = graph["metadata"]["name"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"nvidia.com/dynamo-graph-deployment-name": name}
    readme = (file.parent / "README.md").read_text()
    assert f"http://{name}-{frontend['name']}." in readme
    assert f"service/{name}-{frontend['name']} " in readme


def test_containers_have_no_privileges_and_one_release() -> None:
    """A numbered user, nothing to gain, secrets by reference only, and one image tag, by which the operator goes."""
    tags = set()
    for graph in graphs(*FILES):
        for component in components(graph):
            container = main_container(component)
            tags.add(container["image"].rpartition(":")[2])
            security = container["securityContext"]
            assert security["runAsNonRoot"] and security["runAsUser"] > 0
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "env" not in container
    assert tags == {"1.6.1"}


def test_the_charts_default_address_is_there() -> None:
    """Its host and port are a Service of frontend.yaml, in the namespace that the README makes."""
    address = yaml.safe_load((ROOT / "deploy" / "helm" / "llm-router" / "values.yaml").read_text())["dynamo"][
        "api_base"
    ]
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "dynamo" / "frontend.yaml").read_text()))
    (service,) = (each for each in documents if each["kind"] == "Service")
    (port,) = service["spec"]["ports"]
    assert address == f"http://{service['metadata']['name']}.dynamo-cloud.svc.cluster.local:{port['port']}"
    assert service["spec"]["selector"] == {
        "nvidia.com/dynamo-graph-deployment-name": graphs(ROOT / "deploy" / "dynamo" / "frontend.yaml")[0]["metadata"][
            "name"
        ]
    }
    assert "kubectl create namespace dynamo-cloud" in (ROOT / "deploy" / "dynamo" / "README.md").read_text()
