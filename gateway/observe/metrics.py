"""Prometheus metrics. Labels are names out of the configuration and Triton's labels: never a client's text."""

import asyncio
from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from gateway.chat import Routed
from gateway.config import RouteLLMPolicy
from gateway.observe import shared
from gateway.observe.record import Record
from gateway.observe.traffic import TrafficMetrics
from gateway.state import State
from gateway.targets import Eligibility

Mode = Literal["livesum", "livemin"]

# A GPU decides in a few milliseconds, two CPU cores in tens; the default deadline is one second.
_DECISION_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# Answers take from tens of milliseconds (a short one's first byte) to minutes (a long one's last).
_ANSWER_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

SHOW_SECONDS = 1.0
"""How old a worker's state may be in another one's answer."""


class Metrics:
    """The metrics of one application, in a registry of their own; `multiprocess_mode` is how workers' gauges add up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "llm_router_requests_total",
            "Finished requests.",
            ("path", "status", "outcome"),
            registry=self.registry,
        )
        self.clients = Counter(
            "llm_router_client_requests_total",
            "Finished requests that a client key let in, by the key's name.",
            ("client",),
            registry=self.registry,
        )
        self.routed = Counter(
            "llm_router_routed_total",
            "Requests for which a model was chosen.",
            ("policy", "label", "model", "reason"),
            registry=self.registry,
        )
        self.routellm = Counter(
            "llm_router_routellm_total",
            "Decisions by RouteLLM's routers.",
            ("policy", "router", "routed", "model"),
            registry=self.registry,
        )
        self.threshold = Gauge(
            "llm_router_routellm_threshold",
            "Of a policy that holds a share of strong calls: the last threshold.",
            ("policy",),
            multiprocess_mode="livemostrecent",
            registry=self.registry,
        )
        self.strong_share = Gauge(
            "llm_router_routellm_strong_share",
            "Of a policy that holds it: the share of strong ones among its last thousand decisions.",
            ("policy",),
            multiprocess_mode="livemostrecent",
            registry=self.registry,
        )
        self.decision_seconds = Histogram(
            "llm_router_decision_seconds",
            "Time from asking Triton to its answer or failure.",
            ("policy",),
            buckets=_DECISION_BUCKETS,
            registry=self.registry,
        )
        self.first_byte_seconds = Histogram(
            "llm_router_first_byte_seconds",
            "Time from a request's arrival to the first byte of its answer.",
            ("path",),
            buckets=_ANSWER_BUCKETS,
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "llm_router_request_seconds",
            "Time from a request's arrival to the last byte of its answer.",
            ("path",),
            buckets=_ANSWER_BUCKETS,
            registry=self.registry,
        )
        self._state = _StateMetrics(self.registry)
        self._traffic = TrafficMetrics(self.registry)

    def count(self, record: Record) -> None:
        """Observer."""
        self.requests.labels(record.path, str(record.status), record.outcome).inc()
        self.request_seconds.labels(record.path).observe(record.seconds)
        if record.client is not None:
            self.clients.labels(record.client).inc()
        if record.first_byte_seconds is not None:
            self.first_byte_seconds.labels(record.path).observe(record.first_byte_seconds)
        if (routed := record.routed) is None:
            return
        selection = routed.selection
        policy = routed.policy.name if routed.policy else ""
        # A model that the client named itself could be anything.
        model = "" if selection.reason == "passthrough" else selection.target.model
        self.routed.labels(policy, selection.label or "", model, selection.reason).inc()
        self._count_routellm(routed)
        if routed.traffic is not None:
            self._traffic.count(policy, routed.traffic)
        if routed.decision_seconds is not None:
            self.decision_seconds.labels(policy).observe(routed.decision_seconds)

    def _count_routellm(self, routed: Routed) -> None:
        policy, selection = routed.policy, routed.selection
        if not isinstance(policy, RouteLLMPolicy) or selection.threshold is None:
            return  # not one of theirs, or nothing was decided
        self.routellm.labels(policy.name, policy.router, selection.label, selection.target.model).inc()
        if routed.strong_share is not None:
            self.threshold.labels(policy.name).set(selection.threshold)
            self.strong_share.labels(policy.name).set(routed.strong_share)

    async def endpoint(self, request: Request) -> Response:
        """`GET /metrics`."""
        self._show(request.state.router)
        content = generate_latest(shared.sum_of_all() if shared.is_shared() else self.registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    async def keep_shown(self, state: State) -> None:
        """One worker's state, for the `/metrics` of the others; never returns."""
        while True:
            self._show(state)
            await asyncio.sleep(SHOW_SECONDS)

    def _show(self, state: State) -> None:
        self._state.show(state)
        self._traffic.show(state.config.snapshots)


class _StateMetrics:
    """What is so at this moment, as opposed to what happened to requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, documentation: str, labels: tuple[str, ...] = (), mode: Mode = "livesum") -> Gauge:
            return Gauge(f"llm_router_{name}", documentation, labels, registry=registry, multiprocess_mode=mode)

        self._requests = gauge("requests_in_hand", "POST requests being answered, running streams included.")
        self._body_bytes = gauge("body_bytes_in_hand", "Bytes of their bodies.")
        self._max_requests = gauge("max_requests", "Requests past which the gateway answers 429.")
        self._entries = gauge("decision_cache_entries", "Decisions remembered now.")
        self._capacity = gauge("decision_cache_capacity", "Decisions remembered at most; 0: the cache is off.")
        self._in_force = gauge(
            "config_in_force",
            "1 when the configuration file as it is now is in force, 0 when it was refused.",
            mode="livemin",
        )
        self._eligible = gauge(
            "target_eligible", "1 when a model can take requests now.", ("upstream", "model"), mode="livemin"
        )
        self._followed: set[tuple[str, str]] = set()
        self._lookups = Counter("llm_router_decision_cache", "Decisions looked up.", ("result",), registry=registry)
        self._reloads = Counter("llm_router_config_reloads", "Changed configurations.", ("result",), registry=registry)
        self._counted: dict[tuple[Counter, str], int] = {}

    def show(self, state: State) -> None:
        self._requests.set(state.load.requests)
        self._body_bytes.set(state.load.body_bytes)
        self._max_requests.set(state.load.max_requests(state.config.settings.max_requests))
        self._entries.set(len(state.cache))
        self._capacity.set(state.cache.entries)
        self._in_force.set(not state.faults)
        self._count_on(self._lookups, {"hit": state.cache.hits, "miss": state.cache.misses})
        self._count_on(self._reloads, state.reloads)
        self._show_targets(state.eligibility)

    def _count_on(self, counter: Counter, counts: Mapping[str, int]) -> None:
        """Up to what the state itself has counted. A new cache begins at 0 again."""
        for result, count in counts.items():
            before = self._counted.get((counter, result), 0)
            counter.labels(result).inc(count - before if count >= before else count)
            self._counted[counter, result] = count

    def _show_targets(self, eligibility: Eligibility) -> None:
        followed = {(target.api_base, target.model): target for target in eligibility.followed}
        for gone in self._followed - followed.keys():
            shared.forget(self._eligible, gone)
        self._followed = set(followed)
        for labels, target in followed.items():
            self._eligible.labels(*labels).set(eligibility.eligible(target))
