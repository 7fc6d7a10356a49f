"""deploy/helm/llm-router: what each set of values makes, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import cli
from gateway.config import Policy, RouteLLMPolicy, load_config
from gateway.traffic import seen, take_snapshot
from scripts.local.triton import Triton
from tests.conftest import StartGateway
from tests.deploy.chart import (
    CHART,
    ROOT,
    SETS,
    VALUES,
    Manifest,
    config_text,
    containers,
    gateway,
    helm,
    mounts,
    of_kind,
    only,
    pod_specs,
    refusal,
    rendered,
    selects,
    server,
    template,
    variables,
    volumes,
)

STORAGE = "routerServer.volumes.modelRepository.storage"
CLAIM = f"{STORAGE}.persistentVolumeClaim"
POLICY = "routerController.config.policies[0]"


# Names and ports


@pytest.mark.parametrize(
    ("release", "fullname"),
    [("llm-router", "llm-router"), ("prod", "prod-llm-router"), ("my-llm-router-2", "my-llm-router-2")],
)
def test_names_and_ports_are_the_blueprints(release: str, fullname: str) -> None:
    """The fullname rule holds, Services have the blueprint's names and ports, and so has the guide's svc/llm-router."""
    manifests = rendered(release=release)
    ports = {
        name: [port["port"] for port in service["spec"]["ports"]]
        for name, service in of_kind(manifests, "Service").items()
    }
    assert ports == {
        f"{fullname}-router-controller": [8084],
        f"{fullname}-router-server": [8000, 8001, 8002],
        f"{fullname}-router-server-headless": [8000, 8001, 8002],
        fullname: [8000],
    }
    assert set(of_kind(manifests, "Deployment")) == {f"{fullname}-router-controller", f"{fullname}-router-server"}
    assert variables(gateway(manifests)[1])["TRITON_GRPC_URL"] == f"dns:///{fullname}-router-server-headless:8001"
    assert f"http://{fullname}-router-server:8000/v2/models/task_router_ensemble/infer" in config_text(manifests)


def test_names_can_be_overridden() -> None:
    """nameOverride takes part in the rule, fullnameOverride is the name, and one too long for Services is refused."""
    assert "prod-x-router-server" in of_kind(rendered("defaults", "nameOverride=x", release="prod"), "Service")
    assert "router-router-server" in of_kind(rendered("everything"), "Service")
    assert "set fullnameOverride" in refusal(f"fullnameOverride={'a' * 41}")


@pytest.mark.parametrize("name", SETS)
def test_names_are_valid_and_stand_once(name: str) -> None:
    """No two objects of a kind share a name, each is in the release's namespace, and names of Services fit DNS."""
    manifests = rendered(name)
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(set(names)) == len(names)
    assert {each["metadata"]["namespace"] for each in manifests} == {"llms"}
    assert all(len(each) <= 63 for kind, each in names if kind == "Service")


@pytest.mark.parametrize("name", SETS)
def test_selectors_find_pods_and_ports(name: str) -> None:
    """Every selector of a Service, Deployment, budget, policy or monitor finds what it means, and every targetPort is
    a port of the container."""
    manifests = rendered(name)
    pods = {pod: (labels, spec) for pod, labels, spec in pod_specs(manifests)}
    for each in of_kind(manifests, "Deployment").values():
        assert selects(each["spec"]["selector"]["matchLabels"], each["spec"]["template"]["metadata"]["labels"])
    for each in of_kind(manifests, "Service").values():
        (spec,) = (spec for labels, spec in pods.values() if selects(each["spec"]["selector"], labels))
        known = {port[key] for port in spec["containers"][0]["ports"] for key in ("name", "containerPort")}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= known
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        found = [
            [pod for pod, (labels, _) in pods.items() if selects(each["spec"][key]["matchLabels"], labels)]
            for each in of_kind(manifests, kind).values()
        ]
        assert sorted(found) == [[pod] for pod in sorted(of_kind(manifests, "Deployment"))]
    for each in of_kind(manifests, "ServiceMonitor").values():
        (service,) = (
            service
            for service in of_kind(manifests, "Service").values()
            if selects(each["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
        )
        assert {end["port"] for end in each["spec"]["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("name", SETS)
def test_an_ingress_and_routes_lead_to_services(name: str) -> None:
    """What lets requests in names Services of the release and their ports."""
    manifests = rendered(name)
    services = {
        each: {port["port"] for port in service["spec"]["ports"]}
        for each, service in of_kind(manifests, "Service").items()
    }
    for ingress in of_kind(manifests, "Ingress").values():
        for path in (path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]):
            assert path["backend"]["service"]["port"]["number"] in services[path["backend"]["service"]["name"]]
    for route in of_kind(manifests, "HTTPRoute").values():
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        assert backend["port"] in services[backend["name"]]
    for route in of_kind(manifests, "Route").values():
        assert route["spec"]["to"]["name"] in services


def test_an_ingress_without_a_service_is_none() -> None:
    """A path whose Service is off is left out, and with the last one its host and the Ingress."""
    app = ["ingress.hosts[0].paths[0].service=app", "ingress.hosts[0].paths[0].path=/"]
    assert not of_kind(rendered("defaults", "ingress.enabled=true", *app), "Ingress")
    assert not of_kind(rendered("defaults", "ingress.enabled=true", "routerController.enabled=false"), "Ingress")


def test_the_blueprints_ingress_passes_through() -> None:
    """Patterns, rewrite annotations, class and TLS stay as given; `service` chooses, and a path without one means the
    gateway."""
    ingress = only(rendered("blueprint-override"), "Ingress")
    assert ingress["metadata"]["name"] == "llm-router"
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/rewrite-target"] == "/$2"
    assert ingress["spec"]["ingressClassName"] == "nginx" and ingress["spec"]["tls"]
    paths = ingress["spec"]["rules"][0]["http"]["paths"]
    assert [(path["path"], path["pathType"], path["backend"]["service"]["name"]) for path in paths] == [
        ("/app(/|$)(.*)", "ImplementationSpecific", "llm-router-app"),
        ("/router-controller(/|$)(.*)", "ImplementationSpecific", "llm-router-router-controller"),
        ("/router-server(/|$)(.*)", "ImplementationSpecific", "llm-router-router-server"),
    ]
    (path,) = only(rendered("llm-router-values-override", "ingress.enabled=true"), "Ingress")["spec"]["rules"][0][
        "http"
    ]["paths"]
    assert path["backend"]["service"]["name"] == "llm-router-router-controller"


# Configuration


@pytest.mark.parametrize("keys", ["without", "with"])
@pytest.mark.parametrize("name", SETS)
def test_the_gateway_takes_every_configuration(
    name: str, keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m gateway check` finds no fault in a rendered config.yaml with the pod's variables, whether the optional
    secrets are there or not."""
    manifests = rendered(name)
    _, container = gateway(manifests)
    file = ROOT / "deploy" / "router-config-dynamo.yaml"  # what the guide makes its ConfigMap from
    if name != "llm-router-values-override":
        file = tmp_path / "config.yaml"
        file.write_text(config_text(manifests))
    for variable in container["env"]:
        if "value" in variable and not variable["name"].endswith("_FILE"):  # files are the pod's
            monkeypatch.setenv(variable["name"], variable["value"])
        elif "valueFrom" in variable and keys == "with":
            monkeypatch.setenv(variable["name"], "secret")
    assert cli.main(["check", str(file)]) == 0, capsys.readouterr().err


def test_the_default_configuration_is_the_default_file() -> None:
    """Rendered, it means what deploy/router-config-dynamo.yaml means."""
    default = yaml.safe_load((ROOT / "deploy" / "router-config-dynamo.yaml").read_text())
    assert yaml.safe_load(config_text(rendered())) == default


def test_models_and_api_base_fill_the_template() -> None:
    """config.models changes one label's model; config.apiBase changes all bases, with the key of its own secret."""
    manifests = rendered("blueprint-override")
    task, complexity = (
        {llm["name"]: llm for llm in policy["llms"]} for policy in yaml.safe_load(config_text(manifests))["policies"]
    )
    assert task["Brainstorming"]["model"] == "meta/llama-3.1-405b-instruct"
    assert task["Chatbot"]["model"] == "mixtral-8x22b-instruct-v0.1"
    assert complexity["Reasoning"]["model"] == "nvidia/llama-3.3-nemotron-super-49b-v1"
    for llm in (*task.values(), *complexity.values()):
        assert (llm["api_base"], llm["api_key"]) == ("https://integrate.api.nvidia.com", "${NVIDIA_API_KEY:-}")
    (key,) = (each for each in gateway(manifests)[1]["env"] if each["name"] == "NVIDIA_API_KEY")
    assert key["valueFrom"]["secretKeyRef"] == {"name": "my-keys", "key": "nvidia", "optional": True}


def test_which_configuration_goes_before_which() -> None:
    """existingConfigMap, then customConfig, then policies, then the template."""
    policies = "routerController.config.policies[0].name=p"
    custom = "routerController.config.customConfig=policies: []"
    existing = "routerController.config.existingConfigMap=mine"
    assert yaml.safe_load(config_text(rendered("defaults", policies))) == {"policies": [{"name": "p"}]}
    assert config_text(rendered("defaults", policies, custom)).strip() == "policies: []"
    manifests = rendered("defaults", policies, custom, existing)
    assert not of_kind(manifests, "ConfigMap")
    assert volumes(gateway(manifests)[0])["config"]["configMap"] == {"name": "mine"}
    assert "useTemplate" in refusal("routerController.config.useTemplate=false")


def test_a_changed_configuration_rolls_the_gateway_alone() -> None:
    """The checksum follows the configuration and nothing else; Triton's pods stay; an existing ConfigMap has none and
    is mounted as a folder, so that the gateway sees its changes."""

    def template_of(component: str, *settings: str) -> Any:
        return only(rendered("defaults", *settings), "Deployment", component)["spec"]["template"]

    changed = "routerController.config.models.chatbot=another"
    for same in ("routerController.replicas=5", "routerServer.replicas=2", "ingress.enabled=true"):
        assert template_of("-router-controller", same) == template_of("-router-controller")
    assert template_of("-router-controller", changed) != template_of("-router-controller")
    assert template_of("-router-server", changed) == template_of("-router-server")
    existing = template_of("-router-controller", "routerController.config.existingConfigMap=mine")
    assert "annotations" not in existing["metadata"]
    mount = mounts(existing["spec"]["containers"][0])["config"]
    assert mount == {"name": "config", "mountPath": "/app", "readOnly": True}


def test_snapshots_lie_beside_the_configuration(tmp_path: Path) -> None:
    """A policy's snapshot, given as text or as an object, is found by the gateway where it is mounted; another one
    rolls the gateway."""
    taken = take_snapshot([seen("Größe & Co", 0.95, 9, "en")] * 10, "own:abc").model_dump()
    llms = [{"name": "a", "api_base": "http://up:1", "model": "m"}]
    policies = [
        {"name": file, "url": "http://x:8000/v2/models/own/infer", "snapshot": file, "llms": llms}
        for file in ("text.json", "./object.json", "/app/object.json", "/elsewhere/own.json")
    ]

    def render(**snapshots: Any) -> list[Manifest]:
        values = {"config": {"policies": policies, "snapshots": snapshots}}
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump({"routerController": values}))
        done = template([file], "llm-router")
        assert done.returncode == 0, done.stderr
        return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]

    given = {"text.json": json.dumps(taken, indent=2), "object.json": taken}
    manifests = render(**given)
    data = only(manifests, "ConfigMap", "-router-controller-config")["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"policies": policies[:2]}))
    config = load_config(tmp_path / "config.yaml")
    assert [each.model_dump() for each in config.snapshots.values()] == [taken, taken]
    changed = render(**given | {"object.json": taken | {"rows": 11}})
    first, second = (
        only(each, "Deployment", "-router-controller")["spec"]["template"] for each in (manifests, changed)
    )
    assert first["metadata"]["annotations"] != second["metadata"]["annotations"] and first["spec"] == second["spec"]


def test_dynamo_is_where_the_values_say() -> None:
    """dynamo.api_base is DYNAMO_API_BASE, the guide's by default; its key comes from a secret that may be missing."""
    _, container = gateway(rendered())
    assert variables(container)["DYNAMO_API_BASE"] == "http://dynamo-llm-service.dynamo-cloud.svc.cluster.local:8080"
    (key,) = (each for each in container["env"] if each["name"] == "DYNAMO_API_KEY")
    assert key["valueFrom"]["secretKeyRef"] == {"name": "dynamo-api-secret", "key": "DYNAMO_API_KEY", "optional": True}
    _, container = gateway(rendered("defaults", "dynamo.api_base=http://new-endpoint:8080/v1"))
    assert variables(container)["DYNAMO_API_BASE"] == "http://new-endpoint:8080/v1"


# Overrides that Helm would merge into something wrong


@pytest.mark.parametrize("name", SETS)
def test_variables_stand_once(name: str) -> None:
    """No container has two variables of one name: server-side apply refuses them."""
    for _, _, spec in pod_specs(rendered(name)):
        for container in containers(spec):
            names = [each["name"] for each in container.get("env", [])]
            assert len(set(names)) == len(names)


def test_the_users_variables_win() -> None:
    """A variable of the override takes the place of ours, and of two of the same name the last counts."""
    _, container = gateway(rendered("llm-router-values-override"))
    assert variables(container)["DYNAMO_API_BASE"].startswith("http://vllm-frontend-frontend.")
    twice = [f"routerServer.env[{index}].{key}" for index in (0, 1) for key in ("name=A", f"value=v{index}")]
    assert variables(server(rendered("defaults", *twice))[1])["A"] == "v1"


def test_a_probe_of_another_kind_replaces_ours() -> None:
    """httpGet in place of exec or the other way round, never both; our times stay where none are given; null: none."""
    manifests = rendered("blueprint-override")
    _, container = server(manifests)
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8000}
    assert container["readinessProbe"]["initialDelaySeconds"] == 30
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert "exec" not in container[name]
    _, container = gateway(manifests)
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8084}
    settings = "routerController.healthChecks.livenessProbe.exec.command={true}"
    _, container = gateway(rendered("defaults", settings, "routerController.healthChecks.startupProbe=null"))
    assert "httpGet" not in container["livenessProbe"] and "startupProbe" not in container


def test_a_strategy_of_another_type_replaces_ours() -> None:
    """Recreate leaves our rollingUpdate out, which Kubernetes would refuse."""
    assert only(rendered("blueprint-override"), "Deployment", "-router-server")["spec"]["strategy"] == {
        "type": "Recreate"
    }


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("emptydir", {"emptyDir": {"sizeLimit": "5Gi"}}),
        ("nfs", {"nfs": {"server": "files.example.com", "path": "/models", "readOnly": True}}),
        ("hostpath", {"hostPath": {"path": "/srv/models"}}),
        ("guide", {"persistentVolumeClaim": {"claimName": "router-models-pvc"}}),
        ("defaults", {"persistentVolumeClaim": {"claimName": "llm-router-router-server-model-repo"}}),
    ],
)
def test_the_kind_of_storage_that_is_asked_for_is_used(name: str, source: Manifest) -> None:
    """Any kind goes before the default claim, and a claim is made only when it is used and none is named."""
    manifests = rendered(name)
    spec, _ = server(manifests)
    assert volumes(spec)["model-repository"] == {"name": "model-repository", **source}
    assert bool(of_kind(manifests, "PersistentVolumeClaim")) == (name == "defaults")


def test_a_claim_gets_its_storage_class() -> None:
    """Its own, else the global one, else the cluster's."""

    def storage_class(name: str, *settings: str) -> str | None:
        found: str | None = only(rendered(name, *settings), "PersistentVolumeClaim")["spec"].get("storageClassName")
        return found

    assert storage_class("blueprint-override") == "shared"
    assert storage_class("everything") == "shared"
    assert storage_class("defaults") is None
    assert storage_class("openshift") == "ocs-storagecluster-cephfs"


def test_the_top_affinity_holds_where_a_component_has_none() -> None:
    """The component's own, else the top level's, else apart from its own kind."""
    top = server(rendered("blueprint-override"))[0]["affinity"]
    assert set(top) == {"nodeAffinity"}
    assert set(server(rendered())[0]["affinity"]) == {"podAntiAffinity"}
    own = "routerServer.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution={}"
    assert set(server(rendered("blueprint-override", own))[0]["affinity"]) == {"podAffinity"}


def test_every_pod_fits_the_default_limits_of_a_namespace() -> None:
    """The LimitRange that the chart makes admits its own pods: of each container, and summed."""
    manifests = rendered("cpu", "resourceManagement.limitRange.enabled=true")
    limits = {each["type"]: each for each in only(manifests, "LimitRange")["spec"]["limits"]}
    for name, _, spec in pod_specs(manifests):
        for resource in ("cpu", "memory"):
            least, most = (quantity(limits["Pod"][bound][resource]) for bound in ("min", "max"))
            requests, given = (
                sum(quantity(each["resources"][kind][resource]) for each in spec["containers"])
                for kind in ("requests", "limits")
            )
            assert least <= requests and given <= most, (name, resource)


def quantity(text: str) -> float:
    """A Kubernetes quantity in cores or bytes."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * units.get(unit, 1)


def test_given_resources_replace_ours_by_kind() -> None:
    """A limit of memory alone leaves no request above it; numbers become text; another extended resource replaces the
    GPU."""
    resources = server(rendered("defaults", "routerServer.resources.limits.memory=2Gi"))[1]["resources"]
    assert resources["limits"] == {"cpu": "4", "memory": "2Gi", "nvidia.com/gpu": "1"}
    assert resources["requests"] == {"cpu": "2", "nvidia.com/gpu": "1"}
    slice_ = r"routerServer.resources.limits.nvidia\.com/mig-1g\.10gb=1"
    resources = server(rendered("defaults", slice_))[1]["resources"]
    assert resources["limits"] == {"cpu": "4", "memory": "8Gi", "nvidia.com/mig-1g.10gb": "1"}


@pytest.mark.parametrize("name", SETS)
def test_quantities_are_text(name: str) -> None:
    """Every quantity is text, as server-side apply of old API servers wants it."""
    for _, _, spec in pod_specs(rendered(name)):
        for container in containers(spec):
            for quantities in container["resources"].values():
                assert all(isinstance(quantity, str) for quantity in quantities.values())


# Pods


def test_without_a_gpu_none_is_asked_for_or_shown() -> None:
    """gpu: false leaves no GPU in the resources, even one given by an override, and hides the node's."""
    for manifests in (rendered("cpu"), rendered("llm-router-values-override", "routerServer.gpu=false")):
        _, container = server(manifests)
        assert "gpu" not in json.dumps(container["resources"])
        assert variables(container)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert server(rendered())[1]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", SETS)
def test_every_container_is_confined(name: str) -> None:
    """Not root, by number except on OpenShift; a read-only root; no capabilities but those an override adds; no token
    of a service account; limits for all."""
    manifests = rendered(name)
    for pod, _, spec in pod_specs(manifests):
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        numbered = {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys()
        assert len(numbered) == (0 if name == "openshift" else 3), pod
        for container in containers(spec):
            context = container["securityContext"]
            assert context["runAsNonRoot"] is True and context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    for account in of_kind(manifests, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", SETS)
def test_only_the_seed_writes_to_the_models(name: str) -> None:
    """The main container mounts the models read-only; the seed writes them, where the volume can be written; both are
    told the same folder, on the volume; without a volume the image's own are served."""
    spec, container = server(rendered(name))
    assert container["command"] == ["/opt/router/start"]
    repository = variables(container)["MODEL_REPOSITORY"]
    seeds = spec.get("initContainers", [])
    if name == "image-models":
        assert repository == "/opt/router/model_repository"
        assert not seeds and "model-repository" not in mounts(container)
        return
    mount = mounts(container)["model-repository"]
    assert mount["readOnly"] is True
    assert Path(repository) == Path(mount["mountPath"]) or Path(mount["mountPath"]) in Path(repository).parents
    if name == "nfs":
        assert not seeds
        return
    (seed,) = seeds
    assert (seed["name"], seed["command"], seed["image"]) == ("seed", ["/opt/router/seed"], container["image"])
    assert variables(seed) == {"MODEL_REPOSITORY": repository}
    assert "readOnly" not in mounts(seed)["model-repository"]


@pytest.mark.parametrize("name", SETS)
def test_shared_memory_is_memory_of_a_bounded_size(name: str) -> None:
    """/dev/shm is a memory-backed volume of shm_size."""
    spec, container = server(rendered(name))
    assert mounts(container)["shm"]["mountPath"] == "/dev/shm"
    size = "8G" if name == "llm-router-values-override" else "1G"
    assert volumes(spec)["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": size}


@pytest.mark.parametrize("name", SETS)
def test_every_mount_has_its_volume(name: str) -> None:
    """Each mount names a volume of the pod, at a path of its own."""
    for _, _, spec in pod_specs(rendered(name)):
        known = {each["name"] for each in spec.get("volumes", [])}
        for container in containers(spec):
            mounted = container.get("volumeMounts", [])
            assert {each["name"] for each in mounted} <= known
            assert len({each["mountPath"] for each in mounted}) == len(mounted)


def test_ends_fit_into_the_grace_period() -> None:
    """Triton: preStop and its own 20 s. The gateway: its delay and drain, which a value changes."""
    spec, container = server(rendered())
    (_, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert int(seconds) + 20 < spec["terminationGracePeriodSeconds"]
    for name, grace in (("defaults", 70), ("everything", 310)):
        spec, container = gateway(rendered(name))
        options = dict(each.split("=") for each in container["args"])
        needed = int(options["--drain-delay"]) + int(options["--drain-seconds"])
        assert needed < spec["terminationGracePeriodSeconds"] == grace


def test_probes_are_inferences_with_patience() -> None:
    """Triton has five minutes and more to load, each probe gives up by itself before the kubelet ends it, and a dead
    model process restarts the pod."""
    _, container = server(rendered())
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, seconds = container[name]["exec"]["command"]
        assert program == "/opt/router/healthcheck"
        assert float(seconds) < container[name]["timeoutSeconds"]
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 300


def test_the_gateways_command_is_one_that_it_knows() -> None:
    """The gateway's own parser takes the container's command, with and without a management port."""
    for name, management in (("defaults", None), ("everything", 8085)):
        _, container = gateway(rendered(name))
        assert container["command"][:3] == ["python", "-m", "gateway"]
        options = cli.parser().parse_args([*container["command"][3:], *container["args"]])
        assert (options.host, options.port, options.management_port) == ("0.0.0.0", 8084, management)
        assert options.config == Path(mounts(container)["config"]["mountPath"], "config.yaml")


def test_a_rollout_needs_no_second_gpu() -> None:
    """Triton's old pod goes first, so one GPU and a ReadWriteOnce volume do; of the gateway's none goes before another
    is ready."""
    deployment = only(rendered(), "Deployment", "-router-server")["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    deployment = only(rendered(), "Deployment", "-router-controller")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_an_autoscaler_owns_the_replicas() -> None:
    """With autoscaling a Deployment says no replicas, which an upgrade would set back, and the target is its name."""
    manifests = rendered("everything")
    for name, deployment in of_kind(manifests, "Deployment").items():
        assert "replicas" not in deployment["spec"]
        assert of_kind(manifests, "HorizontalPodAutoscaler")[name]["spec"]["scaleTargetRef"]["name"] == name
    scaled = only(rendered("keda"), "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] in of_kind(rendered("keda"), "Deployment")
    assert 'namespace="llms",pod=~"llm-router-router-server-.*"' in scaled["spec"]["triggers"][0]["metadata"]["query"]


@pytest.mark.parametrize("name", SETS)
def test_no_manifest_holds_a_secret(name: str) -> None:
    """No Secret is made, and no variable named as a key has a value in it: keys come from the user's secrets."""
    manifests = rendered(name)
    assert not of_kind(manifests, "Secret")
    for _, _, spec in pod_specs(manifests):
        for container in containers(spec):
            named = {name for name in variables(container) if re.search("KEY|TOKEN|PASSWORD", name)}
            assert named <= {"GATEWAY_API_KEYS_FILE"}


def test_client_keys_are_a_mounted_secret() -> None:
    """The secret is a folder, whose change is seen; helm test sends one of the keys, and so does Prometheus."""
    manifests = rendered("everything")
    spec, container = gateway(manifests)
    assert volumes(spec)["client-keys"]["secret"] == {"secretName": "client-keys"}
    folder = mounts(container)["client-keys"]["mountPath"]
    assert variables(container)["GATEWAY_API_KEYS_FILE"] == f"{folder}/keys"
    test = only(manifests, "Pod", "-test-gateway")["spec"]["containers"][0]
    assert mounts(test)["client-keys"]["mountPath"] == folder and f"{folder}/keys" in test["args"][0]
    monitor = only(manifests, "ServiceMonitor", "-router-controller")["spec"]
    assert monitor["endpoints"][0]["authorization"]["credentials"] == {"name": "metrics-key", "key": "token"}


def test_metrics_have_one_place() -> None:
    """On the API's port as in the blueprint, or on managementPort, with a Service and a policy of its own."""
    assert not any("management" in str(port) for port in gateway(rendered())[1]["ports"])
    manifests = rendered("everything")
    assert only(manifests, "Service", "-router-controller-metrics")["spec"]["ports"][0]["port"] == 8085
    _, management = only(manifests, "NetworkPolicy", "-router-controller")["spec"]["ingress"]
    assert management["ports"] == [{"protocol": "TCP", "port": 8085}]
    assert {"podSelector": {}} in management["from"]


def test_triton_is_for_its_namespace_unless_exposed() -> None:
    """An ingress path to it opens its port for all; else only pods beside it get in."""
    (inside,) = only(rendered(), "NetworkPolicy", "-router-server")["spec"]["ingress"]
    assert inside["from"] == [{"podSelector": {}}]
    _, everybody = only(rendered("blueprint-override"), "NetworkPolicy", "-router-server")["spec"]["ingress"]
    assert "from" not in everybody and {"protocol": "TCP", "port": 8000} in everybody["ports"]


def test_traces_go_to_one_collector() -> None:
    """Both components send there, which Triton's policy lets through; their own variables win. Else none do."""
    manifests = rendered("everything")
    for container in (gateway(manifests)[1], server(manifests)[1]):
        assert variables(container)["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.observability:4318"
    egress = only(manifests, "NetworkPolicy", "-router-server")["spec"]["egress"]
    assert {"ports": [{"protocol": "TCP", "port": 4318}]} in egress
    for url, port in (("https://c.example", 443), ("http://c/base", 80), ("https://[::1]:8443/x", 8443)):
        policy = only(rendered("defaults", f"tracing.endpoint={url}"), "NetworkPolicy", "-router-server")
        assert {"ports": [{"protocol": "TCP", "port": port}]} in policy["spec"]["egress"]
    own = [f"routerServer.env[0].{key}" for key in ("name=OTEL_EXPORTER_OTLP_ENDPOINT", "value=http://mine")]
    assert variables(server(rendered("everything", *own))[1])["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://mine"
    assert "OTEL" not in str(rendered("defaults"))


# Tests that run in the cluster


@pytest.mark.parametrize("name", SETS)
def test_helm_tests_are_programs(name: str) -> None:
    """Each test pod is a hook that goes away, its script compiles, and it asks a Service that there is."""
    manifests = rendered(name)
    pods = of_kind(manifests, "Pod")
    assert len(pods) == 2
    for pod in pods.values():
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert "hook-succeeded" in pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        (container,) = pod["spec"]["containers"]
        (script,) = container["args"]
        compile(script, "test", "exec")
        host = re.search(r"http://([\w.-]+):(\d+)", script)
        assert host
        service = of_kind(manifests, "Service")[host[1]]
        assert int(host[2]) in {port["port"] for port in service["spec"]["ports"]}


@pytest.mark.rare
def test_helm_tests_tell_a_working_release_from_a_broken_one(
    triton: Triton, start_gateway: StartGateway, tmp_path: Path
) -> None:
    """The scripts pass against the real Triton and a gateway with client keys, and fail against one without Triton."""

    def run(name: str, url: str) -> int:
        (container,) = only(rendered("everything"), "Pod", name)["spec"]["containers"]
        script = re.sub(r"http://[\w.-]+:\d+", url, container["args"][0])
        script = script.replace(mounts(container)["client-keys"]["mountPath"], str(tmp_path)).replace(
            "sleep(2)", "sleep(0)"
        )
        return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120).returncode

    keys = tmp_path / "keys"
    keys.write_text("# of the tests\ntests:0123456789abcdef\n")
    config = config_text(rendered()).replace("    llms:", "    timeout_ms: 30000\n    llms:")
    working = start_gateway(config, GATEWAY_API_KEYS_FILE=str(keys))
    broken = start_gateway(
        config_text(rendered()), ready=False, GATEWAY_API_KEYS_FILE=str(keys), TRITON_GRPC_URL="127.0.0.1:1"
    )
    assert run("-test-server", triton.http_url) == 0
    assert run("-test-gateway", working.url) == 0
    assert run("-test-gateway", broken.url) != 0


# Old clusters


def test_kubernetes_1_20_is_enough() -> None:
    """There budgets are v1beta1, autoscaling is refused with its reason, and an older cluster is refused as a whole."""
    old = rendered(options=("--kube-version", "1.20.2"))
    assert {each["apiVersion"] for each in of_kind(old, "PodDisruptionBudget").values()} == {"policy/v1beta1"}
    assert {each["apiVersion"] for each in of_kind(rendered(), "PodDisruptionBudget").values()} == {"policy/v1"}
    for component in ("routerServer", "routerController"):
        done = template([f"{component}.autoscaling.enabled=true"], "llm-router", "--kube-version", "1.20.2")
        assert f"{component}.autoscaling needs autoscaling/v2" in done.stderr
    assert template([], "llm-router", "--kube-version", "1.19.0").returncode != 0


# What is refused


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["apiKeys.nvidia_api_key=nvapi-1"], ["apiKeys.nvidia_api_key", "kubectl create secret generic llm-api-keys"]),
        (["routerServer.modelRepository.cloudAuth.aws.enabled=true"], ["cloudAuth.aws", "scripts/push_models"]),
        (["routerServer.modelRepository.cloudAuth.gcs.enabled=true"], ["cloudAuth.gcs", "scripts/push_models"]),
        (["routerServer.modelRepository.cloudAuth.azure.enabled=true"], ["cloudAuth.azure", "scripts/push_models"]),
        (["routerServer.modelRepository.path=s3://bucket/models/"], ["s3://bucket/models/", "scripts/push_models"]),
        (["routerServer.modelRepository.path=gs://b"], ["gs://b", "scripts/push_models"]),
        ([r"routerServer.modelRepository.path=as://b\,/cache"], ["as://b,/cache", "scripts/push_models"]),
        (["routerServer.modelRepository.path=/elsewhere"], ["/elsewhere is not on the volume", "/model_repository"]),
        ([f"{STORAGE}.emptyDir.enabled=true", f"{STORAGE}.nfs.enabled=true"], ["nfs, emptyDir", "leave one"]),
        ([f"{STORAGE}.emptyDir.enabled=true", f"{CLAIM}.existingClaim=c"], ["persistentVolumeClaim.existingClaim"]),
        ([f"{STORAGE}.nfs.enabled=true"], ["nfs: server and path are needed"]),
        ([f"{STORAGE}.hostPath.enabled=true"], ["hostPath: path is needed"]),
        (["httpRoute.enabled=true"], ["httpRoute.parentRefs"]),
        (["tracing.endpoint=http://c:4318/v1/traces"], ["tracing.endpoint", "leave it out"]),
        (["tracing.endpoint=http://c:4317"], ["tracing.endpoint", "mostly 4318"]),
        (["routerServer.strategy.rollingUpdate.maxUnavailable=0"], ["routerServer.strategy", "both 0"]),
        (["routerController.strategy.rollingUpdate.maxSurge=0%"], ["routerController.strategy", "both 0"]),
        (
            ["routerServer.extraVolumeMounts[0].name=x", "routerServer.extraVolumeMounts[0].mountPath=/dev/shm/"],
            ["routerServer.extraVolumeMounts", "shm_size"],
        ),
        (["routerServer.extraVolumes[0].name=shm"], ["routerServer.extraVolumes", "the name shm"]),
        (
            [f"{POLICY}.name=p", f"{POLICY}.snapshot=p.json", r"routerController.config.snapshots.q\.json=x"],
            ["policy p: its snapshot p.json is not among routerController.config.snapshots"],
        ),
        (
            [r"routerController.config.customConfig=policies: [{name: p\, snapshot: /app/a/../p.json}]"],
            ["policy p: its snapshot p.json is not among"],
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(settings: list[str], says: list[str]) -> None:
    """One line names the key and what replaces it; no key's value is repeated."""
    message = refusal(*settings)
    assert all(part in message for part in says), message
    assert "nvapi-1" not in message


def test_all_refusals_come_at_once() -> None:
    """An override with several such keys is told of all."""
    message = refusal("apiKeys.nvidia_api_key=x", "httpRoute.enabled=true")
    assert "apiKeys.nvidia_api_key" in message and "httpRoute.parentRefs" in message


@pytest.mark.parametrize(
    "setting",
    [
        "routerServr.replicas=1",
        "routerServer.replica=1",
        f"{STORAGE}.pvc=x",
        "routerController.config.modelss=x",
        "routerController.config.models.chatbots=x",
        "routerController.config.policies[0].nam=x",
        "ingress.hosts[0].paths[0].servce=app",
        "dynamo.apiBase=http://x",
        "routerServer.replicas=two",
        "routerServer.shm_size=8g",
        "routerServer.autoscaling.type=vpa",
        "global.imageRegistry=registry.example.com",
        "routerController.env[0].name=5",
        "routerController.service.port=0",
        "tracing.endpoint=collector:4318",
        r"routerController.config.snapshots.config\.yaml=x",
        "routerController.config.snapshots.a/b=x",
    ],
)
def test_a_wrong_key_or_type_is_named(setting: str) -> None:
    """The schema says which key it is, in the words of this helm."""
    key = setting.partition("=")[0]
    wrong = {"routerServr.replicas": "routerServr"}.get(key, re.split(r"(?<!\\)\.", key)[-1].replace("\\", ""))
    assert wrong in refusal(setting).partition("schema")[2]


# The interface

BLUEPRINT = """
global: {imageRegistry, imagePullSecrets, storageClass}
openshift: {enabled}
serviceAccount: {create, name, annotations}
resourceManagement.resourceQuota: {enabled, limits.cpu, limits.memory, limits.gpu, requests.cpu, requests.memory,
  requests.gpu, storage.requests, storage.persistentvolumeclaims, objects.pods, objects.services, objects.secrets,
  objects.configmaps}
resourceManagement.limitRange: {enabled, container.default, container.defaultRequest, container.max, container.min,
  pod.max, pod.min, pvc.max, pvc.min}
ingress: {enabled, className, annotations, hosts, tls}
routerServer: {enabled, image.repository, image.tag, image.pullPolicy, replicas, affinity, strategy,
  securityContext.pod, securityContext.container,
  healthChecks.readinessProbe, healthChecks.livenessProbe, healthChecks.startupProbe,
  resources, service.type, service.ports, env, modelRepository.path, modelRepository.cloudAuth.aws.enabled,
  modelRepository.cloudAuth.aws.secretName, modelRepository.cloudAuth.aws.accessKeySecretKey,
  modelRepository.cloudAuth.aws.secretAccessKeySecretKey, modelRepository.cloudAuth.aws.regionSecretKey,
  modelRepository.cloudAuth.aws.sessionTokenSecretKey, modelRepository.cloudAuth.gcs.secretName,
  modelRepository.cloudAuth.gcs.serviceAccountKeySecretKey, modelRepository.cloudAuth.azure.secretName,
  modelRepository.cloudAuth.azure.accountNameSecretKey, modelRepository.cloudAuth.azure.accountKeySecretKey,
  modelRepository.cloudAuth.azure.connectionStringSecretKey, shm_size, extraVolumes, extraVolumeMounts}
routerServer.volumes.modelRepository: {enabled, mountPath, storage.persistentVolumeClaim.enabled,
  storage.persistentVolumeClaim.existingClaim, storage.persistentVolumeClaim.storageClass,
  storage.persistentVolumeClaim.accessMode, storage.persistentVolumeClaim.size, storage.nfs.enabled, storage.nfs.server,
  storage.nfs.path, storage.nfs.readOnly, storage.emptyDir.enabled, storage.emptyDir.sizeLimit,
  storage.hostPath.enabled, storage.hostPath.path}
routerController: {enabled, image.repository, image.tag, image.pullPolicy, replicas, env, affinity, strategy,
  securityContext.pod, securityContext.container, healthChecks.readinessProbe, healthChecks.livenessProbe,
  healthChecks.startupProbe, resources, service.type, service.port, service.targetPort}
routerController.config: {mountPath, logLevel, useTemplate, customConfig, existingConfigMap, apiBase, apiKeySecret,
  apiKeySecretKey, policies}
routerController.config.models: {brainstorming, chatbot, classification, closedQA, codeGeneration, extraction, openQA,
  other, rewrite, summarization, textGeneration, unknown, creativity, reasoning, contextualKnowledge, fewShot,
  domainKnowledge, noLabelReason, constraint}
app: {enabled, image.repository, image.tag, image.pullPolicy, replicas, affinity, strategy, securityContext.pod,
  healthChecks.readinessProbe, resources, service.type, service.port, service.targetPort, volumes.appDir.enabled,
  volumes.appDir.mountPath, volumes.appDir.storage.persistentVolumeClaim.existingClaim,
  volumes.appDir.storage.emptyDir.sizeLimit, volumes.appDir.storage.hostPath.path, env}
dynamo: {api_base}
"""


def schema() -> Any:
    return json.loads((CHART / "values.schema.json").read_text())


def property_of(node: Any, key: str) -> Any:
    if "$ref" in node:
        node = schema()["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node["properties"][key]


def test_every_key_of_the_blueprint_is_known() -> None:
    """The schema has each key that the blueprint's chart and the guide's overrides have."""
    for group, keys in yaml.safe_load(BLUEPRINT).items():
        for key in keys:
            node = schema()
            for part in f"{group}.{key}".split("."):
                node = property_of(node, part)
    for key in ("nodeSelector", "tolerations", "affinity", "nameOverride", "fullnameOverride", "apiKeys"):
        assert key in schema()["properties"]


def test_every_default_is_one_that_the_schema_knows() -> None:
    """values.yaml passes its own schema, linted as strictly as helm can."""
    for name in SETS:
        done = helm("lint", "--strict", "--quiet", CHART, "--values", VALUES / f"{name}.yaml")
        assert done.returncode == 0, done.stdout + done.stderr


def test_policies_have_the_gateways_keys() -> None:
    """The schema's policy has the keys that the gateway reads, neither more nor fewer."""
    read = {name for model in (Policy, RouteLLMPolicy) for name in model.model_json_schema()["properties"]}
    assert set(schema()["$defs"]["policy"]["properties"]) == read


def notes(name: str, *settings: str) -> str:
    if "v3." in helm("version", "--short").stdout:
        pytest.skip("Helm 3 shows notes only with a cluster")
    given = [option for setting in settings for option in ("--set", setting)]
    done = helm("install", "llm-router", CHART, "--dry-run=client", "--values", VALUES / f"{name}.yaml", *given)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.partition("NOTES:")[2].split())


RISKS = [
    (["serviceMonitor.enabled=true"], "networkPolicy.metricsFrom is empty"),
    (["serviceMonitor.enabled=true", "clientKeys.existingSecret=keys"], "bearerTokenSecret is empty"),
    (["ingress.enabled=true"], "so are its /metrics, /config and /decisions"),
    (
        ["routerServer.strategy.rollingUpdate.maxSurge=1", "routerServer.strategy.rollingUpdate.maxUnavailable=0"],
        "the rollout waits for ever",
    ),
    (["routerServer.healthChecks.readinessProbe.httpGet.path=/v2/health/ready"], "readinessProbe asks Triton's own"),
    ([f"{POLICY}.name=p", f"{POLICY}.url=http://other:8000/v2/models/m/infer"], "policy p names a Triton of its own"),
]


def test_the_notes_lead_to_the_playground() -> None:
    """With `app.enabled` its Service goes to the gateway, whose `/` is the page, and the notes say how to open it."""
    services = of_kind(rendered("defaults", "app.enabled=true", "app.service.port=9008"), "Service")
    app, gateway = services["llm-router-app"]["spec"], services["llm-router-router-controller"]["spec"]
    assert app["selector"] == gateway["selector"]
    assert app["ports"] == [{"name": "http", "port": 9008, "targetPort": "http", "protocol": "TCP"}]
    said = notes("defaults", "app.enabled=true", "app.service.port=9008")
    assert "port-forward service/llm-router-app 9008" in said and "http://localhost:9008/" in said
    assert "playground" not in notes("defaults")


def test_the_notes_say_what_has_no_effect() -> None:
    """Keys without a use, risky storage and replicas that could not start are named after the install."""
    said = notes("blueprint-override")
    for key in ("app.image", "app.replicas", "app.resources", "app.volumes", "routerController.config.logLevel"):
        assert f"{key} has no effect" in said
    assert "storage.hostPath" in notes("hostpath")
    assert "those on a second node will not start" in notes("defaults", "routerServer.replicas=2")
    for settings, says in RISKS:
        assert says in notes("defaults", *settings), settings
    for host in ("other", "${TRITON_HOST}"):
        url = f"{POLICY}.url=http://{host}:8000/v2/models/m/infer"
        given = "routerController.env[0].name=TRITON_GRPC_URL"
        assert "a Triton of its own" not in notes("defaults", f"{POLICY}.name=p", url, *[given] * (host == "other"))
    said = notes("defaults")
    assert "Mind:" not in said
    assert "port-forward service/llm-router-router-controller 8084:8084" in said


def _rule(alert: str, *settings: str) -> dict[str, Any]:
    (group,) = only(rendered("everything", *settings), "PrometheusRule")["spec"]["groups"]
    return next(rule for rule in group["rules"] if rule["alert"] == alert)


def test_the_drift_alert_says_what_to_run() -> None:
    """Its bound is a value of the chart's, between 0 and 1, and it names the command and the page."""
    assert "\n> 0.3\n" in _rule("LlmRouterDrift")["expr"]
    assert "\n> 1\n" in _rule("LlmRouterDrift", "prometheusRule.driftDistance=1")["expr"]
    assert "driftDistance" in refusal("prometheusRule.driftDistance=2")
    description = _rule("LlmRouterDrift")["annotations"]["description"]
    for command in ("--triton HOST:8001 --model ENSEMBLE --data", "--triton HOST:8001 --router ROUTER --data"):
        assert f"scripts/evaluate {command}" in description
    assert "docs/CUSTOMIZE.md" in description


def test_who_abstains_decides() -> None:
    """Requests below a policy's confidence are no fallbacks of a failing Triton; nor a sign that Triton decides, since
    they may be remembered."""
    for alert in ("LlmRouterFallbacks", "LlmRouterNoDecisions"):
        assert "low_confidence" not in _rule(alert)["expr"]
