"""What a policy's traffic looks like now, beside what it looked like in its snapshot: drift shows in their distance."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.observe import shared
from gateway.traffic import FEATURES, Seen, Snapshot

_Labels = tuple[str, str, str]
"""A policy, one of FEATURES, and a value of it."""


class TrafficMetrics:
    """Of the policies that have a snapshot."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("policy", "of", "value")
        self._counts = Counter(
            "llm_router_traffic_total",
            "Of a policy with a snapshot: decisions by label, confidence, length and language.",
            labels,
            registry=registry,
        )
        self._share = Gauge(
            "llm_router_traffic_snapshot",
            "Of a policy with a snapshot: the share of each value in it.",
            labels,
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self._shown: Mapping[str, Snapshot] = {}

    def count(self, policy: str, seen: Seen) -> None:
        """One more decision."""
        for feature, value in seen.values().items():
            self._counts.labels(policy, feature, value).inc()

    def show(self, snapshots: Mapping[str, Snapshot]) -> None:
        """These are the configuration's snapshots, by policy."""
        if snapshots is self._shown:
            return
        shares = _shares(snapshots)
        for gone in _shares(self._shown).keys() - shares.keys():
            shared.forget(self._share, gone)
        for labels, share in shares.items():
            self._share.labels(*labels).set(share)
            self._counts.labels(*labels)  # there from 0 on: Prometheus' increase() does not see a first value
        self._shown = snapshots


def _shares(snapshots: Mapping[str, Snapshot]) -> dict[_Labels, float]:
    return {
        (policy, feature, value): share
        for policy, snapshot in snapshots.items()
        for feature in FEATURES
        for value, share in snapshot.shares(feature).items()
    }
