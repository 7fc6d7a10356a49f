"""Prometheus metrics. Labels are names out of the configuration and Triton's labels: never a client's text."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from gateway.chat import ROUTE, Routed
from gateway.config import Config
from gateway.observe import shared
from gateway.observe.blueprint import BlueprintMetrics
from gateway.observe.cost import cost_of_strongest
from gateway.observe.record import Record
from gateway.observe.routellm import RouteLLMMetrics
from gateway.observe.tokens import TokenMetrics
from gateway.observe.traffic import TrafficMetrics
from gateway.policy import targets_of
from gateway.reasons import AS_MEANT, REASONS
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
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Finished requests.", "path", "status", "outcome")
        self._clients = self._counter(
            "client_requests", "Finished requests that a client key let in, by the key's name.", "client"
        )
        self._routed = self._counter(
            "routed", "Requests for an answer for which a model was chosen.", "policy", "label", "model", "reason"
        )
        self._fallbacks = self._counter(
            "fallbacks",
            "Of them, those for another model than a decision would have had, by reason.",
            "policy",
            "reason",
        )
        self._decision_seconds = self._seconds(
            "decision", "Time from asking Triton to its answer or failure.", _DECISION_BUCKETS, "policy"
        )
        self._upstream_seconds = self._seconds(
            "upstream",
            "Time from asking upstream to the head of the answer, other models' attempts included; a stream's head may "
            "come before its first token.",
            _ANSWER_BUCKETS,
            "model",
        )
        self._first_byte_seconds = self._seconds(
            "first_byte", "Time from a request's arrival to the first byte of its answer.", _ANSWER_BUCKETS, "path"
        )
        self._request_seconds = self._seconds(
            "request", "Time from a request's arrival to the last byte of its answer.", _ANSWER_BUCKETS, "path"
        )
        self._routellm = RouteLLMMetrics(self.registry)
        self._tokens = TokenMetrics(self.registry)
        self._traffic = TrafficMetrics(self.registry)
        self._blueprint = BlueprintMetrics(self.registry)
        self._state = _StateMetrics(self.registry)
        self._begun: Config | None = None

    def count(self, record: Record) -> None:
        """Observer."""
        self._blueprint.count(record)
        self._requests.labels(record.path, str(record.status), record.outcome).inc()
        self._request_seconds.labels(record.path).observe(record.seconds)
        if record.client is not None:
            self._clients.labels(record.client).inc()
        if record.first_byte_seconds is not None:
            self._first_byte_seconds.labels(record.path).observe(record.first_byte_seconds)
        if record.routed is not None:
            self._count_routed(record, record.routed)

    def _count_routed(self, record: Record, routed: Routed) -> None:
        selection = routed.selection
        policy = routed.policy.name if routed.policy else ""
        # A model that no llm has could be anything that a client made up.
        model = selection.target.model if selection.target.name else ""
        if record.path != ROUTE:  # which asks what would be, and gets no model's answer
            self._routed.labels(policy, selection.label or "", model, selection.reason).inc()
            if selection.reason not in AS_MEANT:
                self._fallbacks.labels(policy, selection.reason).inc()
        if routed.decision_seconds is not None:
            self._decision_seconds.labels(policy).observe(routed.decision_seconds)
        if routed.upstream_seconds is not None:
            self._upstream_seconds.labels(model).observe(routed.upstream_seconds)
        if routed.traffic is not None:
            self._traffic.count(policy, routed.traffic)
        self._routellm.count(routed)
        self._tokens.count(record, policy, model)

    def _begin(self, config: Config) -> None:
        """What may be counted is there from 0 on: Prometheus' rate() and increase() do not see a first value."""
        for policy in config.policies.values():
            is_compared = cost_of_strongest(policy) is not None
            for target in targets_of(policy):
                self._tokens.begin(policy.name, target.model, target.cost is not None, is_compared)
                self._blueprint.begin(policy.name, target.name)
            for reason in REASONS:
                if reason not in AS_MEANT:
                    self._fallbacks.labels(policy.name, reason)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return shared.quick(Counter(f"llm_router_{name}", documentation, labels, registry=self.registry))

    def _seconds(self, name: str, documentation: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return shared.quick(
            Histogram(f"llm_router_{name}_seconds", documentation, labels, buckets=buckets, registry=self.registry)
        )

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
        if state.config is not self._begun:
            self._begin(state.config)
            self._begun = state.config
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
            shared.forget(self._eligible, gone, math.nan)  # 0 would say that it cannot answer
        self._followed = set(followed)
        for labels, target in followed.items():
            self._eligible.labels(*labels).set(eligibility.eligible(target))
