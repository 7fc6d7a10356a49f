"""One node of Kubernetes 1.20, as processes of this machine: etcd, control plane, containerd, kubelet, kube-proxy.

To be run as root in namespaces of its own for network, mounts and processes, which `scripts/test_cluster` makes: it
changes addresses and packet filter, and what it leaves behind ends with them. Beyond them it touches a folder and the
control groups of the containers.
"""

import json
import os
import ssl
import subprocess
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.cluster.names import NameServer
from scripts.local.process import Process, StartError, wait_until

NODE = "node"
ADDRESS = "10.99.0.1"
NAME_SERVER = "10.96.0.10"
PAUSE_IMAGE = "localhost/pause:dev"
_API_PORT, _ETCD_PORT = 16443, 23790
_API = f"https://127.0.0.1:{_API_PORT}"
_SERVICES, _PODS = "10.96.0.0/16", "10.244.0.0/24"
_TOKEN = "admin"  # of an API server on the loopback of a namespace of its own

_CONTAINERD = """\
version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""


class Node:
    """A cluster of one node under `folder`; `programs` holds the kube-* programs, `images` tar files of images."""

    def __init__(self, folder: Path, programs: Path, images: Iterable[Path]) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self._folder = folder
        self._programs = programs
        self._images = tuple(images)
        self._processes: list[Process] = []
        self._names = NameServer(NAME_SERVER, folder, self.get)

    def start(self) -> None:
        """Until the node is Ready. Raises StartError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for command in (
            ["ip", "link", "set", "lo", "up"],
            ["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"],
            ["ip", "address", "add", f"{NAME_SERVER}/32", "dev", "lo"],
            ["ip", "route", "add", "default", "dev", "lo"],
        ):
            _run(command)
        self._control_plane()
        self._containers()
        self._kubelet()
        self._names.start()

    def stop(self) -> None:
        """The processes end. Containers, mounts and addresses go with the namespaces."""
        self._names.stop()
        for process in reversed(self._processes):
            process.stop(grace=5)
        self._processes.clear()

    def get(self, path: str) -> dict[str, Any]:
        """The API server's answer to GET `path`. Raises OSError when there is none."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its certificate is made by itself
        request = urllib.request.Request(_API + path, headers={"authorization": f"Bearer {_TOKEN}"})
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def _start(self, name: str, *words: str) -> Process:
        process = Process(name, words, os.environ, self._folder / "logs" / f"{name}.log")
        self._processes.append(process)
        return process

    def _kube(self, name: str, *options: str) -> Process:
        return self._start(name, str(self._programs / name), *options)

    def _control_plane(self) -> None:
        folder = self._folder
        _run(["openssl", "genrsa", "-out", str(folder / "accounts.key"), "2048"])
        (folder / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
        self.kubeconfig.write_text(json.dumps(_kubeconfig()))
        own = f"http://127.0.0.1:{_ETCD_PORT}"
        self._start(
            "etcd",
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={own}",
            f"--advertise-client-urls={own}",
            f"--listen-peer-urls=http://127.0.0.1:{_ETCD_PORT + 1}",
            "--log-level=error",
            "--unsafe-no-fsync",  # nobody needs its data after a power cut
        )
        server = self._kube(
            "kube-apiserver",
            f"--etcd-servers={own}",
            "--bind-address=127.0.0.1",
            f"--secure-port={_API_PORT}",
            "--insecure-port=0",
            f"--cert-dir={folder / 'certificates'}",
            f"--service-cluster-ip-range={_SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--api-audiences=api",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            f"--service-account-key-file={folder / 'accounts.key'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
            "--kubelet-preferred-address-types=InternalIP",
        )
        wait_until(self._api_is_ready, server, 120)
        access = f"--kubeconfig={self.kubeconfig}"
        self._kube(
            "kube-controller-manager",
            access,
            f"--service-account-private-key-file={folder / 'accounts.key'}",
            f"--root-ca-file={folder / 'certificates' / 'apiserver.crt'}",
            "--leader-elect=false",
            "--port=0",
            "--bind-address=127.0.0.1",
            f"--cert-dir={folder / 'certificates-manager'}",
        )
        self._kube(
            "kube-scheduler",
            access,
            "--leader-elect=false",
            "--port=0",
            "--bind-address=127.0.0.1",
            f"--cert-dir={folder / 'certificates-scheduler'}",
        )

    def _api_is_ready(self) -> bool:
        try:
            self.get("/api/v1/namespaces/default")
        except OSError:
            return False
        return True

    def _containers(self) -> None:
        folder = self._folder
        (folder / "cni").mkdir(exist_ok=True)
        (folder / "cni" / "bridge.conflist").write_text(json.dumps(_network(folder)))
        (folder / "containerd.toml").write_text(_CONTAINERD.format(folder=folder, pause=PAUSE_IMAGE))
        daemon = self._start("containerd", "containerd", "--config", str(folder / "containerd.toml"))
        wait_until(lambda: bool(self._ctr("version")), daemon, 60)
        for image in self._images:
            _run(["ctr", f"--address={folder}/containerd.sock", "--namespace=k8s.io", "images", "import", str(image)])

    def _ctr(self, *words: str) -> str:
        command = ["ctr", f"--address={self._folder}/containerd.sock", "--namespace=k8s.io", *words]
        return subprocess.run(command, capture_output=True, text=True).stdout

    def _kubelet(self) -> None:
        folder = self._folder
        (folder / "kubelet.json").write_text(json.dumps(_kubelet()))
        kubelet = self._kube(
            "kubelet",
            f"--config={folder / 'kubelet.json'}",
            f"--kubeconfig={self.kubeconfig}",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{folder}/containerd.sock",
            f"--root-dir={folder / 'kubelet'}",
            f"--cert-dir={folder / 'certificates-kubelet'}",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        )
        self._kube(
            "kube-proxy",
            f"--kubeconfig={self.kubeconfig}",
            "--proxy-mode=iptables",
            f"--hostname-override={NODE}",
            "--bind-address=127.0.0.1",
            "--conntrack-max-per-core=0",
            f"--cluster-cidr={_PODS}",
        )
        wait_until(self._is_ready, kubelet, 120)

    def _is_ready(self) -> bool:
        try:
            conditions = self.get(f"/api/v1/nodes/{NODE}")["status"]["conditions"]
        except (OSError, KeyError):
            return False
        return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def _kubeconfig() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "one", "cluster": {"server": _API, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "admin"}}],
        "current-context": "one",
    }


def _network(folder: Path) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": _PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(folder / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "bridge", "plugins": [bridge]}


def _kubelet() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "address": ADDRESS,
        "clusterDomain": "cluster.local",
        "clusterDNS": [NAME_SERVER],
        "cgroupDriver": "cgroupfs",
        # Control groups of this machine's own hierarchy, whichever it has, and none that hold the whole node.
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "oomScoreAdj": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "makeIPTablesUtilChains": False,
        "syncFrequency": "5s",  # changed ConfigMaps reach their mounts within that, instead of a minute
    }


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StartError(f"{' '.join(command)}: {done.stderr.strip()}")
