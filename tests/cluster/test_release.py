"""A release's life, in this order: installed, asked, updated, broken, changed, removed. Requests never fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from scripts.local.process import ask
from tests.cluster.conftest import ROOT, Cluster
from tests.conftest import MODELS
from tests.reliability.load import Load

pytestmark = pytest.mark.cluster

CHART = str(ROOT / "deploy" / "helm" / "llm-router")
VALUES = str(Path(__file__).parent / "values.yaml")
SPACE = "llm-router"
SERVER = "app.kubernetes.io/component=router-server"
GATEWAY = "app.kubernetes.io/component=router-controller"
Row = Callable[[str], None]

VOLUME = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "metadata": {"name": "models"},
    "spec": {
        "capacity": {"storage": "100Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "nodeAffinity": {
            "required": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}]}
                ]
            }
        },
    },
}
# As the guide makes it.
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "router-models-pvc", "namespace": SPACE},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}},
}


@pytest.fixture(scope="module", autouse=True)
def surroundings(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the guide has before the chart: Dynamo, namespace, secret, an empty volume."""
    disk = tmp_path_factory.mktemp("disk")
    cluster.kubectl("create", "namespace", "dynamo-cloud")
    cluster.kubectl("create", "namespace", SPACE)
    cluster.apply(*_dynamo("dynamo-llm-service", "dynamo-cloud"))
    cluster.kubectl("rollout", "status", "deployment/dynamo-llm-service", "-n", "dynamo-cloud", "--timeout=3m")
    cluster.apply(VOLUME | {"spec": VOLUME["spec"] | {"local": {"path": str(disk)}}}, CLAIM)  # type: ignore[operator]
    cluster.kubectl("create", "secret", "generic", "dynamo-api-secret", "--from-literal=DYNAMO_API_KEY=", "-n", SPACE)


def _dynamo(name: str, namespace: str) -> list[dict[str, Any]]:
    """A Deployment of the demo Dynamo and its Service, as the guide calls it, on port 8080."""
    labels = {"app": name}
    container = {
        "name": "main",
        "image": "localhost/dynamo-demo:dev",
        "imagePullPolicy": "Never",
        "args": ["8080", *MODELS],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 2},
    }
    metadata = {"name": name, "namespace": namespace}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    service = {"selector": labels, "ports": [{"port": 8080}]}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]


def _upgrade(*words: str) -> list[str]:
    return ["upgrade", "--install", "llm-router", CHART, "--namespace", SPACE, "--values", VALUES, *words]


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    """The gateway's Service."""
    service = cluster.get("service", "llm-router-router-controller", "-n", SPACE)
    return f"http://{service['spec']['clusterIP']}:8084"


def test_install(cluster: Cluster, row: Row) -> None:
    """`helm upgrade --install --wait` on an empty volume ends well: it is filled, and all pods are ready."""
    began = time.monotonic()
    printed = cluster.helm(*_upgrade("--wait", "--timeout=10m"))
    assert "port-forward" in printed  # the notes
    for deployment, count in (("llm-router-router-server", 2), ("llm-router-router-controller", 2)):
        assert cluster.get("deployment", deployment, "-n", SPACE)["status"]["readyReplicas"] == count
    row(f"{time.monotonic() - began:.0f} s")


def test_request(url: str, row: Row) -> None:
    """A request through the Service is classified and answered by the model of its label, whole and as a stream."""
    with OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        for stream in (False, True):
            answer = client.chat.completions.with_raw_response.create(
                model="",
                messages=[{"role": "user", "content": "Write a Python function to sort a list"}],
                max_tokens=8,
                stream=stream,
                extra_body={"nim-llm-router": {"policy": "task_router"}},
            )
            assert answer.headers["x-chosen-classifier"] == "Code Generation"
            assert answer.headers["x-routellm-routed-model"] == "llama-3.3-nemotron-super-49b-v1"
            assert answer.headers["x-router-reason"] in ("decided", "cached")
            parsed: Any = answer.parse()
            last = list(parsed)[-1] if stream else parsed
            assert last.choices[0].finish_reason
    row(f"{answer.headers['x-chosen-classifier']} -> {answer.headers['x-routellm-routed-model']}")


def test_names_of_the_guide(cluster: Cluster, row: Row) -> None:
    """The guide's port-forwards reach the gateway: to the controller's 8084, and to svc/llm-router's 8000."""
    for service, port in (("llm-router-router-controller", 8084), ("llm-router", 8000)):
        with _forwarded(cluster, f"svc/{service}", port) as local:
            status, body = ask(f"{local}/health", 30)
            assert (status, json.loads(body)) == (200, {"status": "OK"})
    row('both answer {"status": "OK"}')


@contextmanager
def _forwarded(cluster: Cluster, what: str, port: int) -> Iterator[str]:
    command = ["kubectl", f"--kubeconfig={cluster.kubeconfig}", "port-forward", what, f":{port}", "-n", SPACE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield "http://" + line.removeprefix("Forwarding from ").partition(" ")[0]
        finally:
            process.terminate()


def test_commands_of_the_guide(cluster: Cluster, row: Row) -> None:
    """The commands by which docs/DEPLOY.md looks into pods say what they should."""
    gateway, server = (f"deployment/llm-router-{each}" for each in ("router-controller", "router-server"))
    check = ("python", "-m", "gateway", "check", "--online", "/app/config.yaml")
    cluster.kubectl("exec", gateway, "-n", SPACE, "--", *check)
    seeded = cluster.kubectl("logs", "-n", SPACE, server, "--container", "seed")
    assert "seed: router_ensemble: copied" in seeded or "seed: router_ensemble: there already" in seeded
    started = cluster.kubectl("logs", "-n", SPACE, server)
    assert "start: loading complexity_router_ensemble, router_ensemble, task_router_ensemble" in started
    assert '"path": "/v1/chat/completions"' in cluster.kubectl("logs", "-n", SPACE, "-l", GATEWAY, "--tail=100")
    row("all as written")


def test_model_control(cluster: Cluster, row: Row) -> None:
    """Triton's Service loads models for nobody without the pod's token."""
    address = cluster.get("service", "llm-router-router-server", "-n", SPACE)["spec"]["clusterIP"]
    status, body = ask(f"http://{address}:8000/v2/repository/models/router_ensemble/unload", 30, b"{}")
    assert status == 403
    row(f"{status}: {json.loads(body)['error']}")


def test_helm_test(cluster: Cluster, row: Row) -> None:
    """`helm test` asks the gateway and Triton from pods of its own, and all succeed."""
    printed = cluster.helm("test", "llm-router", "--namespace", SPACE, "--timeout=3m")
    assert printed.count("Succeeded") >= 2 and "Failed" not in printed
    row(f"{printed.count('Succeeded')} succeeded")


@contextmanager
def _load(url: str, row: Row, clients: int = 4) -> Iterator[Load]:
    """Requests without a pause worth the name, none of which fails."""
    with Load(url, clients=clients) as load:
        load.wait(lambda: len(load.outcomes) >= 20)
        yield load
        enough = len(load.outcomes) + 20
        load.wait(lambda: len(load.outcomes) >= enough)
    failed = [each for each in load.outcomes if each.end != "answered"]
    assert not failed, failed[:3]
    ends = ", ".join(f"{count} {reason}" for (_, reason, _), count in load.counts().most_common())
    row(f"{load.sent} requests meanwhile, {len(failed)} failed ({ends})")


def _push(cluster: Cluster, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report of scripts/push_models."""
    command = [sys.executable, "-m", "scripts.pushing.push", "--json", "--namespace", SPACE, *words]
    environ = {"KUBECONFIG": str(cluster.kubeconfig), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environ)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def next_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint under another name: told apart by what it answers as `checkpoint`."""
    folder = tmp_path_factory.mktemp("next") / "checkpoint"
    shutil.copytree(ROOT / "classifiers" / "embedded", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"name": "next"}))
    return folder


def test_copy(cluster: Cluster, url: str, row: Row, next_checkpoint: Path) -> None:
    """`kubectl cp` into the volume, through the guide's uploader pod, changes nothing that is served."""
    mount = {"name": "models", "mountPath": "/models"}
    container = {
        "name": "uploader",
        "image": "localhost/llm-router-server:dev",
        "imagePullPolicy": "Never",
        "command": ["sleep", "3600"],
        "volumeMounts": [mount],
    }
    claim = {"name": "models", "persistentVolumeClaim": {"claimName": "router-models-pvc"}}
    spec = {"containers": [container], "volumes": [claim], "terminationGracePeriodSeconds": 0}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "model-uploader", "namespace": SPACE}, "spec": spec}
    with _load(url, row):
        cluster.apply(pod)
        cluster.kubectl("wait", "--for=condition=ready", "pod/model-uploader", "-n", SPACE, "--timeout=60s")
        cluster.kubectl("cp", str(next_checkpoint), f"{SPACE}/model-uploader:/models/routers/copied")
        listed = cluster.kubectl("exec", "model-uploader", "-n", SPACE, "--", "ls", "/models/routers/copied")
        assert "adapters.safetensors" in listed
        cluster.kubectl("exec", "model-uploader", "-n", SPACE, "--", "rm", "-r", "/models/routers/copied")
        cluster.kubectl("delete", "pod", "model-uploader", "-n", SPACE)
    assert set(_checkpoints(url)) == {"minilm-task-complexity"}


def test_push(cluster: Cluster, url: str, row: Row, next_checkpoint: Path) -> None:
    """`scripts/push_models` brings version 2 to both replicas under load; afterwards all answers are its."""
    with _load(url, row):
        code, report = _push(cluster, str(next_checkpoint))
        assert code == 0, report
    assert report["version"] == 2 and len(report["replicas"]) == 2
    assert {each["checkpoint"].split(":")[0] for each in report["replicas"].values()} == {"next"}
    assert set(_checkpoints(url)) == {"next"}


def _checkpoints(url: str) -> list[str]:
    """The names of the checkpoints that 12 decisions are by; replicas take turns."""
    found = []
    for number in range(12):
        body = {"messages": [{"role": "user", "content": f"How many are {number} apples and {time.time_ns()} pears?"}]}
        status, answer = ask(f"{url}/v1/route", 30, json.dumps(body).encode())
        assert status == 200
        found.append(json.loads(answer)["checkpoint"].split(":")[0])
    return found


# Each is a bad end of a model.py, in the container, and none where the push tries it first.
_IN_THE_CLUSTER = 'import pathlib\n\nif pathlib.Path("/opt/router").exists():\n'
_BAD = {
    "fails to load": '    raise RuntimeError("broken")\n',
    "answers wrongly": """\
    right = PromptClassification.answers

    def wrong(self, prompts, wanted):  # every prompt is taken for a greeting
        return right(self, [[b"Hello! How are you?"] * len(rows) for rows in prompts], wanted)

    PromptClassification.answers = wrong
""",
}


@pytest.mark.parametrize("what", _BAD)
def test_bad_version(cluster: Cluster, url: str, row: Row, tmp_path: Path, next_checkpoint: Path, what: str) -> None:
    """A version that is bad in the cluster alone is taken back on every replica, under load."""
    source = tmp_path / "prompt_classifier"
    shutil.copytree(ROOT / "model_repository" / "prompt_classifier", source)
    model = source / "1" / "model.py"
    model.write_text(model.read_text() + _IN_THE_CLUSTER + _BAD[what])
    with _load(url, row):
        code, report = _push(cluster, str(source))
        assert code == 1, report
        row(f"{what}: {report['error']}")
    assert set(_checkpoints(url)) == {"next"}


def test_rollback(cluster: Cluster, url: str, row: Row) -> None:
    """`--rollback` brings the version before back on both replicas, under load."""
    with _load(url, row):
        code, report = _push(cluster, "--rollback", "prompt_classifier")
        assert code == 0, report
    assert set(_checkpoints(url)) == {"minilm-task-complexity"}


def test_compared_push(cluster: Cluster, url: str, row: Row, next_checkpoint: Path, tmp_path: Path) -> None:
    """`--compare` asks the served version and the new one beside it, and promotes one that agrees, under load."""
    prompts = tmp_path / "prompts.jsonl"
    questions = ("Write a Python function that adds", "Summarize a text about", "Who invented")
    lines = [json.dumps({"prompt": f"{question} {number}"}) for question in questions for number in range(10)]
    prompts.write_text("\n".join(lines))
    with _load(url, row):
        code, report = _push(cluster, str(next_checkpoint), "--compare", str(prompts))
        assert code == 0, report
        row(", ".join(f"{head}: agreement {found['agreement']}" for head, found in report["compare"].items()))
    assert set(_checkpoints(url)) == {"next"}


@pytest.mark.parametrize("component", [SERVER, GATEWAY], ids=["triton", "gateway"])
def test_pod_deleted(cluster: Cluster, url: str, row: Row, component: str) -> None:
    """A pod is deleted under load, and another takes its place."""
    with _load(url, row):
        cluster.kubectl("delete", "pod", min(_pods(cluster, component)), "-n", SPACE)
        cluster.wait(lambda: _ready(cluster, component) == 2, 180)


def _pods(cluster: Cluster, component: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in cluster.get("pods", "-n", SPACE, "-l", component)}


def _ready(cluster: Cluster, component: str) -> int:
    pods = cluster.get("pods", "-n", SPACE, "-l", component)
    return sum(status["ready"] for pod in pods for status in pod["status"].get("containerStatuses", ()))


def test_wrong_value(cluster: Cluster, url: str, row: Row) -> None:
    """`helm upgrade` with a value that can't be is refused before anything changes, by the key's name."""
    before = cluster.get("deployment", "llm-router-router-server", "-n", SPACE)["metadata"]["generation"]
    error = cluster.helm(*_upgrade("--set", "routerServer.replicas=two"), ok=False)
    assert "replicas" in error
    error = cluster.helm(*_upgrade("--set", "routerServer.replica=2"), ok=False)
    assert "replica" in error
    assert cluster.get("deployment", "llm-router-router-server", "-n", SPACE)["metadata"]["generation"] == before
    row(error.strip().splitlines()[-1])


def test_broken_configuration(cluster: Cluster, url: str, row: Row, tmp_path: Path) -> None:
    """`helm upgrade --wait` with a configuration that the gateway refuses fails; the old pods go on answering."""
    values = tmp_path / "values.yaml"
    values.write_text("routerController: {config: {customConfig: 'policies: [{name: broken}]'}}\n")
    with _load(url, row):
        error = cluster.helm(
            *_upgrade("--values", str(values), "--wait", "--timeout=30s", "--rollback-on-failure"), ok=False
        )
    assert error
    cluster.wait(lambda: _ready(cluster, GATEWAY) == 2)


def test_changed_configuration(cluster: Cluster, url: str, row: Row) -> None:
    """A changed model of a label is in force after `helm upgrade --wait`, under load."""
    change = "routerController.config.models.codeGeneration=llama-3.1-8b-instruct"
    with _load(url, row) as load:
        cluster.helm(*_upgrade("--set", change, "--wait", "--timeout=5m"))
        cluster.wait(lambda: len(_pods(cluster, GATEWAY)) == 2)  # the old ones answer until they are drained
        since = time.monotonic()
        load.wait(lambda: len([each for each in load.since(since) if each.reason == "decided"]) >= 20)
        models = {each.model for each in load.since(since) if each.reason == "decided"}
    assert models == {"llama-3.1-8b-instruct"}


def test_existing_config_map(cluster: Cluster, url: str, row: Row) -> None:
    """A ConfigMap of the operator's own is in force, and a change of it is adopted by the running pods."""
    text = (ROOT / "deploy" / "router-config-dynamo.yaml").read_text()
    _config_map(cluster, text)
    change = "routerController.config.existingConfigMap=router-config-dynamo"
    with _load(url, row):
        cluster.helm(*_upgrade("--set", change, "--wait", "--timeout=5m"))
        cluster.wait(lambda: len(_pods(cluster, GATEWAY)) == 2)
        pods = _pods(cluster, GATEWAY)
        _config_map(cluster, text.replace("default_policy: task_router", "default_policy: complexity_router"))
        cluster.wait(lambda: _policies(url) == {"complexity_router"}, 180)
        assert _pods(cluster, GATEWAY) == pods


def _config_map(cluster: Cluster, text: str) -> None:
    metadata = {"name": "router-config-dynamo", "namespace": SPACE}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.yaml": text}})


def _policies(url: str) -> set[str]:
    """The policies that eight requests are decided by; each goes to either pod."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
    return {json.loads(ask(f"{url}/v1/route", 30, body)[1]).get("policy", "") for _ in range(8)}


def test_uninstall(cluster: Cluster, row: Row) -> None:
    """`helm uninstall` leaves nothing but what the operator made: the claim, the secret, the ConfigMap."""
    cluster.helm("uninstall", "llm-router", "--namespace", SPACE, "--wait", "--timeout=3m")
    cluster.wait(lambda: not cluster.get("pods", "-n", SPACE))  # they are drained first
    kinds = cluster.kubectl("api-resources", "--namespaced", "--verbs=list,delete", "--output=name").split()
    kinds = [kind for kind in kinds if not kind.startswith(("events", "endpoints"))]
    left = {(each["kind"], each["metadata"]["name"]) for each in cluster.get(",".join(kinds), "-n", SPACE)}
    ours = {
        (kind, name)
        for kind, name in left
        if name not in ("default", "kube-root-ca.crt") and "default-token" not in name
    }
    assert ours == {
        ("PersistentVolumeClaim", "router-models-pvc"),
        ("Secret", "dynamo-api-secret"),
        ("ConfigMap", "router-config-dynamo"),
    }
    row(", ".join(sorted(name for _, name in ours)))
