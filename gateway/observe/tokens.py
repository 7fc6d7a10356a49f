"""Tokens: what the classifier read of prompts, what upstreams took for answers, and what that cost."""

from prometheus_client import CollectorRegistry, Counter

from gateway.chat import Routed
from gateway.observe.record import Record
from gateway.observe.shared import quick


class TokenMetrics:
    """By policy and model, as the other metrics have them: empty for what no policy or llm has."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return quick(Counter(f"llm_router_{name}", documentation, ("policy", *labels), registry=registry))

        self._classified = counter(
            "classifier_tokens", "Tokens of prompts: read by the classifier, or cut because it reads no more.", "part"
        )
        self._prompts_cut = counter("prompts_cut", "Prompts of which the classifier read only the head and the tail.")
        self._tokens = counter("tokens", "Tokens of prompts and answers, as upstreams count them.", "model", "type")
        self._missing = counter(
            "usage_missing",
            "Answers whose tokens are not known: streams without stream_options.include_usage, answers over 256 KiB in "
            "one piece, compressed ones.",
            "model",
        )
        self._cost = counter("cost", "What these tokens cost, where the llm has a cost.", "model")
        self._at_strongest = counter(
            "cost_at_strongest", "What as many tokens of the policy's strongest model would have cost.", "model"
        )

    def begin(self, policy: str, model: str, has_cost: bool, is_compared: bool) -> None:
        """Its series are there, at 0, from now on."""
        self._missing.labels(policy, model)
        for kind in ("input", "output"):
            self._tokens.labels(policy, model, kind)
        if has_cost:
            self._cost.labels(policy, model)
        if has_cost and is_compared:
            self._at_strongest.labels(policy, model)

    def count(self, record: Record, policy: str, model: str) -> None:
        """One more request for which a model was chosen."""
        assert record.routed is not None
        self._count_classified(record.routed, policy)
        if record.usage is not None:
            self._tokens.labels(policy, model, "input").inc(record.usage.input_tokens)
            self._tokens.labels(policy, model, "output").inc(record.usage.output_tokens)
        elif record.status == 200 and record.outcome == "complete" and record.routed.upstream_seconds is not None:
            self._missing.labels(policy, model).inc()
        if record.spent is not None and record.spent.at_strongest is not None:
            self._at_strongest.labels(policy, model).inc(record.spent.at_strongest)
        if record.spent is not None:
            self._cost.labels(policy, model).inc(record.spent.cost)

    def _count_classified(self, routed: Routed, policy: str) -> None:
        decision = routed.decision
        cut = 0
        if decision is not None and decision.tokens_read is not None:
            cut = max((decision.tokens_in_prompt or 0) - decision.tokens_read, 0)
            if routed.decision_seconds is not None:  # for a remembered decision nothing was read
                self._classified.labels(policy, "read").inc(decision.tokens_read)
                self._classified.labels(policy, "cut").inc(cut)
        if cut or routed.prompt_cut:
            self._prompts_cut.labels(policy).inc()
