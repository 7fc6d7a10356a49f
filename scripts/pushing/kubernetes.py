"""The chart's Triton on Kubernetes, by kubectl: an uploader pod beside the replicas, a port-forward to each of them."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.local.process import Process, StartError, wait_until
from scripts.pushing.errors import PushError
from scripts.pushing.note import note
from scripts.pushing.replica import Replica

NAME = "llm-router"
SERVER = "router-server"
VOLUME = "model-repository"
GRPC_PORT = 8001
_REPOSITORY = "MODEL_REPOSITORY"
_UPLOADER_SECONDS = 6 * 3600  # an uploader whose push was killed ends by itself
_FORWARD_SECONDS = 30.0
_READY_SECONDS = 300.0  # an image that has to be pulled, a replica that loads its models
_SHARED = ("imagePullSecrets", "serviceAccountName", "nodeSelector")
_TOKEN = "/tmp/model-control"  # where deploy/triton/start says who may load models
_TOKEN_HEADER = "triton-grpc-protocol-model-control"


@dataclass(frozen=True)
class Cluster:
    """Where the release is."""

    namespace: str
    release: str
    context: str | None

    def command(self, *arguments: str) -> list[str]:
        """kubectl's command line."""
        context = [f"--context={self.context}"] if self.context else []
        return ["kubectl", *context, f"--namespace={self.namespace}", *arguments]

    def selector(self, component: str) -> str:
        labels = labels_of(self.release, component)
        return ",".join(f"{name}={value}" for name, value in labels.items())

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints. Raises PushError with its last line."""
        try:
            done = subprocess.run(
                self.command(*arguments),
                input=stdin,
                capture_output=True,
                text=True,
                start_new_session=True,  # Ctrl-C is for this process, which may have to put things back
            )
        except FileNotFoundError:
            raise PushError("kubectl is not on the PATH: install it, or push to a folder with --local") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line and not line.startswith("command terminated")]
            raise PushError(f"kubectl {arguments[0]} fails: {lines[-1] if lines else 'it says nothing'}")
        return done.stdout

    def get(self, kind: str, component: str) -> list[dict[str, Any]]:
        found = json.loads(self.run("get", kind, f"--selector={self.selector(component)}", "--output=json"))
        return list(found["items"])


@dataclass(frozen=True)
class Target:
    """What the Deployment says of the volume. `template` is its pod's."""

    template: Mapping[str, Any]
    repository: str

    @property
    def container(self) -> Mapping[str, Any]:
        return next(each for each in self.template["spec"]["containers"] if each["name"] == SERVER)

    @property
    def volume(self) -> Mapping[str, Any]:
        return next(each for each in self.template["spec"]["volumes"] if each["name"] == VOLUME)


def labels_of(release: str, component: str) -> dict[str, str]:
    prefix = "app.kubernetes.io"
    return {f"{prefix}/name": NAME, f"{prefix}/instance": release, f"{prefix}/component": component}


def read_target(deployment: Mapping[str, Any]) -> Target:
    """Raises PushError: it serves from no volume that could be written."""
    template = deployment["spec"]["template"]
    where = f"deployment {deployment['metadata']['name']}"
    containers = [each for each in template["spec"]["containers"] if each["name"] == SERVER]
    volumes = [each for each in template["spec"].get("volumes", ()) if each["name"] == VOLUME]
    if not containers or not volumes:
        raise PushError(f"{where} has no container {SERVER} with a volume {VOLUME}: its models are in its image")
    if "emptyDir" in volumes[0]:
        raise PushError(f"{where} has its models in an emptyDir, which goes with its pod: give it a claim")
    values = {each["name"]: each.get("value") for each in containers[0].get("env", ())}
    if not values.get(_REPOSITORY):
        raise PushError(f"{where} does not say {_REPOSITORY}: upgrade the release")
    return Target(template, values[_REPOSITORY])


def uploader(
    target: Target, release: str, name: str, pods: Sequence[Mapping[str, Any]], one_node: bool
) -> dict[str, Any]:
    """A pod that holds the volume open for writing, with what the server's pods may and nothing else.

    `pods`: the server's, which run; `one_node`: the claim can be mounted by the node alone where they are.
    """
    spec, container = target.template["spec"], target.container
    volume = json.loads(json.dumps(target.volume))
    if "persistentVolumeClaim" in volume:
        volume["persistentVolumeClaim"].pop("readOnly", None)
    mounts = [{**each, "readOnly": False} for each in container["volumeMounts"] if each["name"] == VOLUME]
    server = {"matchLabels": labels_of(release, SERVER)}
    beside = {"topologyKey": "kubernetes.io/hostname", "labelSelector": server}
    affinity: dict[str, Any] = {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": beside}]
    }
    if one_node and pods:
        affinity = {"requiredDuringSchedulingIgnoredDuringExecution": [beside]}
    # Admission may have added some, without which nothing of the release could run where its pods do.
    tolerations = (pods[0] if pods else target.template)["spec"].get("tolerations", [])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels_of(release, "model-uploader")},
        "spec": {
            **{key: spec[key] for key in _SHARED if key in spec},
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _UPLOADER_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": spec.get("securityContext", {}),
            "tolerations": tolerations,
            "affinity": {"podAffinity": affinity},
            "containers": [
                {
                    "name": "uploader",
                    "image": container["image"],
                    "imagePullPolicy": container.get("imagePullPolicy", "IfNotPresent"),
                    "command": ["sleep", str(_UPLOADER_SECONDS)],
                    "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
                    "securityContext": container.get("securityContext", {}),
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "256Mi"},
                        "limits": {"cpu": "1", "memory": "512Mi"},
                    },
                    "volumeMounts": mounts,
                }
            ],
            "volumes": [volume],
        },
    }


def find_target(cluster: Cluster) -> Target:
    found = cluster.get("deployments", SERVER)
    if len(found) != 1:
        what = "no Deployment" if not found else f"{len(found)} Deployments"
        raise PushError(f"namespace {cluster.namespace} has {what} of release {cluster.release} (component {SERVER})")
    return read_target(found[0])


@contextmanager
def running_uploader(cluster: Cluster, target: Target) -> Iterator[list[str]]:
    """What runs a Python in a pod of its own, which goes in the end."""
    name = f"{cluster.release}-model-uploader-{secrets.token_hex(3)}"
    pods = [each for each in cluster.get("pods", SERVER) if running_pods([each])]
    pod = uploader(target, cluster.release, name, pods, _is_for_one_node(cluster, target))
    try:  # from here on: it may be there also when kubectl fails
        cluster.run("create", "--filename=-", stdin=json.dumps(pod))
        note(f"waiting for pod {name}")
        try:
            cluster.run("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={_READY_SECONDS:.0f}s")
        except PushError as error:
            raise PushError(f"{error}; kubectl describe pod {name} tells more before it is deleted") from None
        yield in_pod(cluster, name, "uploader")
    finally:
        try:
            cluster.run("delete", "pod", name, "--wait=false", "--ignore-not-found")
        except PushError as error:
            note(f"{error}; delete pod {name} yourself")


def _is_for_one_node(cluster: Cluster, target: Target) -> bool:
    claim = target.volume.get("persistentVolumeClaim")
    if claim is None:
        return False
    modes = json.loads(cluster.run("get", "pvc", claim["claimName"], "--output=json"))["spec"].get("accessModes", [])
    return "ReadWriteMany" not in modes and "ReadWriteOnce" in modes


def in_pod(cluster: Cluster, pod: str, container: str) -> list[str]:
    """What runs a Python there."""
    return cluster.command("exec", "--stdin", pod, f"--container={container}", "--", "python3")


class Pods:
    """The replicas: the server's pods that run, each behind a port-forward."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._forwards: dict[str, Process] = {}
        self._logs = tempfile.TemporaryDirectory(prefix="push_models.")
        self.replicas: list[Replica] = []
        try:
            for name in self._running():
                self.replicas.append(self._reach(name))
                self._authorize(self.replicas[-1])
            self._require_some()
        except BaseException:
            self.close()
            raise

    def newcomers(self) -> list[Replica]:
        """Those that run by now, once they answer: what they loaded when they started may be older."""
        known = {each.name for each in self.replicas}
        new = [self._reach(name) for name in self._running() if name not in known]
        self.replicas += new
        for replica in new:
            deadline = time.monotonic() + _READY_SECONDS
            while not replica.is_live():
                if time.monotonic() > deadline:
                    raise PushError(f"{replica.name} appeared meanwhile and does not answer")
                time.sleep(1)
            self._authorize(replica)
        return new

    def refresh(self) -> None:
        """Forgets pods that no longer run, and reaches those anew whose port-forward has ended."""
        running = set(self._running())
        for replica in self.replicas:
            if replica.name not in running:
                replica.close()
                self._forwards.pop(replica.name).stop()
        self.replicas = [each for each in self.replicas if each.name in running]
        faults = []
        for place, replica in enumerate(self.replicas):
            try:
                if self._forwards[replica.name].exit_code is not None:
                    self.replicas[place] = self._reach(replica.name)
                    replica.close()
                self._authorize(self.replicas[place])  # started again, it has another token
            except PushError as error:
                faults.append(str(error))  # the others are seen to all the same
        if faults:
            raise PushError("; ".join(faults))
        self._require_some()

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()
        for forward in self._forwards.values():
            forward.stop()
        self._logs.cleanup()

    def _require_some(self) -> None:
        if not self.replicas:
            raise PushError(f"no pod of release {self._cluster.release} runs: nobody could check the version")

    def _running(self) -> list[str]:
        return running_pods(self._cluster.get("pods", SERVER))

    def _authorize(self, replica: Replica) -> None:
        """With the token that lies in the pod since its Triton started; without one, where the image has none."""
        try:
            token = self._cluster.run(
                "exec", f"pod/{replica.name}", f"--container={SERVER}", "--", "cat", _TOKEN
            ).strip()
        except PushError as error:
            if "No such file" not in str(error):
                raise
            token = ""
        replica.headers = {_TOKEN_HEADER: token} if token else {}

    def _reach(self, pod: str) -> Replica:
        """By a port-forward, which ends with this process however that ends."""
        command = self._cluster.command("port-forward", "--address=127.0.0.1", f"pod/{pod}", f":{GRPC_PORT}")
        forward = Process("kubectl port-forward", command, os.environ, Path(self._logs.name, pod))
        self._forwards[pod] = forward
        try:
            wait_until(lambda: _forwarded(forward) is not None, forward, _FORWARD_SECONDS)
        except StartError as error:
            raise PushError(f"pod {pod} can't be reached: {' '.join(str(error).split())}") from None
        return Replica(pod, f"127.0.0.1:{_forwarded(forward)}")


def _forwarded(forward: Process) -> str | None:
    port = re.search(r"127\.0\.0\.1:(\d+) ->", forward.last_lines())
    return port[1] if port else None


def running_pods(pods: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of those that run and are not about to end."""
    return [
        each["metadata"]["name"]
        for each in pods
        if each["status"].get("phase") == "Running" and "deletionTimestamp" not in each["metadata"]
    ]
