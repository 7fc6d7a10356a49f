"""What the parts say of themselves: Prometheus metrics, memory, open files."""

from collections.abc import Set
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from scripts.local.process import fetch
from tests.gateway.client import Gateway
from tests.reliability.load import Load


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a server's samples that have these labels."""
    text = fetch(f"{url}/metrics", 60)
    assert text is not None
    samples = [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]
    named = [sample for sample in samples if sample.name == name]
    assert named, f"{url} has no metric {name}"
    return sum(each.value for each in named if labels.items() <= each.labels.items())


def finished_by(gateway: Gateway) -> int:
    """How many chats it has finished, by its own count."""
    return int(metric(gateway.url, "llm_router_requests_total", path="/v1/chat/completions"))


def account(load: Load, gateway: Gateway, allowed: Set[int] = frozenset({200})) -> None:
    """Every request that was sent ended, openly, and is on the gateway's own account.

    `allowed`: the statuses that may occur.
    """
    counts = load.counts()
    assert load.sent == counts.total()
    assert not [each for each in counts if each[2] == "wrong"], counts
    assert {status for status, _, end in counts if end != "broken"} <= allowed, counts
    load.wait(lambda: finished_by(gateway) == load.sent)  # a request is counted a moment after its last byte
    assert metric(gateway.url, "llm_router_requests_in_hand") == 0


def memory_kb(pid: int) -> int:
    """What a process holds in memory now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def open_files(pid: int) -> int:
    """Its sockets and files."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
