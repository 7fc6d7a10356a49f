"""The cluster's name server: dnsmasq, told by the API server which Services there are.

Debian has no CoreDNS. As CoreDNS does, it answers for `SERVICE.NAMESPACE.svc.cluster.local` with the Service's address,
and for a headless Service with the addresses of its ready pods.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.local.process import Process

_PAUSE_SECONDS = 1.0


class NameServer:
    """Answers on `address`, port 53; `get` asks the API server."""

    def __init__(self, address: str, folder: Path, get: Callable[[str], Mapping[str, Any]]) -> None:
        self._address = address
        self._folder = folder
        self._hosts = folder / "hosts"
        self._get = get
        self._process: Process | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        self._hosts.write_text("")
        command = [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            f"--listen-address={self._address}",
            "--local=/cluster.local/",
            f"--addn-hosts={self._hosts}",
            "--local-ttl=1",
            "--user=root",
            "--pid-file=",
        ]
        self._process = Process("dnsmasq", command, os.environ, self._folder / "logs" / "dnsmasq.log")
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._process is not None:
            self._thread.join()
            self._process.stop()

    def _follow(self) -> None:
        known = ""
        while not self._ending.wait(_PAUSE_SECONDS):
            try:
                services, endpoints = self._get("/api/v1/services"), self._get("/api/v1/endpoints")
            except OSError:
                continue  # it is busy, or ends first
            lines = "".join(sorted(f"{address} {name}\n" for name, address in records(services, endpoints)))
            if lines != known and self._process is not None:
                known = lines
                self._hosts.write_text(lines)
                os.kill(self._process.pid, signal.SIGHUP)  # reads them anew


def records(services: Mapping[str, Any], endpoints: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and addresses, out of the API's lists of Services and Endpoints."""
    ready = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): [
            address["ip"] for subset in each.get("subsets") or () for address in subset.get("addresses") or ()
        ]
        for each in endpoints["items"]
    }
    for service in services["items"]:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        address = service["spec"].get("clusterIP")
        for each in ready.get((namespace, name), []) if address == "None" else [address]:
            if each:
                yield f"{name}.{namespace}.svc.cluster.local", each
