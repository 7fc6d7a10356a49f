"""The metrics of NVIDIA's LLM Router blueprint v1, by its names, so that dashboards made for it go on working.

Names, labels and meanings are those of its controller and of its README. Its counters have no `_total`, without which
Prometheus' client writes none; they are gauges here that only rise, for which rate() and increase() are the same.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway import chat
from gateway.observe.record import Record
from gateway.observe.shared import quick

PATHS = frozenset({chat.ALIAS, *(endpoint.path for endpoint in chat.ENDPOINTS)})
"""What the blueprint counts: requests for a model's answer."""

_CATEGORIES = ("prompt", "completion", "total")
# Those of the blueprint, and more beyond: answers may take minutes.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class BlueprintMetrics:
    """An llm goes by its name in the policy, as there: the label, or `strong` and `weak`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def rising(name: str, documentation: str, *labels: str) -> Gauge:
            return quick(Gauge(name, documentation, labels, registry=registry, multiprocess_mode="sum"))

        def seconds(name: str, documentation: str, *labels: str) -> Histogram:
            return quick(Histogram(name, documentation, labels, registry=registry, buckets=_BUCKETS))

        self._requests = rising("num_requests", "Requests for an answer.")
        self._by_policy = rising("requests_per_policy", "Of them, those by a policy.", "policy")
        self._by_model = rising("requests_per_model", "Of them, those by an llm, which is meant by model.", "model")
        self._usage = rising("routing_policy_usage", "How the llm was chosen: triton or manual.", "routing_policy")
        self._tokens = rising(
            "llm_token_usage",
            "Tokens as the upstream counts them: prompt, completion and total. The blueprint's README has llm, its "
            "code llm_name.",
            "llm",
            "llm_name",
            "category",
        )
        self._success = Counter("request_success", "Requests answered well, to the end.", registry=registry)
        self._failure = Counter(
            "request_failure",
            "Others, by error_type: 4xx, 5xx, system (the answer broke off), other (the client left).",
            ("error_type",),
            registry=registry,
        )
        self._latency = seconds("request_latency_seconds", "From a request to the head of its answer.")
        self._selection = seconds("model_selection_time_seconds", "Time that Triton took, or that it was given.")
        self._response = seconds("llm_response_time_seconds", "From asking an llm to the head of its answer.", "llm")
        self._overhead = seconds(
            "proxy_overhead_latency_seconds", "What is left of the latency without Triton's and the llm's part."
        )

    def begin(self, policy: str, llm: str) -> None:
        """Its series are there, at 0, from now on."""
        self._by_policy.labels(policy)
        self._by_model.labels(llm)
        for category in _CATEGORIES:
            self._tokens.labels(llm, llm, category)

    def count(self, record: Record) -> None:
        """One more request."""
        if record.path not in PATHS:
            return
        self._requests.inc()
        self._count_outcome(record)
        latency = record.seconds if record.head_seconds is None else record.head_seconds
        self._latency.observe(latency)
        if (routed := record.routed) is None:
            return
        if routed.policy is not None:
            self._by_policy.labels(routed.policy.name).inc()
            self._usage.labels("manual" if routed.selection.reason == "manual" else "triton").inc()
        if routed.decision_seconds is not None:
            self._selection.observe(routed.decision_seconds)
        if routed.upstream_seconds is not None:
            self._overhead.observe(max(latency - routed.upstream_seconds - (routed.decision_seconds or 0.0), 0.0))
        if llm := routed.selection.target.name:
            self._count_llm(record, llm)

    def _count_outcome(self, record: Record) -> None:
        if record.outcome == "complete" and record.status is not None and record.status < 300:
            self._success.inc()
        elif record.outcome == "broken":
            self._failure.labels("system").inc()
        elif record.outcome == "complete" and record.status is not None and record.status >= 400:
            self._failure.labels(f"{record.status // 100}xx").inc()
        else:
            self._failure.labels("other").inc()

    def _count_llm(self, record: Record, llm: str) -> None:
        self._by_model.labels(llm).inc()
        if record.routed is not None and record.routed.upstream_seconds is not None:
            self._response.labels(llm).observe(record.routed.upstream_seconds)
        if (usage := record.usage) is not None:
            counts = (usage.input_tokens, usage.output_tokens, usage.input_tokens + usage.output_tokens)
            for category, n in zip(_CATEGORIES, counts, strict=True):
                self._tokens.labels(llm, llm, category).inc(n)
