"""What RouteLLM's policies decide, and where their thresholds stand."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.chat import Routed
from gateway.config import RouteLLMPolicy


class RouteLLMMetrics:
    """With several workers the gauges are those of the last decision."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter(
            "llm_router_routellm_total",
            "Decisions by RouteLLM's routers.",
            ("policy", "router", "routed", "model"),
            registry=registry,
        )
        self._threshold = Gauge(
            "llm_router_routellm_threshold",
            "Of a policy that holds a share of strong calls: the last threshold.",
            ("policy",),
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self._strong_share = Gauge(
            "llm_router_routellm_strong_share",
            "Of a policy that holds it: the share of strong ones among its last thousand decisions.",
            ("policy",),
            multiprocess_mode="livemostrecent",
            registry=registry,
        )

    def count(self, routed: Routed) -> None:
        """One more decision, if it is one of theirs."""
        policy, selection = routed.policy, routed.selection
        if not isinstance(policy, RouteLLMPolicy) or selection.threshold is None:
            return  # another's, or nothing was decided
        self._decisions.labels(policy.name, policy.router, selection.label, selection.target.model).inc()
        if routed.strong_share is not None:
            self._threshold.labels(policy.name).set(selection.threshold)
            self._strong_share.labels(policy.name).set(routed.strong_share)
